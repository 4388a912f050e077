"""What a queue comes to, in plain values, and what is kept of queues that are over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hf_haul.task import DownloadState

__all__ = ["QueueStatus", "Results"]

#: Results kept that nobody has asked for, and those kept of queues whose result was told.
_MOST_UNTOLD: Final = 10_000
_MOST_TOLD: Final = 100
#: Failed files, each with its error, that take as much room as another result.
_FAILURES_PER_RESULT: Final = 10


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """How far a queue is, or was at its end.

    Attributes:
        queue_id: Its id.
        model_id: What its files belong to.
        state: Its state.
        priority: Name of its priority.
        files_total: Files of the queue.
        files_done: Files in place.
        files_failed: Files given up or cancelled.
        files_active: Files being fetched.
        files_present: Files in place that were there without our doing.
        bytes_total: Bytes of all files whose size is known.
        bytes_done: Bytes on disk, those of earlier sessions included.
        bytes_transferred: Bytes that came over the network, repeated ones included.
        bytes_resumed: Bytes that earlier sessions left.
        bytes_wasted: Bytes that came over the network and were thrown away.
        bytes_by_source: Bytes that came over the network, by source (``scheme://host[:port]``).
        duration: Seconds.
        speed_bps: Smoothed speed in bytes per second.
        average_speed_bps: Bytes per second over the whole duration.
        peak_speed_bps: Bytes per second in the best second.
        completion_rate: Percent of the bytes that are on disk.
        connections: Connections in use.
        peak_connections: The most that were in use at once.
        retries: Attempts beyond the first.
        seconds_limited: Seconds that connections waited for the bandwidth limit, added up over them.
        waiting_for: Another process that is waited for, if one is.
        failures: Failed files and why, the first failure first.
    """

    queue_id: str
    model_id: str
    state: DownloadState
    priority: str
    files_total: int
    files_done: int
    files_failed: int
    files_active: int
    files_present: int
    bytes_total: int
    bytes_done: int
    bytes_transferred: int
    bytes_resumed: int
    bytes_wasted: int
    duration: float
    speed_bps: float
    average_speed_bps: float
    peak_speed_bps: float
    completion_rate: float
    connections: int
    peak_connections: int
    retries: int
    seconds_limited: float
    waiting_for: str | None
    failures: tuple[tuple[str, str], ...]
    bytes_by_source: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the values of :meth:`hf_haul.manager.ParallelDownloadManager.get_model_queue_status`."""
        return {
            "queue_id": self.queue_id,
            "model_id": self.model_id,
            "state": self.state.value,
            "priority": self.priority,
            "total_tasks": self.files_total,
            "completed_tasks": self.files_done,
            "failed_tasks": self.files_failed,
            "active_tasks": self.files_active,
            "total_bytes": self.bytes_total,
            "bytes_done": self.bytes_done,
            "bytes_downloaded": self.bytes_transferred,
            "bytes_resumed": self.bytes_resumed,
            "bytes_wasted": self.bytes_wasted,
            "bytes_by_source": dict(self.bytes_by_source),
            "duration_seconds": self.duration,
            "speed_bps": self.speed_bps,
            "average_speed_bps": self.average_speed_bps,
            "peak_speed_bps": self.peak_speed_bps,
            "completion_rate": self.completion_rate,
            "connections": self.connections,
            "concurrent_downloads": self.peak_connections,
            "retry_count": self.retries,
            "bandwidth_limited_time": self.seconds_limited,
            "waiting_for": self.waiting_for,
            "failed_files": [{"file_path": path, "error": error} for path, error in self.failures],
        }


class Results:
    """Results of queues that are over: of those that nobody has asked for many, of the others the last.

    It has no lock; its owner guards it.
    """

    def __init__(self) -> None:
        self._untold: OrderedDict[str, QueueStatus] = OrderedDict()
        self._told: OrderedDict[str, QueueStatus] = OrderedDict()
        self._queue_of: dict[str, str] = {}  # by the id of its only task
        self._task_of: dict[str, str] = {}
        self._weight = 0  # of what is untold

    def __len__(self) -> int:
        return len(self._untold) + len(self._told)

    def add(self, result: QueueStatus, task_id: str | None = None) -> None:
        """Keep a result.

        Args:
            result: The result.
            task_id: A second name for it: the id of the queue's only task.
        """
        self._untold[result.queue_id] = result
        self._weight += _weight(result)
        if task_id is not None:
            self._queue_of[task_id] = result.queue_id
            self._task_of[result.queue_id] = task_id
        while self._weight > _MOST_UNTOLD and len(self._untold) > 1:
            self.forget(next(iter(self._untold)))

    def find(self, an_id: str) -> QueueStatus | None:
        """Return the result of a queue, or of the queue with this task.

        The result is ``None`` if it is unknown or forgotten.
        """
        queue_id = self._queue_of.get(an_id, an_id)
        return self._untold.get(queue_id) or self._told.get(queue_id)

    def note_told(self, queue_id: str) -> None:
        """Note that somebody was told a result: it may now be dropped before those that nobody has seen."""
        result = self._untold.pop(queue_id, None)
        if result is None:
            return
        self._weight -= _weight(result)
        self._told[queue_id] = result
        while len(self._told) > _MOST_TOLD:
            self.forget(next(iter(self._told)))

    def forget(self, queue_id: str) -> None:
        """Drop a result."""
        result = self._untold.pop(queue_id, None)
        if result is not None:
            self._weight -= _weight(result)
        self._told.pop(queue_id, None)
        task_id = self._task_of.pop(queue_id, None)
        if task_id is not None:
            self._queue_of.pop(task_id, None)


def _weight(result: QueueStatus) -> int:
    return 1 + len(result.failures) // _FAILURES_PER_RESULT
