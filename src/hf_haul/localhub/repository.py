"""Repositories: files, directories, commits and the names that point at them."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Final, Literal

from hf_haul.localhub.confinement import Confinement
from hf_haul.localhub.objects import (
    AbsentContent,
    BytesContent,
    Content,
    DigestCache,
    FileContent,
    LfsRule,
    commit_id,
    lfs_pointer,
    tree_id,
)

__all__ = [
    "REPO_TYPES",
    "Commit",
    "DirEntry",
    "FileEntry",
    "ListingKind",
    "Repo",
    "Tree",
    "default_lfs_rule",
    "full_ref",
]

#: Singular names of the repository types, and their plural in URLs.
REPO_TYPES: Final[Mapping[str, str]] = {
    "model": "models",
    "dataset": "datasets",
    "space": "spaces",
    "kernel": "kernels",
}

Gated = Literal[False, "auto", "manual"]
#: Where the list of a commit's files comes from: it is the whole list; all that is here, and somebody vouches that
#: there is no more; or all that is here, and nobody knows whether there is more.
ListingKind = Literal["whole", "vouched", "unknown"]

_FIRST_COMMIT: Final = 1_700_000_000  # seconds since 1970; a fixed date keeps ids deterministic
_COMMIT_STEP: Final = 3600  # seconds
_LFS_FROM: Final = 10 * 1024 * 1024  # bytes; the Hub refuses larger files in plain git
_SHORTEST_PREFIX: Final = 7  # characters of a commit id that may stand for all of it

#: What the Hub's default ``.gitattributes`` sends to LFS.
_LFS_SUFFIXES: Final = frozenset(
    [
        "7z",
        "arrow",
        "bin",
        "bz2",
        "ckpt",
        "ftz",
        "gguf",
        "gz",
        "h5",
        "joblib",
        "mlmodel",
        "model",
        "msgpack",
        "npy",
        "npz",
        "onnx",
        "ot",
        "parquet",
        "pb",
        "pickle",
        "pkl",
        "pt",
        "pth",
        "rar",
        "safetensors",
        "tar",
        "tflite",
        "tgz",
        "wasm",
        "xz",
        "zip",
        "zst",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "webp",
        "mp3",
        "mp4",
        "wav",
        "flac",
        "ogg",
        "pdf",
    ]
)


def default_lfs_rule(path: str, size: int) -> bool:
    """Whether the Hub would keep this file in LFS: weights, archives and anything large."""
    if size == 0:  # git-lfs leaves empty files alone
        return False
    name = path.rpartition("/")[2]
    suffix = name.rpartition(".")[2].lower()
    return size >= _LFS_FROM or suffix in _LFS_SUFFIXES or "tfevents" in name


@dataclass(frozen=True)
class FileEntry:
    """A file at one path of one commit.

    Attributes:
        path: Where it is, from the root of the repository.
        content: Its bytes.
        is_lfs: Whether git holds only a pointer to it.
        xet_hash: Its Xet hash (64 hex digits), if it has one.
        listed_oid: Its git blob id as the Hub listed it, where that is known.
    """

    path: str
    content: Content
    is_lfs: bool
    xet_hash: str | None = None
    listed_oid: str | None = None

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.content.size

    @cached_property
    def pointer(self) -> bytes:
        """The LFS pointer that git holds; only for LFS files."""
        return lfs_pointer(self.content.sha256(), self.size)

    @cached_property
    def git_oid(self) -> str:
        """The git blob id: of the pointer for an LFS file, of the bytes for any other."""
        if self.listed_oid is not None:
            return self.listed_oid
        if self.is_lfs:
            return BytesContent(self.pointer).git_sha1()
        return self.content.git_sha1()

    @cached_property
    def etag(self) -> str:
        """What the Hub gives as this file's etag: sha256 for LFS, git blob id otherwise."""
        return self.content.sha256() if self.is_lfs else self.content.git_sha1()

    @property
    def is_here(self) -> bool:
        """Whether its bytes are here, and not only known of."""
        return not isinstance(self.content, AbsentContent)


@dataclass(frozen=True)
class DirEntry:
    """A directory at one path of one commit."""

    path: str
    git_oid: str


Entry = FileEntry | DirEntry
FileSource = bytes | str | PathLike[str] | Content | FileEntry


