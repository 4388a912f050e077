"""URIs that name one file of a repository at one commit: ``hf://datasets/org/name@commit/folder/file``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

__all__ = ["RepoFileUri", "read_repo_name", "read_uri", "repo_name", "uri_of"]

_FORM: Final = re.compile(
    r"hf://(?:(?P<kind>datasets|spaces|kernels)/)?(?P<repo_id>[\w.\-]+(?:/[\w.\-]+)?)@(?P<revision>[^/]+)/(?P<path>.+)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class RepoFileUri:
    """What a URI says.

    Attributes:
        repo_type: ``"model"``, ``"dataset"``, ``"space"`` or ``"kernel"``.
        repo_id: The repository.
        revision: The commit, or what a mirror calls it by.
        path: The file's path in it.
    """

    repo_type: str
    repo_id: str
    revision: str
    path: str


#: As :func:`repo_name` writes it.
_REPO: Final = re.compile(r"(?:(datasets|spaces|kernels)/)?([\w.\-]+(?:/[\w.\-]+)?)")


def repo_name(repo_type: str, repo_id: str) -> str:
    """Return a repository with its kind, such as ``datasets/org/name``."""
    return repo_id if repo_type == "model" else f"{repo_type}s/{repo_id}"


def read_repo_name(text: str) -> tuple[str, str] | None:
    """Return the kind and the id in what :func:`repo_name` wrote; ``None`` if it is something else."""
    match = _REPO.fullmatch(text)
    return None if match is None else ((match[1] or "models").removesuffix("s"), match[2])


def uri_of(repo_type: str, repo_id: str, revision: str, path: str) -> str:
    """Return the URI of a file, as ``hf-haul download`` and huggingface_hub read it."""
    return f"hf://{repo_name(repo_type, repo_id)}@{quote(revision, safe='')}/{path}"


def read_uri(uri: str) -> RepoFileUri | None:
    """Return what a URI says; ``None`` if it is none that :func:`uri_of` makes."""
    match = _FORM.fullmatch(uri)
    if match is None:
        return None
    repo_type = (match["kind"] or "models")[:-1]
    return RepoFileUri(repo_type, match["repo_id"], unquote(match["revision"]), match["path"])
