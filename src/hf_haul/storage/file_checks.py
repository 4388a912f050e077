"""Whether a file on disk is what it has to be: its size at a glance, its digest by reading it."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from hf_haul.descriptors import descriptors
from hf_haul.digests import new_hash

__all__ = ["CheckOrder", "Fault", "Sight", "hex_digest", "look_at", "open_to_read", "zero_runs"]

T = TypeVar("T")

#: What can be wrong with a file. ``absent``: there is nothing; ``broken-link``: a link leads nowhere;
#: ``folder`` and ``not-a-file``: something else is in its place; ``size`` and ``digest``: it has other bytes;
#: ``unreadable``: the system refuses to read it.
Fault = Literal["absent", "broken-link", "folder", "not-a-file", "size", "digest", "unreadable"]

#: Bytes read at a time. A quarter is as fast, but after each a thread waits for its turn to run Python, which
#: on many cores is most of its time then.
_BLOCK: Final = 1 << 20
#: Each thread's block. A new one for each file would cost more in page faults than reading it full.
_own: Final = threading.local()
#: Nothing is waited for: a pipe in a file's place would never be opened. Windows does not know the flag.
_READ: Final = (
    os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)
#: Bytes of the blocks that file systems lose as a whole.
_PAGE: Final = 4096
_ZEROS: Final = bytes(_PAGE)
_NOTHING_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(frozen=True, slots=True)
class Sight:
    """A file as it was found without being read.

    Attributes:
        fault: What is wrong with it, as far as that can be told.
        detail: What the system said, where it refused.
        size: Bytes, where there is a file.
        identity: Device, inode, size and time of the last change: tells whether it is still the same file.
        modified: When it was last changed, in seconds since the epoch.
        sparse: Whether the disk holds fewer bytes than it has, as after a crash, or a copy without zeros.
    """

    fault: Fault | None
    detail: str = ""
    size: int | None = None
    identity: tuple[int, int, int, int] | None = None
    modified: float = 0.0
    sparse: bool = False


def look_at(path: str, size: int | None = None) -> Sight:
    """Look at a file without reading it; links are followed.

    Args:
        path: The file.
        size: Bytes that it has to have, where that is known.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return Sight("broken-link" if os.path.islink(path) else "absent")
        return Sight("unreadable", error.strerror or str(error))
    except ValueError as error:  # no name that a file could have
        return Sight("absent", str(error))
    if not stat.S_ISREG(found.st_mode):
        return Sight("folder" if stat.S_ISDIR(found.st_mode) else "not-a-file")
    blocks = getattr(found, "st_blocks", None)
    return Sight(
        "size" if size is not None and found.st_size != size else None,
        size=found.st_size,
        identity=_identity_of(found),
        modified=found.st_mtime,
        # A file of less than a block may be kept in its inode.
        sparse=blocks is not None and found.st_size > _PAGE and blocks * 512 < found.st_size - _PAGE,
    )


def _identity_of(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def open_to_read(path: str, check: Callable[[], None] | None = None) -> int:
    """Open a regular file, through links, to read all of it in order; the caller closes it.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    fd = descriptors.retry_on_shortage(lambda: os.open(path, _READ), check)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def hex_digest(
    path: str,
    algorithm: str,
    on_read: Callable[[int], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[str, tuple[int, int, int, int]]:
    """Read a whole file and hash it.

    Args:
        path: The file; links are followed.
        algorithm: See :func:`hf_haul.digests.new_hash`.
        on_read: Told the bytes of each read.
        check: Called after each read; raises to end it.

    Returns:
        The hex digest, and the identity of what was read, as in :class:`Sight`.

    Raises:
        OSError: It cannot be read.
    """
    block = _block()
    fd = open_to_read(path, check)
    try:
        identity = _identity_of(os.fstat(fd))
        digest = new_hash(algorithm, identity[2])
        while count := os.readv(fd, [block]) if hasattr(os, "readv") else _read_into(fd, block):
            digest.update(block[:count])
            on_read(count)
            check()
    finally:
        os.close(fd)
    return digest.hexdigest(), identity


def _read_into(fd: int, block: memoryview) -> int:  # pragma: no cover - Windows
    data = os.read(fd, len(block))
    block[: len(data)] = data
    return len(data)


def _block() -> memoryview:
    block: memoryview | None = getattr(_own, "block", None)
    if block is None:
        block = _own.block = memoryview(bytearray(_BLOCK))
    return block


def zero_runs(data: bytes, offset: int) -> list[tuple[int, int]]:
    """Return the runs of whole pages of zeros, as (start, stop) in the file.

    What a file system lost in a crash reads as zeros.

    Args:
        data: Bytes of a file.
        offset: Where in the file they are: the start of a page.
    """
    runs: list[tuple[int, int]] = []
    if _ZEROS not in data:
        return runs
    for at in range(0, len(data) - _PAGE + 1, _PAGE):
        if data[at : at + _PAGE] == _ZEROS:
            start = offset + at
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], start + _PAGE)
            else:
                runs.append((start, start + _PAGE))
    return runs


class CheckOrder(Generic[T]):
    """Says which file a thread hashes next: faults are to be found soon, and all threads to end together.

    Half of the threads take the largest file that is left, because one file keeps one thread busy, and one
    that begins last makes all others wait. The others take what is suspicious, and then the smallest: more
    files are known to be right or wrong in the same time.

    Locking: ``_lock`` guards all that changes.

    Args:
        files: The files, each with its bytes and whether something about it is odd.
        threads: How many threads take from it.
    """

    def __init__(self, files: Iterable[tuple[T, int, bool]], threads: int) -> None:
        ordered = sorted(files, key=lambda entry: (not entry[2], entry[1]))
        self._files = deque(item for item, _, _ in ordered)
        self._lock = threading.Lock()
        self._from_large_end = threads // 2
        self._large: set[int] = set()  # threads that are at one

    def take(self) -> T | None:
        """Return the next file; ``None`` if there is none."""
        me = threading.get_ident()
        with self._lock:
            self._large.discard(me)
            if not self._files:
                return None
            if len(self._large) < self._from_large_end:
                self._large.add(me)
                return self._files.pop()
            return self._files.popleft()
