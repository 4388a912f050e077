"""huggingface_hub's HfApi, pinned to the commit that each revision was at first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from huggingface_hub import RepoFile, RepoFolder, constants

from hf_haul.config import DEFAULT_TIMINGS
from hf_haul.filesystem.freshness import Freshness, drop_oldest
from hf_haul.hub.api import HubApi, entry_of
from hf_haul.hub.asking import BadAnswerError, retry_busy
from hf_haul.hub.listing import SamePageError, tree_pages, tree_url
from hf_haul.hub.metadata import is_commit
from hf_haul.urls import redact
from hf_haul.waits import Waits, unattended

__all__ = ["Pin", "PinnedApi", "pin_of"]

#: One revision of one repository: the repository's type and id, and the revision's name.
Pin = tuple[str, str, str]


class PinnedApi(HubApi):
    """An HfApi that remembers the commit of each revision, and uses that commit from then on.

    A listing, its pages and the files read later are then all of one version, however the branch moves
    meanwhile. Of very many revisions, the latest are remembered.

    Attributes:
        commits: The commits.
        waits: Where it is reported what is waited for.
        timings: How long that is.
    """

    def __init__(self, freshness: Freshness | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.commits: dict[Pin, str] = {}
        self._freshness = freshness or Freshness()
        self.waits: Waits = unattended
        self.timings = DEFAULT_TIMINGS

    def repo_info(self, repo_id: str, **options: Any) -> Any:
        """Return huggingface_hub's answer.

        Remember its commit, unless listings may have been read at another.
        """
        info = self._ask(repo_id, **options)
        pin = pin_of(options.get("repo_type"), repo_id, options.get("revision"))
        if pin not in self.commits:
            drop_oldest(self.commits)
        if info.sha is None or self.commits.setdefault(pin, info.sha) == info.sha:
            self._freshness.note(pin)
        return info

    def _ask(self, repo_id: str, **options: Any) -> Any:
        return self._retry(lambda: HubApi.repo_info(self, repo_id, **options))

    def _retry(self, ask: Callable[[], Any]) -> Any:
        return retry_busy(ask, waits=self.waits, timings=self.timings)

    def latest_commit(self, pin: Pin) -> str | None:
        """Ask the Hub for the commit of a revision, without remembering it."""
        repo_type, repo_id, revision = pin
        commit: str | None = self._ask(
            repo_id, repo_type=repo_type, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        ).sha
        self._freshness.note(pin)
        return commit

    def list_repo_tree(self, repo_id: str, path_in_repo: str | None = None, **options: Any) -> Any:
        """List a tree as huggingface_hub does, at the commit first seen, and only from this endpoint."""
        for page, _ in self._iter_repo_tree_pages(repo_id, path_in_repo, **options):
            yield from page

    def get_paths_info(self, repo_id: str, paths: list[str] | str, **options: Any) -> Any:
        """Return huggingface_hub's answer, at the commit first seen."""
        pinned = self._pinned(repo_id, options)
        return self._retry(lambda: HubApi.get_paths_info(self, repo_id, paths, **pinned))

    def _iter_repo_tree_pages(
        self,
        repo_id: str,
        path_in_repo: str | None = None,
        *,
        recursive: bool = False,
        expand: bool = False,
        revision: str | None = None,
        repo_type: str | None = None,
        token: str | bool | None = None,
    ) -> Iterator[tuple[list[RepoFile | RepoFolder], bool]]:
        # Called by huggingface_hub's own filesystem since 2.4. Upstream's goes wherever Link leads, with the
        # token.
        repo_type = repo_type or constants.REPO_TYPE_MODEL
        commit = self.pinned_commit(repo_type, repo_id, revision or constants.DEFAULT_REVISION)
        url = tree_url(self.endpoint, repo_type, repo_id, commit, path_in_repo or "")
        headers = self._build_hf_headers(token=token)
        listed: set[str] = set()
        try:
            for page, last in tree_pages(
                self.endpoint,
                url,
                headers,
                recursive=recursive,
                expand=expand,
                waits=self.waits,
                timings=self.timings,
            ):
                entries = [entry_of(url, item) for item in page]
                listed.update(entry.path for entry in entries)
                yield entries, last
        except SamePageError:
            if not recursive:
                raise
            # A mirror that knows the first page of a listing only: most folders are no larger than that.
            found = self._walk(
                repo_id, path_in_repo, expand=expand, revision=commit, repo_type=repo_type, token=token
            )
            yield [entry for entry in found if entry.path not in listed], True

    def tree_pages(
        self, repo_id: str, path_in_repo: str, **options: Any
    ) -> Iterator[tuple[list[RepoFile | RepoFolder], bool]]:
        """Yield the pages of a listing, each with whether it is the last; options as of a listing."""
        yield from self._iter_repo_tree_pages(repo_id, path_in_repo, **options)

    def _walk(
        self, repo_id: str, path_in_repo: str | None, **options: Any
    ) -> Iterator[RepoFile | RepoFolder]:
        for entry in self.list_repo_tree(repo_id, path_in_repo, **options):
            yield entry
            if isinstance(entry, RepoFolder):
                yield from self.list_repo_tree(repo_id, entry.path, recursive=True, **options)

    def pinned_commit(self, repo_type: str, repo_id: str, revision: str) -> str:
        """Return the commit of a revision; ask the Hub only the first time."""
        if is_commit(revision):
            return revision
        pin = pin_of(repo_type, repo_id, revision)
        if pin not in self.commits:
            self.repo_info(
                repo_id, repo_type=repo_type, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        try:
            return self.commits[pin]
        except KeyError as error:
            raise BadAnswerError(
                f"{redact(self.endpoint)}/{repo_id}, which names no commit,", error
            ) from None

    def _pinned(self, repo_id: str, options: dict[str, Any]) -> dict[str, Any]:
        revision = options.get("revision") or constants.DEFAULT_REVISION
        return {
            **options,
            "revision": self.pinned_commit(options.get("repo_type") or "model", repo_id, revision),
        }


def pin_of(repo_type: str | None, repo_id: str, revision: str | None) -> Pin:
    """Return a key for a revision that is the same whether defaults were given or left out."""
    return (repo_type or "model", repo_id, revision or constants.DEFAULT_REVISION)
