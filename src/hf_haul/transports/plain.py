"""A GET and its answer on a connection that has served before, where both are as plain as nearly all are.

A request costs 37 microseconds of processor time here, and 170 through requests' adapter and urllib3; of two
bare loops, urllib3's own takes 147 and ``http.client``'s 51. For small files that was most of what they cost
(``python -m tests.benchmarks --only request``). So once a connection stands, its next requests are written
here, and the head of an answer is read here, where it comes in one piece, together with the body of a small
file.

Whatever is not plain is left to those who know it. A request whose address or headers they would write in
another way goes through them. An answer with anything unusual in its head (another version of HTTP, folded
lines, an interim answer, chunks, two lengths, an encoding, or that it comes in pieces) is handed to
``http.client`` and urllib3 as it came.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

import urllib3
from urllib3 import HTTPHeaderDict
from urllib3.response import BaseHTTPResponse, HTTPResponse

from hf_haul.headers import Headers
from hf_haul.transports.answer_head import Answer
from hf_haul.transports.request import WAITING, InterruptibleRequest
from hf_haul.urls import HttpUrl

__all__ = ["PlainAnswer", "exchange", "request_head"]

#: Bytes of one receive while the head is read: it may bring all of a small file.
_RECEIVE: Final = 64 << 10
#: What urllib3 says where nobody says anything else.
_USER_AGENT: Final = f"python-urllib3/{urllib3.__version__}"  # type: ignore[attr-defined]  # public, but not listed
#: A target that everybody sends as it is: urllib3 would encode anything else, and write ``%2f`` as ``%2F``;
#: requests leaves out a question mark with nothing behind it.
_PLAIN_TARGET: Final = re.compile(
    r"/[\w.~!$&'()*+,;=:@/?-]*(?:%[0-9A-F]{2}[\w.~!$&'()*+,;=:@/?-]*)*(?<!\?)", re.ASCII
)
#: Name and value of a header that ``http.client`` would take, and in plain ASCII.
_PLAIN_NAME: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_PLAIN_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_TEXT: Final = frozenset({str})
#: The head of an answer without anything unusual in its form.
_PLAIN_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [^\r\n]*)?((?:\r\n[\w!#$%&'*+.^`|~-]+:[^\r\n]*)*)\r\n\r\n"
)
_FIELDS: Final = re.compile(r"\r\n([^:]*):[ \t]*([^\r]*)")
#: Where a value goes on in the next line, as it did in older times. A run of blanks is looked at once.
_FOLD: Final = re.compile(r"(?<![ \t])[ \t]*(?:\r\n[ \t]+)+")
_LENGTH: Final = re.compile("[0-9]{1,18}")
#: Headers of an answer; ``http.client`` takes no more than 99.
_MAX_FIELDS: Final = 90
#: Statuses whose answers have no body, whatever their headers say.
_BODILESS: Final = frozenset({204, 205, 304})


class Connections(Protocol):
    """Those to one origin, which keep what stands for the next request."""

    def take_idle(self, call: InterruptibleRequest) -> Any:
        """Return a connection that has served before and still stands; ``None`` without one."""

    def give_back(self, connection: Any) -> None:
        """Release a connection that :meth:`take_idle` gave."""


def request_head(url: HttpUrl, headers: Mapping[str, str]) -> bytes | None:
    """Return the bytes of a GET; ``None`` if they are for others to write.

    Args:
        url: What is asked for.
        headers: All but ``Host``.
    """
    names = {name.lower() for name in headers}
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if "user-agent" not in names:
        lines += f"User-Agent: {_USER_AGENT}\r\n"
    if (
        "host" in names
        or url.host.endswith(".")  # which urllib3 leaves out
        or not {type(value) for value in headers.values()} <= _TEXT  # bytes, or what hides when it is shown
        or len(names) != len(headers)
        or not all(map(_is_name, headers))
        or _PLAIN_VALUE.fullmatch("".join(headers.values())) is None
        or not _is_target(url.target)
    ):
        return None
    return f"GET {url.target} HTTP/1.1\r\nHost: {url.authority}\r\n{lines}\r\n".encode("ascii")


@lru_cache(maxsize=64)  # as many ranges of one file are asked for with one link
def _is_target(target: str) -> bool:
    return _PLAIN_TARGET.fullmatch(target) is not None


@lru_cache(maxsize=64)
def _is_name(name: str) -> bool:
    return _PLAIN_NAME.fullmatch(name) is not None


class PlainAnswer:
    """An answer whose length is known and whose bytes come as they are; for one thread.

    Attributes:
        status: The HTTP status.
        headers: Names in any case.
        length_remaining: Bytes of the body.
        rest: What came of the body with the head, and was not read yet.
        sock: Where the others come from.
    """

    __slots__ = (
        "_closes", "_connection", "_connections", "_seconds", "headers", "length_remaining", "rest", "sock", "status",
    )  # fmt: skip

    def __init__(
        self,
        connections: Connections,
        connection: Any,
        status: int,
        headers: Headers,
        length: int,
        rest: bytes,
        seconds: float,
    ) -> None:
        self._connections = connections
        self._connection = connection
        self._seconds = seconds
        self.sock: socket.socket = connection.sock
        self.status = status
        self.headers = headers
        self.length_remaining = length
        self.rest = memoryview(rest)[:length]
        # Bytes behind the body are nobody's; an answer to the next request would be looked for behind them.
        self._closes = len(rest) > length or "close" in headers.get("Connection", "").lower()

    def read_some(self, view: memoryview) -> int:
        """Read once into ``view``; return the bytes, 0 at the end of the connection."""
        rest = self.rest
        if rest:
            count = min(len(rest), len(view))
            view[:count] = rest[:count]
            self.rest = rest[count:]
            return count
        self.allow_silence()
        return self.sock.recv_into(view)

    def allow_silence(self) -> None:
        """Allow as many seconds between two bytes of the body as its request does."""
        if self.sock.gettimeout() != self._seconds:
            self.sock.settimeout(self._seconds)

    def close(self) -> None:
        """Mark the connection to be closed when it is released: not all of the body was read."""
        self._closes = True

    def release_conn(self) -> None:
        """Release the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._closes:
                connection.close()
            self._connections.give_back(connection)


