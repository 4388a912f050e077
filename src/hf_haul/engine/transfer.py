"""One file in flight: its source, its staged file, its parts, and what is still to be fetched."""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from hf_haul.cancellation import CancelToken
from hf_haul.engine.assignment import AssignedRequest, Assigner, Assignment
from hf_haul.engine.file_sources import FileSource, FileSources
from hf_haul.engine.part_progress import PartProgress
from hf_haul.engine.plan import MAX_PART, next_part
from hf_haul.engine.verifier import Verifier
from hf_haul.errors import HaulError
from hf_haul.metrics import DownloadMetrics, SpeedMeter
from hf_haul.ranges import ByteRange
from hf_haul.storage.staged_file import StagedFile
from hf_haul.task import DownloadTask, FileRequest
from hf_haul.transports.base import Transport
from hf_haul.urls import source_of
from hf_haul.waits import Waits, unattended

__all__ = ["PHASE_MOVES", "Part", "Phase", "SupersededError", "Transfer"]

#: Seconds that an answer takes where a connection that waits for it is no load.
_LONG_WAIT = 0.5
#: Refused ranges after which a source is taken to serve whole files only.
_RANGE_REFUSALS = 2


class Phase(enum.Enum):
    """Where a file is on its way."""

    #: A worker looks what is on disk, and claims the staged file.
    OPENING = enum.auto()
    #: Parts are fetched, or wait for somebody to fetch them.
    FETCHING = enum.auto()
    #: Its source serves another version: its parts are on their way out, then what is staged is dropped.
    RESTARTING = enum.auto()
    #: A worker checks and publishes it.
    FINISHING = enum.auto()
    #: Nothing of it is begun any more; what is under way is on its way out.
    ENDED = enum.auto()


#: Every legal move. A missing pair is a mistake of the caller.
PHASE_MOVES: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.OPENING: frozenset({Phase.FETCHING, Phase.ENDED}),
    Phase.FETCHING: frozenset({Phase.RESTARTING, Phase.FINISHING, Phase.ENDED}),
    Phase.RESTARTING: frozenset({Phase.FETCHING, Phase.ENDED}),
    # A wrong digest has the file fetched again, once.
    Phase.FINISHING: frozenset({Phase.FETCHING, Phase.ENDED}),
    Phase.ENDED: frozenset(),
}


class SupersededError(HaulError):
    """A part whose bytes come, or came, some other way."""


