"""What callers say of files, made into values and checked: digests, URLs, paths, sizes."""

from __future__ import annotations

import os
import posixpath
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from hf_haul.digests import Digest, read_digest
from hf_haul.errors import InvalidUrlError
from hf_haul.task import DownloadPriority
from hf_haul.urls import parse_url

__all__ = [
    "AnyFileSpec",
    "FileSpec",
    "FileSpecLike",
    "as_digest",
    "as_specs",
    "joined_to",
    "require_http",
    "require_no_nesting",
    "require_size",
    "require_writable",
]


#: Stands for an attribute that is not there.
_MISSING: Final = object()


class FileSpecLike(Protocol):
    """The least that a file of a queue must say; huggingface_hub's ``RepoFile`` does.

    Of further attributes those count that :class:`FileSpec` has, and ``sha256``, ``lfs.sha256`` and
    ``blob_id`` (a git sha1).
    """

    @property
    def path(self) -> str:
        """Name of the file, ``/`` between folders."""

    @property
    def size(self) -> int | None:
        """Bytes; ``None`` if unknown."""


@dataclass(frozen=True, slots=True)
class FileSpec:
    """One file of a queue.

    Where one is asked for, anything with ``path`` and ``size`` will do, such as huggingface_hub's
    ``RepoFile``; and so will a path alone, or a dict with these names.

    Attributes:
        path: Name of the file, ``/`` between folders.
        size: Bytes; ``None`` to ask the source.
        digest: What the bytes must hash to: a :class:`~hf_haul.task.Digest`, its hex digits (40 for git's
            sha1, 64 for sha256), or ``sha1:`` or ``md5:`` and hex digits.
        etag: The source's version of the file; another one in an answer means that the file changed.
        url: Where the file is, if the queue's ``source_url`` does not lead there.
        priority: Its urgency within its queue; ``None`` lets the policy decide.
        sources: Other URLs of the file, whose bytes are taken, too, if its size and digest are known.
    """

    path: str
    size: int | None = None
    digest: Digest | str | None = None
    etag: str | None = None
    url: str | None = field(default=None, repr=False)  # it may be signed
    priority: DownloadPriority | None = None
    sources: Sequence[str] = ()


#: What may stand for a file of a queue.
AnyFileSpec = FileSpecLike | str | Mapping[str, Any]

_FIELDS: Final = tuple(each.name for each in fields(FileSpec))
_ACCEPTED: Final = (
    'a hf_haul.FileSpec, a path as text, a dict such as {"path": "a.bin", "size": 10}, or anything with .path and .size, '
    "such as huggingface_hub's RepoFile"
)


def as_specs(file_specs: Iterable[AnyFileSpec]) -> list[FileSpec]:
    """Return what a caller says of files, checked.

    Raises:
        TypeError: Something in it does not stand for a file.
        ValueError: A path, a size, a digest or a priority is unusable.
    """
    if isinstance(file_specs, str | bytes | Mapping) or not isinstance(file_specs, Iterable):
        raise TypeError(
            f"file_specs must be a list of files, not {reprlib.repr(file_specs)}; each is {_ACCEPTED}"
        )
    return [_as_spec(value, f"file_specs[{number}]") for number, value in enumerate(file_specs)]


def _as_spec(value: object, what: str) -> FileSpec:
    if isinstance(value, str):
        value = FileSpec(value)
    elif isinstance(value, Mapping):
        value = _from_dict(value, what)
    path, size = getattr(value, "path", None), getattr(value, "size", _MISSING)
    if not isinstance(path, str) or size is _MISSING:
        lacks = (
            "it has a path, but no size, as folders do" if isinstance(path, str) else f"each is {_ACCEPTED}"
        )
        raise TypeError(f"{what} is {reprlib.repr(value)}, which does not stand for a file: {lacks}")
    require_size(path, size)
    texts = {name: getattr(value, name, None) for name in ("etag", "url")}
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{path!r}: {name} must be a text, or None, not {text!r}")
    priority, sources = getattr(value, "priority", None), getattr(value, "sources", ())
    if isinstance(sources, str) or not isinstance(sources, Sequence):
        raise TypeError(f"{path!r}: sources must be a list of URLs, not {sources!r}")
    try:
        return FileSpec(
            path,
            size,  # type: ignore[arg-type]  # checked above
            _digest_of(value),
            priority=None if priority is None else DownloadPriority(priority),
            sources=tuple(sources),
            **texts,
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path!r}: {error}") from None


def _from_dict(value: Mapping[Any, Any], what: str) -> FileSpec:
    """Return the file that a dict describes; ``sha256`` is another name for its digest."""
    unknown = [str(key) for key in value if key not in {*_FIELDS, "sha256"}]
    if "path" not in value or unknown:
        wrong = f"{', '.join(map(repr, unknown))} in it" if unknown else "no 'path' in it"
        raise ValueError(f"{what} is a dict with {wrong}; its keys may be {', '.join((*_FIELDS, 'sha256'))}")
    known = dict(value)
    sha256 = known.pop("sha256", None)
    return FileSpec(**{**known, "digest": known.get("digest") or sha256})


def as_digest(value: Digest | str | None) -> Digest | None:
    """Return a digest as it is, and a text as the digest that it means.

    Raises:
        TypeError: It is neither.
        ValueError: They are none.
    """
    if value is None or isinstance(value, Digest):
        return value
    if not isinstance(value, str):
        raise TypeError(f"a digest is a hf_haul.Digest or its hex digits, not {value!r}")
    return read_digest(value)


def _digest_of(spec: object) -> Digest | None:
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
