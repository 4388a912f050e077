"""How a wrong file is replaced: what can be kept of it is staged, and the new file takes its name by rename.

Which bytes of a file are wrong, its digest does not tell. What is worth a try: a file that is too short lacks
its end; one that is too long has something behind it; pages of zeros, and holes, are what file systems leave
of bytes that never reached the disk before a crash; and what cannot be read is lost. Everything else is
staged, as if an earlier download had left it, and the engine fetches what is missing and checks the whole
file. If that was not the fault, it drops what was staged and fetches all of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hf_haul.digests import Digest
from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.storage.claiming import claim
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.storage.file_checks import hex_digest, look_at, open_to_read, zero_runs
from hf_haul.storage.journal import read_at
from hf_haul.storage.staged_file import StagedFile
from hf_haul.storage.staged_names import scan_orphans

__all__ = ["RepairDestination", "stage_what_is_good", "trusted_ranges"]

#: Bytes read at a time; whole pages.
_BLOCK: Final = 1 << 20
#: Two suspicious runs with less between them are one: another request would cost more than those bytes.
_NEAR: Final = 1 << 20
#: More suspicious runs than this are no fault of the disk, but how the file is.
_MOST_RUNS: Final = 64
#: Zeros that are more than this part of a file that is too short are taken for its own.
_MANY_ZEROS: Final = 4
#: What is kept of a file must be this part of it to be worth copying.
_WORTH_KEEPING: Final = 8

_Identity = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class RepairDestination:
    """The place of a file that is wrong or missing.

    Attributes:
        inner: The place itself.
        digest: What the file has to hash to, where that is known.
        wrong: The identity of the bytes that were found to be wrong; see
            :class:`hf_haul.storage.file_checks.Sight`.
        right: Identities of files that were found to be right meanwhile, which all names of one blob share.
        steps: What was done: ``linked`` or ``published``.
    """

    inner: BlobDestination | LocalDirDestination
    digest: Digest | None
    wrong: _Identity | None
    right: set[_Identity] = field(default_factory=set, compare=False)
    steps: list[str] = field(default_factory=list, compare=False)

    def __fspath__(self) -> str:
        """Return the path a user finds the file at."""
        return os.fspath(self.inner)

    @property
    def path(self) -> Path:
        """The path a user finds the file at."""
        return self.inner.path

    @property
    def staging_dir(self) -> Path:
        """As for a download."""
        return self.inner.staging_dir

    @property
    def staging_key(self) -> str:
        """As for a download, which goes on from what an interrupted repair has left."""
        return self.inner.staging_key

    @property
    def former_keys(self) -> tuple[str, ...]:
        """As for a download."""
        return self.inner.former_keys

    def replaces(self, key: str) -> bool:
        """Return whether a key is of another version of the file, as for a download."""
        return self.inner.replaces(key)

    @property
    def upstream_lock(self) -> Path | None:
        """As for a download."""
        return self.inner.upstream_lock

    @property
    def content(self) -> str:
        """The path of the bytes: of a blob, or of the file itself."""
        if isinstance(self.inner, BlobDestination) and self.inner.folder.symlinks:
            return self.inner.folder.blob(self.inner.etag)
        return os.fspath(self.inner.path)

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Return whether the right bytes are there, and link them; only another file than before is read."""
        found = look_at(self.content)
        if found.fault is not None or found.identity == self.wrong or self.digest is None:
            return False
        if found.identity not in self.right:
            try:
                actual, identity = hex_digest(
                    self.content, self.digest.algorithm, check=check or (lambda: None)
                )
            except OSError:
                return False
            if actual != self.digest.value:
                return False
            self.right.add(identity)
        self._link()
        self.steps.append("linked")
        return True

    def publish(self, staged: Path) -> None:
        """Move the verified file into place, over what was there."""
        if isinstance(self.inner, BlobDestination):
            folder, pointer = self.inner.folder, os.fspath(self.inner.path)
            folder.publish(os.fspath(staged), self.content, pointer, over=lambda: not self._is_linked())
        else:
            self.inner.publish(staged)
        self.steps.append("published")
        identity = look_at(self.content).identity
        if identity is not None:
            self.right.add(identity)

    def _link(self) -> None:
        inner = self.inner
        if isinstance(inner, LocalDirDestination):
            inner.folder.write_metadata(inner.name, inner.commit, inner.etag)
        elif not self._is_linked():
            inner.folder.link(self.content, os.fspath(inner.path), over=True)

    def _is_linked(self) -> bool:
        """Return whether the path leads to the blob, whether or not that is there."""
        return os.path.realpath(self.inner.path) == os.path.realpath(self.content)


