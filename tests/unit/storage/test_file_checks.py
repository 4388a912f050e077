from __future__ import annotations

import errno
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.storage import needs_pipes

from hf_haul.errors import StopRequestedError
from hf_haul.storage import file_checks
from hf_haul.storage.file_checks import CheckOrder, hex_digest, look_at, open_to_read, zero_runs

PAGE = 4096


# ---- at a glance


def test_a_file_of_the_right_size_or_of_any_has_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"four")
    for size in (4, None):
        seen = look_at(str(file), size)
        assert (seen.fault, seen.size, seen.sparse) == (None, 4, False)
        assert seen.identity is not None
    (tmp_path / "link").symlink_to(file)
    assert look_at(str(tmp_path / "link"), 4) == look_at(str(file), 4), "a link is followed"


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        pytest.param(lambda path: None, "absent", id="nothing"),
        pytest.param(lambda path: path.write_bytes(b"three"), "size", id="another size"),
        pytest.param(lambda path: path.mkdir(), "folder", id="a folder"),
        pytest.param(lambda path: os.mkfifo(path), "not-a-file", id="a pipe", marks=needs_pipes),
        pytest.param(lambda path: path.symlink_to("nowhere"), "broken-link", id="a link to nothing"),
        pytest.param(lambda path: path.symlink_to(path.name), "broken-link", id="a link to itself"),
    ],
)
def test_what_is_wrong_is_seen_without_reading(tmp_path: Path, make: object, fault: str) -> None:
    assert callable(make)
    make(tmp_path / "it")
    assert look_at(str(tmp_path / "it"), 4).fault == fault


@pytest.mark.parametrize("name", ["a/b", "a\0b"])
def test_a_name_that_no_file_can_have_is_absent(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert look_at(os.path.join(tmp_path, name)).fault == "absent"


def test_what_the_system_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(file_checks.os, "stat", refuse)
    seen = look_at(str(tmp_path / "a"))
    assert (seen.fault, seen.detail) == ("unreadable", "Permission denied")


def test_a_file_with_holes_is_sparse(tmp_path: Path) -> None:
    file = tmp_path / "a"
    with file.open("wb") as out:
        out.truncate(1 << 20)
    if os.stat(file).st_blocks * 512 >= 1 << 20:
        pytest.skip("this file system has no holes")
    assert look_at(str(file)).sparse


def test_another_file_under_the_same_name_is_another_one(tmp_path: Path) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"1234")
    other.write_bytes(b"1234")
    before = look_at(str(file)).identity
    os.replace(other, file)
    assert look_at(str(file)).identity != before


# ---- by reading it


@pytest.mark.parametrize("nbytes", [0, 1, 5 << 20])
def test_a_digest_is_of_all_bytes_and_of_the_file_that_was_seen(tmp_path: Path, nbytes: int) -> None:
    file = tmp_path / "a"
    data = os.urandom(nbytes)
    file.write_bytes(data)
    reads: list[int] = []
    assert hex_digest(str(file), "sha256", reads.append) == (
        hashlib.sha256(data).hexdigest(), look_at(str(file)).identity
    )  # fmt: skip
    assert sum(reads) == nbytes
    git = hashlib.sha1(b"blob %d\0" % nbytes + data).hexdigest()
    assert hex_digest(str(file), "git-sha1")[0] == git
    assert hex_digest(str(file), "sha1")[0] == hashlib.sha1(data).hexdigest()


def test_reading_ends_when_it_is_told_to(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(bytes(5 << 20))
    reads: list[int] = []

    def check() -> None:
        if reads:
            raise StopRequestedError

    with pytest.raises(StopRequestedError):
        hex_digest(str(file), "sha256", reads.append, check)
    assert len(reads) == 1


@needs_pipes
def test_a_pipe_in_a_files_place_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Not a regular file"):
        open_to_read(str(tmp_path / "pipe"))
    assert len(os.listdir("/proc/self/fd")) == opened


# ---- zeros


@pytest.mark.parametrize(
    ("data", "runs"),
    [
        pytest.param(b"x" * PAGE, [], id="none"),
        pytest.param(bytes(PAGE), [(0, PAGE)], id="one page"),
        pytest.param(b"x" * PAGE + bytes(2 * PAGE) + b"x", [(PAGE, 3 * PAGE)], id="two pages"),
        pytest.param(bytes(PAGE) + b"x" * PAGE + bytes(PAGE), [(0, PAGE), (2 * PAGE, 3 * PAGE)], id="two runs"),
        pytest.param(b"x" + bytes(PAGE) + b"x" * (PAGE - 1), [], id="a page's bytes across two pages"),
        pytest.param(bytes(PAGE - 1), [], id="less than a page"),
        pytest.param(b"", [], id="nothing"),
    ],
)  # fmt: skip
def test_only_whole_pages_of_zeros_are_suspicious(data: bytes, runs: list[tuple[int, int]]) -> None:
    assert zero_runs(data, 0) == runs
    offset = 7 * PAGE
    assert zero_runs(data, offset) == [(start + offset, stop + offset) for start, stop in runs]


# ---- the order


def _order(*files: tuple[str, int, bool], threads: int) -> CheckOrder[str]:
    return CheckOrder(files, threads)


def test_one_thread_takes_what_is_odd_and_then_the_smallest() -> None:
    order = _order(("mid", 5, False), ("odd", 9, True), ("small", 1, False), ("large", 8, False), threads=1)
    assert [order.take() for _ in range(5)] == ["odd", "small", "mid", "large", None]


def test_half_of_the_threads_take_the_largest_that_is_left() -> None:
    order = _order(*((str(size), size, False) for size in range(1, 9)), threads=4)
    workers = [ThreadPoolExecutor(1) for _ in range(4)]

    def take(worker: int) -> str | None:
        return workers[worker].submit(order.take).result(10)

    try:
        assert [take(worker) for worker in range(4)] == ["8", "7", "1", "2"]
        assert [take(0), take(2), take(1)] == ["6", "3", "5"], "each goes on at its end"
        assert [take(3), take(3)] == ["4", None]
    finally:
        for worker in workers:
            worker.shutdown()


def test_no_file_is_taken_twice_and_none_is_left() -> None:
    order = _order(*((str(n), n % 7, n % 5 == 0) for n in range(500)), threads=3)
    taken: list[list[str]] = [[] for _ in range(3)]

    def work(mine: list[str]) -> None:
        while (file := order.take()) is not None:
            mine.append(file)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(file for mine in taken for file in mine) == sorted(str(n) for n in range(500))
