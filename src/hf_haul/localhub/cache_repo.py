"""A repository that follows one of a Hub cache."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from hf_haul.localhub.confinement import Confinement, open_regular
from hf_haul.localhub.folders import SHA1, SHA256, file_entry, files_below
from hf_haul.localhub.following import FollowingRepo, Holding
from hf_haul.localhub.listings import KeptFile, kept_path, read_kept, stamp
from hf_haul.localhub.objects import AbsentContent, Content, DigestCache, FileContent
from hf_haul.localhub.repository import full_ref
from hf_haul.localhub.trees import FileEntry, ListingKind, Tree

__all__ = ["CacheRepo", "blob_name"]

logger = logging.getLogger(__name__)

_MOST_REF: Final = 200  # bytes of a file that holds a commit


class CacheRepo(FollowingRepo):
    """One repository of a Hub cache, with its real commit ids.

    Blobs are named by their digest there, so nothing is hashed. A snapshot may have been downloaded in part;
    which files its commit has is told by the Hub's listing alone, where one was kept (see `listings`). A
    listing that lacks a file which is here is not the Hub's, or not whole, and counts as none.

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
        """Load the snapshots that have changed, and all refs."""
        held = {snapshot.name: self._files_of(snapshot) for snapshot in self._snapshots()}
        listed = self.listed_commits()
        for commit in held.keys() | self._seen.keys() | listed:
            files = held.get(commit, {})
            state = ([(name, *key) for name, (key, _) in files.items()], stamp(kept_path(self.root, commit)))
            if self._seen.get(commit) == state or not (files or commit in self._seen or commit in listed):
                continue
            entries, listing = self._entries(commit, {name: link for name, (_, link) in files.items()})
            self.add_tree(Tree(entries), "Snapshot from the cache", None, known_id=commit, listing=listing)
            self._seen[commit] = state
        for name, commit in self._refs_on_disk():
            if commit in self._seen:  # a ref may be there before its snapshot
                self.point(name, commit)

    def listed_commits(self) -> frozenset[str]:
        """Return the commits that are served although nothing of them may be here."""
        return frozenset()

    def absent(self, commit: str, name: str, about: KeptFile) -> Content:
        """Return what stands for a file of a cached listing that is not here.

        Args:
            commit: The commit.
            name: The file.
            about: What the listing says of it.
        """
        del commit, name
        sha256, sha1 = _digests_of(about)
        return AbsentContent(about.size, sha256=sha256, git_sha1=sha1)

    def holdings(self) -> list[Holding]:
        """Return how much is here of each named commit, or of every commit if none has a name."""
        named: dict[str, list[str]] = {}
        for ref, commit in self._refs_on_disk():
            named.setdefault(commit, []).append(ref.removeprefix("refs/heads/"))
        here = {snapshot.name: snapshot for snapshot in self._snapshots()}
        listed = self.listed_commits()
        chosen = {commit: names for commit, names in named.items() if commit in here or commit in listed}
        chosen = chosen or {commit: [] for commit in here}
        found: list[Holding] = []
        for commit, names in chosen.items():
            found_here = self._files_of(here[commit]) if commit in here else {}
            files = {name: link for name, (_, link) in found_here.items()}
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
        """Return the files of a snapshot, each with a stamp that shows changes and the name of its blob."""
        found = {}
        for path in files_below(snapshot, self._confinement):
            with contextlib.suppress(FileNotFoundError):
                about = path.stat()
                key = about.st_size, about.st_mtime_ns
                found[path.relative_to(snapshot).as_posix()] = key, blob_name(path)
        return found

    def _kept(self, commit: str, files: Mapping[str, str]) -> dict[str, KeptFile] | None:
        """Return the cached listing of a commit, unless it lacks a file that came from the Hub."""
        kept = read_kept(kept_path(self.root, commit))
        if kept is None:
            return None
        linked = any(files.values())  # then what is no link was put there by somebody else
        lacking = [name for name, link in files.items() if name not in kept and (link or not linked)]
        if lacking:
            logger.warning(
                "ignoring the cached listing of %s at %s: it lacks %s, which is here",
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
                file_entry(snapshot / name, name, link, self._digests, self._confinement)
                for name, link in files.items()
            ]
            return here, "vouched" if self._complete else "unknown"
        return [self._listed(commit, name, files.get(name), about) for name, about in kept.items()], "whole"

    def _listed(self, commit: str, name: str, link: str | None, about: KeptFile) -> FileEntry:
        """Return a file of a cached listing.

        Its bytes are here if its size and blob are those of the listing.
        """
        content = None if link is None else self.here(commit, name, link, about)
        if content is None:
            content = self.absent(commit, name, about)
        return FileEntry(name, content, about.sha256 is not None, listed_oid=about.git_oid)

    def here(self, commit: str, name: str, link: str, about: KeptFile) -> Content | None:
        """Return a file of a cached listing, if it is here and is the one that was listed.

        Args:
            commit: The commit.
            name: The file.
            link: The name of its blob; empty where it is no link.
            about: What the listing says of it.
        """
        path = self.root / "snapshots" / commit / name
        sha256, sha1 = _digests_of(about)
        content = self._here(path, link, sha256 or "", sha1)
        if content is not None and content.size != about.size:
            logger.warning("%s is not served: it has %s bytes, not %s", path, content.size, about.size)
            return None
        return content

    def _here(self, path: Path, link: str, sha256: str, sha1: str) -> FileContent | None:
        for pattern, listed in ((SHA256, sha256), (SHA1, sha1)):
            if listed and pattern.fullmatch(link) and link != listed:
                logger.warning("%s is not served: it is another file than the one listed", path)
                return None
        if not sha256 and SHA256.fullmatch(link):
            sha256 = link
        if not sha1 and SHA1.fullmatch(link):
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
        """Return full names of refs, and the commits they are at."""
        refs = self.root / "refs"
        confinement = Confinement([refs], every_name=True)
        for path in files_below(refs, confinement) if refs.is_dir() else ():
            with contextlib.suppress(OSError), open_regular(path, confinement) as file:
                # The cache keeps what the user asked for: a branch, a tag, or refs/pr/1 in full.
                name = full_ref(path.relative_to(refs).as_posix())
                yield name, file.read(_MOST_REF).decode("ascii", "replace").strip()


def _digests_of(about: KeptFile) -> tuple[str | None, str]:
    """Return sha256 and git's id of a listed file's content; empty where they are none."""
    sha256 = about.sha256 if about.sha256 is None or SHA256.fullmatch(about.sha256) else ""
    return sha256, about.git_oid if about.sha256 is None and SHA1.fullmatch(about.git_oid) else ""


def blob_name(link: Path) -> str:
    """Return the name of the blob that a file of a snapshot links to; empty where it is no link."""
    # One step only: the blob itself may be a link into a store shared by several caches.
    return Path(os.readlink(link)).name if link.is_symlink() else ""
