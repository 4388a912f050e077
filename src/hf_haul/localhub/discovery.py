"""Which repositories a path holds: a Hub cache's, folders named ``<org>/<name>/``, or one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Final

from hf_haul.localhub.cache_repo import CacheRepo
from hf_haul.localhub.confinement import Confinement
from hf_haul.localhub.folder_repo import FolderRepo
from hf_haul.localhub.folders import is_hub_home, warn_of_link
from hf_haul.localhub.objects import DigestCache
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.trees import REPO_TYPES

__all__ = ["find_repos"]

_PLURALS: Final = {plural: kind for kind, plural in REPO_TYPES.items()}
_CACHE_FOLDER: Final = re.compile(rf"({'|'.join(_PLURALS)})--(.+)")


# -- repositories that follow


def find_repos(
    path: str | PathLike[str],
    *,
    private: bool = False,
    digests: DigestCache | None = None,
    hidden: bool = False,
    complete: bool = False,
    make: Callable[..., CacheRepo] = CacheRepo,
) -> list[Repo]:
    """Return the repositories at a path, which follow what changes there.

    * a Hub cache: the folder with ``models--org--name`` in it, or ``HF_HOME`` with its ``hub``, which has the
      user's tokens in it and is never taken for anything else;
    * a folder of ``<org>/<name>/``, of ``models/<org>/<name>/``, ``datasets/<org>/<name>/`` ...;
    * one repository: a folder with files in it; its id is made of the path's last two names.

    Args:
        path: The folder.
        private: Whether they are only for accounts.
        digests: Where digests are kept.
        hidden: See `confinement.is_shown`; not for a cache.
        complete: See `CacheRepo`.
        make: Makes those of a cache.
    """
    top = Path(path).resolve()
    cached = list(_cached_repos(top)) or list(_cached_repos((top / "hub").resolve()))
    if cached:
        return [
            make(folder, repo_id, kind, private=private, digests=digests, complete=complete)
            for folder, repo_id, kind in cached
        ]
    if is_hub_home(top):
        return []
    confinement = Confinement([top], hidden=hidden)
    return [
        FolderRepo(folder, repo_id, kind, private=private, digests=digests, confinement=confinement)
        for folder, repo_id, kind in _folder_repos(top)
    ]


def _cached_repos(path: Path) -> Iterator[tuple[Path, str, str]]:
    for name, folder in _subfolders(path, path):
        match = _CACHE_FOLDER.fullmatch(name)
        if match is not None and (folder / "snapshots").is_dir():
            yield folder, match[2].replace("--", "/"), _PLURALS[match[1]]


def _folder_repos(path: Path) -> Iterator[tuple[Path, str, str]]:
    if any(child.is_file() and not child.name.startswith(".") for child in path.iterdir()):
        yield path, "/".join(path.relative_to(path.anchor).parts[-2:]), "model"
        return
    for top_name, top in _subfolders(path, path):
        kind = _PLURALS.get(top_name)
        for owner_name, owner in [(top_name, top)] if kind is None else _subfolders(top, path):
            for name, folder in _subfolders(owner, path):
                yield folder, f"{owner_name}/{name}", kind or "model"


def _subfolders(folder: Path, served: Path) -> list[tuple[str, Path]]:
    """Return the names of the folders in a folder, and where they really are: below ``served``."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        real = path.resolve()
        if real.is_relative_to(served):
            found.append((path.name, real))
        else:
            warn_of_link(path)
    return found
