"""Staged files: what survives a kill, who may take over, what is published."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.disk import HungDisk
from tests.support.storage import DATA, SIZE, put

from hf_haul.errors import DiskFullError
from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.storage import (
    staged_file,
)
from hf_haul.storage.claiming import claim
from hf_haul.storage.ownership import try_lock
from hf_haul.storage.staged_file import StagedFile, StagedLostError


def test_bytes_are_written_only_at_their_own_offset_and_writing_them_twice_is_harmless(
    tmp_path: Path,
) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    for start, stop in [(500, 1000), (0, 200), (100, 600), (0, 1000)]:
        put(staged, start, stop)
    assert staged.missing() == []
    sealed = staged.seal(durable=True)
    assert sealed.read_bytes() == DATA


def test_forgetting_drops_claims_for_good(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 1000)
    staged.forget([ByteRange(100, 200)])
    assert staged.missing() == [ByteRange(100, 200)]
    put(staged, 100, 150)
    staged.close()
    again = claim(tmp_path, "etag", SIZE)
    assert again.missing() == [ByteRange(150, 200)]
    again.forget()
    assert again.missing() == [ByteRange(0, SIZE)]
    again.close()


def test_what_is_forgotten_of_a_file_without_a_journal_takes_all_that_follows_with_it(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE, sequential=True)
    put(staged, 0, SIZE)
    staged.forget([ByteRange(100, 200), ByteRange(300, 400)])
    assert staged.missing() == [ByteRange(100, SIZE)]
    put(staged, 100, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA


def test_range_sets_of_a_staged_file_are_its_own(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 1)
    assert staged._done == RangeSet([ByteRange(0, 1)])
    assert staged.frontier() == 1
    staged.close()


def test_a_full_disk_is_told_with_what_to_do_whatever_was_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 100)

    def full(*_args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFullError, match="free some space"):
            staged.write(100, memoryview(b"x"))
        with pytest.raises(DiskFullError, match="free some space"):
            staged.record(100, 101)
        with pytest.raises(DiskFullError, match="free some space"):
            claim(tmp_path, "other", SIZE)
    staged.close()
    assert [p.name for p in tmp_path.iterdir()] == ["etag.haul.incomplete"]
    again = claim(tmp_path, "etag", SIZE)
    assert again.resumed == 100
    again.delete()


def test_any_other_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = claim(tmp_path, "etag", SIZE)

    def broken(*_args: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", broken)
        with pytest.raises(OSError, match="etag") as caught:
            staged.write(0, memoryview(b"x"))
    assert caught.value.errno == errno.EIO
    staged.delete()


def test_bytes_that_are_there_are_not_written_again(tmp_path: Path) -> None:
    with closing(claim(tmp_path, "a.bin", 100)) as staged:
        staged.add(20, memoryview(b"a" * 20))
        staged.add(60, memoryview(b"b" * 10))
        staged.add(30, memoryview(b"c" * 40))  # partly there
        staged.add(20, memoryview(b"d" * 20))  # all there
        buffer = bytearray(50)
        staged.read_into(20, memoryview(buffer))
        assert buffer == b"a" * 20 + b"c" * 20 + b"b" * 10
        assert staged.missing() == [ByteRange(0, 20), ByteRange(70, 100)]
        staged.forget()
        staged.add(20, memoryview(b"e" * 50))
        staged.read_into(20, memoryview(buffer))
        assert buffer == b"e" * 50


@pytest.mark.skipif(sys.platform == "win32", reason="os.close is wrapped for Linux here")
@pytest.mark.parametrize("way", ["close", "delete"])
def test_a_system_that_complains_when_a_file_is_closed_ends_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """NFS and quotas tell of a full disk there."""
    others = set(staged_file._open_here)
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 400)
    real, mine = os.close, staged._fd

    def close(fd: int) -> None:
        real(fd)
        if fd == mine:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "close", close)
    staged.close() if way == "close" else staged.delete()
    assert "Disk quota exceeded" in caplog.text
    assert staged_file._open_here == others
    monkeypatch.undo()
    again = claim(tmp_path, "etag", SIZE)
    assert again.resumed == (400 if way == "close" else 0)
    again.delete()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="tells files apart by /proc")
@pytest.mark.parametrize(
    ("call", "work"),
    [
        pytest.param("pwrite", lambda staged: staged.add(100, memoryview(DATA)[100:200]), id="bytes"),
        pytest.param("pwrite", lambda staged: staged.record(0, 100), id="a claim"),
        pytest.param("pwrite", lambda staged: staged.is_of_version("v2"), id="a version"),
        pytest.param("ftruncate", lambda staged: staged.forget([ByteRange(0, 50)]), id="taking claims back"),
        pytest.param("utime", lambda staged: staged.beat(), id="a sign of life"),
        pytest.param("fsync", lambda staged: staged.seal(durable=True), id="the last bytes"),
        pytest.param("rename", lambda staged: staged.seal(durable=False), id="a rename"),
        pytest.param("pwrite", lambda staged: staged.close(), id="letting go"),
    ],
)
def test_how_far_a_file_is_can_be_asked_while_its_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, work: Callable[[StagedFile], object]
) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 100)
    disk = HungDisk(tmp_path, monkeypatch)
    disk.hang(call)
    working = threading.Thread(target=work, args=(staged,))
    working.start()
    asking = threading.Thread(
        target=lambda: (
            staged.done, staged.missing(), staged.frontier(), staged.needs_beat(), staged.device,
        ),
        daemon=True,
    )  # fmt: skip
    try:
        assert disk.reached(call)
        asking.start()
        asking.join(10)
        assert not asking.is_alive()
    finally:
        disk.release()
        working.join(10)
    assert not working.is_alive()


def test_who_looks_at_a_new_file_keeps_its_owner_from_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking: list[int] = []

    def look_first(path: Path, *args: Any) -> int:
        fd = opened(path, *args)
        looking.append(opened(path, os.O_RDWR))
        assert try_lock(looking[0])
        return fd

    def look_away(seconds: float) -> None:
        assert seconds < 0.1
        os.close(looking.pop())

    opened = os.open
    with monkeypatch.context() as patch:
        patch.setattr("hf_haul.storage.claiming.os", SimpleNamespace(**{**vars(os), "open": look_first}))
        patch.setattr(
            "hf_haul.storage.ownership.time", SimpleNamespace(monotonic=time.monotonic, sleep=look_away)
        )
        staged = claim(tmp_path, "etag", SIZE)
    assert not looking
    fd = os.open(staged.path, os.O_RDWR)
    assert not try_lock(fd)
    os.close(fd)
    staged.close()


def test_a_sign_of_life_is_due_now_and_then_and_not_given_for_a_file_that_was_let_go(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE, sequential=True)
    put(staged, 0, 100)
    assert not staged.needs_beat()
    assert staged.needs_beat(0.0)
    os.utime(staged.path, (1, 1))
    staged.beat()
    assert time.time() - staged.path.stat().st_mtime < 100
    assert not staged.needs_beat()
    path = staged.path
    staged.close()
    staged.beat()
    assert path.stat().st_mtime == 0  # which is how such a file says that it is nobody's


@pytest.mark.skipif(os.name == "nt", reason="symlinks need rights there")
def test_a_link_to_our_own_file_is_not_sealed_in_its_place(tmp_path: Path) -> None:
    staged = claim(tmp_path / "blobs", "etag", SIZE)
    put(staged, 0, SIZE)
    moved = staged.path.rename(tmp_path / "theirs")
    staged.path.symlink_to(moved)
    with pytest.raises(StagedLostError):
        staged.seal(durable=False)
    staged.close()


def test_whether_a_file_is_still_ours_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(time, "monotonic", clock)
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, 400)
    staged.path.rename(tmp_path / "theirs")
    staged.require_ours()
    clock.advance(16)
    with pytest.raises(StagedLostError):
        staged.require_ours()
    (tmp_path / "theirs").rename(staged.path)
    clock.advance(16)
    staged.require_ours()
    staged.delete()


def test_who_reads_along_sees_what_is_written_and_whether_any_of_it_was_taken_back(tmp_path: Path) -> None:
    with closing(claim(tmp_path, "key", SIZE)) as staged, staged.open_again() as reader:
        put(staged, 0, 100)
        reader.seek(0)
        assert reader.read(100) == DATA[:100]
        assert staged.withdrawals == 0
        staged.forget()
        assert staged.withdrawals == 1
        other = tmp_path / "other"
        other.write_bytes(b"other")
        other.replace(staged.path)
        with pytest.raises(StagedLostError):
            staged.open_again()


@pytest.mark.parametrize("published", [True, False])
def test_a_small_file_that_came_whole_is_recorded_only_if_it_is_not_published(
    tmp_path: Path, published: bool
) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    without = os.stat(staged.path).st_size
    staged.add(0, memoryview(DATA))
    staged.record(0, SIZE, last=True)
    assert os.stat(staged.path).st_size == without, "a header, and no record behind it"
    if published:
        assert staged.seal(durable=False).read_bytes() == DATA
        return
    staged.close()
    with closing(claim(tmp_path, "etag", SIZE, orphans=[staged.path])) as resumed:
        assert (resumed.resumed, resumed.missing()) == (SIZE, [])


def test_what_is_forgotten_of_a_file_that_came_whole_is_not_recorded_later(tmp_path: Path) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    staged.add(0, memoryview(DATA))
    staged.record(0, SIZE, last=True)
    staged.forget([ByteRange(100, SIZE)])
    staged.close()
    with closing(claim(tmp_path, "etag", SIZE, orphans=[staged.path])) as resumed:
        assert resumed.missing() == [ByteRange(100, SIZE)]
