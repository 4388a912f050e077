"""A disk that fills up. It needs nothing that is installed, for workers on which little is."""

from __future__ import annotations

import errno
import os
from typing import Any

__all__ = ["FullDisk"]


class FullDisk:
    """The functions of ``os``, with room for so many bytes more in staged files.

    Args:
        room: The bytes.
    """

    def __init__(self, room: int) -> None:
        self.room = room

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        """Write as much as there is room for."""
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = memoryview(data)[: self.room]
        self.room -= len(taken)
        return os.pwrite(fd, taken, offset)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)
