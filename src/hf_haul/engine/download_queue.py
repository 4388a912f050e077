"""The files of one model or data set, ordered by priority."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from hf_haul.metrics import SMALL_FILE
from hf_haul.task import DownloadPriority, DownloadTask, new_id

__all__ = ["ModelDownloadQueue"]

_sequence = itertools.count()

_HIGH: Final = "high"
_SMALL: Final = "small"
_LARGE: Final = "large"

#: Whether one of a file's sources, its origin first, may have another connection.
MayBegin = Callable[[tuple[str, ...]], bool]
#: The name of a lane, and where its files may come from, their origin first.
_Lane = tuple[str, tuple[str, ...]]


def _anywhere(_sources: tuple[str, ...]) -> bool:
    return True


class ModelDownloadQueue:
    """What is to be fetched for one model, what is being fetched, and what became of the rest.

    Files wait in two lanes, small and large: where both have work of the same urgency, each gets its share,
    so that a thousand small files do not hold up the weights, nor the reverse. HIGH files have no lane; they
    go before everything. Each lane keeps the files of one source apart from those of another, so that a
    source that may have no more connections holds up only its own. A file that may come from several waits
    until any of them has one.

    Queues order each other: by priority, then by age. The class has no lock; its owner guards it.

    Attributes:
        queue_id: Unique id.
        model_id: What the files belong to; a label.
        priority: Urgency of the whole queue against others.
        max_concurrent_files: Files in ``active`` at the most.
        tasks: Every file, in the order of the plan.
        active: Files being fetched, by task id.
        completed: Files in place.
        failed: Files given up, in the order in which they failed.
        deferred: Files that wait for somebody outside, by task id.
        cancelled: Whether the queue was cancelled.
        paused: Whether no new part may be taken from it.
    """

    def __init__(
        self,
        model_id: str,
        priority: DownloadPriority = DownloadPriority.NORMAL,
        tasks: Iterable[DownloadTask] = (),
        *,
        max_concurrent_files: int = 32,
    ) -> None:
        self.queue_id = new_id("queue")
        self.model_id = model_id
        self.priority = priority
        self.max_concurrent_files = max_concurrent_files
        self.tasks: list[DownloadTask] = []
        self.active: dict[str, DownloadTask] = {}
        self.completed: list[DownloadTask] = []
        self.failed: list[DownloadTask] = []
        self.deferred: dict[str, DownloadTask] = {}
        self.cancelled = False
        self.paused = False
        self._age = next(_sequence)
        self._waiting: dict[_Lane, list[DownloadTask]] = {}  # heaps, by lane and sources
        self._bytes: Counter[_Lane] = Counter()  # of the files in each heap
        for task in tasks:
            self.add(task)

    def __lt__(self, other: ModelDownloadQueue) -> bool:
        return (self.priority, self._age) < (other.priority, other._age)

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._waiting.values())

    def add(self, task: DownloadTask) -> None:
        """Put a new file into its lane."""
        self.tasks.append(task)
        self._push(task)

    def defer(self, task: DownloadTask) -> None:
        """Set an active file aside until :meth:`put_back`; others may become active meanwhile."""
        self.deferred[task.task_id] = self.active.pop(task.task_id)

    def put_back(self, task_id: str) -> None:
        """Return a deferred file to its place in its lane."""
        self._push(self.deferred.pop(task_id))

    @property
    def has_room(self) -> bool:
        """Whether another file may become active."""
        return len(self.active) < self.max_concurrent_files

    @property
    def finished(self) -> bool:
        """Whether every file is in place or given up."""
        return not self.active and not self.deferred and not len(self)

    def first_high(self, may_begin: MayBegin = _anywhere) -> DownloadTask | None:
        """Return the HIGH file that goes first, if any is waiting.

        Args:
            may_begin: Whether a source may have another connection.
        """
        return self._peek(_HIGH, may_begin)

    def first_of_lanes(self, *, prefer_small: bool, may_begin: MayBegin = _anywhere) -> DownloadTask | None:
        """Return the file that goes first once no HIGH one is left; priority decides inside a lane only.

        Args:
            prefer_small: Whether the small lane is still below its share.
            may_begin: Whether a source may have another connection.
        """
        small, large = self._peek(_SMALL, may_begin), self._peek(_LARGE, may_begin)
        if small is None or large is None:
            return small or large
        return small if prefer_small else large

    def waiting_work(self, *, small: bool) -> dict[str, tuple[int, int]]:
        """Return how many files, and how many bytes, wait in a lane, by their origin."""
        wanted = _SMALL if small else _LARGE
        found: dict[str, tuple[int, int]] = {}
        for (its_lane, sources), lane in self._waiting.items():
            if its_lane == wanted and lane:
                files, nbytes = found.get(sources[0], (0, 0))
                found[sources[0]] = (files + len(lane), nbytes + self._bytes[its_lane, sources])
        return found

    def start(self, task: DownloadTask) -> None:
        """Make the first file of a lane active."""
        key = self._lane(task)
        lane = self._waiting[key]
        if lane[0] is not task:
            raise RuntimeError(f"{task.file_path} is not the first of its lane")
        heapq.heappop(lane)
        self._bytes[key] -= task.size or 0
        self.active[task.task_id] = task

    def settle(self, task: DownloadTask, *, ok: bool, again: bool = False) -> None:
        """File an active task under completed or failed.

        Args:
            task: The task.
            ok: Under which.
            again: Whether it may be there already.
        """
        settled = self.completed if ok else self.failed
        if not again or task not in settled:
            settled.append(task)
        self.active.pop(task.task_id, None)

    def lost(self) -> list[DownloadTask]:
        """Return unfinished tasks that an error dropped from every list."""
        elsewhere = len(self) + len(self.active) + len(self.deferred)
        if elsewhere + len(self.completed) + len(self.failed) == len(self.tasks):
            return []
        found = {task.task_id for lane in self._waiting.values() for task in lane}
        found.update(self.active, self.deferred)
        found.update(task.task_id for task in (*self.completed, *self.failed))
        return [task for task in self.tasks if task.task_id not in found]

    def put_back_lost(self, task: DownloadTask) -> None:
        """Return a lost task to its place in its lane."""
        self._push(task)

    def drop_waiting(self, which: Callable[[DownloadTask], bool] = lambda _task: True) -> list[DownloadTask]:
        """Take files out of the lanes, and out of what was deferred; return them."""
        dropped = []
        for key, lane in self._waiting.items():
            dropped += [task for task in lane if which(task)]
            lane[:] = [task for task in lane if not which(task)]
            heapq.heapify(lane)
            self._bytes[key] = sum(task.size or 0 for task in lane)
        for task in [task for task in self.deferred.values() if which(task)]:
            dropped.append(self.deferred.pop(task.task_id))
        return dropped

    def _peek(self, lane: str, may_begin: MayBegin) -> DownloadTask | None:
        firsts = [
            waiting[0]
            for (its_lane, sources), waiting in self._waiting.items()
            if its_lane == lane and waiting and may_begin(sources)
        ]
        return min(firsts, default=None)

    def _push(self, task: DownloadTask) -> None:
        key = self._lane(task)
        heapq.heappush(self._waiting.setdefault(key, []), task)
        self._bytes[key] += task.size or 0

    @staticmethod
    def _lane(task: DownloadTask) -> _Lane:
        if task.priority is DownloadPriority.HIGH:
            return _HIGH, task.sources
        return (_SMALL if task.size is not None and task.size <= SMALL_FILE else _LARGE), task.sources
