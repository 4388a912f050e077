"""Copies by way of the Hub's cache: what it has is not fetched again, what it lacks is fetched into it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hf_haul.config import MiB
from hf_haul.descriptors import descriptors
from hf_haul.errors import DiskFullError, IntegrityError
from hf_haul.filesystem.target import Target
from hf_haul.reading.range_source import Checksum
from hf_haul.storage.destinations import BlobDestination, FileDestination
from hf_haul.storage.file_names import passing_name
from hf_haul.storage.flushing import flush_files
from hf_haul.storage.placing import discard, require_place
from hf_haul.task import FileRequest, RemoteFile

__all__ = ["KeptAt", "file_at", "take_from_cache"]

logger = logging.getLogger(__name__)

#: Says where a file is kept on disk, and what to do once all of it is; ``None`` if it is kept nowhere.
KeptAt = Callable[[Target], tuple[BlobDestination, Callable[[], None]] | None]

#: Bytes copied in one step.
_STEP: Final = 1 * MiB


def file_at(path: str, remote: RemoteFile) -> FileDestination:
    """Return a path as the place for a file."""
    # Without a digest an older file of the same size may be another version: fetch it again.
    size = remote.size if remote.digest else None
    return FileDestination(Path(path), remote.etag or remote.url, remote.digest, size)


def take_from_cache(
    wanted: dict[str, Target],
    kept_at: KeptAt,
    fetch: Callable[[list[FileRequest]], None],
    on_copied: Callable[[Target], None],
    *,
    durable: bool,
) -> dict[str, Target]:
    """Copy files from the Hub's cache; what it lacks is fetched into it first.

    Args:
        wanted: The files, by the paths where they go, whose folders are there.
        kept_at: Says where the cache has a file.
        fetch: Fetches files to their places, and raises what goes wrong.
        on_copied: Told of each file that is in place.
        durable: Whether to wait until the disk has the copies.

    Returns:
        Those that are not in place, because they are kept nowhere, the cache cannot be written, or has other
        bytes under their name.

    Raises:
        OSError: A path cannot be written.
    """
    places = {path: place for path, target in wanted.items() if (place := kept_at(target)) is not None}
    copied: dict[str, None] = {}

    def copy(path: str, blob: BlobDestination) -> None:
        remote, found = wanted[path].remote, blob.found()
        destination = file_at(path, remote)
        require_place(destination.path)
        if destination.is_present() or (found is not None and _copy(found, destination, remote)):
            copied[path] = None
            on_copied(wanted[path])

    for path, (blob, _) in places.items():
        copy(path, blob)
    absent = {
        path: place for path, place in places.items() if path not in copied and place[0].found() is None
    }
    if absent and _fetch_into_cache([(wanted[path].remote, absent[path][0]) for path in absent], fetch):
        for path, (blob, note_kept) in absent.items():
            copy(path, blob)
            note_kept()
    if durable:
        for error in flush_files(copied).values():
            raise error
    return {path: target for path, target in wanted.items() if path not in copied}


def _fetch_into_cache(
    absent: list[tuple[RemoteFile, BlobDestination]], fetch: Callable[[list[FileRequest]], None]
) -> bool:
    """Fetch files into the cache, each blob once; return whether it takes them."""
    blobs = {(blob.staging_dir, blob.staging_key): FileRequest(remote, blob) for remote, blob in absent}
    try:
        for _, blob in absent:
            blob.folder.prepare()
    except OSError as error:
        logger.warning("What is copied is not kept in the cache: %s", error)
        return False
    try:
        fetch(list(blobs.values()))
    except DiskFullError as error:
        logger.warning("What is copied is not kept in the cache: %s", error)
        return False
    return True


def _copy(blob: str, destination: FileDestination, remote: RemoteFile) -> bool:
    """Copy a file of the cache to its place, by rename; return whether it had the right bytes.

    Raises:
        OSError: The place cannot be written.
    """
    checksum = Checksum(remote)
    staged = passing_name(os.fspath(destination.staging_dir))
    try:
        with descriptors.retry_on_shortage(lambda: open(staged, "xb")) as new:
            for block in _blocks(blob):
                checksum.update(block)
                new.write(block)
        checksum.check()
        destination.publish(Path(staged))
    except IntegrityError as error:
        logger.warning("%s is fetched, and not copied from the cache: %s", remote.path, error)
        return False
    finally:
        discard(staged)
    return True


def _blocks(path: str) -> Iterator[bytes]:
    """Read a file; one that cannot be read ends early."""
    try:
        with descriptors.retry_on_shortage(lambda: open(path, "rb"), own=1) as file:
            while block := file.read(_STEP):
                yield block
    except OSError as error:
        logger.warning("%s cannot be read: %s", path, error)
