"""The connection pool against servers that do what no good server would."""

from __future__ import annotations

import gc
import gzip
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.certs import Certificates, make_certificates
from tests.support.wants import want_modules
from tests.support.wire import BOUND, Connection, Wire, answer, blackhole, until

import hf_haul
from hf_haul.cancellation import CancelToken, SilenceLimits
from hf_haul.errors import (
    CertificateError,
    ConnectionFailedError,
    HaulError,
    StalledError,
    StopRequestedError,
    TransferError,
)
from hf_haul.transports.pool import ConnectionPool, PooledResponse

ROOT = Path(__file__).parents[2]
BODY = bytes(range(256)) * 400  # 100 KiB


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    with ConnectionPool(8, trust_env=False, connect_timeout=BOUND, read_timeout=BOUND) as made:
        yield made


def well_behaved(connection: Connection) -> None:
    while connection.request():
        connection.send(answer(BODY))


def read(response: PooledResponse, size: int = 64 << 10) -> bytes:
    data, buffer = bytearray(), memoryview(bytearray(size))
    while count := response.readinto(buffer):
        data += buffer[:count]
    return bytes(data)


def get(pool: ConnectionPool, url: str, **more: Any) -> bytes:
    with pool.open(url, None, CancelToken(), **more) as response:
        return read(response)


