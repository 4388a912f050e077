"""A staged file: bytes at offsets, and a record of them that survives a crash.

The problem. A download of hours is killed, its container is restarted on another host, two jobs share a
cache on a file system whose locks lie. Whatever happens, a byte that was fetched once should not be fetched
again, and a wrong byte must never reach a name that somebody reads.

What we chose. One file holds both, the bytes and the record of what is done::

    0                      size              size + 512
    | the file's own bytes | header: owner   | journal: (start, stop) records, appended

Renaming it moves both at once, deleting it (``hf cache prune`` finds ``*.incomplete``) leaves nothing, and
publishing it is: verify, rename to a private name that says so (``.sealed``), cut the tail off, rename. Bytes are written at their own offset only, so writing
them twice is harmless. A record is appended after the bytes it claims were handed to the kernel, so a kill at
any moment loses claims, never bytes. After a power failure the kernel's memory is gone too: then a record may
claim more than the disk holds, which the digest finds out, or, for a file without a digest, the changed boot
id, after which we start anew.

Who owns it. ``<key>.haul.incomplete`` is created exclusively, which is the claim; no lock is needed for that.
A second process that finds it looks whether the owner is alive (``ownership`` says how). A file of a dead owner
is *adopted* by renaming it to a name of our own, ``<key>.<digits>.haul.incomplete`` (a rename succeeds for one
process only). Until its header names us, too, the process id in the digits, and a lock, tell others who find that
name that it is taken. Where death cannot be proven, only its bytes are copied: a sleeper that wakes up writes into
a file nobody will publish. The staged file is renamed to a private name, and its identity compared, before it is
published. Whoever is killed between two of these steps leaves a private name behind: the next run scans for those,
keeps the one that holds the most, and removes the rest.

What we do not do: share one staged file between living processes; trust a size; trust a lock.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hf_haul.errors import DiskFullError, HaulError
from hf_haul.forks import call_after_fork
from hf_haul.ownership import Owner, current_owner, erase, is_running, judge, sign, signature, try_lock
from hf_haul.ranges import ByteRange, RangeSet

__all__ = [
    "StagedElsewhereError",
    "StagedFile",
    "StagedLostError",
    "claim",
    "scan_orphans",
    "sweep",
]

logger = logging.getLogger(__name__)

_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
_MAGIC: Final = b"hf-haul1"
_HEADER_SIZE: Final = 512
_HEADER: Final = struct.Struct("<8scxxxII")  # magic, O(wned) or R(eleased), length and crc of the JSON
#: Where the header of a file of unknown size is looked for: before its journal, at its end. Bytes.
_TAIL: Final = 256 << 10
_RECORD: Final = struct.Struct("<QQI")  # start, stop, crc of both and the file's nonce

#: Seconds between signs of life of an owner that writes nothing.
_BEAT_INTERVAL: Final = 15.0

#: Seconds that a living process gets to publish a complete file.
_PUBLICATION: Final = 10.0
#: Seconds after which a file that is still empty is nobody's: its header follows its creation at once.
_BIRTH: Final = 3.0
#: Seconds that a living process gets to say that it owns a file after it gave it a private name.
_TAKEOVER: Final = 2.0

_SUFFIX: Final = ".incomplete"
#: Names of staged files: ``<key>[.<eight hex digits>]<kind>``; the digits tell which process gave the name.
_OFFSET: Final = ".haul" + _SUFFIX
_SEQUENTIAL: Final = ".seq" + _SUFFIX
_SEALED: Final = ".sealed" + _SUFFIX
_NAME: Final = re.compile(r"(.+?)(?:\.([0-9a-f]{8}))?\.(?:haul|seq|sealed)\.incomplete", re.DOTALL)
#: Those bits of the digits that are a process id: 4,194,304 is the most that Linux gives (``proc(5)``).
_PID_BITS: Final = (1 << 22) - 1


#: The staged files that are open in this process, by device and inode.
_open_here: Final[set[tuple[int, int]]] = set()

#: Folders and keys of which a thread of this process is taking over what is left.
_taking_over: Final[set[tuple[Path, str]]] = set()
_taking_over_lock = threading.Lock()


def _own_nothing() -> None:
    """In a forked child: the files, and the threads that take over others, are the parent's."""
    global _taking_over_lock
    _taking_over_lock = threading.Lock()
    _taking_over.clear()
    _open_here.clear()


