"""Repositories that follow what is on disk: a folder, or the Hub's own cache."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hf_haul.localhub.confinement import Confinement, open_regular
from hf_haul.localhub.listings import KeptFile, kept_path, read_kept, stamp
from hf_haul.localhub.objects import AbsentContent, Content, DigestCache, FileContent
from hf_haul.localhub.replies import Refusal
from hf_haul.localhub.repository import (
    REPO_TYPES,
    FileEntry,
    ListingKind,
    Repo,
    Tree,
    default_lfs_rule,
    full_ref,
)

__all__ = ["CacheRepo", "FolderRepo", "FollowingRepo", "Holding", "find_repos", "scan_folder"]

logger = logging.getLogger(__name__)

_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PLURALS: Final = {plural: kind for kind, plural in REPO_TYPES.items()}
_CACHE_FOLDER: Final = re.compile(rf"({'|'.join(_PLURALS)})--(.+)")
_MOST_REF: Final = 200  # bytes of a file that holds a commit
_MOST_NOTE: Final = 4096  # bytes of a note beside a file
#: Files in huggingface_hub's home, beside its cache: the user's own tokens.
_TOKENS: Final = frozenset({"token", "stored_tokens"})
_PATIENCE: Final = 8.0  # seconds; the client gives up after ten
_RETRY_AFTER: Final = 15  # seconds


# -- reading folders


def scan_folder(
    root: Path, digests: DigestCache | None = None, confinement: Confinement | None = None
) -> Iterator[FileEntry]:
    """Every file below ``root`` that belongs to a repository.

    Left out are unfinished downloads, links that lead elsewhere, and names that begin with a dot, but for those
    that git uses. Where a download into this folder left a note of a file's etag, it is taken instead of hashing.

    Args:
        root: The folder.
        digests: Where computed digests are kept.
        confinement: Where the files must lie, and which names are shown; below ``root`` by default.
    """
    root = root.resolve()
    confinement = confinement or Confinement([root])
    for path in _files_below(root, confinement):
        name = path.relative_to(root).as_posix()
        yield _entry(path, name, _noted_etag(root, name, path), digests, confinement)


def _files_below(root: Path, confinement: Confinement) -> Iterator[Path]:
    for folder, dirs, names in os.walk(root):
        dirs[:] = sorted(name for name in dirs if confinement.enters(Path(folder, name)))
        kept_back = _TOKENS if _is_home(Path(folder)) else frozenset()
        for name in sorted(set(names) - kept_back):
            path = Path(folder, name)
            # A dangling link or a socket is nothing that can be served.
            if not path.is_file() or not confinement.shows(path):
                continue
            if not path.is_symlink() or confinement.holds(path):
                yield path
            else:
                _warn_of_link(path)


def _is_home(folder: Path) -> bool:
    """Whether a folder is huggingface_hub's home (``HF_HOME``), where the user's tokens are."""
    if (folder / "stored_tokens").is_file():
        return True
    return (folder / "token").is_file() and (folder.name == "huggingface" or (folder / "hub").is_dir())


@functools.lru_cache(maxsize=1000)
def _warn_of_link(path: Path) -> None:
    """Say it once, not at each look at the folder."""
    logger.warning("%s is not served: it is a link that leads out of what is served", path)


def _noted_etag(root: Path, name: str, path: Path) -> str:
    notes = root / ".cache" / "huggingface" / "download"
    try:
        # A repository that was cloned here could bring links to anything in place of notes.
        with open_regular(notes / f"{name}.metadata", Confinement([notes], every_name=True)) as file:
            _commit, etag, when = file.read(_MOST_NOTE).decode("utf-8").split()
        # A file changed since is not what the note says; a second is for coarse file systems.
        return etag if path.stat().st_mtime - 1 <= float(when) else ""
    except (OSError, ValueError):
        return ""


def _entry(
    path: Path, name: str, etag: str, digests: DigestCache | None, confinement: Confinement
) -> FileEntry:
    sha256 = etag if _SHA256.fullmatch(etag) else None
    sha1 = etag if _SHA1.fullmatch(etag) else None
    content = FileContent(path, sha256=sha256, git_sha1=sha1, digests=digests, confinement=confinement)
    is_lfs = sha256 is not None or (sha1 is None and default_lfs_rule(name, content.size))
    return FileEntry(name, content, is_lfs)


# -- repositories that follow


@dataclass(frozen=True)
class Holding:
    """How much of a commit is here.

    Attributes:
        commit: Its id.
        names: The branches, tags and other refs that are at it.
        files: How many of its files are here.
        listed: How many it has; ``None`` where nobody knows.
    """

    commit: str
    names: list[str]
    files: int
    listed: int | None


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

    def holdings(self) -> list[Holding]:
        """How much is here of what was downloaded, where that can be told; looks at the disk."""
        return []

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
        confinement: See `scan_folder`.
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
        confinement: Confinement | None = None,
        interval: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(repo_id, repo_type, private=private, interval=interval, clock=clock)
        self.root = root.resolve()
        self._confinement = confinement or Confinement([self.root])
        self._digests = digests
        self._seen: list[tuple[str, int, int]] | None = None

    def load(self) -> None:
        """Add a commit if the folder is not what it was."""
        entries = list(scan_folder(self.root, self._digests, self._confinement))
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

    def holdings(self) -> list[Holding]:
        """How much is here of the commit that was last downloaded into the folder."""
        notes = self.root / ".cache" / "huggingface"
        listings = [path for path in notes.glob("trees/*.json") if stamp(path) is not None]
        if not listings:
            return []
        newest = max(listings, key=lambda path: path.lstat().st_mtime_ns)
        kept = read_kept(newest)
        if kept is None:
            return []
        here = {path.relative_to(self.root).as_posix() for path in _files_below(self.root, self._confinement)}
        return [Holding(newest.stem, [], len(here & kept.keys()), len(kept))]


class CacheRepo(FollowingRepo):
    """One repository of a Hub cache, with its real commit ids.

    Blobs are named by their digest there, so nothing is hashed. A snapshot may have been downloaded in part; which
    files its commit has is told by the Hub's listing alone, where one was kept (see `listings`). A listing that
    lacks a file which is here is not the Hub's, or not whole, and counts as none.

    Args:
        root: Its folder (``models--org--name``).
        repo_id: See `Repo`.
        repo_type: See `Repo`.
        private: See `Repo`.
        digests: Where digests are kept, for caches without links.
        complete: Whether commits without a kept listing are known to be all here.
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
        complete: bool = False,
        interval: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(repo_id, repo_type, private=private, interval=interval, clock=clock)
        self.root = root.resolve()
        self._digests = digests
        self._complete = complete
        # A blob may be a link into the store that the repositories of a cache share.
        roots = (self.root / "blobs", self.root / "snapshots", self.root.parent / "blobs")
        self._confinement = Confinement(roots, every_name=True)
        self._seen: dict[str, object] = {}

    def load(self) -> None:
        """Take over the snapshots that have changed, and all refs."""
        held = {snapshot.name: self._files_of(snapshot) for snapshot in self._snapshots()}
        for commit in held.keys() | self._seen.keys():
            files = held.get(commit, {})
            state = ([(name, *key) for name, (key, _) in files.items()], stamp(kept_path(self.root, commit)))
            if self._seen.get(commit) == state or not (files or commit in self._seen):
                continue
            entries, listing = self._entries(commit, {name: link for name, (_, link) in files.items()})
            self.add_tree(Tree(entries), "Snapshot from the cache", None, known_id=commit, listing=listing)
            self._seen[commit] = state
        for name, commit in self._refs_on_disk():
            if commit in self._seen:  # a ref may be there before its snapshot
                self.point(name, commit)

    def holdings(self) -> list[Holding]:
        """How much is here of each commit that has a name, or of every commit if none has."""
        named: dict[str, list[str]] = {}
        for ref, commit in self._refs_on_disk():
            named.setdefault(commit, []).append(ref.removeprefix("refs/heads/"))
        here = {snapshot.name: snapshot for snapshot in self._snapshots()}
        chosen = {commit: names for commit, names in named.items() if commit in here}
        chosen = chosen or {commit: [] for commit in here}
        found: list[Holding] = []
        for commit, names in chosen.items():
            files = {name: link for name, (_, link) in self._files_of(here[commit]).items()}
            kept = self._kept(commit, files)
            here_and_listed = files if kept is None else files.keys() & kept.keys()
            found.append(Holding(commit, names, len(here_and_listed), None if kept is None else len(kept)))
        return found

    def _snapshots(self) -> list[Path]:
        snapshots = self.root / "snapshots"
        if snapshots.is_symlink() or not snapshots.is_dir():
            return []
        return sorted(path for path in snapshots.iterdir() if path.is_dir() and not path.is_symlink())

    def _files_of(self, snapshot: Path) -> dict[str, tuple[tuple[int, int], str]]:
        """The files of a snapshot: what tells that one has changed, and the name of the blob that it links to."""
        found = {}
        for path in _files_below(snapshot, self._confinement):
            with contextlib.suppress(FileNotFoundError):
                about = path.stat()
                key = about.st_size, about.st_mtime_ns
                found[path.relative_to(snapshot).as_posix()] = key, _blob_name(path)
        return found

    def _kept(self, commit: str, files: Mapping[str, str]) -> dict[str, KeptFile] | None:
        """The listing that was kept of a commit, unless it lacks a file that came from the Hub."""
        kept = read_kept(kept_path(self.root, commit))
        if kept is None:
            return None
        linked = any(files.values())  # then what is no link was put there by somebody else
        lacking = [name for name, link in files.items() if name not in kept and (link or not linked)]
        if lacking:
            logger.warning(
                "the listing kept of %s at %s is passed over: it lacks %s, which is here",
                self.repo_id,
                commit,
                lacking[0],
            )
            return None
        return kept

    def _entries(self, commit: str, files: Mapping[str, str]) -> tuple[list[FileEntry], ListingKind]:
        kept = self._kept(commit, files)
        snapshot = self.root / "snapshots" / commit
        if kept is None:
            here = [
                _entry(snapshot / name, name, link, self._digests, self._confinement)
                for name, link in files.items()
            ]
            return here, "vouched" if self._complete else "unknown"
        return [
            self._listed(snapshot / name, name, files.get(name), about) for name, about in kept.items()
        ], "whole"

    def _listed(self, path: Path, name: str, link: str | None, about: KeptFile) -> FileEntry:
        """A file of a kept listing, which is here if its size and the name of its blob are those of the listing."""
        sha256 = about.sha256 if about.sha256 is None or _SHA256.fullmatch(about.sha256) else ""
        sha1 = about.git_oid if about.sha256 is None and _SHA1.fullmatch(about.git_oid) else ""
        content: Content = AbsentContent(about.size, sha256=sha256, git_sha1=sha1)
        if link is not None:
            content = self._here(path, link, sha256 or "", sha1) or content
            if content.size != about.size:
                logger.warning("%s is not served: it has %s bytes, not %s", path, content.size, about.size)
                content = AbsentContent(about.size, sha256=sha256, git_sha1=sha1)
        return FileEntry(name, content, about.sha256 is not None, listed_oid=about.git_oid)

    def _here(self, path: Path, link: str, sha256: str, sha1: str) -> FileContent | None:
        for pattern, listed in ((_SHA256, sha256), (_SHA1, sha1)):
            if listed and pattern.fullmatch(link) and link != listed:
                logger.warning("%s is not served: it is another file than the one listed", path)
                return None
        if not sha256 and _SHA256.fullmatch(link):
            sha256 = link
        if not sha1 and _SHA1.fullmatch(link):
            sha1 = link
        try:
            return FileContent(
                path,
                sha256=sha256 or None,
                git_sha1=sha1 or None,
                digests=self._digests,
                confinement=self._confinement,
            )
        except FileNotFoundError:
            return None

    def _refs_on_disk(self) -> Iterator[tuple[str, str]]:
        """Full names of refs, and the commits they are at."""
        refs = self.root / "refs"
        confinement = Confinement([refs], every_name=True)
        for path in _files_below(refs, confinement) if refs.is_dir() else ():
            with contextlib.suppress(OSError), open_regular(path, confinement) as file:
                # The cache keeps what the user asked for: a branch, a tag, or refs/pr/1 in full.
                name = full_ref(path.relative_to(refs).as_posix())
                yield name, file.read(_MOST_REF).decode("ascii", "replace").strip()


