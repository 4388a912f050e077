"""One request as its cancel token sees it."""

from __future__ import annotations

import pytest

from hf_haul.cancellation import CancelToken
from hf_haul.errors import StalledError, StopRequestedError, TransferError
from hf_haul.transports.request import InterruptibleRequest, WokenError


@pytest.fixture
def calls() -> list[str]:
    return []


def test_a_wake_runs_the_interrupt_of_the_moment(calls: list[str]) -> None:
    cancel_token = CancelToken()
    call = InterruptibleRequest(cancel_token, "hub")
    call.interrupt_with(lambda: calls.append("first"))
    call.interrupt_with(lambda: calls.append("second"))
    cancel_token.wake()
    assert calls == ["second"]
    assert call.woken


def test_an_interrupt_that_comes_after_the_wake_runs_at_once(calls: list[str]) -> None:
    call = InterruptibleRequest(CancelToken(), "hub")
    call.wake()
    call.interrupt_with(lambda: calls.append("late"))
    assert calls == ["late"]


def test_a_call_of_a_cancel_token_that_is_set_is_woken_from_the_beginning() -> None:
    cancel_token = CancelToken()
    cancel_token.set()
    assert InterruptibleRequest(cancel_token, "hub").woken


def test_a_wake_after_the_end_touches_nothing(calls: list[str]) -> None:
    cancel_token = CancelToken()
    call = InterruptibleRequest(cancel_token, "hub")
    call.interrupt_with(lambda: calls.append("too late"))
    call.end()
    call.end()
    cancel_token.set()
    call.wake()
    assert calls == []
    assert not call.woken


def test_blocking_raises_after_a_wake_and_forgets_its_interrupt(calls: list[str]) -> None:
    call = InterruptibleRequest(CancelToken(), "hub")
    with pytest.raises(WokenError), call.blocking(lambda: calls.append("interrupted")):
        call.wake()
    call.wake()
    assert calls == ["interrupted"]


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        pytest.param(lambda cancel_token, _: cancel_token.set(), StopRequestedError, None, id="halted"),
        pytest.param(lambda cancel_token, call: cancel_token.wake(), StalledError, "hub: interrupted while dozing", id="woken"),
        pytest.param(lambda cancel_token, call: setattr(call, "pool_closed", True) or call.wake(), TransferError, "closed", id="closed"),
    ],
)  # fmt: skip
def test_what_a_wake_means_depends_on_who_called(
    act: object, error: type[Exception], words: str | None
) -> None:
    cancel_token = CancelToken()
    call = InterruptibleRequest(cancel_token, "hub")
    call.enter("dozing")
    call.raise_if_woken()
    act(cancel_token, call)
    with pytest.raises(error, match=words) as caught:
        call.raise_if_woken()
    assert caught.type is error
