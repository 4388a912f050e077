"""Buffers that workers lend to their files' digests."""

from __future__ import annotations

import queue
from typing import Final

__all__ = ["SpareBuffers"]

#: So many are enough for a connection to go on while a few blocks wait to be hashed.
_MOST: Final = 8


class SpareBuffers:
    """A few buffers, shared by all workers, made when they are first needed. Safe for many threads.

    A worker that leaves the buffer it has filled to somebody else goes on with a spare one; the other puts
    back what it has finished with. That there are few bounds the memory, and keeps who fills them in step
    with who empties them.

    Args:
        nbytes: Bytes of each.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        for _ in range(_MOST):
            self._free.put(None)

    def take(self, seconds: float) -> memoryview | None:
        """Return a spare buffer, waiting at most so many seconds, or ``None``."""
        try:
            buffer = self._free.get(timeout=seconds)
        except queue.Empty:
            return None
        return memoryview(bytearray(self._nbytes)) if buffer is None else buffer

    def put(self, buffer: memoryview) -> None:
        """Return a buffer to the pool, or another of the same size."""
        self._free.put(buffer)
