"""Whether the owner of a staged file is alive, judged by what can be proven."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.clock import FakeClock

from hf_haul.config import Timings
from hf_haul.storage import ownership
from hf_haul.storage.ownership import Owner, OwnerWatch


def owner(**changes: object) -> Owner:
    return Owner(**{**{f: getattr(ownership.this_process(), f) for f in Owner.__slots__}, **changes})  # type: ignore[arg-type]


@pytest.mark.skipif(
    not os.path.exists("/proc/self/ns/pid"), reason="needs Linux's /proc to tell processes apart"
)
@pytest.mark.parametrize(
    ("changes", "locked", "locks_lie", "age", "expected"),
    [
        pytest.param({}, False, False, 0, "alive", id="this very process"),
        pytest.param({"started": "1"}, False, False, 0, "dead", id="same pid, other process"),
        pytest.param({"pid": 2**22 + 1}, False, False, 0, "dead", id="no such pid"),
        pytest.param({"namespace": "pid:[1]"}, True, False, 999, "alive", id="other container, lock held"),
        pytest.param(
            {"namespace": "pid:[1]"}, False, False, 0, "dead", id="other container, lock free and truthful"
        ),
        pytest.param(
            {"namespace": "pid:[1]"}, False, True, 0, "alive", id="other container, locks lie, fresh"
        ),
        pytest.param(
            {"namespace": "pid:[1]"}, False, True, 999, "stale", id="other container, locks lie, old"
        ),
        pytest.param({"boot": "other"}, False, False, 0, "alive", id="other host, fresh"),
        pytest.param({"boot": "other"}, False, False, 999, "stale", id="other host, old"),
    ],
)
def test_an_owner_is_judged_by_what_can_be_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], locked: bool, locks_lie: bool,
    age: int, expected: str,
) -> None:  # fmt: skip
    path = tmp_path / "file"
    path.write_bytes(b"")
    now = os.stat(path).st_mtime
    os.utime(path, (now - age, now - age))
    holder = os.open(path, os.O_RDWR)
    if locked:
        assert ownership.try_lock(holder)
    if locks_lie:
        monkeypatch.setattr(ownership, "try_lock", lambda _fd: True)
    fd = os.open(path, os.O_RDWR)
    try:
        assert ownership.owner_status(path, fd, owner(**changes), released=False) == expected
    finally:
        os.close(fd)
        os.close(holder)


@pytest.mark.parametrize(
    ("age", "locked", "content", "expected"),
    [
        pytest.param(0, False, b"", "alive", id="just created"),
        pytest.param(30, False, b"", "dead", id="cut off"),
        pytest.param(30, True, b"", "alive", id="somebody has it"),
        pytest.param(0, False, b"x", "dead", id="written into, and who writes locks it first"),
        pytest.param(0, True, b"x", "alive", id="being written into"),
    ],
)
def test_a_file_that_nobody_signed_is_waited_for_only_as_long_as_signing_takes(
    tmp_path: Path, age: int, locked: bool, content: bytes, expected: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    now = os.stat(path).st_mtime
    os.utime(path, (now - age, now - age))
    holder, fd = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    try:
        if locked:
            assert ownership.try_lock(holder)
        assert ownership.owner_status(path, fd, None, released=False) == expected
    finally:
        os.close(fd)
        os.close(holder)


@pytest.mark.skipif(sys.platform != "linux", reason="names a process as Linux does")
@pytest.mark.parametrize("name", ["größe", "a) R 1 (b", "\udcff\udcfe"])
def test_a_process_may_have_any_name(name: str) -> None:
    code = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, sys.stdin.buffer.read())
from hf_haul.storage.ownership import current_owner, is_running
print(current_owner().started, is_running(os.getpid()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=os.fsencode(name), capture_output=True, check=True
    )
    started, running = done.stdout.split()
    assert started.isdigit()
    assert running == b"True"


@pytest.mark.skipif(sys.platform == "win32", reason="a signal of 0 ends a process there")
@pytest.mark.parametrize(
    ("refusal", "expected"),
    [(PermissionError, True), (ProcessLookupError, False), (OverflowError, False), (None, False)],
)
def test_a_process_that_proc_conceals_is_known_by_a_signal(
    monkeypatch: pytest.MonkeyPatch, refusal: type[Exception] | None, expected: bool
) -> None:
    def kill(pid: int, number: int) -> None:
        assert number == 0
        if refusal is not None:
            raise refusal

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/proc/self")
    assert ownership.is_running(2**22 + 1) == expected
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    assert ownership.is_running(2**22 + 1) == (expected or refusal is None)


def test_a_host_may_have_any_name_and_its_record_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: os.fsdecode(b"f\xc3\xa4n\xff" * 60))
    monkeypatch.setattr(ownership, "_me", None)
    owner = ownership.current_owner()
    assert owner.host.isascii()
    assert owner.host.startswith(r"f\xc3\xa4n\xff")
    assert len(json.dumps(owner.host)) <= 2 * 64 + 2


class TestOwnerWatch:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "file"
        path.write_bytes(b"1")
        return path

    def test_an_owner_whose_file_stands_still_for_long_is_asleep(self, file: Path) -> None:
        clock = FakeClock()
        watch = OwnerWatch(clock, Timings(asleep=30))
        assert not watch.is_asleep(file.stat())
        clock.advance(29.9)
        assert not watch.is_asleep(file.stat())
        clock.advance(0.1)
        assert watch.is_asleep(file.stat())

    @pytest.mark.parametrize("sign", ["a byte", "a touch"])
    def test_a_sign_of_life_begins_the_time_anew(self, file: Path, sign: str) -> None:
        clock = FakeClock()
        watch = OwnerWatch(clock, Timings(asleep=30))
        watch.is_asleep(file.stat())
        clock.advance(29)
        if sign == "a byte":
            mtime = file.stat().st_mtime
            file.write_bytes(b"12")
            os.utime(file, (mtime, mtime))
        else:
            os.utime(file, (1, 1))  # whatever time it tells
        assert not watch.is_asleep(file.stat())
        clock.advance(29)
        assert not watch.is_asleep(file.stat())
        clock.advance(1)
        assert watch.is_asleep(file.stat())

    def test_another_file_of_the_same_name_is_another_file(self, file: Path) -> None:
        clock = FakeClock()
        watch = OwnerWatch(clock, Timings(asleep=30))
        status = file.stat()
        watch.is_asleep(status)
        clock.advance(60)
        other = file.with_name("other")
        other.write_bytes(b"1")
        os.utime(other, ns=(status.st_mtime_ns, status.st_mtime_ns))
        assert not watch.is_asleep(other.stat())
