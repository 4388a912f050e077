"""Worker threads, what each does next, adaptive concurrency and the watchdog.

The problem. A few connections, threads and files have to serve queues of different urgency, each with
files from a kilobyte to a terabyte, while connections die, servers ask for patience, and users pause,
cancel, or add something more urgent.

What we chose. The unit of work is a *part*: one range, one connection, one worker. Under one lock a worker
asks what is next (:meth:`Scheduler._next_job`), then does it without the lock: open a file's staging,
fetch a part, or finish a file. Afterwards, under the lock again, it says what became of it
(:meth:`Scheduler._settle`). Running files go before new ones, so few files are open; two lanes keep small and
large files from starving each other; a part can be cut short at any read, so something urgent never waits
for something large. A ticker thread looks ten times a second at what is in flight: it wakes
connections that stall, samples the goodput for the adaptive limit, and posts progress.

Invariants. This class is the only owner of running state; ``_lock`` guards all of it. Nobody who holds it
touches the network, the disk or a user's callback.

What we do not do: dedicated threads per file, timeouts by polling in workers, work queues between threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from hf_haul.concurrency import ConcurrencyController
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
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SourceHistory, SpeedMeter
from hf_haul.plan import SMALL_FILE, PlannedFile, part_size
from hf_haul.ranges import ByteRange
from hf_haul.run import QueueRun
from hf_haul.staging import StagedElsewhereError, StagedFile, StagedLostError, claim, scan_orphans
from hf_haul.task import DownloadPriority, DownloadState, DownloadTask, FileRequest
from hf_haul.transfer import Part, SupersededError, Transfer, source_of
from hf_haul.transports.base import Transport
from hf_haul.verify import Verifier
from hf_haul.watchdog import hopeless_parts, part_to_share

__all__ = ["Scheduler"]

logger = logging.getLogger(__name__)

#: Seconds between two looks of the ticker.
_TICK: Final = 0.1
#: Seconds a part gets to stop by itself before its connection is cut.
_LEAVE_GRACE: Final = 0.3
#: Seconds between two looks at a file that another process fetches.
_ELSEWHERE_INTERVAL: Final = 0.25
#: Finished queues whose results stay readable.
_KEPT_RESULTS: Final = 1000
#: Seconds after which a worker without work ends.
_IDLE_SECONDS: Final = 10.0
#: How often a staged file may be lost to another process before its file fails.
_LOSSES: Final = 5
#: How often a file may change at its source while it is fetched.
_CHANGES: Final = 2

#: Stands for the length of a file whose source does not say it.
_UNKNOWN: Final = 1 << 62

TransportFactory = Callable[[FileRequest], Transport]


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
        self._transport_for = transport_for
        self._threads_allowed = threads
        self._clock = clock
        self._lock = threading.Lock()
        self._work_waits = threading.Condition(self._lock)
        self._ticker_waits = threading.Condition(self._lock)
        self._hasher_waits = threading.Condition(self._lock)
        # Guarded by _lock, all of them:
        self._runs: list[QueueRun] = []
        self._finished: OrderedDict[str, QueueRun] = OrderedDict()
        self._controllers: dict[str, ConcurrencyController] = {}
        self._active: dict[str, int] = {}
        self._requests: dict[str, int] = {}
        self._workers: set[threading.Thread] = set()
        self._idle = 0
        self._ticker: threading.Thread | None = None
        self._hasher: threading.Thread | None = None
        self._to_hash: OrderedDict[Transfer, None] = OrderedDict()
        self._paused = False
        self._ending = False  # no new queues
        self._closing = False  # no new work
        self._cpu_mark = (clock(), time.process_time())
        self._meter = SpeedMeter()
        self._fetcher = PartFetcher(
            settings,
            limiter,
            self.history,
            on_bytes=self._note_bytes,
            on_retry=self._note_retry,
            on_rest=self._note_rest,
            on_whole_file=self._note_whole_file,
            on_limited=self._note_limited,
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
            for key, paths in scan_orphans(directory).items():
                run.orphans.setdefault((directory, key), []).extend(paths)
        with self._lock:
            if self._ending:
                raise RuntimeError("the manager is shut down")
            for each in planned:
                queue.add(each.task)
            insort(self._runs, run)
            over = self._finish_if_over(run)
            self._make_room_for(run)
            self._wake_workers()
            self._ticker_waits.notify()
        self._emit("queue_started", run, files=len(planned), bytes=run.total_bytes)
        if over:
            self._end(run)
        return run

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
            now = self._clock()
            changed = {}
            for source, controller in self._controllers.items():
                before = controller.snapshot()
                controller.retune(now)
                after = controller.snapshot()
                changed[source] = {
                    "connections_before": before["limit"], "connections": after["limit"],
                    "phase_before": before["phase"], "phase": after["phase"],
                }  # fmt: skip
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
                "sources": {
                    source: {**controller.snapshot(), "active": self._active.get(source, 0)}
                    for source, controller in self._controllers.items()
                },
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
                for waits in (self._work_waits, self._ticker_waits, self._hasher_waits):
                    waits.notify_all()
                threads = [*self._workers, self._ticker, self._hasher]
            for thread in threads:
                if thread is not None and thread is not threading.current_thread():
                    thread.join()

    def drain(self) -> None:
        """Do everything that can be done now on the calling thread; for programs and tests without threads."""
        while (job := self._next_job(block=False)) is not None:
            self._perform(job)

    # ---- workers

    def _wake_workers(self) -> None:
        """Have an idle worker look for work, or start one; call with the lock held.

        One is enough: whoever finds work wakes the next, so that nobody is woken for nothing.
        """
        if not self._threads_allowed or not self._runs:
            return
        if self._ticker is None:
            self._ticker = self._start(self._tick_forever, "hf-haul-ticker")
        if self._idle:
            self._work_waits.notify()
        else:
            self._add_worker()

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
                self._workers.discard(threading.current_thread())

    def _next_job(self, *, block: bool = True) -> Part | Transfer | None:
        """What the calling worker should do; waits for it. ``None``: end."""
        deadline = self._clock() + _IDLE_SECONDS
        with self._lock:
            while not self._closing:
                job = None if self._paused else self._choose()
                if job is not None:
                    self._count(job, 1)
                    if block:
                        self._wake_workers()  # there may be more where this came from
                    return job
                if not block or (not self._runs and self._clock() >= deadline):
                    return None
                self._idle += 1
                try:
                    self._work_waits.wait(_IDLE_SECONDS)
                finally:
                    self._idle -= 1
            return None

    def _count(self, job: Part | Transfer, by: int) -> None:
        transfer = job if isinstance(job, Transfer) else job.transfer
        self._active[transfer.source] = self._active.get(transfer.source, 0) + by
        if (
            isinstance(job, Part) or transfer.request.remote.size is None
        ):  # opening asks the source for the size
            transfer.metrics.add_connections(by)

    # ---- what is next: with the lock held, no I/O

    def _choose(self) -> Part | Transfer | None:
        for run in self._runs:
            if not run.queue.paused and not run.queue.cancelled:
                job = self._choose_from(run)
                if job is not None:
                    return job
        return self._share_a_part()

    def _choose_from(self, run: QueueRun) -> Part | Transfer | None:
        running = [t for t in run.transfers.values() if t.has_work and self._may_connect(t.source)]
        running.sort(key=lambda t: t.task.sort_key)
        if running and running[0].task.priority is DownloadPriority.HIGH:
            return self._take(running[0])
        if not run.queue.has_room:
            return self._take(running[0]) if running else None
        high = run.queue.first_high()
        if high is not None:
            return self._begin(run, high)
        small = sum(1 for t in run.transfers.values() if t.size <= SMALL_FILE)
        share = max(1, self._limit() // 4)
        waiting = run.queue.first_of_lanes(prefer_small=small < share)
        if waiting is not None and (small < share or not running) and (waiting.size or 0) <= SMALL_FILE:
            return self._begin(run, waiting)
        if running:
            return self._take(running[0])
        return self._begin(run, waiting) if waiting is not None else None

    def _take(self, transfer: Transfer) -> Part:
        limit = part_size(transfer.size, self._limit(transfer.source), self.settings)
        return transfer.take(limit, self._clock())

    def _begin(self, run: QueueRun, task: DownloadTask) -> Transfer | None:
        if not self._may_connect(source_of(task.source_url)):
            return None
        run.queue.start(task)
        request = run.requests[task.task_id]
        transfer = Transfer(task, request, self._transport_for(request), run.metrics)
        transfer.opening = True
        run.transfers[task.task_id] = transfer
        task.move_to(DownloadState.RUNNING)
        return transfer

    def _share_a_part(self) -> Part | None:
        """Near the end, take half of the part that would finish last, or race it."""
        parts = [
            p
            for run in self._runs
            if not run.queue.paused and not run.queue.cancelled
            for t in run.transfers.values()
            if t.mode == "ranged" and t.failure is None and self._may_connect(t.source)
            for p in t.parts
        ]
        now = self._clock()
        found = part_to_share(parts, now)
        if found is None:
            return None
        part, split = found
        return part.transfer.split(part, now) if split else part.transfer.race(part, now)

    def _may_connect(self, source: str) -> bool:
        return self._active.get(source, 0) < self._limit(source)

    def _limit(self, source: str | None = None) -> int:
        """Connections allowed to a source; of the busiest one if none is named."""
        if source is None:
            return max(
                (c.limit for c in self._controllers.values()), default=self.settings.initial_connections
            )
        return self._controller(source).limit

    def _controller(self, source: str) -> ConcurrencyController:
        controller = self._controllers.get(source)
        if controller is None:
            settings = self.settings
            bounds = (
                settings.max_concurrent_downloads, settings.connection_pool_size, settings.max_connections_per_host,
            )  # fmt: skip
            most = min(bound for bound in bounds if bound is not None)
            controller = ConcurrencyController(
                min(self.settings.initial_connections, most), most, clock=self._clock
            )
            self._controllers[source] = controller
        return controller

    def _make_room_for(self, run: QueueRun) -> None:
        """Have less urgent parts leave where a more urgent queue has nowhere to run."""
        lesser = [
            part
            for other in reversed(self._runs)
            if other.queue.priority > run.queue.priority
            for transfer in other.transfers.values()
            for part in transfer.parts
        ]
        if not lesser or self._paused or run.queue.paused or run.queue.cancelled:
            return
        threads = self.settings.max_concurrent_downloads - len(self._workers) + self._idle
        places = sum(max(0, self._limit(each) - self._active.get(each, 0)) for each in run.sources)
        wanted = self._parts_wanted(run) - min(threads, places) - sum(part.leave for part in lesser)
        now = self._clock()
        for part in lesser:
            if wanted > 0 and not part.leave and (part.transfer.source in run.sources or threads <= 0):
                part.ask_to_leave(now)
                wanted -= 1

    def _parts_wanted(self, run: QueueRun) -> int:
        """How many more connections a queue could use now."""
        queue = run.queue
        wanted = min(len(queue), max(0, queue.max_concurrent_files - len(queue.active)))
        for transfer in run.transfers.values():
            if transfer.has_work and transfer.mode == "ranged":
                size = part_size(transfer.size, self._limit(transfer.source), self.settings)
                wanted += -(-sum(len(span) for span in transfer.pending) // size)
            elif transfer.has_work:
                wanted += 1
        return wanted

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
        """Look what is in place, and claim the staged file. Raises what stands in the way."""
        request, task = transfer.request, transfer.task
        destination = request.destination
        if not request.fresh and destination.is_present():
            raise SupersededError
        if task.size is None:
            with self._probe(transfer) as probe:
                size = self._fetcher.learn_size(probe)
                if size is None:
                    self._fetch_unsized(run, transfer, probe)
                    return
                run.learn_size(task, size)
        key = (destination.staging_dir, destination.staging_key)
        transfer.staged = claim(
            destination.staging_dir,
            destination.staging_key,
            transfer.size,
            sequential=self.settings.write_mode == "sequential",
            resume=self.settings.enable_resume and not request.fresh,
            digest_known=task.digest is not None and self.settings.verify,
            orphans=run.orphans.pop(key, None),
        )
        self._watch_digest(transfer)

    def _fetch_unsized(self, run: QueueRun, transfer: Transfer, probe: Part) -> None:
        destination = transfer.request.destination
        staged = claim(
            destination.staging_dir, destination.staging_key, _UNKNOWN, sequential=True, resume=False
        )
        try:
            size = self._fetcher.fetch_unsized(probe, staged)
        except BaseException:
            staged.delete()
            raise
        staged.size = size
        run.learn_size(transfer.task, size)
        transfer.staged = staged
        self._watch_digest(transfer)

    def _watch_digest(self, transfer: Transfer) -> None:
        task = transfer.task
        if self.settings.verify and task.digest is not None:
            transfer.verifier = Verifier(task.digest, transfer.size)

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
                return [self._give_up(run, transfer, None), self._notify]
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
                return [self._done(run, transfer, transferred=False), self._notify]
            if error is not None:
                return [self._give_up(run, transfer, error), self._notify]
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
            part = self._take(transfer)
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
        source = transfer.source
        with self._lock:
            self._count(part, -1)
            rival = part.rival
            transfer.give_back(part)
            self._requests[source] = self._requests.get(source, 0) + 1
            if isinstance(error, ServerBusyError | RetriesExhaustedError):
                self._controller(source).backoff(self._clock(), type(error).__name__)
            stop: list[Part] = []
            if error is None and part.received:
                transfer.range_refusals = 0
            if isinstance(error, RangeRefusedError):
                if transfer.note_refused_range():
                    stop += transfer.parts
                error = error if transfer.refuses_for_good else None
            if isinstance(error, SourceChangedError) and self._can_start_anew(transfer):
                transfer.outdated = True
                stop += transfer.parts
                error = None
            if rival is not None and part.position >= part.stop:
                stop.append(rival)
            failed = error is not None and not isinstance(error, HaltedError)
            # A rival that works may still bring the bytes; one that has brought none shares the fault, and may not
            # make it last longer than one part's patience.
            if failed and (rival is None or not rival.received) and transfer.failure is None:
                transfer.failure = error
                stop += transfer.parts
            then = [each.halt.set for each in stop]
            if transfer.verifier is not None and transfer.parts:
                self._hash_soon(transfer)
            if self._at_rest(transfer):
                then += self._settle_file(run, transfer)
            self._wake_workers()
            return then

    def _settle_file(self, run: QueueRun, transfer: Transfer) -> list[Callable[[], None]]:
        """Decide what follows when no part of a file is in flight."""
        assert transfer.staged is not None
        if run.queue.cancelled:
            return [self._give_up(run, transfer, None), self._notify]
        if transfer.failure is not None:
            return [self._give_up(run, transfer, transfer.failure), self._notify]
        if transfer.outdated:
            transfer.opening = True  # nobody else touches it meanwhile
            return [lambda: self._start_anew(run, transfer)]
        transfer.refill()
        return [] if transfer.pending else self._start_finishing(run, transfer)

    @staticmethod
    def _can_start_anew(transfer: Transfer) -> bool:
        """Whether a changed source is taken as it is now: nobody said beforehand what it should be."""
        return transfer.task.digest is None and transfer.failure is None and transfer.changes <= _CHANGES

    def _start_anew(self, run: QueueRun, transfer: Transfer) -> None:
        """Drop the bytes of a version that its source no longer serves."""
        assert transfer.staged is not None
        transfer.staged.forget()
        with self._lock:
            transfer.outdated = transfer.opening = False
            then = self._settle_file(run, transfer)
            self._wake_workers()
        for action in then:
            action()

    def _start_finishing(self, run: QueueRun, transfer: Transfer) -> list[Callable[[], None]]:
        transfer.finishing = True
        transfer.task.move_to(DownloadState.VERIFYING)
        return [lambda: self._finish(run, transfer)]

    def _finish(self, run: QueueRun, transfer: Transfer) -> None:
        """Check the digest and publish."""
        staged, verifier = transfer.staged, transfer.verifier
        assert staged is not None
        error: BaseException | None = None
        mismatch = False
        try:
            if verifier is not None:
                verifier.catch_up(staged.frontier, staged.read_into, wait=True)
                mismatch = verifier.actual() != verifier.digest.value
            if not mismatch:
                transfer.request.destination.publish(staged.seal(durable=self.settings.durable))
        except Exception as caught:  # noqa: BLE001  whatever the disk says is the file's error
            error = caught
        if mismatch:
            assert verifier is not None
            error = self._mismatched(transfer, staged, verifier)
        with self._lock:
            transfer.finishing = False
            then = self._settle_finish(run, transfer, error, mismatch=mismatch)
        for action in then:
            action()

    def _mismatched(
        self, transfer: Transfer, staged: StagedFile, verifier: Verifier
    ) -> IntegrityError | None:
        """Prepare a second try in one ordered stream; after that, the error."""
        error = IntegrityError(
            transfer.task.file_path, verifier.digest.value, verifier.actual(), staged.resumed
        )
        transfer.mismatches += 1
        if transfer.mismatches > 1:
            staged.delete()
            return error
        logger.warning("%s; fetching it again in one stream", error)
        staged.forget()
        verifier.restart()
        return None

    def _settle_finish(
        self, run: QueueRun, transfer: Transfer, error: BaseException | None, *, mismatch: bool
    ) -> list[Callable[[], None]]:
        if mismatch and error is None:
            transfer.task.move_to(DownloadState.QUEUED)
            transfer.task.move_to(DownloadState.RUNNING)
            transfer.mode = "whole" if transfer.mode == "whole" else "ordered"
            transfer.refill()
            if run.queue.cancelled:
                return [self._give_up(run, transfer, None), self._notify]
            self._wake_workers()
            return []
        if isinstance(error, StagedLostError) and run.queue.cancelled:
            return [self._give_up(run, transfer, None), self._notify]
        if isinstance(error, StagedLostError) and run.losses.get(transfer.task.task_id, 0) < _LOSSES:
            # Somebody took us for dead and has the bytes; look there, or start anew.
            lost, transfer.staged = transfer.staged, None
            self._defer(run, transfer, 0.0)
            run.losses[transfer.task.task_id] = run.losses.get(transfer.task.task_id, 0) + 1
            return [lost.close] if lost is not None else []
        if error is not None:
            return [self._give_up(run, transfer, error), self._notify]
        return [self._done(run, transfer, transferred=True), self._notify]

    # ---- the end of a file: with the lock held, returning what is to be done without

    @staticmethod
    def _at_rest(transfer: Transfer) -> bool:
        return not transfer.parts and not transfer.opening and not transfer.finishing

    def _done(self, run: QueueRun, transfer: Transfer, *, transferred: bool) -> Callable[[], None]:
        transfer.task.move_to(DownloadState.DONE)
        run.succeed(transfer, transferred=transferred)
        over = self._finish_if_over(run)
        self._wake_workers()
        return lambda: self._tell_end(run, transfer, over=over)

    def _tell_end(self, run: QueueRun, transfer: Transfer, *, over: bool) -> None:
        task = transfer.task
        run.post(transfer)
        self._emit(f"file_{task.state.value}", run, task, error=str(task.error) if task.error else None)
        if over:  # only now is everything that was fetched safe for the next run
            self._end(run)

    def _end(self, run: QueueRun) -> None:
        """Say that a queue is over."""
        run.finish()
        self._emit("queue_done", run, failed=len(run.queue.failed))

    def _give_up(self, run: QueueRun, transfer: Transfer, error: BaseException | None) -> Callable[[], None]:
        """End a file without success; ``None`` means that it was cancelled."""
        state = DownloadState.CANCELLED if error is None else DownloadState.FAILED
        reason = error or DownloadCancelledError(f"{transfer.task.file_path}: cancelled")
        run.transfers.pop(transfer.task.task_id, None)
        run.fail(transfer.task, reason, state)
        over = self._finish_if_over(run)
        staged = transfer.staged
        if staged is not None and not isinstance(error, IntegrityError):  # what is wrong was deleted
            run.kept_bytes += staged.done

        def close() -> None:
            if staged is not None:
                staged.close()
            self._tell_end(run, transfer, over=over)

        return close

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

    def _notify(self) -> None:
        with self._lock:
            self._wake_workers()

    # ---- what workers report while they fetch

    def _note_bytes(self, part: Part, nbytes: int) -> None:
        part.meter.add(nbytes)
        transfer = part.transfer
        transfer.meter.add(nbytes)
        self._meter.add(nbytes)
        transfer.metrics.add_bytes(nbytes)

    def _note_retry(self, part: Part, error: BaseException) -> None:
        task = part.transfer.task
        task.retry_count += 1
        part.transfer.metrics.add_retry()
        self.events.emit("file_retried", task, error=str(error))
        with self._lock:
            self._controller(part.transfer.source).backoff(self._clock(), type(error).__name__)

    def _note_rest(self, part: Part) -> None:
        """While a part waits for its next attempt, its connection is for others: one bad file holds up nobody."""
        with self._lock:
            self._count(part, -1 if part.resting else 1)
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
        while True:
            with self._lock:
                if self._closing or (
                    not self._runs and not self._ticker_waits.wait_for(self._has_runs, _IDLE_SECONDS)
                ):
                    self._ticker = None
                    return
                self._ticker_waits.wait_for(lambda: self._closing, _TICK)
            self.tick()

    def _has_runs(self) -> bool:
        return bool(self._runs) or self._closing

    def tick(self) -> None:
        """One look at everything in flight; the ticker thread calls it ten times a second."""
        now = self._clock()
        with self._lock:
            runs = list(self._runs)
            parts = [part for run in runs for t in run.transfers.values() for part in t.parts]
            leaving = [p for p in parts if p.leave and now - p.leave_asked_at > _LEAVE_GRACE]
            hopeless = hopeless_parts(
                parts, self.settings.stall_timeout, now, limited=self.limiter.max_bps is not None
            )
            self._sample(now)
            again = [self._look_again(run, now) for run in runs]
            if runs and runs[0].queue.priority < runs[-1].queue.priority:
                for run in runs:
                    self._make_room_for(run)
            staged = [t.staged for run in runs for t in run.transfers.values() if t.staged is not None]
            if any(again) or parts:
                self._wake_workers()
        for part in leaving:
            part.halt.set()
        for part, why in hopeless:
            part.abandoned, part.started_at = why, now
            part.halt.wake()
        for each in staged:
            each.beat()
        for run in runs:
            run.post_progress()

    def _look_again(self, run: QueueRun, now: float) -> bool:
        """Put files that another process fetches back in line when it is time to look."""
        due = [task_id for task_id, at in run.deferred.items() if at <= now]
        for task_id in due:
            del run.deferred[task_id]
            run.queue.put_back(task_id)
        if due:
            self._wake_workers()
        return bool(due)

    def _sample(self, now: float) -> None:
        """Feed the adaptive limits: bytes, requests and the processor's load since the last look."""
        wall, cpu = now, time.process_time()
        passed = wall - self._cpu_mark[0]
        busy = (cpu - self._cpu_mark[1]) / passed / (os.cpu_count() or 1) if passed > 0 else None
        self._cpu_mark = (wall, cpu)
        grew = False
        for source, controller in self._controllers.items():
            before = controller.limit
            latency = self.history.first_byte_seconds(source)
            if latency is not None:
                controller.first_byte(latency)
            # A small file is a round trip more than it is bytes.
            goodput = self.history.bytes_total(source) + (self._requests.get(source, 0) << 16)
            controller.sample(now, goodput, self._active.get(source, 0), busy)
            grew = grew or controller.limit > before
        if grew:
            self._wake_workers()

    # ---- the hasher

    def _hash_soon(self, transfer: Transfer) -> None:
        """Have what came early hashed while the rest downloads; call with the lock held."""
        if not self._threads_allowed or transfer.size <= SMALL_FILE:
            return
        self._to_hash[transfer] = None
        if self._hasher is None:
            self._hasher = self._start(self._hash_forever, "hf-haul-hasher")
        else:
            self._hasher_waits.notify()

    def _hash_forever(self) -> None:
        while True:
            with self._lock:
                while not self._to_hash:
                    if self._closing or not self._hasher_waits.wait_for(
                        lambda: bool(self._to_hash) or self._closing, _IDLE_SECONDS
                    ):
                        self._hasher = None
                        return
                transfer, _ = self._to_hash.popitem(last=False)
                staged, verifier = transfer.staged, transfer.verifier
            if staged is not None and verifier is not None:
                with contextlib.suppress(
                    OSError
                ):  # the file was closed meanwhile; whoever resumes it hashes again
                    verifier.catch_up(staged.frontier, staged.read_into, wait=False)
