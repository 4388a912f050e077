"""From a URL to a route: which resource of which repository at which revision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote

from hf_haul.localhub.trees import REPO_TYPES

__all__ = ["API_KINDS", "FILE_KINDS", "Route", "parse"]

#: Routes under ``/api/{type}s/{id}/``, by the word that follows the id.
API_KINDS: Final = frozenset(
    {
        "revision",
        "tree",
        "paths-info",
        "refs",
        "commits",
        "auth-check",
        "xet-read-token",
        "xet-write-token",
    }
)
#: Routes that answer with the bytes of a file.
FILE_KINDS: Final = frozenset({"resolve", "resolve-cache", "raw"})

_SINGULAR: Final = {plural: kind for kind, plural in REPO_TYPES.items()}
_KINDS_WITH_PATH: Final = frozenset({"tree", *FILE_KINDS})


@dataclass(frozen=True)
class Route:
    """What a request is about.

    Attributes:
        kind: ``"info"``, one of `API_KINDS` but ``"revision"`` (which is ``"info"`` too), one of
            `FILE_KINDS`, ``"list"`` (of repositories), ``"home"`` (the page for people),
            ``"whoami"``, ``"agent-harnesses"``, ``"cdn"``, or ``"other"``.
        repo_type: ``"model"`` and so on, or ``""``.
        repo_id: As in the URL, so it may be an old name, or ``""``.
        revision: Decoded, or ``None`` if the URL names none.
        path: Decoded path in the repository, or ``""``.
        raw_path: The URL's path as it was sent, without the query.
        query: The decoded query.
    """

    kind: str
    raw_path: str
    query: Sequence[tuple[str, str]] = ()
    repo_type: str = ""
    repo_id: str = ""
    revision: str | None = None
    path: str = ""

    def get(self, name: str) -> str | None:
        """Return the last value of a query parameter, or ``None``."""
        return dict(self.query).get(name)

    def all(self, name: str) -> list[str]:
        """Return every value of a query parameter, in whichever way it is repeated."""
        return [value for key, value in self.query if key in (name, f"{name}[]")]

    def flag(self, name: str) -> bool:
        """Return whether a query parameter says yes."""
        return (self.get(name) or "").lower() in ("true", "1")


def parse(target: str, exists: Callable[[str, str], bool]) -> Route:
    """Read a request target.

    The path is split before it is decoded, so that an encoded slash stays part of a revision, and
    it is decoded once, so that a file may be called ``hash%20?.txt``.

    Args:
        target: The target as sent: path and query.
        exists: Tells whether a repository (type, id) is known. Only asked where an id of one part
            and one of two parts would both make sense.
    """
    raw_path, _, raw_query = target.partition("?")
    query = parse_qsl(raw_query, keep_blank_values=True)
    parts = [unquote(part, errors="surrogateescape") for part in raw_path.split("/")[1:]]
    route = _parse_parts(parts, exists)
    return Route(route.kind, raw_path, query, *_about(route))


@dataclass(frozen=True)
class _Found:
    kind: str
    repo_type: str = ""
    repo_id: str = ""
    revision: str | None = None
    path: str = ""


def _about(found: _Found) -> tuple[str, str, str | None, str]:
    return found.repo_type, found.repo_id, found.revision, found.path


def _parse_parts(parts: list[str], exists: Callable[[str, str], bool]) -> _Found:
    if parts == [""]:
        return _Found("home")
    if parts[0] != "api":
        return _parse_file(parts)
    if parts[1:] == ["whoami-v2"]:
        return _Found("whoami")
    if parts[1:] == ["agent-harnesses"]:
        return _Found("agent-harnesses")
    if len(parts) == 2 and parts[1] in _SINGULAR:
        return _Found("list", _SINGULAR[parts[1]])
    if parts[1:2] == ["resolve-cache"] and len(parts) > 5:
        return _parse_api("resolve-cache", parts[2], parts[3:], exists)
    if len(parts) > 2:
        return _parse_api("info", parts[1], parts[2:], exists)
    return _Found("other")


def _parse_api(kind: str, plural: str, rest: list[str], exists: Callable[[str, str], bool]) -> _Found:
    repo_type = _SINGULAR.get(plural)
    if repo_type is None:
        return _Found("other")
    words = _id_length(rest, lambda repo_id: exists(repo_type, repo_id), api=kind == "info")
    repo_id, rest = "/".join(rest[:words]), rest[words:]
    if kind == "info" and rest:
        kind, rest = rest[0], rest[1:]
        if kind not in API_KINDS:
            return _Found("other")
    revision, path = _revision_and_path(rest)
    if path and kind not in _KINDS_WITH_PATH:
        return _Found("other")
    return _Found("info" if kind == "revision" else kind, repo_type, repo_id, revision, path)


def _id_length(rest: list[str], known: Callable[[str], bool], *, api: bool) -> int:
    if len(rest) < 2:
        return 1
    if known("/".join(rest[:2])):
        return 2
    return 1 if (api and rest[1] in API_KINDS) or known(rest[0]) else 2


def _parse_file(parts: list[str]) -> _Found:
    repo_type = "model"
    if parts[0] in _SINGULAR and parts[0] != "models":
        repo_type, parts = _SINGULAR[parts[0]], parts[1:]
    for words in (2, 1):
        if parts[words : words + 1] and parts[words] in ("resolve", "raw"):
            revision, path = _revision_and_path(parts[words + 1 :])
            if not path:
                break
            return _Found(parts[words], repo_type, "/".join(parts[:words]), revision, path)
    return _Found("other")


def _revision_and_path(rest: list[str]) -> tuple[str | None, str]:
    # Older clients and people with curl leave the slashes of refs/pr/1 alone.
    words = 3 if rest[:1] == ["refs"] and len(rest) >= 3 else 1
    return "/".join(rest[:words]) or None, "/".join(rest[words:])
