"""The one owner of retries: when to try again, after how long, and when to give up."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn

from tenacity import RetryCallState, Retrying, retry_if_exception

from hf_haul.cancellation import CancelToken
from hf_haul.config import Settings
from hf_haul.errors import (
    RetriesExhaustedError,
    ServerBusyError,
    StalledError,
    StopRequestedError,
    TransferError,
)
from hf_haul.retry_after import MAX_RATE_LIMIT_WAIT
from hf_haul.transports.pacing import ServerWaits
from hf_haul.urls import host_of
from hf_haul.waits import Wait, WaitReason, in_words

__all__ = ["ChangeRetries", "Trickle", "is_retryable", "retrying", "stall_hint"]


def is_retryable(error: BaseException) -> bool:
    """Return whether another attempt can help."""
    return isinstance(error, TransferError) and error.retryable


def stall_hint(*, answered: bool) -> str:
    """Return the end of a message that names the setting for sources that are silent too long."""
    return f" (HF_HAUL_{'STALL' if answered else 'FIRST_BYTE'}_TIMEOUT sets how long is waited)"


#: Times a range is asked for again after its source seemed to serve another file: a broken proxy looks the
#: same.
_CHANGE_RETRIES: Final = 2


class ChangeRetries:
    """Counts how often a source seemed to have changed its file, in one part or one read."""

    __slots__ = ("_since", "_times")

    def __init__(self) -> None:
        self._times = 0
        self._since = 0.0

    def allow(self, now: float, settings: Settings, *, known: bool) -> bool:
        """Count another apparent change; return whether to ask again.

        Args:
            now: Seconds, on one clock.
            settings: How often to try at the most, and for how long.
            known: Whether it is known what the file must be, so that the other one is of no use.
        """
        if not self._times:
            self._since = now
        self._times += 1
        patient = known and now - self._since < settings.timings.file_changes
        return self._times <= (settings.max_retries if patient else _CHANGE_RETRIES)


#: Bytes per second below which a source is as good as gone, and for how many seconds of reading.
_LEAST_SPEED: Final = 100.0
_LEAST_SPEED_SECONDS: Final = 60.0
#: Seconds of reading that are kept as one number.
_GRAIN: Final = 1.0


class Trickle:
    """The bytes of the last minute of reading, over all attempts at one part or one read; for one thread.

    Any new byte gives the budget of retries back, so a source that drips would be read for ever. Only seconds
    spent waiting for bytes are counted: not those for an answer, between attempts, or held back by a limiter
    of our own.
    """

    __slots__ = ("_bytes", "_kept", "_seconds")

    def __init__(self) -> None:
        self._kept: deque[tuple[float, int]] = deque()
        self._seconds = 0.0
        self._bytes = 0

    def note(self, seconds: float, nbytes: int) -> None:
        """Record one read: the seconds it took, and its bytes."""
        self._seconds += seconds
        self._bytes += nbytes
        if self._kept and self._kept[-1][0] < _GRAIN:
            last_seconds, last_bytes = self._kept.pop()
            seconds, nbytes = last_seconds + seconds, last_bytes + nbytes
        self._kept.append((seconds, nbytes))
        while self._seconds - self._kept[0][0] >= _LEAST_SPEED_SECONDS:
            gone_seconds, gone_bytes = self._kept.popleft()
            self._seconds -= gone_seconds
            self._bytes -= gone_bytes

    def check(self, subject: str, source: str) -> None:
        """Raise if a source is too slow to wait for.

        Raises:
            RetriesExhaustedError: It does.
        """
        if self._seconds < _LEAST_SPEED_SECONDS or self._bytes >= _LEAST_SPEED * self._seconds:
            return
        raise RetriesExhaustedError(
            f"{subject}: gave up, because only {self._bytes} bytes came from {source} in {self._seconds:.0f} s of reading"
        )


class _Budget:
    """Failures, and seconds, since the last new byte.

    Progress gives the whole budget back: a link that drops every minute is slow, not broken. Seconds that the
    server asked us to wait are nobody's fault and do not count; they are bounded by themselves, see
    ``ServerWaits``.
    """

    def __init__(
        self,
        settings: Settings,
        progress: Callable[[], int],
        server_wait: Callable[[], float],
        clock: Callable[[], float],
        began: float | None,
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._server_wait = server_wait
        self._clock = clock
        self._bytes = progress()
        self._since = clock() if began is None else began
        self._excused = server_wait()
        self._granted_seconds = 0.0
        self._waits = ServerWaits()
        self._waited_enough = False
        self.is_late = False
        self.failures = 0

    @property
    def seconds(self) -> float:
        """Seconds since the last new byte, without those the server asked for."""
        return self._clock() - self._since - self.server_wait

    @property
    def server_wait(self) -> float:
        """Seconds since the last new byte that the server asked for."""
        return self._granted_seconds + self._server_wait() - self._excused

    def failed(self) -> None:
        """Count one failure, or start over if bytes came."""
        done = self._progress()
        if done > self._bytes:
            self._bytes = done
            self._since = self._clock()
            self._excused = self._server_wait()
            self._granted_seconds = 0.0
            self._waits = ServerWaits()
            self.failures = 0
        else:
            self.failures += 1

    def grant(self, error: TransferError) -> float:
        """Return the seconds to wait because the server asked for it; they do not count."""
        asked = error.retry_after or 0.0
        granted = self._waits.grant(asked, counts_requests=getattr(error, "counts_requests", False))
        # Waits of other threads that this one shared are none of its own, but there has to be an end to them,
        # too.
        self._waited_enough = granted is None or self.server_wait >= MAX_RATE_LIMIT_WAIT
        self._granted_seconds += granted or 0.0
        return granted or 0.0

    def is_spent(self, state: RetryCallState) -> bool:
        """Return whether to give up (tenacity's ``stop``), as if the next wait were over."""
        allowed = self._settings.max_retries
        self.is_late = self.seconds + state.upcoming_sleep >= self._settings.give_up_after
        return allowed == 0 or self.failures > allowed or self._waited_enough or self.is_late


class _WaitAsTold:
    """Full jitter, doubling with each failure in a row; or what the server asked for."""

    def __init__(self, settings: Settings, budget: _Budget, jitter: Callable[[], float]) -> None:
        self._settings = settings
        self._budget = budget
        self._jitter = jitter

    def __call__(self, state: RetryCallState) -> float:
        told = self._budget.grant(_error_of(state))
        doubled = self._settings.first_retry_wait * 2.0 ** min(self._budget.failures, 30)
        # Never sooner than without being told: a server that keeps saying "in one second" is not to be
        # trusted.
        return max(told, self._jitter() * min(doubled, self._settings.max_retry_wait))


def _error_of(state: RetryCallState) -> TransferError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, TransferError)  # the only kind that is retried
    return error


