"""Headers parsed without the mail parser are what the mail parser makes of them."""

from __future__ import annotations

import http.client
import io
import socket
import threading

import pytest

from hf_haul.cancellation import CancelToken
from hf_haul.transports.answers import Answer, parse_headers
from hf_haul.transports.dialing import WakeableConnection, WakeableTLSConnection
from hf_haul.transports.pool import ConnectionPool

BLOCKS = [
    pytest.param(b"\r\n", id="none"),
    pytest.param(b"", id="end of stream"),
    pytest.param(b'Content-Length: 5\r\nETag: "a"\r\n\r\nbody', id="usual"),
    pytest.param(b'Content-Length: 5\nETag: W/"a"\n\n', id="bare line feeds"),
    pytest.param(b"Content-Length: 5\r\nETag", id="cut in a name"),
    pytest.param(b'Content-Length: 5\r\nETag: "a', id="cut in a value"),
    pytest.param(b"A:1\r\nB:\t 2 \t\r\nC:\r\n\r\n", id="spaces around values"),
    pytest.param(b'Link: <a>; rel="next"\r\nLink: <b>; rel="prev"\r\n\r\n', id="a name twice"),
    pytest.param(b"Location: /a:b?c:d\r\n\r\n", id="colons in a value"),
    pytest.param(b"X-Path: caf\xc3\xa9 \xe9\r\n\r\n", id="bytes beyond ascii"),
    pytest.param(b"X-Long: one\r\n two\r\n\tthree\r\nY: 1\r\n\r\n", id="folded"),
    pytest.param(b"no colon here\r\nY: 1\r\n\r\n", id="no colon"),
    pytest.param(b"Y : 1\r\nZ: 2\r\n\r\n", id="space before the colon"),
    pytest.param(b": empty\r\nZ: 2\r\n\r\n", id="no name"),
    pytest.param(b"A: 1\rB: 2\r\nC: 3\r\n\r\n", id="a bare carriage return"),
    pytest.param(b"A: 1\0\r\nC: 3\r\n\r\n", id="a zero byte"),
    pytest.param(b"A: 1\x0bx\r\nC: 3\x85y\r\n\r\n", id="what some take for line ends"),
    pytest.param(b"Content-Type: multipart/mixed; boundary=x\r\n\r\n", id="multipart"),
]  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
def test_headers_are_those_of_the_standard_parser(block: bytes) -> None:
    ours, theirs = io.BytesIO(block), io.BytesIO(block)
    got, wanted = parse_headers(ours), http.client.parse_headers(theirs)
    assert got.items() == wanted.items()
    assert got.get_all("link") == wanted.get_all("link")
    assert type(got) is type(wanted)
    assert ours.tell() == theirs.tell()


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"A: " + b"x" * 70_000 + b"\r\n\r\n", id="a long line"),
        pytest.param(b"A: 1\r\n" * 101 + b"\r\n", id="too many lines"),
    ],
)
def test_headers_beyond_the_limits_are_refused_as_by_the_standard_parser(block: bytes) -> None:
    with pytest.raises(http.client.HTTPException) as wanted:
        http.client.parse_headers(io.BytesIO(block))
    with pytest.raises(type(wanted.value)) as got:
        parse_headers(io.BytesIO(block))
    assert type(got.value) is type(wanted.value)


def test_as_many_headers_as_the_standard_parser_takes_are_taken() -> None:
    block = b"A: 1\r\n" * 99 + b"\r\n"
    assert parse_headers(io.BytesIO(block)).items() == http.client.parse_headers(io.BytesIO(block)).items()


def test_pooled_connections_parse_their_answers_so() -> None:
    assert WakeableConnection.response_class is Answer
    assert WakeableTLSConnection.response_class is Answer


def test_an_answer_is_begun_with_our_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    def standard(*_: object) -> None:
        raise AssertionError("went through the standard parser")

    monkeypatch.setattr(http.client, "parse_headers", standard)
    near, far = socket.socketpair()
    with near, far:
        far.sendall(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nX: y\r\n\r\nok"
        )
        answer = Answer(near, method="GET")
        answer.begin()
        assert (answer.status, answer.reason, answer.length) == (206, "Partial Content", 2)
        assert answer.headers["x"] == "y"
        assert answer.read() == b"ok"
        answer.close()


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


def test_a_chunked_answer_with_folded_headers_is_read_as_ever() -> None:
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
