"""A staged file: bytes at offsets, and a record of them that survives a crash.

The problem. A download of hours is killed, its container is restarted on another host, two jobs share a
cache on a file system whose locks lie. Whatever happens, a byte that was fetched once should not be fetched
again, and a wrong byte must never reach a name that somebody reads.

What we chose. One file holds both, the bytes and the record of what is done:

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
name that it is taken. Where death cannot be proven, only its bytes are copied, and so they are of an owner that is
there and does nothing, because it was stopped: a sleeper that wakes up writes into a file nobody will publish. The staged file is renamed to a private name, and its identity compared, before it is
published. Whoever is killed between two of these steps leaves a private name behind: the next run scans for those,
keeps the one that holds the most, and removes the rest.

Others may write to the folder, too: a cache is shared by several users. So no name in it is followed as a link, what a
header says is checked before it is used, and a file that somebody else could go on writing into (of another user, or
with a second name) is copied from and never becomes ours.

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
import reprlib
import secrets
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final

from hf_haul.descriptors import descriptors
from hf_haul.errors import DiskFullError, HaulError
from hf_haul.forks import call_after_fork
from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.storage.file_names import PASSING, name_giver, process_digits
from hf_haul.storage.mounts import keeps_writes
from hf_haul.storage.ownership import (
    Life,
    Owner,
    OwnerWatch,
    current_owner,
    erase,
    is_running,
    judge,
    owner_from,
    sign,
    signature,
    try_lock,
)
from hf_haul.storage.regular_files import open_regular

__all__ = [
    "StagedElsewhereError",
    "StagedFile",
    "StagedLostError",
    "claim",
    "scan_orphans",
    "sweep",
    "sweep_partials_of_upstream",
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

#: Seconds between two looks whether a file is still ours while it is written.
_LOOK_INTERVAL: Final = 15.0

#: Seconds that a living process gets to publish a complete file.
_PUBLICATION: Final = 10.0
#: Seconds after which a file that is still empty is nobody's: its header follows its creation at once.
_BIRTH: Final = 3.0
#: Seconds that a living process gets to say that it owns a file after it gave it a private name.
_TAKEOVER: Final = 2.0

#: Seconds for which a partial file of huggingface_hub's must not have changed to be nobody's.
_PARTIAL_AGE: Final = 86400.0

#: Bytes copied in one step.
_COPY_STEP: Final = 1 << 20

_SUFFIX: Final = ".incomplete"
#: Names of staged files: ``<key>[.<eight hex digits>]<kind>``; the digits tell which process gave the name.
_OFFSET: Final = ".haul" + _SUFFIX
_SEQUENTIAL: Final = ".seq" + _SUFFIX
_SEALED: Final = ".sealed" + _SUFFIX
_NAME: Final = re.compile(r"(.+?)(?:\.([0-9a-f]{8}))?\.(?:haul|seq|sealed)\.incomplete", re.DOTALL)
#: Seconds without a change after which nobody writes into a file that was made to be renamed at once.
_PASSING_AGE: Final = 120.0
_PARTIAL_OF_UPSTREAM: Final = re.compile(r"(.+?)(?:\.[0-9a-f]{8})?\.incomplete", re.DOTALL)


#: The staged files that are open in this process, by device and inode.
_open_here: Final[set[tuple[int, int]]] = set()
descriptors.register(_open_here, len)

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
        who: The same in words.
    """

    def __init__(self, path: Path, owner: Owner | None) -> None:
        self.owner = owner
        self.who = f"process {owner.pid} on {owner.host}" if owner else "another process"
        super().__init__(f"{path.name} is being fetched by {self.who}")


def _identity_of(status: os.stat_result) -> tuple[int, int]:
    return (status.st_dev, status.st_ino)


