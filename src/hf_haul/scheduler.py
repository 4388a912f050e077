"""Worker threads, what each does next, adaptive concurrency and the watchdog.

The problem. A few connections, threads and files have to serve queues of different urgency, each with
files from a kilobyte to a terabyte, while connections die, servers ask for patience, and users pause,
cancel, or add something more urgent.

What we chose. The unit of work is a *part*: one range, one connection, one worker. Under one lock a worker
asks what is next (:meth:`Scheduler._next_job`), then does it without the lock: open a file's staging,
fetch a part, or finish a file. Afterwards, under the lock again, it says what became of it
(:meth:`Scheduler._settle`). Running files go before new ones, so few files are open; two lanes keep small and
large files from starving each other; a part can be cut short at any read, so something urgent never waits
for something large. A ticker thread looks ten times a second (twenty times at the start) at what is in flight: it wakes
connections that stall, samples the goodput for the adaptive limit, and posts progress.

Invariants. This class is the only owner of running state; ``_lock`` guards all of it. Nobody who holds it
touches the network, the disk or a user's callback.

What we do not do: dedicated threads per file, timeouts by polling in workers, work queues between threads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from hf_haul.choice import Chooser, TransportFactory
from hf_haul.config import Settings
from hf_haul.download_queue import ModelDownloadQueue
from hf_haul.errors import (
    DownloadCancelledError,
    HaltedError,
    IntegrityError,
    RangeRefusedError,
    RetriesExhaustedError,
    ServerBusyError,
    SourceChangedError,
)
from hf_haul.events import EventBus, Notifier
from hf_haul.fetch import PartFetcher
from hf_haul.filework import close_file, open_file, sweep_up, verify_and_publish
from hf_haul.hashing import Hasher
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SourceHistory, SpeedMeter
from hf_haul.plan import SMALL_FILE, PlannedFile
from hf_haul.ranges import ByteRange
from hf_haul.run import QueueRun
from hf_haul.sources import SourceLimits
from hf_haul.staging import StagedElsewhereError, StagedLostError, scan_orphans
from hf_haul.task import DownloadPriority, DownloadState, DownloadTask, FileRequest
from hf_haul.transfer import Part, SupersededError, Transfer
from hf_haul.urls import source_of
from hf_haul.watchdog import hopeless_parts

__all__ = ["Scheduler"]

logger = logging.getLogger(__name__)

#: Seconds between two looks of the ticker.
_TICK: Final = 0.1
#: The same while a source's best number of connections is looked for.
_FIRST_TICK: Final = 0.05
#: Seconds a part gets to stop by itself before its connection is cut.
_LEAVE_GRACE: Final = 0.3
#: Seconds between two looks at a file that another process fetches.
_ELSEWHERE_INTERVAL: Final = 0.25
#: Finished queues whose results stay readable.
_KEPT_RESULTS: Final = 1000
#: Seconds after which a worker without work ends.
_IDLE_SECONDS: Final = 10.0
#: Seconds for which a folder's list of orphans is good enough.
_SCAN_INTERVAL: Final = 5.0
#: How often a staged file may be lost to another process before its file fails.
_LOSSES: Final = 5
#: Files in a row that a source may fail, each for as long as is bearable, before its others are not even tried.
_LOST_FILES: Final = 8
#: How often a file may change at its source while it is fetched.
_CHANGES: Final = 2


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
        self._work_waits = threading.Condition(self._lock)
        self._ticker_waits = threading.Condition(self._lock)
        # Guarded by _lock, all of them:
        self._runs: list[QueueRun] = []
        self._finished: OrderedDict[str, QueueRun] = OrderedDict()
        self._sources = SourceLimits(settings, self.history, clock=clock)
        self._chooser = Chooser(settings, self._sources, transport_for, clock)
        self._promised = 0  # bytes of all queues, as they were when submitted
        self._scanned: dict[Path, tuple[float, dict[str, list[Path]]]] = {}
        self._workers: set[threading.Thread] = set()
        self._idle = 0
        self._ticker: threading.Thread | None = None
        self._paused = False
        self._ending = False  # no new queues
        self._closing = False  # no new work
        self._meter = SpeedMeter()
        self._hasher = Hasher()
        self._fetcher = PartFetcher(
            settings,
            limiter,
            self.history,
            on_bytes=self._note_bytes,
            on_retry=self._note_retry,
            on_rest=self._note_rest,
            on_whole_file=self._note_whole_file,
            on_limited=self._note_limited,
            is_lost=lambda source: self._sources.lost_files(source) > 0,
            clock=clock,
        )

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
        with self._lock:
            if self._ending:
                raise RuntimeError("the manager is shut down")
            for each in planned:
                queue.add(each.task)
            insort(self._runs, run)
            self._sources.enrol(run.sources, 1)
            self._promised += run.promised_bytes
            over = self._finish_if_over(run)
            self._make_room_for(run)
            self._wake_workers()
            self._ticker_waits.notify()
        self._emit("queue_started", run, files=len(planned), bytes=run.total_bytes)
        if over:
            self._end(run)
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
        with self._lock:
            if run.over:
                return False
            run.queue.cancelled = True
            run.deferred.clear()
            run.waiting_for.clear()
            dropped = run.queue.drop_waiting()
            for task in dropped:
                error = DownloadCancelledError(f"{task.file_path}: cancelled")
                run.fail(task, error, DownloadState.CANCELLED)
            stopped = self._parts_of(run)
            for transfer in run.transfers.values():
                if transfer.verifier is not None:
                    transfer.verifier.stop()
            leftovers = [
                self._give_up(run, t, None) for t in list(run.transfers.values()) if self._at_rest(t)
            ]
            over = self._finish_if_over(run)
        self._stop(stopped)
        for task in dropped:
            run.post_task(task)
            self._emit("file_cancelled", run, task, error=str(task.error))
        for close in leftovers:
            close()
        if over:
            self._end(run)
        return True

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
        self._stop(stopped)
        if ending:  # somebody waits for the last of them, and what is paused would never end
            for each in paused:
                self.cancel(each)

    def resume(self, run: QueueRun | None = None) -> None:
        """Go on after :meth:`pause`."""
        with self._lock:
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

    @property
    def paused(self) -> bool:
        """Whether everything is paused."""
        return self._paused

    def set_priority(self, run: QueueRun, priority: DownloadPriority) -> None:
        """Move a queue before or behind others."""
        with self._lock:
            if run in self._runs:
                self._runs.remove(run)
                run.queue.priority = priority
                insort(self._runs, run)
                self._make_room_for(run)
                self._wake_workers()

    def find(self, queue_id: str) -> QueueRun | None:
        """A running or a finished queue; ``None`` if unknown or forgotten."""
        with self._lock:
            for run in self._runs:
                if run.queue.queue_id == queue_id:
                    return run
            return self._finished.get(queue_id)

    @property
    def promised_bytes(self) -> int:
        """Bytes of all running queues, written or not: known at once, and an upper bound where sizes are known."""
        return self._promised

    def unsettled(self) -> list[FileRequest]:
        """The files of running queues that are still to come, with their sizes as far as known by now."""
        with self._lock:
            return [request for run in self._runs for request in run.unsettled()]

    def runs(self) -> list[QueueRun]:
        """Queues that are not finished, most urgent first."""
        with self._lock:
            return list(self._runs)

    def forget(self, queue_id: str) -> None:
        """Drop a finished queue's results."""
        with self._lock:
            self._finished.pop(queue_id, None)

    def retune(self) -> dict[str, Any]:
        """Have every source look for its best number of connections anew; returns what changed, by source."""
        with self._lock:
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
                        run.done.wait()
        finally:  # also where the user loses patience
            for run in self.runs():
                self.cancel(run)
            with self._lock:
                self._closing = True
                self._work_waits.notify_all()
                self._ticker_waits.notify_all()
                threads = [*self._workers, self._ticker]
            for thread in threads:
                if thread is not None and thread is not threading.current_thread():
                    thread.join()
            self._workers.clear()
            self._hasher.close()

    def drain(self) -> None:
        """Do everything that can be done now on the calling thread; for programs and tests without threads."""
        while (job := self._next_job(block=False)) is not None:
            self._perform(job)

    # ---- workers

    def _wake_workers(self) -> None:
        """Have an idle worker look for work, or start one; call with the lock held.

        One is enough: whoever finds work wakes the next. A worker that has settled a job looks for the next one
        itself, so that nobody is woken for nothing.
        """
        if not self._threads_allowed or not self._runs or self._closing:
            return
        if self._ticker is None:
            self._ticker = self._start(self._tick_forever, "hf-haul-ticker")
        if self._idle:
            self._work_waits.notify()
        else:
            self._add_worker()

    def _make_room_for(self, run: QueueRun) -> None:
        """Have less urgent parts leave where a more urgent queue has nowhere to run; call with the lock held."""
        if not self._paused:
            threads = self.settings.max_concurrent_downloads - len(self._workers) + self._idle
            self._chooser.make_room_for(run, self._runs, threads)

    def _add_worker(self) -> None:
        if len(self._workers) < self.settings.max_concurrent_downloads and not self._closing:
            try:
                self._workers.add(self._start(self._work, f"hf-haul-worker-{len(self._workers)}"))
            except RuntimeError:  # the system gives no more threads; the ones there are will do
                if not self._workers:
                    raise

    @staticmethod
    def _start(target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                self._perform(job)
        finally:
            with self._lock:
                if not self._closing:  # else a shutdown waits for this very thread
                    self._workers.discard(threading.current_thread())

    def _next_job(self, *, block: bool = True) -> Part | Transfer | None:
        """What the calling worker should do; waits for it. ``None``: end."""
        deadline = self._clock() + _IDLE_SECONDS
        with self._lock:
            while not self._closing:
                job = None if self._paused else self._chooser.next_job(self._runs)
                if job is not None:
                    self._count(job, 1)
                    if block and self._sources.any_free():
                        self._wake_workers()  # there may be more where this came from
                    return job
                if not block:
                    return None
                if not self._runs and self._clock() >= deadline:
                    # In the same breath: whoever submits next must not count on a thread that is about to end.
                    self._workers.discard(threading.current_thread())
                    return None
                self._idle += 1
                try:
                    self._work_waits.wait(_IDLE_SECONDS)
                finally:
                    self._idle -= 1
            return None

    def _count(self, job: Part | Transfer, by: int) -> None:
        transfer = job if isinstance(job, Transfer) else job.transfer
        self._sources.count(transfer.source, by)
        if isinstance(job, Part) or transfer.request.remote.size is None:  # opening asks for the size
            transfer.metrics.add_connections(by)

    # ---- doing it: without the lock

    def _perform(self, job: Part | Transfer) -> None:
        run = self._run_of(job)
        if isinstance(job, Transfer):
            error = self._attempt(lambda: self._open(run, job))
            then = self._settle_opening(run, job, error)
        else:
            error = self._attempt(lambda: self._fetcher.fetch(job))
            then = self._settle(run, job, error)
        for action in then:
            action()

    @staticmethod
    def _attempt(work: Callable[[], None]) -> BaseException | None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  a worker outlives every job; the file it was about fails
            return error
        return None

    def _run_of(self, job: Part | Transfer) -> QueueRun:
        task_id = job.task.task_id if isinstance(job, Transfer) else job.transfer.task.task_id
        with self._lock:
            return next(run for run in self._runs if task_id in run.transfers)

    def _open(self, run: QueueRun, transfer: Transfer) -> None:
        open_file(run, transfer, lambda: self._probe(transfer), self._fetcher, self.settings)

    @contextlib.contextmanager
    def _probe(self, transfer: Transfer) -> Iterator[Part]:
        """A part without bytes, known to the scheduler so that a halt reaches it."""
        probe = Part(transfer, ByteRange(0, 0), now=self._clock())
        with self._lock:
            transfer.parts.append(probe)
        try:
            yield probe
        finally:
            with self._lock:
                transfer.parts.remove(probe)

    def _settle_opening(
        self, run: QueueRun, transfer: Transfer, error: BaseException | None
    ) -> list[Callable[[], None]]:
        with self._lock:
            self._count(transfer, -1)
            transfer.opening = False
            if run.queue.cancelled and not isinstance(error, SupersededError):
                return [self._give_up(run, transfer, None)]
            if isinstance(
                error, HaltedError
            ):  # a pause, or something more urgent, before anything was staged
                self._put_back(run, transfer)
                return []
            if isinstance(error, StagedElsewhereError):
                run.waiting_for[transfer.task.task_id] = str(error)
                self._defer(run, transfer, _ELSEWHERE_INTERVAL)
                return []
            run.waiting_for.pop(transfer.task.task_id, None)
            if isinstance(error, SupersededError):
                return [self._done(run, transfer, transferred=False)]
            if error is not None:
                return [self._give_up(run, transfer, error)]
            return self._start_fetching(run, transfer)

    def _start_fetching(self, run: QueueRun, transfer: Transfer) -> list[Callable[[], None]]:
        """Decide what follows the opening of a file."""
        staged = transfer.staged
        assert staged is not None
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
            self._count(part, 1)
            if transfer.pending:
                self._wake_workers()
            return [lambda: self._perform(part)]
        self._wake_workers()
        return []

    def _defer(self, run: QueueRun, transfer: Transfer, seconds: float) -> None:
        """Set a file aside, and look at it again later, from the beginning."""
        task = transfer.task
        task.move_to(DownloadState.QUEUED)
        del run.transfers[task.task_id]
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

    def _settle(self, run: QueueRun, part: Part, error: BaseException | None) -> list[Callable[[], None]]:
        """Decide what follows a part; returns what is to be done without the lock."""
        transfer = part.transfer
        with self._lock:
            self._count(part, -1)
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
                transfer.changes += not transfer.outdated  # all its parts may see one change
                transfer.outdated = True
                stop += transfer.parts
                error = None
            # A rival that was slower, in the same breath: nobody may race it in turn, or it would never end.
            stop += transfer.superseded()
            failed = error is not None and not isinstance(error, HaltedError)
            # A rival that works may still bring the bytes; one that has brought none shares the fault, and may not
            # make it last longer than one part's patience.
            if failed and (rival is None or not rival.received) and transfer.failure is None:
                transfer.failure = error
                stop += transfer.parts
            for each in stop:
                each.ask_to_leave(self._clock())
            then = [each.halt.set for each in stop]
            if transfer.verifier is not None and transfer.parts:
                self._hash_soon(transfer)
            if self._at_rest(transfer):
                then += self._settle_file(run, transfer)
            return then

    def _settle_file(self, run: QueueRun, transfer: Transfer) -> list[Callable[[], None]]:
        """Decide what follows when no part of a file is in flight."""
        assert transfer.staged is not None
        if run.queue.cancelled:
            return [self._give_up(run, transfer, None)]
        if transfer.failure is not None:
            return [self._give_up(run, transfer, transfer.failure)]
        if transfer.outdated:
            transfer.opening = True  # nobody else touches it meanwhile
            return [lambda: self._start_anew(run, transfer)]
        transfer.refill()
        return [] if transfer.pending else self._start_finishing(run, transfer)

    @staticmethod
    def _can_start_anew(transfer: Transfer) -> bool:
        """Whether a changed source is taken as it is now: nobody said beforehand what it should be."""
        if transfer.task.digest is not None or transfer.failure is not None:
            return False
        return transfer.outdated or transfer.changes < _CHANGES

    def _start_anew(self, run: QueueRun, transfer: Transfer) -> None:
        """Drop the bytes of a version that its source no longer serves."""
        assert transfer.staged is not None
        error = self._attempt(transfer.staged.forget)
        with self._lock:
            transfer.outdated = transfer.opening = False
            transfer.failure = error
            then = self._settle_file(run, transfer)
            self._wake_workers()
        for action in then:
            action()

    def _start_finishing(self, run: QueueRun, transfer: Transfer) -> list[Callable[[], None]]:
        transfer.finishing = True
        transfer.task.move_to(DownloadState.VERIFYING)
        if transfer.size > SMALL_FILE:
            self._wake_workers()  # for the connection that is free while this worker hashes
        return [lambda: self._finish(run, transfer)]

    def _finish(self, run: QueueRun, transfer: Transfer) -> None:
        published = False
        error: BaseException | None = None
        try:
            published = verify_and_publish(transfer, self.settings)
        except Exception as caught:  # noqa: BLE001  whatever digest or disk say is the file's error
            error = caught
        with self._lock:
            transfer.finishing = False
            then = self._settle_finish(run, transfer, error, published=published)
        for action in then:
            action()

    def _settle_finish(
        self, run: QueueRun, transfer: Transfer, error: BaseException | None, *, published: bool
    ) -> list[Callable[[], None]]:
        if error is None and not published:
            transfer.task.move_to(DownloadState.QUEUED)
            transfer.task.move_to(DownloadState.RUNNING)
            transfer.mode = "whole" if transfer.mode == "whole" else "ordered"
            transfer.refill()
            if run.queue.cancelled:
                return [self._give_up(run, transfer, None)]
            self._wake_workers()
            return []
        if isinstance(error, StagedLostError | HaltedError) and run.queue.cancelled:
            return [self._give_up(run, transfer, None)]
        if isinstance(error, StagedLostError) and run.losses.get(transfer.task.task_id, 0) < _LOSSES:
            # Somebody took us for dead and has the bytes; look there, or start anew.
            lost, transfer.staged = transfer.staged, None
            self._defer(run, transfer, 0.0)
            run.losses[transfer.task.task_id] = run.losses.get(transfer.task.task_id, 0) + 1
            return [lost.close] if lost is not None else []
        if error is not None:
            return [self._give_up(run, transfer, error)]
        return [self._done(run, transfer, transferred=True)]

    # ---- the end of a file: with the lock held, returning what is to be done without

    @staticmethod
    def _at_rest(transfer: Transfer) -> bool:
        return not transfer.parts and not transfer.opening and not transfer.finishing

    def _done(self, run: QueueRun, transfer: Transfer, *, transferred: bool) -> Callable[[], None]:
        transfer.task.move_to(DownloadState.DONE)
        run.succeed(transfer, transferred=transferred)
        over = self._finish_if_over(run)
        return lambda: self._tell_end(run, transfer, over=over)

    def _tell_end(self, run: QueueRun, transfer: Transfer, *, over: bool) -> None:
        task = transfer.task
        run.post(transfer)
        self._emit(f"file_{task.state.value}", run, task, error=str(task.error) if task.error else None)
        if over:  # only now is everything that was fetched safe for the next run
            self._end(run)

    def _end(self, run: QueueRun) -> None:
        """Say that a queue is over."""
        self._attempt(lambda: sweep_up(run))  # what stays is litter, and no reason to fail
        run.finish()
        self._emit("queue_done", run, failed=len(run.queue.failed))

    def _give_up(self, run: QueueRun, transfer: Transfer, error: BaseException | None) -> Callable[[], None]:
        """End a file without success; ``None`` means that it was cancelled."""
        state = DownloadState.CANCELLED if error is None else DownloadState.FAILED
        reason = error or DownloadCancelledError(f"{transfer.task.file_path}: cancelled")
        staged = transfer.staged
        # What is wrong was deleted.
        kept = staged.done if staged is not None and not isinstance(error, IntegrityError) else 0
        run.drop(transfer, kept)
        run.fail(transfer.task, reason, state)
        hopeless = self._drop_hopeless(run, transfer, error)
        over = self._finish_if_over(run)

        def close() -> None:
            close_file(transfer)
            for task in hopeless:
                run.post_task(task)
                self._emit("file_failed", run, task, error=str(task.error))
            self._tell_end(run, transfer, over=over)

        return close

    def _drop_hopeless(
        self, run: QueueRun, transfer: Transfer, error: BaseException | None
    ) -> list[DownloadTask]:
        """Fail the waiting files of a source that has failed for one file after the other.

        Or has served other versions than listed, as mirrors do that lag behind.
        """
        source = transfer.source
        if not isinstance(error, RetriesExhaustedError | SourceChangedError):
            return []
        if self._sources.note_lost_file(source) < _LOST_FILES:
            return []
        dropped = run.queue.drop_waiting(lambda task: source_of(task.source_url) == source)
        for task in dropped:
            run.deferred.pop(task.task_id, None)
            reason = RetriesExhaustedError(
                f"{task.file_path}: not tried, because {_LOST_FILES} files in a row from {source} failed; the last: {error}"
            )
            run.fail(task, reason, DownloadState.FAILED)
        return dropped

    def _finish_if_over(self, run: QueueRun) -> bool:
        """Move a queue without open files to the finished ones.

        Returns:
            Whether it is over; the caller then calls ``run.finish()`` without the lock, when all is written and told.
        """
        if not run.queue.finished or run.over:
            return False
        run.over = True
        if run in self._runs:
            self._runs.remove(run)
            self._sources.enrol(run.sources, -1)
            self._promised -= run.promised_bytes
        self._finished[run.queue.queue_id] = run
        while len(self._finished) > _KEPT_RESULTS:
            self._finished.popitem(last=False)
        return True

    @staticmethod
    def _parts_of(run: QueueRun) -> list[Part]:
        return [part for transfer in run.transfers.values() for part in transfer.parts]

    @staticmethod
    def _stop(parts: list[Part]) -> None:
        for part in parts:
            part.halt.set()

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
        verifier, staged = transfer.verifier, transfer.staged
        if verifier is None or staged is None or verifier.catching_up:
            return
        if staged.frontier() > verifier.position:
            self._hash_soon(transfer)

    def _note_retry(self, part: Part, error: BaseException) -> None:
        task = part.transfer.task
        task.retry_count += 1
        part.transfer.metrics.add_retry()
        self.events.emit("file_retried", task, error=str(error))
        with self._lock:
            self._sources.backoff(part.transfer.source, error)

    def _note_rest(self, part: Part) -> None:
        """While a part waits for its next attempt, its connection is for others: a bad file holds up nobody."""
        with self._lock:
            by = 1 if part.resting else -1
            self._sources.rest(part.transfer.source, by)
            part.transfer.metrics.add_connections(-by)
            if part.resting:
                self._wake_workers()

    def _note_limited(self, part: Part, seconds: float) -> None:
        part.transfer.metrics.add_limited(seconds)

    def _note_whole_file(self, part: Part) -> None:
        """A source answered a range from the first byte with the whole file: this part takes it all."""
        transfer = part.transfer
        with self._lock:
            transfer.mode = "whole"
            transfer.pending.clear()
            part.stop = transfer.size
            others = [each for each in transfer.parts if each is not part]
        for each in others:
            each.halt.set()

    # ---- the ticker

    def _tick_forever(self) -> None:
        told = 0.0
        while True:
            with self._lock:
                if not self._runs and not self._ticker_waits.wait_for(self._has_runs, _IDLE_SECONDS):
                    self._ticker = None
                    return
                if self._closing:
                    return
                seconds = _TICK if self._sources.settled else _FIRST_TICK
                self._ticker_waits.wait_for(lambda: self._closing, seconds)
            now = time.monotonic()
            tell = now - told >= _TICK
            told = now if tell else told
            self.tick(tell=tell)

    def _has_runs(self) -> bool:
        return bool(self._runs) or self._closing

    def tick(self, *, tell: bool = True) -> None:
        """One look at everything in flight; the ticker thread calls it ten times a second, at the start twenty times.

        Args:
            tell: Whether to post progress, which nobody wants more than ten times a second.
        """
        now = self._clock()
        with self._lock:
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
            grew = self._sources.sample(now, Counter(p.transfer.source for p in parts if p.yields))
            self._chooser.shed(runs)
            again = [self._look_again(run, now) for run in runs]
            if runs and runs[0].queue.priority < runs[-1].queue.priority:
                for run in runs:
                    self._make_room_for(run)
            # What is paused gives no sign of life: another process need not wait until the pause is over.
            live = [run for run in runs if not (self._paused or run.queue.paused)]
            staged = [t.staged for run in live for t in run.transfers.values() if t.staged is not None]
            if any(again) or parts or grew:
                self._wake_workers()
        for part in leaving:
            part.halt.set()
        for part, why in hopeless:
            part.abandon(why)
        for each in staged:
            if each.needs_beat:
                each.beat()
        if tell:
            for run in runs:
                run.post_progress()

    def _answer_timeout(self, part: Part) -> float:
        return self.history.answer_timeout(part.transfer.source, self.settings, part.unanswered)

    def _look_again(self, run: QueueRun, now: float) -> bool:
        """Put files that another process fetches back in line when it is time to look."""
        due = [task_id for task_id, at in run.deferred.items() if at <= now]
        for task_id in due:
            del run.deferred[task_id]
            run.queue.put_back(task_id)
        if due:
            self._wake_workers()
        return bool(due)

    def _hash_soon(self, transfer: Transfer) -> None:
        """Have what is on disk hashed while the rest downloads."""
        if self._threads_allowed and transfer.size > SMALL_FILE and transfer.verifier and transfer.staged:
            self._hasher.soon(transfer.verifier, transfer.staged)
            self._hasher.start()
