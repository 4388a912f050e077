"""Which folder a verification is about: a snapshot or a whole repository in a cache, or a ``local_dir``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    validate_repo_id,
)

from hf_haul.hub.call_options import absolute_path
from hf_haul.hub.metadata import is_commit
from hf_haul.hub.repository import Repository
from hf_haul.hub.upstream_cache import cache_folder
from hf_haul.hub.uris import read_repo_name
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.safe_paths import is_content_addressed
from hf_haul.storage.staging_places import REPO_FOLDER

__all__ = ["Target", "find_target"]


@dataclass(frozen=True)
class Target:
    """The folder that is verified, and what is known of whose files it holds.

    Attributes:
        path: The folder.
        repository: The repository; ``None`` where nothing tells it.
        revision: The revision that was asked for.
        commits: The commits in question, as far as known: of a cache those of its snapshots, of a
            ``local_dir`` the one that was asked for.
        cache: The repository's folder in a cache, unless it is a ``local_dir``.
        local: The ``local_dir``.
        below: Only files below this folder of the repository count; empty or with a slash at its end.
        whole: Whether blobs that no snapshot uses count, too.
    """

    path: str
    repository: Repository | None
    revision: str | None
    commits: tuple[str, ...] = ()
    cache: RepoFolder | None = None
    local: LocalFolder | None = None
    below: str = ""
    whole: bool = False


def find_target(
    target: str | os.PathLike[str],
    *,
    repo_type: str | None,
    revision: str | None,
    cache_dir: str | Path | None,
    local_dir: str | Path | None,
    **options: Any,
) -> Target:
    """Return the folder that a repository's id, or a path, stands for.

    A text that is both the id of a repository and a folder here means the folder if one of huggingface_hub's
    or ours made it, and the repository otherwise. A :class:`pathlib.Path` is a folder.

    Args:
        target: The id of a repository, or a folder.
        repo_type: The repository's kind; ``None`` for a model.
        revision: Which revision; ``None`` for ``main``, or what the folder holds.
        cache_dir: The cache; ``HF_HUB_CACHE`` by default.
        local_dir: The folder with the repository's files, if they are not in the cache.
        **options: How the Hub is asked; see :class:`Repository`.

    Raises:
        ValueError: Nothing tells what the folder's files should be, or arguments contradict each other.
        huggingface_hub.errors.LocalEntryNotFoundError: The repository, revision or folder is not there.
    """
    if cache_dir is not None and local_dir is not None:
        raise ValueError("cache_dir and local_dir cannot be used together")
    if local_dir is None and _means_folder(target):
        return _of_folder(absolute_path(Path(target)), repo_type, revision, options)
    repo_id = os.fspath(target)
    repository = Repository(repo_id=repo_id, repo_type=repo_type or "model", **options)
    if local_dir is not None:
        return _of_local_dir(absolute_path(local_dir), repository, revision)
    folder = cache_folder(
        repository, absolute_path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir)
    )
    commit = _cached_commit(folder, repository, revision)
    return Target(folder.snapshot(commit), repository, revision, (commit,), cache=folder)


def _means_folder(target: str | os.PathLike[str]) -> bool:
    if not isinstance(target, str):
        return True
    path = os.path.expanduser(target)
    try:
        validate_repo_id(target)
    except HFValidationError:
        if os.path.isdir(path):
            return True
        raise LocalEntryNotFoundError(
            f"{target!r} is neither a folder here nor the id of a repository, such as org/name"
        ) from None
    return os.path.isdir(path) and _kind_of(absolute_path(path)) is not None


def _kind_of(path: str) -> str | None:
    """Return what kind of folder this is; ``None`` where nothing tells."""
    if REPO_FOLDER.fullmatch(os.path.basename(path)) and _holds_repository(path):
        return "repository"
    if _snapshot_of(path) is not None:
        return "snapshot"
    if os.path.isdir(os.path.join(path, ".cache", "huggingface")):
        return "local_dir"
    return None


def _holds_repository(path: str) -> bool:
    return any(os.path.isdir(os.path.join(path, name)) for name in ("snapshots", "blobs", "refs"))


def _snapshot_of(path: str) -> tuple[str, str, str] | None:
    """Return a repository's folder, a commit, and what is below it, if this is (in) one of its snapshots."""
    parts = path.split(os.sep)
    for at in range(len(parts) - 2, 0, -1):
        root = os.sep.join(parts[:at])
        if parts[at] == "snapshots" and REPO_FOLDER.fullmatch(parts[at - 1]) and _holds_repository(root):
            inner = parts[at + 1 :]
            depth = 1 if is_content_addressed(inner[0]) else len(inner)
            below = "".join(f"{part}/" for part in inner[depth:])
            return root, "/".join(inner[:depth]), below
    return None