def _wait_for(
    error: TransferError, seconds: float, attempt: int, attempts: int, subject: str, source: str
) -> Wait:
    """Return what the wait before another attempt is for people."""
    host = error.host or host_of(source) or None
    what = str(error).removeprefix(f"{subject}: ")
    reason = WaitReason.NETWORK
    if isinstance(error, ServerBusyError):
        reason = WaitReason.RATE_LIMIT if error.counts_requests else WaitReason.SERVER_BUSY
        what = f"{host or 'the server'} {'limits requests' if error.counts_requests else 'is busy'} ({what})"
    elif isinstance(error, StalledError):
        reason = WaitReason.STALL
    message = (
        f"{subject + ': ' if subject else ''}{what}; retry {attempt} of {attempts} in {in_words(seconds)}"
    )
    return Wait(reason, message, seconds, host, attempt, attempts, subject or None)


def retrying(
    *,
    cancel_token: CancelToken,
    progress: Callable[[], int],
    settings: Settings,
    on_retry: Callable[[BaseException, float], None],
    clock: Callable[[], float] = time.monotonic,
    server_wait: Callable[[], float] = lambda: 0.0,
    jitter: Callable[[], float] = random.random,
    subject: str = "",
    part: str = "",
    source: str = "",
    began: float | None = None,
) -> Retrying:
    """Return a caller that tries again until it works, the budget is spent, or the worker is stopped.

    One caller is for one part: ``retrying(...)(fetch, part)``. The budget is ``settings.max_retries``
    failures in a row and ``settings.give_up_after`` seconds, both without a new byte. Errors that no attempt
    can change are raised as they are; a spent budget raises :class:`RetriesExhaustedError` from the last
    error; a cancel token that is set raises :class:`StopRequestedError`, also in the middle of a wait.

    Args:
        cancel_token: Cuts every wait short.
        progress: Bytes received so far; any growth gives the whole budget back.
        settings: The budget and the waits.
        on_retry: Called before each wait with the error and the seconds to wait.
        clock: Seconds, monotonic.
        server_wait: Seconds the worker has spent elsewhere on waits that the server asked for
            (``RateLimits.wait``).
        jitter: A number from 0 up to 1.
        subject: What is being fetched; stands in the message.
        part: Which part of it, if somebody asked for that part; the same.
        source: Where from: ``scheme://host:port``.
        began: When the first attempt began, on ``clock``, if that was before this call.
    """
    budget = _Budget(settings, progress, server_wait, clock, began)

    pending: list[Wait] = []

    def sleep(seconds: float) -> None:
        with cancel_token.waits.during(pending.pop()):
            if cancel_token.wait(seconds):
                raise StopRequestedError

    def should_retry(error: BaseException) -> bool:
        if not is_retryable(error):
            return False
        if cancel_token.is_set():
            raise StopRequestedError from error
        budget.failed()
        return True

    def before_sleep(state: RetryCallState) -> None:
        error, seconds = _error_of(state), state.upcoming_sleep
        pending[:] = [_wait_for(error, seconds, budget.failures, settings.max_retries, subject, source)]
        on_retry(error, seconds)

    def give_up(state: RetryCallState) -> NoReturn:
        error = _error_of(state)
        asked = (
            f" (and {budget.server_wait:.0f} s that the server asked for)"
            if budget.server_wait >= 1.0
            else ""
        )
        if budget.is_late:
            asked += "; HF_HAUL_GIVE_UP_AFTER sets how long is tried"
        what = str(error).removeprefix(f"{subject}: ")
        attempts = "1 attempt" if state.attempt_number == 1 else f"{state.attempt_number} attempts"
        raise RetriesExhaustedError(
            f"{subject + ': ' if subject else ''}gave up {'on ' + part + ' ' if part else ''}after {attempts}, the last {budget.failures} of them "
            f"and {max(0.0, budget.seconds):.0f} s without a new byte{asked}; the last error: {what}",
            retry_after=error.retry_after,
        ) from error

    return Retrying(
        retry=retry_if_exception(should_retry),
        wait=_WaitAsTold(settings, budget, jitter),
        stop=budget.is_spent,
        sleep=sleep,
        before_sleep=before_sleep,
        retry_error_callback=give_up,
    )