def trusted_ranges(have: int, size: int, suspicious: Iterable[tuple[int, int]]) -> list[ByteRange]:
    """Return which bytes of a wrong file may be right.

    Args:
        have: Bytes that it has.
        size: Bytes that it should have.
        suspicious: Runs of zeros, or of what cannot be read, as (start, stop), in order.

    Returns:
        What is to be kept; nothing where keeping it is no use.
    """
    if have > size:  # what was appended is the fault
        return [ByteRange(0, size)] if size else []
    runs: list[list[int]] = []
    for start, stop in suspicious:
        if runs and start - runs[-1][1] < _NEAR:
            runs[-1][1] = stop
        else:
            runs.append([start, stop])
    if have < size and sum(stop - start for start, stop in runs) > have // _MANY_ZEROS:
        runs = []  # its end is missing, which is fault enough: so many zeros are how the file is
    if len(runs) > _MOST_RUNS or (have == size and not runs):
        return []
    kept = RangeSet([ByteRange(0, have)] if have else [])
    for start, stop in runs:
        kept.discard(start, stop)
    return list(kept) if kept.total * _WORTH_KEEPING >= size else []


def stage_what_is_good(
    source: str,
    destination: RepairDestination,
    size: int,
    *,
    whole: bool = False,
    sequential: bool = False,
    uri: str = "",
    check: Callable[[], None] = lambda: None,
) -> int:
    """Stage what may be right of a wrong file, for the download that follows.

    Args:
        source: The wrong file.
        destination: Its place.
        size: Bytes that it should have.
        whole: Whether all of it may be right: it is another copy, and not the file that was found wrong.
        sequential: Whether files are staged in order only; then no more than the beginning can be kept.
        uri: What people call the file, noted for whoever lists what is partial.
        check: Called now and then; raises to end it.

    Returns:
        The bytes that are staged.

    Raises:
        StagedElsewhereError: A living process is fetching it.
        DiskFullError: The disk is full.
        OSError: The disk refuses.
    """
    fd = open_to_read(source, check)
    try:
        have = os.fstat(fd).st_size
        if whole:
            ranges: Sequence[ByteRange] = [ByteRange(0, min(have, size))] if size else []
        else:
            ranges = trusted_ranges(have, size, _suspicious(fd, min(have, size), check))
        if sequential:
            ranges = [each for each in ranges if each.start == 0]
        if not ranges:
            return 0
        with closing(_claim(destination, size, sequential=sequential, uri=uri, check=check)) as staged:
            _copy(fd, staged, ranges, check)
            return staged.done
    finally:
        os.close(fd)


def _suspicious(fd: int, stop: int, check: Callable[[], None]) -> list[tuple[int, int]]:
    """Return the runs of zeros, and of what cannot be read, up to an offset."""
    found: list[tuple[int, int]] = []
    for at in range(0, stop, _BLOCK):
        check()
        length = min(_BLOCK, stop - at)
        try:
            found += zero_runs(read_at(fd, at, length), at)
        except OSError:
            found.append((at, at + length))
    return found


def _claim(
    destination: RepairDestination, size: int, *, sequential: bool, uri: str, check: Callable[[], None]
) -> StagedFile:
    """Claim the staged file that the download will go on with; an interrupted repair may have left it."""
    folder, key = destination.staging_dir, destination.staging_key
    found = scan_orphans(folder)
    return claim(
        folder,
        key,
        size,
        sequential=sequential,
        orphans=[path for each in (key, *destination.former_keys) for path in found.get(each, ())],
        former_keys=destination.former_keys,
        uri=uri,
        check=check,
    )


def _copy(fd: int, staged: StagedFile, ranges: Sequence[ByteRange], check: Callable[[], None]) -> None:
    """Copy ranges of a file, but for what is staged already."""
    for run in ranges:
        for gap in staged.missing(run.start, run.stop):
            for at in range(gap.start, gap.stop, _BLOCK):
                check()
                try:
                    data = read_at(fd, at, min(_BLOCK, gap.stop - at))
                except OSError:
                    continue  # it could be read a moment ago: then it is fetched
                staged.add(at, memoryview(data))
                staged.record(at, at + len(data))