class Part(PartProgress):
    """One range of a file, being fetched by one worker over one connection.

    Each attribute is written by one owner: those of :class:`PartProgress` by the worker that fetches the
    part, those below by the scheduler and its watchdog. The worker advances ``position``; the scheduler may
    lower ``stop`` at any time, to give the upper half to somebody else, and may preempt it: then the worker
    stops at its next read.

    Attributes:
        transfer: The file.
        source: Where it is fetched from.
        start: First byte.
        stop: End, exclusive.
        started_at: When it was begun, in seconds.
        cancel_token: Ends the part's waits and wakes its blocking calls.
        preempted: Whether to stop after the read under way; ``preempted_at`` says since when.
        hedge: The part that fetches the same bytes over another connection, if there is one.
        abandonments: How often the watchdog gave its connection up.
        unanswered_calls: How often it did so before an answer came.
        oversized: Whether it was made longer than parts are, and has no bytes yet.
        assignment: What it was begun for, where somebody assigns the file's parts.
    """

    __slots__ = (
        "_abandoned", "abandonments", "assignment", "cancel_token", "hedge", "oversized", "preempted", "preempted_at",
        "source", "start", "started_at", "stop", "transfer", "unanswered_calls",
    )  # fmt: skip

    def __init__(
        self, transfer: Transfer, span: ByteRange, *, now: float, source: FileSource | None = None
    ) -> None:
        super().__init__(span.start, notes_writes=transfer.sources.has_others)
        self.transfer = transfer
        self.source = source or transfer.sources.origin
        self.start = span.start
        self.stop = span.stop
        self.started_at = now
        self.cancel_token = CancelToken(transfer.waits)
        self.preempted = False
        self.preempted_at = 0.0
        self.hedge: Part | None = None
        self._abandoned: tuple[int, str] | None = None  # the number of the call, and why
        self.abandonments = 0
        self.unanswered_calls = 0
        self.oversized = False
        self.assignment: Assignment | None = None

    def give_upper(self, share: float) -> ByteRange | None:
        """Split off the upper ``share`` of what is not being read; ``None`` if that is too little."""
        with self._lock:
            low = max(self.position, self._reads_to)
            middle = self.stop - int((self.stop - low) * share)
            if middle >= self.stop:
                return None
            upper = ByteRange(middle, self.stop)
            self.stop = middle
            return upper

    def give_all_beyond(self, most: int) -> ByteRange | None:
        """Split off all but ``most`` bytes of what is not being read.

        The result is ``None`` if that is too little to share.
        """
        with self._lock:
            at = max(self.position, self._reads_to) + most
            if at + most // 4 >= self.stop:
                return None
            rest = ByteRange(at, self.stop)
            self.stop = at
            return rest

    def extend_to(self, stop: int) -> None:
        """Extend the part to ``stop``: the rest comes over its connection anyway."""
        with self._lock:
            self.stop = stop

    def preempt(self, now: float) -> None:
        """Stop the worker at its next read, and return the rest of the part."""
        if not self.preempted:
            self.preempted = True
            self.preempted_at = now

    def abandon(self, why: str) -> None:
        """Give the connection up: wake the blocking call, which then fails."""
        if self.abandoned is None:
            self.abandonments += 1
            self.unanswered_calls += self.reading_since is None
        self._abandoned = self.calls, why
        self.cancel_token.wake()

    @property
    def abandoned(self) -> str | None:
        """Why the watchdog woke the blocking call under way, if it did."""
        call, why = self._abandoned or (-1, None)
        return why if call == self.calls else None

    @property
    def abandoned_body(self) -> str | None:
        """Why the watchdog gave the body under way up, if it did.

        The call that it woke may have returned what had come; then the next one fails.
        """
        call, why = self._abandoned or (-1, None)
        return why if call >= self.opening else None

    def seconds_in_call(self, now: float) -> float | None:
        """Return how long the network has kept the worker waiting.

        The result is ``None`` while it waits for something else.
        """
        since = self.busy_since
        if since is None or self.cancel_token.queued:
            return None
        return now - max(since, self.cancel_token.dequeued_at)

    def waits_long(self, now: float) -> bool:
        """Return whether it has waited so long for its answer that its connection need not count."""
        if self.reading_since is not None or self.backing_off or self.remaining > MAX_PART:
            return False
        return (self.seconds_in_call(now) or 0.0) >= _LONG_WAIT

    @property
    def needed(self) -> bool:
        """Whether its bytes are still wanted: it was not stopped, and no other part has brought them."""
        if self.preempted or self.cancel_token.is_set():
            return False
        staged = self.transfer.staged
        return staged is None or bool(staged.missing(self.position, max(self.position, self.stop)))

    @property
    def remaining(self) -> int:
        """Bytes still to come."""
        return max(0, self.stop - self.position)


