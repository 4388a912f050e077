"""What is to be done for a set of files, decided from their listing; pure."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hf_haul.config import MiB, Settings
from hf_haul.engine.assignment import AssignedRequest
from hf_haul.engine.priority import PriorityPolicy
from hf_haul.ranges import ByteRange
from hf_haul.task import Destination, DownloadTask, FileRequest, OtherSource

__all__ = ["MAX_PART", "Plan", "PlannedFile", "count_parts", "make_plan", "next_part", "part_size"]

_MIN_PART: Final = 8 * MiB
#: Largest part of a file, unless its source takes long to answer. Bytes.
MAX_PART: Final = 64 * MiB


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file with its place in the order."""

    request: FileRequest
    task: DownloadTask


@dataclass(frozen=True, slots=True)
class Plan:
    """The files of a queue, in the order they will be fetched.

    Attributes:
        files: First to last.
    """

    files: tuple[PlannedFile, ...]


class _PlannedTask(DownloadTask):
    """A task that makes its path when it is asked for: a path takes most of a KiB, and a million may wait."""

    __slots__ = ("_goes_to",)

    @property
    def local_path(self) -> Path:
        return self._goes_to if isinstance(self._goes_to, Path) else self._goes_to.path

    @local_path.setter
    def local_path(self, goes_to: Path | Destination) -> None:
        self._goes_to = goes_to


def make_plan(
    requests: Sequence[FileRequest],
    *,
    model_id: str,
    policy: PriorityPolicy,
    settings: Settings,
    created_at: Callable[[], float],
) -> Plan:
    """Order the files of one queue.

    Raises:
        ValueError: A path is given twice, or a size is negative; the message names it.
    """
    seen: set[object] = set()
    planned: list[PlannedFile] = []
    now = created_at()
    sources: tuple[OtherSource, ...] = ()
    names: tuple[str, ...] = ()
    for request in requests:
        remote = request.remote
        target = os.path.normcase(request.destination)  # a text: a Path takes four times the memory
        if target in seen:
            raise ValueError(
                f"{remote.path!r} is given twice: two files cannot go to {request.destination.path}"
            )
        seen.add(target)
        if remote.size is not None and remote.size < 0:
            raise ValueError(f"{remote.path!r}: size must be 0 or more, not {remote.size}")
        if remote.sources is not sources:  # mostly the same of all files
            sources, names = remote.sources, tuple(each.name for each in remote.sources)
        priority, order = policy(remote.path, remote.size)
        task = _PlannedTask(
            model_id=model_id,
            file_path=remote.path,
            source_url=remote.url,
            local_path=request.destination,  # type: ignore[arg-type]  # it makes the path of that
            size=remote.size,
            priority=request.priority or priority,
            # A given priority may meet keys of another class of files, which need not compare with ours.
            order=_order(request, order if request.priority in {None, priority} else None),
            digest=remote.digest,
            max_retries=settings.max_retries,
            created_at=now,
            other_sources=names if settings.verify and remote.is_checkable else (),
        )
        planned.append(PlannedFile(request, task))
    planned.sort(key=lambda each: each.task.sort_key)
    return Plan(tuple(planned))


def _order(request: FileRequest, order: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """Return a file's place among those of its priority: ``order``, unless the request or nobody says it."""
    if isinstance(request, AssignedRequest) and request.order is not None:
        return request.order
    return (request.remote.size or 0, request.remote.path) if order is None else order


def part_size(size: int, connections: int, settings: Settings, most: float = MAX_PART) -> int:
    """Return the bytes of one part of a file.

    Few long requests cost less than many short ones, but a part is also what priorities wait for, and what a
    file is shared out by: about four parts per connection, between 8 and 64 MiB.

    Args:
        size: Bytes of the file.
        connections: How many may fetch it at once.
        settings: A size that was set wins.
        most: Bytes that one connection brings in the time a part should take.
    """
    if settings.part_size is not None:
        return settings.part_size
    wanted = min(size // (4 * max(1, connections)), int(most))
    return max(_MIN_PART, min(MAX_PART, wanted // MiB * MiB))


def next_part(pending: list[ByteRange], limit: int) -> ByteRange:
    """Take the first ``limit`` bytes off the first of the ranges that are still to be fetched.

    A rest too short to be worth a request of its own is taken along.
    """
    first = pending[0]
    if len(first) <= limit + limit // 4:
        return pending.pop(0)
    pending[0] = ByteRange(first.start + limit, first.stop)
    return ByteRange(first.start, first.start + limit)


def count_parts(missing: Sequence[ByteRange], limit: int) -> int:
    """Return how many parts some ranges come to.

    Args:
        missing: What is to be fetched, in order.
        limit: Bytes of one part; see :func:`part_size`.
    """
    pending, parts = list(missing), 0
    while pending:
        next_part(pending, limit)
        parts += 1
    return parts