def _of_folder(path: str, repo_type: str | None, revision: str | None, options: dict[str, Any]) -> Target:
    kind = _kind_of(path)
    if kind == "local_dir":
        return _of_local_dir(path, _noted_repository(path, repo_type, options), revision)
    if kind is None:
        if any(REPO_FOLDER.fullmatch(name) for name in _names_in(path)):
            raise ValueError(f"{path} is a whole cache: name one repository of it, or its folder")
        raise ValueError(
            f"{path} holds nothing that tells what its files should be: it is no snapshot, no repository's folder in a "
            "cache, and no folder that was downloaded with local_dir. Name the repository that its files are from, "
            "and the folder as local_dir"
        )
    inside = _snapshot_of(path)
    root, commit, below = inside or (path, "", "")
    cache_dir, name = os.path.split(root)
    match = REPO_FOLDER.fullmatch(name)
    assert match is not None
    kind, repo_id = match["kind"], match["repo_id"].replace("--", "/")
    if repo_type not in {None, kind}:
        raise ValueError(f"{path} is the folder of a {kind}, not of a {repo_type}")
    repository = Repository(repo_id=repo_id, repo_type=kind, **options)
    folder = cache_folder(repository, cache_dir)
    if inside is not None:
        if revision not in {None, commit} and folder.read_ref(revision or "") != commit:
            raise ValueError(f"{path} is the snapshot of {commit}, not of {revision}")
        return Target(path, repository, revision, (commit,), cache=folder, below=below)
    if revision is not None:
        commit = _cached_commit(folder, repository, revision)
        return Target(path, repository, revision, (commit,), cache=folder)
    return Target(path, repository, None, tuple(_commits_in(folder)), cache=folder, whole=True)


def _noted_repository(path: str, repo_type: str | None, options: dict[str, Any]) -> Repository | None:
    """Return the repository that all files of a ``local_dir`` are from by their notes, if these say so."""
    noted = {each.repo for each in LocalFolder(path).all_noted().values()}
    found = read_repo_name(noted.pop()) if len(noted) == 1 else None
    if found is None or repo_type not in {None, found[0]}:
        return None
    return Repository(repo_id=found[1], repo_type=found[0], **options)


def _of_local_dir(path: str, repository: Repository | None, revision: str | None) -> Target:
    if not os.path.isdir(path):
        raise LocalEntryNotFoundError(f"There is no folder {path}")
    commits = (revision,) if revision is not None and is_commit(revision) else ()
    return Target(path, repository, revision, commits, local=LocalFolder(path))


def _cached_commit(folder: RepoFolder, repository: Repository, revision: str | None) -> str:
    """Return the commit that a revision was last seen at.

    Raises:
        huggingface_hub.errors.LocalEntryNotFoundError: Nothing of it is in the cache.
    """
    what = f"{repository.repo_type} {repository.repo_id}"
    if not os.path.isdir(folder.root):
        raise LocalEntryNotFoundError(f"The {what} is not in the cache {folder.cache_dir}")
    wanted = revision or constants.DEFAULT_REVISION
    commit = wanted if is_commit(wanted) else folder.read_ref(wanted)
    if commit is None and revision is None:
        found = list(_commits_in(folder))
        commit = found[0] if len(found) == 1 else None
    if commit is None or not os.path.isdir(folder.snapshot(commit)):
        raise LocalEntryNotFoundError(f"The {what} is in the cache {folder.cache_dir}, but not at {wanted}")
    return commit


def _commits_in(folder: RepoFolder) -> Iterator[str]:
    """Yield the commits that a cache has snapshots of; those that a mirror named may have slashes."""
    snapshots = os.path.join(folder.root, "snapshots")
    noted = set()
    for root, _, names in os.walk(os.path.join(folder.root, "refs")):
        for name in names:
            revision = os.path.relpath(os.path.join(root, name), os.path.join(folder.root, "refs"))
            commit = folder.read_ref(revision.replace(os.sep, "/"))
            if commit and "/" in commit and os.path.isdir(os.path.join(snapshots, commit)):
                noted.add(commit)
    yield from sorted(noted)
    for name in sorted(_names_in(snapshots)):
        if not any(commit.startswith(f"{name}/") for commit in noted):
            yield name


def _names_in(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []
