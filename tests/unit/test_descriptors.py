"""How many files may still be opened, and waits for one that can be."""

from __future__ import annotations

import errno
import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.collector import at_every_allocation

from hf_haul import descriptors as module
from hf_haul.descriptors import Descriptors, is_shortage
from hf_haul.errors import StopRequestedError, TooManyOpenFilesError


class Process:
    """A process whose limit and open files a test sets."""

    def __init__(self, limit: int | None = 256, count: int | None = 56) -> None:
        self.limit = limit
        self.count = count
        self.looks = 0
        self.clock = FakeClock()
        self.on_sleep: Callable[[], object] = lambda: None
        self.files = Descriptors(lambda: self.limit, self._count, self.clock, self._sleep)

    def _count(self) -> int | None:
        self.looks += 1
        return self.count

    def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.on_sleep()

    def most(self, count: int) -> int:
        self.count = count
        self.clock.advance(60)
        self.files.measure()
        return self.files.downloads()


class Holder:
    def __init__(self, held: int) -> None:
        self.held = held


def out_of_files(*_: Any, **__: Any) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def test_what_is_free_says_how_many_downloads_there_may_be_and_one_always_may() -> None:
    process = Process(256)
    most = [process.most(256 - free) for free in (0, 1, 8, 12, 30, 60, 200)]
    assert most == sorted(most)
    assert most[:3] == [1, 1, 1]
    assert 4 <= most[4] <= 8
    assert 8 <= most[5] <= 16
    assert most[6] >= 32


@pytest.mark.parametrize(("limit", "count"), [(None, 5), (256, None)], ids=["no limit", "nobody knows"])
def test_without_a_number_nothing_is_bounded(limit: int | None, count: int | None) -> None:
    process = Process(limit, count)
    process.files.measure()
    assert process.files.downloads() > 10_000


def test_it_is_measured_again_but_not_all_the_time() -> None:
    process = Process(256, 200)
    for _ in range(100):
        process.files.measure()
    assert process.looks == 1
    process.clock.advance(0.3)
    process.files.measure()
    assert process.looks == 2
    plenty = Process(100_000, 50)
    for _ in range(15):
        plenty.files.measure()
        plenty.clock.advance(0.3)
    assert plenty.looks == 1


def test_what_downloads_hold_themselves_is_theirs_to_use_unless_it_stays() -> None:
    process = Process(256)
    before = process.most(220)
    holder = Holder(16)
    process.files.register(holder, lambda each: each.held)
    assert process.most(236) == before
    assert process.files.downloads(settled=16) < before
    del holder
    gc.collect()
    assert process.most(220) == before


def test_few_descriptors_are_told_once_and_again_when_there_are_fewer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    process = Process(256)
    for free in (250, 60, 58, 62, 20, 20, 12):
        process.most(256 - free)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "WARNING"]
    assert "60 file descriptors are free of the 256" in caplog.messages[0]
    assert "ulimit" in caplog.messages[1]


def test_what_can_be_opened_is_opened_at_once() -> None:
    process = Process()
    assert process.files.retry_on_shortage(lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        process.files.retry_on_shortage(lambda: os.listdir("/nowhere/at/all"))


def test_a_shortage_is_waited_out_while_others_hold_some() -> None:
    process = Process(256, 256)
    others = Holder(2)
    process.files.register(others, lambda each: each.held)
    attempts = 0

    def work() -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 1000:
            out_of_files()
        return "opened"

    assert process.files.retry_on_shortage(work, lambda: None, own=1) == "opened"


def test_where_nobody_will_close_anything_an_error_says_what_is_missing() -> None:
    process = Process(256, 256)
    began = process.clock()
    holder = Holder(1)
    process.files.register(holder, lambda each: each.held)
    with pytest.raises(TooManyOpenFilesError, match=r"a connection: 256 of 256 are open.*ulimit") as caught:
        process.files.retry_on_shortage(out_of_files, lambda: None, own=1, what="a connection")
    assert caught.value.errno == errno.EMFILE
    assert is_shortage(caught.value)
    assert 4 < process.clock() - began < 10


def test_all_who_wait_for_the_same_share_one_patience() -> None:
    process = Process(256, 256)
    for _ in range(3):
        with pytest.raises(TooManyOpenFilesError):
            process.files.retry_on_shortage(out_of_files, lambda: None, what="a connection")
        process.files.retry_on_shortage(lambda: None)  # a file can be opened, which is something else
    began = process.clock()
    with pytest.raises(TooManyOpenFilesError):
        process.files.retry_on_shortage(out_of_files, lambda: None, what="a connection")
    assert process.clock() - began < 1
    process.files.retry_on_shortage(lambda: None, what="a connection")
    began = process.clock()
    with pytest.raises(TooManyOpenFilesError):
        process.files.retry_on_shortage(out_of_files, lambda: None, what="a connection")
    assert process.clock() - began > 4


def test_a_wait_ends_when_it_is_halted_and_where_nobody_can_halt_it_after_a_while() -> None:
    process = Process(256, 256)
    others = Holder(9)
    process.files.register(others, lambda each: each.held)

    def cancel() -> None:
        raise StopRequestedError

    with pytest.raises(StopRequestedError):
        process.files.retry_on_shortage(out_of_files, cancel)
    began = process.clock()
    with pytest.raises(TooManyOpenFilesError):
        process.files.retry_on_shortage(out_of_files)
    assert 20 < process.clock() - began < 60


def test_another_error_in_a_later_attempt_is_raised_as_it_is() -> None:
    errors = iter([OSError(errno.ENFILE, "system"), PermissionError("no")])

    def work() -> None:
        raise next(errors)

    with pytest.raises(PermissionError):
        Process().files.retry_on_shortage(work)


def test_a_shortage_is_known_by_what_an_error_was_made_from() -> None:
    error = RuntimeError("connect")
    error.__cause__ = OSError(errno.ENFILE, "Too many open files in system")
    assert is_shortage(error)
    assert is_shortage(RuntimeError("retried", OSError(errno.EMFILE, "Too many open files")))
    later = ConnectionResetError()
    later.__context__ = OSError(errno.EMFILE, "Too many open files")
    assert not is_shortage(later), "raised while the other was dealt with"
    assert not is_shortage(OSError(errno.ENOENT, "no"))
    assert not is_shortage(None)
    loop = RuntimeError()
    loop.__cause__ = loop
    assert not is_shortage(loop)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="the system does not list descriptors")
def test_the_system_says_how_many_there_are(tmp_path: Path) -> None:
    before = module._count()
    assert before is not None
    with open(tmp_path / "a", "w"), open(tmp_path / "b", "w"):
        assert module._count() == before + 2
    assert module._count() == before
    resource = pytest.importorskip("resource")
    assert module._limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_a_finalizer_that_registers_a_holder_disturbs_no_count() -> None:
    process = Process()
    holders: list[object] = []

    class Holder:
        """One that can be referred to weakly."""

    def register() -> None:
        holders.append(Holder())
        process.files.register(holders[-1], lambda _holder: 1)

    for _ in range(100):
        register()
    with at_every_allocation(register):
        assert process.files._held() >= 100
