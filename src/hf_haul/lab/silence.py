"""What another Hub did not give lately: it is left alone for a while, and nobody waits long for it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

__all__ = ["LEAVE_ALONE", "PATIENCE", "Silence"]

#: Seconds before an upstream that did not answer is asked again, at the most.
LEAVE_ALONE: Final = 10.0
#: Seconds for which one who asks waits for an upstream that did not answer the last time.
PATIENCE: Final = 1.0

_MOST: Final = 10_000  # files

_EVERYTHING: Final = ""


class Silence:
    """Remembers what could not be had: single files, or anything at all.

    Safe for threads: ``_lock`` guards the table.

    Args:
        clock: Seconds; only differences count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: OrderedDict[str, float] = OrderedDict()
        self._heard_at = clock()

    def note(self, file: str, *, everything: bool, began: float) -> None:
        """Note that a file could not be had.

        Args:
            file: Names it.
            everything: Whether the other Hub did not answer at all.
            began: When it was first asked for that file, on the clock: if it has answered since, only this
                file is missing.
        """
        with self._lock:
            self._put(file)
            if everything and self._heard_at < began:
                self._put(_EVERYTHING)

    def hear(self, file: str) -> None:
        """Note that bytes of a file came."""
        with self._lock:
            self._heard_at = self._clock()
            self._since.pop(file, None)
            self._since.pop(_EVERYTHING, None)

    def holds(self, file: str) -> bool:
        """Return whether a file is not to be asked for now."""
        with self._lock:
            times = [self._since[each] for each in (file, _EVERYTHING) if each in self._since]
        return any(self._clock() - at < LEAVE_ALONE for at in times)

    def lasts(self, file: str) -> bool:
        """Return whether a file could not be had when it, or anything, was last asked for."""
        with self._lock:
            return file in self._since or _EVERYTHING in self._since

    def try_again(self, file: str) -> None:
        """Note that a file is asked for again: others are not, before that had its time."""
        with self._lock:
            for each in (file, _EVERYTHING):
                if each in self._since:
                    self._put(each)

    def _put(self, key: str) -> None:
        self._since[key] = self._clock()
        self._since.move_to_end(key)
        while len(self._since) > _MOST:
            self._since.popitem(last=False)
