"""Predicts what a reader of a parquet file needs next: the columns it reads now, of the next row groups.

Readers of parquet ask for the footer and then for one chunk (a column of a row group) after the other, one at
a time, at places that look random. The footer says where all chunks are. Once a reader has touched a column,
that column's chunks in the next row groups are worth fetching before they are asked for.
"""

from __future__ import annotations

import struct
import sys
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from hf_haul.config import KiB, MiB
from hf_haul.reading.footer import chunks_of_groups

__all__ = ["TAIL", "Layout", "ParquetAdvice", "ParquetPlan", "footer_start", "joined", "parse_layout"]

#: Bytes at the end of a file that are fetched when its reader asks for any of them. DuckDB asks for as many;
#: and most footers fit in.
TAIL: Final = 256 * KiB
#: Bytes of the largest footer that is looked at.
_LARGEST_FOOTER: Final = 32 * MiB
_MAGIC: Final = b"PAR1"
#: Bytes ahead of a reader: at first, and at the most.
_FIRST_WINDOW: Final = 2 * MiB
_LARGEST_WINDOW: Final = 64 * MiB
#: Bytes of the largest chunk that is fetched whole when some of it is read.
_WHOLE_CHUNK: Final = 16 * MiB

_Chunk = tuple[int, int, int]  # start, stop, column


def footer_start(last: bytes, size: int) -> int | None:
    """Return the offset at which the footer of a parquet file begins.

    Args:
        last: The last eight bytes of the file.
        size: Bytes of the file.

    Returns:
        ``None`` if it is no parquet file, an encrypted one, or has an unreasonably large footer.
    """
    if len(last) != 8 or last[4:] != _MAGIC:
        return None
    (length,) = struct.unpack("<I", last[:4])
    start = size - 8 - int(length)
    return start if length <= _LARGEST_FOOTER and start >= len(_MAGIC) else None


class Layout:
    """The offsets of a file's column chunks.

    Args:
        group_starts: The first byte of each row group, ascending.
        chunks_of: Gives a row group's chunks as start, stop and column, by start. Called once for each group.
    """

    def __init__(self, group_starts: list[int], chunks_of: Callable[[int], list[_Chunk]]) -> None:
        self._group_starts = group_starts
        self._chunks_of = chunks_of
        self._known: dict[int, list[_Chunk]] = {}

    @property
    def is_ordered(self) -> bool:
        """Whether row groups follow each other as they are numbered."""
        return self._group_starts == sorted(self._group_starts)

    @property
    def groups(self) -> int:
        """Number of row groups."""
        return len(self._group_starts)

    def chunks(self, group: int) -> list[_Chunk]:
        """Return a row group's chunks, in order of their start."""
        if group not in self._known:
            self._known[group] = self._chunks_of(group)
        return self._known[group]

    def of_columns(self, columns: Collection[int], most: int) -> list[tuple[int, int]]:
        """Return where the chunks of some columns are, neighbours joined, of the first row groups.

        Args:
            columns: Their numbers.
            most: Bytes to find chunks for; one row group is not divided.
        """
        found: list[tuple[int, int]] = []
        for group in range(self.groups):
            wanted = [(start, stop) for start, stop, column in self.chunks(group) if column in columns]
            most -= sum(stop - start for start, stop in wanted)
            if most < 0:
                break
            found += wanted
        return joined(found)

    def touched(self, start: int, stop: int) -> list[tuple[int, _Chunk]]:
        """Return the chunks that have bytes from ``start`` up to ``stop``, with their row groups."""
        found = []
        group = max(0, bisect_right(self._group_starts, start) - 1)
        while group < self.groups and self._group_starts[group] < stop:
            found += [(group, chunk) for chunk in self.chunks(group) if chunk[0] < stop and start < chunk[1]]
            group += 1
        return found


