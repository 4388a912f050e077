"""Opening regular files, and nothing else, in folders that others may write to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hf_haul.storage.regular_files import open_regular


def test_a_file_is_opened_or_made(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = open_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, b"bytes")
    os.close(fd)
    fd = open_regular(path, os.O_RDONLY)
    assert os.read(fd, 10) == b"bytes"
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none", os.O_RDONLY)


@pytest.mark.skipif(os.name == "nt", reason="no pipes with names, and other rules about links there")
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT])
@pytest.mark.parametrize("what", ["a link", "a link to nowhere", "a pipe", "a device"])
def test_nothing_else_is(tmp_path: Path, what: str, flags: int) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "planted"
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a device":
        path = Path(os.devnull)
    else:
        path.symlink_to(tmp_path / ("nowhere" if what == "a link to nowhere" else "file"))
    before = os.listdir("/dev/fd")
    with pytest.raises(PermissionError, match="Not a regular file"):
        open_regular(path, flags)
    assert len(os.listdir("/dev/fd")) == len(before)
    assert not (tmp_path / "nowhere").exists()
