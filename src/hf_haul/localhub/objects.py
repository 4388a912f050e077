"""Object ids as git and git-lfs compute them, and a cache so that no file is hashed twice."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from hf_haul.localhub.confinement import Confinement, open_regular

__all__ = [
    "DIGESTS",
    "AbsentContent",
    "BytesContent",
    "Content",
    "DigestCache",
    "FileContent",
    "blob_id",
    "commit_id",
    "lfs_pointer",
    "tree_id",
]

logger = logging.getLogger(__name__)

_READ_SIZE: Final = 1 << 20


class Content(ABC):
    """Bytes that can be served: their size, any part of them, and their two digests."""

    size: int
    path: Path | None = None

    @abstractmethod
    def read(self, offset: int, nbytes: int) -> bytes:
        """Return up to ``nbytes`` bytes from ``offset``; fewer only at the end."""

    @abstractmethod
    def sha256(self) -> str:
        """Return the sha256 of the bytes, as git-lfs names them."""

    @abstractmethod
    def git_sha1(self) -> str:
        """Return the git blob id of the bytes."""


class BytesContent(Content):
    """Content held in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return up to ``nbytes`` bytes from ``offset``."""
        return self.data[offset : offset + nbytes]

    def sha256(self) -> str:
        """Return the sha256 of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def git_sha1(self) -> str:
        """Return the git blob id of the bytes."""
        return blob_id(self.data)


class AbsentContent(Content):
    """Content that is listed, but whose bytes are not here.

    Args:
        size: Its size in bytes.
        sha256: Its sha256, for an LFS file.
        git_sha1: Its git blob id, for any other file.
    """

    def __init__(self, size: int, *, sha256: str | None = None, git_sha1: str = "") -> None:
        self.size = size
        self._sha256 = sha256 or ""
        self._git_sha1 = git_sha1

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return nothing: there are no bytes.

        Raises:
            FileNotFoundError: Always.
        """
        raise FileNotFoundError(errno.ENOENT, f"bytes {offset} to {offset + nbytes} are not here")

    def sha256(self) -> str:
        """Return the sha256 it was listed with."""
        return self._sha256

    def git_sha1(self) -> str:
        """Return the git blob id it was listed with."""
        return self._git_sha1


class FileContent(Content):
    """A file on disk; its digests are computed when first asked for, unless they are given.

    Args:
        path: The file. Its size is taken now: a file that changes later is served as an error,
            not as wrong bytes.
        sha256: Its sha256, if known; it is trusted.
        git_sha1: Its git blob id, if known; it is trusted.
        digests: Where computed digests are kept.
        confinement: Where it must lie, all links followed, whenever it is opened; anywhere if ``None``.
    """

    path: Path

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sha256: str | None = None,
        git_sha1: str | None = None,
        digests: DigestCache | None = None,
        confinement: Confinement | None = None,
    ) -> None:
        self.path = Path(path)
        self._confinement = confinement
        stat = self.path.stat()
        self.size = stat.st_size
        self.mtime_ns = stat.st_mtime_ns
        self._sha256 = sha256
        self._git_sha1 = git_sha1
        self._digests = digests if digests is not None else DIGESTS

    def open(self) -> BinaryIO:
        """Open the file for reading.

        Raises:
            OSError: It is gone, is no file any more, or leads to where it must not lie.
        """
        return open_regular(self.path, self._confinement)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return up to ``nbytes`` bytes from ``offset``."""
        with self.open() as file:
            file.seek(offset)
            return file.read(nbytes)

    def sha256(self) -> str:
        """Return the sha256 of the file."""
        if self._sha256 is None:
            self._sha256 = self._digests.get(self, "sha256")
        return self._sha256

    def git_sha1(self) -> str:
        """Return the git blob id of the file."""
        if self._git_sha1 is None:
            self._git_sha1 = self._digests.get(self, "git_sha1")
        return self._git_sha1


