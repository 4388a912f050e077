"""The pool's public face, without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses
from tests.support.clock import FakeClock

from hf_haul.cancellation import CancelToken
from hf_haul.errors import ConnectionFailedError, TransferError
from hf_haul.transports.pool import ConnectionPool
from hf_haul.transports.sessions import PoolSession

URL = "http://hub.invalid/org/m/resolve/main/a.bin"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def pool(clock: FakeClock) -> Iterator[ConnectionPool]:
    with ConnectionPool(4, 2, trust_env=False, headers={"User-Agent": "haul/1"}, clock=clock) as made:
        yield made


@pytest.fixture
def hub() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def in_thread(work: Callable[[], Any]) -> Any:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(work()), daemon=True)
    thread.start()
    thread.join(20)
    return result[0]


def in_threads(work: Callable[[], Any], count: int) -> list[Any]:
    """What some threads got that all lived until the last had it."""
    results: list[Any] = []
    all_there = threading.Barrier(count)

    def run() -> None:
        results.append(work())
        all_there.wait(20)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def get(pool: ConnectionPool, url: str = URL, **headers: str) -> bytes:
    with pool.open(url, headers, CancelToken()) as response:
        return response.head()


def test_the_limits_are_the_first_two_parameters() -> None:
    pool = ConnectionPool(7, 3)
    assert (pool.max_connections, pool.max_connections_per_host) == (7, 3)
    assert ConnectionPool(5).max_connections_per_host == 5


@pytest.mark.parametrize(
    ("total", "per_host", "name"), [(0, 1, "max_connections"), (1, 0, "max_connections_per_host")]
)
def test_a_limit_that_lets_nothing_through_is_refused(total: int, per_host: int, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ConnectionPool(total, per_host)


def test_a_thread_keeps_its_session_and_shares_it_with_nobody(pool: ConnectionPool) -> None:
    mine = pool.get_session()
    assert pool.get_session() is mine
    others = {id(in_thread(pool.get_session)) for _ in range(3)}
    assert id(mine) not in others
    assert isinstance(mine, requests.Session)


def test_a_session_is_made_by_create_session(pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch) -> None:
    special = pool._create_session()
    monkeypatch.setattr(pool, "_create_session", lambda: special)
    assert in_thread(pool.get_session) is special


def test_a_session_retries_nothing_by_itself(pool: ConnectionPool) -> None:
    for scheme in ("http://", "https://"):
        retries = pool.get_session().get_adapter(scheme).max_retries
        assert (retries.total, retries.read) == (0, False)


def test_headers_of_the_request_go_before_those_of_the_pool(
    pool: ConnectionPool, hub: responses.RequestsMock
) -> None:
    hub.get(URL, body=b"x")
    get(pool)
    get(pool, **{"user-agent": "mine", "ACCEPT-encoding": "gzip", "Range": "bytes=0-0"})
    first, second = (call.request.headers for call in hub.calls)
    assert first == {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "haul/1"}
    assert second == {"Accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "mine", "Range": "bytes=0-0"}


def test_a_redirect_is_an_answer_like_any_other(pool: ConnectionPool, hub: responses.RequestsMock) -> None:
    hub.get(URL, status=302, headers={"Location": "http://cdn.invalid/x"})
    with pool.open(URL, None, CancelToken()) as response:
        assert response.status == 302
        assert response.headers["location"] == "http://cdn.invalid/x"
        assert response.url == URL
    assert len(hub.calls) == 1


@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_a_refusal_is_an_answer_and_asked_for_once(
    pool: ConnectionPool, hub: responses.RequestsMock, status: int
) -> None:
    hub.get(URL, status=status, body=b"no")
    with pool.open(URL, None, CancelToken()) as response:
        assert (response.status, response.head()) == (status, b"no")
    assert len(hub.calls) == 1


def test_cookies_are_neither_kept_nor_sent(pool: ConnectionPool, hub: responses.RequestsMock) -> None:
    hub.get(URL, body=b"x", headers={"Set-Cookie": "a=b"})
    get(pool)
    get(pool)
    assert "Cookie" not in hub.calls[1].request.headers


def test_the_head_of_a_body_is_cut(pool: ConnectionPool, hub: responses.RequestsMock) -> None:
    hub.get(URL, body=b"0123456789")
    with pool.open(URL, None, CancelToken()) as response:
        assert response.head(4) == b"0123"
        assert response.head(100) == b"456789"
        assert response.head(100) == b""


def test_reading_nothing_is_no_end(pool: ConnectionPool, hub: responses.RequestsMock) -> None:
    hub.get(URL, body=b"0123")
    with pool.open(URL, None, CancelToken()) as response:
        assert response.readinto(memoryview(bytearray())) == 0
        assert response.head() == b"0123"


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        pytest.param(requests.ConnectionError("x"), ConnectionFailedError, id="connection"),
        pytest.param(requests.Timeout("x"), ConnectionFailedError, id="timeout"),
        pytest.param(requests.exceptions.ProxyError("x"), ConnectionFailedError, id="proxy"),
        pytest.param(requests.exceptions.ChunkedEncodingError("x"), ConnectionFailedError, id="chunks"),
        pytest.param(requests.exceptions.InvalidURL("x"), TransferError, id="address"),
        pytest.param(ConnectionResetError(104, "reset by peer"), ConnectionFailedError, id="bare reset"),
    ],
)
def test_foreign_errors_are_translated_and_keep_a_cause_that_quotes_no_url(
    pool: ConnectionPool, hub: responses.RequestsMock, raised: Exception, error: type[TransferError]
) -> None:
    hub.get(URL, body=raised)
    with pytest.raises(TransferError, match=r"hub\.invalid") as caught:
        get(pool)
    assert caught.type is error
    assert caught.value.__cause__ is (None if isinstance(raised, requests.RequestException) else raised)
    assert caught.value.__suppress_context__


# ---- statistics


def test_requests_bytes_and_errors_are_counted_in_total_and_per_thread(
    pool: ConnectionPool, hub: responses.RequestsMock
) -> None:
    hub.get(URL, body=b"x" * 100)
    hub.get(URL + "2", body=requests.ConnectionError())
    get(pool)
    in_thread(lambda: get(pool))

    def fail() -> int:
        with pytest.raises(ConnectionFailedError):
            get(pool, URL + "2")
        return threading.get_ident()

    assert in_thread(fail)
    stats = pool.get_stats()
    assert (stats["total_requests"], stats["total_bytes"], stats["total_errors"]) == (3, 200, 1)
    assert stats["error_rate"] == pytest.approx(1 / 3)
    mine = stats["threads"][threading.get_ident()]
    assert (mine["requests"], mine["bytes_downloaded"], mine["errors"], mine["error_rate"]) == (
        1,
        100,
        0,
        0.0,
    )
    assert sum(t["requests"] for t in stats["threads"].values()) == 3


def test_others_may_count_their_requests_too(pool: ConnectionPool) -> None:
    pool.update_stats(42, 1000, False)
    pool.update_stats(thread_id=42, bytes_downloaded=500, error=True)
    pool.update_stats(43)
    stats = pool.get_stats()
    assert stats["threads"][42] == {"requests": 2, "bytes_downloaded": 1500, "errors": 1, "error_rate": 0.5}
    assert (stats["total_requests"], stats["total_bytes"], stats["error_rate"]) == (
        3,
        1500,
        pytest.approx(1 / 3),
    )


def test_a_new_pool_has_done_nothing(pool: ConnectionPool) -> None:
    assert pool.get_stats() == {
        "max_connections": 4, "max_connections_per_host": 2, "active_sessions": 0, "open_connections": 0,
        "idle_connections": 0, "busy_connections": 0, "waiting": 0, "connections_created": 0, "connections_reused": 0,
        "open_by_host": {}, "total_requests": 0, "total_bytes": 0, "total_errors": 0, "error_rate": 0.0, "threads": {},
    }  # fmt: skip


# ---- stale sessions


def test_sessions_are_stale_by_their_last_use_and_not_by_their_age(
    pool: ConnectionPool, clock: FakeClock
) -> None:
    in_thread(pool.get_session)
    mine = pool.get_session()
    clock.advance(50)
    assert pool.get_session() is mine  # used again: old, but not stale
    clock.advance(20)
    assert pool.get_stats()["active_sessions"] == 2
    assert pool.cleanup_stale_sessions(60) == 1
    assert pool.get_stats()["active_sessions"] == 1
    assert pool.get_session() is mine


def test_a_thread_that_comes_back_gets_a_new_session(pool: ConnectionPool, clock: FakeClock) -> None:
    before = pool.get_session()
    clock.advance(61)
    assert pool.cleanup_stale_sessions(60) == 1
    assert pool.get_session() is not before
    assert pool.get_stats()["active_sessions"] == 1


def test_a_session_with_a_body_under_way_is_in_use_however_long_it_takes(
    pool: ConnectionPool, clock: FakeClock, hub: responses.RequestsMock
) -> None:
    hub.get(URL, body=b"x")
    with pool.open(URL, None, CancelToken()):
        clock.advance(1e6)
        assert pool.cleanup_stale_sessions(60) == 0
    assert pool.cleanup_stale_sessions(60) == 0, "finishing is a use, too"
    clock.advance(61)
    assert pool.cleanup_stale_sessions(60) == 1


def test_sessions_of_ended_threads_are_closed_before_there_are_many(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[requests.Session] = []
    monkeypatch.setattr(PoolSession, "close", lambda session: closed.append(session))
    mine = pool.get_session()
    for _ in range(50):
        in_threads(pool.get_session, 3)  # at once: each has a number of its own
    assert pool.get_stats()["active_sessions"] <= pool.max_connections + 3
    assert len(closed) >= 150 - pool.max_connections - 3
    assert mine not in closed
    assert pool.get_session() is mine


def test_sessions_of_threads_that_live_are_all_kept(pool: ConnectionPool) -> None:
    assert len(set(in_threads(lambda: id(pool.get_session()), 20))) == 20
    assert len(set(in_threads(lambda: pool.get_session() is pool.get_session(), 20))) == 1


def test_a_session_of_an_ended_thread_stays_while_a_body_is_read_with_it(
    pool: ConnectionPool, hub: responses.RequestsMock
) -> None:
    hub.get(URL, body=b"x")
    response = in_thread(lambda: pool.open(URL, None, CancelToken()))
    for _ in range(10):
        in_threads(pool.get_session, 3)
    assert response.head() == b"x"
    response.close()


def test_statistics_are_kept_of_some_hundred_threads_and_counted_of_all(pool: ConnectionPool) -> None:
    pool.get_session()
    me = threading.get_ident()
    pool.update_stats(me, 5)
    for thread_id in range(1000):
        pool.update_stats(-1 - thread_id, 1)
    stats = pool.get_stats()
    assert stats["total_requests"] == 1001
    assert len(stats["threads"]) <= 300
    assert {me, -1000} <= stats["threads"].keys(), "of those that live, and of the latest"
