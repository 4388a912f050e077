"""Signals that end a command as Ctrl+C does."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hf_haul.cli.exit_codes import ExitCode
from hf_haul.cli.signals import EndedBySignal, ended_by_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process there")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", ExitCode.TERMINATED), ("SIGHUP", ExitCode.HUNG_UP)])
def test_a_signal_is_raised_as_an_interrupt_that_knows_its_exit_code(name: str, code: ExitCode) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, ended_by_signals():
        signal.raise_signal(number)
    assert isinstance(caught.value, EndedBySignal)
    assert caught.value.code is code
    assert signal.getsignal(number) is before


def test_a_signal_that_the_parent_had_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_has_no_signals_to_look_after() -> None:
    ran: list[bool] = []

    def run() -> None:
        with ended_by_signals():
            ran.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert ran == [True]
