"""What a running queue tells its event stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hf_haul.digests import Digest
from hf_haul.engine.event_stream import EventStream, harmless
from hf_haul.engine.results import QueueStatus
from hf_haul.task import DownloadProgress, DownloadState, DownloadTask

__all__ = ["QueueEvents"]


class QueueEvents:
    """Reads the numbers of one queue, and tells them. Called without any lock.

    Args:
        stream: Where to tell.
        whole: Whether the stream ends with the queue, and not with the call that the queue is a part of.
        summed: Whether the call has several queues, and tells the numbers of all of them itself.

    Attributes:
        waits: What is waited for.
    """

    def __init__(self, stream: EventStream, *, whole: bool, summed: bool = False) -> None:
        self._stream = stream
        self.waits = stream.waits
        self._whole = whole
        self._summed = summed
        self._started: set[str] = set()  # each file is opened by one thread at a time

    @harmless
    def started(self, task: DownloadTask) -> None:
        """Tell that a file is opened, the first time."""
        if task.task_id not in self._started:
            self._started.add(task.task_id)
            self._stream.file("started", task.file_path, task.size)

    @harmless
    def verified(self, task: DownloadTask, digest: Digest) -> None:
        """Tell that a file's digest was right."""
        self._stream.verified(task.file_path, task.size or 0, digest)

    @harmless
    def ended(self, task: DownloadTask, bytes_by_source: Mapping[str, int] | None = None) -> None:
        """Tell how a file ended, and how many bytes came from where."""
        reason: BaseException | str | None = task.error
        if task.state is DownloadState.DONE and task.task_id not in self._started:
            reason = "it is in place already"
        self._started.discard(task.task_id)
        self._stream.file(task.state.value, task.file_path, task.size, reason, bytes_by_source or {})

    def note_cancelled(self, count: int) -> None:
        """Count files that were cancelled and are not told of one by one."""
        self._stream.note_cancelled(count)

    def is_due(self) -> bool:
        """Return whether it is time to call :meth:`progress`: once a second."""
        return not self._summed and self._stream.is_due()

    @harmless
    def progress(self, status: QueueStatus, active: Iterable[DownloadProgress], *, sizes_known: bool) -> None:
        """Tell how far the queue is.

        Args:
            status: Its numbers.
            active: Its files in progress.
            sizes_known: Whether the size of each of its files is known.
        """
        files = [(each.file_path, each.bytes_downloaded, each.total_bytes) for each in active]
        self._stream.progress(status, files, sizes_known=sizes_known)

    @harmless
    def end(self, status: QueueStatus, errors: Sequence[tuple[DownloadTask, BaseException]]) -> None:
        """Tell what the queue came to."""
        if not self._summed:
            self._stream.note_end(status)
        if not self._whole:
            return
        if errors:
            task, error = errors[0]
            self._stream.error(error, task.file_path)
        else:
            self._stream.done()

    def flush(self, timeout: float) -> None:
        """Wait, at most ``timeout`` seconds and never long, until all was delivered; a call waits itself."""
        if self._whole:
            self._stream.flush(timeout)
