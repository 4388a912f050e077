"""Compares what a source sends with the digest that it announces of it (``Content-Digest``, RFC 9530)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.errors import WrongBytesError
from hf_haul.ranges import ByteRange
from hf_haul.transports.base import Body, Transport

__all__ = ["DigestedBody", "DigestedTransport", "announced_sha256"]

#: One member of the dictionary that the header is: ``sha-256=:base64:``.
_MEMBER: Final = re.compile(r"\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):\s*(?:;.*)?", re.IGNORECASE)
_BYTES: Final = 32


def announced_sha256(header: str | None) -> bytes | None:
    """Return the sha256 that a ``Content-Digest`` header announces; ``None`` if it announces none."""
    for member in (header or "").split(","):
        match = _MEMBER.fullmatch(member)
        if match is not None:
            try:
                value = base64.b64decode(match[1], validate=True)
            except binascii.Error:
                return None
            return value if len(value) == _BYTES else None
    return None


class DigestedBody:
    """A body that is compared with its digest when its last byte is read.

    Attributes:
        range: As the body's.
        total: As the body's.
        whole: As the body's.
    """

    def __init__(self, body: Body, sha256: bytes, length: int, source: str) -> None:
        self.range = body.range
        self.total = body.total
        self.whole = body.whole
        self._body = body
        self._expected = sha256
        self._left = length
        self._source = source
        self._hash = hashlib.sha256()

    def readinto(self, buffer: memoryview) -> int:
        """Fill the start of ``buffer``; see :class:`hf_haul.transports.base.Body`.

        Raises:
            WrongBytesError: With these bytes the body is complete, and it is not what was announced.
        """
        got = self._body.readinto(buffer)
        self._hash.update(buffer[:got])
        self._left -= got
        if got and self._left <= 0 and self._hash.digest() != self._expected:
            raise WrongBytesError(f"{self._source} sent other bytes than its Content-Digest announces")
        return got

    def close(self) -> None:
        """Release the connection."""
        self._body.close()


class DigestedTransport:
    """Opens ranges of a file at a source that announces a digest of what it sends.

    What comes without one is not compared.

    Args:
        transport: Opens them.
        source: Its name, for messages.
    """

    def __init__(self, transport: Transport, source: str) -> None:
        self._transport = transport
        self._source = source

    @property
    def version(self) -> str | None:
        """What the source calls the present version of the file."""
        return self._transport.version

    @version.setter
    def version(self, version: str | None) -> None:
        self._transport.version = version

    def open(self, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool = False) -> Body:
        """Request a range; see :class:`hf_haul.transports.base.Transport`."""
        body = self._transport.open(want, cancel_token, fresh=fresh)
        headers = getattr(body, "headers", None)
        sha256 = None if headers is None else announced_sha256(headers.get("Content-Digest"))
        if sha256 is None or body.range is None:
            return body
        return DigestedBody(body, sha256, len(body.range), self._source)
