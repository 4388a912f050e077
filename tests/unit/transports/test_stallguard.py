"""Requests that wait too long for a byte."""

from __future__ import annotations

import threading
import time

import pytest
from tests.support.clock import FakeClock

from hf_haul.cancellation import CancelToken
from hf_haul.transports.stallguard import StallGuard


def test_only_a_reader_that_waits_too_long_for_the_network_is_woken() -> None:
    clock = FakeClock()
    guard = StallGuard(10.0, clock=clock)
    with (
        guard.watching(CancelToken()) as idle,
        guard.watching(CancelToken()) as fast,
        guard.watching(CancelToken()) as slow,
    ):
        woken: list[str] = []
        names = {"idle": idle, "fast": fast, "slow": slow}
        contexts = [
            each.cancel_token.waking(lambda name=name: woken.append(name)) for name, each in names.items()
        ]
        for context in contexts:
            context.__enter__()
        slow.begin(clock())
        clock.advance(9.0)
        fast.begin(clock())
        guard.check()
        assert not woken
        clock.advance(1.0)
        guard.check()
        assert woken == ["slow"]
        assert slow.stalled == 10.0
        assert fast.stalled is None
        assert not slow.cancel_token.is_set()
        for context in contexts:
            context.__exit__(None, None, None)


def test_an_answer_may_take_longer_than_the_next_byte() -> None:
    clock = FakeClock()
    guard = StallGuard(10.0, clock=clock)
    with guard.watching(CancelToken()) as reader:
        reader.begin(clock(), 60.0)
        clock.advance(59.0)
        guard.check()
        assert reader.stalled is None
        clock.advance(1.0)
        guard.check()
        assert reader.stalled == 60.0
        reader.begin(clock())
        clock.advance(10.0)
        guard.check()
        assert reader.stalled == 10.0


def test_waiting_in_line_is_no_stall() -> None:
    clock = FakeClock()
    guard = StallGuard(10.0, clock=clock)
    with guard.watching(CancelToken()) as reader:
        reader.begin(clock())
        reader.cancel_token.queued = True
        clock.advance(60.0)
        guard.check()
        assert reader.stalled is None
        reader.cancel_token.queued = False
        reader.cancel_token.dequeued_at = clock()
        clock.advance(9.9)
        guard.check()
        assert reader.stalled is None
        clock.advance(0.2)
        guard.check()
        assert reader.stalled is not None


def test_calling_off_the_whole_ends_each_reader() -> None:
    cancel_token = CancelToken()
    guard = StallGuard(10.0)
    with guard.watching(cancel_token) as one, guard.watching(cancel_token) as two:
        cancel_token.set()
        assert one.cancel_token.is_set()
        assert two.cancel_token.is_set()
    with guard.watching(cancel_token) as late:
        assert late.cancel_token.is_set()


def test_a_forked_child_starts_with_nobody_to_watch_and_watches_on_a_thread_of_its_own() -> None:
    guard, woken = StallGuard(0.01), threading.Event()
    with guard.watching(CancelToken()) as inherited:
        guard._lock.acquire()  # by a thread that the child does not have
        for renewed in (guard._thread._renew, guard._reset):
            renewed()
        with guard.watching(CancelToken()) as reader, reader.cancel_token.waking(woken.set):
            assert guard._readers == {reader}
            reader.begin(time.monotonic())
            assert woken.wait(10)
            assert len(guard._thread) == 1
    assert inherited.stalled is None


def test_where_no_thread_is_to_be_had_readers_go_unwatched_and_later_ones_do_not() -> None:
    guard = StallGuard(0.01)
    with pytest.MonkeyPatch.context() as patch:

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        with guard.watching(CancelToken()) as reader:
            assert not reader.cancel_token.is_set()
    woken = threading.Event()
    with guard.watching(CancelToken()) as reader, reader.cancel_token.waking(woken.set):
        reader.begin(time.monotonic())
        assert woken.wait(10)


def test_one_that_cannot_be_woken_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    guard = StallGuard(10.0, clock=clock)
    woken: list[str] = []
    with guard.watching(CancelToken()) as one, guard.watching(CancelToken()) as two:
        for reader in (one, two):
            reader.begin(clock())
        with (
            one.cancel_token.waking(threading.Lock().release),
            two.cancel_token.waking(lambda: woken.append("two")),
        ):
            clock.advance(10.0)
            guard.check()
            assert woken == ["two"]
    assert "could not be ended" in caplog.text


def test_its_thread_survives_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = StallGuard(0.01)
    real, failed = guard.check, threading.Event()

    def fail_once() -> None:
        if not failed.is_set():
            failed.set()
            raise MemoryError
        real()

    monkeypatch.setattr(guard, "check", fail_once)
    woken = threading.Event()
    with guard.watching(CancelToken()) as reader, reader.cancel_token.waking(woken.set):
        reader.begin(time.monotonic())
        assert failed.wait(10)
        assert woken.wait(10)
