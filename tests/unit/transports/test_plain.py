"""Requests and answers of the plainest kind, and what is left to others."""

from __future__ import annotations

import http.client
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from hf_haul.cancellation import CancelToken, SilenceLimits
from hf_haul.errors import ConnectionFailedError
from hf_haul.transports.plain import PlainAnswer, exchange, request_head
from hf_haul.transports.receiving import DirectReader
from hf_haul.transports.request import InterruptibleRequest
from hf_haul.urls import parse_url

URL = parse_url("http://hub.test:8080/a/b.bin?x=%2F")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Two: a\r\nx-two:  b \r\n\r\n"


class Hidden(str):
    """A secret that is not shown."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "***"


class Line:
    """A connection that stands, and the server's end of it."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.theirs = theirs
        self.connection: Any = SimpleNamespace(sock=ours, close=self.close, call=SimpleNamespace())
        self.connection.call.attach = lambda _sock: None
        self.closed = False
        self.given_back = 0
        self.idle = True

    def close(self) -> None:
        self.closed = True

    def take_idle(self, call: InterruptibleRequest) -> Any:
        del call
        return self.connection if self.idle else None

    def give_back(self, connection: Any) -> None:
        assert connection is self.connection
        self.given_back += 1

    _put_conn = give_back  # as urllib3 calls it

    def answer_later(self, data: bytes) -> None:
        """Answer once what was sent before was received."""
        import fcntl
        import termios

        while fcntl.ioctl(self.connection.sock, termios.FIONREAD, b"0000") != b"\0\0\0\0":
            pass
        self.theirs.sendall(data)

    def ask(self, *pieces: bytes, **headers: str) -> PlainAnswer | BaseHTTPResponse | None:
        """Send a request that has been answered already."""
        for piece in pieces:
            self.theirs.sendall(piece)
        token = CancelToken()
        token.silence_limits = SilenceLimits(5.0, 7.0)
        headers = headers or {"User-Agent": "haul/1"}
        return exchange(self, InterruptibleRequest(token, "hub.test"), URL, headers, 30.0)


@pytest.fixture
def line() -> Iterator[Line]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Line(ours, theirs)


def body_of(answer: object) -> bytes:
    assert isinstance(answer, PlainAnswer)
    reader, view = DirectReader.of(answer), memoryview(bytearray(100))
    assert reader is not None
    return bytes(view[: reader.readinto(view[: answer.length_remaining])])


def test_a_request_is_the_bytes_that_http_wants(line: Line) -> None:
    line.ask(OK + b"abcd", Range="bytes=0-3", Accept="*/*")
    head = line.theirs.recv(1000).decode()
    lines = head.split("\r\n")
    assert lines[:4] == [
        "GET /a/b.bin?x=%2F HTTP/1.1",
        "Host: hub.test:8080",
        "Range: bytes=0-3",
        "Accept: */*",
    ]
    assert lines[4].startswith("User-Agent: python-urllib3/")
    assert lines[5:] == ["", ""]


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        pytest.param("http://h/a", {"Host": "other"}, id="another host"),
        pytest.param("http://h/a", {"X": "a\r\nEvil: b"}, id="a line too many"),
        pytest.param("http://h/a", {"X": "\u00e9"}, id="beyond ASCII"),
        pytest.param("http://h/a", {"X Y": "a"}, id="a blank in a name"),
        pytest.param("http://h/a%2fb", {}, id="lower-case digits"),
        pytest.param("http://h/a%zz", {}, id="a percent sign that encodes nothing"),
        pytest.param('http://h/a"b', {}, id="a letter that urllib3 encodes"),
        pytest.param("http://h/a?", {}, id="a question mark at the end"),
        pytest.param("http://h./a", {}, id="a dot behind the host"),
        pytest.param("http://h/a", {"X": b"a"}, id="bytes"),
        pytest.param("http://h/a", {"X": Hidden("a")}, id="what shows itself otherwise"),
    ],
)
def test_what_others_would_write_in_another_way_is_left_to_them(url: str, headers: dict[str, Any]) -> None:
    assert request_head(parse_url(url), headers) is None


def test_without_an_idle_connection_there_is_no_exchange(line: Line) -> None:
    line.idle = False
    assert line.ask() is None


def test_an_answer_has_its_headers_in_any_case_and_those_that_came_twice_joined(line: Line) -> None:
    answer = line.ask(OK + b"abcd")
    assert isinstance(answer, PlainAnswer)
    assert (answer.status, answer.headers["CONTENT-length"], answer.headers.get("X-TWO")) == (
        200,
        "4",
        "a, b",
    )
    assert "nothing" not in answer.headers
    assert len(answer.headers) == 2


@pytest.mark.parametrize(("count", "kind"), [(80, PlainAnswer), (99, BaseHTTPResponse)])
def test_an_answer_with_very_many_headers_is_left_to_others(line: Line, count: int, kind: type) -> None:
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(count - 3))
    answer = line.ask(OK.replace(b"X-Two: a\r\n", b"X-Two: a\r\n" + many) + b"abcd")
    assert isinstance(answer, kind)
    answer.close()  # type: ignore[union-attr]  # the one or the other, never nothing