class Worker:
    """Runs ``work`` in a thread and keeps its outcome."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.seconds = 0.0

        def run() -> None:
            try:
                self.result = work()
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def join(self) -> Worker:
        self.thread.join(BOUND)
        assert not self.thread.is_alive(), "still blocked"
        return self


# ---- bodies


@pytest.mark.parametrize("size", [1, 7, 4096, 65536, 1 << 20], ids=str)
def test_a_body_arrives_whole_whatever_the_size_of_the_reads(pool: ConnectionPool, size: int) -> None:
    body = BODY[: 50 * size] if size < 100 else BODY
    with Wire(lambda c: c.request() and c.send(answer(body))) as wire:
        response = pool.open(wire.url(), None, CancelToken())
        assert response.status == 200
        assert response.length == len(body)
        assert response.headers["content-LENGTH"] == str(len(body))
        assert read(response, size) == body
        assert response.received == len(body)
        assert response.readinto(memoryview(bytearray(5))) == 0


def test_a_connection_serves_again_once_its_body_was_read(pool: ConnectionPool) -> None:
    with Wire(well_behaved) as wire:
        reused = []
        for _ in range(5):
            with pool.open(wire.url(), None, CancelToken()) as response:
                assert read(response) == BODY
                reused.append(response.reused)
        assert reused == [False, True, True, True, True]
        assert wire.accepted == 1


def test_connections_are_shared_between_threads(pool: ConnectionPool) -> None:
    with Wire(well_behaved) as wire:
        for _ in range(5):
            assert Worker(lambda: get(pool, wire.url())).join().result == BODY
        assert wire.accepted == 1
        assert pool.get_stats()["connections_reused"] == 4


def serve_more_than_asked(before: int, more: bytes) -> Callable[[Connection], None]:
    """Answer with the path; to the request after ``before`` others, with four bytes and ``more`` besides."""
    served: list[str] = []

    def serve(connection: Connection) -> None:
        while head := connection.request():
            served.append(head)
            if len(served) - 1 == before:
                connection.send(answer(b"", length=4))
                connection.send(b"body" + more)
            else:
                connection.send(answer(head.split(" ")[1].encode()))

    return serve


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize(
    "more", [b"\r\n", answer(b"of another"), answer(BODY)[:50_000]], ids=["end", "answer", "cut"]
)
def test_a_connection_that_brought_more_than_was_asked_for_serves_nobody_else(
    certificates: Certificates, tls: bool, before: int, more: bytes
) -> None:
    with (
        Wire(serve_more_than_asked(before, more), certificates if tls else None) as wire,
        ConnectionPool(1, trust_env=False, verify=str(certificates.ca), read_timeout=BOUND) as pool,
    ):
        for number in range(before):
            assert get(pool, wire.url(f"/{number}", "localhost")) == b"/%d" % number
        assert get(pool, wire.url("/odd", "localhost")) == b"body"
        for number in range(3):
            assert get(pool, wire.url(f"/after-{number}", "localhost")) == b"/after-%d" % number
        assert wire.accepted == 2


def test_a_body_left_unread_closes_its_connection(pool: ConnectionPool) -> None:
    closed = threading.Event()

    def serve(connection: Connection) -> None:
        connection.request()
        connection.send(answer(b"x" * 1000, length=10**9))
        if connection.closed_by_client():
            closed.set()

    with Wire(serve) as wire:
        with pool.open(wire.url(), None, CancelToken()) as response:
            assert response.readinto(memoryview(bytearray(10))) == 10
        assert closed.wait(BOUND)
        assert pool.get_stats()["open_connections"] == 0


@pytest.mark.parametrize("size", [0, 10, 60_000], ids=str)
def test_draining_a_short_rest_keeps_the_connection(pool: ConnectionPool, size: int) -> None:
    with Wire(
        lambda c: [c.send(answer(b"x" * size, "302 Found", Location="/x")) for _ in iter(c.request, "")]
    ) as wire:
        for _ in range(3):
            response = pool.open(wire.url(), None, CancelToken())
            assert response.status == 302
            response.drain()
        assert wire.accepted == 1


def test_draining_never_waits_for_a_long_rest(pool: ConnectionPool) -> None:
    with Wire(lambda c: (c.request(), c.send(answer(b"x", length=10**9)), c.closed_by_client())) as wire:
        began = time.monotonic()
        pool.open(wire.url(), None, CancelToken()).drain()
        assert time.monotonic() - began < BOUND / 2
        assert pool.get_stats()["open_connections"] == 0


def test_an_answer_without_a_length_ends_with_its_connection(pool: ConnectionPool) -> None:
    with Wire(lambda c: c.request() and c.send(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)) as wire:
        with pool.open(wire.url(), None, CancelToken()) as response:
            assert response.length is None
            assert read(response) == BODY
        assert pool.get_stats()["open_connections"] == 0


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


def test_a_body_in_chunks_arrives_and_its_connection_serves_again(pool: ConnectionPool) -> None:
    with Wire(lambda c: [c.send(chunked(BODY, b"tail", b"")) for _ in iter(c.request, "")]) as wire:
        for _ in range(3):
            assert get(pool, wire.url()) == BODY + b"tail"
        assert wire.accepted == 1


@pytest.mark.parametrize("decode", [True, False])
def test_an_encoding_is_undone_only_when_asked_for(pool: ConnectionPool, decode: bool) -> None:
    packed = gzip.compress(BODY)
    with Wire(lambda c: c.request() and c.send(answer(packed, Content_Encoding="gzip"))) as wire:
        assert get(pool, wire.url(), decode=decode) == (BODY if decode else packed)


def test_what_is_asked_for_is_what_goes_over_the_wire(pool: ConnectionPool) -> None:
    with (
        Wire(well_behaved) as wire,
        pool.open(
            wire.url("/a%20b?x=1&y=%2F"), {"range": "bytes=5-9", "X-Token": "t"}, CancelToken()
        ) as response,
    ):
        read(response)
    line, *headers = wire.heads[0].split("\r\n")
    assert line == "GET /a%20b?x=1&y=%2F HTTP/1.1"
    sent = {name.lower(): value for name, _, value in (h.partition(": ") for h in headers)}
    assert sent.pop("user-agent")
    assert sent == {
        "host": f"127.0.0.1:{wire.port}", "accept": "*/*", "accept-encoding": "identity", "range": "bytes=5-9",
        "x-token": "t",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "line"),
    [
        pytest.param("/ä b", "GET /%C3%A4%20b HTTP/1.1", id="quoted where it is not"),
        pytest.param("/a#fragment", "GET /a HTTP/1.1", id="without its fragment"),
        pytest.param("", "GET / HTTP/1.1", id="without a path"),
    ],
)
def test_unusual_addresses_work(pool: ConnectionPool, path: str, line: str) -> None:
    with Wire(well_behaved) as wire:
        assert get(pool, wire.url(path)) == BODY
        assert wire.heads[0].startswith(line + "\r\n")


def test_a_name_and_password_in_the_address_become_a_header(pool: ConnectionPool) -> None:
    with Wire(well_behaved) as wire:
        assert get(pool, wire.url().replace("//", "//user:pass@")) == BODY
        assert "\r\nauthorization: basic dxnlcjpwyxnz" in wire.heads[0].lower()


# ---- what goes wrong


def reset_at_once(connection: Connection) -> None:
    connection.request()
    connection.reset()


def cut(connection: Connection) -> None:
    connection.request()
    connection.send(answer(b"x" * 1000, length=5000))


def reset_in_body(connection: Connection) -> None:
    cut(connection)
    select.select([], [], [], 0.05)  # so that the bytes are out before the reset
    connection.reset()


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        pytest.param(reset_at_once, "reset", id="reset before the headers"),
        pytest.param(lambda c: c.request(), "closed by the server without an answer", id="closed"),
        pytest.param(lambda c: c.send(b"SSH-2.0-OpenSSH\r\n"), "127.0.0.1", id="no HTTP"),
        pytest.param(cut, "cut short after 1000 of 5000 bytes", id="cut short"),
        pytest.param(reset_in_body, "reset", id="reset in the body"),
        pytest.param(
            lambda c: c.request() and c.send(chunked(b"abc")), "cut short", id="chunks without an end"
        ),
    ],
)
def test_a_broken_connection_is_retryable_names_the_host_and_keeps_secrets(
    pool: ConnectionPool, serve: Callable[[Connection], None], words: str
) -> None:
    with Wire(serve) as wire, pytest.raises(ConnectionFailedError, match=words) as caught:
        get(pool, wire.url("/f?Signature=secret"))
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert pool.get_stats()["open_connections"] == 0
    assert pool.get_stats()["total_errors"] == 1


def test_the_traceback_of_a_refused_connection_keeps_secrets(pool: ConnectionPool) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/f?Signature={12345 * 54321}"
        with pytest.raises(ConnectionFailedError) as caught:
            get(pool, url)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert url.rpartition("=")[2] not in "".join(traceback.format_exception(caught.value))


def test_the_bytes_before_a_break_are_not_lost(pool: ConnectionPool) -> None:
    with Wire(reset_in_body) as wire:
        response = pool.open(wire.url(), None, CancelToken())
        data, buffer = bytearray(), memoryview(bytearray(4096))
        with pytest.raises(ConnectionFailedError):  # noqa: PT012  the loop is what raises
            while count := response.readinto(buffer):
                data += buffer[:count]
        assert bytes(data) == b"x" * 1000
        assert response.received == 1000


def test_nobody_listening_is_a_failed_connection(pool: ConnectionPool) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1: .*refused"):
            get(pool, url)


def test_a_name_that_does_not_exist_is_a_failed_connection(pool: ConnectionPool) -> None:
    with pytest.raises(ConnectionFailedError, match=r"nowhere\.invalid: its name could not be resolved"):
        get(pool, "http://nowhere.invalid/x")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "http://", "nothing", "http:///x", "http://[::1/x", ""])
def test_an_address_that_cannot_be_used_is_not_retried(pool: ConnectionPool, url: str) -> None:
    with pytest.raises(TransferError) as caught:
        get(pool, url)
    assert not caught.value.retryable
    assert pool.get_stats()["open_connections"] == 0


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        pytest.param(lambda c: (c.request(), c.closed_by_client()), "waiting for its answer", id="headers"),
        pytest.param(
            lambda c: (c.request(), c.send(answer(b"x", length=9)), c.closed_by_client()),
            "receiving",
            id="body",
        ),
    ],
)
def test_silence_ends_after_the_read_timeout(serve: Callable[[Connection], None], words: str) -> None:
    with (
        ConnectionPool(2, trust_env=False, read_timeout=0.2) as pool,
        Wire(serve) as wire,
        pytest.raises(ConnectionFailedError, match=f"nothing received for 0.2 s.*{words}"),
    ):
        get(pool, wire.url())


GZIPPED = gzip.compress(BODY)
SILENT_IN_THE_BODY = [
    pytest.param(answer(b"x", length=9), id="a body"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", id="chunks"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\nx", id="a body of unknown length"),
    pytest.param(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 99999\r\n\r\n" + GZIPPED[:400],
        id="an encoded body",
    ),
]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("head", SILENT_IN_THE_BODY)
def test_a_body_that_stalls_ends_after_the_seconds_of_its_cancel_token_and_what_came_is_there(
    head: bytes, tls: bool, certificates: Certificates
) -> None:
    def stall(connection: Connection) -> None:
        connection.request()
        connection.send(head)
        connection.closed_by_client()

    cancel_token = CancelToken()
    cancel_token.silence_limits = SilenceLimits(answer=BOUND, stall=0.2)
    words = r"no byte for 0\.2 s \(HF_HAUL_STALL_TIMEOUT"
    with (
        ConnectionPool(2, trust_env=False, verify=str(certificates.ca), read_timeout=BOUND) as pool,
        Wire(stall, certificates if tls else None) as wire,
        pool.open(wire.url(host="localhost"), None, cancel_token, decode=True) as response,
    ):
        began = time.monotonic()
        assert response.readinto(memoryview(bytearray(BODY)))
        with pytest.raises(StalledError, match=words):
            read(response)
        assert time.monotonic() - began < BOUND / 2


def test_an_answer_that_does_not_come_ends_after_the_seconds_of_its_cancel_token(
    pool: ConnectionPool,
) -> None:
    cancel_token = CancelToken()
    cancel_token.silence_limits = SilenceLimits(answer=0.2, stall=BOUND)
    words = r"no byte for 0\.2 s since the request \(HF_HAUL_FIRST_BYTE_TIMEOUT"
    with (
        Wire(lambda c: (c.request(), c.closed_by_client())) as wire,
        pytest.raises(StalledError, match=words),
    ):
        pool.open(wire.url(), None, cancel_token)


@pytest.mark.parametrize("forever", [BOUND, float("inf")])
def test_seconds_between_bytes_do_not_count_for_an_answer_nor_for_the_next_one_on_the_connection(
    pool: ConnectionPool, forever: float
) -> None:
    held = threading.Event()

    def slowly(connection: Connection) -> None:
        while connection.request():
            held.wait(0.3)
            connection.send(answer(BODY))

    hurried, patient = CancelToken(), CancelToken()
    hurried.silence_limits = SilenceLimits(answer=forever, stall=0.1)
    patient.silence_limits = SilenceLimits(answer=forever, stall=forever)
    with Wire(slowly) as wire:
        for cancel_token in (hurried, CancelToken(), patient):
            with pool.open(wire.url(), None, cancel_token) as response:
                assert read(response) == BODY
        assert wire.accepted == 1


@pytest.mark.parametrize("head", SILENT_IN_THE_BODY[1:])
def test_what_has_come_of_a_body_is_not_held_back_until_more_comes(pool: ConnectionPool, head: bytes) -> None:
    def drip(connection: Connection) -> None:
        connection.request()
        connection.send(head)
        connection.closed_by_client()

    with Wire(drip) as wire, pool.open(wire.url(), None, CancelToken(), decode=True) as response:
        buffer = bytearray(1000)
        got = response.readinto(memoryview(buffer))
        assert got
        assert bytes(buffer[:got]) in {b"x", BODY[:got]}


def test_a_connection_attempt_ends_after_the_connect_timeout() -> None:
    with (
        ConnectionPool(2, trust_env=False, connect_timeout=0.2) as pool,
        blackhole() as port,
        pytest.raises(ConnectionFailedError, match=r"no connection within 0\.2 s"),
    ):
        get(pool, f"http://127.0.0.1:{port}/")


def test_an_idle_connection_that_the_server_closed_is_not_used(pool: ConnectionPool) -> None:
    with Wire(lambda c: c.request() and c.send(answer(BODY))) as wire:  # one answer per connection
        for number in range(1, 4):
            assert get(pool, wire.url()) == BODY
            until(lambda: wire.open == 0, "the server to close")
            assert wire.accepted == number
        assert pool.get_stats()["total_errors"] == 0
        assert pool.get_stats()["open_connections"] == 1


def test_a_connection_closed_in_the_moment_of_its_reuse_costs_no_failure(pool: ConnectionPool) -> None:
    def serve(connection: Connection) -> None:
        connection.request()
        connection.send(answer(BODY))
        if connection.number == 1:
            connection.request()  # takes the second request, and closes without a word
        else:
            well_behaved(connection)

    with Wire(serve) as wire:
        assert get(pool, wire.url()) == BODY
        assert get(pool, wire.url()) == BODY
        assert wire.accepted == 2
        assert pool.get_stats()["total_errors"] == 0


def test_after_one_such_connection_a_new_one_is_made_and_no_other_idle_one_chosen(
    pool: ConnectionPool,
) -> None:
    both = threading.Barrier(2)

    def serve(connection: Connection) -> None:
        connection.request()
        connection.send(answer(BODY))
        if connection.number <= 2:
            connection.request()
        else:
            well_behaved(connection)

    def hold() -> bytes:
        with pool.open(wire.url(), None, CancelToken()) as response:
            both.wait(BOUND)
            return read(response)

    with Wire(serve) as wire:
        workers = [Worker(hold), Worker(hold)]
        assert all(worker.join().result == BODY for worker in workers)
        assert pool.get_stats()["idle_connections"] == 2
        assert get(pool, wire.url()) == BODY
        assert pool.get_stats()["total_errors"] == 0


def test_a_new_connection_that_fails_the_same_way_is_a_failure(pool: ConnectionPool) -> None:
    with Wire(lambda c: c.request()) as wire, pytest.raises(ConnectionFailedError):
        get(pool, wire.url())
    assert wire.accepted == 1


# ---- limits


def holding(release: threading.Event) -> Callable[[Connection], None]:
    """Answers once ``release`` is set."""

    def serve(connection: Connection) -> None:
        while connection.request():
            assert release.wait(BOUND)
            connection.send(answer(BODY))

    return serve


@pytest.mark.parametrize(("total", "per_host", "allowed"), [(3, None, 3), (8, 2, 2), (2, 5, 2)])
def test_no_more_connections_than_allowed_are_ever_open(
    total: int, per_host: int | None, allowed: int
) -> None:
    release = threading.Event()
    with ConnectionPool(total, per_host, trust_env=False) as pool, Wire(holding(release)) as wire:
        workers = [Worker(lambda: get(pool, wire.url())) for _ in range(10)]
        until(lambda: pool.get_stats()["waiting"] == 10 - allowed and wire.open == allowed)
        release.set()
        assert all(worker.join().result == BODY for worker in workers)
        assert wire.peak == allowed
        assert wire.accepted == allowed, "connections were thrown away"


def test_the_limit_per_host_does_not_keep_others_waiting() -> None:
    release = threading.Event()
    with (
        ConnectionPool(4, 1, trust_env=False) as pool,
        Wire(holding(release)) as slow,
        Wire(well_behaved) as quick,
    ):
        workers = [Worker(lambda: get(pool, slow.url())) for _ in range(3)]
        until(lambda: pool.get_stats()["waiting"] == 2)
        assert get(pool, quick.url()) == BODY
        release.set()
        assert all(worker.join().result == BODY for worker in workers)
        assert slow.peak == 1


def test_an_idle_connection_of_another_thread_is_closed_when_room_is_needed() -> None:
    with (
        ConnectionPool(2, trust_env=False) as pool,
        Wire(well_behaved) as first,
        Wire(well_behaved) as second,
        Wire(well_behaved) as third,
    ):
        for wire in (first, second):
            Worker(lambda wire=wire: get(pool, wire.url())).join()
        assert pool.get_stats()["idle_connections"] == 2
        get(pool, first.url())  # so the second is the one unused for longest
        assert get(pool, third.url()) == BODY
        until(lambda: second.open == 0, "the oldest to be closed")
        assert first.open == third.open == 1
        assert pool.get_stats()["open_connections"] == 2


def test_a_session_of_requests_counts_against_the_limits_too() -> None:
    with ConnectionPool(1, trust_env=False) as pool, Wire(well_behaved) as wire:
        answered = pool.get_session().get(wire.url(), stream=True)
        worker = Worker(lambda: get(pool, wire.url()))
        until(lambda: pool.get_stats()["waiting"] == 1)
        assert answered.content == BODY
        assert worker.join().result == BODY
        assert wire.accepted == 1


def test_a_fresh_connection_is_outside_the_pool_and_closed_afterwards() -> None:
    with ConnectionPool(1, trust_env=False) as pool, Wire(well_behaved) as wire:
        with pool.open(wire.url(), None, CancelToken()) as response:
            assert get(pool, wire.url(), fresh=True) == BODY
            assert read(response) == BODY
        until(lambda: wire.open == 1)
        assert wire.accepted == 2
        assert "connection: close" in wire.heads[1].lower()
        assert pool.get_stats()["open_connections"] == 1


# ---- waking: one call ends whatever the thread blocks in


def phase_is(pool: ConnectionPool, words: str) -> Callable[[], bool]:
    return lambda: any(words in call.phase for call in list(pool._calls))


class Blocked:
    """A pool, and a thread that blocks in one phase of a request."""

    def __init__(
        self, phase: str, monkeypatch: pytest.MonkeyPatch, certificates: Certificates | None
    ) -> None:
        self.pool = ConnectionPool(1, trust_env=False, verify=False, connect_timeout=60, read_timeout=60)
        self.cancel_token = CancelToken()
        self.undo: list[Callable[[], object]] = [self.pool.close]
        url = getattr(self, phase.replace(" ", "_"))(monkeypatch, certificates)
        self.worker = Worker(lambda: self.fetch(url))
        until(self.reached, phase)

    def fetch(self, url: str) -> None:
        with self.pool.open(url, None, self.cancel_token) as response:
            read(response)

    def wire(self, serve: Callable[[Connection], object], certificates: Certificates | None = None) -> Wire:
        wire = Wire(serve, certificates)
        self.undo.append(wire.close)
        return wire

    def place(self, *_: Any) -> str:
        wire = self.wire(well_behaved)
        self.undo.append(self.pool.open(wire.url(), None, CancelToken()).release)
        self.reached = lambda: self.pool.get_stats()["waiting"] == 1
        return wire.url()

    def name(self, monkeypatch: pytest.MonkeyPatch, _: Any) -> str:
        real, gate = socket.getaddrinfo, threading.Event()

        def slow(host: Any, *rest: Any, **more: Any) -> Any:
            if host == "slow.localhost" and not more.get("flags"):
                gate.wait(BOUND)
            return real("127.0.0.1", *rest, **more) if gate.is_set() else real(host, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        self.undo.append(gate.set)
        self.reached = phase_is(self.pool, "resolving")
        return "http://slow.localhost:9/"

    def connect(self, *_: Any) -> str:
        hole = blackhole()
        port = hole.__enter__()
        self.undo.append(lambda: hole.__exit__(None, None, None))
        self.reached = phase_is(self.pool, "connecting")
        return f"http://127.0.0.1:{port}/"

    def handshake(self, *_: Any) -> str:
        hello = threading.Event()

        def serve(connection: Connection) -> None:
            if connection.sock.recv(100):
                hello.set()
                connection.closed_by_client()

        self.reached = hello.is_set
        return self.wire(serve).url().replace("http:", "https:")

    def silent(self, certificates: Certificates | None, before: bytes) -> str:
        asked = threading.Event()

        def serve(connection: Connection) -> None:
            connection.request()
            connection.send(before)
            asked.set()
            connection.closed_by_client()

        self.reached = lambda: (
            asked.is_set()
            and (not before or any(call.phase == "receiving" for call in list(self.pool._calls)))
        )
        return self.wire(serve, certificates).url()

    def headers(self, *_: Any) -> str:
        return self.silent(None, b"")

    def body(self, *_: Any) -> str:
        return self.silent(None, answer(BODY, length=10**9))

    def chunks(self, *_: Any) -> str:
        return self.silent(None, chunked(b"abc"))

    def endless_body(self, *_: Any) -> str:
        return self.silent(None, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")

    def tls_headers(self, _: Any, certificates: Certificates | None) -> str:
        return self.silent(certificates, b"")

    def tls_body(self, _: Any, certificates: Certificates | None) -> str:
        return self.silent(certificates, answer(BODY, length=10**9))

    def close(self) -> None:
        for undo in reversed(self.undo):
            undo()


PHASES = [
    "place", "name", "connect", "handshake", "headers", "body", "chunks", "endless body", "tls headers", "tls body",
]  # fmt: skip


@pytest.fixture
def blocked(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> Iterator[Blocked]:
    made = Blocked(request.param, monkeypatch, certificates)
    yield made
    made.close()


WAKES: dict[str, tuple[Callable[[Blocked], object], type[HaulError]]] = {
    "stopped": (lambda b: b.cancel_token.set(), StopRequestedError),
    "woken": (lambda b: b.cancel_token.wake(), ConnectionFailedError),
    "pool closed": (lambda b: b.pool.close(), TransferError),
}


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("blocked", PHASES, indirect=True)
@pytest.mark.parametrize("wake", WAKES)
def test_a_blocked_thread_is_woken_at_once_in_every_phase(blocked: Blocked, wake: str) -> None:
    act, error = WAKES[wake]
    began = time.monotonic()
    act(blocked)
    blocked.worker.join()
    assert time.monotonic() - began < 1.0, "it was a timeout that ended it"
    assert isinstance(blocked.worker.error, error)
    assert isinstance(blocked.worker.error, ConnectionFailedError) == (wake == "woken")
    assert blocked.pool.get_stats()["waiting"] == 0


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("blocked", [p for p in PHASES if p != "place"], indirect=True)
def test_a_woken_thread_leaves_its_place_to_others(blocked: Blocked) -> None:
    blocked.cancel_token.set()
    blocked.worker.join()
    assert blocked.pool.get_stats()["open_connections"] == 0
    with Wire(well_behaved) as wire:
        assert get(blocked.pool, wire.url()) == BODY


def test_a_cancel_token_set_before_asks_for_nothing(pool: ConnectionPool) -> None:
    cancel_token = CancelToken()
    cancel_token.set()
    with Wire(well_behaved) as wire, pytest.raises(StopRequestedError):
        pool.open(wire.url(), None, cancel_token)
    assert wire.accepted == 0


def test_a_cancel_token_after_the_body_leaves_the_connection_alone(pool: ConnectionPool) -> None:
    cancel_token = CancelToken()
    with Wire(well_behaved) as wire:
        with pool.open(wire.url(), None, cancel_token) as response:
            assert read(response) == BODY
        cancel_token.set()
        assert get(pool, wire.url()) == BODY
        assert wire.accepted == 1


def test_a_wake_during_one_request_does_not_touch_another(pool: ConnectionPool) -> None:
    asked, release = threading.Event(), threading.Event()

    def serve(connection: Connection) -> None:
        connection.request()
        asked.set()
        assert release.wait(BOUND)
        connection.send(answer(BODY))

    tokens = CancelToken(), CancelToken()
    with Wire(serve) as wire:
        worker = Worker(lambda: read(pool.open(wire.url(), None, tokens[0])))
        assert asked.wait(BOUND)
        tokens[1].set()
        release.set()
        assert worker.join().result == BODY


def test_bytes_that_arrive_beside_a_wake_are_never_taken_for_the_body(certificates: Certificates) -> None:
    # A TLS socket that is shut down half way hands out its ciphertext as if it were the body's bytes.
    with ConnectionPool(1, trust_env=False, verify=str(certificates.ca)) as pool:
        cancel_token, stop = CancelToken(), threading.Event()

        def serve(connection: Connection) -> None:
            connection.request()
            connection.send(answer(b"", length=10**12))
            while not stop.is_set():
                connection.send(b"A" * 65536)

        with Wire(serve, certificates) as wire:
            for _ in range(20):
                response = pool.open(wire.url(), None, cancel_token)
                buffer, taken = memoryview(bytearray(1 << 16)), bytearray()
                waker = Worker(cancel_token.wake)
                with pytest.raises(ConnectionFailedError):  # noqa: PT012  the loop is what raises
                    while count := response.readinto(buffer):
                        taken += bytes(set(buffer[:count]))
                waker.join()
                assert set(taken) <= {ord("A")}
            stop.set()


# ---- closing


def test_a_closed_pool_closes_every_connection_and_takes_no_more() -> None:
    pool = ConnectionPool(4, trust_env=False)

    def serve(connection: Connection) -> None:
        while "whole" in connection.request():
            connection.send(answer(BODY))
        connection.send(answer(b"x", length=5))
        connection.closed_by_client()

    with Wire(serve) as wire:
        get(pool, wire.url("/whole"))
        busy = pool.open(wire.url("/part"), None, CancelToken())
        idle = pool.open(wire.url("/whole"), None, CancelToken())
        read(idle)
        pool.close()
        with pytest.raises(TransferError, match="closed"):
            read(busy)
        busy.release()
        until(lambda: wire.open == 0)
        for use in (lambda: pool.open(wire.url(), None, CancelToken()), pool.get_session):
            with pytest.raises(TransferError, match="closed") as caught:
                use()
            assert not caught.value.retryable
        assert pool.get_stats()["open_connections"] == 0
        pool.close()


def test_closing_releases_those_who_wait_for_a_place_without_a_cancel_token() -> None:
    pool = ConnectionPool(1, trust_env=False)
    with Wire(well_behaved) as wire:
        response = pool.open(wire.url(), None, CancelToken())
        worker = Worker(lambda: pool.get_session().get(wire.url()))
        until(lambda: pool.get_stats()["waiting"] == 1)
        pool.close()
        assert worker.join().error is not None
        response.release()


def test_nothing_is_left_open_for_the_garbage_collector() -> None:
    with ConnectionPool(4, trust_env=False) as pool, Wire(well_behaved) as wire:
        get(pool, wire.url())
        get(pool, wire.url(), fresh=True)
        with pool.open(wire.url(), None, CancelToken()) as response:
            response.readinto(memoryview(bytearray(5)))
    gc.collect()  # a socket left open would warn here, and warnings are errors


# ---- TLS


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_of_a_trusted_authority_is_accepted(certificates: Certificates, host: str) -> None:
    with (
        ConnectionPool(4, trust_env=False, verify=str(certificates.ca)) as pool,
        Wire(well_behaved, certificates) as wire,
    ):
        for _ in range(3):
            assert get(pool, wire.url(host=host)) == BODY
        assert get(pool, wire.url(host=host), fresh=True) == BODY
        assert pool.get_session().get(wire.url(host=host)).content == BODY
        assert wire.accepted == 2


@pytest.mark.parametrize(
    "variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"]
)
def test_the_environment_names_the_trusted_authorities(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    trusted = str(certificates.ca)
    if variable == "SSL_CERT_DIR":
        found = subprocess.run(
            ["openssl", "x509", "-hash", "-noout", "-in", trusted], check=True, capture_output=True, text=True
        )
        (tmp_path / f"{found.stdout.strip()}.0").write_bytes(certificates.ca.read_bytes())
        trusted = str(tmp_path)
    monkeypatch.setenv(variable, trusted)
    with Wire(well_behaved, certificates) as wire:
        with ConnectionPool(4) as pool:
            assert get(pool, wire.url()) == BODY
        with ConnectionPool(4, trust_env=False) as pool, pytest.raises(CertificateError):
            get(pool, wire.url())


def test_another_authority_is_refused_for_good(certificates: Certificates, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "other")
    with (
        ConnectionPool(4, trust_env=False, verify=str(other.ca)) as pool,
        Wire(well_behaved, certificates) as wire,
    ):
        for _ in range(2):
            with pytest.raises(
                CertificateError, match=r"127\.0\.0\.1: the TLS handshake failed: .*verify failed"
            ) as caught:
                get(pool, wire.url("/?secret"))
            assert not caught.value.retryable
            assert "secret" not in str(caught.value)
        assert wire.heads == []
        assert pool.get_stats()["open_connections"] == 0


def test_a_certificate_for_another_name_is_refused(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        ConnectionPool(4, trust_env=False, verify=str(certificates.ca)) as pool,
        Wire(well_behaved, certificates) as wire,
    ):
        addresses(monkeypatch, (socket.AF_INET, wire.port))
        with pytest.raises(CertificateError, match=r"many\.localhost"):
            get(pool, "https://many.localhost/")


def test_a_server_that_speaks_no_tls_is_refused(pool: ConnectionPool) -> None:
    def serve(connection: Connection) -> None:
        connection.sock.recv(10)
        connection.send(b"HTTP/1.1 400 Bad\r\n\r\n")

    with Wire(serve) as wire, pytest.raises(CertificateError):
        get(pool, wire.url().replace("http:", "https:"))


@pytest.mark.parametrize("nbytes", [pytest.param(10, id="by a reset"), pytest.param(65536, id="by an end")])
def test_a_handshake_cut_off_is_bad_luck_and_may_be_tried_again(pool: ConnectionPool, nbytes: int) -> None:
    with Wire(lambda c: c.sock.recv(nbytes)) as wire, pytest.raises(ConnectionFailedError):
        get(pool, wire.url().replace("http:", "https:"))


def test_a_bundle_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    pool = ConnectionPool(4, trust_env=False, verify=str(missing))
    with pool, pytest.raises(CertificateError, match=r"missing\.pem"):
        get(pool, "https://127.0.0.1:9/")


def test_an_unverified_connection_never_serves_who_wants_a_verified_one(
    certificates: Certificates, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path / "other")
    with (
        ConnectionPool(4, trust_env=False, verify=str(other.ca)) as pool,
        Wire(well_behaved, certificates) as wire,
    ):
        with pytest.warns(Warning, match="Unverified HTTPS"):
            assert pool.get_session().get(wire.url(), verify=False).content == BODY
        with pytest.raises(CertificateError):
            get(pool, wire.url())


def test_the_certificates_are_read_once_for_all_connections(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_haul.transports import network

    made = []
    real = network.create_urllib3_context
    monkeypatch.setattr(network, "create_urllib3_context", lambda: made.append(1) or real())
    with (
        ConnectionPool(8, trust_env=False, verify=str(certificates.ca)) as pool,
        Wire(well_behaved, certificates) as wire,
    ):
        workers = [Worker(lambda: get(pool, wire.url())) for _ in range(8)]
        assert all(worker.join().result == BODY for worker in workers)
        routes = list(pool._network._routes.values())
    assert len(made) == 1
    assert [route.connections.ca_certs for route in routes] == [None], "each connection reads them again"


# ---- proxies


def proxy(connection: Connection) -> None:
    """Forwards and tunnels, as far as these tests need it."""
    head = connection.request()
    method, target = head.split(" ", 2)[:2]
    if method == "CONNECT":
        host, _, port = target.rpartition(":")
        upstream = socket.create_connection((host, int(port)))
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        ends = {connection.sock: upstream, upstream: connection.sock}
        with upstream:
            while ready := select.select(list(ends), [], [], BOUND)[0]:
                for end in ready:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)
    else:
        while head:
            connection.send(answer(BODY, Via="proxy"))
            head = connection.request()


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    with Wire(proxy) as wire:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, wire.url(""))
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.delenv("no_proxy", raising=False)
        yield wire


def test_a_proxy_of_the_environment_forwards_http(through: Wire) -> None:
    with ConnectionPool(4) as pool:
        for _ in range(3):
            with pool.open("http://hub.invalid/a?b=c", {"X": "y"}, CancelToken()) as response:
                assert read(response) == BODY
                assert response.headers["Via"] == "proxy"
    assert through.accepted == 1
    assert through.heads[0].startswith("GET http://hub.invalid/a?b=c HTTP/1.1\r\n")
    assert "\r\nhost: hub.invalid\r\n" in through.heads[0].lower() + "\r\n"


def test_a_proxy_of_the_environment_tunnels_https(through: Wire, certificates: Certificates) -> None:
    with ConnectionPool(4, verify=str(certificates.ca)) as pool, Wire(well_behaved, certificates) as wire:
        for _ in range(3):
            assert get(pool, wire.url(host="localhost")) == BODY
        assert through.accepted == wire.accepted == 1
        assert through.heads == [h for h in through.heads if h.startswith(f"CONNECT localhost:{wire.port} ")]
        assert "authorization" not in "".join(through.heads).lower()


def test_a_proxy_named_in_an_argument_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with Wire(proxy) as wire:
        named = {"http": wire.url("").replace("//", "//user:pass@")}
        with ConnectionPool(4, proxies=named) as pool:
            assert get(pool, "http://hub.invalid/a") == BODY
        assert "\r\nproxy-authorization: basic " in wire.heads[0].lower()


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_hosts_that_need_no_proxy_get_none(
    through: Wire, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "127.0.0.1")
    with ConnectionPool(4) as pool, Wire(well_behaved) as wire:
        assert get(pool, wire.url()) == BODY
    assert through.accepted == 0


def test_without_trust_in_the_environment_its_proxies_are_not_used(through: Wire) -> None:
    with ConnectionPool(4, trust_env=False) as pool, Wire(well_behaved) as wire:
        assert get(pool, wire.url()) == BODY
    assert through.accepted == 0


def test_a_proxy_that_refuses_is_named_as_what_failed() -> None:
    with Wire(lambda c: c.request() and c.send(answer(b"", "407 Who are you"))) as wire:
        pool = ConnectionPool(4, trust_env=False, proxies={"https": wire.url("")})
        with pool, pytest.raises(ConnectionFailedError, match=r"its proxy: .*407"):
            get(pool, "https://hub.invalid/?secret")


def socks(connection: Connection) -> None:
    """As much of SOCKS 5 as a client without a password needs; then the answer itself."""
    connection.sock.recv(3)
    connection.send(b"\5\0")
    connection.sock.recv(256)
    connection.send(b"\5\0\0\1\0\0\0\0\0\0")
    well_behaved(connection)


def test_a_socks_proxy_serves_within_the_limits() -> None:
    want_modules("socks", extra="test")
    with Wire(socks) as wire:
        proxies = {"http": wire.url("").replace("http:", "socks5h:")}
        with ConnectionPool(1, trust_env=False, proxies=proxies) as pool:
            for _ in range(3):
                assert get(pool, "http://hub.invalid/x") == BODY
            assert pool.get_stats()["open_connections"] == 1
            with pool.open("http://hub.invalid/x", None, CancelToken()) as response:
                worker = Worker(lambda: get(pool, "http://hub.invalid/x"))
                until(lambda: pool.get_stats()["waiting"] == 1)
                assert read(response) == BODY
            assert worker.join().result == BODY
        assert wire.accepted == 1


def test_a_thread_blocked_in_its_proxy_is_woken() -> None:
    cancel_token, asked = CancelToken(), threading.Event()

    def serve(connection: Connection) -> None:
        if connection.request():
            asked.set()
            connection.closed_by_client()

    with Wire(serve) as wire, ConnectionPool(4, trust_env=False, proxies={"https": wire.url("")}) as pool:
        worker = Worker(lambda: pool.open("https://hub.invalid/", None, cancel_token))
        assert asked.wait(BOUND)
        began = time.monotonic()
        cancel_token.set()
        assert isinstance(worker.join().error, StopRequestedError)
        assert time.monotonic() - began < 1.0


# ---- several addresses


def addresses(monkeypatch: pytest.MonkeyPatch, *targets: tuple[int, int]) -> None:
    """Have ``many.localhost`` resolve to ports of this machine: family and port of each."""
    real = socket.getaddrinfo

    def fake(host: Any, *rest: Any, **more: Any) -> Any:
        if host != "many.localhost" or more.get("flags"):
            return real(host, *rest, **more)
        return [
            (family, socket.SOCK_STREAM, 6, "", ("127.0.0.1" if family == socket.AF_INET else "::1", port))
            for family, port in targets
        ]

    monkeypatch.setattr(socket, "getaddrinfo", fake)


def test_an_address_that_refuses_is_passed_over(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Wire(well_behaved) as wire, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        addresses(monkeypatch, (socket.AF_INET, unused.getsockname()[1]), (socket.AF_INET, wire.port))
        assert get(pool, "http://many.localhost/") == BODY


def test_an_address_that_does_not_answer_costs_a_quarter_second_and_not_the_timeout(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Wire(well_behaved) as wire, blackhole() as hole:
        addresses(monkeypatch, (socket.AF_INET, hole), (socket.AF_INET, wire.port))
        began = time.monotonic()
        assert get(pool, "http://many.localhost/") == BODY
        assert time.monotonic() - began < BOUND / 2


def test_the_error_of_the_last_address_is_told_when_none_answers(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        addresses(monkeypatch, *[(socket.AF_INET, unused.getsockname()[1])] * 2)
        with pytest.raises(ConnectionFailedError, match="refused"):
            get(pool, "http://many.localhost/")


# ---- forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_makes_its_own_connections() -> None:
    code = """
        import os, threading
        from hf_haul.cancellation import CancelToken
        from hf_haul.transports.pool import ConnectionPool
        from tests.integration.test_pool import BODY, get, read, well_behaved
        from tests.support.wire import Wire, until

        with Wire(well_behaved) as wire, ConnectionPool(2, trust_env=False) as pool:
            get(pool, wire.url())
            busy = pool.open(wire.url(), None, CancelToken())
            session = pool.get_session()
            assert pool.get_stats()["open_connections"] == 1
            pool._lock.acquire(); pool._slots._lock.acquire()   # held by another thread, for all the child knows
            child = os.fork()
            if child == 0:
                try:
                    stats = pool.get_stats()
                    assert stats["open_connections"] == stats["total_requests"] == 0, stats
                    assert get(pool, wire.url()) == BODY
                    assert pool.get_session() is not session
                    busy.release()                               # the parent's, not to be shut down
                    assert pool.get_stats()["open_connections"] == 1
                    assert get(pool, wire.url()) == BODY
                    os._exit(0)
                except BaseException:
                    import traceback; traceback.print_exc()
                    os._exit(1)
            pool._lock.release(); pool._slots._lock.release()
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert read(busy) == BODY, "the child took the parent's bytes, or closed its connection"
            assert get(pool, wire.url()) == BODY
            assert wire.accepted == 2, wire.accepted
        print("fine")
    """
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(hf_haul.__file__).parents[1]), str(ROOT)]),
    }
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, env=environ, check=False,
    )  # fmt: skip
    assert ran.stdout == "fine\n", ran.stderr


def test_the_words_of_a_refusal_that_drip_are_not_waited_for(pool: ConnectionPool) -> None:
    release = threading.Event()

    def drip(connection: Connection) -> None:
        connection.request()
        connection.send(answer(b"abc", "404 Not Found", length=5000))
        while not release.wait(0.01):
            connection.send(b"d")

    with Wire(drip) as wire, pool.open(wire.url(), None, CancelToken()) as refused:
        words = refused.head(seconds=0.0)
        release.set()
    assert words.rstrip(b"d") == b"abc"
    assert len(words) < 1000, "it waited for them"
