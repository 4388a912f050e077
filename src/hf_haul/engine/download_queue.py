"""The files of one model or data set, ordered by priority."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from hf_haul.engine.lanes import HIGH, LARGE, SMALL, Backlog, Lane, LaneKey, lane_key
from hf_haul.engine.planned_files import PlannedFiles, TaskList
from hf_haul.task import DownloadPriority, DownloadTask, new_id

__all__ = ["ModelDownloadQueue"]

_sequence = itertools.count()

#: Whether one of a file's sources, its origin first, may have another connection.
MayBegin = Callable[[tuple[str, ...]], bool]


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
        active: Files being fetched, by task id.
        completed: Files in place.
        failed: Files given up, in the order in which they failed.
        deferred: Files that wait for somebody outside, by task id.
        unnamed: How many files were given up without a task, because they were very many.
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
        self.active: dict[str, DownloadTask] = {}
        self.completed: TaskList = []
        self.failed: list[DownloadTask] = []
        self.deferred: dict[str, DownloadTask] = {}
        self.unnamed = 0
        self.cancelled = False
        self.paused = False
        self._age = next(_sequence)
        self._lanes: dict[LaneKey, Lane] = {}
        self._added: list[DownloadTask] = []
        self._planned: PlannedFiles | None = None
        self._given_up: list[Backlog] = []  # those that are unnamed
        for task in tasks:
            self.add(task)

    def __lt__(self, other: ModelDownloadQueue) -> bool:
        return (self.priority, self._age) < (other.priority, other._age)

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    @property
    def tasks(self) -> Sequence[DownloadTask]:
        """Every file, in the order of the plan."""
        return self._added if self._planned is None else self._planned.tasks

    @property
    def task_ids(self) -> Sequence[str]:
        """The id of every file, in the order of the plan."""
        if self._planned is not None:
            return self._planned.task_ids
        return [task.task_id for task in self._added]

    def add(self, task: DownloadTask) -> None:
        """Put a new file into its lane.

        Raises:
            RuntimeError: It has the files of a plan.
        """
        if self._planned is not None:
            raise RuntimeError(f"{self.queue_id} has the files of a plan")
        self._added.append(task)
        self._push(task)

    def add_planned(self, files: PlannedFiles) -> None:
        """Put the files of a plan into their lanes; a task is made when a file is about to be the first.

        Raises:
            RuntimeError: It has files already.
        """
        if self.tasks:
            raise RuntimeError(f"{self.queue_id} has files already")
        self._planned, self.completed = files, files.new_list()
        for key, backlog in files.backlogs():
            self._lanes.setdefault(key, Lane()).follow(backlog)

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
        return self._peek(HIGH, may_begin)

    def first_of_lanes(self, *, prefer_small: bool, may_begin: MayBegin = _anywhere) -> DownloadTask | None:
        """Return the file that goes first once no HIGH one is left; priority decides inside a lane only.

        Args:
            prefer_small: Whether the small lane is still below its share.
            may_begin: Whether a source may have another connection.
        """
        small, large = self._peek(SMALL, may_begin), self._peek(LARGE, may_begin)
        if small is None or large is None:
            return small or large
        return small if prefer_small else large

    def waiting_work(self, *, small: bool) -> dict[str, tuple[int, int]]:
        """Return how many files, and how many bytes, wait in a lane, by their origin."""
        wanted = SMALL if small else LARGE
        found: dict[str, tuple[int, int]] = {}
        for (its_lane, sources), lane in self._lanes.items():
            if its_lane == wanted and len(lane):
                files, nbytes = found.get(sources[0], (0, 0))
                found[sources[0]] = (files + len(lane), nbytes + lane.nbytes)
        return found

    def start(self, task: DownloadTask) -> None:
        """Make the first file of a lane active."""
        self._lanes[_key(task)].pop(task)
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
        elsewhere = len(self) + len(self.active) + len(self.deferred) + self.unnamed
        if elsewhere + len(self.completed) + len(self.failed) == len(self.tasks):
            return []
        found = {task.task_id for lane in self._lanes.values() for task in lane.tasks()}
        found.update(self.active, self.deferred)
        found.update(task.task_id for task in (*self.completed, *self.failed))
        ids = self.task_ids
        untasked = [*(lane.ranks() for lane in self._lanes.values()), *map(iter, self._given_up)]
        found.update(ids[rank] for ranks in untasked for rank in ranks)
        return [self.tasks[rank] for rank, task_id in enumerate(ids) if task_id not in found]

    def put_back_lost(self, task: DownloadTask) -> None:
        """Return a lost task to its place in its lane."""
        self._push(task)

    def drop_waiting(self, sources: tuple[str, ...] | None = None) -> list[DownloadTask]:
        """Take files out of the lanes, and out of what was deferred; return them.

        Of very many, the last have no task yet, and get none: ``unnamed`` counts them.

        Args:
            sources: Only those that come from here, and from nowhere else; ``None`` for all.
        """
        dropped: list[DownloadTask] = []
        for (_, its_sources), lane in self._lanes.items():
            if sources in {None, its_sources}:
                tasks, backlog = lane.clear()
                dropped += tasks
                if backlog is not None and self._planned is not None:
                    while backlog and len(dropped) < self._planned.most_named:
                        dropped.append(backlog.take())
                    self.unnamed += len(backlog)
                    self._given_up.append(backlog)
        for task in [task for task in self.deferred.values() if sources in {None, task.sources}]:
            dropped.append(self.deferred.pop(task.task_id))
        return dropped

    def _peek(self, lane: str, may_begin: MayBegin) -> DownloadTask | None:
        firsts = [
            waiting.first()
            for (its_lane, sources), waiting in self._lanes.items()
            if its_lane == lane and len(waiting) and may_begin(sources)
        ]
        return min((first for first in firsts if first is not None), default=None)

    def _push(self, task: DownloadTask) -> None:
        self._lanes.setdefault(_key(task), Lane()).push(task)


def _key(task: DownloadTask) -> LaneKey:
    return lane_key(task.priority, task.size, task.sources)
