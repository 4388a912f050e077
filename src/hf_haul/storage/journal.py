"""The end of a staged file: a header that names the owner, and records of the bytes that are done."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import reprlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from hf_haul.ranges import RangeSet
from hf_haul.storage.ownership import Owner, current_owner, owner_from

__all__ = [
    "HEADER_SIZE",
    "Header",
    "header_of_other_size",
    "kept_version",
    "pack_header",
    "pack_record",
    "read_at",
    "read_header",
    "read_records",
]

logger = logging.getLogger(__name__)

_MAGIC: Final = b"hf-haul1"
HEADER_SIZE: Final = 512
_HEADER: Final = struct.Struct("<8scxxxII")  # magic, O(wned) or R(eleased), length and crc of the JSON
#: Bytes at the end of a file of unknown size in which its header is looked for, before its journal: one of a
#: terabyte has some 40 MB of records.
_TAIL: Final = 64 << 20
#: Bytes looked through at a time.
_TAIL_STEP: Final = 256 << 10
_RECORD: Final = struct.Struct("<QQI")  # start, stop, crc of both and the file's nonce
_COMPACT: Final = json.JSONEncoder(separators=(",", ":"))  # one for all: making it costs as much as using it
#: Characters of a version that are kept; the header has a fixed size.
_VERSION_LIMIT: Final = 64
#: Characters that those may take in JSON, where some letters take six.
_VERSION_ROOM: Final = 100


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a staged file.

    Attributes:
        owner: The process that fetched it last, or does.
        nonce: What the records of its journal are made with; those of another are void.
        released: Whether the owner has let go of it.
        version: What its source called the version of its bytes, where that was noted.
        uri: What people call the file, such as ``hf://org/name@commit/a.bin``; empty where it was not noted.
        size: Bytes of the whole file.
    """

    owner: Owner | None
    nonce: int
    released: bool
    version: str | None
    uri: str
    size: int


@functools.lru_cache(maxsize=2)
def _packed(owner: Owner) -> str:
    return _COMPACT.encode(asdict(owner))


def kept_version(version: str) -> str:
    """Return a version of any length, or a digest of it, that fits the header."""
    kept = version[:_VERSION_LIMIT]
    if len(json.dumps(kept)) > _VERSION_ROOM:
        return hashlib.sha256(version.encode("utf-8", "surrogatepass")).hexdigest()
    return kept


def _short(key: str) -> str:
    """Return a digest of a key of any length, for the header, whose size is fixed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def pack_header(
    key: str, size: int, nonce: int, version: str | None, uri: str = "", *, released: bool
) -> bytes:
    """Return the header of a staged file for its content and owner: this process, or none.

    The URI is for people only, and is left out where it does not fit.
    """
    # Put together from texts: each of many small files has one, and most of it is the same for all.
    about = (
        f'{{"key":"{_short(key)}","size":{size},"nonce":{nonce},"version":{_COMPACT.encode(version)},'
        f'"owner":{_packed(current_owner())}'
    )
    body = (f'{about},"uri":{_COMPACT.encode(uri)}}}' if uri else f"{about}}}").encode()
    if len(body) > HEADER_SIZE - _HEADER.size:
        body = f"{about}}}".encode()
    head = _HEADER.pack(_MAGIC, b"R" if released else b"O", len(body), zlib.crc32(body)) + body
    return head.ljust(HEADER_SIZE, b"\0")


def read_header(fd: int, size: int, keys: Sequence[str]) -> Header | None:
    """Return the header of a staged file for exactly this content, or ``None``."""
    try:
        raw = read_at(fd, size, HEADER_SIZE)
        magic, status, length, crc = _HEADER.unpack_from(raw)
        body = raw[_HEADER.size : _HEADER.size + length]
        if magic != _MAGIC or zlib.crc32(body) != crc:
            return None
        about = json.loads(body)
        if about["key"] not in map(_short, keys) or about["size"] != size:
            return None
        nonce, version = about["nonce"], about["version"]
        if type(nonce) is not int or not 0 <= nonce < 1 << 32:
            raise ValueError(f"invalid nonce {reprlib.repr(nonce)}")
        if version is not None and not isinstance(version, str):
            raise ValueError(f"invalid version {reprlib.repr(version)}")
        uri = about.get("uri")  # earlier versions note none
        return Header(
            owner=owner_from(about["owner"]),
            nonce=nonce,
            released=status == b"R",
            version=version,
            uri=uri if isinstance(uri, str) else "",
            size=size,
        )
    except (OSError, struct.error):  # shorter than that
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logger.debug("ignoring an invalid header for %s: %s", keys[0], error)
        return None


def pack_record(start: int, stop: int, nonce: int) -> bytes:
    """Return the journal's record of a run of bytes."""
    return _RECORD.pack(start, stop, zlib.crc32(b"%d-%d" % (start, stop), nonce))


def read_records(fd: int, size: int, nonce: int) -> tuple[RangeSet, int]:
    """Return the bytes that a journal records, and where it ends.

    Torn or foreign records count for nothing.
    """
    done, at = RangeSet(), size + HEADER_SIZE
    stop_at = os.fstat(fd).st_size
    while at < stop_at:
        block = read_at(fd, at, _RECORD.size * 4096)
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


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Read from an offset, wherever the descriptor stands."""
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    os.lseek(fd, offset, os.SEEK_SET)  # pragma: no cover - Windows
    return os.read(fd, length)  # pragma: no cover - Windows


def header_of_other_size(fd: int, keys: Sequence[str]) -> Header | None:
    """Return the header of a staged file for the same key and any size, as after an unnoticed change."""
    with contextlib.suppress(OSError):
        length = stop = os.fstat(fd).st_size
        while stop > max(0, length - _TAIL):
            start = max(0, stop - _TAIL_STEP)
            block = read_at(fd, start, stop - start + len(_MAGIC) - 1)
            at = len(block)
            while (at := block.rfind(_MAGIC, 0, at)) >= 0:
                header = read_header(fd, start + at, keys)
                if header is not None:
                    return header
            stop = start
    return None
