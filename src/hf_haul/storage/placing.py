"""How files get their final names: by rename, with a new file's permissions, never through a link."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
from pathlib import Path
from typing import Final

from hf_haul.descriptors import descriptors
from hf_haul.storage.file_names import passing_name, temporary_name
from hf_haul.storage.regular_files import is_node_mode
from hf_haul.storage.safe_paths import FOLDER_LIMIT, extended_path

__all__ = [
    "Folders",
    "copy_to_new",
    "discard",
    "follow_link",
    "replace_file",
    "require_place",
    "tag_folder",
    "take_over_mode",
    "write_atomically",
]

logger = logging.getLogger(__name__)

_TAG: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by huggingface_hub.\n"
    "# For information about cache directory tags, see:\n"
    "#\thttps://bford.info/cachedir/\n"
)


#: Bytes copied in one step.
_COPY_STEP: Final = 1 << 20


class Folders:
    """Folders created and file modes probed once, however many files go into them."""

    def __init__(self) -> None:
        # Both are filled without a lock: two threads that make the same folder do no harm.
        self._made: set[str] = set()
        self._modes: dict[str, int | None] = {}

    def make(self, folder: str) -> None:
        """Create a folder and its parents, unless this object has done so before."""
        if folder not in self._made:
            os.makedirs(extended_path(folder, FOLDER_LIMIT), exist_ok=True)
            self._made.add(folder)

    def forget(self, folder: str) -> None:
        """Create a folder again the next time: it was removed."""
        self._made.discard(folder)

    def apply_mode(self, path: str, folder: str) -> None:
        """Give ``path`` the permissions that a file newly made in ``folder`` gets.

        The umask cannot be read without changing it for all threads, and a folder may add rules of its own.
        """
        if folder not in self._modes:
            self._modes[folder] = _probe_mode(folder)
        mode = self._modes[folder]
        if mode is not None:
            try:
                os.chmod(path, mode)
            except OSError as error:
                logger.warning("Could not set the permissions of '%s': %s", path, error)


def _probe_mode(folder: str) -> int | None:
    probe = passing_name(folder)
    try:
        fd = descriptors.retry_on_shortage(
            lambda: os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        )
    except OSError:
        return None
    try:
        if os.name != "nt":
            discard(probe)  # at once: a kill in between leaves an empty file, which the next sweep removes
        return stat.S_IMODE(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
        discard(probe)


def take_over_mode(path: Path, older: Path) -> bool:
    """Copy permissions, and if possible the owner, from the file to be replaced.

    Return whether there is one.
    """
    try:
        found = os.stat(older)
        mine = os.stat(path)
    except OSError:
        return False
    try:
        if hasattr(os, "chown") and (found.st_uid, found.st_gid) != (mine.st_uid, mine.st_gid):
            with contextlib.suppress(PermissionError):  # only root may
                os.chown(path, found.st_uid, found.st_gid)
        os.chmod(path, stat.S_IMODE(found.st_mode) & 0o777)
    except OSError as error:
        logger.warning("Could not set the permissions of '%s': %s", path, error)
    return True


def follow_link(path: Path) -> Path:
    """Return where a file for ``path`` goes: to the target of a link, as with all programs that write there.

    A link to a blob of a Hub's cache is not followed, because its bytes belong to its name: it is replaced
    itself.

    Raises:
        OSError: The links lead round in a circle.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    folder = target.parent
    is_blob = folder.name == "blobs" and (folder.parent / "snapshots").is_dir()
    return path if is_blob else target


def require_place(path: str | os.PathLike[str]) -> bool:
    """Refuse a path at which no file can be created, before anything is fetched for it.

    Returns:
        Whether a file or a link is there, as far as it can be seen.

    Raises:
        IsADirectoryError: There is a folder, where somebody's files are; a link to one is no folder.
        FileExistsError: There is a device, a pipe or a socket; or a file is where a folder on the way should
            be.
        OSError: The file system takes no such name.
    """
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            raise _is_a_folder(path)
        if is_node_mode(mode):
            raise FileExistsError(
                errno.EEXIST, "A device, a pipe or a socket is where the file should go", os.fspath(path)
            )
        return True
    except (FileNotFoundError, PermissionError):
        return False
    except NotADirectoryError as error:
        folder = os.path.dirname(path)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        raise FileExistsError(
            errno.EEXIST, "A file is where a folder should be", os.fspath(folder)
        ) from error


def _is_a_folder(path: str | os.PathLike[str]) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, "A folder is where the file should go", os.fspath(path))


def replace_file(source: str, target: str) -> None:
    """Rename ``source`` to ``target``, over any file there, also across and on difficult file systems.

    Over a device or a pipe nothing is renamed, also if it was made there since the download began.
    """
    require_place(target)
    try:
        os.replace(source, target)
        return
    except OSError:
        if not os.path.lexists(source) or not os.path.isdir(os.path.dirname(target)):
            raise
    # Another device, or a mount that renames over nothing: bring the file near first, move the old one aside.
    near = temporary_name(target, ".new", ".")
    aside = temporary_name(target, ".old", ".")
    try:
        try:
            os.rename(source, near)
        except OSError:
            copy_to_new(source, near)
            shutil.copymode(source, near)
        _swap_in(near, target, aside)
    except OSError:
        if os.path.lexists(source):
            discard(near)
        else:
            os.rename(near, source)
        raise
    discard(source)


def _swap_in(near: str, target: str, aside: str) -> None:
    occupied = os.path.lexists(target)
    if occupied:
        os.rename(target, aside)
    try:
        os.rename(near, target)
    except OSError:
        if occupied:
            os.rename(aside, target)
        raise
    if occupied:
        discard(aside)


def discard(path: str) -> None:
    """Remove a file if it exists and can be removed."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def copy_to_new(source: str, target: str) -> None:
    """Copy a file to a name that does not exist, not even as a link."""
    with (
        descriptors.retry_on_shortage(lambda: open(source, "rb")) as old,
        descriptors.retry_on_shortage(lambda: open(target, "xb"), own=1) as new,
    ):
        shutil.copyfileobj(old, new, _COPY_STEP)


def write_atomically(path: str, text: str, through: str) -> None:
    """Write a small file by rename.

    Args:
        path: The file.
        text: What is to be in it.
        through: The folder where it is written first: one of staged files, which is swept.
    """
    temporary = passing_name(through)
    try:
        with descriptors.retry_on_shortage(lambda: open(temporary, "x", encoding="utf-8")) as file:
            file.write(text)
        replace_file(temporary, path)
    except OSError:
        discard(temporary)
        raise


def tag_folder(folder: str) -> None:
    """Mark a folder as a cache, so that backups skip it. An existing mark is left alone."""
    with contextlib.suppress(OSError), open(os.path.join(folder, "CACHEDIR.TAG"), "x") as file:
        file.write(_TAG)
