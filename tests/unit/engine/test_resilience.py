"""What must be done is done, and an error that is kept keeps nothing else."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest

from hf_haul.engine import resilience
from hf_haul.engine.resilience import drop_frames

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
