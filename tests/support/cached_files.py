"""Files as huggingface_hub leaves them in its cache, and the listings that it keeps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

__all__ = ["COMMIT", "LISTED", "OTHER", "cache_file", "keep_listing", "write"]

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
OTHER: Final = "f" * 40
#: What the listing of a commit says: two files that a test has, and one more.
LISTED: Final = {
    "a/w.bin": {"size": 4, "blob_id": "1" * 40, "lfs_sha256": "ab" * 32, "lfs_size": 4},
    "config.json": {"size": 1, "blob_id": OTHER},
    "more.json": {"size": 9, "blob_id": "2" * 40},
}


def write(path: Path, data: bytes = b"x") -> Path:
    """Write a file and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def cache_file(root: Path, commit: str, name: str, etag: str, data: bytes = b"x") -> None:
    """Put a file into a repository of a cache: its blob, and the link in the snapshot."""
    blob = write(root / "blobs" / etag, data)
    link = root / "snapshots" / commit / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))


def keep_listing(root: Path, files: object, commit: str = COMMIT) -> None:
    """Keep the listing of a commit, as huggingface_hub does."""
    write(root / f"trees/{commit}.json", json.dumps({"format_version": 1, "files": files}).encode())
