"""A call looks at what it waits for only where it waits."""

from __future__ import annotations

import threading

from hf_haul.hub.call_events import CallEvents
from hf_haul.waits import Wait, WaitReason


def _lookers() -> int:
    return sum(thread.name.startswith("hf-haul-waits") for thread in threading.enumerate())


def test_a_call_that_asks_for_nothing_starts_no_thread() -> None:
    before = _lookers()
    with CallEvents(None).reviewing():
        assert _lookers() == before


def test_the_first_wait_of_a_call_starts_one_thread() -> None:
    before = _lookers()
    events = CallEvents(None)
    with events.reviewing():
        for _ in range(3):
            with events.waits.during(Wait(WaitReason.NETWORK, "no answer yet"), after=60.0):
                assert _lookers() == before + 1
