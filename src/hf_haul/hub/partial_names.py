"""What a partial file on disk is of, as its own record or a kept listing tells."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hf_haul.hub.upstream_cache import read_tree
from hf_haul.hub.uris import read_uri
from hf_haul.storage.local_folder import short_name
from hf_haul.storage.partial_files import PartialOnDisk
from hf_haul.storage.staging_places import REPO_FOLDER, StagingPlace

__all__ = ["PartialName", "PartialNames", "commits_by_ref", "repository_of"]

#: Hex digits at the end of a key of a file that is staged beside its final place.
_VERSION_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class PartialName:
    """What a partial file is of, as far as anything tells.

    Attributes:
        repo_type: ``"model"``, ``"dataset"``, ``"space"`` or ``"kernel"``.
        repo_id: The repository.
        commit: The commit it was asked for at.
        file: Its path in the repository, or its file name.
        etag: The version of its content.
        size: Bytes, as a listing tells.
    """

    repo_type: str | None = None
    repo_id: str | None = None
    commit: str | None = None
    file: str | None = None
    etag: str | None = None
    size: int | None = None


def repository_of(folder: Path) -> tuple[str, str] | None:
    """Return the type and the id of the repository that a folder in a Hub cache is of, if it is of one."""
    match = REPO_FOLDER.fullmatch(folder.name)
    return None if match is None else (match["kind"], match["repo_id"].replace("--", "/"))


def commits_by_ref(repository: Path) -> dict[str, str]:
    """Return the commits that branches and tags were last seen at, from a repository's folder in a cache."""
    found = {}
    refs = repository / "refs"
    for here, _, files in os.walk(refs):
        for name in files:
            path = Path(here, name)
            with contextlib.suppress(OSError, ValueError):
                if not path.is_symlink():
                    found[path.relative_to(refs).as_posix()] = path.read_text("utf-8").strip()
    return found


class PartialNames:
    """Tells what partial files are of; reads listings once, and only where a file's record says nothing."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[tuple[str, str], PartialName]] = {}

    def name_of(self, found: PartialOnDisk) -> PartialName:
        """Return what a partial file is of."""
        place = found.place
        if place.kind == "files":
            name, _, version = found.key.rpartition(".")
            return PartialName(file=name if len(version) == _VERSION_DIGITS else found.key)
        if found.kind == "temporary" or place.kind not in {"blobs", "metadata"}:
            repository = repository_of(place.root) or (None, None)
            return PartialName(*repository)
        said = read_uri(found.uri)
        if place.kind == "blobs":
            repo_type, repo_id = repository_of(place.root) or (None, None)
            etag = found.key
        else:
            repo_type, repo_id = (None, None) if said is None else (said.repo_type, said.repo_id)
            etag = found.key.partition(".")[2]
        listed = None
        if said is None or found.size is None:
            listed = self._listing_of(place).get(_identity(place, found.key))
        return PartialName(
            repo_type=repo_type,
            repo_id=repo_id,
            commit=said.revision if said is not None else listed.commit if listed is not None else None,
            file=said.path if said is not None else listed.file if listed is not None else None,
            etag=etag,
            size=None if listed is None else listed.size,
        )

    def _listing_of(self, place: StagingPlace) -> dict[tuple[str, str], PartialName]:
        """Return the files in all listings kept of a repository or a ``local_dir``, by :func:`_identity`."""
        folder = place.root if place.kind == "blobs" else place.root / ".cache" / "huggingface"
        if folder not in self._listed:
            self._listed[folder] = dict(_read_listings(folder, by_path=place.kind == "metadata"))
        return self._listed[folder]


def _identity(place: StagingPlace, key: str) -> tuple[str, str]:
    """Return the etag of a blob, or the folder and the key of a file of a ``local_dir``."""
    if place.kind == "blobs":
        return "", key
    inside = place.folder.relative_to(place.root / ".cache" / "huggingface" / "download").as_posix()
    return "" if inside == "." else inside, key


def _read_listings(folder: Path, *, by_path: bool) -> Iterator[tuple[tuple[str, str], PartialName]]:
    """Yield the files of all kept listings, those of the latest listing last."""
    trees = []
    with contextlib.suppress(OSError):
        trees = sorted((folder / "trees").glob("*.json"), key=lambda path: path.stat().st_mtime)
    for tree in trees:
        for path, listed in (read_tree(os.fspath(folder), tree.stem) or {}).items():
            if listed.digest is None:
                continue
            etag = listed.digest.value
            name = PartialName(commit=tree.stem, file=path, etag=etag, size=listed.bytes)
            if by_path:
                inside, _, last = path.rpartition("/")
                yield (inside, f"{short_name(f'{last}.metadata')}.{etag}"), name
            else:
                yield ("", etag), name
