"""Files that wait in a queue, those of one kind and source in a lane of their own."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from hf_haul.metrics import SMALL_FILE
from hf_haul.task import DownloadPriority, DownloadTask

__all__ = ["HIGH", "LARGE", "SMALL", "Backlog", "Lane", "LaneKey", "lane_key"]

HIGH: Final = "high"
SMALL: Final = "small"
LARGE: Final = "large"

#: The name of a lane, and where its files may come from, their origin first.
LaneKey = tuple[str, tuple[str, ...]]


def lane_key(priority: DownloadPriority, size: int | None, sources: tuple[str, ...]) -> LaneKey:
    """Return the lane of a file."""
    if priority is DownloadPriority.HIGH:
        return HIGH, sources
    return (SMALL if size is not None and size <= SMALL_FILE else LARGE), sources


class Backlog:
    """Files of a lane that have no task yet, in their order.

    Args:
        ranks: Their places in the order of the plan.
        nbytes: Bytes of them, as far as known.
        task: Makes the task of a file.

    Attributes:
        at: How many were taken out, and the bytes of those that are left, as far as known.
    """

    def __init__(self, ranks: Sequence[int], nbytes: int, task: Callable[[int], DownloadTask]) -> None:
        self.at = 0, nbytes
        self._ranks = ranks
        self._task = task

    @property
    def nbytes(self) -> int:
        """Bytes of those that are left, as far as known."""
        return self.at[1]

    def __len__(self) -> int:
        return len(self._ranks) - self.at[0]

    def __iter__(self) -> Iterator[int]:
        """Yield the ranks of those that are left."""
        return iter(self._ranks[self.at[0] :])

    def peek(self) -> tuple[DownloadTask, tuple[int, int]]:
        """Make the task of the first; return it with what ``at`` is once that is taken out."""
        number, nbytes = self.at
        task = self._task(self._ranks[number])
        return task, (number + 1, nbytes - (task.size or 0))

    def take(self) -> DownloadTask:
        """Make the task of the first, and take it out."""
        task, self.at = self.peek()
        return task


class Lane:
    """The files of one kind and source that wait; the first of them has a task, if any is there.

    Of what has no task yet, one file at a time gets one: all others come after it.
    """

    def __init__(self) -> None:
        self._heap: list[DownloadTask] = []
        self._backlog: Backlog | None = None
        self._front: DownloadTask | None = None  # of the backlog, in the heap
        self._nbytes = 0  # of the files in the heap

    def __len__(self) -> int:
        return len(self._heap) + (0 if self._backlog is None else len(self._backlog))

    @property
    def nbytes(self) -> int:
        """Bytes of its files, as far as known."""
        return self._nbytes + (0 if self._backlog is None else self._backlog.nbytes)

    def follow(self, backlog: Backlog) -> None:
        """Take files from a backlog, too.

        Raises:
            RuntimeError: There is one already.
        """
        if self._backlog is not None:
            raise RuntimeError("a lane has one backlog")
        self._backlog = backlog

    def push(self, task: DownloadTask) -> None:
        """Put a file into its place."""
        nbytes = self._nbytes + (task.size or 0)
        heapq.heappush(self._heap, task)
        self._nbytes = nbytes

    def first(self) -> DownloadTask | None:
        """Return the file that goes first; ``None`` if there is none."""
        if self._backlog and self._front is None:
            task, rest = self._backlog.peek()
            nbytes = self._nbytes + (task.size or 0)
            # Without memory this fails, as all before it; what follows needs none. It calls no function of
            # ours: after an error on the way back from one, the file would be here, and come again.
            heapq.heappush(self._heap, task)
            self._nbytes, self._front, self._backlog.at = nbytes, task, rest
        return self._heap[0] if self._heap else None

    def pop(self, task: DownloadTask) -> None:
        """Take the first file out.

        Raises:
            RuntimeError: It is another one.
        """
        if self.first() is not task:
            raise RuntimeError(f"{task.file_path} is not the first of its lane")
        heapq.heappop(self._heap)
        self._nbytes -= task.size or 0
        if task is self._front:
            self._front = None

    def clear(self) -> tuple[list[DownloadTask], Backlog | None]:
        """Take out all; return the files that have a task, and those that have none."""
        tasks, backlog = self._heap, self._backlog
        self._heap, self._backlog, self._front, self._nbytes = [], None, None, 0
        return tasks, backlog

    def tasks(self) -> list[DownloadTask]:
        """Return the files that have a task."""
        return list(self._heap)

    def ranks(self) -> Iterator[int]:
        """Yield the ranks of those that have none."""
        return iter(()) if self._backlog is None else iter(self._backlog)