def is_open_here(status: os.stat_result) -> bool:
    """Whether a staged file is open in this process."""
    return _identity_of(status) in _open_here


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
        former_keys: Other keys by which its header may call it.
    """

    def __init__(self, path: Path, key: str, size: int, fd: int, *, sequential: bool) -> None:
        self.path = path
        self.key = key
        self.size = size
        self.sequential = sequential
        self.resumed = 0
        self.version: str | None = None
        self.former_keys: Sequence[str] = ()
        self._fd = fd
        self._lock = threading.Lock()
        self._done = RangeSet()
        self._nonce = secrets.randbits(32)
        self._journal_end = size + _HEADER_SIZE
        self._last_beat = self._last_look = time.monotonic()
        self._adding = threading.Lock()
        self._journal_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._identity = _identity_of(os.fstat(fd))
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
            self._append(start, stop)

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
                    self._write_header()
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
            self._write_header()
            for run in kept:
                self._append(run.start, run.stop)

    # ---- life

    def take_over(self) -> None:
        """Become the owner: lock, and say so in the header."""
        try_lock(self._fd)
        if self.sequential:
            self._touch()
            sign(self._fd)
        else:
            with self._explained():
                self._write_header()

    def load(self, *, trust: bool) -> None:
        """Read the claims that an earlier owner left."""
        length = os.fstat(self._fd).st_size
        if self.sequential:
            self._done = RangeSet([ByteRange(0, min(length, self.size))] if trust else [])
            if length > self._done.total:
                os.ftruncate(self._fd, self._done.total)
        else:
            header = _read_header(self._fd, self.size, (self.key, *self.former_keys))
            if header is not None and trust:
                self._nonce = header.nonce
                self.version = header.version
                self._done, self._journal_end = _read_claims(self._fd, self.size, self._nonce)
            else:
                os.ftruncate(self._fd, self.size + _HEADER_SIZE)
        self.resumed = self._done.total

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
                    self._touch()

    def require_ours(self) -> None:
        """Look now and then whether another process has taken the file: what is written into it then is written in vain.

        Raises:
            StagedLostError: One has, because this process was asleep, or could not be seen.
        """
        now = time.monotonic()
        if now - self._last_look >= _LOOK_INTERVAL:
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
        private = _private_name(self.path.parent, self.key, _SEALED)
        try:
            # Not through a link: what would be published is the link.
            if _identity_of(os.lstat(self.path)) != self._identity:
                raise StagedLostError(f"{self.path} was replaced by another process")
            if sys.platform == "win32":  # pragma: no cover - open files cannot be renamed there
                self._close_fd()
            os.rename(self.path, private)
            if _identity_of(os.lstat(private)) != self._identity:
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
                    self._touch((0, 0))
                else:
                    self._write_header(released=True)
            self.let_go()

    def delete(self) -> None:
        """Remove the file from disk, if it is still ours."""
        with contextlib.suppress(OSError):
            if self.is_ours():
                if sys.platform == "win32":  # pragma: no cover
                    self.let_go()
                os.unlink(self.path)
        self.let_go()

    def is_ours(self) -> bool:
        """Whether the name still leads to this file: nobody took or removed it."""
        with contextlib.suppress(FileNotFoundError):
            return _identity_of(os.lstat(self.path)) == self._identity
        return False

    def let_go(self) -> None:
        """Close the file where it will not be published: what the system has to say then is nobody's error."""
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

    def _touch(self, times: tuple[float, float] | None = None) -> None:
        # By its name it might be another's file by now, or a link.
        os.utime(self._fd if os.utime in os.supports_fd else self.path, times)

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

    def _write_header(self, *, released: bool = False) -> None:
        header = pack_header(self.key, self.size, self._nonce, self.version, released=released)
        self._write_all(memoryview(header), self.size)

    def _append(self, start: int, stop: int) -> None:
        record = pack_record(start, stop, self._nonce)
        self._write_all(memoryview(record), self._journal_end)
        self._journal_end += len(record)


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


def pack_header(key: str, size: int, nonce: int, version: str | None, *, released: bool) -> bytes:
    """The header of a staged file: what content it is for, and that this process owns it, or has let go of it."""
    about = {
        "key": _short(key),
        "size": size,
        "nonce": nonce,
        "version": version,
        "owner": _fields_of(current_owner()),
    }
    body = json.dumps(about, separators=(",", ":")).encode()
    head = _HEADER.pack(_MAGIC, b"R" if released else b"O", len(body), zlib.crc32(body)) + body
    return head.ljust(_HEADER_SIZE, b"\0")


