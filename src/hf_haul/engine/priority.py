"""Which file goes first: file type and size decide, and no I/O is done."""

from __future__ import annotations

from typing import Any, Final, Protocol

from hf_haul.config import MiB
from hf_haul.task import DownloadPriority

__all__ = ["LARGE_FILE", "DefaultPolicy", "PriorityPolicy"]

#: From here on a file is weights: it goes last, and never before what a loader reads first. Bytes.
LARGE_FILE: Final = 100 * 10**6
#: A text file larger than this is data, not metadata. Bytes.
_METADATA_LIMIT: Final = 32 * MiB

#: What loaders read before any weight: configuration, tokenizers, indexes, code, cards.
_METADATA_SUFFIXES: Final = frozenset(
    {
        ".json",
        ".txt",
        ".md",
        ".yaml",
        ".yml",
        ".toml",
        ".py",
        ".jinja",
        ".jinja2",
        ".model",
        ".tiktoken",
        ".merges",
        ".vocab",
    }
)


class PriorityPolicy(Protocol):
    """Decides a file's priority and its place among files of the same priority."""

    def __call__(self, path: str, size: int | None) -> tuple[DownloadPriority, tuple[Any, ...]]:
        """Rank one file.

        Args:
            path: Name of the file inside its repository.
            size: Bytes, or ``None`` if unknown.

        Returns:
            The priority, and a key that sorts files of one priority, smallest first. Keys must be comparable
            with each other.
        """


class DefaultPolicy:
    """HIGH for small metadata, NORMAL for the rest below 100 MB, LOW for large weights.

    HIGH and NORMAL go smallest first, so that most files are done soonest. LOW goes largest first, which
    gives the least makespan when several are fetched at once.
    """

    def __call__(self, path: str, size: int | None) -> tuple[DownloadPriority, tuple[Any, ...]]:
        """Rank one file; see :class:`PriorityPolicy`."""
        if size is None:
            return DownloadPriority.NORMAL, (0, path)
        if size >= LARGE_FILE:
            return DownloadPriority.LOW, (-size, path)
        suffix = _suffix(path)
        metadata = suffix in _METADATA_SUFFIXES or len(suffix) <= 1
        if metadata and size <= _METADATA_LIMIT:
            return DownloadPriority.HIGH, (size, path)
        return DownloadPriority.NORMAL, (size, path)


def _suffix(path: str) -> str:
    """Return a file's suffix in small letters, as ``posixpath.splitext`` has it, in half the time."""
    dot = path.rfind(".")
    name = path.rfind("/") + 1
    # What begins with dots only has no suffix.
    return path[dot:].lower() if dot > name and path[name:dot].strip(".") else ""
