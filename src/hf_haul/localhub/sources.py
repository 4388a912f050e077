"""Repositories that follow what is on disk: a folder, or the Hub's own cache."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Final

from hf_haul.localhub.objects import DigestCache, FileContent
from hf_haul.localhub.replies import Refusal
from hf_haul.localhub.repository import (
    REPO_TYPES,
    FileEntry,
    Repo,
    Tree,
    default_lfs_rule,
    full_ref,
)

__all__ = ["CacheRepo", "FolderRepo", "FollowingRepo", "find_repos", "scan_folder"]

logger = logging.getLogger(__name__)

_SKIPPED_DIRS: Final = frozenset({".git", ".cache", "__pycache__", ".ipynb_checkpoints"})
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PLURALS: Final = {plural: kind for kind, plural in REPO_TYPES.items()}
_CACHE_FOLDER: Final = re.compile(rf"({'|'.join(_PLURALS)})--(.+)")
_PATIENCE: Final = 8.0  # seconds; the client gives up after ten
_RETRY_AFTER: Final = 15  # seconds


# -- reading folders


def scan_folder(root: Path, digests: DigestCache | None = None) -> Iterator[FileEntry]:
    """Every file below ``root`` that belongs to a repository.

    ``.git``, ``.cache`` and unfinished downloads are left out. Where a download into this folder
    left a note of a file's etag, it is taken instead of hashing the file.
    """
    for path in _files_below(root):
        name = path.relative_to(root).as_posix()
        yield _entry(path, name, _noted_etag(root, name, path), digests)


def _files_below(root: Path) -> Iterator[Path]:
    for folder, dirs, names in os.walk(root):
        dirs[:] = sorted(name for name in dirs if name not in _SKIPPED_DIRS)
        for name in sorted(names):
            path = Path(folder, name)
            # A dangling link or a socket is nothing that can be served.
            if not name.endswith(".incomplete") and path.is_file():
                yield path


def _noted_etag(root: Path, name: str, path: Path) -> str:
    note = root / ".cache" / "huggingface" / "download" / f"{name}.metadata"
    try:
        _commit, etag, when = note.read_text("utf-8").split()
        # A file changed since is not what the note says; a second is for coarse file systems.
        return etag if path.stat().st_mtime - 1 <= float(when) else ""
    except (OSError, ValueError):
        return ""


def _entry(path: Path, name: str, etag: str, digests: DigestCache | None) -> FileEntry:
    sha256 = etag if _SHA256.fullmatch(etag) else None
    sha1 = etag if _SHA1.fullmatch(etag) else None
    content = FileContent(path, sha256=sha256, git_sha1=sha1, digests=digests)
    is_lfs = sha256 is not None or (sha1 is None and default_lfs_rule(name, content.size))
    return FileEntry(name, content, is_lfs)


# -- repositories that follow


class FollowingRepo(Repo, ABC):
    """A repository that looks at the disk again when it is asked for, and serves what it finds.

    Hashing large files may take minutes. It is done by one thread at a time, and who asks
    meanwhile waits for a few seconds, and then gets the state before, or 503 if there is none.

    ``_scan_lock`` guards the attributes named ``_scan...``.

    Args:
        repo_id: See `Repo`.
        repo_type: See `Repo`.
        private: See `Repo`.
        interval: Seconds between two looks at the disk.
        clock: Seconds; only differences count.
    """

    blocking = True

    def __init__(
        self,
        repo_id: str,
        repo_type: str = "model",
        *,
        private: bool = False,
        interval: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(repo_id, repo_type, private=private)
        self._interval = interval
        self._clock = clock
        self._scan_lock = threading.Lock()
        self._scan_due = clock()
        self._scan_result: Future[None] | None = None

    @abstractmethod
    def load(self) -> None:
        """Look at the disk, and add or replace commits and refs; only one thread does."""

    def refresh(self) -> None:
        """See that the newest state is known.

        Raises:
            Refusal: Nothing is known yet, and it takes too long.
        """
        running = self._start_scan()
        if running is None:
            return
        try:
            running.result(_PATIENCE)
        except FutureTimeoutError as error:
            if not self.has_commits:
                message = f"{self.repo_id} is being hashed for the first time; try again soon."
                headers = {"Retry-After": str(_RETRY_AFTER)}
                raise Refusal(503, message, headers=headers) from error

    def wait_until_loaded(self) -> None:
        """See that the newest state is known, however long it takes."""
        running = self._start_scan()
        if running is not None:
            running.result()

    def _start_scan(self) -> Future[None] | None:
        with self._scan_lock:
            if self._scan_result is None and self._clock() >= self._scan_due:
                self._scan_result = Future()
                thread = threading.Thread(
                    target=self._scan, args=(self._scan_result,), name="localhub-scan", daemon=True
                )
                thread.start()
            return self._scan_result

    def _scan(self, result: Future[None]) -> None:
        error: Exception | None = None
        try:
            self.load()
        except OSError as caught:
            logger.warning("cannot read %s: %s", self, caught)
        except Exception as caught:  # noqa: BLE001  whoever waits for the result gets it
            error = caught
        with self._scan_lock:
            self._scan_result = None
            self._scan_due = self._clock() + self._interval
        if error is None:
            result.set_result(None)
        else:
            result.set_exception(error)


class FolderRepo(FollowingRepo):
    """A folder on disk. When it changes, ``main`` gets a new commit.

    A commit's id follows from the files alone, so the same folder has the same id after a restart
    and on another machine.

    Args:
        root: The folder.
        repo_id: See `Repo`.
        repo_type: See `Repo`.
        private: See `Repo`.
        digests: Where digests are kept.
        interval: Seconds between two looks at the folder.
        clock: Seconds; only differences count.
    """

    def __init__(
        self,
        root: Path,
        repo_id: str,
        repo_type: str = "model",
        *,
        private: bool = False,
        digests: DigestCache | None = None,
        interval: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(repo_id, repo_type, private=private, interval=interval, clock=clock)
        self.root = root
        self._digests = digests
        self._seen: list[tuple[str, int, int]] | None = None

    def load(self) -> None:
        """Add a commit if the folder is not what it was."""
        entries = list(scan_folder(self.root, self._digests))
        seen = [
            (entry.path, entry.size, entry.content.mtime_ns)
            for entry in entries
            if isinstance(entry.content, FileContent)
        ]
        if seen == self._seen:
            return
        self.add_tree(Tree(entries), "Folder")
        if self._digests is not None:
            self._digests.save()
        self._seen = seen


class CacheRepo(FollowingRepo):
    """One repository of a Hub cache, with its real commit ids.

    Blobs are named by their digest there, so nothing is hashed. A snapshot that was only partly
    downloaded is served as the part that is there.

    Args:
        root: Its folder (``models--org--name``).
        repo_id: See `Repo`.
        repo_type: See `Repo`.
        private: See `Repo`.
        digests: Where digests are kept, for caches without links.
        interval: Seconds between two looks at the folder.
        clock: Seconds; only differences count.
    """

    def __init__(
        self,
        root: Path,
        repo_id: str,
        repo_type: str = "model",
        *,
        private: bool = False,
        digests: DigestCache | None = None,
        interval: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(repo_id, repo_type, private=private, interval=interval, clock=clock)
        self.root = root
        self._digests = digests
        self._seen: dict[str, list[str]] = {}

    def load(self) -> None:
        """Take over the snapshots that have changed, and all refs."""
        snapshots = self.root / "snapshots"
        for snapshot in sorted(snapshots.iterdir()) if snapshots.is_dir() else []:
            names = [path.relative_to(snapshot).as_posix() for path in _files_below(snapshot)]
            if not names or self._seen.get(snapshot.name) == names:
                continue
            entries = [
                _entry(snapshot / name, name, _blob_name(snapshot / name), self._digests) for name in names
            ]
            self.add_tree(Tree(entries), "Snapshot from the cache", None, known_id=snapshot.name)
            self._seen[snapshot.name] = names
        refs = self.root / "refs"
        for path in _files_below(refs) if refs.is_dir() else ():
            # The cache keeps what the user asked for: a branch, a tag, or refs/pr/1 in full.
            name = full_ref(path.relative_to(refs).as_posix())
            commit = path.read_text("utf-8").strip()
            if commit in self._seen:  # a ref may be there before its snapshot
                self.point(name, commit)


def _blob_name(link: Path) -> str:
    # One step only: the blob itself may be a link into a store shared by several caches.
    return Path(os.readlink(link)).name if link.is_symlink() else ""


# -- finding them


def find_repos(path: Path, *, private: bool = False, digests: DigestCache | None = None) -> list[Repo]:
    """The repositories at a path, which may be any of these.

    * a Hub cache: the folder with ``models--org--name`` in it, or ``HF_HOME`` with its ``hub``;
    * a folder of ``<org>/<name>/``, of ``models/<org>/<name>/``, ``datasets/<org>/<name>/`` ...;
    * one repository: a folder with files in it; its id is made of the path's last two names.

    Args:
        path: The folder.
        private: Whether they are only for accounts.
        digests: Where digests are kept.
    """
    path = path.resolve()
    cached = list(_cached_repos(path)) or list(_cached_repos(path / "hub"))
    if cached:
        return [
            CacheRepo(folder, repo_id, kind, private=private, digests=digests)
            for folder, repo_id, kind in cached
        ]
    return [
        FolderRepo(folder, repo_id, kind, private=private, digests=digests)
        for folder, repo_id, kind in _folder_repos(path)
    ]


def _cached_repos(path: Path) -> Iterator[tuple[Path, str, str]]:
    for folder in _subfolders(path):
        match = _CACHE_FOLDER.fullmatch(folder.name)
        if match is not None and (folder / "snapshots").is_dir():
            yield folder, match[2].replace("--", "/"), _PLURALS[match[1]]


def _folder_repos(path: Path) -> Iterator[tuple[Path, str, str]]:
    if any(child.is_file() and not child.name.startswith(".") for child in path.iterdir()):
        yield path, "/".join(path.parts[-2:]), "model"
        return
    for top in _subfolders(path):
        kind = _PLURALS.get(top.name)
        for owner in [top] if kind is None else _subfolders(top):
            for folder in _subfolders(owner):
                yield folder, f"{owner.name}/{folder.name}", kind or "model"


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
