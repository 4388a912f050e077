"""Folders in which partial files are, below a folder: those of a Hub cache, of a ``local_dir``, of any files.

No symbolic link is followed, so that nobody is led out of the folder that was named.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from hf_haul.descriptors import descriptors
from hf_haul.storage.local_folder import short_name

__all__ = ["REPO_FOLDER", "StagingPlace", "staging_places"]

#: Names of repositories' folders in a Hub cache.
REPO_FOLDER: Final = re.compile(r"(?P<kind>model|dataset|space|kernel)s--(?P<repo_id>.+)")
#: Where a ``local_dir`` keeps metadata, and where in it partial files are.
_METADATA: Final = (".cache", "huggingface")
_DOWNLOAD: Final = "download"
#: Folders of listings, which are written by rename.
_TREES: Final = "trees"
_BLOBS: Final = "blobs"
#: Holds lock files only, one for each blob that was ever fetched.
_LOCKS: Final = ".locks"

#: ``cache``: the folder of repositories' folders; ``repository``: one of those; ``blobs``: its blobs;
#: ``metadata``: of a ``local_dir``; ``listings``: of commits; ``files``: any other, with files at their final
#: place.
PlaceKind = Literal["cache", "repository", "blobs", "metadata", "listings", "files"]


@dataclass(frozen=True, slots=True)
class StagingPlace:
    """A folder in which there may be partial files.

    Attributes:
        folder: The folder.
        kind: What kind of folder it is.
        names: What is in it, folders excluded.
        folders: Folders in it, links excluded.
        root: The repository's folder in a Hub cache, or the ``local_dir``; else the folder itself.
    """

    folder: Path
    kind: PlaceKind
    names: Sequence[str]
    folders: Sequence[str]
    root: Path
    _locks: dict[str, Path] = field(default_factory=dict, compare=False, repr=False)

    def upstream_lock(self, key: str) -> Path | None:
        """Return what huggingface_hub locks while it fetches ``<key>.incomplete`` into this folder.

        Returns:
            ``None`` where it cannot have put the file here, or nobody has ever locked it.
        """
        if self.kind == "blobs":
            return self.root.parent / _LOCKS / self.root.name / f"{key}.lock"
        if self.kind == "metadata":
            if not self._locks:
                self._locks.update(
                    (short_name(f"{name.removesuffix('.lock')}.metadata"), self.folder / name)
                    for name in self.names
                    if name.endswith(".lock")
                )
            return self._locks.get(key.partition(".")[0])
        return None


def staging_places(
    folder: Path, on_error: Callable[[OSError], None] = lambda _: None
) -> Iterator[StagingPlace]:
    """Yield all folders at and below a folder that partial files may be in.

    Args:
        folder: A Hub cache, a repository's folder in one, a ``local_dir``, or any folder.
        on_error: Told about each folder that cannot be read; the others are yielded all the same.
    """
    if REPO_FOLDER.fullmatch(folder.name) and (folder / _BLOBS).is_dir():
        yield from _places_of_repository(folder, on_error)
        return
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        listed = _list(here, on_error)
        if listed is None:
            continue
        names, folders = listed
        repositories = [name for name in folders if REPO_FOLDER.fullmatch(name)]
        yield _place_of(here, names, folders, is_cache=bool(repositories))
        for name in repositories:
            yield from _places_of_repository(here / name, on_error)
        skipped = {*repositories, _LOCKS} if repositories else set()
        waiting += [here / name for name in folders if name not in skipped]


def _place_of(folder: Path, names: Sequence[str], folders: Sequence[str], *, is_cache: bool) -> StagingPlace:
    if is_cache:
        return StagingPlace(folder, "cache", names, folders, folder)
    parts = folder.parts
    for at in range(len(parts) - len(_METADATA), 0, -1):
        if parts[at : at + len(_METADATA)] == _METADATA:
            root, inside = Path(*parts[:at]), parts[at + len(_METADATA) :]
            if inside[:1] == (_DOWNLOAD,):
                return StagingPlace(folder, "metadata", names, folders, root)
            if inside == (_TREES,):
                return StagingPlace(folder, "listings", names, folders, root)
    return StagingPlace(folder, "files", names, folders, folder)


def _places_of_repository(root: Path, on_error: Callable[[OSError], None]) -> Iterator[StagingPlace]:
    listed = _list(root, on_error)
    if listed is None:
        return
    names, folders = listed
    yield StagingPlace(root, "repository", names, folders, root)
    kinds: tuple[tuple[str, PlaceKind], ...] = ((_BLOBS, "blobs"), (_TREES, "listings"))
    for name, kind in kinds:
        if name in folders and (inner := _list(root / name, on_error)) is not None:
            yield StagingPlace(root / name, kind, *inner, root)


def _list(folder: Path, on_error: Callable[[OSError], None]) -> tuple[list[str], list[str]] | None:
    """Return the names in a folder: of all but folders, and of folders."""
    names: list[str] = []
    folders: list[str] = []
    try:
        with descriptors.retry_on_shortage(lambda: os.scandir(folder)) as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
    except OSError as error:
        on_error(error)
        return None
    return sorted(names), sorted(folders)
