"""What it means that a Hub, or any other server, refuses a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import unquote

from hf_haul.errors import HttpStatusError
from hf_haul.failures.failure import LOG_IN, RUN_AGAIN, Failure, FailureKind
from hf_haul.retry_after import parse_retry_after
from hf_haul.urls import redact, source_of

__all__ = [
    "read_disabled",
    "read_gated",
    "read_no_file",
    "read_no_repository",
    "read_no_revision",
    "read_refusal",
    "read_status",
]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request to a Hub was about, as far as its URL tells."""

    url: str
    repo: str | None = None
    revision: str | None = None
    path: str | None = None

    @property
    def where(self) -> str:
        """The repository, at its revision unless that is the default."""
        repo = f"repository {self.repo}" if self.repo else source_of(self.url)
        return repo if self.revision in {None, "main"} else f"{repo} at {self.revision}"


_RESOLVED: Final = re.compile(
    r"/(?:(?P<kind>datasets|spaces|kernels)/)?(?P<repo>[^/]+(?:/[^/]+)?)/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)"
)
_VERBS: Final = "revision|tree|paths-info|resolve|resolve-cache|xet-read-token"
_API: Final = re.compile(
    r"/api/(?:resolve-cache/)?(?P<kind>models|datasets|spaces|kernels)/"
    rf"(?P<repo>[^/]+(?:/(?!(?:{_VERBS})(?:/|$))[^/]+)?)(?:/(?:{_VERBS})/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)


def _asked(error: Any) -> _Asked:
    """Return what the refused request of an ``HfHubHTTPError`` was about."""
    url = redact(str(error.response.request.url))
    match = _API.search(url) or _RESOLVED.search(url)
    kind, repo = (None, None) if match is None else (match["kind"], unquote(match["repo"]))
    if getattr(error, "repo_id", None):  # huggingface_hub knows better where names have one part
        repo, kind = error.repo_id, f"{error.repo_type or 'model'}s"
    if repo is not None and kind not in {None, "models"}:
        repo = f"{kind}/{repo}"
    revision = path = None
    if match is not None:
        revision, path = (
            None if match[name] is None else unquote(match[name]) for name in ("revision", "path")
        )
    return _Asked(url, repo, revision, path)


def _has_token(error: Any) -> bool:
    return "authorization" in error.response.request.headers


def _http_details(error: Any) -> tuple[str, ...]:
    """Return the status, the URL, the request id and the server's own words about a refused request."""
    response = error.response
    said = " ".join((getattr(error, "server_message", None) or "").split())[:500]
    request_id = getattr(error, "request_id", None)
    return tuple(
        line
        for line in (
            f"{response.request.method} {redact(str(response.request.url))}: {response.status_code}",
            f"the server says: {said}" if said else "",
            f"request id: {request_id}" if request_id else "",
        )
        if line
    )


def _bad_token(error: Any) -> Failure:
    return Failure(
        FailureKind.DENIED,
        f"The token is not valid: {source_of(_asked(error).url)} does not accept it",
        f"Make one on its settings page, then {LOG_IN}",
        _http_details(error),
    )


def read_no_repository(error: Any) -> Failure:
    """Return what it means that the Hub shows no such repository: it hides private ones, and says no more."""
    asked, refused = _asked(error), error.response.status_code == 401
    if refused and _has_token(error):  # a valid token is answered 404
        return _bad_token(error)
    name = f"Repository {asked.repo}" if asked.repo else f"The repository at {asked.url}"
    if refused:
        text = f"{name} does not exist, or may not be seen without a token"
        hint = f"Check the name and the type (model, dataset, space). If it is private: {LOG_IN}"
    else:
        text = f"{name} does not exist, or this token may not see it"
        hint = "Check the name, the type (model, dataset, space), and whose token it is: 'hf auth whoami'"
    return Failure(FailureKind.NOT_FOUND, text, hint, _http_details(error))


def read_gated(error: Any) -> Failure:
    """Return what it means that a repository is gated."""
    asked = _asked(error)
    name = f"Repository {asked.repo}" if asked.repo else f"The repository at {asked.url}"
    page = f"{source_of(asked.url)}/{asked.repo or ''}"
    if error.response.status_code == 401:
        text = f"{name} is gated, and no valid token was sent"
        hint = f"Ask for access at {page}, then {LOG_IN}"
    else:
        text = f"{name} is gated, and this token's account has not been let in"
        hint = f"Ask for access at {page}, and run this again once it is granted"
    return Failure(FailureKind.DENIED, text, hint, _http_details(error))


def read_disabled(error: Any) -> Failure:
    """Return what it means that a repository is disabled."""
    asked = _asked(error)
    return Failure(
        FailureKind.DENIED,
        f"Access to repository {asked.repo or asked.url} is disabled",
        None,
        _http_details(error),
    )


def read_no_revision(error: Any) -> Failure:
    """Return what it means that a repository has no such branch, tag or commit."""
    asked = _asked(error)
    what = f"Revision {asked.revision}" if asked.revision else "The revision"
    return Failure(
        FailureKind.NOT_FOUND,
        f"{what} does not exist in repository {asked.repo}" if asked.repo else f"{what} does not exist",
        "Name a branch, a tag, refs/pr/N, or a commit by its full 40 digits",
        _http_details(error),
    )


def read_no_file(error: Any) -> Failure:
    """Return what it means that a repository has no such file."""
    asked = _asked(error)
    what = f"File {asked.path}" if asked.path else "The file"
    return Failure(
        FailureKind.NOT_FOUND,
        f"{what} does not exist in {asked.where}",
        "Check the name, capital letters and folders included, and the revision",
        _http_details(error),
    )


def read_refusal(error: Any) -> Failure:
    """Return what any other status of the Hub's means."""
    status, asked = error.response.status_code, _asked(error)
    if status == 401 and _has_token(error):
        return _bad_token(error)
    found = _of_status(status, asked.url, error.response.headers)
    return replace(found, details=_http_details(error))


def _of_status(status: int, url: str, headers: Mapping[str, str]) -> Failure:
    """Return what a status means that says nothing about repositories."""
    source, shown = source_of(url), redact(url)
    if status in {404, 410}:
        return Failure(FailureKind.NOT_FOUND, f"{shown} does not exist ({status})", "Check the address")
    if status == 401:
        return Failure(
            FailureKind.DENIED,
            f"{shown} may not be read without a token (401)",
            f"If {source} is a Hub: {LOG_IN}",
        )
    if status == 403:
        return Failure(
            FailureKind.DENIED,
            f"{shown} may not be read (403)",
            "Check whose token is sent, and what it may do",
        )
    if status == 451:
        return Failure(FailureKind.DENIED, f"{shown} is withheld for legal reasons (451)")
    if status == 407:
        return Failure(
            FailureKind.NETWORK,
            f"The proxy before {source} requires a password (407)",
            "Set HTTPS_PROXY with it",
        )
    if status == 429:
        seconds = parse_retry_after(status, headers)
        when = "in a few minutes" if seconds is None else f"in {seconds:.0f} s"
        return Failure(
            FailureKind.NETWORK,
            f"{source} is rate-limiting requests (429)",
            f"Run it again {when}; with a token, a Hub takes more",
        )
    if status == 507:
        return Failure(
            FailureKind.NETWORK,
            f"{source} has no room for {shown} (507)",
            "It says so itself: whoever runs it can make room, or allow it more",
        )
    if status >= 500 or status in {408, 425}:
        return Failure(FailureKind.NETWORK, f"{source} is unavailable or overloaded ({status})", RUN_AGAIN)
    return Failure(FailureKind.OTHER, f"{shown} was refused ({status})")


def read_status(error: HttpStatusError) -> Failure | None:
    """Return what it means that a server of any kind refuses a file."""
    if not error.url:
        return None
    found = _of_status(error.status, error.url, error.headers)
    if error.status == 401 and error.sent_token:
        shown, source = redact(error.url), source_of(error.url)
        text = f"{shown} may not be read with the token or password that was sent (401)"
        found = replace(
            found,
            text=text,
            hint=f"Check it: it may be wrong, expired, or meant for another server than {source}",
        )
    said = " ".join(error.body.decode("utf-8", "replace").split())[:200]
    is_page = said.startswith("<")
    request_id = error.headers.get("X-Request-Id")
    lines = (
        f"the server says: {said}" if said and not is_page else "",
        f"request id: {request_id}" if request_id else "",
    )
    return replace(found, details=tuple(line for line in lines if line))
