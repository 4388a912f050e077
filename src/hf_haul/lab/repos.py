"""Repositories of a Hub cache, with what another Hub has of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hf_haul.hub.metadata import ListedFile
from hf_haul.lab.fetches import Fetches
from hf_haul.lab.lookups import LookUps, away
from hf_haul.localhub.arriving import Arrival, ArrivingContent
from hf_haul.localhub.cache_repo import CacheRepo, blob_name
from hf_haul.localhub.listings import KeptFile, kept_path
from hf_haul.localhub.objects import Content, FileContent
from hf_haul.localhub.replies import Refusal
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.routing import Route
from hf_haul.localhub.trees import Commit

__all__ = ["LabContent", "LabRepo", "LabUpstream"]

_DEFAULT: Final = "main"


@dataclass(frozen=True)
class LabUpstream:
    """Finds repositories of another Hub, and makes those of the cache.

    Attributes:
        lookups: Asks the other Hub.
        fetches: Fetches its files.
        cache_dir: The cache.
        used: Told of each file that is given out: the folder of its repository, and its blob.
        name: What requests say of who makes them.
        private: Whether what is served is only for accounts.
    """

    lookups: LookUps
    fetches: Fetches
    cache_dir: Path
    used: Callable[[Path, str], None]
    name: str
    private: bool

    def find(self, route: Route) -> Repo:
        """Return the repository that a request is about, if the other Hub has it; see `Upstream`."""
        lookups = self.lookups
        repository = lookups.repository(route.repo_type, route.repo_id)
        lookups.refresh(route.repo_type, route.repo_id, _named(route.revision))
        folder = self.cache_dir / repository.folder_name
        if not (folder / "refs").is_dir() and not (folder / "trees").is_dir():
            raise away(lookups.base)
        return self.make_repo(folder, route.repo_id, route.repo_type, private=self.private)

    def close(self) -> None:
        """Answer all who wait for the other Hub; see `Upstream`."""
        self.lookups.close()

    @property
    def make_repo(self) -> Callable[..., LabRepo]:
        """Makes a repository of the cache."""
        return partial(LabRepo, self)


def _named(revision: str | None) -> str:
    return _DEFAULT if revision in {None, "HEAD"} else str(revision)


class LabRepo(CacheRepo):
    """A repository of the cache: what is in it, and what another Hub has of it.

    Args:
        upstream: Where to ask.
        root: See `CacheRepo`.
        repo_id: See `Repo`.
        repo_type: See `Repo`.
        **options: See `CacheRepo`.
    """

    def __init__(
        self, upstream: LabUpstream, root: Path, repo_id: str, repo_type: str = "model", **options: Any
    ) -> None:
        super().__init__(root, repo_id, repo_type, **options)
        self._upstream = upstream

    def knows_at_once(self, revision: str) -> bool:
        """Return whether `resolve` would answer without a look at the disk, or elsewhere."""
        if super().knows_at_once(revision):
            return True
        with self._lock:
            known = self._refs.get(f"refs/heads/{_named(revision)}")
        fresh = self._upstream.lookups.is_fresh(self.repo_type, self.repo_id, _named(revision))
        return fresh and known is not None and known.is_settled

    def resolve(self, revision: str) -> Commit | None:
        """Find a commit by whatever names it: as the other Hub says, or else as the cache does."""
        if super().knows_at_once(revision):
            return self._find(revision)
        if self.knows_at_once(revision):
            return self._find(_named(revision))
        revision, lookups = _named(revision), self._upstream.lookups
        refusal = None
        try:
            if lookups.refresh(self.repo_type, self.repo_id, revision):
                self.rescan()
        except Refusal as error:
            if error.code == "RevisionNotFound":
                raise
            refusal = error
        # What is in the cache is served, whether or not it is still elsewhere.
        found = super().resolve(revision)
        if found is None and (refusal is not None or lookups.is_away(self.repo_type, self.repo_id, revision)):
            raise refusal or away(lookups.base)
        return found

    def listed_commits(self) -> frozenset[str]:
        """Return the commits that the cache has listings of."""
        folder = kept_path(self.root, "commit").parent
        return frozenset(path.stem for path in folder.glob("*.json")) if folder.is_dir() else frozenset()

    def absent(self, commit: str, name: str, about: KeptFile) -> Content:
        """Return a file that is fetched when it is asked for."""
        return LabContent(self, commit, name, about)

    def here(self, commit: str, name: str, link: str, about: KeptFile) -> Content | None:
        """Return a file that is here, and is fetched anew once it is not."""
        found = super().here(commit, name, link, about)
        return LabContent(self, commit, name, about, found) if isinstance(found, FileContent) else None

    def look(self, commit: str, name: str, about: KeptFile) -> FileContent | None:
        """Return a file, if it is on the disk and is the one that was listed."""
        path = self.root / "snapshots" / commit / name
        if not path.is_file():
            return None
        found = super().here(commit, name, blob_name(path), about)
        return found if isinstance(found, FileContent) else None

    def begin(self, commit: str, name: str, about: KeptFile) -> Arrival:
        """Begin to fetch a file, or join those who wait for it.

        Raises:
            Refusal: It cannot be had.
        """
        listed = ListedFile(
            about.size, about.git_oid, about.sha256, None if about.sha256 is None else about.size
        )
        fetches = self._upstream.fetches
        return fetches.stream(fetches.fetch(self.repo_type, self.repo_id, commit, name, listed))

    def note_use(self, blob: str) -> None:
        """Note that a file is given out."""
        self._upstream.used(self.root, blob)


class LabContent(ArrivingContent):
    """A file of a listing: on the disk, or still elsewhere.

    Args:
        repo: Its repository.
        commit: The commit.
        name: Its path.
        about: What the listing says of it.
        here: The file on the disk, where it is.
    """

    def __init__(
        self, repo: LabRepo, commit: str, name: str, about: KeptFile, here: FileContent | None = None
    ) -> None:
        self.size = about.size
        self._repo = repo
        self._commit = commit
        self._name = name
        self._about = about
        self._here = here

    def sha256(self) -> str:
        """Return the sha256 that was listed; of a file that git holds itself, none is."""
        return self._about.sha256 or ""

    def git_sha1(self) -> str:
        """Return the git blob id that was listed."""
        return self._about.git_oid if self._about.sha256 is None else ""

    def at_once(self) -> FileContent | None:
        """Return the file, if it was here when it was last asked for, and still is."""
        here = self._here
        if here is None:
            return None
        try:
            about = here.path.stat()
        except OSError:
            about = None
        if about is None or (about.st_size, about.st_mtime_ns) != (here.size, here.mtime_ns):
            self._here = None  # evicted, or fetched anew
            return None
        self._repo.note_use(self._about.sha256 or self._about.git_oid)
        return here

    def begin(self) -> FileContent | Arrival:
        """Return the file, or what comes of it."""
        self._here = self._repo.look(self._commit, self._name, self._about)
        return self.at_once() or self._repo.begin(self._commit, self._name, self._about)
