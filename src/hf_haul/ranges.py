"""Byte ranges, half-open; the only place that knows HTTP's inclusive end."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["ByteRange", "ContentRange", "RangeSet", "parse_content_range", "parse_length"]

#: Eighteen digits are more than any file has bytes, and fewer than would need care anywhere.
_DIGITS: Final = r"[0-9]{1,18}"


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """A run of bytes, from ``start`` up to but not including ``stop``."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a byte range: start={self.start}, stop={self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def header(self) -> str:
        """Value for the HTTP ``Range`` header, whose end is inclusive."""
        return f"bytes={self.start}-{self.stop - 1}"


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The value of a ``Content-Range`` header: the bytes that follow, and the size of the whole.

    Attributes:
        range: The bytes in the body; ``None`` in a 416, which has none.
        total: Bytes of the whole file; ``None`` where the server does not know (``*``).
    """

    range: ByteRange | None
    total: int | None


_CONTENT_RANGE: Final = re.compile(
    rf"\s*bytes\s+(?:({_DIGITS})\s*-\s*({_DIGITS})|\*)\s*/\s*({_DIGITS}|\*)\s*", re.IGNORECASE
)


_LENGTH = re.compile(_DIGITS)


def parse_length(value: str | None) -> int | None:
    """Return the bytes that a length header says; ``None`` if it is missing or invalid."""
    return int(value) if value is not None and _LENGTH.fullmatch(value) else None


def parse_content_range(value: str | None) -> ContentRange | None:
    """Read a ``Content-Range`` header (RFC 9110, section 14.4).

    Returns:
        What it says, or ``None`` if it is missing, malformed or contradicts itself.
    """
    match = _CONTENT_RANGE.fullmatch(value or "")
    if match is None:
        return None
    first, last, size = match.groups()
    total = None if size == "*" else int(size)
    if first is None:
        return ContentRange(None, total)
    if int(last) < int(first) or (total is not None and int(last) >= total):
        return None
    return ContentRange(ByteRange(int(first), int(last) + 1), total)


class RangeSet:
    """A set of byte offsets, kept as sorted runs that neither touch nor overlap.

    Adding a run next to an existing one, the common case while a file fills, costs one bisection.
    Not safe for threads: its owner guards it.
    """

    __slots__ = ("_starts", "_stops", "_total")

    def __init__(self, ranges: Iterable[ByteRange] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._total = 0
        for run in ranges:
            self.add(run.start, run.stop)

    def __iter__(self) -> Iterator[ByteRange]:
        return (ByteRange(a, b) for a, b in zip(self._starts, self._stops, strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]  # mutable, so not hashable

    def __repr__(self) -> str:
        runs = ", ".join(f"{run.start}-{run.stop}" for run in self)
        return f"RangeSet({runs})"

    @property
    def total(self) -> int:
        """Number of bytes in the set."""
        return self._total

    @property
    def runs(self) -> int:
        """Number of separate runs."""
        return len(self._starts)

    def add(self, start: int, stop: int) -> None:
        """Add the bytes from ``start`` up to ``stop``; adding twice is harmless."""
        if stop <= start:
            return
        # Every run that overlaps or touches [start, stop) melts into one.
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
            removed = sum(self._stops[i] - self._starts[i] for i in range(low, high))
        else:
            removed = 0
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]
        self._total += stop - start - removed

    def discard(self, start: int, stop: int) -> None:
        """Remove the bytes from ``start`` up to ``stop``, present or not."""
        if stop <= start:
            return
        low = bisect_right(self._stops, start)
        high = bisect_left(self._starts, stop)
        kept_starts: list[int] = []
        kept_stops: list[int] = []
        for i in range(low, high):
            self._total -= self._stops[i] - self._starts[i]
            for a, b in ((self._starts[i], start), (stop, self._stops[i])):
                if a < b:
                    kept_starts.append(a)
                    kept_stops.append(b)
                    self._total += b - a
        self._starts[low:high] = kept_starts
        self._stops[low:high] = kept_stops

    def frontier(self, start: int = 0) -> int:
        """Return the first offset at or after ``start`` that is not in the set."""
        i = bisect_right(self._starts, start) - 1
        if i >= 0 and self._stops[i] > start:
            return self._stops[i]
        return start

    def missing(self, start: int, stop: int) -> list[ByteRange]:
        """Return the runs between ``start`` and ``stop`` that are not in the set, in order."""
        holes: list[ByteRange] = []
        at = start
        for i in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[i] >= stop:
                break
            if self._starts[i] > at:
                holes.append(ByteRange(at, self._starts[i]))
            at = max(at, self._stops[i])
        if at < stop:
            holes.append(ByteRange(at, stop))
        return holes
