"""The head of an answer, and the interim answers before it."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest

from hf_haul.cancellation import CancelToken
from hf_haul.transports.answer_head import Answer
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
