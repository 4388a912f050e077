"""The thread that looks at what is in flight, again and again, while there is something to look at."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Final, Protocol

from hf_haul.engine.jobs import Action
from hf_haul.threads import ThreadGroup

__all__ = ["TICK", "TickTarget", "Ticker"]

logger = logging.getLogger(__name__)

#: Seconds between two looks.
TICK: Final = 0.1
#: The same while a source's best number of connections is looked for.
_FIRST_TICK: Final = 0.05
#: Seconds between two looks whether something was left half-made, and of who waits whether to help.
_LOOK_SECONDS: Final = 0.5


class TickTarget(Protocol):
    """What is looked at: the scheduler."""

    def has_work(self) -> bool:
        """Return whether there is anything to look at."""

    def is_settled(self) -> bool:
        """Return whether every source's best number of connections is known."""

    def tick(self, *, tell: bool = True) -> None:
        """Look once at everything in flight, and tell users of progress."""

    def mend(self) -> None:
        """Repair what an error left half done."""


class Ticker:
    """Looks ten times a second, at the start twenty times; its thread ends when there is nothing to look at.

    Args:
        target: What to look at.
        idle_seconds: Seconds without work after which the thread ends.
        first: Seconds between two looks at the start.
        usual: Seconds between two looks later.
    """

    def __init__(
        self, target: TickTarget, *, idle_seconds: float, first: float = _FIRST_TICK, usual: float = TICK
    ) -> None:
        self._target = target
        self._first, self._usual = first, usual
        self._closing = threading.Event()
        self._alone_at = -math.inf
        self._threads = ThreadGroup("hf-haul-ticker", 1, self._next, idle_seconds=idle_seconds)

    def __len__(self) -> int:
        """Return the threads there are: one or none."""
        return len(self._threads)

    def wake(self) -> None:
        """Ask for a look soon; call :meth:`start` afterwards, without a lock."""
        self._threads.wake()

    def start(self) -> bool:
        """Start the thread if it is missing; return whether there is one where one is needed."""
        return self._threads.start()

    def close(self, timeout: float | None = None) -> bool:
        """End the thread after the look under way.

        Args:
            timeout: Seconds to wait for it at the most.

        Returns:
            Whether it has ended.
        """
        self._closing.set()
        return self._threads.close(timeout)

    def tick_here(self) -> None:
        """Look on the calling thread, if it is time to and no thread does."""
        if not len(self._threads) and time.monotonic() - self._alone_at >= self._usual:
            self._alone_at = time.monotonic()
            self._target.tick()

    def _next(self) -> Action | None:
        try:
            return self._tick_on if self._target.has_work() else None
        except MemoryError:  # who waits for the work relies on somebody who looks
            return self._tick_on

    def _tick_on(self) -> None:
        told = mended = 0.0
        failing = False
        while True:
            try:
                self._closing.wait(self._usual if self._target.is_settled() else self._first)
                if not self._target.has_work():
                    return
            except MemoryError:
                time.sleep(self._usual)
                continue
            now = time.monotonic()
            tell, mend = now - told >= self._usual, now - mended >= _LOOK_SECONDS
            told, mended = now if tell else told, now if mend else mended
            try:
                self._target.tick(tell=tell)
                if mend:
                    self._target.mend()
                failing = False
            except BaseException:  # the next look may do better, and the watchdog must not end
                if not failing:
                    logger.warning(
                        "unexpected error while the downloads in flight were checked", exc_info=True
                    )
                failing = True
