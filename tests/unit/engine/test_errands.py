"""Disk work that nobody waits for: in order on each file system, and no disk waits for another."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hf_haul.engine.errands import Errands

BOUND = 10.0  # seconds


@pytest.fixture(name="errands")
def _errands() -> Iterator[Errands]:
    made = Errands()
    yield made
    assert made.close(BOUND)


def test_one_disk_that_hangs_holds_up_its_own_work_only_and_in_order(errands: Errands) -> None:
    hung, entered, done = threading.Event(), threading.Event(), threading.Event()
    order: list[int] = []

    def hang() -> None:
        entered.set()
        assert hung.wait(BOUND)
        order.append(0)

    errands.add("hung", 0, hang)
    for i in range(1, 30):
        errands.add("hung", i, lambda i=i: order.append(i))
    errands.add("hung", "last", done.set)
    errands.start()
    assert entered.wait(BOUND)
    for i in range(50):
        other = threading.Event()
        errands.add("fine", i, other.set)
        assert errands.start()
        assert other.wait(BOUND)
    assert order == []
    hung.set()
    assert done.wait(BOUND)
    assert order == list(range(30))


def test_the_same_work_waits_once(errands: Errands) -> None:
    hung, entered, done = threading.Event(), threading.Event(), threading.Event()
    times: list[int] = []

    def hang() -> None:
        entered.set()
        assert hung.wait(BOUND)

    errands.add("disk", "first", hang)
    errands.start()
    assert entered.wait(BOUND)
    for _ in range(5):
        errands.add("disk", "beat", lambda: times.append(1))
    errands.add("disk", "last", done.set)
    hung.set()
    assert done.wait(BOUND)
    assert times == [1]
    errands.add("disk", "beat", lambda: times.append(2))
    errands.start()
    assert errands.close(BOUND)
    assert times == [1, 2]


@pytest.mark.parametrize("error", [OSError("I/O error"), SystemExit()])
def test_whatever_work_raises_the_next_is_done(
    errands: Errands, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    def fail() -> None:
        raise error

    errands.add("disk", 0, fail)
    errands.add("disk", 1, done.set)
    errands.start()
    assert done.wait(BOUND)
    assert "unexpected error" in caplog.text


def test_where_no_thread_is_to_be_had_work_is_done_by_who_asks(
    errands: Errands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for i in range(3):
            errands.add("disk", i, lambda i=i: done.append(i))
        assert not errands.start()
        errands.run_here()
    assert done == [0, 1, 2]
