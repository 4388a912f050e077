"""What is known of files at one commit, for a download: metadata that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from hf_haul.hub.file_listing import FileListing
from hf_haul.hub.metadata import FileMetadata, metadata_from_listing

__all__ = ["KnownFiles"]


class KnownFiles(Mapping[str, FileMetadata]):
    """Metadata by path: of files of a listing, which may be a million, and of files that were asked about.

    Args:
        commit: The commit of the listing.
        listed: Files of the listing, each with a digest.
        asked: What the Hub said of others, behind them.

    Attributes:
        asked: See above.
    """

    def __init__(self, commit: str, listed: FileListing, asked: Mapping[str, FileMetadata]) -> None:
        self.asked = asked
        self._commit = commit
        self._listed = listed

    def __getitem__(self, path: str) -> FileMetadata:
        known = self.asked.get(path)
        if known is None:
            known = metadata_from_listing(self._commit, self._listed[path])
        if known is None:
            raise KeyError(path)
        return known

    def __contains__(self, path: object) -> bool:
        return path in self._listed or path in self.asked

    def __iter__(self) -> Iterator[str]:
        return chain(self._listed, self.asked)

    def __len__(self) -> int:
        return len(self._listed) + len(self.asked)

    @property
    def commits(self) -> set[str]:
        """The commits that they are files of: a mirror may call one by several names."""
        return {self._commit} | {known.commit for known in self.asked.values()}

    def sizes(self, paths: Iterable[str]) -> Iterator[tuple[str, int | None]]:
        """Yield files with their bytes; ``None`` while unknown."""
        if not self.asked:
            return self._listed.content_sizes(paths)
        return ((path, self[path].size) for path in paths)
