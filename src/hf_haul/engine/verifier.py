"""The running digest of a file, following its contiguous prefix while it downloads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from hf_haul.digests import Digest, ReadInto, new_hash
from hf_haul.errors import StopRequestedError

__all__ = ["Verifier"]

#: Bytes read back at a time. After each the thread waits for its turn to run Python, while connections use
#: theirs: a quarter of it costs a tenth of the speed, and four times as much gains nothing.
_BLOCK: Final = 1 << 20
#: Each thread's block. A new one for each call would cost more in page faults than reading it full.
_own: Final = threading.local()


class Verifier:
    """Hashes a file in order, from what the disk gives back.

    So a file that the disk changed is not published, whatever the network delivered. Whoever has time calls
    :meth:`catch_up`; only one thread hashes at a time. The interpreter's lock is released meanwhile.

    Locking: ``_lock`` guards the hash and its position; it is held while hashing.

    Args:
        digest: What the file must hash to.
        size: Its bytes.

    Attributes:
        catching_up: Whether a thread is in :meth:`catch_up`.
        stopped: Whether it is to return.
    """

    def __init__(self, digest: Digest, size: int) -> None:
        self.digest = digest
        self._size = size
        self._lock = threading.Lock()
        self._position = 0
        self._hash = new_hash(digest.algorithm, size)
        self.catching_up = False
        self.stopped = False

    @property
    def position(self) -> int:
        """Bytes hashed so far, all from the start of the file."""
        return self._position

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
            self.catching_up = False
            self._lock.release()

    def _hash_next(self, limit: int, read_into: ReadInto) -> bool:
        """Hash the next block up to ``limit``; return whether there were any bytes."""
        buffer = _block()
        got = read_into(self._position, buffer[: min(len(buffer), limit - self._position)])
        position = self._position + got  # added before hashing: an error may not come between the next two
        self._hash.update(buffer[:got])
        self._position = position
        return got > 0  # or somebody cut the file; the digest will tell

    def stop(self) -> None:
        """Make every :meth:`catch_up` return soon: the file was cancelled."""
        self.stopped = True

    def check(self) -> None:
        """Raise if it was stopped.

        Raises:
            StopRequestedError: It was.
        """
        if self.stopped:
            raise StopRequestedError

    def actual(self) -> str:
        """Return the hex digest of what was hashed so far."""
        with self._lock:
            return self._hash.hexdigest()

    def restart(self) -> None:
        """Forget everything hashed."""
        with self._lock:
            self._position = 0
            self._hash = new_hash(self.digest.algorithm, self._size)


def _block() -> memoryview:
    """Return this thread's block, made when something has to be read back for the first time."""
    block: memoryview | None = getattr(_own, "block", None)
    if block is None:
        block = _own.block = memoryview(bytearray(_BLOCK))
    return block