def exchange(
    connections: Connections,
    call: InterruptibleRequest,
    url: HttpUrl,
    headers: Mapping[str, str],
    read_timeout: float,
) -> PlainAnswer | BaseHTTPResponse | None:
    """Send a request over a connection that stands, and wait for the head of its answer.

    Args:
        connections: Those of the URL's origin.
        call: The request as others see it; it gets the answer.
        url: What is asked for.
        headers: All but ``Host``.
        read_timeout: Seconds to wait for any byte, where the call has no limits of its own.

    Returns:
        ``None`` if there is no such connection, or the request is for others to write.

    Raises:
        OSError: The connection broke, or nothing came in time.
        http.client.HTTPException: It closed without an answer, or what came is none.
    """
    head = request_head(url, headers)
    connection = None if head is None else connections.take_idle(call)
    if head is None or connection is None:
        return None
    call.enter(WAITING)
    answer, stall = call.silence_limits or (read_timeout, read_timeout)
    try:
        sock: socket.socket = connection.sock
        if sock.gettimeout() != answer:
            sock.settimeout(answer)
        try:  # noqa: SIM105  which costs as much as all of the head
            sock.sendall(head)
        except BrokenPipeError:  # it may have answered before it closed
            pass
        data = sock.recv(_RECEIVE)
        if not data:
            raise http.client.RemoteDisconnected("Remote end closed connection without response")
        plain = _read_plain(connections, connection, data, stall)
        call.raw = plain or _handed_on(connections, connection, data, stall)
    except BaseException:
        connection.close()
        connections.give_back(connection)
        raise
    call.raise_if_woken()
    return call.raw


def _read_plain(connections: Connections, connection: Any, data: bytes, seconds: float) -> PlainAnswer | None:
    """Return an answer whose head is here; ``None`` if it is not, or there is anything unusual about it."""
    match = _PLAIN_HEAD.match(data)
    if match is None:
        return None
    fields = _FIELDS.findall(match[2].decode("latin-1"))
    values = {name.lower(): value.rstrip(" \t") for name, value in fields}
    if len(values) < len(fields):
        for each in values:
            values[each] = ", ".join(value.rstrip(" \t") for name, value in fields if name.lower() == each)
    status, length = int(match[1]), values.get("content-length", "")
    if (
        _LENGTH.fullmatch(length) is None
        or len(fields) > _MAX_FIELDS
        or status in _BODILESS
        or "transfer-encoding" in values
        or values.get("content-encoding", "").lower() not in {"", "identity"}
    ):
        return None
    return PlainAnswer(
        connections, connection, status, Headers(values), int(length), data[match.end() :], seconds
    )


class _Resumed(io.RawIOBase):
    """What was received already, and then what still comes."""

    def __init__(self, data: bytes, rest: io.RawIOBase) -> None:
        self._data = memoryview(data)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if not self._data:
            return self._rest.readinto(buffer)
        view = memoryview(buffer)
        count = min(len(view), len(self._data))
        view[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def close(self) -> None:
        super().close()
        self._rest.close()


class _ResumedSocket:
    """What ``http.client`` wants of a socket: its bytes, of which some were received already."""

    def __init__(self, data: bytes, sock: socket.socket) -> None:
        self._data = data
        self._sock = sock
        self.gettimeout = sock.gettimeout
        self.settimeout = sock.settimeout

    def makefile(self, mode: str) -> io.BufferedReader:
        del mode
        return io.BufferedReader(_Resumed(self._data, self._sock.makefile("rb", buffering=0)))


def _handed_on(connections: Connections, connection: Any, data: bytes, seconds: float) -> BaseHTTPResponse:
    """Hand an answer, some of which was received, to ``http.client`` and urllib3."""
    sock: Any = _ResumedSocket(data, connection.sock)
    answer = Answer(sock, method="GET")
    try:
        answer.begin()
        kept = connection.sock
        kept.settimeout(seconds)
        if answer.will_close:
            connection.close()  # the socket is the answer's now
            connection.call.attach(kept)
        else:
            answer.on_more = connection.close
        return HTTPResponse(
            answer,
            headers=HTTPHeaderDict([(name, _FOLD.sub(" ", value)) for name, value in answer.msg.items()]),
            status=answer.status,
            version=answer.version,
            reason=answer.reason,
            preload_content=False,
            decode_content=False,
            original_response=answer,
            pool=connections,  # type: ignore[arg-type]  # which gives the connection back
            connection=connection,
            request_method="GET",
        )
    except BaseException:
        answer.close()
        raise
