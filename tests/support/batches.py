"""Very many files that are nowhere, as the engine takes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hf_haul.engine.file_batch import FileBatch, FileOutline
from hf_haul.task import Destination, FileRequest, OtherSource, RemoteFile

__all__ = ["NumberedFiles"]


@dataclass(eq=False)
class NumberedFiles(FileBatch):
    """Files called by their number, the last of them the smallest.

    Attributes:
        length: How many.
        destination: Says where one goes.
        folder: Where they are staged.
        more: Other sources.
        asked: Numbers of the files whose requests were made.
    """

    length: int
    destination: Callable[[str], Destination]
    folder: Path
    more: tuple[OtherSource, ...] = ()
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.length

    @property
    def origin(self) -> str:
        return "http://source.test"

    @property
    def other_sources(self) -> tuple[OtherSource, ...]:
        return self.more

    def outlines(self) -> Iterator[FileOutline]:
        return ((*self._name_and_size(number), False) for number in range(self.length))

    def staging_dirs(self) -> Collection[Path]:
        return [self.folder]

    def request(self, number: int) -> FileRequest:
        self.asked.append(number)
        name, size = self._name_and_size(number)
        remote = RemoteFile(name, f"{self.origin}/{name}", size, sources=self.more)
        return FileRequest(remote, self.destination(name))

    def _name_and_size(self, number: int) -> tuple[str, int]:
        return f"{number:07d}.png", self.length - number
