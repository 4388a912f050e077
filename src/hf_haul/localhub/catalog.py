"""The repositories of a hub, with their old names, and everything a route needs to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hf_haul.localhub.access import Account, Accounts, revision_not_found
from hf_haul.localhub.objects import Content
from hf_haul.localhub.options import HubOptions
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.routing import Route
from hf_haul.localhub.signing import Signer
from hf_haul.localhub.trees import Commit

__all__ = ["Asked", "Catalog"]


class Catalog:
    """The repositories by type and id.

    Safe for threads: ``_lock`` guards the tables.
    """

    def __init__(self, repos: Iterable[Repo] = ()) -> None:
        self._lock = threading.Lock()
        self._repos: dict[tuple[str, str], Repo] = {}
        self._renamed: dict[tuple[str, str], str] = {}
        self._follow: tuple[Callable[[], Iterable[Repo]], float, Callable[[], float]] | None = None
        self._look_at = 0.0
        for repo in repos:
            self.add(repo)

    def add(self, repo: Repo) -> None:
        """Add a repository, in place of one of the same type and id."""
        with self._lock:
            self._repos[repo.key] = repo

    def add_new(self, repo: Repo) -> Repo:
        """Add a repository, unless there is one of the same type and id; return the one that is served."""
        with self._lock:
            return self._repos.setdefault(repo.key, repo)

    def remove(self, repo: Repo) -> None:
        """Stop serving a repository."""
        with self._lock:
            self._repos.pop(repo.key, None)

    def rename(self, old_id: str, new_id: str, repo_type: str = "model") -> None:
        """Answer requests for ``old_id`` with ``new_id``, which must be served."""
        with self._lock:
            if (repo_type, new_id) not in self._repos:
                raise LookupError(f"no {repo_type} {new_id!r}")
            self._renamed[repo_type, old_id] = new_id

    def follow(self, find: Callable[[], Iterable[Repo]], interval: float, clock: Callable[[], float]) -> None:
        """Look for new repositories whenever an unknown one is asked for.

        Args:
            find: Gives the repositories there are; those that are served already are left alone.
            interval: Seconds between two looks.
            clock: Seconds; only differences count.
        """
        self._follow = (find, interval, clock)
        self._look_at = clock()

    @property
    def follows(self) -> bool:
        """Whether a repository that is not known may turn up."""
        return self._follow is not None

    def look_again(self) -> None:
        """Add repositories that are new, if it is time to look."""
        if self._follow is None:
            return
        find, interval, clock = self._follow
        with self._lock:
            if clock() < self._look_at:
                return
            self._look_at = clock() + interval
        for repo in find():
            if self.get(*repo.key) is None:
                self.add(repo)

    def all(self) -> list[Repo]:
        """Return every repository."""
        with self._lock:
            return list(self._repos.values())

    def get(self, repo_type: str, repo_id: str) -> Repo | None:
        """Return the repository with this id, or ``None``; old names are not followed."""
        with self._lock:
            return self._repos.get((repo_type, repo_id))

    def new_id(self, repo_type: str, repo_id: str) -> str | None:
        """Return the present id of a repository that was renamed, or ``None``."""
        with self._lock:
            return self._renamed.get((repo_type, repo_id))

    def knows(self, repo_type: str, repo_id: str) -> bool:
        """Return whether this is the id, present or old, of a repository."""
        with self._lock:
            key = (repo_type, repo_id)
            return key in self._repos or key in self._renamed

    def lfs_object(self, internal_id: str, sha256: str) -> Content | None:
        """Return the LFS content of the repository with this ``_id``."""
        for repo in self.all():
            if repo.internal_id == internal_id:
                return repo.lfs_object(sha256)
        return None


@dataclass(frozen=True)
class Asked:
    """A request about a repository, after its access was checked.

    Attributes:
        method: The HTTP method.
        route: The parsed URL.
        headers: The request's headers, case-insensitive.
        body: The request's body.
        origin: Scheme, host and port the client used to reach the hub.
        cdn_origin: The same for the other origin.
        options: How the hub behaves.
        signer: Signs URLs of the other origin.
        accounts: For further checks.
        account: Who asks, or ``None``.
        repo: The repository.
    """

    method: str
    route: Route
    headers: Mapping[str, str]
    body: bytes
    origin: str
    cdn_origin: str
    options: HubOptions
    signer: Signer
    accounts: Accounts
    account: Account | None
    repo: Repo

    def commit(self) -> Commit:
        """Return the commit the URL names.

        Raises:
            Refusal: There is none.
        """
        revision = self.route.revision or "HEAD"
        found = self.repo.resolve(revision)
        if found is None:
            raise revision_not_found(revision)
        return found

    def commit_name(self, commit: Commit) -> str:
        """Return the name of a commit on this hub."""
        if self.options.commit_names == "sha256":
            return commit.long_id
        if self.options.commit_names == "asked" and self.route.revision:
            return self.route.revision
        return commit.id

    def etag(self, digest: str) -> str:
        """Return an etag as this hub writes it."""
        return f'"{digest}"' if self.options.quoted_etags else digest

    def require_content(self) -> None:
        """Refuse the request unless the files may be served.

        Raises:
            Refusal: They may not.
        """
        self.accounts.require_content(self.repo, self.account, self.origin)
