"""What bars say of a wait: in the place of their description, in a few words, with the time that is left."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tqdm.std import tqdm

from hf_haul.hub.bar_making import are_bars_disabled, is_hubs_own, make_bar

__all__ = ["WaitBar", "WaitNote", "wait_line"]

logger = logging.getLogger(__name__)

#: What is said of each reason; not of a limit that somebody set, which the rate shows.
_WORDS: Final[Mapping[str, str]] = {
    "rate_limit": "{host} limits requests",
    "server_busy": "{host} is busy",
    "network": "{host} cannot be reached",
    "stall": "{host} sends nothing",
    "another_process": "another process fetches it",
    "disk": "the disk is slow",
    "paused": "paused",
}
_MINUTE: Final = 60
#: Columns of a line where nobody knows how many there are.
_COLUMNS: Final = 79
#: Seconds between two looks of a bar at the clock.
_REDRAWN: Final = 1.0
#: Seconds for a bar to go away; a terminal that takes nothing must not hold up the call.
_GRACE: Final = 0.5


def wait_line(waits: Sequence[Mapping[str, Any]], now: float) -> str:
    """Return the first of several waits in a few words; empty if there is none to tell of.

    Args:
        waits: As ``wait`` events have them.
        now: Unix seconds.
    """
    for wait in waits:
        words = _WORDS.get(wait["reason"])
        if words is None:
            continue
        text = words.format(host=wait["host"] or "the server")
        until = wait["until"]
        if until is None or until <= now:
            return text if wait["reason"] == "paused" else f"Waiting: {text}"
        minutes, seconds = divmod(math.ceil(until - now), _MINUTE)
        return f"Waiting {minutes}:{seconds:02}, {text}"
    return ""


class WaitNote:
    """Has a bar say what is waited for, and its clock go on meanwhile; for one thread.

    Only tqdm's own kinds of bars: what else a caller has may not know how.

    Args:
        bar: The bar.
        wall: Unix seconds.
    """

    def __init__(self, bar: Any, wall: Callable[[], float] = time.time) -> None:
        self._bar = bar if isinstance(bar, tqdm) and not bar.disable else None
        self._wall = wall
        self._described: str = "" if self._bar is None else (self._bar.desc or "").removesuffix(": ")
        self._said = ""
        self._drawn_at = wall()

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees it."""
        return self._bar is not None

    def show(self, waits: Sequence[Mapping[str, Any]], *, moved: bool = False) -> None:
        """Say what is waited for, or nothing of it any more.

        Args:
            waits: As ``wait`` events have them.
            moved: Whether the bar has just been drawn.
        """
        if self._bar is None:
            return
        now = self._wall()
        line = wait_line(waits, now)
        if line != self._said:
            self._said = line
            self._bar.set_description(line or self._described)
        elif not moved and now - self._drawn_at >= _REDRAWN:
            self._bar.refresh()
        elif not moved:
            return
        self._drawn_at = now


class WaitBar:
    """Shows what a call waits for before there is anything to count: one line, which goes when it is over.

    Where huggingface_hub would show no bar there is none, and a class of the caller's is left for the bars
    that it is meant for.

    Locking: ``_lock`` is held while it is drawn; :meth:`retire`, which another thread calls, waits for that.

    Args:
        cls: The caller's class of bars; ``None`` for huggingface_hub's.
        name: The name by which huggingface_hub's own bars are disabled.
        wall: Unix seconds.
    """

    def __init__(self, cls: Any, name: str, wall: Callable[[], float] = time.time) -> None:
        self._make: Callable[..., Any] | None = None
        if is_hubs_own(cls) and not are_bars_disabled(cls, name):
            self._make = lambda **options: make_bar(cls, name, **options)
        self._wall = wall
        self._bar: Any = None
        self._lock = threading.Lock()

    def show(self, waits: Sequence[Mapping[str, Any]]) -> bool:
        """Show what is waited for; return whether anybody sees it."""
        line = wait_line(waits, self._wall())
        with self._lock:
            if not line:
                self._close()
                return False
            try:
                return self._draw(line)
            except (OSError, ValueError) as error:  # the terminal is gone, or stderr closed
                logger.debug("no more bars: %s", error)
                self._make = None
                return False

    def retire(self, grace: float = _GRACE) -> None:
        """Take it away for good, before other bars come or the call ends.

        Args:
            grace: Most seconds for a terminal that takes nothing.
        """
        self._make = None
        if self._bar is not None and self._lock.acquire(timeout=grace):
            try:
                self._close()
            finally:
                self._lock.release()

    def _draw(self, line: str) -> bool:
        if self._bar is None:
            if self._make is None:
                return False
            self._bar = self._make(bar_format="{desc}", leave=False)
            if self._bar.disable:
                self._make = None
        if self._bar.disable:
            return False
        text = line[: self._bar.ncols or _COLUMNS]
        if text != self._bar.desc:
            self._bar.set_description_str(text)
        return True

    def _close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            try:
                bar.close()
            except (OSError, ValueError) as error:
                logger.debug("no more bars: %s", error)
