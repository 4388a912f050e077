"""What one node has of a job's blobs, in place or staged, and how the bytes of a range are handed out."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

from hf_haul.ranges import ByteRange
from hf_haul.storage.staged_file import StagedFile, StagedLostError

__all__ = ["HeldRange", "Holdings", "LeftBytes", "NotHeldError"]

#: Bytes read at a time for a digest.
_BLOCK: Final = 1 << 20
#: Digests of ranges that are remembered: a terabyte's, in ranges of 16 MiB.
_MOST_DIGESTS: Final = 65_536


class NotHeldError(LookupError):
    """The bytes that were asked for are not here, or no longer."""


@dataclass(frozen=True, slots=True)
class LeftBytes:
    """What an earlier session left of a blob, before this one goes on with it.

    Attributes:
        path: The file that holds it.
        missing: What of the blob is not in it.
    """

    path: Path
    missing: Sequence[ByteRange]

    def has(self, span: ByteRange) -> bool:
        """Return whether all of a range is in it."""
        return all(gap.stop <= span.start or gap.start >= span.stop for gap in self.missing)


class HeldRange:
    """A range of a blob, opened for somebody who is sent it.

    Attributes:
        file: Holds the bytes, each at its own offset.
        sha256: Of the range.
    """

    def __init__(self, file: BinaryIO, sha256: bytes, staged: StagedFile | None, withdrawals: int) -> None:
        self.file = file
        self.sha256 = sha256
        self._staged = staged
        self._withdrawals = withdrawals

    @property
    def is_withdrawn(self) -> bool:
        """Whether some of the blob's bytes turned out to be wrong since."""
        return self._staged is not None and self._staged.withdrawals != self._withdrawals

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class Holdings:
    """Finds bytes of blobs, wherever they are at the moment.

    Safe for threads: ``_lock`` guards the digests, and is not held while a file is read.

    Args:
        paths: The paths in the repository that have a blob, by the blob's etag; none are empty.
        size_of: Returns the bytes of such a blob.
        place_of: Returns where a file is, once it is in place.
        staged: Returns what is staged, by path in the repository.
        left: What earlier sessions left, by etag.
    """

    def __init__(
        self,
        paths: Mapping[str, Sequence[str]],
        size_of: Callable[[str], int],
        place_of: Callable[[str], Path],
        staged: Callable[[], Mapping[str, StagedFile]],
        left: Mapping[str, LeftBytes] = MappingProxyType({}),
    ) -> None:
        self._paths = paths
        self._size_of = size_of
        self._place_of = place_of
        self._staged = staged
        self._left = left
        self._lock = threading.Lock()
        self._digests: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()

    def size(self, etag: str) -> int:
        """Return the bytes of a blob.

        Raises:
            NotHeldError: It is none of the job's.
        """
        if etag not in self._paths:
            raise NotHeldError("this job has no such blob")
        return self._size_of(etag)

    def is_in_place(self, etag: str) -> bool:
        """Return whether a blob has its final name, as far as its size tells."""
        size = self._size_of(etag)
        return any(_fits(self._place_of(path), size) for path in self._paths[etag])

    def open(self, etag: str, span: ByteRange) -> HeldRange:
        """Open a range, and take its digest; both wait for the disk.

        Raises:
            NotHeldError: Some of it is not here.
            OSError: The disk refuses.
        """
        self.size(etag)
        # What is staged may get its final name between the two looks.
        for _attempt in range(2):
            found = (
                self._open_staged(etag, span) or self._open_placed(etag, span) or self._open_left(etag, span)
            )
            if found is not None:
                return found
        raise NotHeldError(f"bytes {span.start} to {span.stop} are not here")

    def _open_staged(self, etag: str, span: ByteRange) -> HeldRange | None:
        staged_files = self._staged()
        for path in self._paths[etag]:
            staged = staged_files.get(path)
            if staged is None or staged.missing(span.start, span.stop):
                continue
            withdrawals = staged.withdrawals
            try:
                file = staged.open_again()
            except (StagedLostError, FileNotFoundError):
                continue
            held = self._held(etag, span, file, staged, withdrawals)
            # What was taken back while its digest was taken may have had any bytes.
            if held.is_withdrawn or staged.missing(span.start, span.stop):
                held.close()
                continue
            return held
        return None

    def _open_placed(self, etag: str, span: ByteRange) -> HeldRange | None:
        size = self._size_of(etag)
        for place in map(self._place_of, self._paths[etag]):
            if not _fits(place, size):
                continue
            try:
                file = open(place, "rb")  # noqa: SIM115  whoever sends it closes it
            except FileNotFoundError:
                continue
            return self._held(etag, span, file, None, -1)
        return None

    def _open_left(self, etag: str, span: ByteRange) -> HeldRange | None:
        """Open what an earlier session left; once this one goes on with it, it is staged."""
        left = self._left.get(etag)
        if left is None or not left.has(span) or any(path in self._staged() for path in self._paths[etag]):
            return None
        try:
            file = open(left.path, "rb")  # noqa: SIM115  whoever sends it closes it
        except FileNotFoundError:
            return None
        return self._held(etag, span, file, None, -2)

    def _held(
        self, etag: str, span: ByteRange, file: BinaryIO, staged: StagedFile | None, withdrawals: int
    ) -> HeldRange:
        try:
            return HeldRange(file, self._digest(etag, span, file, withdrawals), staged, withdrawals)
        except BaseException:
            file.close()
            raise

    def _digest(self, etag: str, span: ByteRange, file: BinaryIO, generation: int) -> bytes:
        key = (etag, span.start, span.stop, generation)
        with self._lock:
            known = self._digests.get(key)
            if known is not None:
                self._digests.move_to_end(key)
        if known is None:
            known = _sha256(file, span)
            with self._lock:
                self._digests[key] = known
                while len(self._digests) > _MOST_DIGESTS:
                    self._digests.popitem(last=False)
        return known


def _fits(place: Path, size: int) -> bool:
    try:
        found = os.stat(place)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _sha256(file: BinaryIO, span: ByteRange) -> bytes:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(_BLOCK, max(1, span.stop - span.start))))
    file.seek(span.start)
    left = span.stop - span.start
    while left:
        count = file.readinto(buffer[: min(left, len(buffer))])  # type: ignore[attr-defined]  # BinaryIO lacks it
        if not count:
            raise NotHeldError("the file has become shorter")
        digest.update(buffer[:count])
        left -= count
    return digest.digest()
