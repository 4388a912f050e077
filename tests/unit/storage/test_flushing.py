"""Files in place that a power failure must not take."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from hf_haul.storage import flushing
from hf_haul.storage.flushing import flush_files


class Flushes:
    """What was flushed, by name, and what the system answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.broken = ""
        self.error = errno.EIO
        self.whole = True
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(flushing, "_flush_file_system", self.flush_file_system)

    def fsync(self, fd: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        self.names.append(name)
        if name == self.broken:
            raise OSError(self.error, os.strerror(self.error))

    def flush_file_system(self, path: str) -> bool:
        self.names.append("all")
        return self.whole


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> Flushes:
    return Flushes(monkeypatch)


def put(folder: Path, count: int) -> list[str]:
    """Files as they are in a Hub's cache: links to blobs."""
    (folder / "blobs").mkdir()
    (folder / "snapshot").mkdir()
    for number in range(count):
        (folder / "blobs" / f"b{number}").write_bytes(b"x")
        (folder / "snapshot" / f"f{number}").symlink_to(f"../blobs/b{number}")
    return [str(folder / "snapshot" / f"f{number}") for number in range(count)]


def test_a_few_files_are_flushed_one_by_one_and_then_the_folders_of_their_names(
    tmp_path: Path, flushes: Flushes
) -> None:
    assert flush_files(put(tmp_path, 3)) == {}
    assert flushes.names == ["b0", "b1", "b2", "blobs", "snapshot"]


def test_many_are_flushed_at_once(tmp_path: Path, flushes: Flushes) -> None:
    assert flush_files(put(tmp_path, 30)) == {}
    assert flushes.names == ["all"]


def test_where_a_file_system_cannot_be_flushed_its_files_are(tmp_path: Path, flushes: Flushes) -> None:
    flushes.whole = False
    assert flush_files(put(tmp_path, 30)) == {}
    assert len(flushes.names) == 1 + 30 + 2


def test_the_error_of_a_disk_is_that_of_the_file(tmp_path: Path, flushes: Flushes) -> None:
    paths = put(tmp_path, 3)
    flushes.broken = "b1"
    errors = flush_files(paths)
    assert [(path, error.errno) for path, error in errors.items()] == [(paths[1], errno.EIO)]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_the_disk_lost_is_an_error_of_every_file_in_it(
    tmp_path: Path, flushes: Flushes, error: int
) -> None:
    flushes.broken, flushes.error = "snapshot", error
    paths = put(tmp_path, 3)
    assert {path: each.errno for path, each in flush_files(paths).items()} == dict.fromkeys(paths, error)


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EACCES, errno.EBADF, errno.ENOTSUP])
def test_a_file_system_that_flushes_no_folders_fails_no_file(
    tmp_path: Path, flushes: Flushes, error: int
) -> None:
    flushes.broken, flushes.error = "snapshot", error
    assert flush_files(put(tmp_path, 3)) == {}


def test_what_is_gone_or_no_file_is_passed_over(tmp_path: Path, flushes: Flushes) -> None:
    assert flush_files([str(tmp_path), "/dev/null", str(tmp_path / "gone")]) == {}
    assert flushes.names == []


def test_a_file_system_can_be_flushed_here(tmp_path: Path) -> None:
    assert flushing._flush_file_system(put(tmp_path, 1)[0])
    assert not flushing._flush_file_system(str(tmp_path / "gone"))
