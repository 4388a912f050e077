"""How memory for bytes fetched ahead is divided among those who read at the same time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["Shares"]

#: Seconds since its last read after which a reader counts no more among those that read at the same time.
_AT_ONCE: Final = 2.0
#: Seconds after which what was fetched ahead for a reader may be dropped for others.
_IDLE: Final = 10.0
#: Readers that are remembered.
_READERS: Final = 1000


class Shares:
    """Who read when, and so how much memory each may fill ahead. Not thread-safe: its owner guards it.

    Eight files read at once, 96 MiB each, move 805 MB for it; where each filled the memory as if it were
    alone, it was 2,116 MB (bench_reads, eight-at-once).

    Args:
        nbytes: What there is to divide.
        clock: Seconds, monotonic.
    """

    def __init__(self, nbytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._nbytes = nbytes
        self._clock = clock
        self._read_at: OrderedDict[object, float] = OrderedDict()  # the latest last

    def note_read(self, reader: object) -> None:
        """Note that a reader reads now; ``None`` has nothing ahead, and gets no share."""
        if reader is None:
            return
        self._read_at[reader] = self._clock()
        self._read_at.move_to_end(reader)
        while len(self._read_at) > _READERS:
            self._read_at.popitem(last=False)

    def forget(self, reader: object) -> None:
        """Note that a reader has ended."""
        self._read_at.pop(reader, None)

    def of(self, reader: object) -> int:
        """Return the bytes that a reader may have ahead."""
        since = self._clock() - _AT_ONCE
        others = 0
        for other in reversed(self._read_at):
            if self._read_at[other] < since:
                break
            others += other != reader
        return self._nbytes // (1 + others)

    def is_idle(self, reader: object) -> bool:
        """Return whether what a reader has ahead may be dropped for others."""
        return self._clock() - self.last_read(reader) >= _IDLE

    def last_read(self, reader: object) -> float:
        """Return when a reader read last, in seconds; long ago if that is not known."""
        return self._read_at.get(reader, float("-inf"))
