"""The files of a snapshot that are to be fetched, as the engine takes them; there may be a million."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_haul.engine.file_batch import FileBatch, FileOutline
from hf_haul.hub.known_files import KnownFiles
from hf_haul.hub.metadata import FileMetadata
from hf_haul.hub.repository import Repository
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.task import FileRequest, OtherSource
from hf_haul.urls import source_of

__all__ = ["SnapshotRequests"]


@dataclass(frozen=True, eq=False)
class SnapshotRequests(FileBatch):
    """Files of a repository, each with its place in a cache or a ``local_dir``.

    Attributes:
        repository: The repository.
        known: What is known of its files.
        paths: Those that are wanted, in the order of ``known``.
        destination: Says where a file goes.
        sources: Where their bytes can be had beside the repository's Hub.
        fresh: Whether each is fetched anew, whatever is in place.

    Raises:
        ValueError: Two of them have one place.
        UnsafePathError: What the Hub said of one is no name for a file.
    """

    repository: Repository
    known: KnownFiles
    paths: Sequence[str]
    destination: Callable[[str, FileMetadata], BlobDestination | LocalDirDestination]
    sources: tuple[OtherSource, ...] = ()
    fresh: bool = False

    def __post_init__(self) -> None:
        if os.path.normcase("A") != "A" or any(map(_may_be_respelled, self.paths)):
            self._require_distinct()
        for path, meta in self.known.asked.items():  # an etag of a listing is a digest
            self.destination(path, meta)

    def _require_distinct(self) -> None:
        seen: set[str] = set()
        for path in self.paths:
            place = os.fspath(self.destination(path, self.known[path]).path)  # in one spelling
            folded = os.path.normcase(place)
            if folded in seen:
                raise ValueError(f"{path!r} is given twice: two files cannot go to {place}")
            seen.add(folded)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def origin(self) -> str:
        """The repository's Hub."""
        return source_of(self.repository.base)

    @property
    def other_sources(self) -> tuple[OtherSource, ...]:
        """Where their bytes can be had, too."""
        return self.sources

    def outlines(self) -> Iterator[FileOutline]:
        """Yield what the order of each depends on."""
        asked = self.known.asked
        for number, (path, size) in enumerate(self.known.sizes(self.paths)):
            if asked and path in asked:
                yield path, size, self.request(number).remote.is_checkable
            else:
                yield path, size, size is not None

    def staging_dirs(self) -> Collection[Path]:
        """Return the folders in which they are staged."""
        if not self.paths:
            return ()
        first = self.destination(self.paths[0], self.known[self.paths[0]])
        if isinstance(first, BlobDestination):  # all of them are staged beside the blobs
            return (first.staging_dir,)
        # One of each folder, and of each length: long paths may be spelled in another way.
        some = {(os.path.dirname(path), len(path)): path for path in self.paths}
        return {self.destination(path, self.known[path]).staging_dir for path in some.values()}

    def request(self, number: int) -> FileRequest:
        """Return the request of one file."""
        path = self.paths[number]
        meta = self.known[path]
        return FileRequest(
            remote=self.repository.remote_file(path, meta, self.sources),
            destination=self.destination(path, meta),
            fresh=self.fresh,
        )

    def has_blob(self, path: str) -> bool:
        """Return whether the cache has the bytes of a file, and lacks only the link to them."""
        destination = self.destination(path, self.known[path])
        return not self.fresh and isinstance(destination, BlobDestination) and destination.has_blob()


def _may_be_respelled(path: str) -> bool:
    """Return whether a path may lead where another one does: ``a//b``, ``./a/b``, ``a/./b``, ``a/b/.``."""
    return "//" in path or "./" in path or path.endswith(("/", "/."))