@pytest.mark.parametrize("pieces", [(OK + b"abcd",), (OK, b"abcd"), (OK + b"ab", b"cd")])
def test_a_body_is_whole_in_whichever_pieces_it_comes(line: Line, pieces: tuple[bytes, ...]) -> None:
    answer = line.ask(pieces[0])
    for piece in pieces[1:]:
        line.theirs.sendall(piece)
    assert body_of(answer) == b"abcd"
    assert isinstance(answer, PlainAnswer)
    answer.release_conn()
    answer.release_conn()
    assert (line.given_back, line.closed) == (1, False)


@pytest.mark.parametrize("size", [1, 7_000, 10_000, 100_000])
def test_reads_of_any_size_give_every_byte_once_and_in_order(line: Line, size: int) -> None:
    sent = random.Random(size).randbytes(50_000)
    head = OK.replace(b"Length: 4", b"Length: 50000")
    answer = line.ask(head + sent[:30_000])
    assert isinstance(answer, PlainAnswer)
    line.theirs.sendall(sent[30_000:])
    reader, got, buffer = DirectReader.of(answer), b"", memoryview(bytearray(size))
    assert reader is not None
    while len(got) < len(sent):
        count = reader.readinto(buffer[: len(sent) - len(got)])
        got += buffer[:count]
    assert got == sent


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK + b"abcdefgh", id="more than its length"),
        pytest.param(OK.replace(b"X-Two: a", b"Connection: close") + b"abcd", id="told to close"),
    ],
)
def test_a_connection_that_cannot_serve_again_is_closed(line: Line, answer: bytes) -> None:
    got = line.ask(answer)
    assert body_of(got) == b"abcd"
    assert isinstance(got, PlainAnswer)
    got.release_conn()
    assert (line.given_back, line.closed) == (1, True)


def test_the_head_and_the_body_have_their_own_seconds(line: Line) -> None:
    answer = line.ask(OK)
    assert line.connection.sock.gettimeout() == 5.0
    line.theirs.sendall(b"abcd")
    assert body_of(answer) == b"abcd"
    assert line.connection.sock.gettimeout() == 7.0


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "headers"),
    [
        pytest.param([CHUNKED], {}, id="chunks"),
        pytest.param([OK.replace(b"1.1", b"1.0") + b"abcd"], {"x-two": "a, b"}, id="HTTP/1.0"),
        pytest.param([OK.replace(b"\r\n", b"\n") + b"abcd"], {"x-two": "a, b"}, id="bare line feeds"),
        pytest.param([OK.replace(b"x-two:", b" \t") + b"abcd"], {"x-two": "a b"}, id="a folded line"),
        pytest.param([b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + OK + b"abcd"], {}, id="an interim answer"),
        pytest.param([OK.replace(b"X-Two", b"X Two") + b"abcd"], {}, id="a name that is none"),
        pytest.param([OK.replace(b"X-Two: a", b"Content-Encoding: br") + b"abcd"], {}, id="an encoding"),
    ],
)
def test_an_answer_that_is_not_plain_is_read_by_others_from_its_first_byte(
    line: Line, pieces: list[bytes], headers: dict[str, str]
) -> None:
    answer = line.ask(*pieces)
    assert isinstance(answer, BaseHTTPResponse)
    assert answer.read(decode_content=False) == b"abcd"
    assert {name: answer.headers[name].rstrip() for name in headers} == headers
    answer.release_conn()
    assert line.given_back == 1


def test_a_header_of_blanks_takes_no_time(line: Line) -> None:
    began = time.process_time()
    answer = line.ask(CHUNKED.replace(b"\r\n", b"\r\nX: a" + b" " * 60_000 + b"b\r\n", 1))
    assert isinstance(answer, BaseHTTPResponse)
    assert (answer.read(decode_content=False), len(answer.headers["X"])) == (b"abcd", 60_002)
    assert time.process_time() - began < 1.0


@pytest.mark.skipif(sys.platform == "win32", reason="cannot be seen there when the first piece was received")
def test_a_head_that_comes_in_pieces_is_read_by_others_from_its_first_byte(line: Line) -> None:
    later = threading.Thread(target=lambda: [line.theirs.recv(1000), line.answer_later(OK[30:] + b"abcd")])
    later.start()
    answer = line.ask(OK[:30])
    later.join()
    assert isinstance(answer, BaseHTTPResponse)
    assert (answer.read(), answer.headers["Content-Length"]) == (b"abcd", "4")


def test_two_lengths_that_differ_are_no_answer(line: Line) -> None:
    with pytest.raises(HTTPError, match="multiple unmatching values"):
        line.ask(OK.replace(b"X-Two: a", b"Content-Length: 5") + b"abcd")
    assert (line.given_back, line.closed) == (1, True)


def test_a_connection_that_ends_without_an_answer_is_given_back_closed(line: Line) -> None:
    line.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(http.client.RemoteDisconnected):
        line.ask()
    assert (line.given_back, line.closed) == (1, True)


def test_nonsense_is_an_error_and_the_connection_is_given_back_closed(line: Line) -> None:
    with pytest.raises(http.client.HTTPException):
        line.ask(b"nonsense\r\n\r\n")
    assert (line.given_back, line.closed) == (1, True)
    assert not issubclass(http.client.HTTPException, ConnectionFailedError)


@pytest.mark.parametrize("more", [b"", b"x", OK + b"abcd"])
def test_a_connection_with_more_than_an_answer_that_is_not_plain_is_closed(line: Line, more: bytes) -> None:
    answer = line.ask(CHUNKED + more)
    assert isinstance(answer, BaseHTTPResponse)
    assert answer.read() == b"abcd"
    assert (line.given_back, line.closed) == (1, bool(more))
