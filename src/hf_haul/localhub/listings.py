"""Listings of commits as huggingface_hub caches them: ``trees/<commit>.json``.

What a cache has of a commit may be a part of it. Which files there are, only the Hub knows; its clients keep
its answer beside the files (huggingface_hub's format, version 1), and only that is told to others.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hf_haul.localhub.confinement import Confinement, open_regular

__all__ = ["KeptFile", "kept_path", "read_kept", "stamp"]

logger = logging.getLogger(__name__)

_FORMAT_VERSION: Final = 1
_XET_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class KeptFile:
    """One file of a cached listing.

    Attributes:
        size: Bytes of its content.
        git_oid: Git's object id, of the pointer for an LFS file.
        sha256: What an LFS file's content hashes to; ``None`` for any other file.
    """

    size: int
    git_oid: str
    sha256: str | None


def kept_path(folder: Path, commit: str) -> Path:
    """Return the path of the cached listing of a commit.

    Args:
        folder: The repository's folder in a cache, or ``.cache/huggingface`` in a ``local_dir``.
        commit: The commit.
    """
    return folder / "trees" / f"{commit}.json"


def read_kept(path: Path) -> dict[str, KeptFile] | None:
    """Read a cached listing.

    Returns:
        The files by path; ``None`` if there is none, or none that can be relied on.
    """
    confinement = Confinement([path.parent], every_name=True)  # a link could bring in anything
    try:
        with open_regular(path, confinement) as file:
            return _parse(json.load(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        logger.warning("ignoring the listing in %s: %s: %s", path, type(error).__name__, error)
        return None


def _parse(data: Any) -> dict[str, KeptFile]:
    if data["format_version"] != _FORMAT_VERSION:
        raise ValueError(f"format version {data['format_version']!r} is not {_FORMAT_VERSION}")
    found = {path: _file(info) for path, info in dict(data["files"]).items()}
    folders: set[str] = set()
    for path in found:
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise ValueError(f"not the path of a file: {path!r}")
        parent = path.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    if not folders.isdisjoint(found):
        raise ValueError(f"both a file and a folder: {min(folders & found.keys())!r}")
    return found


def _file(info: Mapping[str, Any]) -> KeptFile:
    git_oid, sha256, xet_hash = info["blob_id"], info.get("lfs_sha256"), info.get("xet_hash")
    size = info["size"] if sha256 is None or info.get("lfs_size") is None else info["lfs_size"]
    if type(size) is not int or size < 0:
        raise ValueError(f"not a size: {size!r}")
    if not isinstance(git_oid, str) or not (sha256 is None or isinstance(sha256, str)):
        raise TypeError("an object id is not a string")
    # The Hub hides hashes from those who have not been let in. What it gave them is no listing for others.
    if xet_hash is not None and (sha256 is None or not _XET_HASH.fullmatch(xet_hash)):
        raise ValueError("a Xet hash is redacted, or given without a sha256")
    return KeptFile(size, git_oid, sha256)


def stamp(path: Path) -> tuple[int, int] | None:
    """Return size and modification time of a cached listing, which change with it.

    The result is ``None`` if there is none.
    """
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
