"""How long servers may make us wait, and one wait per origin that all threads share."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.errors import StopRequestedError
from hf_haul.forks import renew_after_fork
from hf_haul.retry_after import MAX_BUSY_WAIT, MAX_RATE_LIMIT_WAIT, parse_retry_after
from hf_haul.urls import host_of
from hf_haul.waits import Wait, WaitReason, in_words

__all__ = ["RateLimits", "ServerWaits"]

#: Origins from which on those are forgotten that may be asked again.
_MANY: Final = 100


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
            StopRequestedError: The wait was cut short.
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
                        raise StopRequestedError
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
