"""Files whose parts somebody else chooses: what is fetched next of them, and from where.

Where several programs share the work of one repository, no single one can say which part is best fetched
next. Then each file comes with an :class:`Assigner`, which is asked instead. All else stays as it is: what is
on disk already, the watchdog, attempts, digests, the file's place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hf_haul.engine.file_batch import FileBatch, FileOutline
from hf_haul.ranges import ByteRange
from hf_haul.task import (
    Destination,  # noqa: F401  the inherited signature names it
    DownloadPriority,  # noqa: F401  the inherited signature names it
    FileRequest,
    OtherSource,
    RemoteFile,  # noqa: F401  the inherited signature names it
)

__all__ = [
    "AssignedBatch",
    "AssignedRequest",
    "Assigner",
    "Assigners",
    "Assignment",
    "AssignmentEnd",
    "assigned",
]


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A range of a file that is to be fetched next.

    Attributes:
        span: The range.
        source: Whom to ask for it; ``None`` for the file's origin.
        hedges: The assignment under way whose bytes are to be requested a second time, if so.
    """

    span: ByteRange
    source: OtherSource | None = None
    hedges: Assignment | None = None


@dataclass(frozen=True, slots=True)
class AssignmentEnd:
    """What came of an assignment that nobody is at any more.

    Attributes:
        left: What of it is still to be fetched, and by nobody now.
        brought: Whether all of it came.
        error: Why it did not; ``None`` also where something more urgent came first, or somebody else was
            quicker.
        seconds: How long it took.
    """

    left: Sequence[ByteRange]
    brought: bool
    error: BaseException | None
    seconds: float


class Assigner(Protocol):
    """Says what is fetched next of one file.

    Methods are called with the scheduler's lock held, so they wait for nothing, and call nobody who might
    take that lock. Whoever has something new to assign calls the manager's ``nudge``.
    """

    @property
    def piece_bytes(self) -> int:
        """Bytes that are assigned at a time, where the file is divided."""

    def start(self, missing: Sequence[ByteRange]) -> None:
        """Note what is missing of the file, in order, while nothing of it is being fetched."""

    def next(self, *, origin: bool, idle: bool) -> Assignment | None:
        """Return what to fetch next; ``None`` if there is nothing now. It is not begun thereby.

        Args:
            origin: Whether the origin may have another connection.
            idle: Whether there is nothing else to do, so that what others are to fetch, or what is under way
                already, may be requested as well.
        """

    def begin(self, assignment: Assignment) -> None:
        """Note that somebody begins to fetch what :meth:`next` has just returned."""

    def can_spare(self, assignment: Assignment, error: BaseException) -> bool:
        """Return whether the file goes on although an assignment failed, as it may come from elsewhere."""

    def end(self, assignment: Assignment, how: AssignmentEnd) -> None:
        """Note that nobody is at an assignment any more, and what came of it."""

    def blame(self, wrong: Sequence[tuple[ByteRange, str]]) -> set[str]:
        """Return the sources that are to blame for wrong bytes, by name.

        Args:
            wrong: Which bytes turned out to be wrong, and the name of the source that each came from. That
                one may have had them from somebody else.
        """

    def settle(self, *, ok: bool) -> None:
        """Note that the file is in place, or given up."""

    def waits_for(self) -> str:
        """Say what the file waits for while nothing is assigned."""


class Assigners(Protocol):
    """Has an assigner for each file of some queue. One object is that of a million files, perhaps."""

    def assigner_of(self, request: FileRequest) -> Assigner | None:
        """Return the assigner of a file whose download begins; ``None`` if the engine is to choose."""

    def order_of(self, request: FileRequest) -> tuple[Any, ...]:
        """Return a file's place among those of its priority."""


@dataclass(frozen=True, slots=True)
class AssignedRequest(FileRequest):
    """A wanted file whose parts are assigned.

    Attributes:
        assigners: Has the file's assigner.
    """

    assigners: Assigners = field(kw_only=True, compare=False, repr=False)


class AssignedBatch(FileBatch):
    """Many files whose parts are assigned.

    Args:
        batch: The files.
        assigners: Has their assigners.
    """

    def __init__(self, batch: FileBatch, assigners: Assigners) -> None:
        self._batch = batch
        self._assigners = assigners

    def __len__(self) -> int:
        return len(self._batch)

    @property
    def origin(self) -> str:
        """See :class:`FileBatch`."""
        return self._batch.origin

    @property
    def other_sources(self) -> tuple[OtherSource, ...]:
        """See :class:`FileBatch`."""
        return self._batch.other_sources

    def outlines(self) -> Iterator[FileOutline]:
        """See :class:`FileBatch`."""
        return self._batch.outlines()

    def staging_dirs(self) -> Collection[Path]:
        """See :class:`FileBatch`."""
        return self._batch.staging_dirs()

    def request(self, number: int) -> FileRequest:
        """See :class:`FileBatch`."""
        return assigned(self._batch.request(number), self._assigners)

    def order(self, number: int) -> tuple[Any, ...]:
        """Return a file's place among those of its priority."""
        return self._assigners.order_of(self._batch.request(number))


def assigned(request: FileRequest, assigners: Assigners) -> AssignedRequest:
    """Return a request whose parts are assigned."""
    return AssignedRequest(
        request.remote, request.destination, request.priority, request.fresh, assigners=assigners
    )