call_after_fork(_own_nothing)


class StagedElsewhereError(HaulError):
    """Another living process is fetching this file.

    Attributes:
        owner: Who, as far as known.
    """

    def __init__(self, path: Path, owner: Owner | None) -> None:
        self.owner = owner
        who = f"process {owner.pid} on {owner.host}" if owner else "another process"
        super().__init__(f"{path.name} is being fetched by {who}")


class StagedLostError(HaulError):
    """The staged file is no longer ours: somebody took this process for dead, or deleted it."""


#: Characters of a version that are kept; the header has a fixed size.
_VERSION_LIMIT: Final = 64
#: Characters that those may take in JSON, where some letters take six.
_VERSION_ROOM: Final = 100


class StagedFile:
    """A file being fetched, open for writing at offsets by many threads.

    Locking: ``_lock`` guards what is known of the file in memory. Nobody who holds it waits for the disk, so that who only
    asks how far the file is never does either. The others are held while the disk works, and are for those who write:
    ``_adding`` makes one of looking what is missing, writing it and counting it (the system lets threads write to one file
    one after the other anyway); ``_journal_lock`` orders what is written behind the file's bytes, and guards where; ``_write_lock``
    is for each write. They are taken in this order, and ``_lock`` last.

    Attributes:
        size: Bytes of the whole file.
        resumed: Bytes that earlier sessions left.
        version: What the source called the version these bytes are of, where that was noted.
        sequential: Whether bytes may only be appended in order, and no journal is kept.
    """

    def __init__(self, path: Path, key: str, size: int, fd: int, *, sequential: bool) -> None:
        self.path = path
        self.key = key
        self.size = size
        self.sequential = sequential
        self.resumed = 0
        self.version: str | None = None
        self._fd = fd
        self._lock = threading.Lock()
        self._done = RangeSet()
        self._nonce = secrets.randbits(32)
        self._journal_end = size + _HEADER_SIZE
        self._last_beat = time.monotonic()
        self._adding = threading.Lock()
        self._journal_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._identity = self._stat_identity(os.fstat(fd))
        _open_here.add(self._identity)

    # ---- what is done

    @property
    def done(self) -> int:
        """Bytes on disk."""
        with self._lock:
            return self._done.total

    def missing(self, start: int = 0, stop: int | None = None) -> list[ByteRange]:
        """What is still to be fetched between ``start`` and ``stop`` (the end of the file), in order."""
        with self._lock:
            return self._done.missing(start, self.size if stop is None else stop)

    def frontier(self) -> int:
        """Length of the contiguous prefix on disk."""
        with self._lock:
            return self._done.frontier(0)

    def covers(self, start: int, stop: int) -> bool:
        """Whether all of a range is on disk."""
        with self._lock:
            return self._done.covers(start, stop)

    # ---- bytes

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at their offset; claim them with :meth:`record` afterwards.

        Raises:
            DiskFullError: The disk is full; what was written before stays for a resume.
            OSError: The disk refuses.
        """
        with self._explained():
            self._write_all(data, offset)

    def add(self, offset: int, data: memoryview) -> bool:
        """Write what of ``data`` is not there yet and count it; claim it with :meth:`record` afterwards.

        Bytes that are there stay: their digest may have been taken already, and connections that race for the same
        range need not bring the same.

        Returns:
            Whether nothing of it was there.

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
        return gaps == [ByteRange(offset, stop)]

    def record(self, start: int, stop: int) -> None:
        """Claim bytes that :meth:`write` has handed to the kernel.

        Raises:
            DiskFullError: The disk is full; a kill would now cost these bytes, and only these.
            OSError: The disk refuses.
        """
        with self._explained(), self._journal_lock:
            with self._lock:
                self._done.add(start, stop)
            if self.sequential:
                return
            self._write_all(memoryview(self._pack(start, stop)), self._journal_end)
            self._journal_end += _RECORD.size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Read back what was written; returns the number of bytes."""
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [buffer], offset)
        with self._write_lock:  # pragma: no cover - Windows
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data  # pragma: no cover - Windows
        return len(data)  # pragma: no cover - Windows

    def is_of_version(self, version: str) -> bool:
        """Note the version that the bytes are of, or compare it with the one noted.

        Returns:
            Whether the bytes staged so far are of this version.
        """
        version = _kept_version(version)
        with self._journal_lock:
            if self.version is None and not self.resumed:
                self.version = version
                if not self.sequential:
                    self._write_header(b"O")
            return self.version == version

    def forget(self, ranges: list[ByteRange] | None = None) -> None:
        """Take claims back: those in ``ranges``, or all of them."""
        with self._journal_lock:
            with self._lock:
                for run in ranges if ranges is not None else [ByteRange(0, self.size)]:
                    self._done.discard(run.start, run.stop)
                self.resumed = min(self.resumed, self._done.total)
                frontier, kept = self._done.frontier(0), list(self._done)
            if ranges is None:
                self.version = None
            if self.sequential:
                os.ftruncate(self._fd, frontier)
                return
            # A new nonce makes every earlier record invalid before the first new one is written.
            self._nonce = secrets.randbits(32)
            os.ftruncate(self._fd, self.size + _HEADER_SIZE)
            self._journal_end = self.size + _HEADER_SIZE
            self._write_header(b"O")
            for run in kept:
                self._write_all(memoryview(self._pack(run.start, run.stop)), self._journal_end)
                self._journal_end += _RECORD.size

    # ---- life

    @property
    def device(self) -> int:
        """Which file system it is on."""
        return self._identity[0]

    @property
    def needs_beat(self) -> bool:
        """Whether it is time to call :meth:`beat`; asking does not touch the disk."""
        return time.monotonic() - self._last_beat >= _BEAT_INTERVAL

    def beat(self) -> None:
        """Show that the owner lives."""
        with self._journal_lock:  # not after the file was let go
            if self._fd >= 0:
                self._last_beat = time.monotonic()
                with contextlib.suppress(OSError):
                    os.utime(self.path)

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
        private = _private_name(self.path.parent, self.key, _SEALED)
        try:
            if self._stat_identity(os.stat(self.path)) != self._identity:
                raise StagedLostError(f"{self.path} was replaced by another process")
            if sys.platform == "win32":  # pragma: no cover - open files cannot be renamed there
                self._close_fd()
            os.rename(self.path, private)
            if self._stat_identity(os.stat(private)) != self._identity:
                # Not our file: give it its name back, it belongs to whoever took us for dead.
                _move_back(private, self.path)
                raise StagedLostError(f"{self.path} was replaced by another process")
        except FileNotFoundError as error:
            raise StagedLostError(f"{self.path} was removed by another process") from error
        self.path = private
        if sys.platform == "win32":  # pragma: no cover
            os.truncate(private, self.size)
        else:
            os.ftruncate(self._fd, self.size)
            if self.sequential:
                erase(self._fd)
        self._close_fd()
        return private

    def unseal(self) -> None:
        """Say that a sealed file will not be published by this process: anybody may have it."""
        with contextlib.suppress(OSError):
            os.rename(self.path, self.path.with_name(f"{self.key}.{0:08x}{_SEALED}"))

    def close(self) -> None:
        """Let go of the file, keeping it for a resume; an empty one is deleted."""
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
                    os.utime(self.path, (0, 0))
                else:
                    self._write_header(b"R")
            self._let_go()

    def delete(self) -> None:
        """Remove the file from disk, if it is still ours."""
        with contextlib.suppress(OSError):
            if self.is_ours():
                if sys.platform == "win32":  # pragma: no cover
                    self._let_go()
                os.unlink(self.path)
        self._let_go()

    def is_ours(self) -> bool:
        """Whether the name still leads to this file: nobody took or removed it."""
        with contextlib.suppress(FileNotFoundError):
            return self._stat_identity(os.stat(self.path)) == self._identity
        return False

    # ---- inside

    @staticmethod
    def _stat_identity(stat: os.stat_result) -> tuple[int, int]:
        return (stat.st_dev, stat.st_ino)

    def _let_go(self) -> None:
        """Close the file where it will not be published: what the system has to say then is nobody's error."""
        try:
            self._close_fd()
        except OSError as error:  # network file systems tell of full disks and quotas here
            logger.warning("%s: %s; what was fetched last may be lost", self.path, error)

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _open_here.discard(self._identity)
            os.close(fd)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of an error of the disk which file it is about, and what can be done."""
        try:
            yield
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFullError(
                    f"No space left for {self.path.name} in {self.path.parent}. What is staged is kept: free some "
                    "space and run the same download again."
                ) from error
            if error.filename is None and error.errno is not None:
                raise OSError(error.errno, error.strerror, os.fspath(self.path)) from error
            raise

    def _write_all(self, data: memoryview, offset: int) -> None:
        while data:
            written = self._pwrite(data, offset)
            offset += written
            data = data[written:]

    def _pwrite(self, data: memoryview, offset: int) -> int:
        # The system lets one thread at a time write to a file, and has the others spin; waiting here costs nothing.
        with self._write_lock:
            if hasattr(os, "pwrite"):
                return os.pwrite(self._fd, data, offset)
            os.lseek(self._fd, offset, os.SEEK_SET)  # pragma: no cover - Windows
            return os.write(self._fd, data)  # pragma: no cover - Windows

    def _pack(self, start: int, stop: int) -> bytes:
        crc = zlib.crc32(b"%d-%d" % (start, stop), self._nonce)
        return _RECORD.pack(start, stop, crc)

    def _write_header(self, status: bytes) -> None:
        about = {
            "key": _short(self.key),
            "size": self.size,
            "nonce": self._nonce,
            "version": self.version,
            "owner": _fields_of(current_owner()),
        }
        body = json.dumps(about, separators=(",", ":")).encode()
        head = _HEADER.pack(_MAGIC, status, len(body), zlib.crc32(body)) + body
        self._write_all(memoryview(head.ljust(_HEADER_SIZE, b"\0")), self.size)

    def _take_over(self) -> None:
        """Become the owner: lock, and say so in the header."""
        try_lock(self._fd)
        if self.sequential:
            os.utime(self.path)
            sign(self._fd)
        else:
            with self._explained():
                self._write_header(b"O")

    def _load(self, *, trust: bool) -> None:
        """Read the claims that an earlier owner left."""
        length = os.fstat(self._fd).st_size
        if self.sequential:
            self._done = RangeSet([ByteRange(0, min(length, self.size))] if trust else [])
            if length > self._done.total:
                os.ftruncate(self._fd, self._done.total)
        else:
            header = _read_header(self._fd, self.size, self.key)
            if header is not None and trust:
                self._nonce = header.nonce
                self.version = header.version
                self._read_journal()
            else:
                os.ftruncate(self._fd, self.size + _HEADER_SIZE)
        self.resumed = self._done.total

    def _read_journal(self) -> None:
        at = self.size + _HEADER_SIZE
        stop_at = os.fstat(self._fd).st_size
        while at < stop_at:
            block = os.pread(self._fd, _RECORD.size * 4096, at) if hasattr(os, "pread") else self._read_at(at)
            usable = len(block) - len(block) % _RECORD.size
            if not usable:
                break
            for start, stop, crc in _RECORD.iter_unpack(block[:usable]):
                # A torn or foreign record claims nothing; the bytes it meant are fetched again.
                if start < stop <= self.size and zlib.crc32(b"%d-%d" % (start, stop), self._nonce) == crc:
                    self._done.add(start, stop)
            at += usable
        self._journal_end = at

    def _read_at(self, offset: int) -> bytes:  # pragma: no cover - Windows
        with self._write_lock:
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, _RECORD.size * 4096)


@dataclass(frozen=True, slots=True)
class _Header:
    owner: Owner | None
    nonce: int
    released: bool
    version: str | None


@functools.lru_cache(maxsize=2)
def _fields_of(owner: Owner) -> dict[str, Any]:
    return asdict(owner)


def _kept_version(version: str) -> str:
    """A version of any length and in any script, for the header, whose size is fixed."""
    kept = version[:_VERSION_LIMIT]
    if len(json.dumps(kept)) > _VERSION_ROOM:
        return hashlib.sha256(version.encode("utf-8", "surrogatepass")).hexdigest()
    return kept


def _short(key: str) -> str:
    """A key of any length, for the header, whose size is fixed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _read_header(fd: int, size: int, key: str) -> _Header | None:
    """The header of a staged file for exactly this content, or ``None``."""
    try:
        os.lseek(fd, size, os.SEEK_SET)
        raw = os.read(fd, _HEADER_SIZE)
        magic, status, length, crc = _HEADER.unpack_from(raw)
        body = raw[_HEADER.size : _HEADER.size + length]
        if magic != _MAGIC or zlib.crc32(body) != crc:
            return None
        about = json.loads(body)
        if about["key"] != _short(key) or about["size"] != size:
            return None
        return _Header(Owner(**about["owner"]), about["nonce"], status == b"R", about["version"])
    except (OSError, struct.error, ValueError, KeyError, TypeError):
        return None


