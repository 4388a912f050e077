"""Many files that are asked for together, whose requests are made when they are needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, overload

from hf_haul.task import FileRequest, OtherSource

__all__ = ["FileBatch", "FileOutline"]


#: What the order of a file depends on: its path, its bytes or ``None`` if unknown, and whether its origin
#: told what it is, so that its bytes may come from anywhere. A plain tuple, as a million are looked at.
FileOutline: TypeAlias = tuple[str, int | None, bool]


class FileBatch(Sequence[FileRequest], ABC):
    """Files of one origin; a request takes a KiB, and a million of them may wait.

    Whoever makes one vouches for what is otherwise checked of each file before any is queued: URLs are of
    http or https, names are safe, no two files go to one place, no size is negative, and no file has a
    priority of its own.
    """

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where all of them come from: ``scheme://host:port``, as :func:`~hf_haul.urls.source_of` says it."""

    @property
    @abstractmethod
    def other_sources(self) -> tuple[OtherSource, ...]:
        """Where the bytes of those that are checkable may come from, too."""

    @abstractmethod
    def outlines(self) -> Iterator[FileOutline]:
        """Yield what the order of each depends on, without making its request."""

    @abstractmethod
    def staging_dirs(self) -> Collection[Path]:
        """Return the folders in which they are staged."""

    @abstractmethod
    def request(self, number: int) -> FileRequest:
        """Return the request of one file.

        Args:
            number: Which, from 0.
        """

    @overload
    def __getitem__(self, index: int) -> FileRequest: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[FileRequest]: ...

    def __getitem__(self, index: int | slice) -> FileRequest | Sequence[FileRequest]:
        numbers = range(len(self))[index]
        return self.request(numbers) if isinstance(numbers, int) else [self.request(each) for each in numbers]
