"""Requests through adapters of the user's own, whatever these do."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter

from hf_haul.cancellation import CancelToken
from hf_haul.errors import ConnectionFailedError, StalledError, StopRequestedError, TransferError
from hf_haul.transports import mounted
from hf_haul.transports.pool import ConnectionPool

URL = "http://hub.invalid/a.bin"
BOUND = 20.0


class Calling(BaseAdapter):
    """Answers as a function does."""

    def __init__(self, reply: Callable[[requests.PreparedRequest], requests.Response]) -> None:
        super().__init__()
        self.reply = reply

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        return self.reply(request)

    def close(self) -> None:
        """Nothing is open."""


class Body(io.BytesIO):
    """Says when it was closed."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(data)
        self.was_closed = threading.Event()

    def close(self) -> None:
        self.was_closed.set()
        super().close()


def response(raw: Any, status: int = 200, headers: Any = None) -> requests.Response:
    made = requests.Response()
    made.status_code, made.raw, made.headers = status, raw, headers or {}
    made.request = requests.PreparedRequest()
    return made


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    with ConnectionPool(2, trust_env=False) as made:
        yield made


def mount(pool: ConnectionPool, reply: Callable[[requests.PreparedRequest], requests.Response]) -> None:
    pool.get_session().mount("http://hub.invalid/", Calling(reply))


def test_a_body_is_whatever_can_be_read(pool: ConnectionPool) -> None:
    class Once:
        def __init__(self) -> None:
            self.left = b"content"

        def read(self, amount: int) -> bytes:
            data, self.left = self.left[:3], self.left[3:]
            return data[:amount]

        def close(self) -> None: ...

    mount(pool, lambda _: response(Once(), headers={"content-length": "7", "ETag": '"x"'}))
    with pool.open(URL, None, CancelToken()) as got:
        assert (got.status, got.length, got.headers["etag"]) == (200, 7, '"x"')
        assert got.head() == b"content"
    assert pool.get_stats()["total_bytes"] == 7


def test_a_body_of_urllib3_is_decoded_if_that_is_asked_for(pool: ConnectionPool) -> None:
    packed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xffK\xce\xcf+I\xcd+\x01\x00\xa90\xc5\xfe\x07\x00\x00\x00"

    def reply(_: object) -> requests.Response:
        headers = {"Content-Encoding": "gzip"}
        raw = urllib3.HTTPResponse(io.BytesIO(packed), headers, status=200, preload_content=False)
        return response(raw, headers=headers)

    mount(pool, reply)
    with pool.open(URL, None, CancelToken(), decode=True) as got:
        assert got.head() == b"content"


def test_a_body_that_is_in_memory_already_has_its_own_length_and_no_encoding(pool: ConnectionPool) -> None:
    def reply(_: object) -> requests.Response:
        made = response(None, headers={"Content-Encoding": "gzip", "Content-Length": "3"})
        made._content = b"content"
        return made

    mount(pool, reply)
    with pool.open(URL, None, CancelToken(), decode=True) as got:
        assert (got.length, "Content-Encoding" in got.headers, got.head()) == (7, False, b"content")


def test_no_encoding_is_undone_of_a_body_that_is_not_of_urllib3_as_with_requests(
    pool: ConnectionPool,
) -> None:
    headers = {"content-encoding": "gzip", "Content-Length": "7"}
    mount(pool, lambda _: response(Body(b"content"), headers=headers))
    with pool.open(URL, None, CancelToken(), decode=True) as got:
        assert (got.length, "Content-Encoding" in got.headers, got.head()) == (7, False, b"content")


def test_a_body_that_ends_early_is_cut_short(pool: ConnectionPool) -> None:
    mount(pool, lambda _: response(Body(b"cont"), headers={"Content-Length": "7"}))
    got = pool.open(URL, None, CancelToken())
    buffer = memoryview(bytearray(10))
    assert got.readinto(buffer) == 4
    with pytest.raises(ConnectionFailedError, match="cut short after 4 of 7 bytes"):
        got.readinto(buffer)


