"""What a download would go on from, told without touching it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.storage.journal import read_records
from hf_haul.storage.left_file import LeftFile, inspect_file
from hf_haul.storage.ownership import current_owner

__all__ = ["Resumable", "find_resumable"]


@dataclass(frozen=True, slots=True)
class Resumable:
    """The staged bytes of one content.

    Attributes:
        missing: What would still be fetched.
        done: Bytes that are there.
        fetched_by: The living process that fetches it, in words, if one does.
    """

    missing: tuple[ByteRange, ...]
    done: int = 0
    fetched_by: str | None = None


def find_resumable(
    paths: Sequence[Path],
    keys: Sequence[str],
    size: int,
    *,
    sequential: bool = False,
    digest_known: bool = True,
) -> Resumable:
    """Return what a download would find of a content, by the rules of adoption; changes nothing.

    Args:
        paths: The staged files there are of it; see :func:`hf_haul.storage.staged_names.scan_orphans`.
        keys: What their headers may call it.
        size: Bytes of the whole file.
        sequential: Whether files are staged in order only.
        digest_known: Whether a digest will be checked at the end; without one, bytes that survived a reboot
            are not trusted.
    """
    best, fetched_by = RangeSet(), None
    for path in paths:
        with contextlib.suppress(OSError):  # taken, published or removed meanwhile; or not ours to read
            left = inspect_file(path, size, keys)
            try:
                done = _usable(left, size, sequential=sequential, digest_known=digest_known)
            finally:
                left.close()
            if left.status == "alive":
                owner = left.owner
                fetched_by = f"process {owner.pid} on {owner.host}" if owner else "another process"
            if done.total > best.total:
                best = done
    missing = best.missing(0, size)
    return Resumable(tuple(missing), size - sum(map(len, missing)), fetched_by)


def _usable(left: LeftFile, size: int, *, sequential: bool, digest_known: bool) -> RangeSet:
    length = os.fstat(left.fd).st_size
    if left.sealed:
        return _prefix(size) if length >= size and digest_known else RangeSet()
    if left.sequential != sequential:
        return RangeSet()
    same_boot = left.owner is not None and left.owner.boot == current_owner().boot
    if not (digest_known or same_boot):
        return RangeSet()
    if left.sequential:
        return _prefix(min(length, size))
    return RangeSet() if left.header is None else read_records(left.fd, size, left.header.nonce)[0]


def _prefix(stop: int) -> RangeSet:
    return RangeSet([ByteRange(0, stop)] if stop else [])
