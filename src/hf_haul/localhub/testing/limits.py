"""Quotas per client and fixed window, announced and enforced as the Hub does."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

from hf_haul.localhub.replies import Refusal

__all__ = ["Allowance", "Quota", "RateLimits"]

_GENEROUS = 1_000_000  # requests; no test or household reaches it
_MOST_CLIENTS = 10_000  # counted at once before those whose window is over are forgotten


@dataclass(frozen=True)
class Quota:
    """The number of requests allowed in one window.

    Attributes:
        anonymous: Without a token.
        with_token: With a token.
    """

    anonymous: int = _GENEROUS
    with_token: int = _GENEROUS


@dataclass(frozen=True)
class Allowance:
    """What a client has left after a request.

    Attributes:
        bucket: The quota's name.
        quota: Requests in one window.
        remaining: Requests left in this one.
        reset_after: Seconds until the next one.
        window: Seconds from one window to the next.
        granted: Whether this request was within the quota.
        retry_after: Whether a refusal says so with ``Retry-After`` too.
    """

    bucket: str
    quota: int
    remaining: int
    reset_after: float
    window: float
    granted: bool
    retry_after: bool = False

    def write_headers(self, headers: MutableMapping[str, str]) -> None:
        """Add ``RateLimit`` and ``RateLimit-Policy``, which are on every answer."""
        seconds = math.ceil(self.reset_after)
        headers["RateLimit"] = f'"{self.bucket}";r={self.remaining};t={seconds}'
        headers["RateLimit-Policy"] = (
            f'"fixed window";"{self.bucket}";q={self.quota};w={math.ceil(self.window)}'
        )

    def require(self) -> None:
        """Refuse the request if it exceeds the quota.

        Raises:
            Refusal: It was not.
        """
        if not self.granted:
            seconds = math.ceil(self.reset_after)
            message = (
                f"You have exceeded the quota of {self.quota} requests per"
                f" {self.window:g} seconds ({self.bucket}). Try again in {seconds} seconds."
            )
            raise Refusal(429, message, headers={"Retry-After": str(seconds)} if self.retry_after else None)


class RateLimits:
    """Counts requests by bucket and client.

    Safe for threads: ``_lock`` guards the counts.

    Attributes:
        window: Seconds a window lasts, from a client's first request in it.
        retry_after: Whether refusals carry ``Retry-After`` besides the ``RateLimit`` header.

    Args:
        clock: Seconds; only differences count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = 300.0
        self.retry_after = False
        self._clock = clock
        self._lock = threading.Lock()
        self._quotas: dict[str, Quota] = {}
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def set(self, bucket: str, anonymous: int, with_token: int | None = None) -> None:
        """Change a quota and restart its count.

        Args:
            bucket: ``"api"`` (all of ``/api``) or ``"resolvers"`` (files).
            anonymous: Requests in one window without a token.
            with_token: The same with a token; by default as many.
        """
        with self._lock:
            self._quotas[bucket] = Quota(anonymous, anonymous if with_token is None else with_token)
            self._windows = {k: v for k, v in self._windows.items() if k[0] != bucket}

    def take(self, bucket: str, client: str, *, has_token: bool) -> Allowance:
        """Count a request.

        Args:
            bucket: The quota it counts against.
            client: Who asks: a token or an address.
            has_token: Which of the two quotas holds.
        """
        with self._lock:
            quota = self._quotas.get(bucket, Quota())
            most = quota.with_token if has_token else quota.anonymous
            now = self._clock()
            start, used = self._windows.get((bucket, client), (now, 0))
            if now >= start + self.window:
                start, used = now, 0
            if len(self._windows) >= _MOST_CLIENTS:
                self._windows = {k: v for k, v in self._windows.items() if now < v[0] + self.window}
                if (
                    len(self._windows) >= _MOST_CLIENTS
                ):  # somebody makes up tokens: rather too lenient than full
                    self._windows.clear()
            self._windows[bucket, client] = (start, used + 1)
            return Allowance(
                bucket,
                most,
                max(0, most - used - 1),
                start + self.window - now,
                self.window,
                used < most,
                self.retry_after,
            )
