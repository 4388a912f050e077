"""Digests as the Hub announces them, and how they are computed: the one place that knows git's header."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast

from hf_haul.descriptors import descriptors

__all__ = [
    "Algorithm",
    "Digest",
    "ReadInto",
    "RunningHash",
    "file_digest",
    "hash_of",
    "new_hash",
    "read_digest",
]

#: Bytes read at a time, as the verifier reads them back.
_BLOCK: Final = 1 << 20

#: Fills a buffer from an offset of a file; returns the number of bytes.
ReadInto = Callable[[int, memoryview], int]

Algorithm = Literal["sha256", "git-sha1", "sha1", "md5"]
#: How many hex digits a digest has.
_LENGTHS: Final[Mapping[str, int]] = {"sha256": 64, "git-sha1": 40, "sha1": 40, "md5": 32}
_ALGORITHMS: Final = ", ".join(_LENGTHS)

_HEX: Final = frozenset("0123456789abcdef")
#: sha256, sha1 and md5 of no bytes, and git's object id of them.
_OF_NOTHING: Final = frozenset({
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "d41d8cd98f00b204e9800998ecf8427e", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Digest:
    r"""The digest that a source announces for a file, or that a user knows it by.

    Attributes:
        algorithm: ``sha256`` of the bytes (LFS and Xet files), or ``git-sha1``: the sha1 of
            ``blob <size>\0`` and the bytes (git's object id, for the others). Elsewhere than on a Hub also
            ``sha1`` and ``md5`` of the bytes.
        value: Lower-case hex digits.
    """

    algorithm: Algorithm
    value: str

    def __post_init__(self) -> None:
        length = _LENGTHS.get(self.algorithm)
        if length is None:
            raise ValueError(f"unknown digest algorithm {self.algorithm!r}: use {_ALGORITHMS}")
        if len(self.value) != length or not _HEX.issuperset(self.value):
            raise ValueError(f"not a {self.algorithm} digest of {length} hex digits: {self.value!r}")

    @property
    def is_of_nothing(self) -> bool:
        """Whether it is that of an empty file."""
        return self.value in _OF_NOTHING


def read_digest(text: str) -> Digest:
    """Return the digest that a text such as ``md5:HEX`` means; hex digits alone are sha256, or git's sha1.

    Raises:
        ValueError: It is none.
    """
    name, colon, value = text.strip().lower().partition(":")
    if not colon:
        name, value = ("git-sha1" if len(name) == _LENGTHS["git-sha1"] else "sha256"), name
    return Digest(cast("Algorithm", name), value)


class RunningHash(Protocol):
    """A digest that is being computed: what all of hashlib's have in common."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the digest of the bytes so far."""


def new_hash(algorithm: str, size: int) -> RunningHash:
    """Return a new hash: as :class:`Digest` has them; ``git-sha1`` begins with the ``size`` in bytes."""
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    header = b"blob %d\0" % size if algorithm == "git-sha1" else b""
    return hashlib.sha1(header, usedforsecurity=False)


def hash_of(read_into: ReadInto, size: int, algorithm: str, check: Callable[[], None]) -> str:
    """Read a whole file and hash it.

    Args:
        read_into: Fills a buffer from an offset.
        size: Bytes of the file.
        algorithm: See :func:`new_hash`.
        check: Called after each read; raises to end it.
    """
    digest, at, buffer = new_hash(algorithm, size), 0, memoryview(bytearray(_BLOCK))
    while at < size and (count := read_into(at, buffer[: size - at])):
        digest.update(buffer[:count])
        at += count
        check()
    return digest.hexdigest()


def file_digest(
    path: str | os.PathLike[str], algorithm: str, check: Callable[[], None] | None = None
) -> Digest:
    """Read a whole file and hash it.

    Args:
        path: The file.
        algorithm: See :class:`Digest`.
        check: Called after each read; raises to end it.
    """
    digest = new_hash(algorithm, os.stat(path).st_size)
    buffer = memoryview(bytearray(_BLOCK))
    with descriptors.retry_on_shortage(lambda: open(path, "rb", buffering=0), check) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            if check is not None:
                check()
    return Digest(cast("Algorithm", algorithm), digest.hexdigest())
