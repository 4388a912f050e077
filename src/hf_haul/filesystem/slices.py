"""Slices of many files, read together."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from hf_haul.filesystem.target import Target
from hf_haul.reading.batches import RangeRequest
from hf_haul.reading.extents import Extents
from hf_haul.reading.range_source import RangeSource

__all__ = ["Slice", "as_slices", "bound", "is_sequence", "read_slices"]

#: A file, and the start and end of a slice of it.
Slice = tuple[str, int | None, int | None]


def is_sequence(value: Any) -> bool:
    """Return whether a value holds several: a list, a tuple, an array, a column of a table; not a text."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__"):
        return False
    try:
        len(value)
    except TypeError:  # a mere number in numpy's clothes
        return False
    return not isinstance(value, dict)


def bound(value: Any, what: str, number: int) -> int | None:
    """Return the start or the end of a slice.

    Args:
        value: A whole number of any kind, or ``None``.
        what: ``start`` or ``end``, for messages.
        number: Which slice, for messages.

    Raises:
        TypeError: It is neither.
    """
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise TypeError(
            f"the {what} of slice {number} must be a whole number or None, not {value!r}"
        ) from None


def as_slices(paths: Any, starts: Any, ends: Any) -> list[Slice]:
    """Return slices from what fsspec's ``cat_ranges`` takes: sequences of any kind.

    Args:
        paths: One file for each slice.
        starts: One start for each slice, or one for all.
        ends: One end for each slice, or one for all.

    Raises:
        TypeError: The files are not several, or a start or end is no whole number.
        ValueError: There are more or fewer of one than of another.
    """
    if not is_sequence(paths):
        raise TypeError(f"paths must be a list or another sequence, not {type(paths).__name__}")
    names = [str(each) for each in paths]
    bounds = []
    for what, values in (("start", starts), ("end", ends)):
        each = list(values) if is_sequence(values) else [values] * len(names)
        if len(each) != len(names):
            raise ValueError(
                f"paths, starts and ends must have the same length; there are {len(names)} paths and {len(each)} {what}s"
            )
        bounds.append([bound(value, what, number) for number, value in enumerate(each)])
    return list(zip(names, *bounds, strict=True))


def read_slices(
    slices: Sequence[Slice],
    *,
    extents: Extents,
    source_of: Callable[[str], tuple[Target, RangeSource] | None],
    read_file: Callable[[str, int | None, int | None], bytes],
    max_gap: int | None,
    fail_fast: bool,
) -> list[bytes | Exception]:
    """Read slices of files, those of several repositories at once.

    Args:
        slices: What to read.
        extents: Where to read it through; what is in memory there is not fetched.
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
            found = _read_held(extents, target, source, a, max(a, b))
            if found is None:
                wanted.append(RangeRequest(source, a, max(a, b)))
                owners.append((index, target))
                continue
        if fail_fast and isinstance(found, Exception):
            raise found
        results[index] = found
    done = extents.reads.read_many(wanted, max_gap=max_gap, fail_fast=False)
    for (index, target), result in zip(owners, done, strict=True):
        results[index] = target.explain(result) if isinstance(result, Exception) else result
    first = next((each for each in results if isinstance(each, Exception)), None)
    if fail_fast and first is not None:
        raise first
    return results


def _read_held(
    extents: Extents, target: Target, source: RangeSource, start: int, stop: int
) -> bytes | Exception | None:
    """Return what is in memory already, ``None`` if it is not, or why it did not come."""
    try:
        return extents.read_held(source, start, stop)
    except Exception as error:  # noqa: BLE001  handed to the caller
        return target.explain(error)


def _attempt(work: Callable[..., Any], *args: Any) -> Any:
    """Return what ``work`` returns, or the exception it raises."""
    try:
        return work(*args)
    except Exception as error:  # noqa: BLE001  handed to the caller
        return error
