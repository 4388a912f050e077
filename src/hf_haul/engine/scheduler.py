"""What is asked for, what is in flight, and the one lock over it: submit, pause, cancel, look, shut down.

The file is this long because the one lock has one owner: everything that can be asked of the engine, by
users, by workers and by the ticker, is a method here that takes the lock. What is decided under it is in the
modules named below.

The problem. A few connections, threads and files have to serve queues of different urgency, each with files
from a kilobyte to a terabyte, while connections die, servers ask for a pause, and users pause, cancel, or
add something more urgent.

What we chose. The unit of work is a *part*: one range, one connection, one worker. Under one lock a worker
asks what is next (:meth:`Scheduler.next_job`), then does it without the lock: open a file's staging, fetch a
part, or finish a file. Afterwards, under the lock again, it says what became of it
(:meth:`Scheduler.settle`). Running files go before new ones, so few files are open; two lanes keep small and
large files from starving each other; a part can be cut short at any read, so something urgent never waits for
something large. A ticker looks ten times a second (twenty times at the start) at what is in flight: it wakes
connections that stall, samples the goodput for the adaptive limit, and posts progress
(:meth:`Scheduler.tick`).

Who does what. ``workers`` has the threads, ``ticker`` the one that looks; ``job_choice`` says what is next,
``outcome`` what follows, ``settlement`` does that, and ``queues`` ends files and queues. They have no lock of
their own: this class holds it for them.

Invariants. ``_lock`` guards all running state. Nobody who holds it touches the network, the disk or a user's
callback, or starts a thread: what is found missing is started once the lock is free
(:meth:`Scheduler._deciding`).

What we do not do: dedicated threads per file, timeouts by polling in workers, work queues between threads.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from hf_haul.config import Settings
from hf_haul.digests import Digest
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.errands import Errands
from hf_haul.engine.events import EventBus, Notifier
from hf_haul.engine.file_steps import open_file, verify_and_publish
from hf_haul.engine.hasher import Hasher
from hf_haul.engine.job_choice import Chooser, TransportFactory
from hf_haul.engine.jobs import FollowUp, Job, JobKind
from hf_haul.engine.part_fetcher import PartFetcher
from hf_haul.engine.planned_files import PlannedFiles
from hf_haul.engine.queue_events import QueueEvents
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.queues import Queues
from hf_haul.engine.resilience import drop_frames, insist
from hf_haul.engine.results import QueueStatus
from hf_haul.engine.settlement import Settlement
from hf_haul.engine.source_choice import SourceChoice
from hf_haul.engine.transfer import Part, Transfer
from hf_haul.engine.wait_reports import WaitReports
from hf_haul.engine.watchdog import stalled_parts
from hf_haul.engine.workers import Workers
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SMALL_FILE, SourceHistory, SpeedMeter
from hf_haul.ranges import ByteRange
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.task import DownloadPriority, DownloadState, FileRequest
from hf_haul.transports.source_limits import SourceLimits

__all__ = ["Scheduler"]

logger = logging.getLogger(__name__)

#: Seconds a part gets to stop by itself before its connection is cut.
_PREEMPT_GRACE: Final = 0.3
#: Seconds for which a folder's list of orphans is good enough.
_SCAN_INTERVAL: Final = 5.0
#: Seconds that the end waits for threads: one that waits for a disk cannot be woken.
_END_SECONDS: Final = 1.0


class Scheduler:
    """Runs the files of any number of queues on a changing number of threads.

    Args:
        settings: See :class:`hf_haul.config.Settings`.
        limiter: The bandwidth limit of all connections together.
        transport_for: Makes the transport of one file.
        events: Where to tell tools what happens.
        threads: Whether to start threads; without, :meth:`drain` does all work on the calling thread.
    """

    def __init__(
        self,
        settings: Settings,
        limiter: BandwidthLimiter,
        transport_for: TransportFactory,
        *,
        threads: bool = True,
        events: EventBus | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.limiter = limiter
        self.history = SourceHistory()
        self.events = events or EventBus()
        self._threads_allowed = threads
        self._clock = clock
        self._lock = threading.Lock()
        # Guarded by _lock, all of them:
        self._sources = SourceLimits(settings, self.history, clock=clock)
        self._queues = Queues(self._lock, self._sources, self.events, clock=clock)
        self._choice = SourceChoice(self._sources, self.history, clock=clock)
        self._chooser = Chooser(settings, self._sources, transport_for, clock, choice=self._choice)
        self._scanned: dict[Path, tuple[float, dict[str, list[Path]]]] = {}
        self._ending = False  # no new queues
        self._closing = False  # no new work
        self._meter = SpeedMeter()
        self._hasher = Hasher()
        self._errands = Errands()
        self._workers = Workers(
            self, settings.max_concurrent_downloads, allowed=threads, timings=settings.timings
        )
        self._settlement = Settlement(
            self._queues,
            self._sources,
            self._chooser,
            self._choice,
            self._workers.held,
            wake=self._wake_workers,
            hash_soon=self._hash_soon,
            clock=self._now,
        )
        self._reports = WaitReports(settings, limiter, self._answer_timeout)
        self._fetcher = PartFetcher(
            settings,
            limiter,
            self.history,
            on_bytes=self._note_bytes,
            on_retry=self._note_retry,
            on_backing_off=self._note_backing_off,
            on_whole_file=self._note_whole_file,
            on_limited=self._note_limited,
            is_failing=self._sources.is_failing,
            has_alternative=self._has_alternative,
            clock=clock,
        )

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[None]:
        """Hold the lock, and start what threads were found missing afterwards."""
        try:
            with self._lock:
                yield
        finally:
            self._start_missing()

    def _start_missing(self) -> None:
        """Start the threads that were found missing; call it without the lock."""
        if not self._workers.start():
            for run in list(self._queues.running):
                run.done.nudge()
        self._hasher.start()
        self._errands.start()

    # ---- what users ask for

    def submit(
        self,
        queue: ModelDownloadQueue,
        files: PlannedFiles,
        notifier: Notifier | None,
        events: QueueEvents | None = None,
    ) -> QueueRun:
        """Start a queue. Returns its run, which is updated until ``done`` is set."""
        run = QueueRun(queue, files, notifier, events, clock=self._clock, timings=self.settings.timings)
        for directory in files.staging_dirs():
            for key, paths in self._orphans_in(directory).items():
                run.orphans[directory, key] = list(paths)
        then = FollowUp()
        try:
            with self._deciding():
                if self._ending:
                    raise RuntimeError("the manager is shut down")
                queue.add_planned(files)
                if not self._queues.left:
                    self._workers.standstill.begin()
                self._queues.add(run)
                self._queues.end_if_over(run, then)
                self._make_room_for(run)
                self._wake_workers()
            if self._queues.is_paused(run):
                self._reports.note_pause(run, paused=True)
            self._queues.emit("queue_started", run, files=len(files), bytes=run.total_bytes)
        except BaseException:  # an interrupt, or no memory: nobody will ask for what it began
            if run in self._queues.running:
                self.cancel(run)
            raise
        insist(partial(self.carry_out, then))
        return run

    def _orphans_in(self, directory: Path) -> dict[str, list[Path]]:
        """Return what :func:`scan_orphans` finds; a folder is not listed anew for each file that is added."""
        with self._lock:
            at, found = self._scanned.get(directory, (-_SCAN_INTERVAL, {}))
        if self._clock() - at < _SCAN_INTERVAL:
            return found
        found = scan_orphans(directory)
        with self._lock:
            self._scanned = {directory: (self._clock(), found)}
        return found

    def cancel(self, run: QueueRun) -> bool:
        """Stop a queue for good; what was fetched stays staged.

        Returns:
            Whether there was anything to stop.
        """
        then = FollowUp()
        try:
            with self._deciding():
                if run.over or run.queue.finished:
                    return False
                run.queue.cancelled = True
                self._settlement.stop_run(run, None, then)
        finally:
            self._have_carried_out(then)
        return True

    def pause(self, run: QueueRun | None = None) -> None:
        """Take no new part, and stop those in flight: of one queue, or of all."""
        with self._lock:
            if run is None:
                self._queues.paused = True
            else:
                run.queue.paused = True
            paused = [run] if run is not None else list(self._queues.running)
            stopped = [part for each in paused for part in self._parts_of(each)]
            for each in paused:
                for transfer in each.transfers.values():
                    if transfer.task.state is DownloadState.RUNNING:
                        transfer.task.move_to(DownloadState.PAUSED)
            ending = self._ending
        for part in stopped:
            part.cancel_token.set()
        for each in paused:
            self._reports.note_pause(each, paused=True)
        if ending:  # somebody waits for the last of them, and what is paused would never end
            for each in paused:
                self.cancel(each)

    def resume(self, run: QueueRun | None = None) -> None:
        """Go on after :meth:`pause`."""
        with self._deciding():
            self._workers.standstill.begin()
            if run is None:
                self._queues.paused = False
            else:
                run.queue.paused = False
            for each in self._queues.running:
                for transfer in each.transfers.values():
                    if transfer.task.state is DownloadState.PAUSED and not self._queues.is_paused(each):
                        transfer.task.move_to(DownloadState.RUNNING)
            self._wake_workers()
            going = [each for each in self._queues.running if not self._queues.is_paused(each)]
        for each in going:
            self._reports.note_pause(each, paused=False)

    def status(self, run: QueueRun) -> QueueStatus:
        """Return how far a queue has come, and make sure that some thread works on it."""
        self.keep_going()
        return run.status(paused=self._queues.paused)

    @property
    def paused(self) -> bool:
        """Whether everything is paused."""
        return self._queues.paused

    def set_priority(self, run: QueueRun, priority: DownloadPriority) -> None:
        """Move a queue before or behind others."""
        with self._deciding():
            if run in self._queues.running:
                self._queues.move(run, priority)
                self._make_room_for(run)
                self._wake_workers()

    def find(self, an_id: str) -> QueueRun | QueueStatus | None:
        """Return a running queue, or the result of one that is over; ``None`` if unknown or forgotten.

        Args:
            an_id: Of the queue, or of its only task.
        """
        with self._lock:
            return self._queues.find(an_id)

    def note_told(self, queue_id: str) -> None:
        """Note that somebody was told how a queue ended: results that nobody has seen are kept longer."""
        with self._lock:
            self._queues.note_told(queue_id)

    @property
    def reserved_bytes(self) -> int:
        """Bytes of all running queues, written or not, at once; an upper bound where sizes are known."""
        with self._lock:
            return sum(run.reserved_bytes for run in self._queues.running)

    def unsettled(self) -> list[FileRequest]:
        """Return the files of running queues that are still to come, with their sizes as far as known."""
        with self._lock:
            return [request for run in self._queues.running for request in run.unsettled()]

    def runs(self) -> list[QueueRun]:
        """Return the queues that are not finished, most urgent first."""
        with self._lock:
            return list(self._queues.running)

    def retune(self) -> dict[str, Any]:
        """Restart the search for the best number of connections to each source.

        Return what changed, by source.
        """
        with self._deciding():
            changed = self._sources.retune()
            self._wake_workers()
            return changed

    def snapshot(self) -> dict[str, Any]:
        """Return plain values about everything in flight."""
        with self._lock:
            parts = [p for run in self._queues.running for t in run.transfers.values() for p in t.parts]
            totals = self._queues.totals()
            return {
                "queues": len(self._queues.running),
                "files_active": sum(len(run.transfers) for run in self._queues.running),
                "files_waiting": sum(len(r.queue) + len(r.queue.deferred) for r in self._queues.running),
                "files_done": totals.completed,
                "files_failed": totals.failed,
                "bytes_transferred": totals.nbytes,
                "bytes_wasted": totals.wasted,
                "busy_seconds": totals.seconds,
                "connections": len(parts),
                "speed_bps": self._meter.speed(),
                "threads": len(self._workers),
                "paused": self._queues.paused,
                "sources": self._sources.snapshot(),
            }

    def wait(self, run: QueueRun, timeout: float | None = None) -> bool:
        """See :meth:`Workers.wait`."""
        return self._workers.wait(run, timeout)

    def nudge(self) -> None:
        """Wake workers to look for work: somebody who assigns parts has something new."""
        with self._deciding():
            self._wake_workers()

    def keep_going(self) -> bool:
        """See :meth:`Workers.keep_going`."""
        return self._workers.keep_going()

    def shutdown(self, *, wait_for_work: bool) -> None:
        """Stop all threads; idempotent.

        Args:
            wait_for_work: Whether to finish every queue first that is not paused. If not, what is in flight
                stays resumable and the queues count as cancelled.
        """
        with self._lock:
            self._ending = True
        try:
            if wait_for_work:
                for run in self.runs():
                    if not self._queues.is_paused(run):  # what is paused would never end
                        self.wait(run)
        finally:  # also after Ctrl+C
            for run in self.runs():
                self.cancel(run)
            with self._lock:
                self._closing = True
            deadline = time.monotonic() + _END_SECONDS
            closes = (self._workers.close, self._errands.close, self._hasher.close)
            ended = [close(max(0.0, deadline - time.monotonic())) for close in closes]
            if not all(ended):
                logger.warning("some threads wait for a disk that does not answer; they end once it does")

    def drain(self) -> None:
        """Do everything that can be done now on the calling thread; for programs without threads."""
        while (job := self.next_job()) is not None:
            self._workers.perform(job)
        self._errands.run_here()

    # ---- workers

    def _wake_workers(self) -> None:
        """Wake an idle worker, or start one; call with the lock held, in :meth:`_deciding`.

        One is enough: whoever finds work wakes the next. A worker that has settled a job looks for the next
        one itself, so that nobody is woken for nothing.
        """
        if not self._closing and self._queues.left:
            self._workers.wake()

    def call_workers(self) -> bool:
        """Wake workers if there is work; return whether there is."""
        with self._deciding():
            self._wake_workers()
            return self._queues.left

    def run_errands_here(self, run: QueueRun) -> None:
        """Do what other threads would do beside the workers: for all, and the callbacks of one queue."""
        self._errands.run_here()
        run.tell_here()
        self.events.tell_here()

    def _make_room_for(self, run: QueueRun) -> None:
        """Preempt less urgent parts for a more urgent queue that cannot run; call with the lock held."""
        if not self._queues.paused:
            self._chooser.make_room_for(run, self._queues.running, self._workers.available)

    def fail_all(self, error: BaseException) -> None:
        """Fail every queue that is not paused."""
        then = FollowUp()
        try:
            with self._deciding():
                for run in list(self._queues.running):
                    if not self._queues.is_paused(run):
                        self._settlement.stop_run(run, error, then)
        finally:
            self._have_carried_out(then)

    def next_job(self) -> Job | None:
        """Return the calling thread's next job; ``None`` if there is none now."""
        try:
            with self._lock:
                return None if self._closing else self._settlement.next_job()
        finally:  # as _deciding, which takes as long as what is decided here
            self._start_missing()

    # ---- doing it: without the lock

    def do(self, job: Job) -> None:
        """Do a job; call it without the lock."""
        run, transfer = job.run, job.transfer
        if job.kind is JobKind.OPEN:
            open_file(run, transfer, lambda: self._probe(transfer), self._fetcher, self.settings)
            if run.events is not None:
                run.events.started(transfer.task)
        elif job.kind is JobKind.FETCH:
            assert job.part is not None
            self._fetcher.fetch(job.part)
        elif job.kind is JobKind.RENEW:
            assert transfer.staged is not None
            transfer.staged.forget()
        else:
            job.published = verify_and_publish(
                transfer, self.settings, lambda: run.queue.cancelled, partial(self._note_verified, job)
            )
            if job.published and self.settings.durable:
                run.unflushed.append(transfer.task)

    @staticmethod
    def _note_verified(job: Job, digest: Digest) -> None:
        if job.run.events is not None:
            job.run.events.verified(job.transfer.task, digest)

    @contextlib.contextmanager
    def _probe(self, transfer: Transfer) -> Iterator[Part]:
        """Register a part without bytes for the block, so that cancelling reaches it."""
        probe = Part(transfer, ByteRange(0, 0), now=self._clock())
        with self._lock:
            transfer.parts.append(probe)
        try:
            yield probe
        finally:
            with self._lock:
                transfer.remove(probe)

    def settle(self, job: Job, error: BaseException | None, then: FollowUp) -> Job | None:
        """Decide what follows a job; return what the thread does next."""
        try:
            with self._lock:
                return self._settlement.settle(job, error, then)
        finally:
            self._start_missing()

    def carry_out(self, then: FollowUp) -> None:
        """Do what was decided; call it without the lock."""
        self._queues.carry_out(then)

    def _have_carried_out(self, then: FollowUp) -> None:
        """Do what was decided, for a caller that must not wait for a disk."""
        if then.disk is None or not self._threads_allowed:
            insist(partial(self.carry_out, then))
            return
        for part in then.stop:
            part.cancel_token.set()
        self._errands.add(then.disk, object(), partial(insist, partial(self.carry_out, then)))
        if not self._errands.start():
            self._errands.run_here()

    # ---- what is left half-made

    def recover(self, error: BaseException, then: FollowUp, job: Job | None = None) -> None:
        """Fail a file because of an unexpected error, and repair everything else.

        Args:
            error: The error.
            then: Takes what is to be done without the lock.
            job: What went wrong; by default what the calling thread is at.
        """
        drop_frames(error)
        fails = self._workers.interrupt_of(error) is None

        def recover() -> None:
            with self._deciding():
                held = self._workers.held.pop(threading.current_thread(), None)
                wrong = job or held
                if wrong is not None and fails:
                    wrong.transfer.fail(error)
                self._settlement.mend(then, self._workers.owed)

        insist(recover)

    def put_down(self) -> None:
        """Release the calling thread's job to other threads, because it was interrupted."""
        with self._deciding():
            self._settlement.put_down()

    @staticmethod
    def _parts_of(run: QueueRun) -> list[Part]:
        return [part for transfer in run.transfers.values() for part in transfer.parts]

    # ---- what workers report while they fetch

    def _note_bytes(self, part: Part, nbytes: int) -> None:
        part.meter.add(nbytes)
        self._workers.standstill.end()
        transfer = part.transfer
        transfer.meter.add(nbytes)
        self._meter.add(nbytes)
        transfer.metrics.add_bytes(nbytes, part.source.name)
        if part.oversized:
            with self._deciding():
                self._chooser.narrow(part)
                self._wake_workers()
        if not len(self._workers):
            self._workers.help_along(part, self._clock())
        verifier, staged = transfer.verifier, transfer.staged
        if verifier is None or staged is None or verifier.catching_up or transfer.size <= SMALL_FILE:
            return  # a small file is hashed by who finishes it: no thread need be woken for it
        if staged.frontier() > verifier.position:
            self._hash_soon(transfer)
            self._hasher.start()

    def _note_retry(self, part: Part, error: BaseException) -> None:
        task = part.transfer.task
        task.retry_count += 1
        part.transfer.metrics.add_retry()
        self.events.emit("file_retried", task, error=str(error))
        with self._lock:
            self._sources.backoff(part.source.name, error)

    def _has_alternative(self, part: Part) -> bool:
        if part.assignment is not None:
            return not part.source.is_origin
        if not part.transfer.sources.has_others:
            return False
        with self._lock:
            return self._choice.has_alternative(part)

    def _note_backing_off(self, part: Part) -> None:
        """Free a part's connection while it waits for its next attempt, so that others can use it."""
        with self._deciding():
            self._settlement.note_backing_off(part)

    def _note_limited(self, part: Part, seconds: float) -> None:
        part.transfer.metrics.add_limited(seconds)

    def _note_whole_file(self, part: Part) -> None:
        """Give a part the whole file, because its source answered a range with all of it."""
        transfer = part.transfer
        with self._lock:
            transfer.mode = "whole"
            transfer.pending.clear()
            part.extend_to(transfer.size)
            others = [each for each in transfer.parts if each is not part]
        for each in others:
            each.cancel_token.set()

    # ---- the ticker

    def has_work(self) -> bool:
        """Return whether there is anything to look at."""
        with self._lock:
            return self._queues.left and not self._closing

    def is_settled(self) -> bool:
        """Return whether every source's best number of connections is known."""
        with self._lock:
            return self._sources.settled

    def mend(self) -> None:
        """Repair what an error left half done."""
        then = FollowUp(disk=self)
        try:
            with self._deciding():
                self._settlement.mend(then, self._workers.owed)
        finally:
            if then.stop or then.do:
                self._have_carried_out(then)

    def tick(self, *, tell: bool = True) -> None:
        """Look once at everything in flight.

        The ticker calls it ten times a second, at the start twenty times.

        Args:
            tell: Whether to post progress, which nobody wants more than ten times a second.
        """
        now = self._clock()
        with self._deciding():
            runs = list(self._queues.running)
            parts = [part for run in runs for t in run.transfers.values() for part in t.parts]
            overdue = [p for p in parts if p.preempted and now - p.preempted_at > _PREEMPT_GRACE]
            stalled = stalled_parts(
                parts,
                self.settings.stall_timeout,
                now,
                usual_speed=self.history.average_speed,
                answer_timeout=self._answer_timeout,
                gap_timeout=self._gap_timeout,
                limited=self.limiter.max_bps is not None,
                warm_up=self.settings.timings.warm_up,
            )
            self._sources.sample(now, Counter(p.source.name for p in parts if p.waits_long(now)))
            self._chooser.drop_excess(runs)
            quiet = [(r, self._reports.look(r, now, paused=self._queues.is_paused(r))) for r in runs]
            for run in runs:
                self._look_again(run, now)
            if runs and runs[0].queue.priority < runs[-1].queue.priority:
                for run in runs:
                    self._make_room_for(run)
            # What is paused gives no sign of life: another process need not wait until the pause is over.
            live = [run for run in runs if not self._queues.is_paused(run)]
            for staged in (t.staged for run in live for t in run.transfers.values()):
                if (
                    staged is not None
                    and staged.needs_beat(self.settings.timings.sign_of_life)
                    and self._threads_allowed
                ):
                    self._errands.add(staged.device, staged, staged.beat)
            self._wake_workers()
        for part in overdue:
            part.cancel_token.set()
        for part, why in stalled:
            part.abandon(why)
        if tell:
            for run, wait in quiet:
                self._reports.report(run, wait)
                run.post_progress(paused=self._queues.paused)

    def _now(self) -> float:
        return self._clock()

    def _answer_timeout(self, part: Part) -> float:
        large = part.transfer.size > SMALL_FILE
        seconds = self.history.answer_timeout(part.source.name, self.settings, part.unanswered, large=large)
        return seconds if part.source.is_origin else min(seconds, self.settings.timings.other_answer)

    def _gap_timeout(self, part: Part) -> float:
        """Return for how long another source may send nothing while somebody else can be asked."""
        patient = part.source.is_origin or not self._choice.has_alternative(part)
        return math.inf if patient else self.settings.timings.other_answer

    @staticmethod
    def _look_again(run: QueueRun, now: float) -> None:
        """Queue files that another process fetches again when it is time to look at them."""
        for task_id in [task_id for task_id, at in run.deferred.items() if at <= now]:
            del run.deferred[task_id]
            run.queue.put_back(task_id)

    def _hash_soon(self, transfer: Transfer) -> None:
        """Queue what is on disk for hashing while the rest downloads; start the hasher afterwards."""
        if self._threads_allowed and transfer.size > SMALL_FILE and transfer.verifier and transfer.staged:
            self._hasher.soon(transfer.verifier, transfer.staged)
