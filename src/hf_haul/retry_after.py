"""The one reading of ``Retry-After`` and ``RateLimit``: how long a server asks its clients to wait."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["MAX_BUSY_WAIT", "MAX_RATE_LIMIT_WAIT", "parse_retry_after"]

#: Seconds waited for a server that counts requests (429), in all and at the most. The Hub's windows are 300
#: s; more is a mistake, or no download today.
MAX_RATE_LIMIT_WAIT: Final = 3600.0
#: Seconds waited for a server that is busy or broken (408, 425, 5xx), in all and at the most.
MAX_BUSY_WAIT: Final = 120.0

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
