"""When to ask the Hub again for a branch's commit: ``refresh=`` and the listing options of fsspec.

A listing of one commit never changes, so what grows old is only which commit a branch is at. Each call of a
user asks for that once at the most, however many listings and files it is about, so that all of it is of one
version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["MAX_REVISIONS", "Call", "Freshness", "drop_oldest"]

#: How a configuration file or a variable says no.
_NO: Final = frozenset({"0", "false", "no", "off"})


#: Revisions that are remembered, and when they were looked at; any other is looked at anew.
MAX_REVISIONS: Final = 10_000


@dataclass
class Call:
    """One call of a method by the user.

    Attributes:
        refresh: Whether it asks for the latest.
        began: When it began.
        seen: What it has looked at.
    """

    refresh: bool
    began: float
    seen: set[Hashable] = field(default_factory=set)


class _Here(threading.local):
    """The call that a thread is inside of."""

    call: Call | None = None


class Freshness:
    """Decides what a call has to look up again. Safe for many threads, each in a call of its own.

    Args:
        use_listings_cache: Whether one call may rely on what another has seen. A text such as ``false`` says
            no.
        listings_expiry_time: Seconds for which it may; ``None`` for as long as the filesystem lives.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        use_listings_cache: Any = True,
        listings_expiry_time: Any = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        text = isinstance(use_listings_cache, str)
        use = use_listings_cache.strip().lower() not in _NO if text else bool(use_listings_cache)
        expiry = None if listings_expiry_time is None else float(listings_expiry_time)
        self._lifetime = expiry if use else 0.0
        self._clock = clock
        self._here = _Here()
        self._looked: dict[Hashable, float] = {}

    def begin(self, *, refresh: bool = False) -> Call:
        """Return the call that the thread is inside of, or else a new one."""
        outer = self._here.call
        return Call(refresh, self._clock()) if outer is None or (refresh and not outer.refresh) else outer

    @contextmanager
    def within(self, call: Call) -> Iterator[None]:
        """Make what the thread does in the block a part of ``call``."""
        outer = self._here.call
        self._here.call = call
        try:
            yield
        finally:
            self._here.call = outer

    @property
    def wants_latest(self) -> bool:
        """Whether the call that the thread is inside of asks for the latest state."""
        call = self._here.call
        return call is not None and (call.refresh or self._lifetime == 0.0)

    def is_due(self, what: Hashable) -> bool:
        """Return whether something has to be looked up again; at most once in a call."""
        call = self._here.call
        if call is None or what in call.seen or (not call.refresh and self._lifetime is None):
            return False
        call.seen.add(what)
        looked = self._looked.get(what, float("-inf"))
        if looked >= call.began:  # by this very call, for the first time
            return False
        return call.refresh or self._lifetime is None or self._clock() - looked >= self._lifetime

    def note(self, what: Hashable) -> None:
        """Note that something was looked up just now."""
        self._looked.pop(what, None)
        drop_oldest(self._looked)
        self._looked[what] = self._clock()


def drop_oldest(kept: dict[Any, Any], most: int = MAX_REVISIONS) -> None:
    """Drop the older half of a table that holds ``most`` entries, to make room."""
    if len(kept) >= most:
        for oldest in list(kept)[: most // 2]:
            kept.pop(oldest, None)
