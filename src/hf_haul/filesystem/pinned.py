"""HfApi that stays with the commit it saw first."""

from __future__ import annotations

from typing import Any

from huggingface_hub import HfApi, constants

from hf_haul.hub import is_commit

__all__ = ["PinnedApi", "pin_of"]


class PinnedApi(HfApi):
    """HfApi that remembers the commit each revision was at, and lists that commit from then on.

    A listing, its pages and the files read later are then all of one version, however the branch moves meanwhile.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commits: dict[tuple[str, str, str], str] = {}

    def repo_info(self, repo_id: str, **options: Any) -> Any:
        """As in huggingface_hub; the commit is remembered."""
        info = super().repo_info(repo_id, **options)
        if info.sha is not None:
            self.commits[pin_of(options.get("repo_type"), repo_id, options.get("revision"))] = info.sha
        return info

    def list_repo_tree(self, repo_id: str, path_in_repo: str | None = None, **options: Any) -> Any:
        """As in huggingface_hub, at the commit first seen."""
        return super().list_repo_tree(repo_id, path_in_repo, **self._pinned(repo_id, options))

    def get_paths_info(self, repo_id: str, paths: list[str] | str, **options: Any) -> Any:
        """As in huggingface_hub, at the commit first seen."""
        return super().get_paths_info(repo_id, paths, **self._pinned(repo_id, options))

    def _iter_repo_tree_pages(self, repo_id: str, path_in_repo: str | None = None, **options: Any) -> Any:
        # Called by huggingface_hub's own filesystem since 2.4; where it is not, nothing calls ours.
        return super()._iter_repo_tree_pages(repo_id, path_in_repo, **self._pinned(repo_id, options))

    def pinned_commit(self, repo_type: str, repo_id: str, revision: str) -> str:
        """The commit a revision is at, asked of the Hub the first time only."""
        if is_commit(revision):
            return revision
        pin = pin_of(repo_type, repo_id, revision)
        if pin not in self.commits:
            self.repo_info(
                repo_id, repo_type=repo_type, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        return self.commits[pin]

    def _pinned(self, repo_id: str, options: dict[str, Any]) -> dict[str, Any]:
        revision = options.get("revision") or constants.DEFAULT_REVISION
        return {
            **options,
            "revision": self.pinned_commit(options.get("repo_type") or "model", repo_id, revision),
        }


def pin_of(repo_type: str | None, repo_id: str, revision: str | None) -> tuple[str, str, str]:
    """What tells one revision from another, whether defaults were spelt out or not."""
    return (repo_type or "model", repo_id, revision or constants.DEFAULT_REVISION)
