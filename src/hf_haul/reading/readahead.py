"""Which bytes to fetch beyond those that are read: no I/O, one object for each open file.

Sequential reading earns a window that doubles each time the reader has passed its middle; random reading gets
little more than it asks for. Several places of one file may be read in turn, each by its own cursor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from hf_haul.config import KiB, MiB

__all__ = ["Advice", "ReadAhead"]

#: Bytes of the largest window.
_LARGEST_WINDOW: Final = 64 * MiB
#: Bytes of the largest request of a window.
_LARGEST_PART: Final = 4 * MiB
_SMALLEST_PART: Final = 256 * KiB
#: Bytes that a reader may go back and still count as sequential.
_BACK: Final = 64 * KiB
#: Places of one file that are read in turn.
_CURSORS: Final = 4
#: Jumps after which a file is taken to be read at random.
_JUMPS: Final = 4
#: Reads in a row that open a window, and as many in a file that is read at random, where two may be chance.
_TRUST: Final = 2
_RANDOM_TRUST: Final = 4
#: A random read is rounded up to this many bytes.
_GRAIN: Final = 16 * KiB
#: A read that begins within this many bytes of the end fetches all that is left.
_TAIL: Final = 256 * KiB


@dataclass(slots=True)
class _Cursor:
    """One offset of a file from which reads go on."""

    stop: int
    reads: int = 1
    window: int = 0


@dataclass(frozen=True, slots=True)
class Advice:
    """What to fetch for a read.

    Attributes:
        start: First byte to fetch, if any has to be.
        stop: One past the last.
        ahead: Fetch from the first byte that is missing up to this one, without waiting; 0 for nothing.
        refill: Do so only if less than this many bytes are there beyond the read.
        part: Bytes of one request of these.
        jumped: Whether the reader has left the places it was at.
        window: Bytes that are then ahead of the reader; for :meth:`ReadAhead.followed`.
    """

    start: int
    stop: int
    ahead: int = 0
    refill: int = 0
    part: int = _LARGEST_PART
    jumped: bool = False
    window: int = 0


@dataclass(slots=True)
class ReadAhead:
    """Predicts the next reads of one open file from those so far. Not thread-safe: its owner guards it.

    Attributes:
        size: Bytes of the file.
    """

    size: int
    _cursors: list[_Cursor] = field(default_factory=list)
    _jumps: int = 0

    def advise(self, start: int, stop: int, unit: int) -> Advice:
        """Return what to fetch for a read from ``start`` up to ``stop``.

        Args:
            start: First byte read.
            stop: One past the last.
            unit: Bytes that take as long to send as a request takes to be answered.
        """
        cursor = self._find(start, unit)
        first = not self._cursors
        jumped = cursor is None and not first
        if cursor is None:
            cursor = _Cursor(stop)
            self._jumps += jumped
            del self._cursors[_CURSORS - 1 :]
        else:
            self._cursors.remove(cursor)
            cursor.stop = stop
            cursor.reads += 1
        self._cursors.insert(0, cursor)
        needed = _RANDOM_TRUST if self._jumps > _JUMPS else _TRUST
        if cursor.reads < needed:
            return self._alone(start, stop, unit, first=first, jumped=jumped)
        return self._sequential(cursor, start, stop, unit)

    def followed(self, advice: Advice) -> None:
        """Note that the latest advice is being fetched; the next window will be twice as large."""
        self._cursors[0].window = advice.window

    def _find(self, start: int, unit: int) -> _Cursor | None:
        """Return the cursor that a read goes on from."""
        near = [each for each in self._cursors if each.stop - _BACK <= start <= each.stop + unit]
        return min(near, key=lambda each: abs(start - each.stop), default=None)

    def _alone(self, start: int, stop: int, unit: int, *, first: bool, jumped: bool) -> Advice:
        """Return advice for a read that continues no other."""
        if start >= self.size - _TAIL:
            return Advice(start, self.size, jumped=jumped)
        if first:
            reach = max(stop, start + unit // 2)
        elif self._jumps > _JUMPS:
            reach = start + -(-(stop - start) // _GRAIN) * _GRAIN
        else:
            reach = stop + unit // 4
        return Advice(start, min(reach, self.size), jumped=jumped)

    def _sequential(self, cursor: _Cursor, start: int, stop: int, unit: int) -> Advice:
        first = min(max(unit, stop - start), _LARGEST_WINDOW)
        window = min(cursor.window * 2, _LARGEST_WINDOW) or first
        part = max(unit, _SMALLEST_PART, min(window // 16, _LARGEST_PART))
        return Advice(
            start,
            min(max(stop, start + part), self.size),
            ahead=min(stop + window, self.size),
            refill=(cursor.window or window) // 2,
            part=part,
            window=window,
        )
