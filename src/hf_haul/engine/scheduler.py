"""Worker threads, what each does next, adaptive concurrency and the watchdog.

The problem. A few connections, threads and files have to serve queues of different urgency, each with
files from a kilobyte to a terabyte, while connections die, servers ask for patience, and users pause,
cancel, or add something more urgent.

What we chose. The unit of work is a *part*: one range, one connection, one worker. Under one lock a worker
asks what is next (:meth:`Scheduler.next_job`), then does it without the lock: open a file's staging,
fetch a part, or finish a file. Afterwards, under the lock again, it says what became of it
(:meth:`Scheduler._settle`). Running files go before new ones, so few files are open; two lanes keep small and
large files from starving each other; a part can be cut short at any read, so something urgent never waits
for something large. A ticker thread looks ten times a second (twenty times at the start) at what is in flight: it wakes
connections that stall, samples the goodput for the adaptive limit, and posts progress.

Invariants. This class is the only owner of running state; ``_lock`` guards all of it. Nobody who holds it
touches the network, the disk or a user's callback, or starts a thread: what is found missing is started once the lock is free
(:meth:`Scheduler._deciding`).

Whatever a worker meets, a lack of memory in these very lines included, its file ends or goes on, and who waits for it is woken.
What each thread is at is noted (``_held``), and everything else about running files follows from that: their parts, their flags, the
counts of connections. :meth:`Scheduler._mend` sets it right, after an unexpected error and now and then. Where no thread is to be
had, a thread that waits for a queue does the work itself (:meth:`Scheduler.wait`).

What we do not do: dedicated threads per file, timeouts by polling in workers, work queues between threads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from hf_haul.config import Settings
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.errands import Errands
from hf_haul.engine.events import EventBus, Notifier
from hf_haul.engine.file_steps import close_file, open_file, sweep_up, verify_and_publish
from hf_haul.engine.hasher import Hasher
from hf_haul.engine.job_choice import Chooser, TransportFactory
from hf_haul.engine.jobs import FollowUp, Job, JobKind
from hf_haul.engine.part_fetcher import PartFetcher
from hf_haul.engine.plan import SMALL_FILE, PlannedFile
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.resilience import drop_frames, insist
from hf_haul.engine.results import QueueStatus, Results
from hf_haul.engine.transfer import Part, Phase, SupersededError, Transfer
from hf_haul.engine.watchdog import hopeless_parts
from hf_haul.engine.workers import Workers
from hf_haul.errors import (
    DownloadCancelledError,
    HaltedError,
    HaulError,
    IntegrityError,
    RangeRefusedError,
    RetriesExhaustedError,
    ServerBusyError,
    SourceChangedError,
    name_file,
)
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SourceHistory, SpeedMeter
from hf_haul.ranges import ByteRange
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.staged_file import StagedLostError
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.task import DownloadPriority, DownloadState, DownloadTask, FileRequest
from hf_haul.transports.source_limits import SourceLimits
from hf_haul.urls import source_of

__all__ = ["Scheduler"]

logger = logging.getLogger(__name__)

#: Seconds a part gets to stop by itself before its connection is cut.
_LEAVE_GRACE: Final = 0.3
#: Seconds between two looks at a file that another process fetches.
_ELSEWHERE_INTERVAL: Final = 0.25
#: Seconds for which a folder's list of orphans is good enough.
_SCAN_INTERVAL: Final = 5.0
#: How often a staged file may be lost to another process before its file fails.
_LOSSES: Final = 5
#: Files in a row that a source may fail, each for as long as is bearable, before its others are not even tried.
_LOST_FILES: Final = 8
#: How often a file may change at its source while it is fetched.
_CHANGES: Final = 2
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
        self._runs: list[QueueRun] = []
        self._known: dict[
            str, QueueRun
        ] = {}  # queues whose end was not said yet, also by the id of their only task
        self._results = Results()
        self._sources = SourceLimits(settings, self.history, clock=clock)
        self._chooser = Chooser(settings, self._sources, transport_for, clock)
        self._scanned: dict[Path, tuple[float, dict[str, list[Path]]]] = {}
        self._left: deque[Job] = deque()  # what was decided on, for whichever thread comes next
        self._rested: set[Part] = set()  # parts that wait for their next attempt, as counted
        self._unended: set[QueueRun] = set()  # queues that are over, but not said to be
        self._paused = False
        self._ending = False  # no new queues
        self._closing = False  # no new work
        self._meter = SpeedMeter()
        self._hasher = Hasher()
        self._errands = Errands()
        self._workers = Workers(self, settings.max_concurrent_downloads, allowed=threads)
        self._held = self._workers.held
        self._fetcher = PartFetcher(
            settings,
            limiter,
            self.history,
            on_bytes=self._note_bytes,
            on_retry=self._note_retry,
            on_rest=self._note_rest,
            on_whole_file=self._note_whole_file,
            on_limited=self._note_limited,
            is_lost=self._sources.is_lost,
            clock=clock,
        )

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[None]:
        """Hold the lock, and start what threads were found missing afterwards."""
        try:
            with self._lock:
                yield
        finally:
            if not self._workers.start():
                for run in list(self._runs):
                    run.done.nudge()
            self._hasher.start()
            self._errands.start()

    # ---- what users ask for

    def submit(
        self, queue: ModelDownloadQueue, files: Iterable[PlannedFile], notifier: Notifier | None
    ) -> QueueRun:
        """Start a queue. Returns its run, which is updated until ``done`` is set."""
        planned = list(files)
        run = QueueRun(queue, planned, notifier, clock=self._clock)
        for directory in {each.request.destination.staging_dir for each in planned}:
            for key, paths in self._orphans_in(directory).items():
                run.orphans[directory, key] = list(paths)
        then = FollowUp()
        try:
            with self._deciding():
                if self._ending:
                    raise RuntimeError("the manager is shut down")
                for each in planned:
                    queue.add(each.task)
                self._known.update(dict.fromkeys(_ids(run), run))
                insort(self._runs, run)
                self._sources.enrol(run.sources, 1)
                self._end_if_over(run, then)
                self._make_room_for(run)
                self._wake_workers()
            self._emit("queue_started", run, files=len(planned), bytes=run.total_bytes)
        except BaseException:  # an interrupt, or no memory: nobody will ask for what it began
            if run in self._runs:
                self.cancel(run)
            raise
        insist(partial(self.carry_out, then))
        return run

    def _orphans_in(self, directory: Path) -> dict[str, list[Path]]:
        """See :func:`scan_orphans`; a folder is not listed again for every file that is added one by one."""
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
                self._stop_run(run, None, then)
        finally:
            self._have_carried_out(then)
        return True

    def _stop_run(self, run: QueueRun, error: BaseException | None, then: FollowUp) -> None:
        """End a queue; ``error`` is why, ``None`` for a cancel. Call with the lock held."""
        run.deferred.clear()
        run.waiting_for.clear()
        self._left = deque(job for job in self._left if job.run is not run)
        self._drop_waiting(run, error, then)
        for transfer in run.transfers.values():
            if error is not None:
                transfer.fail(error)
            if transfer.verifier is not None:
                transfer.verifier.stop()
            then.stop += transfer.parts
        self._mend_run(run, then)

    def _drop_waiting(self, run: QueueRun, error: BaseException | None, then: FollowUp) -> None:
        """Give up the files of a queue that were not begun; call with the lock held."""
        state = DownloadState.CANCELLED if error is None else DownloadState.FAILED
        for task in run.queue.drop_waiting():
            run.fail(task, error or DownloadCancelledError(f"{task.file_path}: cancelled"), state)
            then.tell(run, partial(self._tell_unbegun, run, task))

    def pause(self, run: QueueRun | None = None) -> None:
        """Take no new part, and stop those in flight: of one queue, or of all."""
        with self._lock:
            if run is None:
                self._paused = True
            else:
                run.queue.paused = True
            paused = [run] if run is not None else list(self._runs)
            stopped = [part for each in paused for part in self._parts_of(each)]
            for each in paused:
                for transfer in each.transfers.values():
                    if transfer.task.state is DownloadState.RUNNING:
                        transfer.task.move_to(DownloadState.PAUSED)
            ending = self._ending
        for part in stopped:
            part.cancel_token.set()
        if ending:  # somebody waits for the last of them, and what is paused would never end
            for each in paused:
                self.cancel(each)

    def resume(self, run: QueueRun | None = None) -> None:
        """Go on after :meth:`pause`."""
        with self._deciding():
            if run is None:
                self._paused = False
            else:
                run.queue.paused = False
            for each in self._runs:
                for transfer in each.transfers.values():
                    if transfer.task.state is DownloadState.PAUSED and not (
                        self._paused or each.queue.paused
                    ):
                        transfer.task.move_to(DownloadState.RUNNING)
            self._wake_workers()

    def status(self, run: QueueRun) -> QueueStatus:
        """How far a queue has come; also sees to it that somebody is at it."""
        self.keep_going()
        return run.status(paused=self._paused)

    @property
    def paused(self) -> bool:
        """Whether everything is paused."""
        return self._paused

    def set_priority(self, run: QueueRun, priority: DownloadPriority) -> None:
        """Move a queue before or behind others."""
        with self._deciding():
            if run in self._runs:
                self._runs.remove(run)
                run.queue.priority = priority
                insort(self._runs, run)
                self._make_room_for(run)
                self._wake_workers()

    def find(self, an_id: str) -> QueueRun | QueueStatus | None:
        """A running queue, or the result of one that is over; ``None`` if unknown or forgotten.

        Args:
            an_id: Of the queue, or of its only task.
        """
        with self._lock:
            return self._known.get(an_id) or self._results.find(an_id)

    def note_told(self, queue_id: str) -> None:
        """Note that somebody got to know how a queue ended: others' results stay longer than this one."""
        with self._lock:
            self._results.note_told(queue_id)

    @property
    def promised_bytes(self) -> int:
        """Bytes of all running queues, written or not: known at once, and an upper bound where sizes are known."""
        with self._lock:
            return sum(run.promised_bytes for run in self._runs)

    def unsettled(self) -> list[FileRequest]:
        """The files of running queues that are still to come, with their sizes as far as known by now."""
        with self._lock:
            return [request for run in self._runs for request in run.unsettled()]

    def runs(self) -> list[QueueRun]:
        """Queues that are not finished, most urgent first."""
        with self._lock:
            return list(self._runs)

    def retune(self) -> dict[str, Any]:
        """Have every source look for its best number of connections anew; returns what changed, by source."""
        with self._deciding():
            changed = self._sources.retune()
            self._wake_workers()
            return changed

    def snapshot(self) -> dict[str, Any]:
        """Plain values about everything in flight."""
        with self._lock:
            parts = [p for run in self._runs for t in run.transfers.values() for p in t.parts]
            return {
                "queues": len(self._runs),
                "files_active": sum(len(run.transfers) for run in self._runs),
                "files_waiting": sum(len(run.queue) for run in self._runs),
                "connections": len(parts),
                "speed_bps": self._meter.speed(),
                "threads": len(self._workers),
                "paused": self._paused,
                "sources": self._sources.snapshot(),
            }

    def wait(self, run: QueueRun, timeout: float | None = None) -> bool:
        """See :meth:`Workers.wait`."""
        return self._workers.wait(run, timeout)

    def keep_going(self) -> bool:
        """See :meth:`Workers.keep_going`."""
        return self._workers.keep_going()

    def shutdown(self, *, wait_for_work: bool) -> None:
        """Stop all threads; idempotent.

        Args:
            wait_for_work: Whether to finish every queue first that is not paused. If not, what is in flight stays
                resumable and the queues count as cancelled.
        """
        with self._lock:
            self._ending = True
        try:
            if wait_for_work:
                for run in self.runs():
                    if not (self._paused or run.queue.paused):  # what is paused would never end
                        self.wait(run)
        finally:  # also where the user loses patience
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
        """Do everything that can be done now on the calling thread; for programs and tests without threads."""
        while (job := self.next_job()) is not None:
            self._workers.perform(job)
        self._errands.run_here()

    # ---- workers

    def _wake_workers(self) -> None:
        """Have an idle worker look for work, or have one started; call with the lock held, in :meth:`_deciding`.

        One is enough: whoever finds work wakes the next. A worker that has settled a job looks for the next one
        itself, so that nobody is woken for nothing.
        """
        if not self._closing and (self._runs or self._unended):
            self._workers.wake()

    def call_workers(self) -> bool:
        """Wake workers if there is work; returns whether there is."""
        with self._deciding():
            self._wake_workers()
            return bool(self._runs or self._unended)

    def run_errands_here(self, run: QueueRun) -> None:
        """Do what other threads would do beside the workers: for all, and the callbacks of one queue."""
        self._errands.run_here()
        run.tell_here()
        self.events.tell_here()

    def _make_room_for(self, run: QueueRun) -> None:
        """Have less urgent parts leave where a more urgent queue has nowhere to run; call with the lock held."""
        if not self._paused:
            self._chooser.make_room_for(run, self._runs, self._workers.available)

    def fail_all(self, error: BaseException) -> None:
        """Fail every queue that is not paused."""
        then = FollowUp()
        try:
            with self._deciding():
                for run in list(self._runs):
                    if not (self._paused or run.queue.paused):
                        self._stop_run(run, error, then)
        finally:
            self._have_carried_out(then)

    def next_job(self) -> Job | None:
        """Return what the calling thread is at from now on; ``None`` if there is nothing to do now."""
        with self._deciding():
            if self._closing:
                return None
            job = self._left.popleft() if self._left else self._choose()
            if job is not None:
                self._hold(job)
                if self._sources.any_free():
                    self._wake_workers()  # there may be more where this came from
            return job

    def _choose(self) -> Job | None:
        chosen = None if self._paused else self._chooser.next_job(self._runs)
        if chosen is None:
            return None
        part = chosen if isinstance(chosen, Part) else None
        transfer = chosen.transfer if isinstance(chosen, Part) else chosen
        task_id = transfer.task.task_id
        run = next(each for each in self._runs if task_id in each.transfers)
        return Job(JobKind.OPEN if part is None else JobKind.FETCH, run, transfer, part)

    def _hold(self, job: Job) -> None:
        """Note what the calling thread is at; call with the lock held."""
        self._held[threading.current_thread()] = job
        self._count(job, 1)

    def _count(self, job: Job, by: int) -> None:
        if job.counts:
            self._sources.count(job.transfer.source, by)
        if job.asks:
            job.transfer.metrics.add_connections(by)

    # ---- doing it: without the lock

    def do(self, job: Job) -> None:
        """Do a job; without the lock."""
        run, transfer = job.run, job.transfer
        if job.kind is JobKind.OPEN:
            open_file(run, transfer, lambda: self._probe(transfer), self._fetcher, self.settings)
        elif job.kind is JobKind.FETCH:
            assert job.part is not None
            self._fetcher.fetch(job.part)
        elif job.kind is JobKind.RENEW:
            assert transfer.staged is not None
            transfer.staged.forget()
        else:
            job.published = verify_and_publish(transfer, self.settings, lambda: job.run.queue.cancelled)

    @contextlib.contextmanager
    def _probe(self, transfer: Transfer) -> Iterator[Part]:
        """A part without bytes, known to the scheduler so that cancelling reaches it."""
        probe = Part(transfer, ByteRange(0, 0), now=self._clock())
        with self._lock:
            transfer.parts.append(probe)
        try:
            yield probe
        finally:
            with self._lock:
                transfer.parts.remove(probe)

    def settle(self, job: Job, error: BaseException | None, then: FollowUp) -> Job | None:
        """Decide what follows a job; returns what the thread does next."""
        settle = {
            JobKind.OPEN: self._settle_opening,
            JobKind.FETCH: self._settle_part,
            JobKind.RENEW: self._settle_renewal,
            JobKind.FINISH: self._settle_finish,
        }[job.kind]
        with self._deciding():
            self._held.pop(threading.current_thread(), None)
            self._count(job, -1)
            following = settle(job, error, then)
            if following is not None:
                self._hold(following)
            return following

    def carry_out(self, then: FollowUp) -> None:
        """Do what was decided; without the lock."""
        interrupt: BaseException | None = None
        for part in then.stop:
            part.cancel_token.set()
        while then.do:
            try:
                then.do.popleft()()
            except BaseException as error:  # the others have to be done all the same
                logger.warning("unexpected error", exc_info=True)
                if isinstance(error, KeyboardInterrupt):
                    interrupt = error
        if then.runs:
            more = FollowUp()
            insist(partial(self._note_told, then, more))
            insist(partial(self.carry_out, more))
        if interrupt is not None:
            raise interrupt

    def _note_told(self, then: FollowUp, more: FollowUp) -> None:
        """End the queues that waited for what is done now."""
        with self._lock:
            for run in then.runs:
                run.untold.discard(then)
                self._end_if_over(run, more)

    def _have_carried_out(self, then: FollowUp) -> None:
        """Do what was decided, for a caller who does not wait for a disk."""
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
        """Fail a file because of an error where none should be, and set everything else right.

        Args:
            error: The error.
            then: Takes what is to be done without the lock.
            job: What went wrong; by default what the calling thread is at.
        """
        drop_frames(error)
        fails = self._workers.interrupt_of(error) is None

        def recover() -> None:
            with self._deciding():
                held = self._held.pop(threading.current_thread(), None)
                wrong = job or held
                if wrong is not None and fails:
                    wrong.transfer.fail(error)
                self._mend(then)

        insist(recover)

    def put_down(self) -> None:
        """Leave what the calling thread is at to others, because it was interrupted."""
        with self._deciding():
            job = self._held.pop(threading.current_thread())
            self._count(job, -1)
            self._left.append(job)
            self._wake_workers()

    def _mend(self, then: FollowUp) -> None:
        """Have every file be as it follows from what the threads are at; call with the lock held."""
        for thread in [each for each in self._held if not each.is_alive()]:
            job = self._held.pop(thread)
            job.transfer.fail(HaulError("the thread that was at it ended"))
        for run in list(self._runs):
            self._mend_run(run, then)
        for thread in [each for each in list(self._workers.owed) if not each.is_alive()]:
            then.do.append(partial(insist, partial(self.carry_out, self._workers.owed.pop(thread))))
        self._rested &= {job.part for job in self._held.values() if job.part is not None}
        working = [job for job in self._held.values() if job.part not in self._rested]
        self._sources.recount(
            active=Counter(job.transfer.source for job in working if job.counts),
            resting=Counter(part.transfer.source for part in self._rested),
            wanted=[source for run in self._runs for source in run.sources],
        )
        for run in self._runs:
            run.metrics.set_connections(sum(job.asks for job in working if job.run is run))
        self._wake_workers()

    def _mend_run(self, run: QueueRun, then: FollowUp) -> None:
        for transfer in list(run.transfers.values()):
            self._mend_file(run, transfer, then)
        queue = run.queue
        for task in [each for each in queue.active.values() if each.task_id not in run.transfers]:
            queue.active.pop(task.task_id)
        for task in queue.lost():
            if task.state.final:
                queue.settle(task, ok=task.state is DownloadState.DONE)
            else:
                if task.state is not DownloadState.QUEUED:
                    task.move_to(DownloadState.QUEUED)
                queue.put_back_lost(task)
        if queue.cancelled:
            self._drop_waiting(run, None, then)
        self._end_if_over(run, then)

    def _mend_file(self, run: QueueRun, transfer: Transfer, then: FollowUp) -> None:
        jobs = [job for job in (*self._held.values(), *self._left) if job.transfer is transfer]
        if transfer.failure is not None:
            transfer.fail(transfer.failure)
        elif not jobs and transfer.staged is not None and transfer.phase in {Phase.OPENING, Phase.FINISHING}:
            transfer.move_to(Phase.FETCHING)  # nobody is at it
        if all(job.kind is not JobKind.OPEN for job in jobs):  # whoever opens has a part of its own
            for part in [each for each in transfer.parts if all(job.part is not each for job in jobs)]:
                transfer.give_back(part)
        if transfer.failure is not None:
            then.stop += transfer.parts
        if not jobs and (not transfer.has_work or run.queue.cancelled or transfer.task.state.final):
            job = self._settle_file(run, transfer, then)
            if job is not None:
                self._left.append(job)

    # ---- what follows: with the lock held

    def _settle_opening(self, job: Job, error: BaseException | None, then: FollowUp) -> Job | None:
        run, transfer = job.run, job.transfer
        if run.queue.cancelled and not isinstance(error, SupersededError):
            self._give_up(run, transfer, None, then)
        elif isinstance(error, HaltedError) and transfer.failure is None:
            # A pause, or something more urgent, before anything was staged.
            self._put_back(run, transfer)
        elif isinstance(error, StagedElsewhereError):
            run.waiting_for[transfer.task.task_id] = str(error)
            self._defer(run, transfer, _ELSEWHERE_INTERVAL)
        else:
            run.waiting_for.pop(transfer.task.task_id, None)
            if isinstance(error, SupersededError):
                self._done(run, transfer, transferred=False, then=then)
            elif error is not None or transfer.failure is not None:
                self._give_up(run, transfer, transfer.failure or error, then)
            else:
                return self._start_fetching(run, transfer)
        return None

    def _start_fetching(self, run: QueueRun, transfer: Transfer) -> Job | None:
        """Decide what follows the opening of a file."""
        staged = transfer.staged
        assert staged is not None
        transfer.move_to(Phase.FETCHING)
        transfer.refill()
        if self._must_go_in_order(transfer):
            transfer.mode = "ordered"
        run.resumed_bytes += staged.resumed
        if not transfer.pending:
            return self._start_finishing(run, transfer)
        if staged.resumed and transfer.verifier is not None:
            self._hash_soon(transfer)
        if transfer.has_work and not self._paused and not run.queue.paused:
            # The worker that opened the file fetches its first part: no need to look around again.
            part = self._chooser.take(transfer)
            if transfer.pending:
                self._wake_workers()
            return Job(JobKind.FETCH, run, transfer, part)
        self._wake_workers()
        return None

    def _defer(self, run: QueueRun, transfer: Transfer, seconds: float) -> None:
        """Set a file aside, and look at it again later, from the beginning."""
        task = transfer.task
        task.move_to(DownloadState.QUEUED)
        del run.transfers[task.task_id]
        transfer.end()
        run.queue.defer(task)
        run.deferred[task.task_id] = self._clock() + seconds

    def _put_back(self, run: QueueRun, transfer: Transfer) -> None:
        """Return a file that was halted before it was opened to its place in the queue."""
        self._defer(run, transfer, 0.0)
        task_id = transfer.task.task_id
        del run.deferred[task_id]
        run.queue.put_back(task_id)
        self._wake_workers()

    def _must_go_in_order(self, transfer: Transfer) -> bool:
        assert transfer.staged is not None
        return transfer.staged.sequential or transfer.mismatches > 0

    def _settle_part(self, job: Job, error: BaseException | None, then: FollowUp) -> Job | None:
        """Decide what follows a part."""
        run, transfer, part = job.run, job.transfer, job.part
        assert part is not None
        rival = part.rival
        transfer.give_back(part)
        self._sources.count_request(transfer.source)
        if isinstance(error, ServerBusyError | RetriesExhaustedError):
            self._sources.backoff(transfer.source, error)
        stop: list[Part] = []
        if error is None and part.received:
            transfer.range_refusals = 0
        if isinstance(error, RangeRefusedError):
            if transfer.note_refused_range():
                stop += transfer.parts
            error = error if transfer.refuses_for_good else None
        if isinstance(error, SourceChangedError) and self._can_start_anew(transfer):
            if transfer.phase is not Phase.RESTARTING:  # all its parts may see one change
                transfer.changes += 1
                transfer.move_to(Phase.RESTARTING)
            stop += transfer.parts
            error = None
        # A rival that was slower, in the same breath: nobody may race it in turn, or it would never end.
        stop += transfer.superseded()
        failed = error is not None and not isinstance(error, HaltedError)
        # A rival that works may still bring the bytes; one that has brought none shares the fault, and may not
        # make it last longer than one part's patience.
        if (
            error is not None
            and failed
            and (rival is None or not rival.received)
            and transfer.failure is None
        ):
            transfer.fail(error)
            stop += transfer.parts
        for each in stop:
            each.ask_to_leave(self._clock())
        then.stop += stop
        if transfer.verifier is not None and transfer.parts:
            self._hash_soon(transfer)
        return None if transfer.parts else self._settle_file(run, transfer, then)

    def _settle_file(self, run: QueueRun, transfer: Transfer, then: FollowUp) -> Job | None:
        """Decide what follows when nobody is at a file."""
        task = transfer.task
        if task.state is DownloadState.DONE:  # which was not noted everywhere
            self._done(run, transfer, transferred=True, then=then)
        elif run.queue.cancelled:
            self._give_up(run, transfer, None, then)
        elif isinstance(transfer.failure, StagedLostError) and self._looks_elsewhere(run, transfer, then):
            pass
        elif transfer.failure is not None or task.state.final:
            self._give_up(run, transfer, transfer.failure or task.error, then)
        elif transfer.staged is None:
            self._put_back(run, transfer)
        elif transfer.phase is Phase.RESTARTING:
            return Job(JobKind.RENEW, run, transfer)
        else:
            transfer.refill()
            if not transfer.pending:
                return self._start_finishing(run, transfer)
        return None

    @staticmethod
    def _can_start_anew(transfer: Transfer) -> bool:
        """Whether a changed source is taken as it is now: nobody said beforehand what it should be."""
        if transfer.task.digest is not None or transfer.failure is not None:
            return False
        return transfer.phase is Phase.RESTARTING or transfer.changes < _CHANGES

    def _settle_renewal(self, job: Job, error: BaseException | None, then: FollowUp) -> Job | None:
        """Decide what follows when the bytes of a version that a source no longer serves were dropped."""
        transfer = job.transfer
        if error is not None:
            transfer.fail(error)
        elif transfer.phase is Phase.RESTARTING:
            transfer.move_to(Phase.FETCHING)
        following = self._settle_file(job.run, transfer, then)
        self._wake_workers()
        return following

    def _start_finishing(self, run: QueueRun, transfer: Transfer) -> Job:
        transfer.move_to(Phase.FINISHING)
        if transfer.task.state is not DownloadState.VERIFYING:
            transfer.task.move_to(DownloadState.VERIFYING)
        if transfer.size > SMALL_FILE:
            self._wake_workers()  # for the connection that is free while this worker hashes
        return Job(JobKind.FINISH, run, transfer)

    def _settle_finish(self, job: Job, error: BaseException | None, then: FollowUp) -> Job | None:
        run, transfer = job.run, job.transfer
        if not job.published:
            error = transfer.failure or error
        if error is None and not job.published:
            transfer.task.move_to(DownloadState.QUEUED)
            transfer.task.move_to(DownloadState.RUNNING)
            transfer.move_to(Phase.FETCHING)
            transfer.mode = "whole" if transfer.mode == "whole" else "ordered"
            transfer.refill()
            if run.queue.cancelled:
                self._give_up(run, transfer, None, then)
            else:
                self._wake_workers()
        elif isinstance(error, StagedLostError | HaltedError) and run.queue.cancelled:
            self._give_up(run, transfer, None, then)
        elif isinstance(error, StagedLostError) and self._looks_elsewhere(run, transfer, then):
            pass
        elif error is not None:
            self._give_up(run, transfer, error, then)
        else:
            self._done(run, transfer, transferred=True, then=then)
        return None

    def _looks_elsewhere(self, run: QueueRun, transfer: Transfer, then: FollowUp) -> bool:
        """Set a file aside whose staged file somebody took, and who has its bytes; look there, or start anew.

        Returns:
            Whether it was; after the fifth time it is a failure.
        """
        task_id = transfer.task.task_id
        losses = run.losses.get(task_id, 0)
        if losses >= _LOSSES:
            return False
        run.losses[task_id] = losses + 1
        lost, transfer.staged = transfer.staged, None
        if lost is not None:
            then.tell(run, partial(insist, lost.close))
        self._defer(run, transfer, 0.0)
        return True

    # ---- the end of a file: with the lock held

    def _done(self, run: QueueRun, transfer: Transfer, *, transferred: bool, then: FollowUp) -> None:
        run.succeed(transfer, transferred=transferred)
        then.tell(run, partial(self._tell_end, run, transfer))
        transfer.end()
        self._end_if_over(run, then)

    def _tell_end(self, run: QueueRun, transfer: Transfer) -> None:
        task = transfer.task
        run.post(transfer)
        self._emit(f"file_{task.state.value}", run, task, error=str(task.error) if task.error else None)

    def _tell_unbegun(self, run: QueueRun, task: DownloadTask) -> None:
        run.post_task(task)
        self._emit(f"file_{task.state.value}", run, task, error=str(task.error))

    def _give_up(
        self, run: QueueRun, transfer: Transfer, error: BaseException | None, then: FollowUp
    ) -> None:
        """End a file without success; ``None`` means that it was cancelled."""
        state = DownloadState.CANCELLED if error is None else DownloadState.FAILED
        reason = error or DownloadCancelledError(f"{transfer.task.file_path}: cancelled")
        if not isinstance(reason, Exception):  # raised where the user waits, it would end the program
            reason = HaulError(f"{transfer.task.file_path}: {reason!r} in a thread that was at it")
            reason.__cause__ = error
        name_file(reason, transfer.task.file_path)
        staged = transfer.staged
        # What is wrong was deleted.
        kept = staged.done if staged is not None and not isinstance(error, IntegrityError) else 0
        if staged is not None:
            then.tell(run, partial(insist, partial(close_file, transfer)))
            then.disk = staged.device
        run.fail(transfer.task, reason, state)
        run.drop(transfer, kept)
        transfer.end()
        self._drop_hopeless(run, transfer, error, then)
        then.tell(run, partial(self._tell_end, run, transfer))
        self._end_if_over(run, then)

    def _drop_hopeless(
        self, run: QueueRun, transfer: Transfer, error: BaseException | None, then: FollowUp
    ) -> None:
        """Fail the waiting files of a source that has failed for one file after the other.

        Or has served other versions than listed, as mirrors do that lag behind.
        """
        source = transfer.source
        if not isinstance(error, RetriesExhaustedError | SourceChangedError):
            return
        if self._sources.note_lost_file(source, error) < _LOST_FILES:
            return
        for task in run.queue.drop_waiting(lambda task: source_of(task.source_url) == source):
            run.deferred.pop(task.task_id, None)
            reason = RetriesExhaustedError(
                f"{task.file_path}: not tried, because {_LOST_FILES} files in a row from {source} failed; the last: {error}"
            )
            run.fail(task, reason, DownloadState.FAILED)
            then.tell(run, partial(self._tell_unbegun, run, task))

    # ---- the end of a queue

    def _end_if_over(self, run: QueueRun, then: FollowUp) -> None:
        """Move a queue without open files to the finished ones, and have that said when all is written and told.

        Call with the lock held.
        """
        if run.over or not run.queue.finished or run.queue.lost() or run.untold - {then}:
            return
        self._unended.add(run)
        if run in self._runs:
            self._runs.remove(run)
            self._sources.enrol(run.sources, -1)
        run.over = True
        if run.queue.completed:
            then.disk = run if then.disk is None else then.disk
        then.do.append(partial(insist, partial(self._end, run)))

    def _end(self, run: QueueRun) -> None:
        """Say that a queue is over; once."""
        with self._lock:
            if run not in self._unended:
                return
            self._unended.discard(run)
        try:
            sweep_up(run)
        except Exception as error:  # noqa: BLE001  what stays is litter, and no reason to fail
            logger.debug("what is left of finished files stays: %s", error)
        finally:
            insist(partial(self._keep_result, run))
        self._emit("queue_done", run, failed=len(run.queue.failed))

    def _keep_result(self, run: QueueRun) -> None:
        """Keep what a queue came to in plain values, let go of the queue, and say that it is over."""
        status = run.finish()
        ids = _ids(run)
        with self._lock:
            if run.queue.queue_id in self._known:
                self._results.add(status, *ids[1:])
            for each in ids:
                self._known.pop(each, None)
        run.outcome.settle(status)
        run.done.set()

    @staticmethod
    def _parts_of(run: QueueRun) -> list[Part]:
        return [part for transfer in run.transfers.values() for part in transfer.parts]

    def _emit(self, kind: str, run: QueueRun, task: DownloadTask | None = None, **details: object) -> None:
        queue = run.queue
        self.events.emit(kind, task, model_id=queue.model_id, queue_id=queue.queue_id, **details)

    # ---- what workers report while they fetch

    def _note_bytes(self, part: Part, nbytes: int) -> None:
        part.meter.add(nbytes)
        transfer = part.transfer
        transfer.meter.add(nbytes)
        self._meter.add(nbytes)
        transfer.metrics.add_bytes(nbytes)
        if part.oversized:
            with self._deciding():
                self._chooser.narrow(part)
                self._wake_workers()
        if not len(self._workers):
            self._workers.help_along(part, self._clock())
        verifier, staged = transfer.verifier, transfer.staged
        if verifier is None or staged is None or verifier.catching_up:
            return
        if staged.frontier() > verifier.position:
            self._hash_soon(transfer)
            self._hasher.start()

    def _note_retry(self, part: Part, error: BaseException) -> None:
        task = part.transfer.task
        task.retry_count += 1
        part.transfer.metrics.add_retry()
        self.events.emit("file_retried", task, error=str(error))
        with self._lock:
            self._sources.backoff(part.transfer.source, error)

    def _note_rest(self, part: Part) -> None:
        """While a part waits for its next attempt, its connection is for others: a bad file holds up nobody."""
        with self._deciding():
            if part.resting == (part in self._rested):
                return
            if part.resting:
                self._rested.add(part)
                self._wake_workers()
            else:
                self._rested.discard(part)
            by = 1 if part.resting else -1
            self._sources.rest(part.transfer.source, by)
            part.transfer.metrics.add_connections(-by)

    def _note_limited(self, part: Part, seconds: float) -> None:
        part.transfer.metrics.add_limited(seconds)

    def _note_whole_file(self, part: Part) -> None:
        """A source answered a range from the first byte with the whole file: this part takes it all."""
        transfer = part.transfer
        with self._lock:
            transfer.mode = "whole"
            transfer.pending.clear()
            part.take_all_to(transfer.size)
            others = [each for each in transfer.parts if each is not part]
        for each in others:
            each.cancel_token.set()

    # ---- the ticker

    def has_work(self) -> bool:
        """Return whether there is anything to look at."""
        with self._lock:
            return bool(self._runs or self._unended) and not self._closing

    def is_settled(self) -> bool:
        """Return whether every source's best number of connections is known."""
        with self._lock:
            return self._sources.settled

    def mend(self) -> None:
        """Set right what was left half-made."""
        then = FollowUp(disk=self)
        try:
            with self._deciding():
                self._mend(then)
        finally:
            if then.stop or then.do:
                self._have_carried_out(then)

    def tick(self, *, tell: bool = True) -> None:
        """One look at everything in flight; the ticker thread calls it ten times a second, at the start twenty times.

        Args:
            tell: Whether to post progress, which nobody wants more than ten times a second.
        """
        now = self._clock()
        with self._deciding():
            runs = list(self._runs)
            parts = [part for run in runs for t in run.transfers.values() for part in t.parts]
            leaving = [p for p in parts if p.leave and now - p.leave_asked_at > _LEAVE_GRACE]
            hopeless = hopeless_parts(
                parts,
                self.settings.stall_timeout,
                now,
                usual_speed=self.history.average_speed,
                answer_timeout=self._answer_timeout,
                limited=self.limiter.max_bps is not None,
            )
            yielding = Counter(p.transfer.source for p in parts if p.yields)
            self._sources.sample(
                now, yielding, Counter(p.transfer.source for p in parts if p.waits_long(now))
            )
            self._chooser.shed(runs)
            for run in runs:
                self._look_again(run, now)
            if runs and runs[0].queue.priority < runs[-1].queue.priority:
                for run in runs:
                    self._make_room_for(run)
            # What is paused gives no sign of life: another process need not wait until the pause is over.
            live = [run for run in runs if not (self._paused or run.queue.paused)]
            for staged in (t.staged for run in live for t in run.transfers.values()):
                if staged is not None and staged.needs_beat and self._threads_allowed:
                    self._errands.add(staged.device, staged, staged.beat)
            self._wake_workers()
        for part in leaving:
            part.cancel_token.set()
        for part, why in hopeless:
            part.abandon(why)
        if tell:
            for run in runs:
                run.post_progress()

    def _answer_timeout(self, part: Part) -> float:
        transfer = part.transfer
        return self.history.answer_timeout(
            transfer.source, self.settings, part.unanswered, large=transfer.size > SMALL_FILE
        )

    @staticmethod
    def _look_again(run: QueueRun, now: float) -> None:
        """Put files that another process fetches back in line when it is time to look."""
        for task_id in [task_id for task_id, at in run.deferred.items() if at <= now]:
            del run.deferred[task_id]
            run.queue.put_back(task_id)

    def _hash_soon(self, transfer: Transfer) -> None:
        """Have what is on disk hashed while the rest downloads; the hasher has to be started afterwards."""
        if self._threads_allowed and transfer.size > SMALL_FILE and transfer.verifier and transfer.staged:
            self._hasher.soon(transfer.verifier, transfer.staged)


def _ids(run: QueueRun) -> list[str]:
    """What a queue is known by: its id, and that of its task if it has only one."""
    tasks = run.queue.tasks
    return [run.queue.queue_id, tasks[0].task_id] if len(tasks) == 1 else [run.queue.queue_id]
