"""Which bytes to fetch beyond those that are read: no I/O, one object for each open file.

A *run* is what is read from one place on, in order or nearly so. A file that is read from its first byte on
gets a window of bytes ahead of its reader as soon as half of the first block is read. In one that is read in
many places, a jump fetches as much as the runs before it were long: the header of a zip's member and the
member, a tensor, a kilobyte. Several places of one file may be read in turn, each by its own cursor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hf_haul.config import KiB, MiB
from hf_haul.reading.link import Link

__all__ = ["Advice", "ReadAhead", "window_after"]

#: Bytes of the first window, at the least and at the most. So many are read by nobody where a reader stops; a
#: loop over 200 MB takes 1.9 s instead of 3.3 s for it (bench_reads, loop).
_FIRST_WINDOW: Final = (1 * MiB, 16 * MiB)
#: Bytes of the largest window.
_LARGEST_WINDOW: Final = 64 * MiB
#: Share of what was read that a window may have if that is more: so much is read by nobody where the reader
#: stops.
_WINDOW_SHARE: Final = 0.5
#: Requests of a window. With each as large as the link's unit, half of the connections wait for an answer
#: while the other half sends.
_PARTS: Final = 32
#: Bytes of one request of a window, at the least and at the most.
_SMALLEST_PART: Final = 128 * KiB
_LARGEST_PART: Final = 4 * MiB
#: Bytes of a first read that says by itself that the file is read in large blocks.
_LARGE_READ: Final = 512 * KiB
#: Bytes that a reader may go back, or leave out, and still count as going on.
_NEAR: Final = 64 * KiB
#: Places of one file that are read in turn.
_CURSORS: Final = 4
#: Runs whose lengths are remembered.
_RUNS: Final = 5
#: A read after a jump is rounded up to this many bytes.
_GRAIN: Final = 16 * KiB
#: Jumps after which a file is taken to be read at random. Many readers jump to the end of a file and back
#: before they read it in order.
_JUMPS: Final = 4
#: Until then, how many times as long as what was read in a run its window may be, and how many times as long
#: as others the run has to be for that.
_GROWTH: Final = 4
#: A read that begins within this many bytes of the end fetches all that is left, unless the file is read at
#: random.
_TAIL: Final = 256 * KiB
#: Bytes at the end that are fetched when any of them is read: readers go back from there to what it points
#: at.
#: 50 members of a zip take 2.9 s instead of 3.0 s so (bench_reads, zip-random).
_LAST: Final = 64 * KiB


@dataclass(slots=True)
class _Cursor:
    """One place of a file from which reads go on.

    Attributes:
        start: Where its run began.
        stop: Up to where it was read.
        planned: Up to where bytes were asked for.
        part: Bytes of one request.
        look: A read that ends before this offset needs nothing more.
        reads: How many.
    """

    start: int
    stop: int
    planned: int
    part: int
    look: int
    reads: int = 1


@dataclass(frozen=True, slots=True)
class Advice:
    """What to fetch for a read.

    Attributes:
        start: First byte to fetch, if any has to be.
        stop: One past the last.
        ahead: What to fetch without waiting; nothing if both are the same.
        part: Bytes of one request of that.
        jumped: Whether the reader has left the places it was at.
    """

    start: int
    stop: int
    ahead: tuple[int, int] = (0, 0)
    part: int = _LARGEST_PART
    jumped: bool = False


def window_after(read: int) -> int:
    """Return the bytes that may be fetched ahead of a reader who has read so many."""
    return min(_LARGEST_WINDOW, max(_FIRST_WINDOW[1], int(_WINDOW_SHARE * read)))


@dataclass(slots=True)
class ReadAhead:
    """Predicts the next reads of one open file from those so far. Not thread-safe: its owner guards it.

    Attributes:
        size: Bytes of the file.
        stream: Whether it will be read in order to its end.
    """

    size: int
    stream: bool = False
    _cursors: list[_Cursor] = field(default_factory=list)
    _runs: deque[int] = field(default_factory=lambda: deque(maxlen=_RUNS))
    _jumps: int = 0
    _read: int = 0

    def advise(self, start: int, stop: int, link: Callable[[], Link], room: Callable[[], int]) -> Advice:
        """Return what to fetch for a read from ``start`` up to ``stop``.

        Args:
            start: First byte read.
            stop: One past the last.
            link: Gives what the link has shown; called where it counts.
            room: Gives the bytes of memory for a window; the same.
        """
        self._read += stop - start
        cursor = self._find(start)
        jumped = cursor is None and bool(self._cursors)
        if cursor is None:
            cursor = self._arrive(start, stop, link())
            start = min(start, cursor.start)
        else:
            self._cursors.remove(cursor)
            cursor.stop = max(cursor.stop, stop)
            cursor.reads += 1
        self._cursors.insert(0, cursor)
        if stop < cursor.look:
            return Advice(start, max(stop, min(cursor.planned, start + cursor.part)), jumped=jumped)
        return self._plan(cursor, start, stop, link(), room, jumped=jumped)

    @property
    def in_order(self) -> bool:
        """Whether the file is read in one place from its beginning on."""
        return not self._jumps and bool(self._cursors) and not self._cursors[0].start

    def came_short(self, wanted: tuple[int, int], reached: int) -> None:
        """Note that memory had room for the bytes ahead up to ``reached`` only."""
        for cursor in self._cursors:
            if cursor.planned == wanted[1]:
                cursor.planned = max(reached, cursor.stop)
                cursor.look = (cursor.stop + cursor.planned) // 2

    def _find(self, start: int) -> _Cursor | None:
        """Return the cursor that a read goes on from."""
        near = [
            each
            for each in self._cursors
            if each.stop - _NEAR <= start <= each.stop + max(_NEAR, min(each.stop - each.start, MiB))
        ]
        return min(near, key=lambda each: abs(start - each.stop), default=None)

    def _arrive(self, start: int, stop: int, link: Link) -> _Cursor:
        """Return a new cursor, with the block that its first read fetches."""
        if self._cursors:
            self._jumps += 1
            self._runs.append(self._cursors[0].stop - self._cursors[0].start)
            del self._cursors[_CURSORS - 1 :]
        if start >= self.size - _TAIL and self._jumps <= _JUMPS:
            first = max(0, min(start, self.size - _LAST))
            return _Cursor(first, stop, self.size, self.size - first, self.size + 1)
        if not self._jumps:
            block = max(link.unit // 2, stop - start)
            by_itself = self.stream or stop - start >= _LARGE_READ
            look = stop if by_itself else max(stop + 1, start + block // 2)
        else:
            usual = self._usual_run()
            grained = -(-(stop - start) // _GRAIN) * _GRAIN
            block = max(grained, min(usual, link.unit))
            look = start + block + 1 if usual <= block else stop
        planned = min(start + block, self.size)
        return _Cursor(start, stop, planned, block, look)

    def _usual_run(self) -> int:
        """Return how long runs are: the second longest of late, since one may be chance."""
        lengths = sorted(self._runs)
        return 0 if not lengths else lengths[-1] if len(lengths) < 3 else lengths[-2]

    def _plan(
        self, cursor: _Cursor, start: int, stop: int, link: Link, room: Callable[[], int], *, jumped: bool
    ) -> Advice:
        """Return advice for a read that comes near the end of what was asked for."""
        window, is_all = self._window(cursor, link, room)
        part = min(max(link.unit, window // _PARTS), window // 2 or _LARGEST_PART, _LARGEST_PART)
        cursor.part = part = max(_SMALLEST_PART, part)
        reach = max(stop, min(cursor.planned, start + part))
        if cursor.planned < stop and cursor.reads > 1:  # a request for each small read would be too many
            reach = min(max(stop, start + min(part, stop - cursor.start)), self.size)
        begin = max(reach, cursor.planned)
        ahead = min(stop + window, self.size)
        if ahead < self.size and not is_all:
            ahead -= max(0, ahead - begin) % part  # whole requests
        cursor.planned = max(begin, ahead)
        cursor.look = max(stop, cursor.planned - window + part if window else cursor.planned) + 1
        return Advice(start, reach, (begin, cursor.planned), part, jumped=jumped)

    def _window(self, cursor: _Cursor, link: Link, room: Callable[[], int]) -> tuple[int, bool]:
        """Return the bytes to have ahead of a cursor, and whether its run is expected to end with them."""
        most = window_after(self._read)
        if most == _FIRST_WINDOW[1]:
            most = min(most, max(_FIRST_WINDOW[0], _PARTS * link.unit))
        run, usual = cursor.stop - cursor.start, self._usual_run()
        wanted = most
        if self._jumps and run <= usual:
            wanted = usual - run
        elif self._jumps:
            rarely = self._jumps <= _JUMPS and run > _GROWTH * usual
            wanted = 0 if cursor.reads == 1 else run * _GROWTH if rarely else run
        elif cursor.reads == 1 and not self.stream:
            wanted = _GROWTH * run if cursor.start == 0 else 0
        if not wanted:
            return 0, False
        most = min(most, room())
        return min(most, wanted), wanted <= most and bool(self._jumps) and run <= usual