def _header_of_other_size(fd: int, key: str) -> _Header | None:
    """The header of a staged file for the same key and another size: the source has changed since, and nobody knew how."""
    with contextlib.suppress(OSError):
        start = max(0, os.fstat(fd).st_size - _TAIL)
        os.lseek(fd, start, os.SEEK_SET)
        at = os.read(fd, _TAIL).rfind(_MAGIC)
        if at >= 0:
            return _read_header(fd, start + at, key)
    return None


def scan_orphans(directory: Path) -> dict[str, list[Path]]:
    """Staged files in a folder, by key: what earlier processes left.

    One listing serves a whole queue; :func:`claim` takes each key's share. Symbolic links are passed over: no process
    of ours stages through one.
    """
    found: dict[str, list[Path]] = {}
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)  # huggingface_hub's own end in .incomplete, too
            if match is not None and not entry.is_symlink():
                found.setdefault(match[1], []).append(Path(entry.path))
    return found


def claim(
    directory: Path,
    key: str,
    size: int,
    *,
    sequential: bool = False,
    resume: bool = True,
    digest_known: bool = True,
    orphans: list[Path] | None = None,
) -> StagedFile:
    """Open the staged file of ``key`` for this process: a new one, or a dead owner's.

    Args:
        directory: Where staged files live; created if missing.
        key: Name of the content, such as its etag: another content must have another key.
        size: Bytes of the whole file.
        sequential: Append in order only, without a journal.
        resume: Whether earlier bytes may be kept; if not, they are dropped.
        digest_known: Whether a digest will be checked at the end; without one, bytes that survived a
            reboot are not trusted.
        orphans: What :func:`scan_orphans` found for this key; all but the best of them are removed.

    Raises:
        StagedElsewhereError: A living process has it.
        DiskFullError: The disk is full.
        OSError: The folder cannot be written.
    """
    target = directory / (key + (_SEQUENTIAL if sequential else _OFFSET))
    left = [target, *(path for path in orphans if path != target)] if orphans else []
    left = [path for path in left if not path.is_symlink()]  # writing through one would end up anywhere
    adopter = _Adopter(target, key, size, sequential=sequential, digest_known=digest_known)
    for _ in range(100):
        try:
            staged = adopter.best_of(left)
        except (PermissionError, IsADirectoryError) as error:
            # Another user's, in a cache that several share, or no file at all: go on without it.
            logger.info("%s cannot be taken over (%s); using a name of our own", target, error)
            left, target = [], adopter.private_name()
            continue
        if staged is not None:
            return _settle(staged, target, keep=resume)
        if left:  # renamed under our eyes: see what became of it
            left = scan_orphans(directory).get(key, [])
            if left:
                continue
        try:
            return _create(target, key, size, sequential=sequential)
        except FileNotFoundError:
            directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if target.is_symlink():  # perhaps to nowhere: neither to be followed nor removed
                logger.info("%s is a symbolic link; using a name of our own", target)
                target = adopter.private_name()
            else:
                left = [target]
    raise StagedElsewhereError(target, None)


