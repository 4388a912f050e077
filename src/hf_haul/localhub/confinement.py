"""Which files of a folder may be served, and opening them so that no link leads elsewhere.

A link in a served folder can come from somebody else: a git clone brings those of its repository. So a file
counts by where it really lies, all links followed. That is asked of the opened descriptor, not of the path:
between a look at a path and its opening, someone who can write there could put another link in its place.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["Confinement", "is_shown", "open_regular"]

#: Names of git's own that begin with a dot and are part of a repository's content.
_GIT_FILES: Final = frozenset({".gitattributes", ".gitignore", ".gitmodules", ".gitkeep"})
_NEVER: Final = frozenset({".git", "__pycache__", ".ipynb_checkpoints"})
#: What downloads note and stage in a folder.
_NOTES: Final = (".cache", "huggingface")
#: Files of huggingface_hub's home with the user's own tokens.
_TOKENS: Final = frozenset({("huggingface", "token"), ("huggingface", "stored_tokens")})
_STAGED: Final = ".incomplete"
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # a fifo must not keep the caller
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def is_shown(parts: Sequence[str], *, hidden: bool = False) -> bool:
    """Return whether a file with this path in a folder is part of a repository.

    Never shown are ``.git``, metadata of downloads, left-overs of tools, unfinished downloads, and the tokens
    that huggingface_hub keeps.

    Args:
        parts: Its path, from the folder on.
        hidden: Whether all other names that begin with a dot are shown, too; else only those that git uses.
    """
    names = [part.casefold() for part in parts]
    if not _NEVER.isdisjoint(names) or _NOTES in itertools.pairwise(names):
        return False
    if not names or names[-1].endswith(_STAGED) or tuple(names[-2:]) in _TOKENS:
        return False
    if hidden:
        return True
    return not any(name.startswith(".") for name in names[:-1]) and (
        not names[-1].startswith(".") or names[-1] in _GIT_FILES
    )


class Confinement:
    """The folders in which a file must lie after all links are resolved.

    Args:
        roots: The folders' real paths; those that do not exist hold nothing, and links hold nothing either.
        hidden: See `is_shown`.
        every_name: Whether names do not matter, as in a cache, where all is named by the Hub.
    """

    def __init__(self, roots: Iterable[Path], *, hidden: bool = False, every_name: bool = False) -> None:
        self.roots = tuple(roots)
        self.hidden = hidden
        self.every_name = every_name

    def shows(self, path: Path) -> bool:
        """Return whether the name of a path below one of the folders is one that is served."""
        return any(self._shows_below(root, path) for root in self.roots)

    def enters(self, folder: Path) -> bool:
        """Return whether a folder of this name may have files to serve."""
        return self.shows(folder / "any")

    def holds(self, path: Path) -> bool:
        """Return whether a file, with links resolved, lies in one of the folders under a served name."""
        try:
            return self.shows(Path(os.path.realpath(path, strict=True)))
        except OSError:
            return False

    def require(self, descriptor: int, path: Path) -> None:
        """Verify that an open file lies in one of the folders, whatever its path leads to by now.

        Raises:
            PermissionError: It does not.
        """
        if not self.shows(_real_path(descriptor, path)):
            raise PermissionError(errno.EACCES, "it lies outside of what is served", os.fspath(path))

    def _shows_below(self, root: Path, path: Path) -> bool:
        if not path.is_relative_to(root):
            return False
        return self.every_name or is_shown(path.relative_to(root).parts, hidden=self.hidden)


def open_regular(path: Path, confinement: Confinement | None = None) -> BinaryIO:
    """Open a regular file in its confinement; refuse anything else without waiting for it.

    Args:
        path: The file.
        confinement: Where it must lie; ``None`` if anywhere will do.

    Raises:
        PermissionError: It lies elsewhere.
        OSError: It cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        if confinement is not None:
            confinement.require(descriptor, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _real_path(descriptor: int, path: Path) -> Path:
    """Return where an open file lies, with all links resolved."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # no /proc here
            return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    real = os.path.realpath(path, strict=True)
    if not os.path.samestat(os.stat(real), os.fstat(descriptor)):
        raise PermissionError(errno.EACCES, "it was replaced while it was opened", os.fspath(path))
    return Path(real)
