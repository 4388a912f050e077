"""A staged file: bytes at offsets, and a record of them that survives a crash.

The problem. A download of hours is killed, its container is restarted on another host, two jobs share a cache
on a file system whose locks lie. Whatever happens, a byte that was fetched once should not be fetched again,
and a wrong byte must never reach a name that somebody reads.

What we chose. One file holds both, the bytes and the record of what is done:

    0                      size              size + 512
    | the file's own bytes | header: owner   | journal: (start, stop) records, appended

Renaming it moves both at once, and deleting it (``hf cache prune`` finds ``*.incomplete``) leaves nothing. To
publish it: verify its digest, rename it to a private name that ends in ``.sealed``, cut off the header and
the journal, rename it to its final name. Bytes are written at their own offset only, so writing them twice is
harmless. A record is appended after its bytes were handed to the kernel, so a kill at any moment loses
records, never bytes. (A small file that came whole needs none: it is published at once.) A power failure
loses the kernel's memory, too: then a record may name more than the disk holds. The digest finds that out; a
file without a digest is fetched anew when the boot id in its header is not the machine's.

``adoption`` says whose a staged file is, and how another process takes it over.

What we do not do: share one staged file between living processes; trust a size; trust a lock.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from hf_haul.config import Timings
from hf_haul.descriptors import descriptors
from hf_haul.errors import DiskFullError, HaulError
from hf_haul.forks import call_after_fork
from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.storage.journal import (
    HEADER_SIZE,
    kept_version,
    pack_header,
    pack_record,
    read_header,
    read_records,
)
from hf_haul.storage.ownership import read_uri_xattr, remove_owner_xattr, take_lock, write_owner_xattr
from hf_haul.storage.staged_names import SEALED_SUFFIX, move_back, private_place

__all__ = ["StagedFile", "StagedLostError"]

logger = logging.getLogger(__name__)

#: Bytes of the largest file that a kill may cost although all of it was there.
_SMALL: Final = 1 << 20
#: The staged files that are open in this process, by device and inode.
_open_here: Final[set[tuple[int, int]]] = set()
descriptors.register(_open_here, len)


def _own_nothing() -> None:
    """Forget, in a forked child, the parent's staged files."""
    _open_here.clear()


call_after_fork(_own_nothing)


def _new_nonce() -> int:
    return int.from_bytes(os.urandom(4), "big")


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return (status.st_dev, status.st_ino)


def is_open_here(status: os.stat_result) -> bool:
    """Return whether a staged file is open in this process."""
    return _identity_of(status) in _open_here


class StagedLostError(HaulError):
    """The staged file is no longer ours: another process took it over, or deleted it."""


