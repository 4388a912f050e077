"""Where files can go: a Hub cache, a ``local_dir``, any path, or a path that huggingface_hub chose."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hf_haul.digests import Digest, file_digest
from hf_haul.storage.file_names import STAGED_SUFFIX, cut_name, fit_key, name_length, name_limit
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder, short_name
from hf_haul.storage.placing import Folders, follow_link, replace_file, take_over_mode
from hf_haul.storage.safe_paths import (
    NAME_LIMIT,
    extended_path,
    is_content_addressed,
    require_safe_name,
    require_safe_path,
)

__all__ = ["BlobDestination", "FileDestination", "LocalDirDestination", "UpstreamDestination"]

#: Bytes of a version in a staging key: a dot and hex digits.
_VERSION: Final = 17
#: A name that every file system takes.
_SHORT_NAME: Final = 143


def _others(keys: tuple[str, ...], current: str) -> tuple[str, ...]:
    return tuple(key for key in keys if key != current)


@dataclass(frozen=True, slots=True)
class BlobDestination:
    """One file of a snapshot in a Hub cache.

    Attributes:
        folder: The repository's folder.
        commit: The snapshot's commit.
        name: The file's path in the repository.
        etag: Name of its blob.
        size: Bytes, where known.
        xet_hash: The file's Xet hash, where it has one: the key of the shared store.
    """

    folder: RepoFolder
    commit: str
    name: str
    etag: str
    size: int | None = None
    xet_hash: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that lead elsewhere; the paths are made anew each time, as a million wait at once."""
        require_safe_name(self.etag, what="etag")
        require_safe_path(self.name)
        self.folder.snapshot(self.commit)

    @property
    def _blob(self) -> str:
        return f"{self.folder.blobs}{os.sep}{self.etag}"

    @property
    def _pointer(self) -> str:
        if os.sep == "/" and "//" not in self.name:  # it was checked, and is the path as it stands
            return f"{self.folder.snapshot(self.commit)}/{self.name}"
        return self.folder.pointer(self.commit, self.name)

    def __fspath__(self) -> str:
        """Return the pointer in the snapshot."""
        return self._pointer

    @property
    def path(self) -> Path:
        """The pointer in the snapshot."""
        return Path(self._pointer)

    @property
    def staging_dir(self) -> Path:
        """The repository's blobs, where ``hf cache prune`` looks for leftovers."""
        return self.folder.staging_dir

    @property
    def staging_key(self) -> str:
        """The etag."""
        return fit_key(self.etag, self.folder.blobs)

    @property
    def former_keys(self) -> tuple[str, ...]:
        """The etag, where it is too long for a key."""
        return _others((self.etag,), self.staging_key)

    def replaces(self, key: str) -> bool:
        """Return ``False``: another version has another blob."""
        del key
        return False

    @property
    def upstream_lock(self) -> Path:
        """One per blob, beside all repositories."""
        folder = self.folder
        return Path(folder.cache_dir, ".locks", os.path.basename(folder.root), f"{self.etag}.lock")

    def is_linked(self, check: Callable[[], None] | None = None) -> bool:
        """Return whether the pointer leads to a file of the right size; changes nothing.

        A commit that is only the name of a branch may have moved on since: then it has to be this very blob.
        """
        return self._fits(self._pointer) and (is_content_addressed(self.commit) or self._is_ours(check))

    def has_blob(self) -> bool:
        """Return whether the bytes are there, linked or not, as far as their size tells."""
        return self._fits(self._blob)

    def found(self) -> str | None:
        """Return where the bytes are, in the snapshot or as a blob, as far as their size tells."""
        if self.is_linked():
            return self._pointer
        return self._blob if self.has_blob() else None

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Return whether the pointer leads to the file; links a blob that is there already.

        One of another size than was announced is hashed: a disk, or a program, may have cut it, and a server
        may have been wrong.
        """
        if self.is_linked(check):
            return True
        if os.path.exists(self._blob):
            there = self.has_blob() or self._hashes_right(self._blob, check)
        else:
            there = self._shared()
        if there:
            self.folder.link(self._blob, self._pointer, over=self._replaces)
        return there

    def publish(self, staged: Path) -> None:
        """Move the staged file to its blob and link it."""
        self.folder.publish(os.fspath(staged), self._blob, self._pointer, over=lambda: self._replaces)

    @property
    def _replaces(self) -> bool:
        """Whether an existing pointer may lead to other bytes."""
        return not (is_content_addressed(self.commit) and self._fits(self._pointer))

    def _fits(self, path: str) -> bool:
        """Return whether there is a file of the right size, or of any size where that is unknown."""
        try:
            size = os.stat(path).st_size
        except OSError:
            return False
        return self.size is None or size == self.size

    def _hashes_right(self, path: str, check: Callable[[], None] | None) -> bool:
        algorithm = {40: "git-sha1", 64: "sha256"}.get(len(self.etag))
        return algorithm is not None and file_digest(path, algorithm, check).value == self.etag

    def _is_ours(self, check: Callable[[], None] | None) -> bool:
        if os.path.islink(self._pointer):
            return os.path.realpath(self._pointer) == os.path.realpath(self._blob)
        return self._hashes_right(self._pointer, check)  # a cache without symlinks: only the bytes can tell

    def _shared(self) -> bool:
        share = self.folder.share
        if share is None or self.xet_hash is None:
            return False
        os.makedirs(self.folder.blobs, exist_ok=True)
        return share(self._blob, self.xet_hash, self.size)


@dataclass(frozen=True, slots=True)
class LocalDirDestination:
    """One file of a ``local_dir``.

    Attributes:
        folder: The ``local_dir``.
        name: The file's path in the repository.
        commit: The commit it is downloaded at.
        etag: The version of its content.
    """

    folder: LocalFolder
    name: str
    commit: str
    etag: str
    _path: str = field(init=False, repr=False)
    _metadata_path: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_safe_name(self.etag, what="etag")
        object.__setattr__(self, "_path", self.folder.file(self.name))
        object.__setattr__(self, "_metadata_path", self.folder.metadata_path(self.name))

    def __fspath__(self) -> str:
        """Return the file in the ``local_dir``."""
        return self._path

    @property
    def path(self) -> Path:
        """The file in the ``local_dir``."""
        return Path(self._path)

    @property
    def staging_dir(self) -> Path:
        """Next to the file's metadata, where huggingface_hub stages too."""
        return Path(os.path.dirname(self._metadata_path))

    @property
    def staging_key(self) -> str:
        """A hash of the file's name, and its etag."""
        return fit_key(self._key_of_upstream, os.path.dirname(self._metadata_path))

    @property
    def former_keys(self) -> tuple[str, ...]:
        """The same with all of the etag, where that is too long."""
        return _others((self._key_of_upstream,), self.staging_key)

    def replaces(self, key: str) -> bool:
        """Return whether the key begins with the same hash."""
        return key.startswith(f"{self._short_name}.")

    @property
    def upstream_lock(self) -> Path:
        """One per file, beside its metadata."""
        return Path(self._metadata_path).with_suffix(".lock")

    @property
    def _key_of_upstream(self) -> str:
        return f"{self._short_name}.{self.etag}"

    @property
    def _short_name(self) -> str:
        return short_name(os.path.basename(self._metadata_path))

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Return whether the file is there with this etag; its metadata then say so of this commit too."""
        del check  # nothing here takes long
        metadata = self.folder.read_metadata(self.name)
        if metadata is None or metadata.etag != self.etag:
            return False
        if metadata.commit != self.commit:
            self.folder.write_metadata(self.name, self.commit, self.etag)
        return True

    def publish(self, staged: Path) -> None:
        """Move the staged file into place and write its metadata."""
        self.folder.publish(os.fspath(staged), self.name)
        self.folder.write_metadata(self.name, self.commit, self.etag)


@dataclass(frozen=True, slots=True)
class FileDestination:
    """Any file on disk, staged next to its final place.

    As ``cp`` would, it follows a link to its target, and a file that is replaced keeps its permissions.

    Attributes:
        file: The final place.
        version: What tells this content from another one for the same place: a URL, an etag.
        digest: What a file in place must hash to, to count as present.
        size: What it must measure in bytes, where no digest is known.
        former_versions: What earlier versions of hf-haul called this content.
    """

    file: Path
    version: str = field(default="", repr=False)  # it may be a URL, and signed
    digest: Digest | None = None
    size: int | None = None
    former_versions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", follow_link(self.file))

    def __fspath__(self) -> str:
        """Return the final place."""
        return os.fspath(self.file)

    @property
    def path(self) -> Path:
        """The final place."""
        return self.file

    @property
    def staging_dir(self) -> Path:
        """The folder of the final place."""
        return self.file.parent

    @property
    def staging_key(self) -> str:
        """The file's name and a hash of its version."""
        return f"{self._kept_name}.{self._hashed(self.version)}"

    @property
    def former_keys(self) -> tuple[str, ...]:
        """Keys with an uncut name, and those of former versions, which hashed a URL with its signature."""
        names = dict.fromkeys((self._kept_name, self.file.name[: NAME_LIMIT - 60]))
        versions = (self.version, *self.former_versions)
        keys = tuple(f"{name}.{self._hashed(version)}" for name in names for version in versions)
        return _others(keys, self.staging_key)

    def replaces(self, key: str) -> bool:
        """Return whether the key has the same name, uncut, and any version."""
        name, _, version = key.rpartition(".")
        return name == self.file.name == self._kept_name and re.fullmatch("[0-9a-f]{16}", version) is not None

    @property
    def upstream_lock(self) -> None:
        """None: huggingface_hub knows nothing of it."""
        return

    def _hashed(self, version: str) -> str:
        content = f"{self.file.name}\0{version}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).hexdigest()[: _VERSION - 1]

    @property
    def _kept_name(self) -> str:
        """As much of the file's name as is part of its key."""
        name = self.file.name[: NAME_LIMIT - 60]
        if name_length(name) + _VERSION + STAGED_SUFFIX <= _SHORT_NAME:
            return name
        return cut_name(name, name_limit(os.fspath(self.file.parent)) - _VERSION - STAGED_SUFFIX)

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Return whether a file with the right digest, or else the right size, is there."""
        try:
            size = os.stat(self.file).st_size
        except OSError:
            return False
        if self.size is not None and size != self.size:
            return False
        if self.digest is not None:
            return file_digest(self.file, self.digest.algorithm, check) == self.digest
        return self.size is not None

    def publish(self, staged: Path) -> None:
        """Move the staged file into place, with the permissions of the file it replaces, or of a new one."""
        if not take_over_mode(staged, self.file):
            Folders().apply_mode(os.fspath(staged), os.fspath(staged.parent))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(os.fspath(staged), extended_path(os.fspath(self.file)))


@dataclass(frozen=True, slots=True)
class UpstreamDestination:
    """A file that huggingface_hub links and describes itself: only its bytes are ours to bring.

    Attributes:
        file: The final place.
        staged: Where it would be staged by its owner, as ``<key>.incomplete``.
    """

    file: Path
    staged: Path

    def __fspath__(self) -> str:
        """Return the final place."""
        return os.fspath(self.file)

    @property
    def path(self) -> Path:
        """The final place."""
        return self.file

    @property
    def staging_dir(self) -> Path:
        """The owner's folder for staged files."""
        return self.staged.parent

    @property
    def staging_key(self) -> str:
        """The owner's name for the staged file; for huggingface_hub the same as ours for the same file."""
        return fit_key(self._key_of_upstream, self.staged.parent)

    @property
    def former_keys(self) -> tuple[str, ...]:
        """The owner's name, where it is too long for a key."""
        return _others((self._key_of_upstream,), self.staging_key)

    def replaces(self, key: str) -> bool:
        """Return ``False``: what is staged beside it is the owner's business."""
        del key
        return False

    @property
    def upstream_lock(self) -> None:
        """None: the owner holds it."""
        return

    @property
    def _key_of_upstream(self) -> str:
        return self.staged.name.removesuffix(".incomplete")

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Return whether there is a file."""
        del check  # nothing here takes long
        return self.file.exists()

    def publish(self, staged: Path) -> None:
        """Move the staged file into place, with the permissions of a new file."""
        Folders().apply_mode(os.fspath(staged), os.fspath(staged.parent))
        replace_file(os.fspath(staged), os.fspath(self.file))
