"""Makes sure that files in place, and their names, survive a power failure.

A flush of each file before it gets its name has its worker wait for the disk each time. So small files are
flushed together, behind all of them.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from collections.abc import Iterable
from typing import Final

from hf_haul.descriptors import descriptors

__all__ = ["flush_files"]

logger = logging.getLogger(__name__)

#: So many files are flushed one by one; for more, all of their file system is flushed at once.
_FEW = 16
#: What a disk says that has lost something. Of a folder, file systems say other things, too: that they cannot
#: flush any (network shares, FUSE), or that it may be written, but not be opened.
_LOST: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})


def flush_files(paths: Iterable[str]) -> dict[str, OSError]:
    """Wait until the disk has some files and their names, links to them included.

    Args:
        paths: Where they are in place. What is no file, or not there any more, is passed over.

    Returns:
        The error of each file that could not be flushed.
    """
    by_device: dict[int, dict[str, None]] = {}  # in order, and each once
    errors: dict[str, OSError] = {}
    for path in paths:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            errors[path] = error
            continue
        if stat.S_ISREG(status.st_mode):
            by_device.setdefault(status.st_dev, {})[path] = None
    for group in by_device.values():
        if len(group) <= _FEW or not _flush_file_system(next(iter(group))):
            errors.update(_flush_each(group))
    return errors


def _flush_each(paths: Iterable[str]) -> dict[str, OSError]:
    errors: dict[str, OSError] = {}
    folders: dict[str, list[str]] = {}
    for path in paths:
        real = os.path.realpath(path)
        try:
            _flush(real)
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError as error:
            errors[path] = error
        for folder in {os.path.dirname(real): None, os.path.dirname(path): None}:
            folders.setdefault(folder, []).append(path)
    if sys.platform != "win32":  # which opens no folders
        for folder, named in folders.items():
            try:
                _flush(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in _LOST:
                    errors |= dict.fromkeys(named, error)
                else:
                    logger.debug("%s cannot be flushed to the disk: %s", folder, error)
    return errors


def _flush(path: str) -> None:
    # Windows flushes only what was opened to be written.
    flags = os.O_RDWR if sys.platform == "win32" else os.O_RDONLY
    fd = descriptors.retry_on_shortage(lambda: os.open(path, flags))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _flush_file_system(path: str) -> bool:
    """Flush all of the file system that a file is on; return whether that was possible.

    Python knows ``sync`` only, which waits for all file systems.
    """
    if sys.platform != "linux":
        return False
    import ctypes  # it takes some milliseconds, which a few files need not wait for

    try:
        fd = descriptors.retry_on_shortage(lambda: os.open(path, os.O_RDONLY))
    except OSError:
        return False
    try:
        return bool(ctypes.CDLL(None).syncfs(fd) == 0)
    except (OSError, AttributeError):  # another libc
        return False
    finally:
        os.close(fd)
