"""What is partial in a folder: which files, how much of each is here, and whether somebody is fetching it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from hf_haul.storage.file_names import PASSING
from hf_haul.storage.journal import read_records
from hf_haul.storage.left_file import LeftFile, inspect_file
from hf_haul.storage.mounts import keeps_writes
from hf_haul.storage.ownership import Owner, current_owner, is_running, read_uri_xattr
from hf_haul.storage.regular_files import bytes_on_disk
from hf_haul.storage.staged_names import STAGED_NAME, giver_of
from hf_haul.storage.staging_places import StagingPlace
from hf_haul.storage.sweeping import PARTIAL_OF_UPSTREAM, hold_upstream_partial

__all__ = [
    "IN_LINK_PROBE",
    "MODE_PROBE_AGE",
    "OwnerState",
    "PartialKind",
    "PartialOnDisk",
    "is_mode_probe",
    "owner_state",
    "partial_files",
]

#: ``staged``: by hf-haul, and resumed; ``huggingface_hub``: its own, and never resumed; ``temporary``: made
#: to be renamed or removed at once, by either.
PartialKind = Literal["staged", "huggingface_hub", "temporary"]
#: ``unknown``: it may be alive where this host does not see it, or what it left cannot be read.
OwnerState = Literal["alive", "dead", "unknown"]

#: Seconds of silence after which an owner that cannot be seen is dead.
_SILENCE: Final = 86400.0
#: Seconds after which nobody renames any more what was made to be renamed at once.
_PASSING_AGE: Final = 120.0
#: Seconds that a file of huggingface_hub's, empty and named at random, exists for at the most.
MODE_PROBE_AGE: Final = 2.0
#: A file by which huggingface_hub learns the permissions of new files, and the folder by which it learns
#: whether links work, with what is in it.
_MODE_PROBE: Final = "tmp_"
_LINK_PROBE: Final = re.compile(r"tmp[a-z0-9_]{8}")
IN_LINK_PROBE: Final = frozenset({"dummy_file_src", "dummy_file_dst"})
#: A listing of huggingface_hub's before it is renamed.
_LISTING: Final = re.compile(r"tmp[a-z0-9_]{8}\.tmp")


@dataclass(frozen=True, slots=True)
class PartialOnDisk:
    """A partial file as it was found.

    Attributes:
        path: Its name on disk.
        place: The folder that it is in.
        kind: Whose, and what for.
        key: What its name says of its content: an etag, a file's name with a digest.
        size: Bytes of the whole file; ``None`` if nothing here tells.
        done: Bytes of it that are here.
        on_disk: Bytes that it takes on the disk.
        modified: When it was last written to, in seconds since the epoch.
        state: Whether its owner is alive.
        owner: Who that is, as far as it says.
        uri: What people call the file, as far as it says.
        resumable: Whether a download goes on from it.
        uid: The user whose it is; 0 where there are none.
        ino: Tells it from another file of its name.
    """

    path: Path
    place: StagingPlace
    kind: PartialKind
    key: str
    size: int | None
    done: int
    on_disk: int
    modified: float
    state: OwnerState
    owner: Owner | None = None
    uri: str = ""
    resumable: bool = False
    uid: int = 0
    ino: int = 0


def is_mode_probe(found: PartialOnDisk) -> bool:
    """Return whether a temporary file exists for a moment only, and nobody writes into it."""
    return found.kind == "temporary" and found.path.name.startswith(_MODE_PROBE)


def partial_files(place: StagingPlace) -> Iterator[PartialOnDisk]:
    """Yield what is partial in a folder, and what is temporary, by name; changes nothing."""
    for name in place.names:
        found = None
        with contextlib.suppress(FileNotFoundError):  # published, or removed, meanwhile
            found = _look_at_file(place, name)
        if found is not None:
            yield found
    if place.kind in {"cache", "repository"}:
        for name in filter(_LINK_PROBE.fullmatch, place.folders):
            with contextlib.suppress(OSError):
                path = place.folder / name
                if set(os.listdir(path)) <= IN_LINK_PROBE:
                    yield _temporary(place, path, os.lstat(path), _PASSING_AGE)


def _look_at_file(place: StagingPlace, name: str) -> PartialOnDisk | None:
    path = place.folder / name
    match = STAGED_NAME.fullmatch(name)
    if match is not None and match[1] != PASSING:
        status = os.lstat(path)
        # No process of ours stages through a link.
        return _look_at_staged(place, path, match[1], status) if stat.S_ISREG(status.st_mode) else None
    if match is not None:
        status = os.lstat(path)
        found = _temporary(place, path, status, _PASSING_AGE)
        return replace(found, state="alive") if is_running(giver_of(name) or 0) else found
    if name.startswith(_MODE_PROBE) and place.kind in {"cache", "repository", "blobs", "metadata"}:
        status = os.lstat(path)
        return _temporary(place, path, status, MODE_PROBE_AGE) if stat.S_ISREG(status.st_mode) else None
    if place.kind == "listings" and _LISTING.fullmatch(name):
        return _temporary(place, path, os.lstat(path), _PASSING_AGE)
    theirs = PARTIAL_OF_UPSTREAM.fullmatch(name) if place.kind in {"blobs", "metadata"} else None
    return None if theirs is None else _look_at_upstreams(place, path, theirs[1])


def _look_at_staged(place: StagingPlace, path: Path, key: str, status: os.stat_result) -> PartialOnDisk:
    try:
        left = inspect_file(path, -1, [key])
    except PermissionError:
        return _found(place, path, "staged", key, status, state="unknown")
    try:
        size, done, uri = _progress_of(left, status)
        return _found(
            place,
            path,
            "staged",
            key,
            os.fstat(left.fd),
            size=size,
            done=done,
            state=owner_state(left),
            owner=left.owner,
            uri=uri,
            resumable=left.sealed or done > 0,
        )
    finally:
        left.close()


def _progress_of(left: LeftFile, status: os.stat_result) -> tuple[int | None, int, str]:
    """Return the bytes of the whole file, where that is known, those that are here, and its URI."""
    header = left.header
    if left.sequential:
        return None, status.st_size, read_uri_xattr(left.fd)
    if left.sealed:
        size = status.st_size if header is None else header.size
        return size, size, "" if header is None else header.uri
    if header is None:  # killed before it was written: nothing can be told from a hole
        return None, 0, ""
    return header.size, read_records(left.fd, header.size, header.nonce)[0].total, header.uri


def owner_state(left: LeftFile) -> OwnerState:
    """Return whether the owner of a staged file is alive.

    Adoption copies what a silent owner left that it cannot see, and loses nothing if that owner comes back.
    Here, only an owner whose file may be removed is called dead: it is gone, or silent for a day; or it ran
    on this host before the last boot, on a disk that no other host writes to.
    """
    status = os.fstat(left.fd)
    if left.sealed:  # by a process that publishes it in a moment, if it lives
        age = time.time() - status.st_ctime
        return "dead" if not giver_of(left.name.name) or age > _PASSING_AGE else "unknown"
    if left.status != "stale":
        return left.status
    me, owner = current_owner(), left.owner
    before_boot = owner is not None and owner.host == me.host and owner.boot != me.boot
    if before_boot and keeps_writes(left.path.parent):
        return "dead"
    return "dead" if time.time() - status.st_mtime > _SILENCE else "unknown"


def _look_at_upstreams(place: StagingPlace, path: Path, key: str) -> PartialOnDisk | None:
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        return None
    state: OwnerState = "unknown"
    with contextlib.suppress(PermissionError), hold_upstream_partial(path, place.upstream_lock(key)) as held:
        state = held
    return _found(place, path, "huggingface_hub", key, status, done=bytes_on_disk(status), state=state)


def _temporary(place: StagingPlace, path: Path, status: os.stat_result, age: float) -> PartialOnDisk:
    """Return a file that was made to be renamed or removed within ``age`` seconds."""
    state: OwnerState = "dead" if time.time() - status.st_mtime > age else "unknown"
    return _found(place, path, "temporary", path.name, status, state=state)


def _found(
    place: StagingPlace,
    path: Path,
    kind: PartialKind,
    key: str,
    status: os.stat_result,
    *,
    state: OwnerState,
    **more: Any,
) -> PartialOnDisk:
    return PartialOnDisk(
        path=path,
        place=place,
        kind=kind,
        key=key,
        on_disk=bytes_on_disk(status),
        # A sequential file that was let go of is of the year 1970.
        modified=status.st_mtime or status.st_ctime,
        state=state,
        uid=status.st_uid,
        ino=status.st_ino,
        **{"size": None, "done": 0, **more},
    )
