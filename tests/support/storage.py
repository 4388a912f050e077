"""Names and files that tests of what is on disk have in common."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

COMMIT = "c" * 40
ETAG = "e" * 40

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")


def stage(path: Path, content: bytes = b"content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names_below(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink() or p.is_file()}
