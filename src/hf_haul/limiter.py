"""A bandwidth limit shared by any number of threads and managers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.errors import StopRequestedError
from hf_haul.forks import renew_after_fork
from hf_haul.waits import Wait, WaitReason, Waits

__all__ = ["BandwidthLimiter", "rate_in_words"]

#: A pause longer than this shows as a stutter, a shorter one costs accuracy to scheduling noise.
_BURST_SECONDS: Final = 0.05
_MIN_BURST: Final = 64 << 10
#: How long a sleeper may miss a change of the rate.
_SLICE_SECONDS: Final = 0.1
#: Seconds from one read that is held back to the next within which they are one wait.
_WAIT_LASTS: Final = 2.0
#: Less than a clock can tell; rounding leaves such rests.
_NOTHING: Final = 1e-6


class BandwidthLimiter:
    """A token bucket, in bytes, that may go into debt.

    A request larger than the balance is granted at once and leaves a debt; the debt is what spaces out the
    callers behind it. So nobody sleeps while holding the lock, requests of any size are possible, and
    callers get their turn in the order in which they asked.

    The rate is kept over any time longer than a moment, however many threads share the limiter.

    Locking: ``_lock`` guards the balance; nobody sleeps while holding it.

    Args:
        max_bps: Bytes per second; ``None`` for no limit.
        bucket_size: Bytes that may pass at once after a quiet time. ``None``: what passes in 50 ms, but at
            least 64 KiB.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        max_bps: float | None,
        bucket_size: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if bucket_size is not None and bucket_size <= 0:
            raise ValueError(f"bucket_size must be more than 0, or None, not {bucket_size!r}")
        self._clock = clock
        self._asked_bucket = bucket_size
        self._lock = threading.Lock()
        self._rate = _checked_rate(max_bps)  # guarded by _lock, as all below
        self._bucket = self._bucket_for(self._rate)
        self._balance = self._bucket
        self._at = clock()
        self._taken = 0.0
        self._throttled = 0.0
        renew_after_fork(self, BandwidthLimiter._after_fork)

    @property
    def max_bps(self) -> float | None:
        """The limit in bytes per second; ``None`` for none. May be set at any time, and acts at once."""
        return self._rate

    @max_bps.setter
    def max_bps(self, value: float | None) -> None:
        rate = _checked_rate(value)
        with self._lock:
            self._refill()
            if rate is None or self._rate is None:
                # A limit that was off knows nothing of the past: no debt, but no burst either.
                self._balance = 0.0
                self._taken = 0.0
            self._rate = rate
            self._bucket = self._bucket_for(rate)
            self._balance = min(self._balance, self._bucket)

    @property
    def bucket_size(self) -> int:
        """Bytes that may pass at once after a quiet time; 0 without a limit."""
        return int(self._bucket)

    @property
    def quantum(self) -> int | None:
        """Bytes to ask for at a time for a smooth flow: 5 ms worth, 16 to 256 KiB; ``None`` without limit."""
        rate = self._rate
        return None if rate is None else min(max(int(rate / 200), 16 << 10), 256 << 10)

    @property
    def throttled_seconds(self) -> float:
        """Seconds of waiting asked for so far, over all threads."""
        return self._throttled

    def acquire_tokens(self, bytes_requested: int) -> float:
        """Take ``bytes_requested`` and return the seconds to wait before using them.

        Never sleeps. A wait already returned is not changed by a later change of the rate; use :meth:`wait`
        where it should be.

        Returns:
            Seconds to wait, 0.0 if none.
        """
        with self._lock:
            seconds = self._seconds_until(self._take(bytes_requested))
            self._throttled += seconds
        return seconds

    def wait(self, nbytes: int, cancel_token: CancelToken) -> float:
        """Take ``nbytes`` and wait until they may be used; a changed rate acts within 0.1 s.

        Returns:
            Seconds waited.

        Raises:
            StopRequestedError: The wait was cut short. The bytes stay taken: they were received already.
        """
        if self._rate is None:
            return 0.0
        with self._lock:
            mark = self._take(nbytes)
            seconds = self._seconds_until(mark)
        if seconds <= 0.0:
            return 0.0
        self._report(cancel_token.waits, seconds + _WAIT_LASTS)
        started = self._clock()
        stopped = False
        while seconds > 0.0 and not stopped:
            stopped = cancel_token.wait(min(seconds, _SLICE_SECONDS))
            with self._lock:
                self._refill()
                seconds = self._seconds_until(mark)
        waited = self._clock() - started
        with self._lock:
            self._throttled += waited
        if stopped:
            raise StopRequestedError
        return waited

    def _report(self, waits: Waits, lasting: float) -> None:
        """Report that the limit holds somebody back; it does so again at the next read, and so on."""
        if not waits.extend(self, lasting):
            words = f"the bandwidth limit of {rate_in_words(self._rate or 0.0)} holds the download back"
            waits.begin(self, Wait(WaitReason.BANDWIDTH_LIMIT, words), lasting=lasting)

    def _after_fork(self) -> None:
        """Keep the rate, and drop the debt, in a forked child: the debt is the parent's."""
        self._lock = threading.Lock()
        self._bucket = self._bucket_for(self._rate)
        self._balance = self._bucket
        self._at = self._clock()

    def _take(self, nbytes: int) -> float:
        """Book ``nbytes`` and return their position in the stream of all bytes ever taken."""
        if nbytes < 0:
            raise ValueError(f"cannot take {nbytes} bytes")
        if self._rate is not None:
            self._refill()
            self._balance -= nbytes
            self._taken += nbytes
        return self._taken

    def _seconds_until(self, mark: float) -> float:
        """Return the seconds until the bytes up to ``mark`` may pass, at the present rate."""
        if self._rate is None:
            return 0.0
        # Everything taken so far, plus the balance, is what may have passed by now.
        seconds = (mark - self._taken - self._balance) / self._rate
        return seconds if seconds > _NOTHING else 0.0

    def _refill(self) -> None:
        now = self._clock()
        if self._rate is not None:
            self._balance = min(self._bucket, self._balance + (now - self._at) * self._rate)
        self._at = now

    def _bucket_for(self, rate: float | None) -> float:
        if rate is None:
            return 0.0
        if self._asked_bucket is not None:
            return float(self._asked_bucket)
        return max(rate * _BURST_SECONDS, float(_MIN_BURST))


def rate_in_words(rate: float) -> str:
    """Return bytes per second for people: ``40 kB/s``, ``1.5 MB/s``."""
    for unit, name in ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")):
        if rate >= unit:
            return f"{rate / unit:.3g} {name}"
    return f"{rate:.3g} bytes/s"


def _checked_rate(rate: float | None) -> float | None:
    if rate is not None and not rate > 0:
        raise ValueError(f"max_bps must be more than 0, or None for no limit, not {rate!r}")
    return rate
