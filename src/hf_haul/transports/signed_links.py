"""How long signed URLs are valid."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Final
from urllib.parse import unquote_plus

__all__ = ["link_lifetime", "usable_seconds"]

#: Seconds before its end at which a signed URL is no longer used.
_MARGIN: Final = 10.0

#: All that is read of a query; the rest, signatures above all, is most of it, and need not be decoded.
_KEYS: Final = frozenset({
    "expires", "se", "x-amz-date", "x-amz-expires", "x-goog-date", "x-goog-expires",
})  # fmt: skip


def usable_seconds(url: str, now: Callable[[], float] = time.time) -> float:
    """Return the seconds for which a URL that was just signed is used: not to its very end, if any."""
    lifetime = link_lifetime(url, now)
    if lifetime is None or lifetime <= 0:
        # A clock that differs from the signer's may say that a fresh link is over; believe the link.
        return float("inf")
    return lifetime - min(_MARGIN, lifetime / 2)


def link_lifetime(url: str, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that a signed URL is still valid, by its query; ``None`` if it does not say.

    Reads AWS's ``X-Amz-Date`` with ``X-Amz-Expires``, Google's ``X-Goog-`` pair, CloudFront's ``Expires`` and
    Azure's ``se``.
    """
    query: dict[str, str] = {}
    for word in url.partition("?")[2].partition("#")[0].split("&"):
        key, _, value = word.partition("=")
        if key.lower() in _KEYS:
            query[key.lower()] = unquote_plus(value)
    try:
        for vendor in ("amz", "goog"):
            signed, lifetime = query.get(f"x-{vendor}-date"), query.get(f"x-{vendor}-expires", "")
            if (
                signed
                and re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", signed)
                and re.fullmatch("[0-9]{1,9}", lifetime)
            ):
                at = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
                return at.timestamp() + int(lifetime) - now()
        if re.fullmatch(r"[0-9]{9,11}", query.get("expires", "")):
            return int(query["expires"]) - now()
        until = datetime.fromisoformat(query["se"].replace("Z", "+00:00"))
        # Azure's are UTC, also without a word; and Windows knows no local time for some.
        return (until if until.tzinfo else until.replace(tzinfo=timezone.utc)).timestamp() - now()
    except (KeyError, ValueError, OverflowError):  # none, or no date
        return None
