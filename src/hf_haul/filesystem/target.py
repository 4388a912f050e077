"""One file of a repository at one commit, and how a refusal is turned into huggingface_hub's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import constants

from hf_haul.config import Settings
from hf_haul.errors import HttpStatusError, add_note
from hf_haul.hub.metadata import FileMetadata, ListedFile, metadata_from_listing
from hf_haul.hub.repo_sources import repo_sources
from hf_haul.hub.repository import Repository
from hf_haul.task import RemoteFile

__all__ = ["Target", "metadata_of"]


@dataclass(frozen=True, slots=True)
class Target:
    """One file, pinned to a commit.

    Attributes:
        name: Its name in the filesystem.
        lpath: Where it is to be copied to.
        repository: Where it is.
        path: Its name in the repository.
        commit: At which commit.
        remote: How to fetch it.
        info: What the filesystem says of it.
    """

    name: str
    lpath: str
    repository: Repository
    path: str
    commit: str
    remote: RemoteFile
    info: dict[str, Any]

    def with_sources(self, settings: Settings) -> Target:
        """Return it with the other sources that settings name."""
        found = repo_sources(self.repository, self.commit, settings)
        here = replace(self.remote, path=self.path)  # theirs is a repository's path, without its name
        sources = [replace(each, url=each.stand_in(here).url, joins_path=False) for each in found]
        return replace(self, remote=replace(self.remote, sources=tuple(sources)))

    def explain(self, error: Exception) -> Exception:
        """Return the error that huggingface_hub raises where a server refuses the file."""
        explained = self.repository.explain(self.path, self.commit, error)
        if explained is error or not isinstance(explained, Exception):
            return error
        for note in getattr(error, "__notes__", ()):
            add_note(explained, note)
        return explained

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise huggingface_hub's errors where a server refuses the file."""
        try:
            yield
        except HttpStatusError as error:
            raise self.explain(error) from error


def metadata_of(repository: Repository, path: str, commit: str, info: dict[str, Any]) -> FileMetadata:
    """Return size, etag and digest of a file by what the filesystem says of it, or else ask."""
    lfs = info.get("lfs")
    if info.get("blob_id") or lfs:
        entry = ListedFile(
            size=info["size"],
            blob_id=info.get("blob_id") or "",
            lfs_sha256=lfs["sha256"] if lfs else None,
            lfs_size=lfs["size"] if lfs else None,
            xet_hash=info.get("xet_hash"),
        )
        found = metadata_from_listing(commit, entry)
        if found is not None:
            return found
    return repository.metadata(path, commit, timeout=constants.HF_HUB_ETAG_TIMEOUT, retry=True)
