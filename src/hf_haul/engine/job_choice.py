"""What an idle worker should do next, and who has to make room for something more urgent; no I/O."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.config import Settings
from hf_haul.descriptors import Descriptors, descriptors
from hf_haul.engine.assignment import Assignment
from hf_haul.engine.file_sources import FileSource
from hf_haul.engine.plan import MAX_PART, part_size
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.source_choice import SourceChoice
from hf_haul.engine.transfer import Part, Phase, Transfer
from hf_haul.engine.watchdog import part_to_share
from hf_haul.metrics import SMALL_FILE, SourceHistory
from hf_haul.ranges import ByteRange
from hf_haul.task import DownloadPriority, DownloadState, DownloadTask, FileRequest
from hf_haul.transports.base import Body, Transport
from hf_haul.transports.content_digest import DigestedTransport
from hf_haul.transports.source_limits import SourceLimits

__all__ = ["Chooser", "TransportFactory"]

#: How many times as fast a source is taken to be as another at the most.
_MOST_GAIN: Final = 9.0

TransportFactory = Callable[[FileRequest], Transport]


class Chooser:
    """Picks work by the order of queues, files and parts. It has no lock; the scheduler's guards it.

    HIGH files go before all others of their queue; then the small lane gets as many connections as it takes
    for both lanes to end together; then running files go before new ones, so that few are open. When nothing
    is left to begin, the part that would finish last is shared.

    Args:
        settings: Part sizes.
        sources: Which source may have another connection.
        transport_for: Makes the transport of one file.
        clock: Seconds, monotonic.
        choice: Which source is asked; by default any that may have another connection.
        files: How many connections and files the process may open.
    """

    def __init__(
        self,
        settings: Settings,
        sources: SourceLimits,
        transport_for: TransportFactory,
        clock: Callable[[], float],
        files: Descriptors = descriptors,
        choice: SourceChoice | None = None,
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._transport_for = transport_for
        self._clock = clock
        self._files = files
        self._choice = choice or SourceChoice(sources, SourceHistory(), clock=clock)
        self._may_open = True

    def next_job(self, runs: Sequence[QueueRun]) -> Part | Transfer | None:
        """Return a part to fetch, or a file to open; ``None`` if nothing can be done now.

        Args:
            runs: The queues, most urgent first.
        """
        if not self.has_free(runs) or not self._has_descriptors(runs):
            return None
        for run in runs:
            if not run.queue.paused and not run.queue.cancelled:
                job = self._choose_from(run)
                if job is not None:
                    return job
        return self._share_a_part(runs) or self._hedge_assigned(runs)

    def has_free(self, runs: Sequence[QueueRun]) -> bool:
        """Return whether any source of a queue's files may have another connection."""
        return self._sources.any_free() or any(run.is_assigned for run in runs)

    def _has_descriptors(self, runs: Sequence[QueueRun]) -> bool:
        """Return whether another connection may be opened, and note whether another file may."""
        self._may_open = True
        if self._files.downloads() > self._settings.max_concurrent_downloads:
            return True
        busy = opened = settled = 0
        for run in runs:
            if run.queue.paused:
                settled += len(run.transfers)
                continue
            opened += len(run.transfers)
            busy += sum(max(len(t.parts), t.has_single_worker) for t in run.transfers.values())
        most = self._files.downloads(settled)
        self._may_open = opened < most
        return busy < most

    def _choose_from(self, run: QueueRun) -> Part | Transfer | None:
        running = [t for t in run.transfers.values() if t.has_work and self.may_take(t)]
        running.sort(key=lambda t: t.task.sort_key)
        if running and running[0].task.priority is DownloadPriority.HIGH:
            return self.take(running[0])
        if not (run.queue.has_room and self._may_open):
            return self.take(running[0]) if running else None
        may_begin = _anywhere if run.is_assigned else self._may_begin
        high = run.queue.first_high(may_begin)
        if high is not None:
            return self._begin(run, high)
        small = sum(1 for t in run.transfers.values() if t.size <= SMALL_FILE)
        share = self._share_of_small(run)
        waiting = run.queue.first_of_lanes(prefer_small=small < share, may_begin=may_begin)
        if waiting is not None and (small < share or not running) and (waiting.size or 0) <= SMALL_FILE:
            return self._begin(run, waiting)
        if running:
            return self.take(running[0])
        return self._begin(run, waiting) if waiting is not None else None

    def _share_of_small(self, run: QueueRun) -> int:
        """Return the connections for small files, at least one, split so that both lanes end together.

        With more of them bandwidth is left unused, because fetching a small file is mostly waiting. With
        fewer, small files are left at the end, when no large file uses the bandwidth beside them. A quarter
        while nothing is known of the speeds.
        """
        highest_limit = self._sources.highest_limit(run.sources)
        to_fetch = run.queue.waiting_work(small=False)
        for transfer in run.transfers.values():
            if transfer.size > SMALL_FILE:
                files, nbytes = to_fetch.get(transfer.source, (0, 0))
                nbytes += sum(map(len, transfer.pending)) + sum(part.remaining for part in transfer.parts)
                to_fetch[transfer.source] = (files, nbytes)
        small, large = self._seconds_of(run.queue.waiting_work(small=True)), self._seconds_of(to_fetch)
        if small is None or large is None:
            return max(1, highest_limit // 4)
        return max(1, min(round(highest_limit * small / (small + large or 1.0)), highest_limit - 1))

    def _seconds_of(self, work: Mapping[str, tuple[int, int]]) -> float | None:
        """Return the seconds that one connection would need for some work; ``None`` while unknown.

        Args:
            work: Files and bytes, by source.
        """
        total = 0.0
        for source, (files, nbytes) in work.items():
            seconds = self._sources.seconds(source, files, nbytes)
            if seconds is None:
                return None
            total += seconds
        return total

    def may_take(self, transfer: Transfer) -> bool:
        """Return whether a part of a file that has work may be begun now."""
        if transfer.assigner is None:  # the usual case costs nothing
            return self._choice.next_for(transfer) is not None
        chosen = self._assigned(transfer) if transfer.is_assigned else self._source_for(transfer)
        return chosen is not None

    def _source_for(self, transfer: Transfer) -> FileSource | None:
        """Return whom to ask for the next part of a file where nobody assigns it; ``None`` for nobody now."""
        sources = transfer.sources
        if transfer.assigner is None or sources.one_by_one:
            return self._choice.next_for(transfer)
        return sources.origin if self._sources.free(sources.origin.name) else None

    def _assigned(self, transfer: Transfer, *, idle: bool = False) -> Assignment | None:
        """Return what is to be fetched next of a file whose parts somebody assigns."""
        assert transfer.assigner is not None
        return transfer.assigner.next(origin=self._sources.free(transfer.source) > 0, idle=idle)

    def take(self, transfer: Transfer) -> Part:
        """Start the next part of a file that has work.

        It is asked for at the best source that may have another connection, or else at the origin.

        How long the part is depends on how long that source takes to answer:

        * Not long: an ordinary part.
        * Long: all of the file, or as much as comes in many times that wait. Each further request would cost
          the same wait, and the file can still be split later, where that pays.
        * Unknown so far: all of the file, up to the size of the largest part, as a storage may refuse ranges
          of many gigabytes. :meth:`narrow` makes it an ordinary part if the answer comes quickly.
        """
        assignment = self._assigned(transfer) if transfer.is_assigned else None
        if assignment is not None:
            return self._take_assigned(transfer, assignment)
        source = self._source_for(transfer) or transfer.sources.origin
        usual = most = self._part_size(transfer, source.name)
        if transfer.sources.has_others:
            if self._settings.part_size is None or self._sources.usual_answer(source.name) is None:
                # It may never come, and then somebody else has to bring it; and all are to end together.
                usual = most = min(usual, self._choice.longest_part(transfer, source))
        elif self._settings.part_size is None and transfer.mode == "ranged":
            slow = self._sources.answers_slowly(source.name)
            if slow is None:
                most = MAX_PART
            elif slow:
                # More would not save anything: the wait is a small part of its time already.
                most = max(MAX_PART, int(self._sources.most_per_part(source.name)))
        part = transfer.take(most, self._clock(), source)
        part.oversized = part.stop - part.start > usual + usual // 4
        return part

    def _take_assigned(self, transfer: Transfer, assignment: Assignment) -> Part:
        assert transfer.assigner is not None
        source, other = transfer.sources.origin, assignment.source
        if other is not None:
            remote = other.stand_in(transfer.request.remote)
            make = partial(self._make_digested, replace(transfer.request, remote=remote), other.name)
            source = transfer.sources.known(other.name, make)
        part = transfer.take_assigned(assignment, self._clock(), source)
        transfer.assigner.begin(assignment)
        return part

    def narrow(self, part: Part) -> None:
        """Shorten a part that got its first bytes to the length of others, unless its answer was slow."""
        part.oversized = False
        transfer = part.transfer
        if transfer.mode == "ranged" and not self._sources.answers_slowly(part.source.name):
            transfer.cut(part, self._part_size(transfer, part.source.name))

    def _may_begin(self, sources: tuple[str, ...]) -> bool:
        origin, *others = sources
        return self._sources.free(origin) > 0 or any(map(self._choice.may_ask, others))

    def _part_size(self, transfer: Transfer, source: str) -> int:
        sources = self._sources
        return part_size(transfer.size, sources.limit(source), self._settings, sources.most_per_part(source))

    def _begin(self, run: QueueRun, task: DownloadTask) -> Transfer:
        request = run.planned.request_of(task)
        transport, others = self._make_transport(request), self._other_sources(task, request)
        transfer = Transfer(task, request, transport, run.metrics, run.waits, others)
        run.queue.start(task)
        run.transfers[task.task_id] = transfer
        task.move_to(DownloadState.RUNNING)
        return transfer

    def _other_sources(self, task: DownloadTask, request: FileRequest) -> list[FileSource]:
        if not task.other_sources:
            return []
        remotes = [each.stand_in(request.remote) for each in request.remote.sources]
        return [
            FileSource(name, partial(self._make_transport, replace(request, remote=remote)))
            for name, remote in zip(task.other_sources, remotes, strict=True)
        ]

    def _make_digested(self, request: FileRequest, source: str) -> Transport:
        return DigestedTransport(self._make_transport(request), source)

    def _make_transport(self, request: FileRequest) -> Transport:
        try:
            return self._transport_for(request)
        except Exception as error:  # noqa: BLE001  it is this file's, and no other's
            return _Broken(error)

    def _share_a_part(self, runs: Sequence[QueueRun]) -> Part | None:
        """Take half of the part that would finish last, or hedge it; for the end, when no part is left."""
        parts = [
            p
            for run in runs
            if not run.queue.paused and not run.queue.cancelled
            for t in run.transfers.values()
            if t.mode == "ranged" and not t.ending and t.assigner is None
            for p in t.parts
            if p.needed and self._choice.next_beside(p)
        ]
        now = self._clock()
        found = part_to_share(
            parts,
            now,
            usual_answer=self._usual_answer,
            gain_elsewhere=self._gain_elsewhere,
            is_unheard=lambda part: self._sources.usual_answer(part.source.name) is None,
            worth_hedging=self._settings.timings.worth_hedging,
        )
        if found is None:
            return None
        part, split = found
        source = self._choice.next_beside(part)
        if not split:
            return part.transfer.hedge(part, now, source)
        gain = self._gain_elsewhere(part)
        return part.transfer.split(part, now, source, share=gain / (gain + 1.0) if gain else 0.5)

    def _hedge_assigned(self, runs: Sequence[QueueRun]) -> Part | None:
        """Begin, of files whose parts are assigned, what is worth it where there is nothing else to do."""
        for run in runs:
            if not run.is_assigned or run.queue.paused or run.queue.cancelled:
                continue
            for transfer in run.transfers.values():
                if transfer.is_assigned and transfer.phase is Phase.FETCHING:
                    assignment = self._assigned(transfer, idle=True)
                    if assignment is not None:
                        return self._take_assigned(transfer, assignment)
        return None

    def _usual_answer(self, part: Part) -> float | None:
        """Return the seconds in which whoever would be asked for some of a part answers.

        Another source than the part's need not have answered before: what takes the one long may take the
        other a moment.
        """
        source = self._choice.next_beside(part) or part.source
        usual = self._sources.usual_answer(source.name, large=part.transfer.size > SMALL_FILE)
        return 0.0 if usual is None and source is not part.source else usual

    def _gain_elsewhere(self, part: Part) -> float:
        """Return how many times as fast the other source is that would be asked for some of a part.

        0.0 if that would be the part's own source.
        """
        source = self._choice.next_beside(part) or part.source
        return 0.0 if source is part.source else min(self._choice.gain(source, part), _MOST_GAIN)

    def make_room_for(self, run: QueueRun, runs: Sequence[QueueRun], threads: int) -> None:
        """Preempt less urgent parts where a more urgent queue has no connection to run on.

        Args:
            run: The more urgent queue.
            runs: All queues, most urgent first.
            threads: Workers that are idle or could still be started.
        """
        less_urgent = itertools.takewhile(
            lambda other: other.queue.priority > run.queue.priority, reversed(runs)
        )
        lesser = [
            part for other in less_urgent for transfer in other.transfers.values() for part in transfer.parts
        ]
        if not lesser or run.queue.paused or run.queue.cancelled:
            return
        free = sum(self._sources.free(each) for each in run.sources)
        wanted = self._parts_wanted(run) - min(threads, free) - sum(part.preempted for part in lesser)
        now = self._clock()
        for part in lesser:
            if wanted > 0 and not part.preempted and (part.source.name in run.sources or threads <= 0):
                part.preempt(now)
                wanted -= 1

    def drop_excess(self, runs: Sequence[QueueRun]) -> None:
        """Preempt the parts of each source that are beyond its limit, where that is known to cost no speed.

        They are the last ones, in the order of queues and offsets: a digest follows the front of its file, so
        what they bring would be hashed last.

        Args:
            runs: All queues, most urgent first.
        """
        now = self._clock()
        kept: Counter[str] = Counter()
        for transfer in (transfer for run in runs for transfer in run.transfers.values()):
            if transfer.mode != "ranged":
                continue  # a file that comes in one piece would have to come again
            for part in sorted(transfer.parts, key=lambda each: each.start):
                source = part.source.name
                if not self._sources.drops_excess(source):
                    continue
                kept[source] += 1
                if kept[source] > self._sources.limit(source):
                    part.preempt(now)

    def _parts_wanted(self, run: QueueRun) -> int:
        """Return how many more connections a queue could use now."""
        queue = run.queue
        wanted = min(len(queue), max(0, queue.max_concurrent_files - len(queue.active)))
        for transfer in run.transfers.values():
            if transfer.has_work and transfer.mode == "ranged":
                size = self._part_size(transfer, transfer.source)
                wanted += -(-sum(len(span) for span in transfer.pending) // size)
            elif transfer.has_work:
                wanted += 1
        return wanted


def _anywhere(_sources: tuple[str, ...]) -> bool:
    return True


class _Broken:
    """Stands for a transport that could not be made: fails the file once a worker is at it."""

    def __init__(self, error: Exception) -> None:
        self.version: str | None = None
        self._error = error

    def open(self, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool = False) -> Body:
        """Raise the error."""
        del want, cancel_token, fresh
        raise self._error
