"""Names from a Hub that are safe to use on disk: paths in a repository, etags, commits."""

from __future__ import annotations

import ntpath
import os
import posixpath
import re
import reprlib
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath
from typing import Final

from hf_haul.errors import UnsafePathError
from hf_haul.storage.file_names import name_length

__all__ = [
    "FOLDER_LIMIT",
    "MOST_FOLDERS",
    "NAME_LIMIT",
    "extended_path",
    "is_content_addressed",
    "is_in_metadata_folder",
    "require_outside_metadata",
    "require_safe_commit",
    "require_safe_name",
    "require_safe_path",
]

#: Windows' limits in characters for a file and for a folder that shall hold an 8.3 name.
_FILE_LIMIT: Final = 255
FOLDER_LIMIT: Final = 247
#: What file systems accept for one name, less room for the suffixes of staged files.
NAME_LIMIT: Final = 200
#: Folders that a file may be in, one in the other; making them goes as deep.
MOST_FOLDERS: Final = 255
#: Commits named by their content: git's sha1, or a sha256 as some Hubs have it.
_LASTING: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
#: Paths that are safe at a glance, as nearly all are: no separators but single slashes, every name begins
#: with a letter.
_PLAIN_PATH: Final = re.compile(r"\w[\w.+\- ]*(?:/\w[\w.+\- ]*)*")
#: The metadata folder of a ``local_dir``, and the folder it is in, by all the names that Windows has for
#: them.
_METADATA_NAMES: Final = (r"\.cache|cache~\d+|ca[0-9a-f]{4}~\d+", r"huggingface|huggin~\d+|hu[0-9a-f]{4}~\d+")
#: Code points that macOS leaves out when it compares names.
_UNSEEN: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def require_safe_path(path: str) -> None:
    """Refuse a repository path that could lead out of the folder it is joined to.

    POSIX and Windows rules both apply on every system: what is written on one may be used on the other.

    Raises:
        UnsafePathError: ``path`` is empty, absolute, on a drive or a share, has a ``..`` segment, is no text,
            or is in more folders than can be made.
    """
    _require_few_folders(path, "filename")
    if _PLAIN_PATH.fullmatch(path):
        return
    if ".." in path.replace("\\", "/").split("/"):
        raise UnsafePathError(
            f"Invalid filename '{path}': cannot contain a '..' path segment. "
            "Please ask the repository owner to rename this file."
        )
    pure = [PurePosixPath(path), *(PureWindowsPath(part) for part in path.split("/"))]
    if any(part.drive or part.root for part in pure):
        raise UnsafePathError(
            f"Invalid filename '{path}': cannot be an absolute, drive-relative or UNC path. "
            "Please ask the repository owner to rename this file."
        )
    if posixpath.normpath(path) == "." or "\0" in path:
        raise UnsafePathError(f"Invalid filename {path!r}: it names no file.")
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        raise UnsafePathError(f"Invalid filename {path!r}: it is not Unicode text.")
    if os.name == "nt" and ":" in path:
        raise UnsafePathError(f"Invalid filename '{path}': Windows keeps ':' for data streams.")


def _require_few_folders(path: str, what: str) -> None:
    if path.count("/") > MOST_FOLDERS:
        raise UnsafePathError(
            f"Invalid {what} {reprlib.repr(path)}: it is in more than {MOST_FOLDERS} folders."
        )


def is_in_metadata_folder(path: str) -> bool:
    """Return whether a path leads into the metadata folder of a ``local_dir``: ``.cache/huggingface``.

    Names are compared as loosely as any system does: Windows and macOS do not tell upper from lower case,
    macOS neither the forms of one letter nor letters that cannot be seen, Windows drops dots and blanks at
    the end of a name, cuts it at a colon, and has short names of its own (``CACHE~1``).
    """
    if "cache" not in path.casefold() and path.isascii() and "~" not in path:
        return False
    names = [name for name in map(_folded, path.replace("\\", "/").split("/")) if name]
    return len(names) > 1 and all(map(re.fullmatch, _METADATA_NAMES, names))


def _folded(name: str) -> str:
    """Return a name as the least exact file system compares it."""
    seen = _UNSEEN.sub("", name.partition(":")[0])
    for _ in range(2):  # some letters fold to several
        seen = unicodedata.normalize("NFKC", seen).casefold()
    return seen.rstrip(" .")


def require_outside_metadata(path: str) -> None:
    """Refuse a path in the metadata folder of a ``local_dir``: what is there says which files are verified.

    Raises:
        UnsafePathError: The path leads there.
    """
    if is_in_metadata_folder(path):
        raise UnsafePathError(
            f"Invalid filename '{path}': a local_dir keeps its own metadata in .cache/huggingface. "
            "Download it into the cache, without local_dir."
        )


def require_safe_name(name: str, *, what: str) -> str:
    """Refuse an etag or a commit that could not be the name of one file.

    Returns:
        ``name``.

    Raises:
        UnsafePathError: It is empty, too long, or holds a separator.
    """
    if not name or name_length(name) > NAME_LIMIT or name in {".", ".."} or set(name) & set("/\\:\0"):
        raise UnsafePathError(f"the server announced {name!r} as {what}; it cannot name a file")
    return name


def require_safe_commit(commit: str) -> str:
    """Refuse a commit that could not be the name of a folder in ``snapshots``.

    Slashes are fine: some mirrors call a commit by the branch or tag that was asked for.

    Returns:
        ``commit``.

    Raises:
        UnsafePathError: It is empty, or would lead elsewhere.
    """
    _require_few_folders(commit, "commit")
    for part in commit.split("/"):
        require_safe_name(part, what=f"part of the commit {commit!r}")
    return commit


def is_content_addressed(commit: str) -> bool:
    """Return whether a commit's name is made from its content, and so cannot come to mean something else."""
    return _LASTING.fullmatch(commit) is not None


def extended_path(path: str, limit: int = _FILE_LIMIT, *, windows: bool = os.name == "nt") -> str:
    r"""Return the path in Windows' ``\\?\`` form if it is longer than ``limit`` characters there."""
    if not windows:
        return path
    full = ntpath.abspath(path)
    if len(full) <= limit or full.startswith("\\\\?\\"):
        return path
    return "\\\\?\\UNC\\" + full[2:] if full.startswith("\\\\") else "\\\\?\\" + full
