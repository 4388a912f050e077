"""Slices of many files, read together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hf_haul.filesystem.target import Target
from hf_haul.reading.batches import RangeRequest
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.reader import Reads

__all__ = ["Slice", "read_slices"]

#: A file, and the start and end of a slice of it.
Slice = tuple[str, int | None, int | None]


def read_slices(
    slices: Sequence[Slice],
    *,
    reads: Reads,
    source_of: Callable[[str], tuple[Target, RangeSource] | None],
    read_file: Callable[[str, int | None, int | None], bytes],
    max_gap: int | None,
    fail_fast: bool,
) -> list[bytes | Exception]:
    """Read slices of files, those of several repositories at once.

    Args:
        slices: What to read.
        reads: Where to read it through.
        source_of: Finds a file; asked once for each. ``None`` if it is in no repository.
        read_file: Reads a slice of a file that is in no repository.
        max_gap: Bytes between two slices of a file that are rather fetched than asked around.
        fail_fast: Whether to raise the first error instead of returning each in the place of its slice.
    """
    results: list[bytes | Exception] = [b""] * len(slices)
    wanted: list[RangeRequest] = []
    owners: list[tuple[int, Target]] = []
    sources: dict[str, Any] = {}
    for index, (path, start, end) in enumerate(slices):
        if path not in sources:
            sources[path] = _attempt(source_of, path)
        found = sources[path]
        if found is None:
            found = _attempt(read_file, path, start, end)
        if isinstance(found, tuple):
            target, source = found
            a, b, _ = slice(start, end).indices(source.size)
            wanted.append(RangeRequest(source, a, max(a, b)))
            owners.append((index, target))
        elif fail_fast and isinstance(found, Exception):
            raise found
        else:
            results[index] = found
    done = reads.read_many(wanted, max_gap=max_gap, fail_fast=False)
    for (index, target), result in zip(owners, done, strict=True):
        results[index] = target.explain(result) if isinstance(result, Exception) else result
    if fail_fast:
        for outcome in results:
            if isinstance(outcome, Exception):
                raise outcome
    return results


def _attempt(work: Callable[..., Any], *args: Any) -> Any:
    """Return what ``work`` returns, or the exception it raises."""
    try:
        return work(*args)
    except Exception as error:  # noqa: BLE001  handed to the caller
        return error
