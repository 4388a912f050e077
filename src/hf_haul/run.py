"""A queue while it runs, and its results afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from hf_haul.download_queue import ModelDownloadQueue
from hf_haul.events import Notifier
from hf_haul.metrics import DownloadMetrics
from hf_haul.plan import PlannedFile
from hf_haul.task import DownloadProgress, DownloadState, DownloadTask, FileRequest
from hf_haul.transfer import Transfer

__all__ = ["QueueRun"]


class QueueRun:
    """The running state of one queue. The scheduler's lock guards it; ``done`` is for everybody.

    Attributes:
        queue: Order and outcome of its files.
        requests: What was asked for, by task id.
        transfers: Files being fetched, by task id.
        orphans: Staged files of dead processes, by folder and key.
        deferred: When to look again at a file that another process fetches, by task id.
        losses: How often a file's staged file was taken by another process, by task id.
        waiting_for: What such a file waits for, by task id.
        metrics: Measured so far.
        resumed_bytes: Bytes that earlier sessions left.
        placed_bytes: Bytes of files that are in place.
        present_files: Files that were in place without our doing.
        errors: Failed files, first failure first.
        over: Whether every file is settled; ``done`` is set a moment later, when all files are closed.
        done: Set when the queue is over.
    """

    def __init__(
        self,
        queue: ModelDownloadQueue,
        planned: Sequence[PlannedFile],
        notifier: Notifier | None,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.queue = queue
        self.requests: dict[str, FileRequest] = {each.task.task_id: each.request for each in planned}
        self.transfers: dict[str, Transfer] = {}
        self.orphans: dict[tuple[Path, str], list[Path]] = {}
        self.deferred: dict[str, float] = {}
        self.losses: dict[str, int] = {}
        self.waiting_for: dict[str, str] = {}
        self.metrics = DownloadMetrics(
            len(planned), sum(each.task.size or 0 for each in planned), clock=clock
        )
        self.resumed_bytes = 0
        self.placed_bytes = 0
        self.present_files = 0
        self.errors: list[tuple[DownloadTask, BaseException]] = []
        self.over = False
        self.done = threading.Event()
        self._notifier = notifier
        self._posted: dict[str, int] = {}

    def __lt__(self, other: QueueRun) -> bool:
        return self.queue < other.queue

    def succeed(self, transfer: Transfer, *, transferred: bool) -> None:
        """Count a file that is in place."""
        task = transfer.task
        self.transfers.pop(task.task_id, None)
        self.queue.settle(task, ok=True)
        self.placed_bytes += task.size or 0
        self.present_files += not transferred
        self.metrics.add_file(ok=True)

    def fail(self, task: DownloadTask, error: BaseException, state: DownloadState) -> None:
        """Count a file that will not come."""
        task.move_to(state)
        task.error = error
        self.queue.settle(task, ok=False)
        self.errors.append((task, error))
        self.metrics.add_file(ok=False)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, as far as known."""
        return self.metrics.bytes_total

    def bytes_done(self) -> int:
        """Bytes on disk, of files in place and in flight."""
        return self.placed_bytes + sum(
            t.staged.done for t in list(self.transfers.values()) if t.staged is not None
        )

    def finish(self) -> None:
        """Say that the queue is over. Call once, without the scheduler's lock where possible."""
        self.metrics.finish()
        self.done.set()

    def post(self, transfer: Transfer) -> None:
        """Tell the user about one file now."""
        if self._notifier is None:
            return
        self._notifier.post(self.progress_of(transfer))

    def post_task(self, task: DownloadTask) -> None:
        """Tell the user about a file that never began."""
        if self._notifier is not None:
            self._notifier.post(
                DownloadProgress(
                    task.task_id, task.model_id, task.file_path, 0, task.size, 0.0, None, task.state
                )
            )

    def post_progress(self) -> None:
        """Tell the user about the files that moved since the last call."""
        if self._notifier is None:
            return
        for transfer in list(self.transfers.values()):
            progress = self.progress_of(transfer)
            if self._posted.get(progress.task_id) != progress.bytes_downloaded:
                self._posted[progress.task_id] = progress.bytes_downloaded
                self._notifier.post(progress)

    def flush(self) -> None:
        """Wait, for a bounded time, until the user was told everything."""
        if self._notifier is not None:
            self._notifier.flush()

    @staticmethod
    def progress_of(transfer: Transfer) -> DownloadProgress:
        """How far one file has come."""
        task = transfer.task
        if task.state is DownloadState.DONE:
            done = task.size or 0
        else:
            done = transfer.staged.done if transfer.staged is not None else 0
        speed = 0.0 if task.state.final else transfer.meter.speed()
        left = None if task.size is None or not speed else (task.size - done) / speed
        return DownloadProgress(
            task_id=task.task_id,
            model_id=task.model_id,
            file_path=task.file_path,
            bytes_downloaded=done,
            total_bytes=task.size,
            speed_bps=speed,
            eta_seconds=0.0 if task.state is DownloadState.DONE else left,
            status=task.state,
        )
