"""How long servers may make us wait, and one wait per origin that all threads share."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.errors import HaltedError
from hf_haul.forks import renew_after_fork
from hf_haul.urls import host_of
from hf_haul.waits import Wait, WaitReason, in_words

__all__ = ["MAX_BUSY_WAIT", "MAX_RATE_LIMIT_WAIT", "RateLimits", "ServerWaits", "parse_retry_after"]

#: Seconds waited for a server that counts requests (429), in all and at the most. The Hub's windows are 300
#: s; more is a mistake, or no download today.
MAX_RATE_LIMIT_WAIT: Final = 3600.0
#: Seconds waited for a server that is busy or broken (408, 425, 5xx), in all and at the most.
MAX_BUSY_WAIT: Final = 120.0
#: Origins from which on those are forgotten that may be asked again.
_MANY: Final = 100

#: ``"resolvers";r=0;t=57``: calls left in the window, and seconds until it starts anew.
_RATE_LIMIT: Final = re.compile(r"""\br\s*=\s*([0-9]+)\s*;\s*t\s*=\s*([0-9]+)""")
_SECONDS: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*")


def parse_retry_after(
    status: int, headers: Mapping[str, str], *, wall: Callable[[], float] = time.time
) -> float | None:
    """Return the seconds that an answer asks us to wait; ``None`` if it does not.

    ``Retry-After`` counts in any refusal that may pass (408, 425, 429, 5xx). ``RateLimit`` stands on every
    answer of the Hub, so it counts only in a 429 that says that nothing is left. Numbers of any length and
    dates of any year are understood, and none of them asks for more than :data:`MAX_RATE_LIMIT_WAIT` in a
    429, and for more than :data:`MAX_BUSY_WAIT` otherwise.

    Args:
        status: The HTTP status.
        headers: The answer's headers, by any-case names.
        wall: Seconds since the epoch; used if the answer tells no date of its own.
    """
    if status not in {408, 425, 429} and not 500 <= status <= 599:
        return None
    seconds = _retry_after(headers, wall)
    if seconds is None and status == 429:
        # Floats, because Python reads no int of more than 4300 digits.
        ends = [float(t) for r, t in _RATE_LIMIT.findall(headers.get("RateLimit") or "") if float(r) == 0]
        if ends:
            # A window that ends in t seconds is certainly over a second later.
            seconds = max(ends) + 1.0
    return None if seconds is None else min(seconds, MAX_RATE_LIMIT_WAIT if status == 429 else MAX_BUSY_WAIT)


def _retry_after(headers: Mapping[str, str], wall: Callable[[], float]) -> float | None:
    value = headers.get("Retry-After") or ""
    match = _SECONDS.fullmatch(value)
    if match is not None:
        return float(match[1])
    until = _http_date(value)
    if until is None:
        return None
    # The server's own idea of now, where it tells it: our clock may be minutes off.
    now = _http_date(headers.get("Date") or "")
    return max(0.0, until - (wall() if now is None else now))


def _http_date(value: str) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # "-0000", which HTTP reads as UTC
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


class ServerWaits:
    """How long one piece of work has waited at servers' request, and how much of that is left.

    The one place where such waits are bounded, for listings, metadata and bytes alike. A server that counts
    requests is obeyed for :data:`MAX_RATE_LIMIT_WAIT` seconds in all: nothing is wrong, only the next request
    has to wait for its turn. One that is busy or broken is waited for :data:`MAX_BUSY_WAIT` seconds in all;
    then it is as good as gone. For one thread.
    """

    __slots__ = ("_granted",)

    def __init__(self) -> None:
        self._granted = {True: 0.0, False: 0.0}

    def grant(self, seconds: float, *, counts_requests: bool) -> float | None:
        """Return the seconds to wait of those asked for: all of them, or what is left.

        Args:
            seconds: What the server asks for.
            counts_requests: Whether it said 429.

        Returns:
            ``None`` if nothing is left: the server has had its time.
        """
        granted = self._granted[counts_requests]
        left = (MAX_RATE_LIMIT_WAIT if counts_requests else MAX_BUSY_WAIT) - granted
        if left <= 0.0 < seconds:
            return None
        self._granted[counts_requests] = granted + min(seconds, left)
        return min(seconds, left)


class RateLimits:
    """The waits that servers asked for, shared by all threads of one manager.

    Locking: ``_lock`` guards ``_until`` and ``_spread``; nobody sleeps while holding it.

    Args:
        clock: Seconds, monotonic.
        wall: Seconds since the epoch.
        jitter: A number from 0 up to 1; spreads the threads' return, so that they do not all
            come back in the same instant and are refused again.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._jitter = jitter
        self._start_empty()
        renew_after_fork(self, RateLimits._start_empty)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self._reason: dict[str, WaitReason] = {}
        self._spread: dict[str, float] = {}

    def note(self, origin: str, status: int, headers: Mapping[str, str]) -> float | None:
        """Record the wait that an answer asks for.

        Args:
            origin: Who answered: ``scheme://host[:port]``.
            status: Its HTTP status.
            headers: Its headers.

        Returns:
            Seconds the answer asks to wait, ``None`` if it does not.
        """
        seconds = parse_retry_after(status, headers, wall=self._wall)
        if seconds is not None:
            reason = WaitReason.RATE_LIMIT if status == 429 else WaitReason.SERVER_BUSY
            self.pause(origin, seconds, reason)
        return seconds

    def pause(self, origin: str, seconds: float, reason: WaitReason = WaitReason.SERVER_BUSY) -> None:
        """Hold the next request to ``origin`` for ``seconds``, in all threads."""
        with self._lock:
            now = self._clock()
            before, until = self._until.get(origin, 0.0), now + seconds
            if until > before:
                if len(self._until) >= _MANY:
                    self._forget_past(now)
                self._until[origin] = until
                self._reason[origin] = reason
                self._spread[origin] = min(2.0, seconds / 10)

    def _forget_past(self, now: float) -> None:
        for origin in [each for each, until in self._until.items() if until <= now]:
            del self._until[origin]
            del self._reason[origin]
            del self._spread[origin]

    def waiting_for(self) -> dict[str, float]:
        """Return the origins that asked for a wait, and the seconds left for each."""
        with self._lock:
            now = self._clock()
            return {origin: until - now for origin, until in self._until.items() if until > now}

    def wait(self, origin: str, cancel_token: CancelToken) -> float:
        """Wait as long as ``origin`` asked for; ``cancel_token.server_wait`` grows by it.

        However often the pause is made longer meanwhile: after :data:`MAX_RATE_LIMIT_WAIT` seconds the caller
        asks for itself.

        Returns:
            Seconds waited.

        Raises:
            HaltedError: The wait was cut short.
        """
        if not self._until:  # the common case costs nothing
            return 0.0
        started = self._clock()
        with cancel_token.queueing():
            while (seconds := self._delay(origin)) > 0.0:
                left = MAX_RATE_LIMIT_WAIT - (self._clock() - started)
                if left <= 0.0:
                    break
                with cancel_token.waits.during(self._wait_for(origin, seconds)):
                    if cancel_token.wait(min(seconds, left)):
                        raise HaltedError
        waited = self._clock() - started
        cancel_token.server_wait += waited
        return waited

    def _wait_for(self, origin: str, seconds: float) -> Wait:
        """Return what a wait for an origin's turn is for people."""
        reason = self._reason.get(origin, WaitReason.SERVER_BUSY)
        host = host_of(origin)
        why = "limits requests" if reason is WaitReason.RATE_LIMIT else "is busy"
        return Wait(reason, f"{host} {why}: the next one goes out in {in_words(seconds)}", seconds, host)

    def _delay(self, origin: str) -> float:
        with self._lock:
            left = self._until.get(origin, 0.0) - self._clock()
            if left <= 0.0:
                self._until.pop(origin, None)
                self._reason.pop(origin, None)
                self._spread.pop(origin, None)
                return 0.0
            return left + self._jitter() * self._spread[origin]