def _blob_name(link: Path) -> str:
    # One step only: the blob itself may be a link into a store shared by several caches.
    return Path(os.readlink(link)).name if link.is_symlink() else ""


# -- finding them


def find_repos(
    path: Path,
    *,
    private: bool = False,
    digests: DigestCache | None = None,
    hidden: bool = False,
    complete: bool = False,
) -> list[Repo]:
    """The repositories at a path, which may be any of these.

    * a Hub cache: the folder with ``models--org--name`` in it, or ``HF_HOME`` with its ``hub``, which has the user's
      tokens in it and is never taken for anything else;
    * a folder of ``<org>/<name>/``, of ``models/<org>/<name>/``, ``datasets/<org>/<name>/`` ...;
    * one repository: a folder with files in it; its id is made of the path's last two names.

    Args:
        path: The folder.
        private: Whether they are only for accounts.
        digests: Where digests are kept.
        hidden: See `confinement.is_shown`; not for a cache.
        complete: See `CacheRepo`.
    """
    path = path.resolve()
    cached = list(_cached_repos(path)) or list(_cached_repos((path / "hub").resolve()))
    if cached:
        return [
            CacheRepo(folder, repo_id, kind, private=private, digests=digests, complete=complete)
            for folder, repo_id, kind in cached
        ]
    if _is_home(path):
        return []
    confinement = Confinement([path], hidden=hidden)
    return [
        FolderRepo(folder, repo_id, kind, private=private, digests=digests, confinement=confinement)
        for folder, repo_id, kind in _folder_repos(path)
    ]


def _cached_repos(path: Path) -> Iterator[tuple[Path, str, str]]:
    for name, folder in _subfolders(path, path):
        match = _CACHE_FOLDER.fullmatch(name)
        if match is not None and (folder / "snapshots").is_dir():
            yield folder, match[2].replace("--", "/"), _PLURALS[match[1]]


def _folder_repos(path: Path) -> Iterator[tuple[Path, str, str]]:
    if any(child.is_file() and not child.name.startswith(".") for child in path.iterdir()):
        yield path, "/".join(path.parts[-2:]), "model"
        return
    for top_name, top in _subfolders(path, path):
        kind = _PLURALS.get(top_name)
        for owner_name, owner in [(top_name, top)] if kind is None else _subfolders(top, path):
            for name, folder in _subfolders(owner, path):
                yield folder, f"{owner_name}/{name}", kind or "model"


def _subfolders(folder: Path, served: Path) -> list[tuple[str, Path]]:
    """Names of the folders in a folder, and where they really are: below ``served``."""
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
            _warn_of_link(path)
    return found