def _read_header(fd: int, size: int, keys: Sequence[str]) -> _Header | None:
    """The header of a staged file for exactly this content, or ``None``."""
    try:
        raw = _read_at(fd, size, _HEADER_SIZE)
        magic, status, length, crc = _HEADER.unpack_from(raw)
        body = raw[_HEADER.size : _HEADER.size + length]
        if magic != _MAGIC or zlib.crc32(body) != crc:
            return None
        about = json.loads(body)
        if about["key"] not in map(_short, keys) or about["size"] != size:
            return None
        nonce, version = about["nonce"], about["version"]
        if type(nonce) is not int or not 0 <= nonce < 1 << 32:
            raise ValueError(f"a nonce of {reprlib.repr(nonce)}")
        if version is not None and not isinstance(version, str):
            raise ValueError(f"a version of {reprlib.repr(version)}")
        return _Header(owner_from(about["owner"]), nonce, status == b"R", version)
    except (OSError, struct.error):  # shorter than that
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logger.debug("a header for %s that makes no sense is ignored: %s", keys[0], error)
        return None


def pack_record(start: int, stop: int, nonce: int) -> bytes:
    """A record of the journal: these bytes are there."""
    return _RECORD.pack(start, stop, zlib.crc32(b"%d-%d" % (start, stop), nonce))


def _read_claims(fd: int, size: int, nonce: int) -> tuple[RangeSet, int]:
    """What a journal claims, and where it ends. A torn or foreign record claims nothing."""
    done, at = RangeSet(), size + _HEADER_SIZE
    stop_at = os.fstat(fd).st_size
    while at < stop_at:
        block = _read_at(fd, at, _RECORD.size * 4096)
        usable = len(block) - len(block) % _RECORD.size
        valid = False
        for start, stop, crc in _RECORD.iter_unpack(block[:usable]):
            if start < stop <= size and zlib.crc32(b"%d-%d" % (start, stop), nonce) == crc:
                done.add(start, stop)
                valid = True
        if not valid:  # no journal of ours: a hole of a terabyte, perhaps
            break
        at += usable
    return done, at