def sweep(directory: Path, sizes: Mapping[str, int]) -> None:
    """Remove what dead processes left of files that are in place by now.

    Args:
        directory: Where staged files live.
        sizes: Bytes of each file in place, by key.
    """
    for key, paths in scan_orphans(directory).items():
        if key in sizes:
            target = directory / (key + _OFFSET)
            adopter = _Adopter(target, key, sizes[key], sequential=False, digest_known=False)
            with contextlib.suppress(StagedElsewhereError, OSError):  # somebody wants it anew; or no rights
                left = adopter.best_of(paths)
                if left is not None:
                    left.delete()


def _create(path: Path, key: str, size: int, *, sequential: bool) -> StagedFile:
    """Make a staged file that was not there.

    Raises:
        FileExistsError: Something was there.
        FileNotFoundError: The folder is not there.
        OSError: The folder cannot be written.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    staged = StagedFile(path, key, size, fd, sequential=sequential)
    try:
        staged._take_over()  # noqa: SLF001  the module's own class
    except OSError:
        staged.delete()
        raise
    return staged


def _settle(staged: StagedFile, target: Path, *, keep: bool) -> StagedFile:
    """Give an adopted file the claim's name again, if that is free, so that others find it there."""
    if not keep:
        staged.forget()
    if staged.path != target:
        try:
            os.link(staged.path, target)
        except OSError:
            return staged  # taken meanwhile, or no hard links here: the private name serves as well
        with contextlib.suppress(OSError):
            os.unlink(staged.path)
        staged.path = target
    logger.info("resuming %s: %d of %d bytes are here", staged.key, staged.resumed, staged.size)
    return staged


