"""Answers as values: nothing here touches the network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from multidict import CIMultiDict

from hf_haul.localhub.objects import BytesContent, Content

__all__ = [
    "Refusal",
    "Reply",
    "file_reply",
    "json_reply",
    "parse_range",
    "text_reply",
]


@dataclass
class Reply:
    """An answer: status, headers, and which bytes of which content follow.

    Attributes:
        status: The HTTP status.
        headers: Its headers, without ``Content-Length``.
        content: Where the body comes from.
        start: Offset of the body's first byte in ``content``.
        stop: Offset after the body's last byte.
        chunked: Whether to send it without a length.
        patches: What to flip (exclusive or) on the way, by offset in ``content``.
        declared: The ``Content-Length`` to send if it is not the body's.
        paced: Whether it waits for its turn where bodies are sent at a limited rate.
    """

    status: int
    headers: CIMultiDict[str]
    content: Content
    start: int
    stop: int
    chunked: bool = False
    patches: dict[int, int] = field(default_factory=dict)
    declared: int | None = None
    paced: bool = True

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.stop - self.start


class Refusal(Exception):  # noqa: N818  it is an answer, not a fault of the program
    """Ends a request with an error: status, codes and messages as the Hub's."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})

    def reply(self, *, as_json: bool) -> Reply:
        """Return the answer for this error: JSON on API routes, text on file routes."""
        if as_json:
            made = json_reply({"error": self.message}, self.status)
        else:
            made = text_reply(self.message, self.status)
        made.headers["X-Error-Message"] = self.message[:_LONGEST_MESSAGE]
        if self.code is not None:
            made.headers["X-Error-Code"] = self.code
        made.headers.update(self.headers)
        return made


def _weak_etag(body: bytes) -> str:
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest())[:27]
    return f'W/"{len(body):x}-{digest.decode("ascii")}"'


def _whole(status: int, body: bytes, content_type: str) -> Reply:
    headers = CIMultiDict({"Content-Type": content_type})
    if not 300 <= status < 400:
        # The real Hub does so on every body, errors included.
        headers["ETag"] = _weak_etag(body)
    return Reply(status, headers, BytesContent(body), 0, len(body))


def json_reply(value: Any, status: int = 200) -> Reply:
    """Return an answer in JSON."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return _whole(status, body.encode("utf-8", "surrogatepass"), "application/json; charset=utf-8")


def text_reply(text: str, status: int = 200, content_type: str = "text/plain") -> Reply:
    """Return an answer in plain text."""
    return _whole(status, text.encode("utf-8", "replace"), f"{content_type}; charset=utf-8")


_RANGE: Final = re.compile(r"\s*bytes\s*=\s*([0-9]*)\s*-\s*([0-9]*)\s*", re.IGNORECASE)
_DIGITS: Final = 20  # of a number that is larger than any file; Python reads no more than some thousands
_LONGEST_MESSAGE: Final = 1000  # characters in a header: clients refuse an answer with one of 8 KiB


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Read a ``Range`` header against a file of ``size`` bytes.

    Returns:
        The half-open range it asks for, or ``None`` if all of the file is to be sent: no header,
        a malformed one, or several ranges at once.

    Raises:
        ValueError: The range lies past the end of the file.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        start, stop = max(0, size - _number(last)), size
    else:
        start, stop = _number(first), size if not last else min(_number(last) + 1, size)
        if last and _number(last) < start:
            return None
    if start >= size or start >= stop:
        raise ValueError(header)
    return start, stop


def _number(digits: str) -> int:
    return int(digits.lstrip("0")[:_DIGITS] or "0")


def file_reply(
    content: Content,
    request_headers: Mapping[str, str],
    *,
    etag: str,
    name: str,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Return an answer with the bytes of a file: 200, 206, 304 or 416, as the request's headers ask.

    Args:
        content: The file.
        request_headers: ``Range``, ``If-Range`` and ``If-None-Match`` are obeyed.
        etag: The ``ETag``, with its quotes.
        name: File name for ``Content-Disposition``.
        headers: More headers.
    """
    common = CIMultiDict(headers or {})
    common["ETag"] = etag
    common["Accept-Ranges"] = "bytes"
    common.setdefault("Content-Type", "application/octet-stream")
    plain = re.sub(r'[^ -~]|["\\\\]', "_", name)
    encoded = quote(name, safe="", errors="surrogateescape")
    common.setdefault("Content-Disposition", f"inline; filename*=UTF-8''{encoded}; filename=\"{plain}\";")
    if etag in [part.strip() for part in request_headers.get("If-None-Match", "").split(",")]:
        return Reply(304, common, BytesContent(b""), 0, 0)
    asked = request_headers.get("Range")
    if request_headers.get("If-Range", etag) != etag:
        asked = None
    try:
        span = parse_range(asked, content.size)
    except ValueError:
        made = text_reply("Range not satisfiable", 416)
        made.headers["Content-Range"] = f"bytes */{content.size}"
        return made
    if span is None:
        return Reply(200, common, content, 0, content.size)
    common["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{content.size}"
    return Reply(206, common, content, *span)
