"""Names, files and owners that tests of what is on disk have in common."""

from __future__ import annotations

import json
import os
import random
import struct
import time
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from hf_haul.storage import ownership
from hf_haul.storage.claiming import claim
from hf_haul.storage.ownership import Owner
from hf_haul.storage.staged_file import StagedFile

COMMIT = "c" * 40
ETAG = "e" * 40

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")

#: A staged file, and its bytes.
SIZE = 1000
DATA = random.Random(7).randbytes(SIZE)


def stage(path: Path, content: bytes = b"content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names_below(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink() or p.is_file()}


def put(staged: StagedFile, start: int, stop: int) -> None:
    staged.write(start, memoryview(DATA)[start:stop])
    staged.record(start, stop)


def abandon(staged: StagedFile) -> None:
    """Leave the file as a killed process does: descriptor closed by the kernel, nothing said."""
    os.close(staged._fd)
    staged._fd = -1


def owner(**changes: object) -> Owner:
    return Owner(**{**{f: getattr(ownership.this_process(), f) for f in Owner.__slots__}, **changes})  # type: ignore[arg-type]


def left_behind(folder: Path, done: int = 400, key: str = "etag", **fields: object) -> Path:
    """A staged file that a killed process left, with a record of its owner that somebody may have forged."""
    with closing(claim(folder, key, SIZE)) as staged:
        put(staged, 0, done)
        path = staged.path
        raw = path.read_bytes()
        abandon(staged)
    length = struct.unpack_from("<8scxxxII", raw, SIZE)[2]
    about = json.loads(raw[SIZE + 20 : SIZE + 20 + length])
    about["owner"].update({"pid": 2**22 + 1, **fields.pop("owner", {})})  # type: ignore[call-overload]
    about.update(fields)
    body = json.dumps(about).encode()
    assert len(body) <= 512 - 20
    header = struct.pack("<8scxxxII", b"hf-haul1", b"O", len(body), zlib.crc32(body)) + body
    path.write_bytes(raw[:SIZE] + header.ljust(512, b"\0") + raw[SIZE + 512 :])
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path
