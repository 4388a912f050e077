"""What is known of a revision and of a file: commit, size, and the etag, which is mostly the digest."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from hf_haul.digests import Digest

__all__ = [
    "LARGEST",
    "FileMetadata",
    "ListedFile",
    "RevisionInfo",
    "credible_size",
    "digest_from_etag",
    "file_names",
    "is_commit",
    "metadata_from_listing",
]

#: Bytes of the largest file that there can be.
LARGEST: Final = (1 << 63) - 1
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_HEX: Final = frozenset("0123456789abcdef")
_XET_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")


def file_names(info: Any) -> frozenset[str]:
    """Return the names of files in a repository's info; huggingface_hub leaves those of a kernel unparsed."""
    found = getattr(info, "siblings", None) or ()
    names = (each.get("rfilename") if isinstance(each, dict) else each.rfilename for each in found)
    return frozenset(name for name in names if isinstance(name, str))


def is_commit(revision: str) -> bool:
    """Return whether a revision is a full commit id, whose meaning never changes."""
    return _COMMIT.fullmatch(revision) is not None


def digest_from_etag(etag: str) -> Digest | None:
    """Return the digest in a Hub file's etag: sha256 for LFS and Xet files, git's object id for others.

    Returns:
        ``None`` where the etag is neither, as behind some mirrors.
    """
    if set(etag) <= _HEX and len(etag) in (40, 64):
        return Digest("sha256" if len(etag) == 64 else "git-sha1", etag)
    return None


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a listing, as the Hub sent it.

    Attributes:
        size: Bytes; of the pointer file, where ``lfs_size`` is given and differs.
        blob_id: Git's object id (of the pointer, for LFS files).
        lfs_sha256: sha256 of an LFS or Xet file.
        lfs_size: Its size in bytes.
        xet_hash: Its Xet hash.
    """

    size: int
    blob_id: str
    lfs_sha256: str | None = None
    lfs_size: int | None = None
    xet_hash: str | None = None

    @property
    def bytes(self) -> int:
        """Size of the content in bytes."""
        return self.size if self.lfs_size is None else self.lfs_size

    @property
    def digest(self) -> Digest | None:
        """The digest of the content, whose value is also the etag; ``None`` if the listing does not tell.

        A gated repository's listing may be redacted, and a mirror's may hold other ids.
        """
        if self.lfs_sha256 is not None:
            digest = digest_from_etag(self.lfs_sha256)
            return digest if digest is not None and digest.algorithm == "sha256" else None
        if self.xet_hash is not None:
            return None
        digest = digest_from_etag(self.blob_id)
        return digest if digest is not None and digest.algorithm == "git-sha1" else None

    @property
    def valid_xet_hash(self) -> str | None:
        """The Xet hash, unless redacted."""
        return self.xet_hash if self.xet_hash and _XET_HASH.fullmatch(self.xet_hash) else None


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """The Hub's answer about a revision.

    Attributes:
        commit: The commit that it points to.
        files: Names of files that the commit has; not all of them, where a Hub leaves some out.
    """

    commit: str
    files: frozenset[str]


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What is known of one file at one commit.

    Attributes:
        commit: The commit.
        etag: The version of the content; the name of its blob in the cache.
        size: Bytes, or ``None`` if the server did not say.
        xet_hash: The Xet hash, where there is one.
        location: Where a download would be redirected to, if asked just now.
        listed: Whether the etag is the digest that a listing tells, and not one of an answer's headers.
    """

    commit: str
    etag: str
    size: int | None
    xet_hash: str | None = None
    location: str | None = field(default=None, repr=False)  # it may be signed
    listed: bool = field(default=False, compare=False)


def metadata_from_listing(commit: str, entry: ListedFile) -> FileMetadata | None:
    """Return a file's metadata as a HEAD would; ``None`` if the listing lacks them."""
    digest = entry.digest
    if digest is None:
        return None
    size = credible_size(entry.bytes, digest.value)
    return FileMetadata(
        commit=commit, etag=digest.value, size=size, xet_hash=entry.valid_xet_hash, listed=True
    )


def credible_size(size: int | None, etag: str) -> int | None:
    """Return the announced size; ``None`` if it cannot be the file's, and the download has to find out."""
    if size is None or not 0 <= size <= LARGEST:
        return None
    digest = digest_from_etag(etag) if size == 0 else None
    # Some say 0 for "unknown".
    return None if digest is not None and not digest.is_of_nothing else size
