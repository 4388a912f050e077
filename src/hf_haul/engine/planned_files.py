"""The files of a plan in their order; of very many, a task is made when a file's turn comes near."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from array import array
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, overload
from weakref import WeakValueDictionary

from hf_haul.config import Settings
from hf_haul.engine.assignment import AssignedBatch, AssignedRequest
from hf_haul.engine.file_batch import FileBatch
from hf_haul.engine.lanes import Backlog, LaneKey
from hf_haul.engine.priority import PriorityPolicy
from hf_haul.task import (
    Destination,
    DownloadPriority,
    DownloadState,
    DownloadTask,
    FileRequest,
    RemoteFile,
    next_number,
)

__all__ = [
    "LONG",
    "NAMED",
    "PlannedFile",
    "PlannedFiles",
    "PlannedTask",
    "TaskIds",
    "TaskList",
    "given_order",
    "rank_file",
]

#: Files of a plan beyond which a task is kept only while the file is in progress, or because it failed.
LONG: Final = 10_000
#: Files of a longer plan that get a task although they are given up before they began.
NAMED: Final = 1000
_IDS: Final = 1 << 64

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file with its place in the order."""

    request: FileRequest
    task: DownloadTask


class PlannedTask(DownloadTask):
    """A task that makes its path when it is asked for: a path takes most of a KiB.

    Attributes:
        rank: Its place in the order.
        request: What was asked for.
    """

    __slots__ = ("__weakref__", "_goes_to", "rank", "request")

    rank: int
    request: FileRequest

    @property
    def local_path(self) -> Path:
        """Where the file goes."""
        return self._goes_to if isinstance(self._goes_to, Path) else self._goes_to.path

    @local_path.setter
    def local_path(self, goes_to: Path | Destination) -> None:
        self._goes_to = goes_to


class TaskList(Protocol):
    """Tasks in the order in which they were appended."""

    def append(self, task: DownloadTask, /) -> None:
        """Append a task."""

    def remove(self, task: DownloadTask, /) -> None:
        """Take a task out again."""

    def __contains__(self, task: object, /) -> bool:
        """Return whether a task is in it."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __iter__(self) -> Iterator[DownloadTask]:
        """Yield them."""

    @overload
    def __getitem__(self, index: int, /) -> DownloadTask: ...

    @overload
    def __getitem__(self, index: slice, /) -> Sequence[DownloadTask]: ...


class _View(Sequence[T_co]):
    """Something of each file of a plan, in its order; made when it is asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    @abstractmethod
    def _of(self, rank: int) -> T_co:
        """Make what there is of one file."""

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T_co: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...

    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        ranks = range(self._count)[index]
        return self._of(ranks) if isinstance(ranks, int) else [self._of(rank) for rank in ranks]


