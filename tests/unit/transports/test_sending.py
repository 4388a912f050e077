"""How a request is sent, where no socket is to be had."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses

from hf_haul.cancellation import CancelToken
from hf_haul.descriptors import Descriptors
from hf_haul.errors import ConnectionFailedError, StopRequestedError, TooManyOpenFilesError
from hf_haul.transports import sending
from hf_haul.transports.pool import ConnectionPool

URL = "http://hub.invalid/org/m/resolve/main/a.bin"


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    with ConnectionPool(4, 2, trust_env=False) as made:
        yield made


@pytest.fixture
def hub() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


class Shortage:
    """A system that opens no socket for a while."""

    def __init__(self, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left = times
        self.slept = 0.0
        self.now = 0.0
        self.on_sleep: Callable[[], object] = lambda: None
        real = pool._sender._send_once

        def send(*args: Any) -> Any:
            if self.left:
                self.left -= 1
                raise requests.ConnectionError("no") from OSError(errno.EMFILE, "Too many open files")
            return real(*args)

        monkeypatch.setattr(pool._sender, "_send_once", send)
        self.files = Descriptors(lambda: 256, lambda: 256, lambda: self.now, self._sleep)
        monkeypatch.setattr(sending, "descriptors", self.files)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


def test_a_request_waits_for_a_descriptor(
    pool: ConnectionPool, hub: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.get(URL, b"content")
    shortage = Shortage(pool, monkeypatch, 20)
    cancel_token = CancelToken()
    shortage.on_sleep = lambda: queued.append(cancel_token.queued)
    queued: list[bool] = []
    with pool.open(URL, {}, cancel_token) as response:
        assert response.head() == b"content"
    assert set(queued) == {True}, "the watchdog would take it for a stall"
    assert not cancel_token.queued


def test_a_wait_for_a_descriptor_ends_with_an_error_that_says_so(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shortage(pool, monkeypatch, 10**9)
    with pytest.raises(TooManyOpenFilesError, match="a connection: 256 of 256"):
        pool.open(URL, {}, CancelToken())


def test_a_wait_for_a_descriptor_ends_when_it_is_halted(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortage = Shortage(pool, monkeypatch, 10**9)
    cancel_token = CancelToken()
    shortage.on_sleep = cancel_token.set
    with pytest.raises(StopRequestedError):
        pool.open(URL, {}, cancel_token)
    assert shortage.now < 1


def test_another_error_after_a_wait_for_a_descriptor_is_told_as_any(
    pool: ConnectionPool, hub: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.get(URL, body=requests.ConnectionError(ConnectionResetError("reset")))
    Shortage(pool, monkeypatch, 3)
    with pytest.raises(ConnectionFailedError):
        pool.open(URL, {}, CancelToken())