def parse_layout(footer: bytes) -> Layout | None:
    """Return the layout that a footer describes.

    Args:
        footer: The bytes from :func:`footer_start` to the end of the file.

    Returns:
        ``None`` if it cannot be understood, or is large and nobody in this process has imported pyarrow.
    """
    # A reader that is pyarrow has brought it; others, such as DuckDB, need not wait for its import.
    layout = _pyarrows_layout(footer) if "pyarrow" in sys.modules else _own_layout(footer)
    return layout if layout is not None and layout.is_ordered else None


def _own_layout(footer: bytes) -> Layout | None:
    groups = chunks_of_groups(footer)
    if not groups or not all(groups):
        return None
    return Layout([group[0][0] for group in groups], lambda group: sorted(groups[group]))


def _pyarrows_layout(footer: bytes) -> Layout | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(pa.BufferReader(_MAGIC + footer))
        starts = [_chunk(metadata.row_group(g).column(0), 0)[0] for g in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError, IndexError):
        return None

    def chunks_of(group: int) -> list[_Chunk]:
        row_group = metadata.row_group(group)
        return sorted(_chunk(row_group.column(c), c) for c in range(row_group.num_columns))

    return Layout(starts, chunks_of)


def _chunk(column: Any, number: int) -> _Chunk:
    start = column.data_page_offset
    if column.dictionary_page_offset:  # 0 is written by some for "none"
        start = min(start, column.dictionary_page_offset)
    return start, start + column.total_compressed_size, number


@dataclass(frozen=True, slots=True)
class ParquetAdvice:
    """What to fetch for a read of chunks.

    Attributes:
        start: First byte to fetch, if any has to be.
        stop: One past the last.
        ahead: Ranges to fetch without waiting, in the order they will be wanted.
    """

    start: int
    stop: int
    ahead: list[tuple[int, int]]


class ParquetPlan:
    """Follows one reader of one file. Not thread-safe: its owner guards it.

    Args:
        layout: Where the chunks are.
        columns: Columns that are read; added to, and shared with those who read siblings of the file.
    """

    def __init__(self, layout: Layout, columns: set[int] | None = None) -> None:
        self._layout = layout
        self._active: set[int] = set() if columns is None else columns
        self._planned_for: set[int] = set()
        self._window = _FIRST_WINDOW // 2
        self._planned_to = 0  # groups before this one have been sent for

    def advise(self, start: int, stop: int) -> ParquetAdvice | None:
        """Return what to fetch for a read from ``start`` up to ``stop``; ``None`` if it is not of chunks.

        The ranges ahead are given once; a column that is new is planned for from its group on.
        """
        touched = self._layout.touched(start, stop)
        if not touched:
            return None
        columns = {chunk[2] for _, chunk in touched}
        first_group, last_group = touched[0][0], touched[-1][0]
        self._active |= columns
        if not self._planned_for >= self._active or first_group >= self._planned_to:
            self._planned_for = set(self._active)
            self._planned_to = first_group
        self._window = min(self._window * 2, _LARGEST_WINDOW)
        low, high = start, stop
        for _, chunk in (touched[0], touched[-1]):
            if chunk[1] - chunk[0] <= _WHOLE_CHUNK:
                low, high = min(low, chunk[0]), max(high, chunk[1])
        return ParquetAdvice(low, high, self._ahead(first_group, last_group, high))

    def _ahead(self, first_group: int, last_group: int, after: int) -> list[tuple[int, int]]:
        """Return the active columns' chunks in the next row groups, as far as the window reaches."""
        room = self._window
        ranges: list[tuple[int, int]] = []
        for group in range(first_group, self._layout.groups):
            if room <= 0:
                break
            wanted = [
                (start, stop)
                for start, stop, column in self._layout.chunks(group)
                if column in self._planned_for and (group > last_group or start >= after)
            ]
            room -= sum(stop - start for start, stop in wanted)
            if group >= self._planned_to:
                self._planned_to = group + 1
                ranges += wanted
        return joined(ranges)


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges with those joined that follow each other without a gap."""
    found: list[tuple[int, int]] = []
    for start, stop in ranges:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found