class DigestCache:
    """Digests of files by (path, size, modification time), in memory and optionally on disk.

    Safe for threads: ``_lock`` guards the table, and is not held while a file is hashed.

    Args:
        file: A JSON file to start from and to write to; a missing or broken one is an empty one.
    """

    def __init__(self, file: str | os.PathLike[str] | None = None) -> None:
        self._file = None if file is None else Path(file)
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        if self._file is not None:
            try:
                loaded = json.loads(self._file.read_text("utf-8"))
            except (OSError, ValueError):
                loaded = {}
            if isinstance(loaded, dict):
                self._known = {str(key): str(value) for key, value in loaded.items()}

    def get(self, content: FileContent, algorithm: str) -> str:
        """Return the digest of a file, hashing it unless it is known.

        Args:
            content: The file.
            algorithm: ``"sha256"`` or ``"git_sha1"``.
        """
        key = f"{algorithm}:{content.size}:{content.mtime_ns}:{content.path.resolve()}"
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = _hash_file(content, algorithm)
            with self._lock:
                self._known[key] = known
        return known

    def save(self) -> None:
        """Write the table to its file, if it has one, by rename; warn once if that fails."""
        if self._file is None:
            return
        with self._lock:
            text = json.dumps(self._known, indent=0, sort_keys=True)
        staged = self._file.with_name(f"{self._file.name}.{os.getpid()}.tmp")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            staged.write_text(text, "utf-8")
            staged.replace(self._file)
        except OSError as error:
            logger.warning(
                "digests are not kept for the next start, %s cannot be written: %s", self._file, error
            )
            with contextlib.suppress(OSError):
                staged.unlink()
            self._file = None


def _hash_file(content: FileContent, algorithm: str) -> str:
    if algorithm == "sha256":
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % content.size, usedforsecurity=False)
    with content.open() as file:
        while data := file.read(_READ_SIZE):
            digest.update(data)
    return digest.hexdigest()


#: Shared by every hub in the process, so that several hubs over one folder hash it once.
DIGESTS: Final = DigestCache()


def _git_id(kind: bytes, data: bytes) -> str:
    header = b"%s %d\0" % (kind, len(data))
    return hashlib.sha1(header + data, usedforsecurity=False).hexdigest()


def blob_id(data: bytes) -> str:
    """Return the git id of a blob with this content."""
    return _git_id(b"blob", data)


@dataclass(frozen=True, slots=True)
class _Node:
    name: bytes
    oid: str
    is_dir: bool

    @property
    def sort_key(self) -> bytes:
        # git sorts a directory as if its name ended with a slash.
        return self.name + b"/" if self.is_dir else self.name


def tree_id(children: Iterable[tuple[str, str, bool]]) -> str:
    """Return the git id of a directory.

    Args:
        children: Name, git id and "is a directory" of each entry, in any order.
    """
    nodes = [_Node(os.fsencode(name), oid, is_dir) for name, oid, is_dir in children]
    nodes.sort(key=lambda node: node.sort_key)
    return _git_id(b"tree", b"".join(_tree_lines(nodes)))


def _tree_lines(nodes: Iterable[_Node]) -> Iterator[bytes]:
    for node in nodes:
        mode = b"40000" if node.is_dir else b"100644"
        yield mode + b" " + node.name + b"\0" + _oid_bytes(node.oid)


def _oid_bytes(oid: str) -> bytes:
    try:
        return bytes.fromhex(oid)
    except ValueError:  # a mirror's own idea of an object id
        return hashlib.sha1(oid.encode("utf-8", "surrogateescape"), usedforsecurity=False).digest()


def commit_id(tree: str, parents: Iterable[str], message: str, author: str, when: int) -> str:
    """Return the git id of a commit, so that the same content always has the same history.

    Args:
        tree: Git id of its root directory.
        parents: Git ids of its parents.
        message: The whole message.
        author: A user name; the address is made up.
        when: Seconds since 1970.
    """
    who = f"{author} <{author}@users.noreply.localhub> {when} +0000"
    lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
    lines += [f"author {who}", f"committer {who}", "", message]
    return _git_id(b"commit", ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the text that git holds in place of an LFS file."""
    return (f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n").encode("ascii")


#: A function that tells whether a file (its path in the repository and its size) goes to LFS.
LfsRule = Callable[[str, int], bool]
