"""What must be done although memory is short, and what may be kept of an error."""

from __future__ import annotations

import contextlib
import logging
import mmap
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from hf_haul.errors import HaulError

__all__ = ["Standstill", "drop_frames", "insist"]

logger = logging.getLogger(__name__)

#: Seconds before what must be done is tried again: memory may be short for a moment.
_PAUSES: Final = (0.0, 0.02, 0.1, 0.3, 1.0, 2.0)
#: Bytes that are kept free for the end. Less than any thread's stack: or a new thread would get them.
_RESERVE: Final = 4 << 20


def insist(work: Callable[[], object], pauses: Sequence[float] = _PAUSES) -> None:
    """Do what must be done, and repeat it where it fails; raise an interrupt only afterwards.

    Args:
        work: What must be done.
        pauses: Seconds before each further attempt.
    """
    interrupt: BaseException | None = None
    for pause in (*pauses, None):
        try:
            work()
            break
        except BaseException as error:  # memory, mostly, which may be there again in a moment
            if pause is None:
                raise
            if isinstance(error, KeyboardInterrupt):
                interrupt = error
            logger.debug("trying again: %s", repr(error))
            time.sleep(pause)
    if interrupt is not None:
        raise interrupt


class Standstill:
    """How long errors of our own have kept every download from going on; the one rule about when to give up.

    What repairs and what ends a download needs memory, too. Where none is left for these, each error is
    followed by the next, and nothing would ever end. So some address space is reserved, which costs no memory
    until it is used; it is released when it is time to give up.

    Threads may use it without a lock: the values are set at once.

    Args:
        most: Seconds after which to give up.

    Attributes:
        is_new: Whether the latest error was the first since something went on.
    """

    def __init__(self, most: float) -> None:
        self.is_new = False
        self._most = most
        self._since: float | None = None
        self._lacking = False  # memory, since then
        self._reserve: mmap.mmap | None = None

    def begin(self) -> None:
        """Forget what was, where downloads begin or go on, and reserve what is needed to end them."""
        self.end()
        if self._reserve is None:
            with contextlib.suppress(OSError, MemoryError):  # then it has to do without
                self._reserve = mmap.mmap(-1, _RESERVE)

    def end(self) -> None:
        """Note that something went on: bytes came, or a job was done."""
        self._since = None
        self._lacking = False

    def note(self, error: BaseException) -> bool:
        """Note that a thread could not go on; return whether to give up. It needs no memory to speak of."""
        if isinstance(error, MemoryError):
            self._lacking = True
        now = time.monotonic()
        self.is_new = self._since is None
        if self._since is None:
            self._since = now
        if now - self._since <= self._most:
            return False
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            reserve.close()
        return True

    def reason(self, error: BaseException) -> BaseException:
        """Return what to fail the downloads with.

        Args:
            error: The last error.
        """
        if self._lacking:
            return MemoryError(f"there is no memory left: for {self._most:g} s no download could go on")
        return error


class _Traceback(Exception):  # noqa: N818  it only carries text
    """Where an error came from, in words: the cause of one that nobody expected."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def drop_frames(error: BaseException) -> None:
    """Let go of the frames of an error, and of those that it came from.

    Who keeps the error would keep all that they refer to: buffers, files, tokens, whole queues. Where an
    unexpected error came from is kept in words.
    """
    if (
        not isinstance(error, HaulError | OSError)
        and error.__cause__ is None
        and error.__traceback__ is not None
    ):
        with contextlib.suppress(Exception):  # no memory for it
            error.__cause__ = _Traceback("".join(traceback.format_tb(error.__traceback__)))
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            pending += [each.__cause__, each.__context__]
