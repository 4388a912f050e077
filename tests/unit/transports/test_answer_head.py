"""The head of an answer, and the interim answers before it."""

from __future__ import annotations

import http.client
import io
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.clock import FakeClock

from hf_haul.cancellation import CancelToken
from hf_haul.transports.answer_head import Answer, _LinesInTime
from hf_haul.transports.dialing import WakeableConnection, WakeableTLSConnection
from hf_haul.transports.pool import ConnectionPool


def test_pooled_connections_read_their_answers_so() -> None:
    assert WakeableConnection.response_class is Answer
    assert WakeableTLSConnection.response_class is Answer


@pytest.mark.parametrize("interim", [b"103 Early Hints", b"102 Processing", b"100 Continue", b"199 "])
@pytest.mark.parametrize("times", [1, 3])
def test_interim_answers_are_passed_over(interim: bytes, times: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall((b"HTTP/1.1 " + interim + b"\r\nLink: </a.css>\r\nX: z\r\n\r\n") * times)
        far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        answer = Answer(near, method="GET")
        answer.begin()
        assert (answer.status, answer.headers.items()) == (200, [("Content-Length", "2")])
        assert answer.read() == b"ok"
        answer.close()


def test_interim_answers_without_end_are_an_error() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"HTTP/1.1 103 X\r\n\r\n" * 200)
        answer = Answer(near, method="GET")
        with pytest.raises(http.client.HTTPException, match="more than 100 interim answers"):
            answer.begin()
        answer.close()


class Pieces(io.RawIOBase):
    """Gives one piece for each receive."""

    def __init__(self, *pieces: bytes, on_receive: Callable[[], object] = lambda: None) -> None:
        self.pieces = list(pieces)
        self.on_receive = on_receive

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.on_receive()
        piece = self.pieces.pop(0) if self.pieces else b""
        buffer[: len(piece)] = piece
        return len(piece)


class PiecesSocket:
    """What an answer needs of a socket."""

    def __init__(self, *pieces: bytes, timeout: float | None = 10.0) -> None:
        self.file = io.BufferedReader(Pieces(*pieces))
        self.gettimeout = lambda: timeout

    def makefile(self, _mode: str) -> io.BufferedReader:
        return self.file


HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nX: a\r\n b\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"


def letters(data: bytes) -> list[bytes]:
    return [bytes([each]) for each in data]


@pytest.mark.parametrize("timeout", [None, 10.0])
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([HEAD + b"ok"], id="at once"),
        pytest.param([HEAD, b"ok"], id="the body later"),
        pytest.param(letters(HEAD + b"ok"), id="letter by letter"),
        pytest.param([HEAD[:40], HEAD[40:] + b"o", b"k"], id="in halves"),
        pytest.param([INTERIM, HEAD + b"ok"], id="after an interim answer"),
        pytest.param(letters(INTERIM + HEAD + b"ok"), id="all letter by letter"),
        pytest.param([HEAD.replace(b"\r\n", b"\n"), b"ok"], id="bare line feeds"),
    ],
)
def test_a_head_is_the_same_in_whichever_pieces_it_comes(pieces: list[bytes], timeout: float | None) -> None:
    answer = Answer(PiecesSocket(*pieces, timeout=timeout), method="GET")  # type: ignore[arg-type]
    answer.begin()
    assert (answer.status, answer.reason, answer.length) == (206, "Partial Content", 2)
    assert answer.headers["x"].split() == ["a", "b"]
    assert answer.read() == b"ok"


@pytest.mark.parametrize("pieces", [[], [b"HTTP/1.1 20"], [b"nonsense\r\n", HEAD]])
def test_a_head_that_is_none_fails_as_ever_and_closes_its_reader(pieces: list[bytes]) -> None:
    sock = PiecesSocket(*pieces)
    with pytest.raises(http.client.HTTPException) as ours:
        Answer(sock, method="GET").begin()  # type: ignore[arg-type]
    theirs = http.client.HTTPResponse(PiecesSocket(*pieces), method="GET")  # type: ignore[arg-type]
    with pytest.raises(type(ours.value)):
        theirs.begin()
    assert sock.file.closed is (theirs.fp is None)


def test_a_head_that_drips_is_late_however_quickly_its_letters_follow_each_other() -> None:
    clock = FakeClock()
    reader = io.BufferedReader(Pieces(*letters(b"X: y\r\n" * 9), on_receive=lambda: clock.advance(1.0)))
    lines = _LinesInTime(reader, clock() + 10.0, clock)
    assert lines.readline(100) == b"X: y\r\n"
    with pytest.raises(TimeoutError):
        lines.readline(100)
    assert len(reader.raw.pieces) == 9 * 6 - 11  # type: ignore[attr-defined]


def test_a_line_is_cut_at_its_limit() -> None:
    lines = _LinesInTime(io.BufferedReader(Pieces(b"abc", b"def\nrest")), float("inf"))
    assert [lines.readline(limit) for limit in (2, 3, 100, 0, -1)] == [b"ab", b"cde", b"f\n", b"", b"rest"]


def test_a_chunked_answer_with_folded_headers_is_read() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Odd: a\r\n b\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            )

    thread = threading.Thread(target=serve)
    thread.start()
    pool = ConnectionPool(1, 1)
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pool.open(url, {}, CancelToken()) as answer:
            buffer = memoryview(bytearray(10))
            assert answer.headers["X-Odd"].split() == ["a", "b"]  # urllib3 2.3 leaves the fold in it
            assert answer.readinto(buffer) == 2
            assert bytes(buffer[:2]) == b"ok"
    finally:
        pool.close()
        thread.join(10)
        listener.close()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


@pytest.mark.parametrize("whole", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", CHUNKED])
@pytest.mark.parametrize("more", [b"", b"x", b"HTTP/1.1 200 OK\r\n"])
def test_whether_more_has_come_than_the_body_is_told_at_its_end(whole: bytes, more: bytes) -> None:
    near, far = socket.socketpair()
    told: list[bytes] = []
    with near, far:
        near.settimeout(10.0)
        far.sendall(whole + more)
        answer = Answer(near, method="GET")
        answer.begin()
        answer.on_more = lambda: told.append(more)
        assert answer.read() == b"ok"
        answer.close()
        assert told == [more] * bool(more)
        assert near.gettimeout() == 10.0


def test_a_connection_of_which_nothing_can_be_told_counts_as_one_with_more() -> None:
    near, far = socket.socketpair()
    told: list[int] = []
    with far:
        far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        answer = Answer(near, method="GET")
        answer.begin()
        answer.on_more = lambda: told.append(1)
        fd = near.detach()
        answer.close()
        os.close(fd)
    assert told == [1]