class _Adopter:
    """Takes over what dead owners left of one key."""

    def __init__(self, target: Path, key: str, size: int, *, sequential: bool, digest_known: bool) -> None:
        self._target = target
        self._key = key
        self._size = size
        self._sequential = sequential
        self._digest_known = digest_known

    def best_of(self, paths: list[Path]) -> StagedFile | None:
        """The one of ``paths`` that holds the most, adopted; the others are removed.

        Raises:
            StagedElsewhereError: One of them has a living owner.
        """
        if not paths:
            return None
        with _alone(self._target.parent, self._key):
            return self._best_of(paths)

    def _best_of(self, paths: list[Path]) -> StagedFile | None:
        best: StagedFile | None = None
        try:
            for path in paths:
                with contextlib.suppress(FileNotFoundError):  # published, or adopted, meanwhile
                    if best is not None and path.samefile(best.path):  # killed between a link and an unlink
                        os.unlink(path)
                        continue
                    staged = self._adopt(path)
                    if staged is not None and best is not None:
                        best, worse = sorted((best, staged), key=lambda each: each.done, reverse=True)
                        worse.delete()
                    else:
                        best = staged or best
        except BaseException:
            if best is not None:
                best.close()
            raise
        return best

    def _adopt(self, path: Path) -> StagedFile | None:
        """Take over ``path`` if its owner is gone; ``None`` if it was of no use, and was removed."""
        self._require_settled(path)
        if path.name.endswith(_SEALED):
            return self._unseal(path)
        sequential = path.name.endswith(_SEQUENTIAL)
        os.close(self._open_if_abandoned(path, sequential=sequential))  # Windows renames no open files
        private = self._private(_SEQUENTIAL if sequential else _OFFSET)
        _rename(path, private)  # succeeds for one process only
        try:
            # Somebody may have claimed or adopted the name between our look and our rename: look again.
            fd = self._open_if_abandoned(private, sequential=sequential)
            if not try_lock(fd):  # another adopter, from where process ids are others
                os.close(fd)
                raise StagedElsewhereError(private, None)
        except StagedElsewhereError:
            _move_back(private, path)
            raise
        staged = StagedFile(private, self._key, self._size, fd, sequential=sequential)
        header = None if sequential else _read_header(fd, self._size, self._key)
        if sequential != self._sequential or (header is None and not sequential):
            # Of the other kind; or killed before its header was written: nothing in it can be told from a hole.
            staged.delete()
            return None
        owner = header.owner if header else signature(fd)
        life = judge(private, fd, owner, released=header is not None and header.released)
        trust = self._digest_known or (owner is not None and owner.boot == current_owner().boot)
        staged._load(trust=trust)  # noqa: SLF001  the module's own class
        if life == "stale":
            return _copy(staged)
        staged._take_over()  # noqa: SLF001  the module's own class
        return self._still_ours(staged)

    def _require_settled(self, path: Path) -> None:
        """Refuse a name that another living process gave just now.

        It may be about to publish the file; or it has not said yet that it owns it: the header still names the dead
        owner, so that two who look for orphans at the same moment would both take the file for theirs. Where we
        cannot see that process, it finds its file gone.

        Raises:
            StagedElsewhereError: The name is new, and who gave it lives.
        """
        by = _name_giver(path.name)
        if by is None or by == os.getpid():
            return
        time_to_act = _PUBLICATION if path.name.endswith(_SEALED) else _TAKEOVER
        if time.time() - os.stat(path).st_ctime < time_to_act and is_running(by):
            raise StagedElsewhereError(path, None)

    def _still_ours(self, staged: StagedFile) -> StagedFile:
        """Look once more after a takeover: who was held up in it for long may have been robbed.

        Raises:
            StagedElsewhereError: Another process gave the file a name of its own meanwhile.
        """
        if not staged.is_ours():
            staged._let_go()  # noqa: SLF001  the module's own class
            raise StagedElsewhereError(staged.path, None)
        return staged

    def _unseal(self, path: Path) -> StagedFile | None:
        """Take over a complete file that was never published."""
        private = self._private(_SEALED)  # until its new journal says the same as its name
        _rename(path, private)
        fd = os.open(private, os.O_RDWR | _BINARY)
        staged = StagedFile(private, self._key, self._size, fd, sequential=self._sequential)
        length = os.fstat(fd).st_size
        # Killed between the rename and the cut, it still has its journal, which says the same.
        if length < self._size or not self._digest_known:
            staged.delete()
            return None
        os.ftruncate(fd, self._size)
        staged._take_over()  # noqa: SLF001  the module's own class
        self._still_ours(staged)
        staged.record(0, self._size)
        staged.resumed = self._size
        with contextlib.suppress(PermissionError):  # Windows renames no open files
            staged.path = self._private(_SEQUENTIAL if self._sequential else _OFFSET)
            os.rename(private, staged.path)
            return staged
        staged.path = private  # pragma: no cover
        return staged  # pragma: no cover

    def _open_if_abandoned(self, path: Path, *, sequential: bool) -> int:
        """Open a staged file, unless its owner lives."""
        fd = os.open(path, os.O_RDWR | _BINARY)
        header = None
        if not sequential:
            header = _read_header(fd, self._size, self._key) or _header_of_other_size(fd, self._key)
        owner = header.owner if header else signature(fd)
        if judge(path, fd, owner, released=header is not None and header.released) == "alive":
            stat = os.fstat(fd)
            if (
                owner == current_owner()
            ):  # this very process; it may not have had the room to say that it let go
                alive = (stat.st_dev, stat.st_ino) in _open_here
            else:
                # A living owner's file has a header, or is locked: without either, it was cut or overwritten.
                owned = header is not None or (stat.st_size > 0 and not try_lock(fd))
                alive = sequential or owned or time.time() - stat.st_mtime < _BIRTH
            if alive:
                os.close(fd)
                raise StagedElsewhereError(path, owner)
        return fd

    def private_name(self) -> Path:
        """A name for the staged file that nobody else has."""
        return self._private(_SEQUENTIAL if self._sequential else _OFFSET)

    def _private(self, kind: str) -> Path:
        return _private_name(self._target.parent, self._key, kind)


