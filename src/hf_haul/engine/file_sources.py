"""The sources of one file: where it can be had, what came from each, and which brought wrong bytes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hf_haul.digests import ReadInto
from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.transports.base import Transport

__all__ = ["FileSource", "FileSources", "Suspicion"]

#: Bytes read back at a time.
_BLOCK: Final = 1 << 20


class FileSource:
    """One source of one file. The scheduler's lock guards the attributes.

    Args:
        name: ``scheme://host:port``.
        make: Makes its transport, once it is needed.

    Attributes:
        name: What limits and speeds are kept by.
        is_origin: Whether the file's size and digest are from there.
        has_it: Whether it has brought a part of the file.
        lost: Whether it is not asked for this file any more.
        lies: Whether it is known to have sent wrong bytes of another one.
        failures: Parts of this file in a row that it failed to bring.
        struck_at: When the last of them failed.
        brought: What is on disk that came from it.
        is_limited: Whether the bandwidth limit is meant for it.
    """

    __slots__ = (
        "_make",
        "_transport",
        "brought",
        "failures",
        "has_it",
        "is_limited",
        "is_origin",
        "lies",
        "lost",
        "name",
        "struck_at",
    )

    def __init__(
        self,
        name: str,
        make: Callable[[], Transport],
        *,
        is_origin: bool = False,
        is_limited: bool = True,
    ) -> None:
        self.name = name
        self.is_origin = is_origin
        self.has_it = self.lost = self.lies = False
        self.is_limited = is_limited
        self.failures = 0
        self.struck_at = -math.inf
        self.brought = RangeSet()
        self._make = make
        self._transport: Transport | None = None

    @property
    def transport(self) -> Transport:
        """Opens ranges of the file."""
        if self._transport is None:
            self._transport = self._make()
        return self._transport

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' lost' if self.lost else ''}>"


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What came from some source of a file whose digest was wrong.

    Attributes:
        source: Where it came from.
        span: Which bytes.
        digest: Of what came.
    """

    source: FileSource
    span: ByteRange
    digest: bytes


class FileSources:
    """All sources of one file, its origin first. The scheduler's lock guards it.

    Where a file has other sources than its origin and the digest is wrong, what came from those of them that
    are known to lie is dropped; or else what came from any, and it is noted piece by piece. What was dropped
    comes again from one source at a time: from the origin, or where that cannot be had from the first of the
    others, until the digest is right or nobody is left. Then the pieces that differ tell who sent wrong
    bytes.

    Attributes:
        origin: Where the file's size and digest are from.
        others: What else there is.
        may_grow: Whether more may come to be known.
        one_by_one: Whether only one of them is asked at a time.
        near_did_at: When those in the own network last brought as much as all others would.
        piece_bytes: Bytes that are noted together at the most; ``None`` for all that lie together.
        suspicions: What came from whom, when the digest was wrong.
        wrong: What of that was not right.
    """

    def __init__(
        self, origin: FileSource, others: Sequence[FileSource] = (), *, may_grow: bool = False
    ) -> None:
        self.origin = origin
        self.others = tuple(others)
        self.may_grow = may_grow
        self.one_by_one = False
        self.near_did_at = -math.inf
        self.piece_bytes: int | None = None
        self.suspicions: tuple[Suspicion, ...] = ()
        self.wrong: tuple[Suspicion, ...] = ()

    @property
    def has_others(self) -> bool:
        """Whether there is any source beside the origin, or may be."""
        return bool(self.others) or self.may_grow

    def known(self, name: str, make: Callable[[], Transport]) -> FileSource:
        """Return another source by its name; one that was unknown is added, with no limit of bandwidth.

        Args:
            name: ``scheme://host:port``.
            make: Makes its transport.
        """
        for each in self.others:
            if each.name == name:
                return each
        found = FileSource(name, make, is_limited=False)
        self.others += (found,)
        return found

    def in_use(self) -> list[FileSource]:
        """Return the sources that may be asked for the file, at the least the origin.

        Where one is asked at a time, that is the first of them that can be had.
        """
        order = (self.origin, *self.others) if self.one_by_one else (*self.others, self.origin)
        return [each for each in order if not each.lost] or [self.origin]

    def suspects(self) -> list[FileSource]:
        """Return who may have sent what is wrong: those that are known to lie, or else all but the origin."""
        found = [each for each in self.others if each.brought.total]
        return [each for each in found if each.lies] or found

    def suspect(self, read_into: ReadInto, size: int, check: Callable[[], None]) -> list[ByteRange]:
        """Note what suspects brought of a file whose digest is wrong, and return what has to go.

        Nobody knows where bytes of an earlier session came from: those go, too, unless somebody is known to
        lie.

        Args:
            read_into: Reads back from an offset.
            size: Bytes of the file.
            check: Called after each block; raises to end it.
        """
        suspects = self.suspects()
        if any(each.lies for each in suspects):
            gone = RangeSet(span for each in suspects for span in each.brought)
            self._forget(suspects)
            return list(gone)
        self.suspicions += tuple(
            Suspicion(each, piece, _digest(read_into, piece, check))
            for each in suspects
            for span in each.brought
            for piece in _pieces(span, self.piece_bytes)
        )
        kept = RangeSet(self.origin.brought)
        for span in (span for each in suspects for span in each.brought):
            kept.discard(span.start, span.stop)
        self._forget(suspects)
        if self.one_by_one:  # whoever was alone was wrong; of several, the last one gets to be alone
            for each in suspects[:-1] or suspects:
                each.lost = True
        self.one_by_one = True
        return kept.missing(0, size)

    @staticmethod
    def _forget(sources: Sequence[FileSource]) -> None:
        for each in sources:
            each.brought = RangeSet()

    def find_liars(self, read_into: ReadInto, check: Callable[[], None]) -> None:
        """Note who sent other bytes than those that are there now and known to be right.

        Args:
            read_into: Reads back from an offset.
            check: Called after each block; raises to end it.
        """
        self.wrong = tuple(
            each for each in self.suspicions if _digest(read_into, each.span, check) != each.digest
        )

    @property
    def liars(self) -> tuple[FileSource, ...]:
        """Who is known to have sent wrong bytes."""
        return tuple(dict.fromkeys(each.source for each in self.wrong))


def _pieces(span: ByteRange, most: int | None) -> Iterator[ByteRange]:
    """Divide a range where the file would be divided into pieces of ``most`` bytes."""
    at = span.start
    while at < span.stop:
        stop = span.stop if most is None else min(span.stop, (at // most + 1) * most)
        yield ByteRange(at, stop)
        at = stop


def _digest(read_into: ReadInto, span: ByteRange, check: Callable[[], None]) -> bytes:
    digest, at, buffer = hashlib.sha256(), span.start, memoryview(bytearray(min(_BLOCK, len(span))))
    while at < span.stop and (got := read_into(at, buffer[: span.stop - at])):
        digest.update(buffer[:got])
        at += got
        check()
    return digest.digest()
