"""The running digest of a file, following its contiguous prefix while it downloads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from hf_haul.digests import Digest, ReadInto, new_hash

__all__ = ["IN_TOUCH", "Verifier"]

#: Bytes that the digest may be behind a block that is handed to it; each holds a buffer for as long.
IN_TOUCH: Final = 16 << 20

#: Bytes read back at a time. After each the thread waits for its turn to run Python, while connections use
#: theirs: a quarter of it costs a tenth of the speed, and four times as much gains nothing.
_BLOCK: Final = 1 << 20
#: Each thread's block. A new one for each call would cost more in page faults than reading it full.
_own: Final = threading.local()


class _Block(NamedTuple):
    """Bytes that were handed over: they are on disk, and still in the buffer they were received in."""

    offset: int
    data: memoryview
    done: Callable[[], None]


class Verifier:
    """Hashes a file in order, from the bytes at hand or by reading back what came early.

    Whoever has time calls :meth:`feed` or :meth:`catch_up`; only one thread hashes at a time, and the others
    do not wait for it. Both release the interpreter's lock while they hash. To the one in :meth:`catch_up`
    others :meth:`hand` what they have just written: reading it back would take it a fifth of its time.

    Locking: ``_lock`` guards the hash and its position; it is held while hashing, and only ever tried by
    :meth:`feed`, so that no connection waits for it. ``_handing`` guards ``_handed`` and changes of
    ``catching_up``; it is held for a moment, and taken after ``_lock`` if both are.

    Args:
        digest: What the file must hash to.
        size: Its bytes.
        from_disk: Take nothing from buffers, but all from what the disk gives back.

    Attributes:
        catching_up: Whether a thread is in :meth:`catch_up`.
        stopped: Whether it is to return.
    """

    def __init__(self, digest: Digest, size: int, *, from_disk: bool = False) -> None:
        self.digest = digest
        self._size = size
        self._from_disk = from_disk
        self._lock = threading.Lock()
        self._position = 0
        self._hash = new_hash(digest.algorithm, size)
        self._handing = threading.Lock()
        self._handed: deque[_Block] = deque()
        self.catching_up = False
        self.stopped = False
        #: How often it started over.
        self.restarts = 0

    @property
    def position(self) -> int:
        """Bytes hashed so far, all from the start of the file."""
        return self._position

    def feed(self, offset: int, data: memoryview, restarts: int) -> bool:
        """Hash ``data`` if it is what comes next and nobody else is hashing.

        Args:
            offset: Where in the file it is.
            data: The bytes, on disk already.
            restarts: What ``restarts`` was before they were written.

        Returns:
            Whether it was hashed; if not, :meth:`catch_up` will read it back.
        """
        if self._from_disk or offset != self._position or not self._lock.acquire(blocking=False):
            return False
        try:
            if offset != self._position or restarts != self.restarts:
                return False
            self._take(data)
            return True
        finally:
            self._lock.release()

    def hand(self, offset: int, data: memoryview, restarts: int, done: Callable[[], None]) -> bool:
        """Leave ``data`` to the thread that is catching up, so that it need not read it back.

        Args:
            offset: Where in the file it is; it is on disk already.
            data: The bytes, not to be changed until ``done`` is called.
            restarts: What ``restarts`` was before they were written: what was written before the last one may
                have been dropped since.
            done: Called once, by any thread, when they were hashed or are not needed; it must not wait for
                anything.

        Returns:
            Whether they were taken. If not, nobody will call ``done``, and they will be read back.
        """
        if self._from_disk:
            return False
        with self._handing:
            if not self.catching_up or restarts != self.restarts or offset > self._position + IN_TOUCH:
                return False
            if self._handed:
                last = self._handed[-1]
                if offset < last.offset + len(last.data):
                    return False
            self._handed.append(_Block(offset, data, done))
            return True

    def catch_up(self, frontier: Callable[[], int], read_into: ReadInto, *, wait: bool) -> bool:
        """Hash what is on disk up to the end of the contiguous prefix.

        Args:
            frontier: Gives the length of the prefix that is on disk; asked again as it grows.
            read_into: Reads back from an offset.
            wait: Whether to wait for another thread that is hashing.

        Returns:
            Whether the whole file is hashed.
        """
        if not self._lock.acquire(blocking=wait):
            return False
        try:
            self.catching_up = True
            while self._position < (limit := frontier()):
                while self._position < limit:
                    if self.stopped or not self._hash_next(limit, read_into):
                        return False
            return self._position >= self._size
        finally:
            try:
                self._refuse_blocks()
            finally:
                self._lock.release()

    def _hash_next(self, limit: int, read_into: ReadInto) -> bool:
        """Hash the block that comes next: what was handed over, or else what can be read back before that."""
        block = self._next_block()
        if block is not None and block.offset == self._position:
            try:
                self._take(block.data)
            finally:
                block.done()
            return True
        end = limit if block is None else min(limit, block.offset)
        buffer = _block()
        got = read_into(self._position, buffer[: min(len(buffer), end - self._position)])
        self._take(buffer[:got])
        return got > 0  # or somebody cut the file; the digest will tell

    def _take(self, data: memoryview) -> None:
        """Hash the next bytes, or none of them.

        After an error in between, the position would not be the hash's.
        """
        position = self._position + len(data)
        self._hash.update(data)
        self._position = position

    def _next_block(self) -> _Block | None:
        """Return the first of the blocks that are still to be hashed, taken out if it is to be hashed now."""
        passed: list[_Block] = []
        with self._handing:
            while self._handed and self._handed[0].offset < self._position:
                passed.append(self._handed.popleft())
            block = self._handed[0] if self._handed else None
            if block is not None and block.offset == self._position:
                self._handed.popleft()
        for each in passed:
            each.done()
        return block

    def _refuse_blocks(self) -> None:
        """Take no more, and let go of those that nobody will hash from their buffers."""
        with self._handing:
            self.catching_up = False
            left = list(self._handed)
            self._handed.clear()
        for each in left:
            each.done()

    def stop(self) -> None:
        """Make every :meth:`catch_up` return soon: the file was cancelled."""
        self.stopped = True

    def actual(self) -> str:
        """Return the hex digest of what was hashed so far."""
        with self._lock:
            return self._hash.hexdigest()

    def restart(self) -> None:
        """Forget everything hashed, and refuse bytes that were written before."""
        with self._lock, self._handing:
            self.restarts += 1
            self._position = 0
            self._hash = new_hash(self.digest.algorithm, self._size)


def _block() -> memoryview:
    """Return this thread's block, made when something has to be read back for the first time."""
    block: memoryview | None = getattr(_own, "block", None)
    if block is None:
        block = _own.block = memoryview(bytearray(_BLOCK))
    return block
