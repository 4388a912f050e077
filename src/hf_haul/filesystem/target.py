"""One file of a repository at one commit, and how a refusal is turned into huggingface_hub's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hf_haul.errors import HttpStatusError
from hf_haul.hub.repository import Repository
from hf_haul.task import RemoteFile

__all__ = ["Target"]


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

    def explain(self, error: Exception) -> Exception:
        """Return the error that huggingface_hub raises where a server refuses the file."""
        explained = self.repository.explain(self.path, self.commit, error)
        return explained if isinstance(explained, Exception) else error

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise huggingface_hub's errors where a server refuses the file."""
        try:
            yield
        except HttpStatusError as error:
            raise self.explain(error) from error