class Tree:
    """The files of one commit, and the directories they imply.

    Args:
        files: Every file; no path may be given twice, or be both a file and a directory.
    """

    def __init__(self, files: Iterable[FileEntry]) -> None:
        self.files = {entry.path: entry for entry in files}
        self._children: dict[str, set[str]] = {"": set()}
        for path in self.files:
            self._register(path)
        clash = self.files.keys() & self._children.keys()
        if clash:
            raise ValueError(f"both a file and a directory: {sorted(clash)}")
        self._listings: dict[tuple[str, bool], list[Entry]] = {}

    def _register(self, path: str) -> None:
        while path:
            parent = path.rpartition("/")[0]
            known = parent in self._children
            self._children.setdefault(parent, set()).add(path)
            if known:
                return
            path = parent

    @cached_property
    def dirs(self) -> dict[str, DirEntry]:
        """Every directory by path, the root as ``""``. The first use hashes what is not known."""
        found: dict[str, DirEntry] = {}
        for path in sorted(self._children, key=lambda p: p.count("/") + bool(p), reverse=True):
            rows = (self._row(child, found) for child in self._children[path])
            found[path] = DirEntry(path, tree_id(rows))
        return found

    def _row(self, path: str, dirs: Mapping[str, DirEntry]) -> tuple[str, str, bool]:
        is_dir = path in self._children
        oid = dirs[path].git_oid if is_dir else self.files[path].git_oid
        return path.rpartition("/")[2], oid, is_dir

    @property
    def oid(self) -> str:
        """The git id of the root directory."""
        return self.dirs[""].git_oid

    def get(self, path: str) -> Entry | None:
        """The file or directory at ``path``, or ``None``."""
        return self.files.get(path) or (self.dirs.get(path) if path else None)

    def is_dir(self, path: str) -> bool:
        """Whether ``path`` is a directory; the root always is."""
        return path in self._children

    def listing(self, path: str = "", *, recursive: bool = False) -> list[Entry]:
        """What is in a directory: directories first, each group by path."""
        key = (path, recursive)
        if key not in self._listings:
            found = list(self._walk(path, recursive=recursive))
            found.sort(key=_listing_key)
            self._listings[key] = found
        return self._listings[key]

    def _walk(self, path: str, *, recursive: bool) -> Iterator[Entry]:
        pending = [path]
        while pending:
            for child in self._children[pending.pop()]:
                if child not in self._children:
                    yield self.files[child]
                    continue
                yield self.dirs[child]
                if recursive:
                    pending.append(child)

    def page(
        self, path: str, *, recursive: bool, after: tuple[int, str] | None, limit: int
    ) -> tuple[list[Entry], tuple[int, str] | None]:
        """One page of a listing, and the place to go on from (``None`` on the last page)."""
        rows = self.listing(path, recursive=recursive)
        start = 0 if after is None else bisect_right(rows, after, key=_listing_key)
        chosen = rows[start : start + limit]
        more = start + limit < len(rows)
        return chosen, _listing_key(chosen[-1]) if chosen and more else None


def _listing_key(entry: Entry) -> tuple[int, str]:
    return (1 if isinstance(entry, FileEntry) else 0, entry.path)


@dataclass(frozen=True)
class Commit:
    """One state of a repository.

    Attributes:
        id: 40 hex digits.
        tree: Its files.
        message: First line, and perhaps more.
        author: A user name.
        when: Seconds since 1970.
        parent: The commit before it, or ``None``.
        listing: Whether ``tree`` is known to have all files.
    """

    id: str
    tree: Tree
    message: str
    author: str
    when: int
    parent: Commit | None = field(default=None, repr=False)
    listing: ListingKind = "whole"

    @property
    def title(self) -> str:
        """The first line of the message."""
        return self.message.partition("\n")[0]

    @property
    def date(self) -> str:
        """When it was made, as the Hub writes it."""
        stamp = datetime.fromtimestamp(self.when, tz=timezone.utc)
        return stamp.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    @cached_property
    def long_id(self) -> str:
        """64 hex digits, for hubs that name commits so."""
        return hashlib.sha256(self.id.encode("ascii")).hexdigest()

    @cached_property
    def is_settled(self) -> bool:
        """Whether nothing more of it can turn up: its files are known, and all are here."""
        return self.listing == "whole" and all(entry.is_here for entry in self.tree.files.values())

    @cached_property
    def last_change(self) -> dict[str, Commit]:
        """For each path, files and directories, the commit that last changed it."""
        return dict(_last_changes(self))

    def history(self) -> list[Commit]:
        """This commit and those before it, newest first."""
        found: list[Commit] = []
        commit: Commit | None = self
        while commit is not None:
            found.append(commit)
            commit = commit.parent
        return found


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
        """Bring the repository up to date with where it comes from; here it always is."""

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
        """The LFS content with this digest, in any commit."""
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

    @staticmethod
    def from_cache(
        cache_dir: str | PathLike[str], *, digests: DigestCache | None = None, complete: bool = False
    ) -> list[Repo]:
        """The repositories of a Hub cache, with their real commit ids; they follow what it gets.

        Args:
            cache_dir: The folder with ``models--org--name`` in it.
            digests: Where digests are kept, for caches without links.
            complete: Whether commits whose listing was not kept are known to be all there.
        """
        from hf_haul.localhub.sources import find_repos  # it needs this module

        return find_repos(Path(cache_dir), digests=digests, complete=complete)

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
        """A repository with one commit that holds a folder.

        Left out are ``.git``, unfinished downloads, links that lead out of the folder, and names that begin with
        a dot, but for those that git uses.

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
        from hf_haul.localhub.sources import scan_folder  # it needs this module

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
    """``refs/heads/<name>``, unless it is a full ref already."""
    return name if name.startswith("refs/") else f"refs/heads/{name}"


def _last_changes(commit: Commit) -> Iterator[tuple[str, Commit]]:
    before = commit.parent
    for entry in commit.tree.listing(recursive=True):
        old = None if before is None else before.tree.get(entry.path)
        same = before is not None and old is not None and old.git_oid == entry.git_oid
        if same and before is not None:
            yield entry.path, before.last_change[entry.path]
        else:
            yield entry.path, commit
