"""One call ends every wait, and wakes whatever blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from hf_haul.cancellation import CancelToken
from hf_haul.errors import StopRequestedError

BOUND = 20.0  # seconds; only a failure takes that long


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_cancel_token_begins_unset() -> None:
    cancel_token = CancelToken()
    assert not cancel_token.is_set()
    assert not cancel_token.wait(0.0)
    cancel_token.check()


def test_setting_it_ends_a_wait_under_way() -> None:
    cancel_token = CancelToken()
    answers: list[bool] = []
    thread = in_thread(lambda: answers.append(cancel_token.wait(BOUND)))
    cancel_token.set()
    thread.join(BOUND / 2)
    assert answers == [True]


def test_a_set_token_raises_on_every_check() -> None:
    cancel_token = CancelToken()
    cancel_token.set()
    for _ in range(2):
        with pytest.raises(StopRequestedError):
            cancel_token.check()


def test_setting_it_calls_the_waker_of_a_blocked_thread() -> None:
    cancel_token, blocked, woken = CancelToken(), threading.Event(), threading.Event()

    def block() -> None:
        with cancel_token.waking(woken.set):
            blocked.set()
            assert woken.wait(BOUND)

    thread = in_thread(block)
    assert blocked.wait(BOUND)
    cancel_token.set()
    thread.join(BOUND / 2)
    assert not thread.is_alive()


def test_waking_calls_the_wakers_and_sets_nothing() -> None:
    cancel_token, calls = CancelToken(), []
    with (
        cancel_token.waking(lambda: calls.append("outer")),
        cancel_token.waking(lambda: calls.append("inner")),
    ):
        cancel_token.wake()
    assert calls == ["outer", "inner"]
    assert not cancel_token.is_set()


def test_a_waker_is_called_at_once_if_the_token_is_set_already() -> None:
    cancel_token, calls = CancelToken(), []
    cancel_token.set()
    with cancel_token.waking(lambda: calls.append("called")):
        assert calls == ["called"]


def test_a_waker_is_forgotten_when_its_block_ends_in_any_way() -> None:
    cancel_token, calls = CancelToken(), []
    with cancel_token.waking(lambda: calls.append("ended")):
        pass
    with pytest.raises(RuntimeError), cancel_token.waking(lambda: calls.append("raised")):
        raise RuntimeError
    cancel_token.set()
    assert calls == []


def test_wakers_run_without_the_lock_so_they_may_use_the_token() -> None:
    cancel_token, calls = CancelToken(), []

    def waker() -> None:
        with cancel_token.waking(lambda: calls.append("nested")):
            calls.append("outer")

    with cancel_token.waking(waker):
        thread = in_thread(cancel_token.wake)
        thread.join(BOUND / 2)
    assert calls == ["outer"]


def test_the_same_waker_may_be_registered_twice() -> None:
    cancel_token, calls = CancelToken(), []

    def waker() -> None:
        calls.append("called")

    with cancel_token.waking(waker):
        with cancel_token.waking(waker):
            cancel_token.wake()
        cancel_token.wake()
    assert len(calls) == 3


def test_each_answer_of_a_chain_of_redirects_gets_its_own_time() -> None:
    cancel_token = CancelToken()
    before = time.monotonic()
    cancel_token.answered()
    assert before <= cancel_token.dequeued_at <= time.monotonic()


def test_the_slowest_of_a_chain_of_answers_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    token, times = CancelToken(), iter([10.0, 15.0, 16.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    token.asks()
    token.answered()
    token.answered()
    assert token.slowest_hop == 5.0
    token.asks()
    assert token.slowest_hop == 0.0


def test_the_main_thread_waits_in_short_calls_since_one_may_miss_a_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[float] = []

    def wait(self: threading.Event, seconds: float | None = None) -> bool:
        calls.append(seconds or 0.0)
        return len(calls) == 7

    cancel_token = CancelToken()
    monkeypatch.setattr(threading.Event, "wait", wait)
    assert not cancel_token.wait(1.2)
    assert sum(calls) == pytest.approx(1.2)
    assert max(calls) <= 0.5
    assert cancel_token.wait(60.0)
    assert len(calls) == 7
