"""A staged file that another process left: what it says about itself, and whether its owner is alive."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_haul.config import DEFAULT_TIMINGS
from hf_haul.storage.journal import Header, header_of_other_size, read_header
from hf_haul.storage.ownership import (
    Owner,
    OwnerStatus,
    OwnerWatch,
    current_owner,
    owner_status,
    read_owner_xattr,
    try_lock,
)
from hf_haul.storage.regular_files import open_regular
from hf_haul.storage.staged_file import is_open_here
from hf_haul.storage.staged_names import SEALED_SUFFIX, SEQUENTIAL_SUFFIX

__all__ = ["LeftFile", "inspect_file", "judge_file"]


@dataclass(slots=True)
class LeftFile:
    """A staged file that another process left, open, with what is known of its owner.

    Who has it closes it: while it is open, it may be locked, and then the next who looks at it, in this
    process too, takes its owner to be alive.

    Attributes:
        path: Its name; ours alone, if it could be renamed.
        name: The name under which it was found.
        fd: It, open; only for reading if that is all we may; below 0 once it was closed or given away.
        header: What it says about itself.
        owner: Whose it is, as far as it says.
        status: Whether that owner is alive, is gone, or may come back: ``stale``.
        shared: Whether somebody else could go on writing into it.
    """

    path: Path
    name: Path
    fd: int
    header: Header | None
    owner: Owner | None
    status: OwnerStatus
    shared: bool = False

    @property
    def sequential(self) -> bool:
        """Whether its bytes are in order, without a journal."""
        return self.name.name.endswith(SEQUENTIAL_SUFFIX)

    @property
    def sealed(self) -> bool:
        """Whether it was complete and verified, and about to be published."""
        return self.name.name.endswith(SEALED_SUFFIX)

    @property
    def only_to_copy(self) -> bool:
        """Whether somebody else may go on writing into it."""
        return self.shared or self.status == "stale"

    def close(self) -> None:
        """Close it; calling it again does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> bool:
        """Close it and remove it, unless its name leads to another file by now.

        Returns:
            Whether it is removed.
        """
        try:
            identity = os.fstat(self.fd)
        finally:
            self.close()  # Windows removes no open files
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self.path), identity):
                os.unlink(self.path)
                return True
        return False


def inspect_file(
    path: Path,
    size: int,
    keys: Sequence[str],
    *,
    name: Path | None = None,
    watch: OwnerWatch | None = None,
    lock: bool = False,
    check: Callable[[], None] = lambda: None,
) -> LeftFile:
    """Open a staged file and judge its owner; the caller closes it.

    Args:
        path: The file.
        size: Bytes of the whole file; below 0 for any.
        keys: What its header may call its content.
        name: The name under which it was found, if that is another one.
        watch: Tells whether the owner of a file, though alive, has done nothing for long; it counts as
            ``stale`` then.
        lock: Lock it before it is judged; its owner is alive then if somebody else has locked it.
        check: Called while no file can be opened; raises to end the wait.

    Raises:
        PermissionError: It may not be read, or is no regular file.
        OSError: It cannot be opened.
    """
    try:
        fd = open_regular(path, os.O_RDWR, check=check)
    except OSError as error:
        if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
            raise
        fd = open_regular(path, os.O_RDONLY, check=check)
    try:
        free = not lock or try_lock(fd)
        left = judge_file(path, name or path, fd, size, keys, watch)
        if not free:
            left.status = "alive"
        return left
    except BaseException:
        os.close(fd)
        raise


def judge_file(
    path: Path,
    name: Path,
    fd: int,
    size: int,
    keys: Sequence[str],
    watch: OwnerWatch | None,
) -> LeftFile:
    """Judge the owner of an open staged file; see :func:`inspect_file`."""
    if name.name.endswith(SEALED_SUFFIX):  # its name says all
        return LeftFile(path, name, fd, None, None, "dead")
    status = os.fstat(fd)
    sequential = name.name.endswith(SEQUENTIAL_SUFFIX)
    header = None if sequential or size < 0 else read_header(fd, size, keys)
    other = header if header is not None or sequential else header_of_other_size(fd, keys)
    owner = read_owner_xattr(fd) if other is None else other.owner
    released = other is not None and other.released
    timings = DEFAULT_TIMINGS if watch is None else watch.timings
    verdict = owner_status(path, fd, owner, released=released, gone_after=timings.unseen)
    if verdict == "alive":
        if owner == current_owner():  # this very process; it may not have had the room to say that it let go
            alive = is_open_here(status)
        else:
            # A living owner's file has a header, or is locked: without either, it was cut or overwritten.
            owned = other is not None or (status.st_size > 0 and not try_lock(fd))
            alive = sequential or owned or time.time() - status.st_mtime < timings.unwritten
        if not alive:
            verdict = "dead"
        elif watch is not None and watch.is_asleep(status):
            verdict = "stale"
    return LeftFile(path, name, fd, other if size < 0 else header, owner, verdict)
