"""What is being waited for now, and who is told.

The problem. A retry, the pace that a server asks for, a bandwidth limit, another process that has the file:
each of them waits in a place of its own, and whoever watches sees that nothing moves, and not why.

What we chose. Each of them reports here when it begins and when it ends, to the :class:`Waits` of the call or
the queue that it holds up. From there come the lines of the log, the events, and what a display shows. Eight
connections that wait for the same server are one wait for people: of one reason and one host, one line at the
most is written in a second, and none for a wait that only goes on. Lines are of level INFO; a wait of more
than ten seconds that nobody shows is a warning, too.

Invariants. Reporting costs a moment and never waits. The listener and the log are called without a lock, by
whoever reports, so nobody may report with a lock held; ending a wait tells nobody, and is free of that.
"""

from __future__ import annotations

import enum
import itertools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from hf_haul.forks import renew_after_fork

__all__ = ["Wait", "WaitReason", "Waits", "in_words", "unattended"]

logger = logging.getLogger(__name__)

#: Seconds between two lines about one reason and host.
_INTERVAL: Final = 1.0
#: Seconds by which a wait may grow and still be the same, and the same as a share of it.
_SLACK, _SLACK_SHARE = 3.0, 0.1
#: Seconds after which what comes and goes, as a bandwidth limit does, is told again.
_FORGOTTEN: Final = 30.0
#: Seconds of a wait without a known end after which it is said again, at first and from then on.
_SAY_AGAIN: Final = (60.0, 600.0)
#: Seconds of a wait from which on it is a warning where nobody shows it, and from one warning to the next.
_LONG, _WARN_AGAIN = 10.0, 60.0
#: A retry that is one, too, however short the wait before it: the others were in vain.
_MANY_RETRIES: Final = 4
#: Tells one :class:`Waits` from others in the log.
_numbers: Final = itertools.count()
#: Reasons and hosts that are remembered.
_MANY: Final = 100


class WaitReason(str, enum.Enum):
    """Why nothing moves."""

    RATE_LIMIT = "rate_limit"
    SERVER_BUSY = "server_busy"
    NETWORK = "network"
    STALL = "stall"
    BANDWIDTH_LIMIT = "bandwidth_limit"
    ANOTHER_PROCESS = "another_process"
    DISK = "disk"
    PAUSED = "paused"


