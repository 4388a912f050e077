"""Content that is fetched when somebody asks for it, and sent while it arrives."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from typing import BinaryIO

from hf_haul.localhub.objects import Content, FileContent

__all__ = ["Arrival", "ArrivingContent"]


class Arrival(ABC):
    """What one answer sees of a file that is being fetched."""

    @abstractmethod
    async def ready(self, start: int, stop: int) -> tuple[BinaryIO, int]:
        """Wait until bytes from ``start`` on are here.

        Args:
            start: The first byte that is wanted.
            stop: The end of what is wanted.

        Returns:
            The file that holds them, each at its own offset, which is the same for all calls after which
            something was sent; and up to where they are here. That is ``start`` only where nothing is wanted.

        Raises:
            Refusal: They will not come.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class ArrivingContent(Content):
    """A file whose size and digest are known, and whose bytes may have to be fetched."""

    @abstractmethod
    def at_once(self) -> FileContent | None:
        """Return the file, if it is known to be here; this takes no longer than a look at the disk."""

    @abstractmethod
    def begin(self) -> FileContent | Arrival:
        """Return the file, if it is here, or else begin to fetch it; this may take long.

        Raises:
            Refusal: It cannot be had.
        """

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return nothing: nobody waits for bytes in this way.

        Raises:
            FileNotFoundError: Always.
        """
        raise FileNotFoundError(errno.ENOENT, f"bytes {offset} to {offset + nbytes} may not be here yet")
