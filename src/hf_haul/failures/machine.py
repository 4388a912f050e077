"""What the errors of this machine mean: its disks, its limits, its settings."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from typing import Final

from hf_haul.failures.failure import CHOOSE_A_FOLDER, MORE_FILES, Failure, FailureKind, says_itself, sentences

__all__ = ["NO_HOME", "read_connection", "read_no_home", "read_system"]

#: What is said where there is no home folder.
NO_HOME: Final = "There is no home folder: HOME is not set, and the system knows none of this user"
_IN_THE_WAY: Final = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_FREE_SPACE: Final = "Free some space, or choose another folder; what was fetched is kept"
#: How Python begins the text of an error that has a number.
_NUMBER: Final = re.compile(r"^\[Errno -?\d+\]\s*")

_DISK_ERRORS: Final[Mapping[int, str]] = {
    number: words
    for name, words in (
        ("EACCES", "Permission denied"),
        ("EPERM", "Permission denied"),
        ("EROFS", "The file system is read-only"),
        ("ENOSPC", "No space is left on the disk"),
        ("EDQUOT", "The quota of the disk is used up"),
        ("EFBIG", "The file system takes no file of this size"),
        ("EIO", "The disk failed"),
        ("ESTALE", "The network file system lost the file"),
        ("ENOTDIR", "There is a file where a folder is needed"),
        ("EISDIR", "There is a folder where a file is needed"),
        ("EEXIST", "There is something else already"),
        ("ENAMETOOLONG", "The name is too long for the file system"),
        ("ELOOP", "Links lead in a circle"),
    )
    if (number := getattr(errno, name, None)) is not None
}
_FULL: Final = frozenset(getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT"))


def read_system(error: OSError) -> Failure | None:
    """Return what an error of the system means, by its number."""
    named = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else None
    where = "" if named is None else f": {os.fsdecode(named)}"
    happened = _DISK_ERRORS.get(error.errno or 0)
    if happened is not None:
        hint = _FREE_SPACE if error.errno in _FULL else CHOOSE_A_FOLDER
        return Failure(FailureKind.DISK, happened + where, hint)
    if error.errno == errno.ENOENT and named is not None:
        return Failure(FailureKind.OTHER, f"No such file or folder{where}")
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return Failure(FailureKind.OTHER, "Too many files are open at once", MORE_FILES)
    in_the_way = isinstance(error, _IN_THE_WAY)  # raised by a class alone, as "'a.bin': /d/a is a folder"
    return _in_its_words(error, FailureKind.DISK if in_the_way else FailureKind.OTHER)


def read_connection(error: OSError) -> Failure | None:
    """Return what an error of a socket means that no library has wrapped."""
    return _in_its_words(error, FailureKind.NETWORK)


def _in_its_words(error: OSError, kind: FailureKind) -> Failure:
    text, hint, details = sentences(error)
    text = _NUMBER.sub("", text) or error.strerror or "The system reported an unspecified error"
    return Failure(kind, text, hint, details)


def read_no_home(error: Exception) -> Failure | None:
    """Return what it means that Python finds no home folder."""
    if "home directory" not in str(error):
        return says_itself(FailureKind.OTHER)(error)
    return Failure(FailureKind.DISK, NO_HOME, "Set HOME, or HF_HOME to the folder to use")
