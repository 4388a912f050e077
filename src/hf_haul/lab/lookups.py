"""What another Hub says of repositories: which commit a revision is at, and which files that has.

Each revision is looked up once for all who ask, and then not for some seconds. What was said is kept in the
Hub cache, as huggingface_hub keeps it: it answers when the other Hub does not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial
from typing import Final

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    validate_repo_id,
)

from hf_haul.errors import HaulError, UnsafePathError
from hf_haul.hub.asking import LISTING_ERRORS, is_offline
from hf_haul.hub.fallback import HubUnreachable
from hf_haul.hub.metadata import is_commit
from hf_haul.hub.repository import Repository
from hf_haul.hub.snapshot_files import SnapshotFiles
from hf_haul.hub.upstream_cache import cache_folder, read_tree, tree_folder
from hf_haul.lab.silence import LEAVE_ALONE, PATIENCE
from hf_haul.localhub.app import VIA_HEADER
from hf_haul.localhub.replies import Refusal
from hf_haul.redaction import redact_text
from hf_haul.storage.safe_paths import require_safe_path
from hf_haul.threads import start_daemon
from hf_haul.urls import redact

__all__ = ["LookUps", "away", "refused"]

logger = logging.getLogger(__name__)

_TIMEOUT: Final = 10.0  # seconds for one attempt: what huggingface_hub's own client waits
_MOST_KNOWN: Final = 10_000  # revisions, repositories that do not exist among them

_NO_ANSWER: Final[tuple[type[Exception], ...]] = (*LISTING_ERRORS, HaulError)

_Key = tuple[str, str, str]


def away(base: str) -> Refusal:
    """Return the answer where neither the other Hub nor the cache knows.

    It names no time: clients take that to be about all that a server has, and what is here can be had.
    """
    return Refusal(
        504,
        f"{redact(base)} does not answer, and what was asked for is not in the cache here",
        "UpstreamAway",
    )


def refused(repo_id: str, status: int, code: str | None, *, private: bool) -> Refusal:
    """Return the answer where the other Hub does not give a repository to this server.

    Args:
        repo_id: The repository.
        status: What the other Hub answered.
        code: Its ``X-Error-Code``.
        private: Whether this server asks with a token of its own.
    """
    if code == "GatedRepo":
        hint = "its token was not let in" if private else "it was not started with --private"
        return Refusal(
            403, f"Access to {repo_id} is restricted, and this server may not have it: {hint}", "GatedRepo"
        )
    if status in {401, 403, 404}:
        return Refusal(404, f"Repository not found: {repo_id}", "RepoNotFound")
    return Refusal(502, f"The upstream of this server answered {status} about {repo_id}", "UpstreamRefused")


def _ending() -> Refusal:
    return Refusal(503, "this server is ending", "ServerEnding")


def _again(refusal: Refusal) -> Refusal:
    """Return a refusal to be raised once more: an exception keeps the frames of all who raise it."""
    return Refusal(refusal.status, refusal.message, refusal.code, refusal.headers)


def _require_revision(revision: str) -> None:
    """Refuse what can be no revision: in a URL, or as the name of a file, it would lead elsewhere.

    Raises:
        Refusal: It can be none.
    """
    try:
        require_safe_path(revision)
    except UnsafePathError as error:
        raise Refusal(404, f"Invalid rev id: {revision!r}", "RevisionNotFound") from error


@dataclass
class _Known:
    """The last look-up of a revision: until when it counts, and why there is nothing, if there is not."""

    until: float
    refusal: Refusal | None = None
    error: str | None = None  # why the upstream did not answer


class LookUps:
    """Asks another Hub.

    Safe for threads: ``_lock`` guards the tables, and is not held while anybody is asked.

    Args:
        cache_dir: The Hub cache that keeps what is learned.
        base: The other Hub's URL.
        refresh: Seconds for which a branch or tag is taken to be where it was.
        private: Whether to ask with this machine's own token.
        name: What requests say of who makes them.
        patience: Seconds for which one who asks waits for a Hub that did not answer the last time. Others do
            not wait for it at all.
        clock: Seconds; only differences count.
    """

    def __init__(
        self,
        cache_dir: str,
        base: str,
        *,
        refresh: float,
        private: bool,
        name: str,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base = base.rstrip("/")
        self.private = private
        self._cache_dir = cache_dir
        self._refresh = refresh
        self._name = name
        self._patience = patience
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[_Key, _Known] = OrderedDict()
        self._asking: dict[_Key, Future[_Known]] = {}
        self._closed = False
        self.asked = 0
        self.last_error: str | None = None
        self.answered_at: float | None = None

    def repository(self, repo_type: str, repo_id: str) -> Repository:
        """Return a repository of the other Hub, which is never asked in the name of a client.

        Raises:
            Refusal: The id can be none.
        """
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise Refusal(404, str(error), "RepoNotFound") from error
        return Repository(
            repo_id,
            repo_type,
            endpoint=self.base,
            token=self.private,  # True: the stored one; False: none at all
            headers={VIA_HEADER: self._name},
        )

    def require_token(self) -> None:
        """Raise if this machine has no token, although it is to ask with one.

        Raises:
            ValueError: It has none.
        """
        if self.private:
            try:
                _ = self.repository("model", "org/name").request_headers
            except LocalTokenNotFoundError as error:
                raise ValueError(
                    "--private asks the upstream with this machine's own token, and there is none: set HF_TOKEN, or run"
                    " 'hf auth login'"
                ) from error

    def is_fresh(self, repo_type: str, repo_id: str, revision: str) -> bool:
        """Return whether a revision was looked up so lately that nobody has to be asked."""
        known = self._known.get((repo_type, repo_id, revision))
        return known is not None and known.refusal is None and self._clock() < known.until

    def is_away(self, repo_type: str, repo_id: str, revision: str) -> bool:
        """Return whether the other Hub did not answer when it was last asked about a revision."""
        known = self._known.get((repo_type, repo_id, revision))
        return known is not None and known.error is not None

    def refresh(self, repo_type: str, repo_id: str, revision: str) -> bool:
        """Bring what the cache says of a revision up to date, unless that was done lately.

        Args:
            repo_type: Its type.
            repo_id: Its id.
            revision: A branch, tag, other ref or commit.

        Returns:
            Whether anything may have changed.

        Raises:
            Refusal: There is none, it may not be given out, or nobody can tell.
        """
        _require_revision(revision)
        key = (repo_type, repo_id, revision)
        with self._lock:
            if self._closed:
                raise _ending()
            known = self._known.get(key)
            if known is not None and self._clock() < known.until:
                if known.refusal is not None:
                    raise _again(known.refusal)
                return False
            was_away = known is not None and known.error is not None
            asking = self._asking.get(key)
            mine = asking is None
            if asking is None:
                asking = self._asking[key] = Future()
            elif was_away:
                return False
        if mine and start_daemon(partial(self._answer, key, asking), "lab-lookup") is None:
            self._answer(key, asking)
        try:
            found = asking.result(self._patience if was_away else None)
        except FutureTimeoutError:  # it is still away, until it answers
            return False
        if found.refusal is not None:
            raise _again(found.refusal)
        return True

    def _answer(self, key: _Key, asking: Future[_Known]) -> None:
        """Look a revision up for all who wait, on a thread that nobody has to wait for."""
        try:
            known = self._look_up(key)
        except BaseException as error:  # noqa: BLE001  it is theirs
            with contextlib.suppress(InvalidStateError):
                asking.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):
                asking.set_result(known)
        finally:
            with self._lock:
                del self._asking[key]

    def close(self) -> None:
        """Answer all who wait, now and from now on: the server ends, whatever the other Hub does."""
        with self._lock:
            self._closed = True
            waited_for = list(self._asking.values())
        for each in waited_for:
            with contextlib.suppress(InvalidStateError):
                each.set_result(_Known(self._clock(), _ending()))

    def _look_up(self, key: _Key) -> _Known:
        known = self._ask(*key)
        with self._lock:
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return known

    def _ask(self, repo_type: str, repo_id: str, revision: str) -> _Known:
        repository = self.repository(repo_type, repo_id)
        folder = cache_folder(repository, self._cache_dir)
        self.asked += 1
        try:
            commit, redacted = self._ask_files(repository, revision)
        except HubUnreachable as question:
            return self._unanswered(repository, revision, question.error)
        except _NO_ANSWER as error:
            return self._unanswered(repository, revision, error)
        self.last_error, self.answered_at = None, time.time()
        until = self._clock() + self._refresh
        if read_tree(tree_folder(folder.root, None), commit) is None:
            return _Known(until, self._unlisted(repo_id, redacted=redacted))
        try:
            folder.prepare()
            os.makedirs(os.path.dirname(folder.snapshot(commit)), exist_ok=True)
            folder.write_ref(revision, commit)
        except OSError as error:
            logger.warning("cannot keep where %s of %s is: %s", revision, repo_id, error)
            return _Known(
                until, Refusal(507, f"the cache of this server cannot be written: {error}", "DiskFull")
            )
        return _Known(until)

    def _unlisted(self, repo_id: str, *, redacted: bool) -> Refusal:
        if redacted:
            return refused(repo_id, 403, "GatedRepo", private=self.private)
        return Refusal(
            502, f"The upstream of this server does not list all files of {repo_id}", "UpstreamRefused"
        )

    def _ask_files(self, repository: Repository, revision: str) -> tuple[str, bool]:
        """Ask for the commit of a revision, and for its files where the cache does not list them.

        Returns:
            The commit, and whether the listing lacks digests, as that of a gated repository does.
        """
        files = SnapshotFiles(repository, revision, cache_dir=self._cache_dir, etag_timeout=_TIMEOUT)
        commit, listing = files.ask(retry=False)
        if not is_commit(commit):
            raise UnsafePathError(f"{redact(self.base)} names the commit {commit!r}, which is none")
        return commit, any(entry.digest is None for entry in listing.values())

    def _unanswered(self, repository: Repository, revision: str, error: Exception) -> _Known:
        """Return what is known although the other Hub refused, or did not answer."""
        refusal = self._refusal_of(repository.repo_id, revision, error)
        if refusal is not None:
            self.answered_at = time.time()
            return _Known(self._clock() + self._refresh, refusal)
        said = (
            "this machine is told to be offline"
            if is_offline()
            else redact_text(f"{type(error).__name__}: {error}")
        )
        self.last_error = said.splitlines()[0]
        logger.warning(
            "%s does not answer about %s; what is in the cache is served: %s",
            redact(self.base), repository.repo_id, self.last_error,
        )  # fmt: skip
        return _Known(self._clock() + min(self._refresh, LEAVE_ALONE), error=self.last_error)

    def _refusal_of(self, repo_id: str, revision: str, error: Exception) -> Refusal | None:
        if isinstance(error, RevisionNotFoundError):
            return Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if isinstance(error, UnsafePathError):
            return Refusal(502, str(error), "UpstreamRefused")
        if not isinstance(error, HfHubHTTPError):
            return None
        status, headers = error.response.status_code, error.response.headers
        if isinstance(error, GatedRepoError):
            return refused(repo_id, status, "GatedRepo", private=self.private)
        if isinstance(error, RepositoryNotFoundError) or status in {401, 403, 404}:
            return refused(repo_id, status, headers.get("X-Error-Code"), private=self.private)
        return None

    def status(self) -> Mapping[str, object]:
        """Return how it stands with the other Hub, in plain values."""
        return {
            "url": redact(self.base),
            "looked_up": self.asked,
            "answered_at": self.answered_at,
            "error": self.last_error,
        }
