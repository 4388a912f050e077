"""What is set on a pool's sessions, without a network."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from typing import Any

import pytest
import requests
import responses
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import RequestsCookieJar, create_cookie
from requests.structures import CaseInsensitiveDict

from hf_haul.cancellation import CancelToken
from hf_haul.errors import TransferError
from hf_haul.transports.network import Adapter
from hf_haul.transports.outgoing import Outgoing
from hf_haul.transports.pool import ConnectionPool
from hf_haul.transports.sessions import UsualHeaders, keeps_secrets, needs_requests, renew_in_child
from hf_haul.urls import parse_url

HOME = "http://hub.invalid/org/m/resolve/main/a.bin"
SAME = "http://hub.invalid/b.bin"
ELSEWHERE = "http://cdn.invalid/a.bin"


class Memory(BaseAdapter):
    """Answers from memory, and keeps what it was asked."""

    def __init__(self, body: bytes = b"from memory") -> None:
        super().__init__()
        self.body = body
        self.asked: list[requests.PreparedRequest] = []
        self.options: list[dict[str, Any]] = []
        self.closed = 0

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self.asked.append(request)
        self.options.append(options)
        answer = requests.Response()
        answer.request, answer.url, answer.status_code = request, str(request.url), 200
        answer.headers["Content-Length"] = str(len(self.body))
        answer.raw = io.BytesIO(self.body)
        return answer

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def pool() -> Iterator[ConnectionPool]:
    with ConnectionPool(4, trust_env=False, headers={"User-Agent": "haul/1"}) as made:
        yield made


@pytest.fixture
def hub() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        for url in (HOME, SAME, ELSEWHERE):
            mock.get(url, b"content")
        yield mock


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Outgoing]:
    """What requests were made of."""
    made: list[Outgoing] = []
    real = Outgoing.prepared

    def prepared(request: Outgoing) -> requests.PreparedRequest:
        made.append(request)
        return real(request)

    monkeypatch.setattr(Outgoing, "prepared", prepared)
    return made


def get(pool: ConnectionPool, url: str = HOME, home: str | None = None, **headers: str) -> bytes:
    """Ask for ``url``, to which ``home`` has redirected."""
    led_from = None if home is None else parse_url(home)
    with pool.open(url, headers, CancelToken(), home=led_from) as response:
        return response.head()


def last(hub: responses.RequestsMock) -> Any:
    return hub.calls[-1].request


# ---- whose settings


def test_there_is_no_session_before_somebody_asks_for_one(
    pool: ConnectionPool, hub: responses.RequestsMock, sent: list[Outgoing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "Session", lambda: pytest.fail("made for nobody"))
    get(pool)
    assert sent[0].session is None


def test_a_session_on_which_nothing_was_set_takes_nothing_the_way_of_requests(
    pool: ConnectionPool, hub: responses.RequestsMock, sent: list[Outgoing]
) -> None:
    get(pool)
    pool.get_session()
    get(pool)
    before, after = sent
    assert after.session is None
    assert (after.headers, after.adapter) == (before.headers, before.adapter)


def test_what_is_set_in_one_thread_is_set_in_all(pool: ConnectionPool) -> None:
    theirs: list[requests.Session] = []
    thread = threading.Thread(target=lambda: theirs.append(pool.get_session()), daemon=True)
    thread.start()
    thread.join(20)
    mine, adapter = pool.get_session(), Memory()
    mine.mount("http://hub.invalid/", adapter)
    mine.verify, mine.headers["X-Key"] = "ca.pem", "1"
    assert theirs[0] is not mine
    assert theirs[0].get_adapter(HOME) is adapter
    assert (theirs[0].verify, theirs[0].headers["x-key"]) == ("ca.pem", "1")


def test_a_subclass_gives_each_thread_a_session_of_its_own(hub: responses.RequestsMock) -> None:
    class Pool(ConnectionPool):
        def _create_session(self) -> requests.Session:
            session = requests.Session()
            session.headers["X-Thread"] = threading.current_thread().name
            return session

    with Pool(2, trust_env=False) as pool:
        thread = threading.Thread(target=lambda: get(pool), name="other", daemon=True)
        thread.start()
        thread.join(20)
        assert last(hub).headers["X-Thread"] == "other"
        get(pool)
        assert last(hub).headers["X-Thread"] == threading.current_thread().name
        assert last(hub).headers["Accept-Encoding"] == "identity", "its default is nobody's wish"


def test_closing_a_session_closes_no_adapter_and_closing_the_pool_does(pool: ConnectionPool) -> None:
    adapter = Memory()
    with pool.get_session() as session:
        session.mount("http://hub.invalid/", adapter)
    pool.cleanup_stale_sessions(-1.0)
    assert adapter.closed == 0
    assert get(pool) == b"from memory"
    pool.close()
    assert adapter.closed == 1


def test_a_session_is_pickled_with_its_settings_and_without_the_pool(pool: ConnectionPool) -> None:
    session = pool.get_session()
    session.mount("http://hub.invalid/", HTTPAdapter(max_retries=7))
    session.auth, session.headers["X-Key"] = ("me", "secret"), "1"
    session.cookies.set("a", "b", domain="hub.invalid")
    got = pickle.loads(pickle.dumps(session))
    assert type(got) is requests.Session
    assert got.get_adapter(HOME).max_retries.total == 7
    assert not isinstance(got.get_adapter(ELSEWHERE), Adapter)
    assert (got.auth, got.headers["X-Key"], got.cookies.get_dict()) == (("me", "secret"), "1", {"a": "b"})


# ---- adapters


def test_bytes_go_through_the_adapter_that_is_mounted_for_their_address(
    pool: ConnectionPool, hub: responses.RequestsMock
) -> None:
    adapter = Memory()
    pool.get_session().mount("http://hub.invalid/org/", adapter)
    assert (get(pool, Range="bytes=0-3"), get(pool, SAME)) == (b"from memory", b"content")
    (asked,), (options,) = adapter.asked, adapter.options
    assert asked.url == HOME
    assert asked.headers == {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "haul/1", "Range": "bytes=0-3"}  # fmt: skip
    assert options == {"stream": True, "timeout": (10.0, 30.0), "verify": True, "cert": None, "proxies": {}}


def test_an_adapter_is_given_what_else_was_set(pool: ConnectionPool) -> None:
    adapter, session = Memory(), pool.get_session()
    session.mount("http://hub.invalid/", adapter)
    session.verify, session.cert, session.proxies = "ca.pem", ("a.pem", "a.key"), {"http": "http://proxy:1"}
    get(pool)
    (options,) = adapter.options
    assert (options["verify"], options["cert"]) == ("ca.pem", ("a.pem", "a.key"))
    assert options["proxies"] == {"http": "http://proxy:1"}


def test_no_adapter_for_an_address_is_an_error_that_is_not_retried(pool: ConnectionPool) -> None:
    session = pool.get_session()
    session.mount("http://hub.invalid/", Memory())
    del session.adapters["http://"]
    with pytest.raises(TransferError, match="InvalidSchema") as caught:
        get(pool, ELSEWHERE)
    assert not caught.value.retryable


# ---- headers


@pytest.mark.parametrize(
    ("change", "headers"),
    [
        pytest.param(lambda h: h.update({"X-Key": "1"}), {"X-Key": "1"}, id="added"),
        pytest.param(lambda h: h.update({"user-agent": "mine"}), {"user-agent": "mine"}, id="changed"),
        pytest.param(lambda h: h.pop("accept"), {"Accept": None}, id="removed"),
        pytest.param(lambda h: h.update({"Accept": None}), {"Accept": None}, id="none"),
        pytest.param(lambda h: h.update({"Range": "bytes=0-0"}), {}, id="the request's go first"),
    ],
)
def test_headers_of_a_session_are_those_of_every_request(
    pool: ConnectionPool,
    hub: responses.RequestsMock,
    change: Callable[[Any], object],
    headers: dict[str, str | None],
) -> None:
    change(pool.get_session().headers)
    get(pool, Range="bytes=5-9")
    usual = requests.structures.CaseInsensitiveDict(
        {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "haul/1", "Range": "bytes=5-9"}
    )
    usual.update(headers)  # type: ignore[arg-type]  # None for none
    assert last(hub).headers == {name: value for name, value in usual.items() if value is not None}


def test_headers_may_be_replaced_by_a_plain_dict(pool: ConnectionPool, hub: responses.RequestsMock) -> None:
    pool.get_session().headers = {"X-Key": "1"}  # type: ignore[assignment]  # as users do
    get(pool)
    assert last(hub).headers == {"X-Key": "1"}


# ---- secrets


@pytest.mark.parametrize(
    ("home", "url", "kept"),
    [
        (None, HOME, True),
        (HOME, HOME, True),
        (HOME, SAME, True),
        (HOME, ELSEWHERE, False),
        (HOME, "http://hub.invalid:8080/a", False),
        (HOME, "https://hub.invalid/a", True),
        ("https://hub.invalid/a", HOME, False),
    ],
)
def test_secrets_stay_at_their_host_as_with_requests(
    pool: ConnectionPool, hub: responses.RequestsMock, home: str | None, url: str, kept: bool
) -> None:
    session = pool.get_session()
    session.auth = ("me", "secret")
    session.headers.update({"Cookie": "c=secret", "X-Key": "1"})
    hub.get(url, b"x")
    get(pool, url, home)
    headers = last(hub).headers
    assert ("Authorization" in headers, "Cookie" in headers, "X-Key" in headers) == (kept, kept, True)
    assert keeps_secrets(session, None if home is None else parse_url(home), parse_url(url)) is kept


def test_a_header_that_is_a_secret_stays_at_its_host_without_more_being_set(
    pool: ConnectionPool, hub: responses.RequestsMock, sent: list[Outgoing]
) -> None:
    pool.get_session().headers["authorization"] = "Bearer secret"
    get(pool)
    assert last(hub).headers["Authorization"] == "Bearer secret"
    get(pool, ELSEWHERE, HOME)
    assert "secret" not in repr(last(hub).headers)
    assert [each.session for each in sent] == [None, None]


@pytest.mark.parametrize(("url", "kept"), [(SAME, True), (ELSEWHERE, False)])
def test_a_secret_that_a_pool_was_made_with_stays_at_its_host_before_anybody_asks_for_a_session(
    hub: responses.RequestsMock, sent: list[Outgoing], url: str, kept: bool
) -> None:
    headers = {"authorization": "Bearer secret", "Cookie": "c=secret", "X-Key": "1"}
    with ConnectionPool(1, trust_env=False, headers=headers) as pool:
        get(pool, url, HOME)
        get(pool, url, HOME, Authorization="Bearer own")
    first, second = (call.request.headers for call in hub.calls)
    assert ("Authorization" in first, "Cookie" in first, first["X-Key"]) == (kept, kept, "1")
    assert second["Authorization"] == "Bearer own"
    assert [each.session for each in sent] == [None, None]


def test_auth_goes_before_a_header_and_is_asked_for_each_request(
    pool: ConnectionPool, hub: responses.RequestsMock
) -> None:
    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Signed {request.headers['Range']}"
        return request

    pool.get_session().auth = sign
    get(pool, Range="bytes=0-1", Authorization="Bearer t")
    assert last(hub).headers["Authorization"] == "Signed bytes=0-1"


def test_netrc_is_not_read(
    pool: ConnectionPool, hub: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine hub.invalid login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    session = pool.get_session()
    session.trust_env = True
    session.cookies.set("a", "b", domain="hub.invalid")
    get(pool, Authorization="Bearer t")
    assert last(hub).headers["Authorization"] == "Bearer t"


# ---- cookies


def test_cookies_go_where_they_are_for(pool: ConnectionPool, hub: responses.RequestsMock) -> None:
    cookies = pool.get_session().cookies
    cookies.set("hub", "1", domain="hub.invalid")
    cookies.set("cdn", "2", domain="cdn.invalid")
    cookies.set("any", "3")
    get(pool)
    assert sorted(last(hub).headers["Cookie"].split("; ")) == ["any=3", "hub=1"]
    get(pool, ELSEWHERE, HOME)
    assert last(hub).headers["Cookie"] == "cdn=2", "one that names no host is for the first alone"


def test_cookies_of_answers_are_kept_once_any_were_set(
    pool: ConnectionPool, hub: responses.RequestsMock
) -> None:
    hub.replace(responses.GET, HOME, b"x", headers={"Set-Cookie": "seen=1"})
    pool.get_session().cookies.set("own", "0", domain="hub.invalid")
    get(pool)
    get(pool)
    assert sorted(last(hub).headers["Cookie"].split("; ")) == ["own=0", "seen=1"]


@pytest.mark.parametrize("cookies", [{"a": "b"}, CookieJar()])
def test_cookies_may_be_of_another_kind(
    pool: ConnectionPool, hub: responses.RequestsMock, cookies: Any
) -> None:
    if isinstance(cookies, CookieJar):
        cookies.set_cookie(create_cookie("a", "b"))  # type: ignore[no-untyped-call]  # so in the stubs
    pool.get_session().cookies = cookies
    get(pool)
    assert last(hub).headers["Cookie"] == "a=b"
    get(pool, ELSEWHERE, HOME)
    assert "Cookie" not in last(hub).headers


def test_a_jar_that_changes_while_it_is_looked_at_holds_something() -> None:
    class Changing(RequestsCookieJar):
        def __iter__(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    session = requests.Session()
    session.mount("http://", Adapter.__new__(Adapter))
    session.mount("https://", Adapter.__new__(Adapter))
    assert not needs_requests(session)
    session.cookies = Changing()
    assert needs_requests(session)


@pytest.mark.parametrize("error", [RuntimeError("mutated during iteration"), KeyError("x-gone")])
def test_headers_that_change_while_they_are_looked_at_are_looked_at_once_more(
    pool: ConnectionPool, hub: responses.RequestsMock, error: Exception
) -> None:
    class Changing(CaseInsensitiveDict[str]):
        looks = 0

        def _look(self) -> None:
            self.looks += 1
            if self.looks in {1, 3}:
                raise error

        def lower_items(self) -> Any:
            self._look()
            return super().lower_items()

        def __iter__(self) -> Any:
            self._look()
            return super().__iter__()

    changing: Any = Changing({"X-Key": "1"})
    changing.looks = 0
    pool.get_session().headers = changing
    get(pool)
    assert last(hub).headers["X-Key"] == "1"
    assert changing.looks >= 4


# ---- hooks, parameters


def test_hooks_see_every_answer_and_may_replace_it(pool: ConnectionPool, hub: responses.RequestsMock) -> None:
    seen: list[str] = []

    def note(answer: requests.Response, **_: Any) -> requests.Response:
        seen.append(str(answer.url))
        other = requests.Response()
        other.status_code, other.request, other.raw = 200, answer.request, io.BytesIO(b"other")
        return other

    pool.get_session().hooks["response"].append(note)
    assert get(pool) == b"other"
    assert seen == [HOME]


def test_a_hook_may_read_the_body(pool: ConnectionPool, hub: responses.RequestsMock) -> None:
    pool.get_session().hooks["response"].append(lambda answer, **_: answer.content and None)
    with pool.open(HOME, None, CancelToken()) as response:
        assert (response.length, response.head()) == (7, b"content")


@pytest.mark.parametrize("status", [404, 503])
def test_a_hook_that_raises_for_a_status_leaves_the_judgement_to_who_asked(
    pool: ConnectionPool, hub: responses.RequestsMock, status: int
) -> None:
    hub.replace(responses.GET, HOME, b"why", status=status)
    pool.get_session().hooks["response"].append(lambda answer, **_: answer.raise_for_status())
    with pool.open(HOME, None, CancelToken()) as response:
        assert (response.status, response.head()) == (status, b"why")


def test_an_error_of_a_hook_is_the_callers(pool: ConnectionPool, hub: responses.RequestsMock) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise LookupError("of the user's own")

    pool.get_session().hooks["response"].append(fail)
    with pytest.raises(LookupError, match="of the user's own"):
        get(pool)
    assert pool.get_stats()["total_errors"] == 1


def test_parameters_are_added_to_what_nobody_redirected_to(
    pool: ConnectionPool, hub: responses.RequestsMock
) -> None:
    pool.get_session().params = {"key": "1"}
    get(pool)
    get(pool, ELSEWHERE, HOME)
    assert [call.request.url for call in hub.calls] == [f"{HOME}?key=1", ELSEWHERE]


# ---- what a pool has itself


@pytest.mark.parametrize(
    ("change", "option", "value"),
    [
        ({"verify": False}, "verify", False),
        ({"verify": "ca.pem"}, "verify", "ca.pem"),
        ({"cert": "own.pem"}, "cert", "own.pem"),
        ({"proxies": {"http": "http://proxy:1"}}, "proxies", {"http": "http://proxy:1"}),
        ({"trust_env": True}, "trust_env", True),
    ],
)
def test_a_setting_that_the_pool_has_too_is_as_if_it_had_been_made_with_it(
    pool: ConnectionPool,
    hub: responses.RequestsMock,
    sent: list[Outgoing],
    change: dict[str, Any],
    option: str,
    value: object,
) -> None:
    session = pool.get_session()
    before = {name: getattr(session, name) for name in change}
    vars(session).update(change)
    get(pool)
    get(pool)
    vars(session).update(before)
    get(pool)
    first, second, third = (each.adapter.network for each in sent)
    assert [each.session for each in sent] == [None] * 3, "none of it needs the way of requests"
    assert getattr(first.options, option) == value
    assert second is first
    assert third.options is pool._options


def test_what_the_environment_says_of_certificates_goes_before_no_setting(
    monkeypatch: pytest.MonkeyPatch, hub: responses.RequestsMock, sent: list[Outgoing]
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/env.pem")
    with ConnectionPool(1) as pool:
        session = pool.get_session()
        session.headers["X-Key"] = "1"
        get(pool)
        session.proxies["http"] = "http://proxy:1"
        get(pool)
        session.verify = "/own.pem"
        get(pool)
    assert [each.adapter.network.options.verify for each in sent] == ["/env.pem", "/env.pem", "/own.pem"]
    assert [each.adapter.network.options.own_tls for each in sent] == [False, False, True]


def test_redirects_are_limited_as_a_session_says(pool: ConnectionPool) -> None:
    assert pool.max_redirects == 20
    assert pool.get_session().max_redirects == 30
    assert pool.max_redirects == 20
    pool.get_session().max_redirects = 2
    assert pool.max_redirects == 2


# ---- a forked child


def test_an_adapter_is_renewed_in_a_child_whatever_locks_were_held() -> None:
    class Own(HTTPAdapter):
        def __init__(self, mark: str) -> None:
            self.mark = mark
            super().__init__(pool_maxsize=3)

        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, **options, source_address=(self.mark, 0))

    class Broken(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            if hasattr(self, "poolmanager"):
                raise RuntimeError("once only")
            super().init_poolmanager(*args, **options)

    session, own = requests.Session(), Own("127.0.0.9")
    session.mount("http://a/", own)
    session.mount("http://b/", Broken())
    session.mount("http://c/", Memory())
    before, lock = own.poolmanager, session.cookies._cookies_lock  # type: ignore[attr-defined]  # not in the stubs
    with lock, before.pools.lock:
        thread = threading.Thread(target=renew_in_child, args=(session,), daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    assert own.poolmanager is not before
    assert own.poolmanager.connection_pool_kw["source_address"] == ("127.0.0.9", 0)
    assert (own.mark, own._pool_maxsize) == ("127.0.0.9", 3)
    assert session.cookies._cookies_lock is not lock  # type: ignore[attr-defined]  # see above


def test_usual_headers_are_those_of_the_pool_where_nothing_was_set(pool: ConnectionPool) -> None:
    own = pool._options.headers
    assert UsualHeaders(own).of(pool.get_session(), secrets=True) == own