class Transfer:
    """One active file. The scheduler's lock guards every attribute; methods decide and do no I/O.

    Attributes:
        task: What the user sees of the file.
        metrics: Those of its queue.
        request: What was asked for.
        sources: Where it can be had, and what came from there.
        staged: Where its bytes go; ``None`` until a worker has opened it.
        verifier: Its running digest; ``None`` if there is none to check.
        pending: Ranges that nobody fetches, in order.
        parts: Ranges that somebody does.
        mode: ``ranged`` for parts in parallel, ``ordered`` for one after the other, ``whole`` for a single
            request without a range.
        mismatches: How often the complete file had the wrong digest.
        phase: Where it is on its way; moved by :meth:`move_to`, :meth:`fail` and :meth:`end` only.
        failure: What made the file fail, if anything did; then it has ended.
        changes: How often it was started anew because the source served another version.
        range_refusals: How often it refused a range for good, since it last served one.
        waits: Where it is reported what it waits for.
        assigner: Who says which part is next, if anybody does.
    """

    def __init__(
        self,
        task: DownloadTask,
        request: FileRequest,
        transport: Transport,
        metrics: DownloadMetrics,
        waits: Waits = unattended,
        others: Sequence[FileSource] = (),
    ) -> None:
        self.task = task
        self.request = request
        self.metrics = metrics
        self.waits = waits
        origin = FileSource(source_of(request.remote.url), lambda: transport, is_origin=True)
        self.assigner: Assigner | None = (
            request.assigners.assigner_of(request) if isinstance(request, AssignedRequest) else None
        )
        self.sources = FileSources(origin, others, may_grow=self.assigner is not None)
        if self.assigner is not None:
            self.sources.piece_bytes = self.assigner.piece_bytes
        self.staged: StagedFile | None = None
        self.verifier: Verifier | None = None
        self.pending: list[ByteRange] = []
        self.parts: list[Part] = []
        self.mode: Literal["ranged", "ordered", "whole"] = "ranged" if request.remote.ranges else "whole"
        self.mismatches = 0
        self.changes = 0
        self.range_refusals = 0
        self._received: Counter[str] = Counter()  # for parts that are over, by source
        self.phase = Phase.OPENING
        self.failure: BaseException | None = None
        self.meter = SpeedMeter()

    def move_to(self, phase: Phase) -> None:
        """Go on to another phase.

        Raises:
            ValueError: :data:`PHASE_MOVES` does not know the move.
        """
        if phase not in PHASE_MOVES[self.phase]:
            raise ValueError(f"{self.task.file_path}: cannot move from {self.phase.name} to {phase.name}")
        self.phase = phase

    def end(self) -> None:
        """End the file in whatever phase it is: no part begins any more. Calling it again does nothing."""
        if self.phase is not Phase.ENDED:
            self.move_to(Phase.ENDED)

    def fail(self, error: BaseException) -> None:
        """End the file because of ``error``, unless it had ended for another reason."""
        if self.failure is None:
            self.failure = error
        self.end()

    @property
    def is_assigned(self) -> bool:
        """Whether somebody says which part is next: not where its bytes have to come as one, or anew."""
        return self.assigner is not None and self.mode == "ranged" and not self.sources.one_by_one

    @property
    def source(self) -> str:
        """The file's origin: ``scheme://host:port``."""
        return self.sources.origin.name

    @property
    def size(self) -> int:
        """Bytes of the file; 0 while unknown."""
        return self.task.size or 0

    @property
    def ending(self) -> bool:
        """Whether its parts are on their way out, for good or to start anew."""
        return self.phase in {Phase.RESTARTING, Phase.ENDED}

    @property
    def has_single_worker(self) -> bool:
        """Whether a single worker has all of it, before its first part or after its last."""
        return self.phase in {Phase.OPENING, Phase.FINISHING}

    @property
    def has_work(self) -> bool:
        """Whether a worker could take a part now."""
        if not self.pending or self.phase is not Phase.FETCHING:
            return False
        return self.mode == "ranged" or not self.parts

    def take(self, limit: int, now: float, source: FileSource | None = None) -> Part:
        """Start the next part, of about ``limit`` bytes, from a source: the origin if ``None``."""
        if self.mode == "whole":
            self.pending.clear()
            span = ByteRange(0, self.size)
        else:
            span = next_part(self.pending, limit)
        part = Part(self, span, now=now, source=source)
        self.parts.append(part)
        return part

    def take_assigned(self, assignment: Assignment, now: float, source: FileSource) -> Part:
        """Start the part that an assignment is about, or a second one for the bytes of the part it hedges."""
        slow = next((part for part in self.parts if part.assignment is assignment.hedges), None)
        if assignment.hedges is not None and slow is not None:
            part = self.hedge(slow, now, source)
        else:
            self._take_out(assignment.span)
            part = Part(self, assignment.span, now=now, source=source)
            self.parts.append(part)
        part.assignment = assignment
        return part

    def _take_out(self, span: ByteRange) -> None:
        """Take a range out of what is pending, of which it is a part."""
        at = bisect_right(self.pending, span.start, key=lambda each: each.start) - 1
        whole = self.pending[at] if at >= 0 else ByteRange(0, 0)
        if not whole.start <= span.start <= span.stop <= whole.stop:
            raise ValueError(f"{self.task.file_path}: {span.header} is not to be fetched")
        rest = (ByteRange(whole.start, span.start), ByteRange(span.stop, whole.stop))
        self.pending[at : at + 1] = [each for each in rest if len(each)]

    def split(
        self, part: Part, now: float, source: FileSource | None = None, *, share: float = 0.5
    ) -> Part | None:
        """Give the upper half of what is left of ``part`` to a new part, by default from the same source.

        The result is ``None`` if its worker was quicker.

        Args:
            part: The part.
            now: Seconds.
            source: Where the new part comes from.
            share: How much it gets, where not half.
        """
        span = part.give_upper(share)
        if span is None:
            return None
        upper = Part(self, span, now=now, source=source or part.source)
        self.parts.append(upper)
        return upper

    def cut(self, part: Part, most: int) -> None:
        """Leave about ``most`` bytes to a part, and return the rest to what is pending."""
        rest = part.give_all_beyond(most) if part.needed and part.hedge is None else None
        if rest is not None:
            self.pending.append(rest)
            self.pending.sort()

    def superseded(self) -> list[Part]:
        """Return the parts in flight whose bytes others have brought."""
        if self.staged is None or self.mode == "whole":
            return []
        return [
            part
            for part in self.parts
            if part.remaining and not part.preempted and not self.staged.missing(part.position, part.stop)
        ]

    def hedge(self, part: Part, now: float, source: FileSource | None = None) -> Part:
        """Start a second part for the same bytes as a slow one, by default from the same source."""
        hedge = Part(self, ByteRange(part.position, part.stop), now=now, source=source or part.source)
        hedge.hedge, part.hedge = part, hedge
        self.parts.append(hedge)
        return hedge

    def release(self, part: Part) -> list[ByteRange]:
        """Take a part that ended out of flight, and keep what it has not fetched for somebody else.

        Returns:
            What that is.
        """
        self.remove(part)
        hedge, part.hedge = part.hedge, None
        if hedge is not None:
            hedge.hedge = None
        left: list[ByteRange] = []
        if part.position < part.stop and hedge is None and self.mode != "whole" and self.staged is not None:
            # Not what a hedge that was quicker has brought.
            left = self.staged.missing(part.position, part.stop)
            self.pending += left
            self.pending.sort()
        return left

    def remove(self, part: Part) -> None:
        """Take a part that ended out of flight, and keep how many bytes came for it."""
        self.parts.remove(part)
        if part.received:
            self._received[part.source.name] += part.received
        for span in part.written or ():
            part.source.brought.add(span.start, span.stop)

    @property
    def received(self) -> int:
        """Bytes that came over the network for it, repeated ones included."""
        return sum(self._received.values()) + sum(part.received for part in list(self.parts))

    @property
    def received_from(self) -> dict[str, int]:
        """The same by source, of the parts that are over."""
        return dict(self._received)

    def wasted(self, *, kept: bool = True) -> int:
        """Return how many of the bytes that came were thrown away.

        Args:
            kept: Whether what is staged stays, or goes on to be published.
        """
        staged = self.staged
        if staged is None:  # what comes in one stream is staged at its end
            return 0 if kept else self.received
        return max(0, self.received - max(0, staged.done - staged.resumed) * kept)

    def refill(self) -> None:
        """Set what is pending to what the disk lacks; for when no part is in flight."""
        assert self.staged is not None
        missing = self.staged.missing()
        if missing and self.mode == "whole":
            missing = [ByteRange(0, self.size)]
        self.pending = missing
        if self.assigner is not None:
            self.assigner.start(missing)

    @property
    def refuses_for_good(self) -> bool:
        """Whether the source refused so often that one more refusal leaves nothing to try."""
        return self.range_refusals >= 3 * _RANGE_REFUSALS

    def restart(self) -> None:
        """Restart the file, because its source serves another version.

        All its parts may notice one change.
        """
        if self.phase is not Phase.RESTARTING:
            self.changes += 1
            self.move_to(Phase.RESTARTING)

    def note_refused_range(self) -> bool:
        """Count a refused range.

        Returns:
            Whether the source is now taken to serve whole files only.
        """
        self.range_refusals += 1
        if self.range_refusals >= _RANGE_REFUSALS and self.mode != "whole":
            self.mode = "whole"
            return True
        return False
