"""What callers say of files, made into values and checked: digests, URLs, paths, sizes."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from hf_haul.digests import Digest
from hf_haul.errors import InvalidUrlError
from hf_haul.urls import parse_url

__all__ = [
    "FileSpec",
    "as_digest",
    "digest_of",
    "joined_to",
    "require_http",
    "require_no_nesting",
    "require_size",
    "require_writable",
]


class FileSpec(Protocol):
    """What a file of a queue must say; huggingface_hub's ``RepoFile`` does.

    Optional attributes: ``digest`` (a :class:`~hf_haul.task.Digest`, or hex digits), ``sha256``,
    ``lfs.sha256``, ``blob_id`` (a git sha1), ``etag``, ``url`` (where the queue's ``source_url`` does not
    lead), ``priority``.
    """

    @property
    def path(self) -> str:
        """Name of the file, ``/`` between folders."""

    @property
    def size(self) -> int | None:
        """Bytes; ``None`` if unknown."""


def as_digest(value: Digest | str | None) -> Digest | None:
    """Return a digest as it is, and hex digits as the digest that their number means.

    Raises:
        ValueError: They are none.
    """
    if value is None or isinstance(value, Digest):
        return value
    text = value.lower().removeprefix("sha256:")
    return Digest("git-sha1" if len(text) == 40 else "sha256", text)


def digest_of(spec: FileSpec) -> Digest | None:
    """Return the digest of a file from where listings put it; ``None`` if none is named."""
    lfs = getattr(spec, "lfs", None)
    for value in (getattr(spec, "digest", None), getattr(spec, "sha256", None), getattr(lfs, "sha256", None)):
        if value is not None:
            return as_digest(value)
    # The git object of an LFS file is its pointer, not its bytes.
    return as_digest(getattr(spec, "blob_id", None)) if lfs is None else None


def require_http(path: str, url: str) -> None:
    """Refuse a URL that no connection can be made to.

    Raises:
        InvalidUrlError: ``url`` is not of http or https, or has no host on which everybody agrees.
    """
    try:
        parse_url(url, userinfo=True)
    except InvalidUrlError as error:
        raise InvalidUrlError(f"{path!r}: {error}") from None


def require_size(path: str, size: object) -> None:
    """Refuse a size that is no number of bytes.

    Raises:
        ValueError: It is neither ``None`` nor an integer of 0 or more.
    """
    if size is not None and (not isinstance(size, int) or size < 0):
        raise ValueError(f"{path!r}: size must be a number of bytes, or None if unknown, not {size!r}")


def joined_to(base: str) -> Callable[[str], str]:
    """Return a function that makes a file's URL of its path, which goes before the query of ``base``."""
    require_http("source_url", base)
    head, _, query = base.partition("#")[0].partition("?")
    head, tail = head.rstrip("/"), f"?{query}" if query else ""
    return lambda path: f"{head}/{quote(path)}{tail}"


def require_no_nesting(paths: Sequence[str]) -> None:
    """Refuse a file whose path is also the folder of another file.

    Raises:
        ValueError: One is; the message names it.
    """
    names = {posixpath.normpath(path) for path in paths}
    for name in names:
        end = name.find("/")
        while end > 0:
            if name[:end] in names:
                raise ValueError(f"{name[:end]!r} cannot be a file and the folder of {name!r}")
            end = name.find("/", end + 1)


def require_writable(folder: Path) -> None:
    """Raise now the error that writing to a destination would raise in a worker.

    Raises:
        OSError: The folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to {folder}")
