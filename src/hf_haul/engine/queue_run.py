"""A queue while it runs, and its results afterwards."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hf_haul.config import DEFAULT_TIMINGS, Timings
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.events import Notifier
from hf_haul.engine.planned_files import PlannedFiles
from hf_haul.engine.queue_events import QueueEvents
from hf_haul.engine.quiet import QuietWatch
from hf_haul.engine.results import QueueStatus
from hf_haul.engine.transfer import Transfer
from hf_haul.metrics import DownloadMetrics
from hf_haul.storage.ownership import OwnerWatch
from hf_haul.task import DownloadProgress, DownloadState, DownloadTask, FileRequest
from hf_haul.waits import WaitReason, Waits

__all__ = ["QueueOutcome", "QueueRun"]


class _Done(threading.Event):
    """Set when a queue is over. Who waits for it may also be woken to see after the queue."""

    def nudge(self) -> None:
        """Wake every thread that waits, although the queue is not over."""
        with self._cond:  # type: ignore[attr-defined]  # threading's, not in the stubs
            self._cond.notify_all()  # type: ignore[attr-defined]  # the same


class QueueOutcome:
    """What a handle holds of its queue: the queue itself while it runs, and afterwards what became of it.

    Attributes:
        queue_id: Id of the queue.
        done: Set when it is over.
        run: The queue, until it is over.
        status: How it ended, once it is over.
        errors: Failed files and why, once it is over.
        task_ids: Ids of its files, once it is over.
        notifier: Who may still have to tell of it.
        events: The same.
    """

    def __init__(
        self, run: QueueRun, done: _Done, notifier: Notifier | None, events: QueueEvents | None
    ) -> None:
        self.queue_id = run.queue.queue_id
        self.done = done
        self.run: QueueRun | None = run
        self.status: QueueStatus | None = None
        self.errors: list[tuple[str, BaseException]] = []
        self.task_ids: Sequence[str] = []
        self.notifier = notifier
        self.events = events

    def settle(self, status: QueueStatus) -> None:
        """Keep the results of the queue, and drop the queue itself. Calling it again does nothing."""
        run = self.run
        if run is not None:
            self.errors = [(task.file_path, error) for task, error in run.errors]
            self.task_ids = run.queue.task_ids
            self.status = status
            self.run = None

    def flush(self, timeout: float = math.inf) -> None:
        """Wait, at most ``timeout`` seconds and never long, until every message was delivered."""
        deadline = time.monotonic() + timeout
        if self.events is not None:
            self.events.flush(timeout)
            timeout = deadline - time.monotonic()
        if self.notifier is not None and self.notifier.flush(timeout) and self.status is not None:
            self.notifier = None


class QueueRun:
    """The running state of one queue. The scheduler's lock guards it; ``done`` is for everybody.

    Attributes:
        queue: Order and outcome of its files.
        planned: Its files, as they were planned.
        transfers: Files being fetched, by task id.
        orphans: Staged files of dead processes, by folder and key.
        deferred: When to look again at a file that another process fetches, by task id.
        losses: How often a file's staged file was taken by another process, by task id.
        waits: What its files wait for.
        watch: What those processes do.
        quiet: Says what it waits for while nothing moves.
        reserved_bytes: Bytes of its files, as known when it was submitted.
        is_assigned: Whether somebody says which parts of its files are next.
        sources: Where its files come from, or may come from: ``scheme://host:port`` as written in URLs.
        metrics: Measured so far.
        resumed_bytes: Bytes that earlier sessions left.
        unknown_sizes: How many of its files have no size yet.
        placed_bytes: Bytes of files that are in place.
        kept_bytes: Bytes on disk of files that were given up or cancelled, for a later run.
        wasted_bytes: Bytes that came, and were thrown away, of files that are settled.
        present_files: Files that were in place without our doing.
        unnamed_failed: How many files failed without a task, because they were very many.
        errors: Failed files, first failure first; without those.
        unflushed: Files that it put in place, and whose bytes the disk need not have yet; where that matters.
        untold: What is still to be told, or closed, before it may end.
        over: Whether every file is settled; ``done`` is set a moment later, when all files are closed.
        done: Set when the queue is over.
        outcome: What its handles hold.
        events: Who is told what happens, if anybody listens.
    """

    def __init__(
        self,
        queue: ModelDownloadQueue,
        planned: PlannedFiles,
        notifier: Notifier | None,
        events: QueueEvents | None = None,
        *,
        clock: Callable[[], float],
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        self.queue = queue
        self.planned = planned
        self.transfers: dict[str, Transfer] = {}
        self.orphans: dict[tuple[Path, str], list[Path]] = {}
        self.deferred: dict[str, float] = {}
        self.losses: dict[str, int] = {}
        self.waits = Waits(clock=clock) if events is None else events.waits
        self.watch = OwnerWatch(clock, timings)
        self.quiet = QuietWatch(timings.worth_a_word)
        self.reserved_bytes = planned.nbytes
        self.is_assigned = planned.is_assigned
        self.sources = planned.sources
        self.metrics = DownloadMetrics(len(planned), planned.nbytes, clock=clock)
        self.unknown_sizes = planned.unknown_sizes
        self.resumed_bytes = 0
        self.placed_bytes = 0
        self.kept_bytes = 0
        self.wasted_bytes = 0
        self.present_files = 0
        self.unnamed_failed = 0
        self.errors: list[tuple[DownloadTask, BaseException]] = []
        self.unflushed = planned.new_list()
        self.untold: set[object] = set()
        self.over = False
        self.done = _Done()
        self._notifier = notifier
        self.events = events
        self.outcome = QueueOutcome(self, self.done, notifier, events)
        # Bytes move between files in flight and files settled in one step.
        self._count_lock = threading.Lock()
        self._post_lock = threading.Lock()  # orders messages: none about a file follows its last
        self._posted: dict[str, tuple[int, DownloadState]] = {}

    def __lt__(self, other: QueueRun) -> bool:
        return self.queue < other.queue

    def succeed(self, transfer: Transfer, *, transferred: bool) -> None:
        """Count a file that is in place, only once even if it is called again after an interrupt."""
        task = transfer.task
        again = task.state.final
        if not again:
            task.move_to(DownloadState.DONE)
        self.queue.settle(task, ok=True, again=again)
        wasted = transfer.wasted()
        with self._count_lock:
            if self.transfers.pop(task.task_id, None) is not None:
                self.placed_bytes += task.size or 0
                self.wasted_bytes += wasted
        self.present_files += not transferred
        self.metrics.add_file(ok=True)

    def fail(self, task: DownloadTask, error: BaseException, state: DownloadState) -> None:
        """Count a file that failed, only once even if it is called again after an interrupt."""
        again = task.state.final
        if not again:
            task.move_to(state)
        if task.error is None:
            task.error = error
        if not again or all(each is not task for each, _ in self.errors):
            self.errors.append((task, task.error))
        self.queue.settle(task, ok=False, again=again)
        self.metrics.add_file(ok=False)

    def fail_unnamed(self, count: int, state: DownloadState) -> None:
        """Count files that were given up without a task."""
        self.unnamed_failed += count if state is DownloadState.FAILED else 0
        self.metrics.add_file(ok=False, count=count)

    def fail_published(self, task: DownloadTask, error: BaseException) -> None:
        """Count a file as failed that was in place."""
        if task in self.queue.completed:
            self.queue.completed.remove(task)
            self.queue.failed.append(task)
            task.error = error
            self.errors.append((task, error))

    def drop(self, transfer: Transfer, kept: int) -> None:
        """Count a file that is not fetched any further, and the bytes of it that stay for a later run."""
        wasted = transfer.wasted(kept=kept > 0)
        with self._count_lock:
            if self.transfers.pop(transfer.task.task_id, None) is not None:
                self.wasted_bytes += wasted
            self.kept_bytes += kept

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, as far as known."""
        return self.metrics.bytes_total

    def learn_size(self, task: DownloadTask, size: int) -> None:
        """Note the size of a file that nobody knew before."""
        self.unknown_sizes -= task.size is None
        task.size = size
        self.metrics.add_expected(size)

    def unsettled(self) -> list[FileRequest]:
        """Return the files that are neither in place nor given up, with sizes learned since."""
        settled = {task.task_id for task in (*self.queue.completed, *self.queue.failed)}
        return [
            _with_size(self.planned.request_of(task), task.size)
            for task in self.queue.tasks
            if task.task_id not in settled
        ]

    def bytes_done(self) -> int:
        """Return the bytes on disk, plus those of failed or cancelled files."""
        with self._count_lock:  # a file that ends meanwhile counts once, as one in flight
            settled = self.placed_bytes + self.kept_bytes
            staged = [transfer.staged for transfer in list(self.transfers.values())]
        return settled + sum(each.done for each in staged if each is not None)

    def bytes_wasted(self) -> int:
        """Return the bytes that came over the network and were thrown away, so far."""
        with self._count_lock:  # a file that ends meanwhile counts once
            settled, transfers = self.wasted_bytes, list(self.transfers.values())
        return settled + sum(each.wasted() for each in transfers)

    def state(self, *, paused: bool) -> DownloadState:
        """Return the state of the whole queue.

        Args:
            paused: Whether all queues are.
        """
        queue = self.queue
        if self.done.is_set() or self.metrics.is_finished:
            if not queue.failed and not queue.unnamed:  # a cancel may come too late to stop anything
                return DownloadState.DONE
            return DownloadState.CANCELLED if queue.cancelled else DownloadState.FAILED
        if queue.paused or paused:
            return DownloadState.PAUSED
        return DownloadState.RUNNING if queue.active or queue.completed else DownloadState.QUEUED

    def status(self, *, paused: bool = False) -> QueueStatus:
        """Return how far it has come, in plain values.

        Args:
            paused: Whether all queues are.
        """
        queue, metrics = self.queue, self.metrics
        total, done = self.total_bytes, self.bytes_done()
        return QueueStatus(
            queue_id=queue.queue_id,
            model_id=queue.model_id,
            state=self.state(paused=paused),
            priority=queue.priority.name,
            files_total=len(queue.tasks),
            files_done=len(queue.completed),
            files_failed=len(queue.failed) + queue.unnamed,
            files_active=len(queue.active),
            files_present=self.present_files,
            bytes_total=total,
            bytes_done=done,
            bytes_transferred=metrics.bytes_downloaded,
            bytes_resumed=self.resumed_bytes,
            bytes_wasted=self.bytes_wasted(),
            bytes_by_source=metrics.bytes_by_source,
            duration=metrics.duration(),
            speed_bps=metrics.speed_bps,
            average_speed_bps=metrics.average_speed_bps,
            peak_speed_bps=metrics.peak_speed_bps,
            completion_rate=100.0 * done / total if total else metrics.completion_rate(),
            connections=metrics.connections,
            peak_connections=metrics.peak_connections,
            retries=metrics.retries,
            seconds_limited=metrics.seconds_limited,
            waiting_for=self.waits.first(WaitReason.ANOTHER_PROCESS),
            failures=tuple(
                (task.file_path, f"{type(error).__name__}: {error}") for task, error in list(self.errors)
            ),
        )

    def finish(self) -> QueueStatus:
        """Stop the clock; return how the queue ended."""
        self.metrics.finish()
        return self.status()

    @property
    def tells(self) -> bool:
        """Whether anybody is told of each file."""
        return self._notifier is not None or self.events is not None

    def post(self, transfer: Transfer) -> None:
        """Tell the user how one file ended."""
        if self._notifier is None:
            return
        with self._post_lock:
            self._posted.pop(transfer.task.task_id, None)
            self._notifier.post(self.progress_of(transfer))

    def post_task(self, task: DownloadTask) -> None:
        """Tell the user about a file that never began."""
        if self._notifier is not None:
            self._notifier.post(
                DownloadProgress(
                    task.task_id, task.model_id, task.file_path, 0, task.size, 0.0, None, task.state
                )
            )

    def post_progress(self, *, paused: bool = False) -> None:
        """Tell the user about the files that moved since the last call, and listeners how far all of it is.

        Args:
            paused: Whether all queues are.
        """
        if self.events is not None and self.events.is_due():
            self.events.progress(
                self.status(paused=paused),
                [self.progress_of(transfer) for transfer in list(self.transfers.values())],
                sizes_known=not self.unknown_sizes,
            )
        if self._notifier is None:
            return
        for transfer in list(self.transfers.values()):
            with self._post_lock:
                progress = self.progress_of(transfer)
                news = (progress.bytes_downloaded, progress.status)
                # Whoever ends a file tells so himself, after it has its final state.
                if not progress.status.final and self._posted.get(progress.task_id) != news:
                    self._posted[progress.task_id] = news
                    self._notifier.post(progress)

    def flush(self, timeout: float = math.inf) -> None:
        """Wait, at most ``timeout`` seconds and never long, until every message was delivered."""
        if self._notifier is not None:
            self._notifier.flush(timeout)

    def tell_here(self) -> None:
        """Deliver waiting messages on this thread, where there is no other for it."""
        if self._notifier is not None:
            self._notifier.tell_here()

    @staticmethod
    def progress_of(transfer: Transfer) -> DownloadProgress:
        """Return how far one file has come."""
        task, state = transfer.task, transfer.task.state
        if state is DownloadState.DONE:
            done = task.size or 0
        elif transfer.staged is not None:
            done = transfer.staged.done
        else:  # a file of unknown size, in one stream
            done = sum(part.received for part in list(transfer.parts))
        speed = 0.0 if state.final else transfer.meter.speed()
        left = None if task.size is None or not speed else (task.size - done) / speed
        return DownloadProgress(
            task_id=task.task_id,
            model_id=task.model_id,
            file_path=task.file_path,
            bytes_downloaded=done,
            total_bytes=task.size,
            speed_bps=speed,
            eta_seconds=0.0 if state is DownloadState.DONE else left,
            status=state,
        )


def _with_size(request: FileRequest, size: int | None) -> FileRequest:
    remote = request.remote
    return request if remote.size == size else replace(request, remote=replace(remote, size=size))
