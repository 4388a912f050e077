"""What a Hub cache holds: repositories, their revisions, and whether those are complete.

huggingface_hub's own ``scan_cache_dir`` leaves a repository out for one broken link, or for a branch without
a snapshot, which is what an interrupted download leaves; here it is listed, with what is wrong.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import constants

from hf_haul.hub.metadata import ListedFile, metadata_from_listing
from hf_haul.hub.partial_names import commits_by_ref, repository_of
from hf_haul.hub.status import FileProblem, folder_to_search
from hf_haul.hub.upstream_cache import read_tree
from hf_haul.storage.regular_files import bytes_on_disk
from hf_haul.storage.staged_names import STAGED_NAME
from hf_haul.storage.sweeping import PARTIAL_OF_UPSTREAM

__all__ = ["CacheState", "CachedRepositories", "CachedRepository", "CachedRevision", "list_cached"]

#: ``unknown``: nothing here tells which files there should be, as after the download of a single file.
CacheState = Literal["complete", "partial", "unknown"]


@dataclass(frozen=True, slots=True)
class CachedRevision:
    """One commit of a repository in a cache.

    Attributes:
        commit: The commit.
        refs: The branches and tags that lead to it.
        path: Its folder.
        files: Files of it that are here.
        bytes: Bytes of those.
        files_listed: Files that it has on the Hub; ``None`` if no listing was kept.
        state: Whether all of them are here, with the right size.
    """

    commit: str
    refs: tuple[str, ...]
    path: Path
    files: int
    bytes: int
    files_listed: int | None
    state: CacheState


@dataclass(frozen=True, slots=True)
class CachedRepository:
    """One repository in a cache.

    Attributes:
        repo_type: ``"model"``, ``"dataset"``, ``"space"`` or ``"kernel"``.
        repo_id: Its id.
        path: Its folder.
        revisions: Its commits: those that a branch or tag leads to first.
        files: Different files of all commits that are here.
        bytes: Bytes of those.
        partial_files: Files of which a part is here.
        partial_bytes: Bytes on the disk of those.
        last_used: When one of its files was read, in seconds since the epoch, as far as the file system notes
            that.
        last_modified: When one of its files was put here.
        state: Whether it is complete: all commits that a branch or tag leads to are, and nothing is partial.
        problems: What is damaged, such as links that lead to nothing.
    """

    repo_type: str
    repo_id: str
    path: Path
    revisions: tuple[CachedRevision, ...]
    files: int
    bytes: int
    partial_files: int
    partial_bytes: int
    last_used: float | None
    last_modified: float | None
    state: CacheState
    problems: tuple[FileProblem, ...]


@dataclass(frozen=True, slots=True)
class CachedRepositories:
    """What a Hub cache holds.

    Attributes:
        cache_dir: The cache.
        repositories: Its repositories, by type and id.
        bytes: Bytes of all their files, each counted once, and those of partial files on the disk.
        problems: What could not be read.
    """

    cache_dir: Path
    repositories: tuple[CachedRepository, ...]
    bytes: int
    problems: tuple[FileProblem, ...]


def list_cached(cache_dir: str | os.PathLike[str] | None = None) -> CachedRepositories:
    """Return what a Hub cache holds. Nothing is changed, and nobody is asked.

    Args:
        cache_dir: The cache; the default one if it is not given.

    Returns:
        All repositories, damaged ones included.

    Raises:
        FileNotFoundError: There is no such folder; a default cache that is not there yet is empty.
        NotADirectoryError: It is no folder.
    """
    folder = folder_to_search(None, cache_dir)
    if folder is None:
        return CachedRepositories(Path(constants.HF_HUB_CACHE), (), 0, ())
    problems: list[FileProblem] = []
    repositories: list[CachedRepository] = []
    sizes: dict[tuple[int, int], int] = {}
    for path in _list(folder, problems):
        if repository_of(path) is not None and path.is_dir():
            look = _RepositoryLook(path)
            repositories.append(look.result())
            sizes.update(look.sizes)
    repositories.sort(key=lambda each: (each.repo_type, each.repo_id))
    return CachedRepositories(folder, tuple(repositories), sum(sizes.values()), tuple(problems))


class _RepositoryLook:
    """A look at one repository's folder.

    Attributes:
        sizes: Bytes of its files and of what is partial, by device and inode.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: list[FileProblem] = []
        self._stats: dict[tuple[int, int], os.stat_result] = {}
        self._partial: dict[tuple[int, int], int] = {}
        self._look_at_blobs()
        self._revisions = [*self._look_at_revisions()]

    @property
    def sizes(self) -> dict[tuple[int, int], int]:
        return {key: status.st_size for key, status in self._stats.items()} | self._partial

    def result(self) -> CachedRepository:
        repo_type, repo_id = repository_of(self._path) or ("", "")
        statuses = self._stats.values()
        return CachedRepository(
            repo_type=repo_type,
            repo_id=repo_id,
            path=self._path,
            revisions=tuple(self._revisions),
            files=len(statuses),
            bytes=sum(status.st_size for status in statuses),
            partial_files=len(self._partial),
            partial_bytes=sum(self._partial.values()),
            last_used=max((status.st_atime for status in statuses), default=None),
            last_modified=max((status.st_mtime for status in statuses), default=None),
            state=self._state(),
            problems=tuple(self._problems),
        )

    def _state(self) -> CacheState:
        asked_for = [each for each in self._revisions if each.refs] or self._revisions
        states = {each.state for each in asked_for}
        if self._partial or "partial" in states:
            return "partial"
        return "complete" if states == {"complete"} else "unknown"

    def _look_at_blobs(self) -> None:
        for path in _list(self._path / "blobs", self._problems):
            match = STAGED_NAME.fullmatch(path.name) or PARTIAL_OF_UPSTREAM.fullmatch(path.name)
            with contextlib.suppress(
                OSError
            ):  # published, or removed, meanwhile; or a link that leads to nothing
                if match is None:
                    self._count(os.stat(path))
                elif not path.with_name(match[1]).exists() and stat.S_ISREG((status := path.lstat()).st_mode):
                    self._partial[status.st_dev, status.st_ino] = bytes_on_disk(status)

    def _count(self, status: os.stat_result) -> None:
        if stat.S_ISREG(status.st_mode):
            self._stats[status.st_dev, status.st_ino] = status

    def _look_at_revisions(self) -> Iterator[CachedRevision]:
        """Yield the commits, those that a branch or tag leads to first."""
        refs: dict[str, list[str]] = {}
        for ref, commit in sorted(commits_by_ref(self._path).items()):
            refs.setdefault(commit, []).append(ref)
        snapshots = self._path / "snapshots"
        here = {path.name for path in _list(snapshots, self._problems) if path.is_dir()}
        for commit in sorted(here | refs.keys(), key=lambda each: (each not in refs, each)):
            yield self._look_at_revision(commit, tuple(refs.get(commit, ())), snapshots / commit)

    def _look_at_revision(self, commit: str, refs: tuple[str, ...], folder: Path) -> CachedRevision:
        sizes: dict[str, int] = {}
        for path in _files_below(folder, self._problems):
            name = path.relative_to(folder).as_posix()
            try:
                status = os.stat(path)
            except OSError:
                self._problems.append(FileProblem(path, "it is a link to a file that is not there"))
                continue
            sizes[name] = status.st_size
            self._count(status)
        listed = read_tree(os.fspath(self._path), commit)
        return CachedRevision(
            commit=commit,
            refs=refs,
            path=folder,
            files=len(sizes),
            bytes=sum(sizes.values()),
            files_listed=None if listed is None else len(listed),
            state=self._compare(commit, folder, sizes, listed),
        )

    def _compare(
        self, commit: str, folder: Path, sizes: dict[str, int], listed: Mapping[str, ListedFile] | None
    ) -> CacheState:
        """Return whether all files of a listing are here, with the right size."""
        if listed is None:
            return "unknown"
        state: CacheState = "complete"
        for name, entry in listed.items():
            known = metadata_from_listing(commit, entry)
            if name not in sizes:
                state = "partial"
            elif known is not None and known.size is not None and known.size != sizes[name]:
                state = "partial"
                self._problems.append(
                    FileProblem(folder / name, f"it has {sizes[name]} bytes, and should have {known.size}")
                )
        return state


def _files_below(folder: Path, problems: list[FileProblem]) -> Iterator[Path]:
    """Yield all files below a folder, without following links to folders."""
    waiting = [folder]
    while waiting:
        for path in _list(waiting.pop(), problems):
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)
            else:
                yield path


def _list(folder: Path, problems: list[FileProblem]) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(FileProblem(folder, error.strerror or str(error)))
        return []