#: What somebody asked for is no reason for a warning.
_CHOSEN: Final = frozenset({WaitReason.BANDWIDTH_LIMIT, WaitReason.PAUSED})


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait.

    Attributes:
        reason: Why.
        message: The same for people, in one line: who, what happened, what follows.
        seconds: How long it will take from when it is reported; ``None`` if nobody knows.
        host: Who is waited for, ``host`` or ``host:port``.
        attempt: The number of the retry that follows, from 1.
        attempts: Retries without a new byte after which it fails.
        path: The file, where it is about one.
        pid: The other process.
        process: Its program.
    """

    reason: WaitReason
    message: str
    seconds: float | None = None
    host: str | None = None
    attempt: int | None = None
    attempts: int | None = None
    path: str | None = None
    pid: int | None = None
    process: str | None = None

    @property
    def kind(self) -> Hashable:
        """Key by which two waits are the same to people."""
        return self.reason, self.host, self.pid


class _Entry:
    """A wait that has begun."""

    __slots__ = ("after", "again", "ends", "expires", "is_told", "since", "until", "wait", "warned")

    def __init__(self, wait: Wait, now: float, wall: float, lasting: float | None, after: float) -> None:
        self.wait = wait
        self.since = now
        self.after = now + after
        self.ends = None if wait.seconds is None else now + wait.seconds
        self.until = None if wait.seconds is None else wall + wait.seconds
        self.expires = None if lasting is None else now + lasting
        self.is_told = False
        self.warned = wait.reason in _CHOSEN
        self.again = now + _SAY_AGAIN[0]

    def as_dict(self) -> dict[str, Any]:
        wait = self.wait
        return {
            "reason": wait.reason.value,
            "until": self.until,
            "message": wait.message,
            "attempt": wait.attempt,
            "attempts": wait.attempts,
            "host": wait.host,
            "path": wait.path,
            "pid": wait.pid,
            "process": wait.process,
        }


@dataclass(slots=True)
class _Told:
    """What was told of one kind, and when."""

    at: float
    ends: float | None
    attempt: int | None
    left: float | None = None  # since when nothing of the kind is waited for


class Waits:
    """What one call, or one queue, is waiting for.

    Locking: ``_lock`` guards the attributes below it. It is a leaf: nothing is called with it held.

    Args:
        clock: Seconds, monotonic.
        wall: Unix seconds.
        reviewed: Whether somebody calls :meth:`review` now and then.

    Attributes:
        on_begin: Called whenever something begins to be waited for, as the first thing.
        shown: Whether somebody shows :meth:`current` to people; the log has no warnings then.
        listener: Called with each wait that is told, as a dict with the keys of a ``wait`` event.
        asked_again: Requests about a repository that were repeated.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        reviewed: bool = True,
    ) -> None:
        self.shown = False
        self.on_begin: Callable[[], object] | None = None
        self._reviewed = reviewed
        self.listener: Callable[[dict[str, Any]], object] | None = None
        self.asked_again = 0
        self._number = next(_numbers)
        self._clock = clock
        self._wall = wall
        self._renew()
        renew_after_fork(self, Waits._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}
        self._told: dict[Hashable, _Told] = {}
        self._warned: dict[Hashable, float] = {}

    # ---- what waits reports

    def begin(self, key: Hashable, wait: Wait, *, lasting: float | None = None, after: float = 0.0) -> None:
        """Report a wait; call it without any lock.

        Args:
            key: Names it until :meth:`end`; another wait under the same name takes its place.
            wait: The wait.
            lasting: Seconds after which it counts as over unless it is reported again; ``None`` for never.
            after: Seconds that it may take before it is worth a word; then :meth:`review` tells it.
        """
        on_begin = self.on_begin
        if on_begin is not None:
            on_begin()
        now = self._clock()
        entry = _Entry(wait, now, self._wall(), lasting, after)
        with self._lock:
            before = self._entries.get(key)
            if before is not None and before.wait.kind == wait.kind and before.wait.attempt == wait.attempt:
                entry.since, entry.after, entry.again = before.since, before.after, before.again
                entry.warned = before.warned
                entry.is_told = before.is_told and not self._has_grown(entry, before.ends)
            elif before is not None:
                self._drop(key, now)
            self._entries[key] = entry
            telling = self._is_news(entry, now)
        if telling:
            self._tell(entry)

    def extend(self, key: Hashable, lasting: float) -> bool:
        """Report that a wait goes on; return whether it is known."""
        entry = self._entries.get(key)
        now = self._clock()
        if entry is None or entry.expires is None or entry.expires < now:
            return False
        entry.expires = now + lasting
        return True

    def end(self, key: Hashable) -> None:
        """Report that a wait is over. Nobody is told, so a lock may be held."""
        if key in self._entries:
            now = self._clock()
            with self._lock:
                self._drop(key, now)

    @contextmanager
    def during(self, wait: Wait, *, after: float = 0.0) -> Iterator[None]:
        """Report a wait for as long as the block takes; see :meth:`begin`."""
        key = object()
        self.begin(key, wait, after=after)
        try:
            yield
        finally:
            self.end(key)

    def has(self, key: Hashable) -> bool:
        """Return whether a wait is reported under this name."""
        return key in self._entries

    def clear(self) -> None:
        """Report that nothing is waited for any more."""
        with self._lock:
            self._entries.clear()
            self._told.clear()
            self._warned.clear()

    # ---- what people are told

    def current(self) -> list[dict[str, Any]]:
        """Return what is waited for, as ``wait`` events have it: the longest of each reason and host."""
        now = self._clock()
        longest: dict[Hashable, _Entry] = {}
        with self._lock:
            for entry in self._entries.values():
                if entry.after > now or (entry.expires is not None and entry.expires < now):
                    continue
                known = longest.setdefault(entry.wait.kind, entry)
                if (known.ends or 0.0) < (entry.ends or 0.0):
                    longest[entry.wait.kind] = entry
        return [entry.as_dict() for entry in longest.values()]

    def first(self, reason: WaitReason) -> str | None:
        """Return the message of the oldest wait with this reason; ``None`` if there is none."""
        with self._lock:
            return next((e.wait.message for e in self._entries.values() if e.wait.reason is reason), None)

    def review(self) -> None:
        """Tell what is due by now: what has lasted long enough, or came too soon after another line."""
        if not self._entries:  # the usual case costs nothing
            return
        now = self._clock()
        with self._lock:
            for key in [k for k, e in self._entries.items() if e.expires is not None and e.expires < now]:
                self._drop(key, now)
            due = [entry for entry in self._entries.values() if self._is_news(entry, now)]
            long = [entry for entry in self._entries.values() if self._is_due_again(entry, now)]
            alarming = [entry for entry in self._entries.values() if self._is_alarming(entry, now)]
        for entry in due:
            self._tell(entry)
        for entry in alarming:
            for_how_long = f"still waiting, for {now - entry.since:.0f} s now: "
            started = "" if now - entry.since < _LONG else for_how_long
            logger.warning("%s%s", started, entry.wait.message)
        for entry in long:
            logger.info("still, for %.0f s now: %s", now - entry.since, entry.wait.message)

    # ---- with the lock held

    def _drop(self, key: Hashable, now: float) -> None:
        entry = self._entries.pop(key, None)
        if entry is None or any(each.wait.kind == entry.wait.kind for each in self._entries.values()):
            return
        told = self._told.get(entry.wait.kind)
        if told is not None:
            told.left = now

    def _is_news(self, entry: _Entry, now: float) -> bool:
        """Return whether to tell of a wait now, and note that it is told."""
        kind = entry.wait.kind
        told = self._told.get(kind)
        if entry.is_told or now < entry.after or (told is not None and now - told.at < _INTERVAL):
            return False
        entry.is_told = True
        if told is not None and not self._differs(entry, told, now):
            told.left = None
            return False
        if len(self._told) >= _MANY:
            self._told.pop(next(iter(self._told)))
        self._told[kind] = _Told(now, entry.ends, entry.wait.attempt)
        return True

    def _differs(self, entry: _Entry, told: _Told, now: float) -> bool:
        """Return whether a wait is another one than what was told of its kind last."""
        if entry.wait.attempt is not None:  # one after another: of one part, or of several that fail together
            return entry.wait.attempt != told.attempt or told.ends is None or now >= told.ends
        if entry.ends is not None:
            return self._has_grown(entry, told.ends)
        if entry.expires is not None:
            return told.left is not None and now - told.left >= _FORGOTTEN
        return told.left is not None

    def _is_alarming(self, entry: _Entry, now: float) -> bool:
        """Return whether to warn of a wait now, as it is long and nobody shows it, and note that."""
        if entry.warned or self.shown or self.listener is not None or now < entry.after:
            return False
        wait = entry.wait
        known_long = wait.seconds is not None and wait.seconds >= _LONG
        if not known_long and now - entry.since < _LONG and (wait.attempt or 0) < _MANY_RETRIES:
            return False
        entry.warned = True
        if now - self._warned.get(wait.kind, -_WARN_AGAIN) < _WARN_AGAIN:
            return False
        if len(self._warned) >= _MANY:
            self._warned.pop(next(iter(self._warned)))
        self._warned[wait.kind] = now
        return True

    @staticmethod
    def _has_grown(entry: _Entry, ends: float | None) -> bool:
        if entry.ends is None or ends is None:
            return entry.ends is not ends
        return entry.ends > ends + max(_SLACK, _SLACK_SHARE * (entry.ends - entry.since))

    @staticmethod
    def _is_due_again(entry: _Entry, now: float) -> bool:
        """Return whether to say once more that a wait goes on whose end nobody knows."""
        endless = entry.ends is None and entry.expires is None
        if not endless or not entry.is_told or entry.wait.reason is WaitReason.PAUSED or now < entry.again:
            return False
        entry.again = now + _SAY_AGAIN[1]
        return True

    # ---- without it

    def _tell(self, entry: _Entry) -> None:
        now = self._clock()
        if _log.take(self._number, entry, now):
            level = logging.INFO
            if not self._reviewed:  # there will be no other moment for a warning
                with self._lock:
                    level = logging.WARNING if self._is_alarming(entry, now) else level
            logger.log(level, "%s", entry.wait.message)
        listener = self.listener
        if listener is not None:
            listener(entry.as_dict())


