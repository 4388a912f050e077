"""What a commit holds: files, directories and the tree that they make."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Final, Literal

from hf_haul.localhub.objects import AbsentContent, BytesContent, Content, lfs_pointer, tree_id

__all__ = [
    "REPO_TYPES",
    "Commit",
    "DirEntry",
    "Entry",
    "FileEntry",
    "ListingKind",
    "Tree",
    "default_lfs_rule",
]

#: Singular names of the repository types, and their plural in URLs.
REPO_TYPES: Final[Mapping[str, str]] = {
    "model": "models",
    "dataset": "datasets",
    "space": "spaces",
    "kernel": "kernels",
}


#: Where the list of a commit's files comes from: it is the whole list; all that is here, and somebody vouches
#: that there is no more; or all that is here, and nobody knows whether there is more.
ListingKind = Literal["whole", "vouched", "unknown"]


_LFS_FROM: Final = 10 * 1024 * 1024  # bytes; the Hub refuses larger files in plain git
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
    """Return whether the Hub would keep this file in LFS: weights, archives and anything large."""
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
        """The etag that the Hub gives this file: sha256 for LFS, git blob id otherwise."""
        return self.content.sha256() if self.is_lfs else self.content.git_sha1()

    @property
    def is_here(self) -> bool:
        """Whether its bytes are here, and not only listed."""
        return not isinstance(self.content, AbsentContent)


@dataclass(frozen=True)
class DirEntry:
    """A directory at one path of one commit."""

    path: str
    git_oid: str


Entry = FileEntry | DirEntry


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
        """Return the file or directory at ``path``, or ``None``."""
        return self.files.get(path) or (self.dirs.get(path) if path else None)

    def is_dir(self, path: str) -> bool:
        """Return whether ``path`` is a directory; the root always is."""
        return path in self._children

    def listing(self, path: str = "", *, recursive: bool = False) -> list[Entry]:
        """Return the entries of a directory: directories first, each group by path."""
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
        """Return one page of a listing, and the position after it (``None`` on the last page)."""
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
        """The time of the commit, as the Hub writes it."""
        stamp = datetime.fromtimestamp(self.when, tz=timezone.utc)
        return stamp.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    @cached_property
    def long_id(self) -> str:
        """64 hex digits, for hubs that name commits so."""
        return hashlib.sha256(self.id.encode("ascii")).hexdigest()

    @cached_property
    def is_settled(self) -> bool:
        """Whether all files of the commit are known and here, so that nothing can be added."""
        return self.listing == "whole" and all(entry.is_here for entry in self.tree.files.values())

    @cached_property
    def last_change(self) -> dict[str, Commit]:
        """For each path, files and directories, the commit that last changed it."""
        return dict(_last_changes(self))

    def history(self) -> list[Commit]:
        """Return this commit and those before it, newest first."""
        found: list[Commit] = []
        commit: Commit | None = self
        while commit is not None:
            found.append(commit)
            commit = commit.parent
        return found


def _last_changes(commit: Commit) -> Iterator[tuple[str, Commit]]:
    before = commit.parent
    for entry in commit.tree.listing(recursive=True):
        old = None if before is None else before.tree.get(entry.path)
        same = before is not None and old is not None and old.git_oid == entry.git_oid
        if same and before is not None:
            yield entry.path, before.last_change[entry.path]
        else:
            yield entry.path, commit
