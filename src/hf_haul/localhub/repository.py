"""Repositories: files, directories, commits and the names that point at them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Final, Literal

from hf_haul.localhub.confinement import Confinement
from hf_haul.localhub.folders import scan_folder
from hf_haul.localhub.objects import BytesContent, Content, DigestCache, FileContent, LfsRule, commit_id
from hf_haul.localhub.trees import REPO_TYPES, Commit, FileEntry, ListingKind, Tree, default_lfs_rule

__all__ = ["Repo", "full_ref"]


Gated = Literal[False, "auto", "manual"]

_FIRST_COMMIT: Final = 1_700_000_000  # seconds since 1970; a fixed date keeps ids deterministic
_COMMIT_STEP: Final = 3600  # seconds
_SHORTEST_PREFIX: Final = 7  # characters of a commit id that may stand for all of it


FileSource = bytes | str | PathLike[str] | Content | FileEntry


class Repo:
    """A repository: commits, and branches, tags and other refs that name them.

    Files are added with `commit`; what is there can be read while commits are added. ``_lock``
    guards the tables; commits themselves never change.

    Args:
        repo_id: ``"org/name"`` (or just ``"name"``, as the oldest models are called).
        repo_type: ``"model"``, ``"dataset"``, ``"space"`` or ``"kernel"``.
        private: Whether only accounts with access see it at all.
        gated: ``"auto"`` or ``"manual"`` if its files are only for accounts that were let in.
        disabled: Whether the Hub has disabled it: every request is answered by 403.
        lfs: What goes to LFS: a rule, patterns of file names, or ``None`` for the Hub's defaults.
    """

    default_branch: Final = "main"
    #: Whether asking it something may take long: it reads, or hashes, what is on disk.
    blocking = False

    def __init__(
        self,
        repo_id: str,
        repo_type: str = "model",
        *,
        private: bool = False,
        gated: Gated = False,
        disabled: bool = False,
        lfs: LfsRule | Iterable[str] | None = None,
    ) -> None:
        if repo_type not in REPO_TYPES:
            raise ValueError(f"repo_type is one of {sorted(REPO_TYPES)}, not {repo_type!r}")
        if not repo_id or repo_id.count("/") > 1:
            raise ValueError(f'repo_id is "org/name" or "name", not {repo_id!r}')
        self.repo_id = repo_id
        self.repo_type = repo_type
        self.private = private
        self.gated = gated
        self.disabled = disabled
        self._is_lfs = _as_rule(lfs)
        self._lock = threading.RLock()
        self._refs: dict[str, Commit] = {}
        self._commits: dict[str, Commit] = {}
        self._objects: dict[str, Content] = {}

    def __repr__(self) -> str:
        return f"Repo({self.repo_id!r}, {self.repo_type!r})"

    @property
    def key(self) -> tuple[str, str]:
        """Type and id: what tells repositories of one hub apart."""
        return self.repo_type, self.repo_id

    @property
    def internal_id(self) -> str:
        """24 hex digits that never change, as the ``_id`` of a repository on the Hub."""
        return hashlib.sha256(f"{self.repo_type}/{self.repo_id}".encode()).hexdigest()[:24]

    # -- reading

    @property
    def head(self) -> Commit:
        """The newest commit of the default branch, or of the first branch if there is no main."""
        found = self.resolve("HEAD")
        if found is None:
            raise LookupError(f"{self} has no commit")
        return found

    def _default(self) -> Commit | None:
        with self._lock:
            main = self._refs.get(f"refs/heads/{self.default_branch}")
            return main or next(iter([*self._refs.values(), *self._commits.values()]), None)

    def refresh(self) -> None:
        """Update the repository from its origin; a plain one has none."""

    def knows_at_once(self, revision: str) -> bool:
        """Return whether `resolve` would answer for a revision without a look at the disk, or elsewhere."""
        with self._lock:
            known = self._commits.get(revision)
        return known is not None and known.is_settled

    @property
    def has_commits(self) -> bool:
        """Whether there is anything to serve yet."""
        with self._lock:
            return bool(self._commits)

    @property
    def refs(self) -> dict[str, Commit]:
        """Full ref names (``refs/heads/main``) and what they point at."""
        with self._lock:
            return dict(self._refs)

    def resolve(self, revision: str) -> Commit | None:
        """Find a commit by branch, tag, full ref, ``HEAD``, commit id or a short unique prefix."""
        with self._lock:
            known = self._commits.get(revision)
        if known is not None and known.is_settled:
            return known
        self.refresh()
        return self._find(revision)

    def _find(self, revision: str) -> Commit | None:
        with self._lock:
            if revision == "HEAD":
                return self._default()
            for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
                if name in self._refs:
                    return self._refs[name]
            return self._by_id(revision)

    def _by_id(self, revision: str) -> Commit | None:
        found = [
            commit
            for commit in self._commits.values()
            if revision in (commit.id, commit.long_id)
            or (len(revision) >= _SHORTEST_PREFIX and commit.id.startswith(revision))
        ]
        return found[0] if len(found) == 1 else None

    def lfs_object(self, sha256: str) -> Content | None:
        """Return the LFS content with this digest, in any commit."""
        with self._lock:
            return self._objects.get(sha256)

    # -- writing

    def commit(
        self,
        files: Mapping[str, FileSource | None],
        message: str = "Upload files",
        *,
        branch: str = "main",
        only: bool = False,
        author: str = "localhub",
        sha256: Mapping[str, str] | None = None,
        xet_hashes: Mapping[str, str] | None = None,
        digests: DigestCache | None = None,
    ) -> Commit:
        """Add a commit to a branch, creating the branch if it is new (from the default branch).

        Args:
            files: Content by path: bytes, a file on disk, or ``None`` to delete it.
            message: The commit message.
            branch: A branch name, or a full ref such as ``refs/pr/1`` or ``refs/convert/parquet``.
            only: Whether ``files`` is all there is, instead of changes to the branch.
            author: A user name.
            sha256: Digests by path; they are trusted, so a sparse file of any size is no work.
            xet_hashes: Xet hashes by path (64 hex digits).
            digests: Where computed digests are kept; by default one table for the process.

        Returns:
            The new commit. Its id follows from content, history and message alone.
        """
        known = dict(sha256 or {})
        entries = {
            path: self._entry(path, source, known.get(path), (xet_hashes or {}).get(path), digests)
            for path, source in files.items()
            if source is not None
        }
        with self._lock:
            parent = self._refs.get(full_ref(branch)) or self._default()
            kept = {} if only or parent is None else dict(parent.tree.files)
        for path in files:
            kept.pop(path, None)
        return self.add_tree(Tree({**kept, **entries}.values()), message, branch, author, parent)

    def _entry(
        self,
        path: str,
        source: FileSource,
        sha256: str | None,
        xet_hash: str | None,
        digests: DigestCache | None,
    ) -> FileEntry:
        if isinstance(source, FileEntry):
            return replace(source, path=path)
        content = _as_content(source, sha256, digests)
        is_lfs = content.size > 0 and (xet_hash is not None or self._is_lfs(path, content.size))
        return FileEntry(path, content, is_lfs, xet_hash)

    def add_tree(
        self,
        tree: Tree,
        message: str,
        branch: str | None = "main",
        author: str = "localhub",
        parent: Commit | None = None,
        *,
        known_id: str | None = None,
        listing: ListingKind = "whole",
    ) -> Commit:
        """Add a commit that holds exactly ``tree``; see `commit`.

        Args:
            tree: All its files.
            message: The commit message.
            branch: A branch name or full ref to point at it, or ``None``.
            author: A user name.
            parent: The commit before it.
            known_id: Its id, for a commit that comes from elsewhere.
            listing: See `Commit`.
        """
        when = _FIRST_COMMIT if parent is None else parent.when + _COMMIT_STEP
        name = known_id or commit_id(tree.oid, [parent.id] if parent else [], message, author, when)
        made = Commit(name, tree, message, author, when, parent, listing)
        lfs = {entry.etag: entry.content for entry in tree.files.values() if entry.is_lfs and entry.is_here}
        with self._lock:
            self._commits[made.id] = made
            if branch is not None:
                self._refs[full_ref(branch)] = made
            self._objects.update(lfs)
        return made

    def branch(self, name: str, revision: str = "main") -> None:
        """Make a branch, or move it, to point at ``revision``."""
        self.point(full_ref(name), revision)

    def tag(self, name: str, revision: str = "main") -> None:
        """Make a tag, or move it, to point at ``revision``."""
        self.point(f"refs/tags/{name}", revision)

    def point(self, ref: str, revision: str) -> None:
        """Make a full ref, or move it, to point at ``revision``.

        Raises:
            LookupError: There is no such revision.
        """
        commit = self._find(revision)
        if commit is None:
            raise LookupError(f"{self} has no revision {revision!r}")
        with self._lock:
            self._refs[ref] = commit

    # -- from elsewhere

    @classmethod
    def from_folder(
        cls,
        folder: str | PathLike[str],
        repo_id: str | None = None,
        repo_type: str = "model",
        *,
        sha256: Mapping[str, str] | None = None,
        xet_hashes: Mapping[str, str] | None = None,
        digests: DigestCache | None = None,
        message: str = "Upload folder",
        private: bool = False,
        gated: Gated = False,
        disabled: bool = False,
        lfs: LfsRule | Iterable[str] | None = None,
        hidden: bool = False,
    ) -> Repo:
        """Return a repository with one commit that holds a folder.

        Left out are ``.git``, unfinished downloads, links that lead out of the folder, and names that begin
        with a dot, but for those that git uses.

        Args:
            folder: The folder.
            repo_id: ``"org/name"``; by default from the last two parts of the folder's path.
            repo_type: See the class.
            sha256: Digests of files by path, trusted; the others are computed when first needed.
            xet_hashes: Xet hashes by path.
            digests: Where computed digests are kept.
            message: The commit message.
            private: See the class.
            gated: See the class.
            disabled: See the class.
            lfs: See the class.
            hidden: Whether files whose names begin with a dot belong to it, too.
        """
        root = Path(folder).resolve()
        repo = cls(
            repo_id or "/".join(root.parts[-2:]),
            repo_type,
            private=private,
            gated=gated,
            disabled=disabled,
            lfs=lfs,
        )
        told = {*(sha256 or {}), *(xet_hashes or {})}
        files: dict[str, FileSource] = {}
        confinement = Confinement([root], hidden=hidden)
        for entry in scan_folder(root, digests, confinement):
            # What is said here goes before what a note in the folder says.
            keep = lfs is None and entry.path not in told
            files[entry.path] = (
                entry
                if keep
                else FileContent(
                    root / entry.path,
                    sha256=(sha256 or {}).get(entry.path),
                    digests=digests,
                    confinement=confinement,
                )
            )
        repo.commit(
            files,
            message,
            sha256=sha256,
            xet_hashes=xet_hashes,
            digests=digests,
        )
        return repo


def _as_rule(lfs: LfsRule | Iterable[str] | None) -> LfsRule:
    if lfs is None:
        return default_lfs_rule
    if callable(lfs):
        return lfs
    patterns = tuple(lfs)
    return lambda path, _size: any(fnmatchcase(path, pattern) for pattern in patterns)


def _as_content(
    source: bytes | str | PathLike[str] | Content, sha256: str | None, digests: DigestCache | None
) -> Content:
    if isinstance(source, Content):
        return source
    if isinstance(source, bytes):
        return BytesContent(source)
    return FileContent(source, sha256=sha256, digests=digests)


def full_ref(name: str) -> str:
    """Return ``refs/heads/<name>``, or the name itself if it is a full ref."""
    return name if name.startswith("refs/") else f"refs/heads/{name}"
