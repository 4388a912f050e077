"""Writing to the local Hub, which itself only reads, through the API that the filesystem writes with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

from hf_haul.filesystem.pinned import PinnedApi
from hf_haul.localhub import LocalHub, Repo

__all__ = ["WritingApi"]


class WritingApi(PinnedApi):
    """Commits into the local Hub's repositories without asking it."""

    def __init__(self, hub: LocalHub) -> None:
        super().__init__(endpoint=hub.url, token=False)
        self.repos: dict[str, Repo] = {}
        self.commits_made = 0

    def upload_file(self, *, path_or_fileobj: Any, path_in_repo: str, repo_id: str, **_: Any) -> None:
        data = path_or_fileobj if isinstance(path_or_fileobj, bytes) else Path(path_or_fileobj).read_bytes()
        self._write(repo_id, {path_in_repo: data})

    def delete_file(self, path_in_repo: str, repo_id: str, **_: Any) -> None:
        self._write(repo_id, {path_in_repo: None})

    def create_commit(self, repo_id: str, operations: list[Any], **_: Any) -> SimpleNamespace:
        repo = self.repos[repo_id]
        changes: dict[str, bytes | None] = {}
        for each in operations:
            if isinstance(each, CommitOperationDelete):
                changes[each.path_in_repo] = None
            elif isinstance(each, CommitOperationCopy):
                changes[each.path_in_repo] = _read(repo, each.src_path_in_repo)
            else:
                assert isinstance(each, CommitOperationAdd)
                changes[each.path_in_repo] = each.as_file().read()
        return SimpleNamespace(oid=self._write(repo_id, changes))

    def _write(self, repo_id: str, changes: dict[str, bytes | None]) -> str:
        self.commits_made += 1
        return self.repos[repo_id].commit(changes, "write").id


def _read(repo: Repo, path: str) -> bytes:
    content = repo.head.tree.files[path].content
    return content.read(0, content.size)
