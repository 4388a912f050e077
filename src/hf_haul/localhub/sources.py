"""Where repositories come from: folders on disk, and the Hub's own cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hf_haul.localhub.objects import DigestCache, FileContent
from hf_haul.localhub.repository import REPO_TYPES, FileEntry, Repo, Tree, default_lfs_rule

__all__ = ["repos_in_cache", "repos_in_folder", "scan_folder"]

_SKIPPED_DIRS: Final = frozenset({".git", ".cache", "__pycache__", ".ipynb_checkpoints"})
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def scan_folder(root: Path, digests: DigestCache | None = None) -> Iterator[tuple[str, FileContent]]:
    """Every file below ``root`` that belongs to a repository, by its path in it."""
    for folder, dirs, names in os.walk(root):
        dirs[:] = sorted(name for name in dirs if name not in _SKIPPED_DIRS)
        for name in sorted(names):
            path = Path(folder, name)
            # A dangling link or a socket is nothing that can be served.
            if not name.endswith(".incomplete") and path.is_file():
                yield path.relative_to(root).as_posix(), FileContent(path, digests=digests)


def repos_in_folder(root: Path, digests: DigestCache | None = None) -> list[Repo]:
    """Every repository of a folder laid out as ``[models/|datasets/|...]<org>/<name>/``."""
    found: list[Repo] = []
    plurals = {plural: kind for kind, plural in REPO_TYPES.items()}
    for top in _subfolders(root):
        kind = plurals.get(top.name)
        owners = [top] if kind is None else _subfolders(top)
        for owner in owners:
            found += [
                Repo.from_folder(name, f"{owner.name}/{name.name}", kind or "model", digests=digests)
                for name in _subfolders(owner)
            ]
    return found


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in _SKIPPED_DIRS)


def repos_in_cache(cache_dir: Path, digests: DigestCache | None = None) -> list[Repo]:
    """Every repository of a Hub cache (the folder with ``models--org--name`` in it).

    Commits keep their real ids. Blobs are named by their digest there, so nothing is hashed.
    A snapshot that was only partly downloaded is served as the part that is there.
    """
    found: list[Repo] = []
    for kind, plural in REPO_TYPES.items():
        for folder in sorted(cache_dir.glob(f"{plural}--*")):
            repo = _repo_in_cache(folder, kind, digests)
            if repo is not None:
                found.append(repo)
    return found


def _repo_in_cache(folder: Path, kind: str, digests: DigestCache | None) -> Repo | None:
    repo = Repo(folder.name.partition("--")[2].replace("--", "/"), kind)
    refs = _refs_in_cache(folder / "refs")
    snapshots = folder / "snapshots"
    for snapshot in sorted(snapshots.iterdir()) if snapshots.is_dir() else []:
        names: list[str | None] = [name for name, commit in refs.items() if commit == snapshot.name]
        files = list(_snapshot_files(snapshot, digests))
        if not files or _SHA1.fullmatch(snapshot.name) is None:
            continue
        for name in names or [None]:
            repo.add_tree(Tree(files), "Snapshot from the cache", name, known_id=snapshot.name)
    return repo if repo.resolve("HEAD") else None


def _refs_in_cache(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        _ref_from_cache(path.relative_to(folder).as_posix()): path.read_text("utf-8").strip()
        for path in files
    }


def _ref_from_cache(name: str) -> str:
    # The cache keeps what the user asked for: a branch, a tag, or refs/pr/1 in full.
    return name if name.startswith("refs/") else f"refs/heads/{name}"


def _snapshot_files(snapshot: Path, digests: DigestCache | None) -> Iterator[FileEntry]:
    for folder, _dirs, names in os.walk(snapshot):
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield _cached_file(path, path.relative_to(snapshot).as_posix(), digests)


def _cached_file(path: Path, name: str, digests: DigestCache | None) -> FileEntry:
    # One step only: the blob itself may be a link into a store shared by several caches.
    etag = Path(os.readlink(path)).name if path.is_symlink() else ""
    sha256 = etag if _SHA256.fullmatch(etag) else None
    sha1 = etag if _SHA1.fullmatch(etag) else None
    content = FileContent(path, sha256=sha256, git_sha1=sha1, digests=digests)
    is_lfs = sha256 is not None or (sha1 is None and default_lfs_rule(name, content.size))
    return FileEntry(name, content, is_lfs)
