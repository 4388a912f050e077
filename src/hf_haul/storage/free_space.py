"""Whether a download will fit, asked before its first byte."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from hf_haul.config import DiskCheck, MiB
from hf_haul.errors import DiskFullError
from hf_haul.storage.destinations import BlobDestination
from hf_haul.storage.regular_files import bytes_on_disk
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.task import FileRequest

__all__ = ["check_space", "free_bytes", "have_room", "space_needed"]

#: Below this size a file's staged bytes are not worth a look at the disk.
_WORTH_A_LOOK: Final = 8 * MiB


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest ancestor that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that are free where a folder is or will be, if the file system says so."""
    try:
        return shutil.disk_usage(_existing(folder)).free
    except OSError:
        return None


def space_needed(requests: Iterable[FileRequest]) -> int:
    """Return the bytes still to be written.

    What is staged already is on the disk already, whatever its name, and so is a blob that only needs a link.
    Files of the same content that end up in one blob need their room once.
    """
    needed = 0
    staged: dict[Path, dict[str, list[Path]]] = {}
    counted: Counter[tuple[Path, str]] = Counter()
    for request in requests:
        size = request.remote.size or 0
        folder, key = request.destination.staging_dir, request.destination.staging_key
        counted[folder, key] += 1
        number = counted[folder, key]
        if not size or not _takes_room(request, number):
            continue
        if number == 1 and size >= _WORTH_A_LOOK:
            if folder not in staged:
                staged[folder] = scan_orphans(folder)
            keys = (key, *request.destination.former_keys)
            size -= min(size, _allocated(path for each in keys for path in staged[folder].get(each, ())))
        needed += size
    return needed


def _takes_room(request: FileRequest, number: int) -> bool:
    """Return whether the ``number``-th file staged under one key takes room of its own."""
    destination = request.destination
    blob = destination if isinstance(destination, BlobDestination) else None
    there = blob is not None and blob.has_blob()
    # What is fetched anew is whole before it replaces what is there: two copies, however many files.
    if number <= request.fresh + (not there):
        return True
    return blob is not None and not blob.folder.symlinks  # without symlinks every path has bytes of its own


def _allocated(paths: Iterable[Path]) -> int:
    """Return the bytes that files take on the disk, for sparse files less than their length."""
    # A kill between a link and an unlink leaves one file under two names.
    sizes: dict[tuple[int, int], int] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                sizes[status.st_dev, status.st_ino] = bytes_on_disk(status)
    return sum(sizes.values())


def have_room(folders: Iterable[Path], nbytes: int) -> bool:
    """Return whether each of some folders has room for all of it, so that no file need be looked at."""
    places = {_existing(folder) for folder in folders}
    try:
        return all(nbytes <= shutil.disk_usage(place).free for place in places)
    except OSError:
        return False


def check_space(
    requests: Sequence[FileRequest],
    reserved_bytes: int,
    running: Callable[[], Iterable[FileRequest]],
    mode: DiskCheck,
) -> None:
    """Compare what files need with the free space of each file system.

    Their sizes are added up first; what of them is staged already is looked for only where that would not
    fit.

    Args:
        requests: The files.
        reserved_bytes: Bytes that other downloads of this process will write at the most.
        running: Says what they still fetch; asked only where the first number would not fit.
        mode: ``strict`` raises, ``warn`` warns, ``off`` does nothing.

    Raises:
        DiskFullError: It will not fit, and ``mode`` is ``strict``.
    """
    if mode == "off":
        return
    for place, there in _by_file_system(requests).items():
        try:
            free = shutil.disk_usage(place).free
        except OSError:
            continue  # some network file systems do not say
        if sum(each.remote.size or 0 for each in there) + reserved_bytes <= free:
            continue
        nbytes = space_needed(there)
        if not nbytes or nbytes + reserved_bytes <= free:
            continue
        # Together, because a running download may be about to bring the same blob.
        everything = space_needed(_by_file_system([*there, *running()]).get(place, there))
        if everything > free:
            reserved = everything - nbytes
            also = f", and {reserved} bytes of running downloads," if reserved else ""
            message = (
                f"Not enough disk space in {place}: {nbytes} bytes are to be fetched{also} but {free} are free. "
                "Free some space, choose another folder, or set HF_HAUL_DISK_CHECK=warn to try anyway."
            )
            if mode == "strict":
                raise DiskFullError(message)
            warnings.warn(message, UserWarning, stacklevel=3)


def _by_file_system(requests: Iterable[FileRequest]) -> dict[Path, list[FileRequest]]:
    """Group files by the file system they are staged on, each named by an existing folder."""
    places: dict[Path, Path | None] = {}
    devices: dict[int, Path] = {}
    found: dict[Path, list[FileRequest]] = {}
    for request in requests:
        folder = request.destination.staging_dir
        if folder not in places:
            place = _existing(folder)
            try:
                places[folder] = devices.setdefault(os.stat(place).st_dev, place)
            except OSError:
                places[folder] = None
        known = places[folder]
        if known is not None:
            found.setdefault(known, []).append(request)
    return found
