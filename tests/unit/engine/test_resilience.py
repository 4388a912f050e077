"""What must be done is done, and an error that is kept keeps nothing else."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from types import SimpleNamespace

import pytest

from hf_haul.engine import resilience
from hf_haul.engine.resilience import Standstill, drop_frames

insist = partial(resilience.insist, pauses=(0.0,) * 3)


def test_what_fails_for_want_of_memory_is_done_when_there_is_some() -> None:
    errors = [MemoryError(), MemoryError()]
    done = []

    def work() -> None:
        if errors:
            raise errors.pop()
        done.append(1)

    insist(work)
    assert done == [1]


class Watch:
    """A clock, and what was reserved."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.reserved = 0
        patch.setattr(resilience, "time", SimpleNamespace(monotonic=lambda: self.now))
        patch.setattr(resilience.mmap, "mmap", self.reserve)

    def reserve(self, _fd: int, _size: int) -> SimpleNamespace:
        self.reserved += 1
        return SimpleNamespace(close=self.release)

    def release(self) -> None:
        self.reserved -= 1


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_errors_that_keep_everything_from_going_on_are_borne_for_a_while_and_then_free_what_is_reserved(
    watch: Watch,
) -> None:
    standstill = Standstill(10.0)
    standstill.begin()
    standstill.begin()
    assert watch.reserved == 1
    assert not standstill.note(MemoryError())
    watch.now = 10.0
    assert not standstill.note(ValueError())
    assert watch.reserved == 1
    watch.now = 11.0
    assert standstill.note(ValueError())
    assert watch.reserved == 0
    assert isinstance(standstill.reason(ValueError()), MemoryError)
    assert standstill.note(ValueError())
    standstill.begin()
    assert watch.reserved == 1


def test_what_goes_on_between_two_errors_is_no_standstill(watch: Watch) -> None:
    standstill, other = Standstill(10.0), ValueError("a bug")
    assert not standstill.note(MemoryError())
    standstill.end()
    watch.now = 11.0
    assert not standstill.note(other)
    assert standstill.is_new
    watch.now = 22.0
    assert standstill.note(other)
    assert not standstill.is_new
    assert standstill.reason(other) is other


def test_what_fails_every_time_raises_its_error() -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        insist(work)
    assert len(tries) == 4


def test_an_interrupt_is_raised_once_the_work_is_done() -> None:
    interrupts = [KeyboardInterrupt()]
    done = []

    def work() -> None:
        if interrupts:
            raise interrupts.pop()
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        insist(work)
    assert done == [1]


class _Large:
    """Stands for a buffer."""


def _failing(refers: list[weakref.ref[_Large]]) -> ValueError:
    large = _Large()
    refers.append(weakref.ref(large))
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        return error


def test_an_error_without_its_frames_keeps_nothing_alive() -> None:
    refers: list[weakref.ref[_Large]] = []
    error = _failing(refers)
    assert refers[0]() is not None
    drop_frames(error)
    gc.collect()
    assert refers[0]() is None
    assert isinstance(error.__cause__, KeyError)


def test_where_an_unexpected_error_came_from_stays_in_words() -> None:
    try:
        raise ValueError("a bug")
    except ValueError as caught:
        error = caught
    drop_frames(error)
    assert error.__traceback__ is None
    assert "test_where_an_unexpected_error_came_from_stays_in_words" in str(error.__cause__)
