"""Signals that end a command as Ctrl+C does: what was fetched is kept, and the exit code says which it was.

With a handler, SIGTERM ends a container, too, in which the command is process 1: the kernel ignores a signal
there that has none.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from hf_haul.cli.exit_codes import ExitCode

__all__ = ["EndedBySignal", "ended_by_signals", "said_when_interrupted"]

_CODES: Final = {
    getattr(signal, name): code
    for name, code in (("SIGTERM", ExitCode.TERMINATED), ("SIGHUP", ExitCode.HUNG_UP))
    if hasattr(signal, name)
}


class EndedBySignal(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; whatever cleans up after Ctrl+C cleans up after it.

    Attributes:
        code: How the command ends.
    """

    def __init__(self, code: ExitCode) -> None:
        super().__init__()
        self.code = code


@contextmanager
def said_when_interrupted(text: Callable[[], str]) -> Iterator[None]:
    """Replace the message that is shown on an interrupt during the block.

    Args:
        text: Says what became of the work.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.said = text()  # type: ignore[attr-defined]  # any error takes attributes
        raise


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise ``EndedBySignal`` in the main thread when SIGTERM or SIGHUP comes during a block.

    What the parent had ignored, such as SIGHUP under ``nohup``, stays ignored.
    """
    before = {}
    try:
        for number in _CODES:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, _end)
    except ValueError:  # not the main thread: whoever called has the signals
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, _end_at_once)
    raise EndedBySignal(_CODES[signal.Signals(number)])


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    """Exit at once on the second signal; what is on disk survives a kill at any moment."""
    os._exit(_CODES[signal.Signals(number)])
