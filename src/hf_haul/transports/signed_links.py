"""How long signed URLs are valid."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from urllib.parse import parse_qs

__all__ = ["link_lifetime"]


def link_lifetime(url: str, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that a signed URL is still valid, by its query; ``None`` if it does not say.

    Reads AWS's ``X-Amz-Date`` with ``X-Amz-Expires``, Google's ``X-Goog-`` pair, CloudFront's ``Expires`` and
    Azure's ``se``.
    """
    query = {
        key.lower(): values[-1] for key, values in parse_qs(url.partition("?")[2].partition("#")[0]).items()
    }
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
