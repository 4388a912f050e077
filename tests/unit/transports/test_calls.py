"""One request as its halt sees it."""

from __future__ import annotations

import pytest

from hf_haul.errors import HaltedError, StalledError, TransferError
from hf_haul.halt import Halt
from hf_haul.transports.calls import Call, WokenError


@pytest.fixture
def calls() -> list[str]:
    return []


def test_a_wake_runs_the_interrupt_of_the_moment(calls: list[str]) -> None:
    halt = Halt()
    call = Call(halt, "hub")
    call.interrupt_with(lambda: calls.append("first"))
    call.interrupt_with(lambda: calls.append("second"))
    halt.wake()
    assert calls == ["second"]
    assert call.woken


def test_an_interrupt_that_comes_after_the_wake_runs_at_once(calls: list[str]) -> None:
    call = Call(Halt(), "hub")
    call.wake()
    call.interrupt_with(lambda: calls.append("late"))
    assert calls == ["late"]


def test_a_call_of_a_halt_that_is_set_is_woken_from_the_beginning() -> None:
    halt = Halt()
    halt.set()
    assert Call(halt, "hub").woken


def test_a_wake_after_the_end_touches_nothing(calls: list[str]) -> None:
    halt = Halt()
    call = Call(halt, "hub")
    call.interrupt_with(lambda: calls.append("too late"))
    call.end()
    call.end()
    halt.set()
    call.wake()
    assert calls == []
    assert not call.woken


def test_blocking_raises_after_a_wake_and_forgets_its_interrupt(calls: list[str]) -> None:
    call = Call(Halt(), "hub")
    with pytest.raises(WokenError), call.blocking(lambda: calls.append("interrupted")):
        call.wake()
    call.wake()
    assert calls == ["interrupted"]


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        pytest.param(lambda halt, _: halt.set(), HaltedError, None, id="halted"),
        pytest.param(lambda halt, call: halt.wake(), StalledError, "hub: interrupted while dozing", id="woken"),
        pytest.param(lambda halt, call: setattr(call, "pool_closed", True) or call.wake(), TransferError, "closed", id="closed"),
    ],
)  # fmt: skip
def test_what_a_wake_means_depends_on_who_called(
    act: object, error: type[Exception], words: str | None
) -> None:
    halt = Halt()
    call = Call(halt, "hub")
    call.enter("dozing")
    call.raise_if_woken()
    act(halt, call)
    with pytest.raises(error, match=words) as caught:
        call.raise_if_woken()
    assert caught.type is error
