"""Signed, expiring URLs, as a CDN gives them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlencode

__all__ = ["Signer"]


class Signer:
    """Signs paths with a secret of its own; signatures expire.

    Args:
        lifetime: Seconds a signature is good for. May be changed at any time, for later ones.
        secret: The key; by default a random one.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        lifetime: float = 3600.0,
        secret: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lifetime = lifetime
        self._secret = secret or secrets.token_bytes(32)
        self._clock = clock
        self._generation = 0

    def sign(self, path: str, **params: str) -> str:
        """Return ``path`` with a query that makes it valid for the signer's lifetime.

        Args:
            path: A URL path, already percent-encoded.
            **params: More of the query; signed too. ``_`` in a name becomes ``-``.
        """
        query = {name.replace("_", "-"): value for name, value in params.items()}
        query["Expires"] = f"{self._clock() + self.lifetime:.3f}"
        query["Key-Pair-Id"] = f"K{self._generation}"
        query["Signature"] = self._signature(path, query)
        return f"{path}?{urlencode(query, quote_via=quote)}"

    def check(self, path: str, query: Mapping[str, str]) -> str | None:
        """Return what is wrong with a signed URL, in S3's words, or ``None``."""
        given = query.get("Signature", "")
        signed = {name: value for name, value in query.items() if name != "Signature"}
        if not hmac.compare_digest(given.encode(), self._signature(path, signed).encode()):
            return "The request signature we calculated does not match the signature you provided."
        retired = query["Key-Pair-Id"] != f"K{self._generation}"
        if retired or self._clock() >= float(query["Expires"]):
            return "Request has expired"
        return None

    def expire_all(self) -> None:
        """Make every URL that was signed until now invalid."""
        self._generation += 1

    def _signature(self, path: str, query: Mapping[str, str]) -> str:
        text = "\n".join([path, *(f"{name}={query[name]}" for name in sorted(query))])
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
