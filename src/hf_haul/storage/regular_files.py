"""Opens files in folders that others may write to, where a file under our name need not be ours.

A symbolic link would have us read or write anywhere, a pipe would keep us waiting for ever, and a device may
do anything.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from hf_haul.descriptors import descriptors

__all__ = ["NEW_FILE", "bytes_on_disk", "is_node_mode", "open_regular"]

#: Flags with which :func:`os.open` makes a file where there was nothing, not even a link.
NEW_FILE: Final[int] = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

#: No link is followed, and nothing is waited for. Windows knows neither flag.
_AS_IT_IS: Final = (
    getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
)
#: What systems answer who opens a link that is not to be followed, or a pipe or a socket that nobody listens
#: to.
_NO_FILE: Final = frozenset(
    {errno.ELOOP, getattr(errno, "EMLINK", errno.ELOOP), errno.ENXIO, errno.EOPNOTSUPP}
)


def open_regular(
    path: str | os.PathLike[str],
    flags: int,
    mode: int = 0o666,
    *,
    check: Callable[[], None] | None = None,
    own: int = 0,
) -> int:
    """Open a regular file, and nothing else; wait while the process has too few descriptors.

    Args:
        path: The file; links on the way to its folder are followed.
        flags: As for :func:`os.open`.
        mode: The same, for a file that is made.
        check: Called while it waits; raises to end that.
        own: Files that the caller has open meanwhile.

    Returns:
        The file descriptor.

    Raises:
        PermissionError: It is a link, a pipe or a device, or there is no right to open it.
        TooManyOpenFilesError: The process has as many files open as it may.
        OSError: It cannot be opened.
    """
    try:
        fd = descriptors.retry_on_shortage(lambda: os.open(path, flags | _AS_IT_IS, mode), check, own)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _no_file(path) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_file(path)
    return fd


def is_node_mode(mode: int) -> bool:
    """Return whether ``st_mode`` is that of a device, a pipe or a socket."""
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def bytes_on_disk(status: os.stat_result) -> int:
    """Return the bytes that a file takes on the disk, which for one with holes is less than its length."""
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else blocks * 512


def _no_file(path: str | os.PathLike[str]) -> PermissionError:
    return PermissionError(errno.EPERM, "Not a regular file", os.fspath(path))