def _read_at(fd: int, offset: int, length: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    os.lseek(fd, offset, os.SEEK_SET)  # pragma: no cover - Windows
    return os.read(fd, length)  # pragma: no cover - Windows


def _header_of_other_size(fd: int, keys: Sequence[str]) -> _Header | None:
    """The header of a staged file for the same key and another size: the source has changed since, and nobody knew how."""
    with contextlib.suppress(OSError):
        start = max(0, os.fstat(fd).st_size - _TAIL)
        at = _read_at(fd, start, _TAIL).rfind(_MAGIC)
        if at >= 0:
            return _read_header(fd, start + at, keys)
    return None


def scan_orphans(directory: Path) -> dict[str, list[Path]]:
    """Staged files in a folder, by key: what earlier processes left.

    One listing serves a whole queue; :func:`claim` takes each key's share. Symbolic links are passed over, because no
    process of ours stages through one, but for those that were about to be renamed.
    """
    found: dict[str, list[Path]] = {}
    with contextlib.suppress(OSError), descriptors.patiently(lambda: os.scandir(directory)) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)  # huggingface_hub's own end in .incomplete, too
            if match is not None and (match[1] == PASSING or not entry.is_symlink()):
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
    former_keys: Sequence[str] = (),
    watch: OwnerWatch | None = None,
    check: Callable[[], None] = lambda: None,
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
        former_keys: Other keys that earlier versions of hf-haul gave the same content; their files count as its own.
        watch: Remembers from call to call what living owners do: of one that is asleep the bytes are copied. Without,
            none ever is.
        check: Called now and then while bytes are copied; raises to end it.

    Raises:
        StagedElsewhereError: A living process has it.
        DiskFullError: The disk is full.
        OSError: The folder cannot be written.
    """
    target = directory / (key + (_SEQUENTIAL if sequential else _OFFSET))
    left = [target, *(path for path in orphans if path != target)] if orphans else []
    left = [path for path in left if not path.is_symlink()]  # writing through one would end up anywhere
    adopter = _Adopter(
        target,
        key,
        size,
        former_keys=former_keys,
        sequential=sequential,
        resume=resume,
        digest_known=digest_known,
        watch=watch,
        check=check,
    )
    for _ in range(100):
        staged = adopter.best_of(left)
        if staged is not None:
            return _settle(staged, target, keep=resume)
        if left:  # renamed under our eyes: see what became of it
            found = scan_orphans(directory)
            left = [path for each in (key, *former_keys) for path in found.get(each, ())]
            left = [path for path in left if path not in adopter.refused]
            if left:
                continue
        try:
            return _create(target, key, size, sequential=sequential, check=check)
        except FileNotFoundError:
            directory.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if target.is_symlink() or target in adopter.refused:  # neither to be followed nor removed
                logger.info("%s is not a file of ours; using another name", target)
                target = adopter.private_name()
            else:
                left = [target]
    raise StagedElsewhereError(target, None)


def sweep(
    directory: Path, sizes: Mapping[str, int], replaces: Callable[[str], bool] = lambda _: False
) -> None:
    """Remove what dead processes left of files that are in place by now.

    Args:
        directory: Where staged files live.
        sizes: Bytes of each file in place, by key.
        replaces: Whether a key is of another version of such a file.
    """
    for key, paths in scan_orphans(directory).items():
        if key == PASSING:
            for path in paths:
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    # A process that we cannot see may be writing into it.
                    old = not status.st_size or time.time() - status.st_mtime > _PASSING_AGE
                    if old and not is_running(_name_giver(path.name) or 0):
                        os.unlink(path)
        elif key in sizes or replaces(key):
            adopter = _Adopter(directory / (key + _OFFSET), key, sizes.get(key, -1))
            with contextlib.suppress(StagedElsewhereError):  # another thread takes it over
                adopter.remove(paths)


def sweep_partials_of_upstream(directory: Path, locks: Mapping[str, Path]) -> None:
    """Remove what huggingface_hub left of files that are in place by now, where that is surely nobody's any more.

    Its partial files do not say whose they are. They go if nothing has changed about them for a day and the lock under which
    they are written can be had; and only from file systems of this host, where that means something.

    Args:
        directory: Where it keeps them, as ``<key>.incomplete`` or ``<key>.<eight hex digits>.incomplete``.
        locks: What it locks meanwhile, by key.
    """
    if not locks or not keeps_writes(directory):
        return
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            match = _PARTIAL_OF_UPSTREAM.fullmatch(entry.name)
            if match is None or match[1] not in locks or _NAME.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError), _locked_for_upstream(locks[match[1]]) as locked:
                status = os.lstat(entry.path)
                if locked and S_ISREG(status.st_mode) and time.time() - status.st_mtime > _PARTIAL_AGE:
                    os.unlink(entry.path)
                    logger.info("removed %s, which nobody has touched for a day", entry.path)


@contextlib.contextmanager
def _locked_for_upstream(path: Path) -> Iterator[bool]:
    """Hold a lock of huggingface_hub's, if it can be had at once; where there is no such file, nobody holds it."""
    try:
        fd = open_regular(path, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    try:
        # Where it has no real locks, it takes a file with something in it for one.
        yield os.fstat(fd).st_size == 0 and try_lock(fd)
    finally:
        os.close(fd)


def _create(
    path: Path, key: str, size: int, *, sequential: bool, check: Callable[[], None] = lambda: None
) -> StagedFile:
    """Make a staged file that was not there.

    Raises:
        FileExistsError: Something was there.
        FileNotFoundError: The folder is not there.
        OSError: The folder cannot be written.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY
    fd = descriptors.patiently(lambda: os.open(path, flags, 0o666), check)
    staged = StagedFile(path, key, size, fd, sequential=sequential)
    try:
        staged.take_over()
    except BaseException:
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


@dataclass(frozen=True, slots=True)
class _Left:
    """A staged file that somebody left, open and judged.

    Attributes:
        path: Its name; ours alone, if it could be renamed.
        name: The name under which it was found.
        fd: It, open; only for reading if that is all we may.
        header: What it says about itself.
        owner: Whose it is, as far as it says.
        life: Whether that owner is gone, or may come back: ``stale``.
        shared: Whether somebody else could go on writing into it.
    """

    path: Path
    name: Path
    fd: int
    header: _Header | None
    owner: Owner | None
    life: Life
    shared: bool

    @property
    def sequential(self) -> bool:
        return self.name.name.endswith(_SEQUENTIAL)

    @property
    def sealed(self) -> bool:
        return self.name.name.endswith(_SEALED)

    @property
    def only_to_copy(self) -> bool:
        return self.shared or self.life == "stale"

    def remove(self) -> None:
        """Close it and remove it, unless its name leads elsewhere by now."""
        identity = os.fstat(self.fd)
        os.close(self.fd)  # Windows removes no open files
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self.path), identity):
                os.unlink(self.path)


class _Adopter:
    """Takes over what dead owners left of one key.

    A file becomes ours only if nobody else can write into it: it is of our own user, and has one name. Of any other
    file the bytes are copied.

    Attributes:
        refused: What we have no right to, or what is no file.
    """

    def __init__(
        self,
        target: Path,
        key: str,
        size: int,
        *,
        former_keys: Sequence[str] = (),
        sequential: bool = False,
        resume: bool = True,
        digest_known: bool = False,
        watch: OwnerWatch | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._target = target
        self._key = key
        self._keys = (key, *former_keys)
        self._size = size
        self._sequential = sequential
        self._resume = resume
        self._digest_known = digest_known
        self._watch = watch
        self._check = check
        self.refused: set[Path] = set()

    def best_of(self, paths: list[Path]) -> StagedFile | None:
        """The one of ``paths`` that holds the most, adopted; the others are removed.

        Raises:
            StagedElsewhereError: One of them has a living owner.
        """
        if not paths:
            return None
        with _alone(self._target.parent, self._key):
            return self._best_of(self._of_one_name_each(paths))

    def remove(self, paths: list[Path]) -> None:
        """Remove those whose owner is gone; the others stay."""
        with _alone(self._target.parent, self._key):
            for path in self._of_one_name_each(paths):
                with contextlib.suppress(StagedElsewhereError, OSError):  # somebody wants it; or no rights
                    self._require_settled(path)
                    self._take(path).remove()

    def _of_one_name_each(self, paths: list[Path]) -> list[Path]:
        """The same without second names of one file, which are removed: somebody was killed between a link and an unlink."""
        seen: set[tuple[int, int]] = set()
        kept = []
        for path in sorted(paths, key=lambda each: each != self._target):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if (status.st_dev, status.st_ino) in seen:
                    os.unlink(path)
                else:
                    seen.add((status.st_dev, status.st_ino))
                    kept.append(path)
        return kept

    def _best_of(self, paths: list[Path]) -> StagedFile | None:
        best: StagedFile | None = None
        try:
            for path in paths:
                with contextlib.suppress(FileNotFoundError):  # published, or adopted, meanwhile
                    try:
                        staged = self._adopt(path)
                    except (PermissionError, IsADirectoryError) as error:
                        # Another user's, in a cache that several share, or no file at all: go on without it.
                        logger.info("%s cannot be taken over: %s", path, error)
                        self.refused.add(path)
                        continue
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
        left = self._take(path)
        if left.sealed:
            return self._unseal(left)
        if left.sequential != self._sequential or (left.header is None and not left.sequential):
            # Of the other kind; or killed before its header was written: nothing in it can be told from a hole.
            left.remove()
            return None
        same_boot = left.owner is not None and left.owner.boot == current_owner().boot
        trust = self._resume and (self._digest_known or (same_boot and not left.shared))
        if left.only_to_copy:
            if trust:
                return self._copy(left, self._claims_of(left))
            left.remove()
            return None
        staged = StagedFile(left.path, self._key, self._size, left.fd, sequential=left.sequential)
        staged.former_keys = self._keys[1:]
        staged.load(trust=trust)
        staged.take_over()
        return self._still_ours(staged)

    def _claims_of(self, left: _Left) -> RangeSet:
        """What a file holds that is only copied from."""
        if left.header is not None:
            return _read_claims(left.fd, self._size, left.header.nonce)[0]
        length = min(os.fstat(left.fd).st_size, self._size)
        return RangeSet([ByteRange(0, length)] if length else [])

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
        status = os.lstat(path)
        if time.time() - status.st_ctime < time_to_act and is_running(by) and not self._is_asleep(status):
            raise StagedElsewhereError(path, replace(current_owner(), pid=by, started=""))

    def _is_asleep(self, status: os.stat_result) -> bool:
        return self._watch is not None and self._watch.is_asleep(status)

    def _still_ours(self, staged: StagedFile) -> StagedFile:
        """Look once more after a takeover: who was held up in it for long may have been robbed.

        Raises:
            StagedElsewhereError: Another process gave the file a name of its own meanwhile.
        """
        if not staged.is_ours():
            staged.let_go()
            raise StagedElsewhereError(staged.path, None)
        return staged

    def _unseal(self, left: _Left) -> StagedFile | None:
        """Take over a complete file that was never published; its name says so until its new journal does."""
        length = os.fstat(left.fd).st_size
        # Killed between the rename and the cut, it still has its journal, which says the same.
        if length < self._size or not (self._digest_known and self._resume):
            left.remove()
            return None
        if left.shared:
            return self._copy(left, RangeSet([ByteRange(0, self._size)] if self._size else []))
        staged = StagedFile(left.path, self._key, self._size, left.fd, sequential=self._sequential)
        os.ftruncate(left.fd, self._size)
        staged.take_over()
        self._still_ours(staged)
        staged.record(0, self._size)
        staged.resumed = self._size
        with contextlib.suppress(PermissionError):  # Windows renames no open files
            path = self.private_name()
            os.rename(left.path, path)
            staged.path = path
        return staged

    def _take(self, path: Path) -> _Left:
        """Give a file whose owner is gone a name of our own, so that nobody else takes it, too.

        Raises:
            StagedElsewhereError: It has a living owner, or another process takes it.
            PermissionError: It is of no use to us.
        """
        first = self._look(path, path)
        os.close(first.fd)  # Windows renames no open files
        private = self._private(
            next(kind for kind in (_SEQUENTIAL, _SEALED, _OFFSET) if path.name.endswith(kind))
        )
        try:
            _rename(path, private)  # succeeds for one process only
        except (PermissionError, StagedElsewhereError):
            if first.only_to_copy:  # that takes no more than to read it
                return self._look(path, path)
            raise
        left: _Left | None = None
        try:
            # Somebody may have claimed or adopted the name between our look and our rename: look again.
            left = self._look(private, path)
            if left.life != "stale" and not try_lock(left.fd):
                # Another adopter, from where process ids are others.
                if not self._is_asleep(os.fstat(left.fd)):
                    raise StagedElsewhereError(private, None)
                left = replace(left, life="stale")
        except StagedElsewhereError:
            if left is not None:
                os.close(left.fd)
            _move_back(private, path)
            raise
        return left

    def _look(self, path: Path, name: Path) -> _Left:
        """Open a file and judge its owner.

        Args:
            path: The file.
            name: The name under which it was found.

        Raises:
            StagedElsewhereError: It has a living owner.
            PermissionError: It may not be read, or is no regular file.
        """
        try:
            fd = open_regular(path, os.O_RDWR, check=self._check)
        except PermissionError:
            fd = open_regular(path, os.O_RDONLY, check=self._check)
        try:
            left = self._judge(path, name, fd)
        except BaseException:
            os.close(fd)
            raise
        return left

    def _judge(self, path: Path, name: Path, fd: int) -> _Left:
        status = os.fstat(fd)
        shared = _is_shared(status, path.parent)
        if name.name.endswith(_SEALED):  # its name says all
            return _Left(path, name, fd, None, None, "dead", shared)
        sequential = name.name.endswith(_SEQUENTIAL)
        header = None if sequential else _read_header(fd, self._size, self._keys)
        other = header if header is not None or sequential else _header_of_other_size(fd, self._keys)
        owner = signature(fd) if other is None else other.owner
        life = judge(path, fd, owner, released=other is not None and other.released)
        if life == "alive":
            if (
                owner == current_owner()
            ):  # this very process; it may not have had the room to say that it let go
                alive = is_open_here(status)
            else:
                # A living owner's file has a header, or is locked: without either, it was cut or overwritten.
                owned = other is not None or (status.st_size > 0 and not try_lock(fd))
                alive = sequential or owned or time.time() - status.st_mtime < _BIRTH
            if alive and not self._is_asleep(status):
                raise StagedElsewhereError(path, owner)
            life = "stale" if alive else "dead"
        return _Left(path, name, fd, header, owner, life, shared)

    def _copy(self, left: _Left, done: RangeSet) -> StagedFile | None:
        """Copy what a file holds into a new one, and remove the old.

        Its owner may only be asleep on another host. If it wakes up, it writes into the removed file.

        Returns:
            ``None`` if that owner woke up meanwhile and began anew.
        """
        fd = -1
        new: StagedFile | None = None
        try:
            path = self.private_name()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY
            fd = descriptors.patiently(lambda: os.open(path, flags, 0o666), self._check, own=1)
            new = StagedFile(path, self._key, self._size, fd, sequential=self._sequential)
            new.version = None if left.header is None else left.header.version
            new.take_over()
            for run in list(done):
                for at in range(run.start, run.stop, _COPY_STEP):
                    self._check()
                    data = _read_at(left.fd, at, min(_COPY_STEP, run.stop - at))
                    new.write(at, memoryview(data))
                    new.record(at, at + len(data))
            new.resumed = new.done
        except BaseException:
            if new is not None:
                new.delete()
            os.close(left.fd)
            _move_back(left.path, left.name)
            raise
        if left.life == "stale":
            who = f"process {left.owner.pid} on {left.owner.host}" if left.owner else "another process"
            logger.info("%s: %s has stood still for long; going on from a copy", left.name.name, who)
        now = None if left.header is None else _read_header(left.fd, self._size, self._keys)
        if left.header is not None and (now is None or now.nonce != left.header.nonce):
            new.delete()
            os.close(left.fd)
            _move_back(left.path, left.name)
            return None
        left.remove()
        return new

    def private_name(self) -> Path:
        """A name for the staged file that nobody else has."""
        return self._private(_SEQUENTIAL if self._sequential else _OFFSET)

    def _private(self, kind: str) -> Path:
        return _private_name(self._target.parent, self._key, kind)


def _is_shared(status: os.stat_result, folder: Path) -> bool:
    """Whether others could go on writing into a file after we took it over: it is not ours alone."""
    if status.st_nlink > 1:
        return True
    if sys.platform == "win32" or status.st_uid == os.geteuid():
        return False
    # Some file systems tell of one owner, whoever makes a file.
    try:
        probe = _private_name(folder, PASSING, _OFFSET)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        fd = descriptors.patiently(lambda: os.open(probe, flags, 0o600), own=1)
    except OSError:
        return True
    try:
        os.unlink(probe)
        return os.fstat(fd).st_uid != status.st_uid
    finally:
        os.close(fd)


def _private_name(directory: Path, key: str, kind: str) -> Path:
    """A name that only this process gives."""
    while True:
        path = directory / f"{key}.{process_digits()}{kind}"
        if not os.path.lexists(path):  # those bits are few, and a rename would replace what is there
            return path


def _name_giver(name: str) -> int | None:
    """Id of the process that gave a staged file a private name; 0 says that anybody may have it."""
    match = _NAME.fullmatch(name)
    return name_giver(match[2]) if match is not None and match[2] else None


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
    except PermissionError as error:
        if sys.platform == "win32":  # pragma: no cover - somebody has it open
            raise StagedElsewhereError(path, None) from error
        raise


def _move_back(private: Path, path: Path) -> None:
    """Give a file its name back, unless somebody claimed the name meanwhile."""
    if private == path:
        return
    with contextlib.suppress(OSError):
        os.link(private, path)
        os.unlink(private)
