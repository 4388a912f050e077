"""Who may see what, and the words in which the Hub refuses."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from hf_haul.localhub.replies import Refusal
from hf_haul.localhub.repository import Repo

__all__ = [
    "Account",
    "Accounts",
    "entry_not_found",
    "entry_not_served",
    "not_found",
    "revision_not_found",
]

_CHALLENGE = 'Bearer realm="Authentication required", charset="UTF-8"'


@dataclass(frozen=True)
class Account:
    """A user and the token that stands for them.

    Attributes:
        name: The user name.
        token: What they send as ``Authorization: Bearer <token>``.
        repos: Private repositories they may see: ids, or globs such as ``"org/*"``.
        gated: Gated repositories they were let into: ids or globs.
        role: What the token may do, as ``whoami`` tells it.
    """

    name: str
    token: str = field(repr=False)
    repos: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()
    role: str = "read"

    def sees(self, repo_id: str) -> bool:
        """Return whether this account sees a private repository."""
        return any(fnmatchcase(repo_id, pattern) for pattern in self.repos)

    def may_enter(self, repo_id: str) -> bool:
        """Return whether this account may have the files of a gated repository."""
        return any(fnmatchcase(repo_id, pattern) for pattern in self.gated)


class Accounts:
    """All accounts of a hub, and the checks on every request.

    Args:
        accounts: The accounts.
        code_on_401: Whether a bare 401 also carries ``X-Error-Code: RepoNotFound``. The Hub sends
            none and its client then goes by the URL, but only on https; over plain http the code
            is needed for the same exception.
    """

    def __init__(self, accounts: Iterable[Account] = (), *, code_on_401: bool = True) -> None:
        self._by_token = {account.token: account for account in accounts}
        self._code_on_401 = code_on_401

    def __len__(self) -> int:
        return len(self._by_token)

    def add(self, account: Account) -> None:
        """Add an account, or replace the one of the same name."""
        self._by_token[account.token] = account

    def revoke(self, token: str) -> None:
        """Forget a token, as when it expires: whoever sends it is refused from now on."""
        self._by_token.pop(token, None)

    def identify(self, headers: Mapping[str, str], *, for_repo: bool = True) -> Account | None:
        """Return the account of a request, or ``None`` if it is anonymous.

        Args:
            headers: The request's headers.
            for_repo: Whether the request is about a repository.

        Raises:
            Refusal: There is a token, and nobody has it.
        """
        given = headers.get("Authorization")
        if given is None:
            return None
        scheme, _, token = given.partition(" ")
        account = self._find(token.strip()) if scheme.lower() == "bearer" else None
        if account is None:
            raise self._unauthorized(for_repo=for_repo)
        return account

    def _find(self, token: str) -> Account | None:
        """Return the account with this token, in a time that tells nothing about a wrong token."""
        given = _digest(token)
        found = None
        for known, account in self._by_token.copy().items():
            if hmac.compare_digest(_digest(known), given):
                found = account
        return found

    def whoami(self, account: Account | None) -> dict[str, object]:
        """Return the answer of ``whoami-v2``.

        Raises:
            Refusal: The request is anonymous.
        """
        if account is None:
            raise self._unauthorized(for_repo=False)
        token = {"displayName": f"{account.name}-token", "role": account.role}
        return {
            "type": "user",
            "id": account.name,
            "name": account.name,
            "fullname": account.name.title(),
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }

    def can_see(self, repo: Repo, account: Account | None) -> bool:
        """Return whether an account may know about a repository."""
        return not repo.private or (account is not None and account.sees(repo.repo_id))

    def require_read(self, repo: Repo | None, account: Account | None) -> Repo:
        """Return the repository if the account may know about it.

        Raises:
            Refusal: There is none, or it is private; the two are not told apart.
        """
        if repo is None or not self.can_see(repo, account):
            if account is None:
                raise self._unauthorized(for_repo=True)
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if repo.disabled:
            raise Refusal(403, "Access to this resource is disabled.")
        return repo

    def require_content(self, repo: Repo, account: Account | None, origin: str) -> None:
        """Refuse a request for a repository's files from an account that may not have them.

        Args:
            repo: The repository; it must be one the account may see.
            account: Who asks.
            origin: Where the hub is, for the link in the message.

        Raises:
            Refusal: It is gated, and they were not let in.
        """
        if not repo.gated:
            return
        start = f"Access to {repo.repo_type} {repo.repo_id} is restricted"
        if account is None:
            rest = "You must have access to it and be authenticated to access it. Please log in."
            raise Refusal(401, f"{start}. {rest}", "GatedRepo", {"WWW-Authenticate": _CHALLENGE})
        if not account.may_enter(repo.repo_id):
            rest = f"Visit {origin}/{repo.repo_id} to ask for access."
            message = f"{start} and you are not in the authorized list. {rest}"
            raise Refusal(403, message, "GatedRepo")

    def _unauthorized(self, *, for_repo: bool) -> Refusal:
        code = "RepoNotFound" if for_repo and self._code_on_401 else None
        message = "Invalid username or password."
        return Refusal(401, message, code, {"WWW-Authenticate": _CHALLENGE})


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def not_found() -> Refusal:
    """Return the refusal of a page that does not exist."""
    return Refusal(404, "Sorry, we can't find the page you are looking for.")


def revision_not_found(revision: str) -> Refusal:
    """Return the refusal of a revision that does not exist."""
    return Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(message: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """Return the refusal of a file or directory that does not exist."""
    return Refusal(404, message, "EntryNotFound", headers)


def entry_not_served(repo_id: str, path: str, commit: str, headers: Mapping[str, str]) -> Refusal:
    """Return the refusal of a file that may exist but is not here, so that no client caches its absence."""
    message = f"{path} of {repo_id} at {commit} is not in the cache that is served here"
    return Refusal(404, message, "EntryNotServed", headers)
