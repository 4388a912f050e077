from __future__ import annotations

import threading

import pytest
from tests.support.clock import FakeClock

from hf_haul.filesystem.freshness import Freshness


def looks(freshness: Freshness, *, refresh: bool = False) -> list[bool]:
    """What a call finds to be due that is about two things, one of them twice."""
    with freshness.within(freshness.begin(refresh=refresh)):
        found = []
        for what in ("a", "b", "a"):
            found.append(freshness.is_due(what))
            if found[-1]:
                freshness.note(what)
        return found


def test_nothing_is_ever_due_as_long_as_nobody_says_so() -> None:
    freshness = Freshness(clock=FakeClock())
    assert looks(freshness) == [False, False, False]
    assert not freshness.is_due("a")


def test_who_wants_the_latest_looks_once_in_a_call() -> None:
    clock = FakeClock()
    freshness = Freshness(clock=clock)
    for _ in range(2):
        clock.advance(1.0)
        assert looks(freshness, refresh=True) == [True, True, False]
        assert looks(freshness) == [False, False, False]


@pytest.mark.parametrize("no", [False, 0, "false", "False ", "0", "no", "off"])
def test_without_a_cache_every_call_looks(no: object) -> None:
    clock = FakeClock()
    freshness = Freshness(no, 1000, clock=clock)
    for _ in range(2):
        clock.advance(1.0)
        assert looks(freshness) == [True, True, False]


@pytest.mark.parametrize("yes", [True, 1, "true", "1", "yes"])
def test_what_has_expired_is_looked_at_again(yes: object) -> None:
    clock = FakeClock()
    freshness = Freshness(yes, "10", clock=clock)
    assert looks(freshness) == [True, True, False]
    clock.advance(9.9)
    assert looks(freshness) == [False, False, False]
    clock.advance(0.1)
    assert looks(freshness) == [True, True, False]


def test_a_call_within_a_call_is_a_part_of_it_unless_it_wants_more() -> None:
    clock = FakeClock()
    freshness = Freshness(False, clock=clock)
    with freshness.within(freshness.begin()):
        assert freshness.wants_latest
        assert freshness.is_due("a")
        freshness.note("a")
        clock.advance(1.0)
        with freshness.within(freshness.begin()):
            assert not freshness.is_due("a")
        clock.advance(1.0)
        with freshness.within(freshness.begin(refresh=True)):
            assert freshness.is_due("a")
        assert not freshness.is_due("a")
    assert not freshness.wants_latest


def test_what_a_call_has_seen_first_is_not_looked_at_again_by_it() -> None:
    clock = FakeClock()
    freshness = Freshness(clock=clock)
    with freshness.within(freshness.begin(refresh=True)):
        freshness.note("a")
        assert not freshness.is_due("a")


def test_threads_are_in_calls_of_their_own() -> None:
    freshness = Freshness(False, clock=FakeClock())
    found: list[bool] = []
    with freshness.within(freshness.begin()):
        assert freshness.is_due("a")
        thread = threading.Thread(target=lambda: found.append(freshness.is_due("a")))
        thread.start()
        thread.join(10)
    assert found == [False]


def test_very_many_looks_leave_only_the_latest_behind() -> None:
    clock = FakeClock()
    freshness = Freshness(listings_expiry_time=1e9, clock=clock)
    freshness.note("first")
    for number in range(20_000):
        freshness.note(number)
    freshness.note(12_345)
    assert len(freshness._looked) <= 10_000
    clock.advance(1)
    with freshness.within(freshness.begin()):
        assert freshness.is_due("first")
        assert not freshness.is_due(12_345)
        assert not freshness.is_due(19_999)
