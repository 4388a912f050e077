"""What is to be done for a set of files, decided from their listing; pure."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from hf_haul.config import MiB, Settings
from hf_haul.engine.assignment import AssignedBatch
from hf_haul.engine.file_batch import FileBatch
from hf_haul.engine.lanes import LaneKey, lane_key
from hf_haul.engine.planned_files import PlannedFile, PlannedFiles, given_order, rank_file
from hf_haul.engine.priority import PriorityPolicy
from hf_haul.metrics import SMALL_FILE
from hf_haul.ranges import ByteRange
from hf_haul.task import DownloadPriority, FileRequest, OtherSource
from hf_haul.urls import source_of

__all__ = ["MAX_PART", "Plan", "PlannedFile", "count_parts", "make_plan", "next_part", "part_size"]

_MIN_PART: Final = 8 * MiB
#: Largest part of a file, unless its source takes long to answer. Bytes.
MAX_PART: Final = 64 * MiB
#: Stands for a size that nobody knows yet.
_UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """The files of a queue, in the order they will be fetched.

    Attributes:
        files: First to last.
    """

    files: PlannedFiles


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
    waiting = (
        _of_batch(requests, settings) if isinstance(requests, FileBatch) else _of_list(requests, settings)
    )
    orders: list[tuple[Any, ...]] = []
    by_priority: dict[DownloadPriority, list[int]] = {each: [] for each in DownloadPriority}
    sizes, sources = array("q"), []
    for number, (path, size, given, its_order, its_sources) in enumerate(waiting):
        priority, order = rank_file(policy, path, size, given, its_order)
        orders.append(order)
        by_priority[priority].append(number)
        sizes.append(_UNKNOWN if size is None else size)
        sources.append(its_sources)
    ordered = array("I")
    lanes: dict[LaneKey, tuple[array[int], int]] = {}
    for priority, numbers in by_priority.items():  # the most urgent first
        numbers.sort(key=orders.__getitem__)  # the older first among equals
        _add_to_lanes(lanes, priority, numbers, sizes, sources, len(ordered))
        ordered.extend(numbers)
        numbers.clear()
    return Plan(
        PlannedFiles(
            requests,
            ordered,
            lanes,
            unknown_sizes=sizes.count(_UNKNOWN),
            model_id=model_id,
            policy=policy,
            settings=settings,
            created_at=created_at(),
        )
    )


def _add_to_lanes(
    lanes: dict[LaneKey, tuple[array[int], int]],
    priority: DownloadPriority,
    numbers: Sequence[int],
    sizes: Sequence[int],
    sources: Sequence[tuple[str, ...]],
    first: int,
) -> None:
    """Put files of one priority into their lanes.

    Args:
        lanes: Ranks and bytes of the files of each.
        priority: Of these files.
        numbers: The files, in their order.
        sizes: The bytes of all files.
        sources: Where all files may come from, their origin first.
        first: The rank of the first.
    """
    there: dict[tuple[bool, tuple[str, ...]], LaneKey] = {}
    for rank, number in enumerate(numbers, first):
        size, its_sources = sizes[number], sources[number]
        kind = 0 <= size <= SMALL_FILE, its_sources
        key = there.get(kind)
        if key is None:
            key = there[kind] = lane_key(priority, None if size == _UNKNOWN else size, its_sources)
        ranks, nbytes = lanes.get(key) or (array("I"), 0)
        ranks.append(rank)
        lanes[key] = ranks, nbytes + max(size, 0)


#: What the order of a file depends on: its path, its bytes, priority and order where its request says them,
#: and where it may come from, its origin first.
_Waiting: TypeAlias = tuple[str, int | None, DownloadPriority | None, tuple[Any, ...] | None, tuple[str, ...]]


def _of_list(requests: Sequence[FileRequest], settings: Settings) -> Iterator[_Waiting]:
    seen: set[object] = set()
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    others: tuple[OtherSource, ...] = ()
    names: tuple[str, ...] = ()
    for request in requests:
        remote = request.remote
        # A Path for what is one place in two spellings, and a text as that takes four times the memory.
        target = os.path.normcase(Path(request.destination))
        if target in seen:
            raise ValueError(
                f"{remote.path!r} is given twice: two files cannot go to {request.destination.path}"
            )
        seen.add(target)
        if remote.size is not None and remote.size < 0:
            raise ValueError(f"{remote.path!r}: size must be 0 or more, not {remote.size}")
        if remote.sources is not others:  # mostly the same of all files
            others, names = remote.sources, tuple(each.name for each in remote.sources)
        more = names if settings.verify and remote.is_checkable else ()
        sources = source_of(remote.url), *more
        yield (
            remote.path,
            remote.size,
            request.priority,
            given_order(request),
            shared.setdefault(sources, sources),
        )


def _of_batch(batch: FileBatch, settings: Settings) -> Iterator[_Waiting]:
    alone = (batch.origin,)
    together = (*alone, *(each.name for each in batch.other_sources)) if settings.verify else alone
    order_of = batch.order if isinstance(batch, AssignedBatch) else None
    for number, (path, size, is_checkable) in enumerate(batch.outlines()):
        order = None if order_of is None else order_of(number)
        yield path, size, None, order, together if is_checkable else alone


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