class StagedFile:
    """A file being fetched, open for writing at offsets by many threads.

    Locking: ``_lock`` guards what is known of the file in memory. Nobody who holds it waits for the disk, so
    that who only asks how far the file is never does either. The others are held while the disk works, and
    are for those who write: ``_adding`` makes one of looking what is missing, writing it and counting it (the
    system lets threads write to one file one after the other anyway); ``_journal_lock`` orders what is
    written behind the file's bytes, and guards where; ``_write_lock`` is for each write. They are taken in
    this order, and ``_lock`` last.

    Attributes:
        size: Bytes of the whole file.
        resumed: Bytes that earlier sessions left.
        version: What the source called the version these bytes are of, where that was noted.
        sequential: Whether bytes may only be appended in order, and no journal is kept.
        former_keys: Other keys by which its header may call it.
        uri: What people call the file; for whoever lists what is partial.
        withdrawals: How often bytes that were on disk were taken back, as they were wrong.
        unproven: Whether bytes that an earlier session left may be wrong without a digest: from before the
            machine started, or another user's.
    """

    def __init__(self, path: str | Path, key: str, size: int, fd: int, *, sequential: bool) -> None:
        self._place = os.fspath(path)  # a text: a Path takes longer to make than most else that is done here
        self.key = key
        self.size = size
        self.sequential = sequential
        self.resumed = 0
        self.version: str | None = None
        self.former_keys: Sequence[str] = ()
        self.uri = ""
        self.withdrawals = 0
        self.unproven = False
        self._fd = fd
        self._lock = threading.Lock()
        self._done = RangeSet()
        self._nonce = _new_nonce()
        self._journal_end = size + HEADER_SIZE
        self._unrecorded = False  # whether all of a small file is there, and no record says so
        self._last_beat = self._last_look = time.monotonic()
        self._adding = threading.Lock()
        self._journal_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._identity = _identity_of(os.fstat(fd))
        _open_here.add(self._identity)

    @property
    def path(self) -> Path:
        """Its name for now."""
        return Path(self._place)

    @path.setter
    def path(self, path: Path) -> None:
        self._place = os.fspath(path)

    # ---- what is done

    @property
    def done(self) -> int:
        """Bytes on disk."""
        with self._lock:
            return self._done.total

    def missing(self, start: int = 0, stop: int | None = None) -> list[ByteRange]:
        """Return the ranges still to fetch from ``start`` to ``stop`` (the end of the file), in order."""
        with self._lock:
            return self._done.missing(start, self.size if stop is None else stop)

    def frontier(self) -> int:
        """Return the length of the contiguous prefix on disk."""
        with self._lock:
            return self._done.frontier(0)

    # ---- bytes

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at their offset; call :meth:`record` afterwards.

        Raises:
            DiskFullError: The disk is full; what was written before stays for a resume.
            OSError: The disk refuses.
        """
        try:
            self._write_all(data, offset)
        except OSError as error:
            self._raise_explained(error)

    def add(self, offset: int, data: memoryview) -> list[ByteRange]:
        """Write what of ``data`` is not there yet, and count it; call :meth:`record` afterwards.

        Returns what was written.

        Bytes that are there stay: their digest may have been taken already, and two answers for the same
        range need not bring the same.

        Raises:
            DiskFullError: The disk is full; what was written before stays for a resume.
            OSError: The disk refuses.
        """
        stop = offset + len(data)
        with self._adding:
            gaps = self.missing(offset, stop)
            for gap in gaps:
                self.write(gap.start, data[gap.start - offset : gap.stop - offset])
            with self._lock:
                self._done.add(offset, stop)
        return gaps

    def record(self, start: int, stop: int, *, last: bool = False) -> None:
        """Record in the journal bytes that :meth:`write` has handed to the kernel.

        Args:
            start: The first of them.
            stop: Their end, exclusive.
            last: Whether the file is published in a moment if nothing is missing: then the only record that a
                small file would ever have is written only if that does not come about.

        Raises:
            DiskFullError: The disk is full; a kill would now cost these bytes, and only these.
            OSError: The disk refuses.
        """
        with self._journal_lock:
            with self._lock:
                self._done.add(start, stop)
            if self.sequential:
                return
            if last and stop - start == self.size <= _SMALL:
                self._unrecorded = True
                return
            try:
                self._append(start, stop)
            except OSError as error:
                self._raise_explained(error)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Read back what was written; return the number of bytes."""
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [buffer], offset)
        with self._write_lock:  # pragma: no cover - Windows
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data  # pragma: no cover - Windows
        return len(data)  # pragma: no cover - Windows

    def open_again(self) -> BinaryIO:
        """Open the file once more, for somebody who reads it while it is written.

        Raises:
            StagedLostError: Its name leads to another file by now.
            OSError: It cannot be opened; it may have got its final name.
        """
        file = open(self._place, "rb")  # noqa: SIM115  the caller closes it
        if _identity_of(os.fstat(file.fileno())) != self._identity:
            file.close()
            raise StagedLostError(f"{self.path} is another file by now")
        return file

    def is_of_version(self, version: str) -> bool:
        """Record the version of the bytes, or compare it with the recorded one.

        Returns:
            Whether the bytes staged so far are of this version.
        """
        version = kept_version(version)
        with self._journal_lock:
            if self.version is None and not self.resumed:
                self.version = version
                if not self.sequential:
                    self._write_header()
            return self.version == version

    def forget(self, ranges: list[ByteRange] | None = None) -> None:
        """Take back what is recorded: of the bytes in ``ranges``, or of all.

        Where there is no journal, the length of the file says what is there: then all goes that follows them.
        """
        with self._journal_lock:
            with self._lock:
                self.withdrawals += 1
                for run in ranges if ranges is not None else [ByteRange(0, self.size)]:
                    self._done.discard(run.start, self.size if self.sequential else run.stop)
                self.resumed = min(self.resumed, self._done.total)
                frontier, kept = self._done.frontier(0), list(self._done)
            if ranges is None:
                self.version = None
            if self.sequential:
                os.ftruncate(self._fd, frontier)
                return
            # A new nonce makes every earlier record invalid before the first new one is written.
            self._nonce = _new_nonce()
            os.ftruncate(self._fd, self.size + HEADER_SIZE)
            self._journal_end = self.size + HEADER_SIZE
            self._unrecorded = False
            self._write_header()
            for run in kept:
                self._append(run.start, run.stop)

    # ---- life

    def take_over(self) -> None:
        """Become the owner: lock the file, and write the header."""
        take_lock(self._fd)
        if self.sequential:
            self._touch()
            write_owner_xattr(self._fd, self.uri)
        else:
            try:
                self._write_header()
            except OSError as error:
                self._raise_explained(error)

    def describe(self, uri: str) -> None:
        """Note what people call the file; where that cannot be noted, go on without."""
        with self._journal_lock, contextlib.suppress(OSError):
            if uri in {"", self.uri}:
                return
            self.uri = uri
            if self.sequential:
                write_owner_xattr(self._fd, uri)
            else:
                self._write_header()

    def load(self, *, trust: bool) -> None:
        """Read the records that an earlier owner left."""
        length = os.fstat(self._fd).st_size
        if self.sequential:
            self._done = RangeSet([ByteRange(0, min(length, self.size))] if trust else [])
            self.uri = read_uri_xattr(self._fd)
            if length > self._done.total:
                os.ftruncate(self._fd, self._done.total)
        else:
            header = read_header(self._fd, self.size, (self.key, *self.former_keys))
            if header is not None and trust:
                self._nonce = header.nonce
                self.version = header.version
                self.uri = header.uri
                self._done, self._journal_end = read_records(self._fd, self.size, self._nonce)
            else:
                os.ftruncate(self._fd, self.size + HEADER_SIZE)
        self.resumed = self._done.total

    @property
    def device(self) -> int:
        """Which file system it is on."""
        return self._identity[0]

    def needs_beat(self, interval: float = Timings.sign_of_life) -> bool:
        """Return whether it is time to call :meth:`beat`; asking does not touch the disk.

        Args:
            interval: Seconds between two.
        """
        return time.monotonic() - self._last_beat >= interval

    def beat(self) -> None:
        """Show other processes that the owner is alive."""
        with self._journal_lock:  # not after the file was let go
            if self._fd >= 0:
                self._last_beat = time.monotonic()
                with contextlib.suppress(OSError):
                    self._touch()

    def require_ours(self, interval: float = Timings.ownership) -> None:
        """Check now and then that no other process has taken the file: writes would be lost.

        Args:
            interval: Seconds between two looks at the disk.

        Raises:
            StagedLostError: One has, because this process was asleep, or could not be seen.
        """
        now = time.monotonic()
        if now - self._last_look >= interval:
            self._last_look = now
            if not self.is_ours():
                raise StagedLostError(f"{self.path} was taken by another process")

    def seal(self, *, durable: bool) -> Path:
        """Make the complete and verified file ready to be published.

        Cuts the journal off and moves the file to a name that nobody else can know.

        Args:
            durable: Whether to wait until the disk has the bytes, so that a power failure cannot leave a
                published name without them.

        Returns:
            The private path, on the same file system, to be renamed into place.

        Raises:
            StagedLostError: The file is no longer ours.
        """
        if durable:
            os.fsync(self._fd)  # may take long, and a kill meanwhile should find the journal in place
        place = self._place
        private = private_place(os.path.dirname(place), self.key, SEALED_SUFFIX)
        try:
            # Not through a link: what would be published is the link.
            if _identity_of(os.lstat(place)) != self._identity:
                raise StagedLostError(f"{place} was replaced by another process")
            if sys.platform == "win32":  # pragma: no cover - open files cannot be renamed there
                self._close_fd()
            os.rename(place, private)
            if _identity_of(os.lstat(private)) != self._identity:
                # Not our file: give it its name back, it belongs to whoever took us for dead.
                move_back(private, place)
                raise StagedLostError(f"{place} was replaced by another process")
        except FileNotFoundError as error:
            raise StagedLostError(f"{place} was removed by another process") from error
        self._place = private
        if sys.platform == "win32":  # pragma: no cover
            os.truncate(private, self.size)
        else:
            os.ftruncate(self._fd, self.size)
            if self.sequential:
                remove_owner_xattr(self._fd)
        self._close_fd()
        return Path(private)

    def unseal(self) -> None:
        """Give a sealed file up that this process will not publish: any process may take it."""
        with contextlib.suppress(OSError):
            os.rename(self._place, self.path.with_name(f"{self.key}.{0:08x}{SEALED_SUFFIX}"))

    def close(self) -> None:
        """Close the file and keep it for a resume; delete it if it is empty."""
        if self._fd < 0:
            return
        with self._lock:
            empty = self._done.total == 0
        if empty:
            self.delete()
            return
        with self._journal_lock:
            with contextlib.suppress(OSError):
                if self.sequential:
                    self._touch((0, 0))
                else:
                    if self._unrecorded:
                        self._append(0, self.size)
                    self._write_header(released=True)
            self.let_go()

    def delete(self) -> None:
        """Remove the file from disk, if it is still ours."""
        with contextlib.suppress(OSError):
            if self.is_ours():
                if sys.platform == "win32":  # pragma: no cover
                    self.let_go()
                os.unlink(self._place)
        self.let_go()

    def is_ours(self) -> bool:
        """Return whether the name still leads to this file, neither taken over nor removed."""
        with contextlib.suppress(FileNotFoundError):
            return _identity_of(os.lstat(self._place)) == self._identity
        return False

    def let_go(self) -> None:
        """Close a file that will not be published, ignoring errors of the system."""
        try:
            self._close_fd()
        except OSError as error:  # network file systems tell of full disks and quotas here
            logger.warning("%s: %s; what was fetched last may be lost", self.path, error)

    # ---- inside

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _open_here.discard(self._identity)
            os.close(fd)

    def _raise_explained(self, error: OSError) -> NoReturn:
        """Raise an error of the disk, with what it lacks: which file it is about, and what can be done."""
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(
                f"No space left for {self.path.name} in {self.path.parent}. What is staged is kept: free some "
                "space and run the same download again."
            ) from error
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, self._place) from error
        raise error

    def _touch(self, times: tuple[float, float] | None = None) -> None:
        # By its name it might be another's file by now, or a link.
        os.utime(self._fd if os.utime in os.supports_fd else self._place, times)

    def _write_all(self, data: memoryview, offset: int) -> None:
        while (written := self._pwrite(data, offset)) < len(data):
            offset += written
            data = data[written:]

    def _pwrite(self, data: memoryview, offset: int) -> int:
        # The system lets one thread at a time write to a file, and has the others spin; waiting here costs
        # nothing.
        with self._write_lock:
            if hasattr(os, "pwrite"):
                return os.pwrite(self._fd, data, offset)
            os.lseek(self._fd, offset, os.SEEK_SET)  # pragma: no cover - Windows
            return os.write(self._fd, data)  # pragma: no cover - Windows

    def _write_header(self, *, released: bool = False) -> None:
        header = pack_header(self.key, self.size, self._nonce, self.version, self.uri, released=released)
        self._write_all(memoryview(header), self.size)

    def _append(self, start: int, stop: int) -> None:
        record = pack_record(start, stop, self._nonce)
        self._write_all(memoryview(record), self._journal_end)
        self._journal_end += len(record)
