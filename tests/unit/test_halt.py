"""One call ends every wait, and wakes whatever blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from hf_haul.errors import HaltedError
from hf_haul.halt import Halt

BOUND = 20.0  # seconds; only a failure takes that long


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_halt_begins_unset() -> None:
    halt = Halt()
    assert not halt.is_set()
    assert not halt.wait(0.0)
    halt.check()


def test_setting_it_ends_a_wait_under_way() -> None:
    halt = Halt()
    answers: list[bool] = []
    thread = in_thread(lambda: answers.append(halt.wait(BOUND)))
    halt.set()
    thread.join(BOUND / 2)
    assert answers == [True]


def test_a_set_halt_raises_on_every_check() -> None:
    halt = Halt()
    halt.set()
    for _ in range(2):
        with pytest.raises(HaltedError):
            halt.check()


def test_setting_it_calls_the_waker_of_a_blocked_thread() -> None:
    halt, blocked, woken = Halt(), threading.Event(), threading.Event()

    def block() -> None:
        with halt.waking(woken.set):
            blocked.set()
            assert woken.wait(BOUND)

    thread = in_thread(block)
    assert blocked.wait(BOUND)
    halt.set()
    thread.join(BOUND / 2)
    assert not thread.is_alive()


def test_waking_calls_the_wakers_and_sets_nothing() -> None:
    halt, calls = Halt(), []
    with halt.waking(lambda: calls.append("outer")), halt.waking(lambda: calls.append("inner")):
        halt.wake()
    assert calls == ["outer", "inner"]
    assert not halt.is_set()


def test_a_waker_is_called_at_once_if_the_halt_is_set_already() -> None:
    halt, calls = Halt(), []
    halt.set()
    with halt.waking(lambda: calls.append("called")):
        assert calls == ["called"]


def test_a_waker_is_forgotten_when_its_block_ends_in_any_way() -> None:
    halt, calls = Halt(), []
    with halt.waking(lambda: calls.append("ended")):
        pass
    with pytest.raises(RuntimeError), halt.waking(lambda: calls.append("raised")):
        raise RuntimeError
    halt.set()
    assert calls == []


def test_wakers_run_without_the_lock_so_they_may_use_the_halt() -> None:
    halt, calls = Halt(), []

    def waker() -> None:
        with halt.waking(lambda: calls.append("nested")):
            calls.append("outer")

    with halt.waking(waker):
        thread = in_thread(halt.wake)
        thread.join(BOUND / 2)
    assert calls == ["outer"]


def test_the_same_waker_may_be_registered_twice() -> None:
    halt, calls = Halt(), []

    def waker() -> None:
        calls.append("called")

    with halt.waking(waker):
        with halt.waking(waker):
            halt.wake()
        halt.wake()
    assert len(calls) == 3


def test_each_answer_of_a_chain_of_redirects_gets_its_own_time() -> None:
    halt = Halt()
    before = time.monotonic()
    halt.answered()
    assert before <= halt.turn_came <= time.monotonic()


def test_the_main_thread_waits_in_short_calls_since_one_may_miss_a_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[float] = []

    def wait(self: threading.Event, seconds: float | None = None) -> bool:
        calls.append(seconds or 0.0)
        return len(calls) == 7

    halt = Halt()
    monkeypatch.setattr(threading.Event, "wait", wait)
    assert not halt.wait(1.2)
    assert sum(calls) == pytest.approx(1.2)
    assert max(calls) <= 0.5
    assert halt.wait(60.0)
    assert len(calls) == 7