class _Log:
    """Logs one line where several queues and calls wait for the same.

    Locking: ``_lock`` guards what was written.
    """

    def __init__(self) -> None:
        self._renew()
        renew_after_fork(self, _Log._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._written: dict[Hashable, tuple[int, float, float | None]] = {}

    def take(self, writer: int, entry: _Entry, now: float) -> bool:
        """Return whether a line is to be written, and note that it is.

        Args:
            writer: Which :class:`Waits` asks; only what others have written counts.
            entry: The wait.
            now: Seconds, monotonic.
        """
        key = (entry.wait.kind, None if entry.ends is not None else entry.wait.message)
        with self._lock:
            by, at, ends = self._written.get(key, (writer, 0.0, None))
            if entry.ends is None or ends is None:
                same = 0.0 <= now - at < _INTERVAL
            else:
                same = at <= now < ends and abs(entry.ends - ends) < _INTERVAL
            if same and by != writer:
                return False
            if len(self._written) >= _MANY:
                self._written.pop(next(iter(self._written)))
            self._written[key] = (writer, now, entry.ends)
            return True


_log: Final = _Log()
#: Where what nobody listens to is reported: its waits go to the log only.
unattended: Final = Waits(reviewed=False)


def in_words(seconds: float) -> str:
    """Return a length of time for people: ``0.3 s``, ``57 s``, ``5 min``."""
    if seconds < 0.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120.0 else f"{seconds / 60.0:.0f} min"