class TaskIds(_View[str]):
    """Ids of the files of a plan: numbers in a row that begin anywhere, so that none need be kept."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._first = secrets.randbits(64)

    def _of(self, rank: int) -> str:
        return f"task-{(self._first + rank) % _IDS:016x}"

    def rank(self, task_id: str) -> int:
        """Return the place in the order of an id.

        Raises:
            KeyError: It is none of these.
        """
        try:
            rank = (int(task_id.removeprefix("task-"), 16) - self._first) % _IDS
        except ValueError:
            rank = self._count
        if rank >= self._count:
            raise KeyError(task_id)
        return rank


class PlannedFiles(_View[PlannedFile]):
    """The files of one plan, first to last.

    Up to :data:`LONG` of them, a task is made once and kept. Of more, one that nobody holds is forgotten, and
    made anew for whoever asks; it is done then, or has not begun.

    Args:
        requests: What is asked for.
        order: Numbers of the requests, first to last.
        lanes: Ranks of the files, and their bytes as far as known, by the lane that they wait in.
        model_id: What they belong to.
        policy: Says the priority of each.
        settings: Retries, and whether other sources may be asked.
        created_at: When they were asked for, in seconds since the epoch.

    Attributes:
        order: See above.
        nbytes: Bytes of all, as far as known.
        unknown_sizes: How many have no size yet.
        sources: Where they come from, or may come from.
        task_ids: The ids of their tasks.
    """

    def __init__(
        self,
        requests: Sequence[FileRequest],
        order: Sequence[int],
        lanes: Mapping[LaneKey, tuple[Sequence[int], int]],
        *,
        unknown_sizes: int,
        model_id: str,
        policy: PriorityPolicy,
        settings: Settings,
        created_at: float,
    ) -> None:
        super().__init__(len(order))
        self.order = order
        self.nbytes = sum(nbytes for _, nbytes in lanes.values())
        self.unknown_sizes = unknown_sizes
        self.sources = frozenset(name for _, sources in lanes for name in sources)
        self.task_ids = TaskIds(len(order))
        self._requests = requests
        self._lanes = lanes
        self._model_id = model_id
        self._policy = policy
        self._settings = settings
        self._created_at = created_at
        self._first_number = next_number()
        self._made: MutableMapping[int, PlannedTask] = {} if len(order) <= LONG else WeakValueDictionary()
        self._sizes: dict[int, int | None] = {}  # that were learned
        self._done = bytearray(len(order) if len(order) > LONG else 0)

    @property
    def tasks(self) -> Sequence[DownloadTask]:
        """Their tasks."""
        return _Tasks(self)  # it would hold itself, and all of these, if it were kept

    @property
    def is_assigned(self) -> bool:
        """Whether somebody says which parts of some of them are next."""
        if isinstance(self._requests, FileBatch):
            return isinstance(self._requests, AssignedBatch)
        return any(isinstance(request, AssignedRequest) for request in self._requests)

    @property
    def is_long(self) -> bool:
        """Whether its tasks are forgotten when nobody holds them."""
        return self._count > LONG

    def backlogs(self) -> Iterator[tuple[LaneKey, Backlog]]:
        """Yield what waits at the beginning, by lane."""
        for key, (ranks, nbytes) in self._lanes.items():
            yield key, Backlog(ranks, nbytes, self.task)

    def staging_dirs(self) -> Collection[Path]:
        """Return the folders in which they are staged."""
        if isinstance(self._requests, FileBatch):
            return self._requests.staging_dirs()
        return {request.destination.staging_dir for request in self._requests}

    def request_of(self, task: DownloadTask) -> FileRequest:
        """Return what was asked for.

        Raises:
            KeyError: The task is of another plan.
        """
        if isinstance(task, PlannedTask):
            return task.request
        return self._requests[self.order[self.task_ids.rank(task.task_id)]]

    def task(self, rank: int) -> PlannedTask:
        """Return the task of a file."""
        known = self._made.get(rank)
        return self._made.setdefault(rank, self._make(rank)) if known is None else known

    @property
    def most_named(self) -> int:
        """How many of its files get a task although they are given up before they began."""
        return NAMED if self.is_long else len(self)

    def new_list(self) -> TaskList:
        """Return an empty list of tasks of these files, which keeps none of them if they are very many."""
        return _Ranks(self) if self.is_long else []

    def note_done(self, task: PlannedTask) -> None:
        """Note that a file is done, for whoever asks for its task when that is forgotten."""
        self._done[task.rank] = True
        if task.size != task.request.remote.size:
            self._sizes[task.rank] = task.size

    def note_not_done(self, task: PlannedTask) -> None:
        """Take :meth:`note_done` back."""
        self._done[task.rank] = False

    def _of(self, rank: int) -> PlannedFile:
        task = self.task(rank)
        return PlannedFile(task.request, task)

    def _make(self, rank: int) -> PlannedTask:
        request = self._requests[self.order[rank]]
        remote, settings = request.remote, self._settings
        priority, order = rank_file(
            self._policy, remote.path, remote.size, request.priority, given_order(request)
        )
        task = PlannedTask(
            model_id=self._model_id,
            file_path=remote.path,
            source_url=remote.url,
            local_path=request.destination,  # type: ignore[arg-type]  # it makes the path of that
            size=self._sizes.get(rank, remote.size),
            priority=priority,
            order=order,
            digest=remote.digest,
            task_id=self.task_ids[rank],
            max_retries=settings.max_retries,
            created_at=self._created_at,
            sequence=self._first_number + rank,
            other_sources=other_names(remote, verify=settings.verify),
        )
        task.rank, task.request = rank, request
        if self._done and self._done[rank]:
            task.state = DownloadState.DONE
        return task


class _Tasks(_View[DownloadTask]):
    """The tasks of the files of a plan."""

    def __init__(self, files: PlannedFiles) -> None:
        super().__init__(len(files))
        self._files = files

    def _of(self, rank: int) -> DownloadTask:
        return self._files.task(rank)


def rank_file(
    policy: PriorityPolicy,
    path: str,
    size: int | None,
    given: DownloadPriority | None,
    given_order: tuple[Any, ...] | None,
) -> tuple[DownloadPriority, tuple[Any, ...]]:
    """Return the priority of a file, and its place among those of the same, unless its request says them."""
    priority, order = policy(path, size)
    if given not in {None, priority}:
        # A given priority may meet keys of another class of files, which need not compare with ours.
        order = size or 0, path
    return given or priority, order if given_order is None else given_order


def given_order(request: FileRequest) -> tuple[Any, ...] | None:
    """Return a file's place among those of its priority, if its request says it."""
    return request.assigners.order_of(request) if isinstance(request, AssignedRequest) else None


def other_names(remote: RemoteFile, *, verify: bool) -> tuple[str, ...]:
    """Return where the bytes of a file may come from beside its origin."""
    return tuple(each.name for each in remote.sources) if verify and remote.is_checkable else ()


class _Ranks(Sequence[DownloadTask]):
    """Tasks of very many files that are done, by their places in the order."""

    def __init__(self, files: PlannedFiles) -> None:
        self._files = files
        self._ranks = array("I")

    def append(self, task: DownloadTask) -> None:
        """Append a task."""
        assert isinstance(task, PlannedTask)
        self._files.note_done(task)
        self._ranks.append(task.rank)

    def remove(self, task: DownloadTask) -> None:
        """Take a task out again."""
        assert isinstance(task, PlannedTask)
        self._ranks.remove(task.rank)
        self._files.note_not_done(task)

    def __contains__(self, task: object) -> bool:
        return isinstance(task, PlannedTask) and task.rank in self._ranks

    def __len__(self) -> int:
        return len(self._ranks)

    @overload
    def __getitem__(self, index: int) -> DownloadTask: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[DownloadTask]: ...

    def __getitem__(self, index: int | slice) -> DownloadTask | Sequence[DownloadTask]:
        if isinstance(index, slice):
            return [self._files.task(rank) for rank in self._ranks[index]]
        return self._files.task(self._ranks[index])