def _private_name(directory: Path, key: str, kind: str) -> Path:
    """A name that only this process gives: the low bits of its digits are the process's id, the others random."""
    while True:
        digits = f"{secrets.randbits(32) & ~_PID_BITS | os.getpid() & _PID_BITS:08x}"
        path = directory / f"{key}.{digits}{kind}"
        if not os.path.lexists(path):  # those bits are few, and a rename would replace what is there
            return path


def _name_giver(name: str) -> int | None:
    """Id of the process that gave a staged file a private name; 0 says that anybody may have it."""
    match = _NAME.fullmatch(name)
    return int(match[2], 16) & _PID_BITS if match is not None and match[2] else None


@contextlib.contextmanager
def _alone(directory: Path, key: str) -> Iterator[None]:
    """Have one thread of this process at a time take over what is left of a key.

    Raises:
        StagedElsewhereError: Another thread is about it.
    """
    with _taking_over_lock:
        if (directory, key) in _taking_over:
            raise StagedElsewhereError(directory / key, current_owner())
        _taking_over.add((directory, key))
    try:
        yield
    finally:
        with _taking_over_lock:
            _taking_over.discard((directory, key))


def _rename(path: Path, private: Path) -> None:
    try:
        os.rename(path, private)
    except PermissionError as error:  # pragma: no cover - Windows: somebody has it open
        raise StagedElsewhereError(path, None) from error


def _move_back(private: Path, path: Path) -> None:
    """Give a file its name back, unless somebody claimed the name meanwhile."""
    with contextlib.suppress(OSError):
        os.link(private, path)
        os.unlink(private)


def _copy(old: StagedFile) -> StagedFile:
    """Copy what a staged file holds into a new one, and unlink the old.

    Its owner may only be asleep on another host. If it wakes up, it writes into the unlinked file.
    """
    kind = _SEQUENTIAL if old.sequential else _OFFSET
    path = _private_name(old.path.parent, old.key, kind)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    new = StagedFile(path, old.key, old.size, fd, sequential=old.sequential)
    new.version = old.version
    new._take_over()  # noqa: SLF001  the module's own class
    buffer = memoryview(bytearray(1 << 20))
    for run in list(old._done):  # noqa: SLF001  the module's own class
        at = run.start
        while at < run.stop:
            got = old.read_into(at, buffer[: min(len(buffer), run.stop - at)])
            if not got:
                break
            new.write(at, buffer[:got])
            new.record(at, at + got)
            at += got
    new.resumed = new.done
    old.delete()
    return new