def test_a_body_is_closed_with_its_answer(pool: ConnectionPool) -> None:
    body = Body(b"content")
    mount(pool, lambda _: response(body))
    pool.open(URL, None, CancelToken()).release()
    assert body.was_closed.is_set()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (requests.ConnectionError("refused"), ConnectionFailedError),
        (ConnectionResetError("reset"), ConnectionFailedError),
        (requests.exceptions.InvalidURL("no"), TransferError),
        (LookupError("of the adapter's own"), LookupError),
    ],
)
def test_what_an_adapter_raises_is_raised_as_ever(
    pool: ConnectionPool, error: Exception, raised: type[Exception]
) -> None:
    def reply(_: object) -> requests.Response:
        raise error

    mount(pool, reply)
    with pytest.raises(raised):
        pool.open(URL, None, CancelToken())


@pytest.mark.parametrize("how", ["cancelled", "woken", "pool closed"])
def test_who_waits_for_an_adapter_lets_go_of_it_at_once_and_its_late_answer_is_closed(
    pool: ConnectionPool, how: str
) -> None:
    inside, go_on, body = threading.Event(), threading.Event(), Body(b"late")

    def reply(_: object) -> requests.Response:
        inside.set()
        go_on.wait(BOUND)
        return response(body)

    mount(pool, reply)
    cancel_token = CancelToken()
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            pool.open(URL, None, cancel_token)
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=ask, daemon=True)
    worker.start()
    assert inside.wait(BOUND)
    began = time.monotonic()
    {"cancelled": cancel_token.set, "woken": cancel_token.wake, "pool closed": pool.close}[how]()
    worker.join(BOUND)
    assert time.monotonic() - began < 1.0
    kind = {"cancelled": StopRequestedError, "woken": StalledError, "pool closed": TransferError}[how]
    assert [type(each) for each in errors] == [kind]
    assert not body.was_closed.is_set()
    go_on.set()
    assert body.was_closed.wait(BOUND)


def test_who_waits_for_a_hook_that_asks_once_more_lets_go_of_it_at_once(pool: ConnectionPool) -> None:
    inside, go_on, body = threading.Event(), threading.Event(), Body(b"first")

    def ask_again(answer: requests.Response, **_: Any) -> None:
        inside.set()
        go_on.wait(BOUND)

    mount(pool, lambda _: response(body))
    pool.get_session().hooks["response"].append(ask_again)
    cancel_token = CancelToken()

    def cancel() -> None:
        inside.wait(BOUND)
        cancel_token.set()

    threading.Thread(target=cancel, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(StopRequestedError):
        pool.open(URL, None, cancel_token)
    assert time.monotonic() - began < 1.0
    go_on.set()
    assert body.was_closed.wait(BOUND)


def test_an_answer_whose_hook_fails_is_closed(pool: ConnectionPool) -> None:
    body = Body(b"content")
    mount(pool, lambda _: response(body))

    def fail(*_: Any, **__: Any) -> None:
        raise LookupError("of the user's own")

    pool.get_session().hooks["response"].append(fail)
    with pytest.raises(LookupError, match="of the user's own"):
        pool.open(URL, None, CancelToken())
    assert body.was_closed.is_set()


def test_an_answer_that_a_hook_replaces_is_closed(pool: ConnectionPool) -> None:
    body = Body(b"content")
    mount(pool, lambda _: response(body))
    pool.get_session().hooks["response"].append(lambda *_, **__: response(io.BytesIO(b"other")))
    with pool.open(URL, None, CancelToken()) as got:
        assert body.was_closed.is_set()
        assert got.head() == b"other"


def test_without_a_thread_to_be_had_an_adapter_is_called_in_the_one_that_asks(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounted, "start_daemon", lambda *_: None)
    threads: list[threading.Thread] = []

    def reply(_: object) -> requests.Response:
        threads.append(threading.current_thread())
        return response(Body(b"content"))

    mount(pool, reply)
    with pool.open(URL, None, CancelToken()) as got:
        assert got.head() == b"content"
    assert threads == [threading.current_thread()]
