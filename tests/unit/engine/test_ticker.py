"""Looks at what is in flight: by a thread while there is work, or by whoever is there."""

from __future__ import annotations

import logging
import threading

import pytest

from hf_haul.engine.ticker import Ticker

BOUND = 10.0


class Target:
    """Has work for some looks; the second of them fails."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.seen: list[bool] = []
        self.mended = 0
        self.over = threading.Event()

    def has_work(self) -> bool:
        if len(self.seen) >= self.looks:
            self.over.set()
        return not self.over.is_set()

    def is_settled(self) -> bool:
        return len(self.seen) > 2

    def tick(self, *, tell: bool = True) -> None:
        self.seen.append(tell)
        if len(self.seen) == 2:
            raise MemoryError

    def mend(self) -> None:
        self.mended += 1


def test_it_looks_until_there_is_no_work_and_survives_a_look_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = Target(5)
    ticker = Ticker(target, idle_seconds=0.0, first=0.001, usual=0.002)
    with caplog.at_level(logging.WARNING):
        ticker.wake()
        assert ticker.start()
        assert target.over.wait(BOUND)
        assert ticker.close(BOUND)
    assert len(target.seen) == 5
    assert target.mended >= 1
    assert [record.message for record in caplog.records] == [
        "unexpected error while the downloads in flight were checked"
    ]


class Scarce(Target):
    """Finds no memory, a few times, to say whether there is work."""

    def __init__(self, looks: int) -> None:
        super().__init__(looks)
        self.asked = 0

    def has_work(self) -> bool:
        self.asked += 1
        if self.asked in {1, 2, 4, 6}:
            raise MemoryError
        return super().has_work()


def test_it_goes_on_looking_where_memory_lacks_for_the_question_whether_there_is_work() -> None:
    target = Scarce(5)
    ticker = Ticker(target, idle_seconds=0.0, first=0.001, usual=0.002)
    ticker.wake()
    assert ticker.start()
    assert target.over.wait(BOUND)
    assert ticker.close(BOUND)
    assert len(target.seen) == 5


def test_whoever_is_there_looks_now_and_then_where_no_thread_does() -> None:
    target = Target(5)
    ticker = Ticker(target, idle_seconds=0.0, usual=1000.0)
    ticker.tick_here()
    ticker.tick_here()
    assert target.seen == [True]
    assert len(ticker) == 0


def test_closing_ends_the_wait_for_the_next_look() -> None:
    ticker = Ticker(Target(1), idle_seconds=1000.0, first=1000.0)
    ticker.wake()
    ticker.start()
    assert ticker.close(BOUND)
