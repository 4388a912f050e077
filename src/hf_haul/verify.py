"""The running digest of a file, following its contiguous prefix while it downloads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Final

from hf_haul.task import Digest

__all__ = ["Verifier"]

#: Bytes read back at a time. After each the thread waits for its turn to run Python, while connections use theirs: a
#: quarter of it costs a tenth of the speed, and four times as much gains nothing.
_BLOCK: Final = 1 << 20
#: Each thread's block. A new one for each call would cost more in page faults than reading it full.
_own: Final = threading.local()

ReadInto = Callable[[int, memoryview], int]


class Verifier:
    """Hashes a file in order, from the bytes at hand or by reading back what came early.

    Whoever has time calls :meth:`feed` or :meth:`catch_up`; only one thread hashes at a time, and the others
    do not wait for it. Both release the interpreter's lock while they hash.

    Locking: ``_lock`` guards the hash and its position; it is held while hashing, and only ever tried by
    :meth:`feed`, so that no connection waits for it.

    Attributes:
        catching_up: Whether a thread is in :meth:`catch_up`.
        stopped: Whether it is to return.
    """

    def __init__(self, digest: Digest, size: int) -> None:
        self.digest = digest
        self._size = size
        self._lock = threading.Lock()
        self._position = 0
        self._hash = self._new_hash()
        self.catching_up = False
        self.stopped = False

    @property
    def position(self) -> int:
        """Bytes hashed so far, all from the start of the file."""
        return self._position

    def feed(self, offset: int, data: memoryview) -> bool:
        """Hash ``data`` if it is what comes next and nobody else is hashing.

        Returns:
            Whether it was hashed; if not, :meth:`catch_up` will read it back.
        """
        if offset != self._position or not self._lock.acquire(blocking=False):
            return False
        try:
            if offset != self._position:
                return False
            self._hash.update(data)
            self._position += len(data)
            return True
        finally:
            self._lock.release()

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
                buffer = _block()
                while self._position < limit:
                    if self.stopped:
                        return False
                    got = read_into(self._position, buffer[: min(len(buffer), limit - self._position)])
                    if not got:
                        return False  # somebody cut the file; the digest will tell
                    self._hash.update(buffer[:got])
                    self._position += got
            return self._position >= self._size
        finally:
            self.catching_up = False
            self._lock.release()

    def stop(self) -> None:
        """Have every :meth:`catch_up` return soon: the file was cancelled."""
        self.stopped = True

    def actual(self) -> str:
        """Hex digest of what was hashed so far."""
        with self._lock:
            return self._hash.hexdigest()

    def restart(self) -> None:
        """Forget everything hashed."""
        with self._lock:
            self._position = 0
            self._hash = self._new_hash()

    def _new_hash(self) -> hashlib._Hash:
        if self.digest.algorithm == "sha256":
            return hashlib.sha256()
        # git's object id covers a header, so its size has to be known.
        return hashlib.sha1(b"blob %d\0" % self._size, usedforsecurity=False)


def _block() -> memoryview:
    """This thread's block, made when something has to be read back for the first time."""
    block: memoryview | None = getattr(_own, "block", None)
    if block is None:
        block = _own.block = memoryview(bytearray(_BLOCK))
    return block
