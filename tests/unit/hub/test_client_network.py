"""What a client of httpx would do about the network, as it is read for the bytes."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from hf_haul.hub import asking, client_network, tokens
from hf_haul.hub.client_network import ClientNetwork
from hf_haul.task import NetworkPath

http: Any = asking.httpx  # httpx or httpx2, whichever huggingface_hub speaks
HUB = "https://hub.test/a"
CONTEXT = ssl.create_default_context()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def path(url: str = HUB, **options: Any) -> NetworkPath:
    found = ClientNetwork(http.Client(**options)).path_to(url)
    assert found is not None
    return found


def test_a_client_that_says_nothing_reaches_everything_directly() -> None:
    found = path()
    assert (found.proxy, found.proxy_headers, found.source_address) == (None, (), None)
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED


def test_certificates_are_trusted_by_the_clients_own_context() -> None:
    assert path(verify=CONTEXT).tls is CONTEXT


def test_a_client_that_verifies_nothing_is_believed() -> None:
    tls = path(verify=False).tls
    assert tls is not None
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    ("proxy", "read"),
    [
        ("http://proxy.test:3128", "http://proxy.test:3128"),
        ("http://user:p%40ss@proxy.test:3128", "http://user:p%40ss@proxy.test:3128"),
        ("http://proxy.test", "http://proxy.test"),
        ("https://[::1]:3128", "https://[::1]:3128"),
    ],
)
def test_a_proxy_is_asked_for_everything(proxy: str, read: str) -> None:
    assert path(proxy=proxy).proxy == read
    assert path("http://cdn.test/x", proxy=proxy).proxy == read


def test_a_proxy_is_told_what_the_client_tells_it() -> None:
    proxy = http.Proxy(
        "https://proxy.test:1", auth=("us er", "p:ss"), headers={"X-Team": "a"}, ssl_context=CONTEXT
    )
    found = path(proxy=proxy)
    assert found.proxy == "https://us%20er:p%3Ass@proxy.test:1"
    assert found.proxy_headers == (("X-Team", "a"),)
    assert found.proxy_tls is CONTEXT
    assert "p%3Ass" not in repr(found)


def test_the_environment_counts_as_the_client_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.test:1")
    monkeypatch.setenv("https_proxy", "http://proxy.test:2")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1:8080, .own.test")
    assert path("http://127.0.0.1:8080/").proxy is None
    assert path("http://127.0.0.1:8081/").proxy == "http://proxy.test:1"
    assert path("https://a.own.test/").proxy is None
    assert path("https://hub.test/").proxy == "http://proxy.test:2"
    assert path("https://hub.test/", trust_env=False).proxy is None


def test_mounted_transports_serve_their_own_addresses() -> None:
    client = http.Client(
        mounts={
            "https://cdn.test": http.HTTPTransport(proxy="http://proxy.test:1"),
            "all://*.own.test:8080": http.HTTPTransport(verify=CONTEXT, local_address="127.0.0.2"),
        }
    )
    network = ClientNetwork(client)
    cdn, own, other = (
        network.path_to(f"https://{host}/") for host in ("cdn.test", "a.own.test:8080", "hub.test")
    )
    assert cdn is not None
    assert cdn.proxy == "http://proxy.test:1"
    assert own is not None
    assert (own.tls, own.source_address) == (CONTEXT, "127.0.0.2")
    assert other is not None
    assert (other.proxy, other.source_address) == (None, None)
    assert network.path_to("https://cdn.test/another") is cdn


def test_a_context_that_speaks_http_2_is_not_shared() -> None:
    client = http.Client(verify=CONTEXT)
    client._transport._pool._http2 = True  # needs another package otherwise
    found = ClientNetwork(client).path_to(HUB)
    assert found is not None
    assert found.tls is not CONTEXT
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    assert len(found.tls.get_ca_certs()) == len(CONTEXT.get_ca_certs())


class _Signing(http.HTTPTransport):  # type: ignore[misc]  # httpx or httpx2, known at run time only
    def handle_request(self, request: Any) -> Any:
        request.headers["X-Signed"] = "yes"
        return super().handle_request(request)


class _Named(http.HTTPTransport):  # type: ignore[misc]  # the same
    name = "mine"


class _Digest(http.Auth):  # type: ignore[misc]  # the same
    pass


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        (
            lambda: http.Client(transport=http.MockTransport(lambda _: None)),
            "what its transport does (MockTransport)",
        ),
        (lambda: http.Client(transport=_Signing()), "what its transport does (_Signing)"),
        (lambda: http.Client(mounts={"all://cdn.test": _Signing()}), "what its transport does (_Signing)"),
        (lambda: http.Client(transport=http.HTTPTransport(uds="/tmp/socket")), "its Unix socket"),
        (lambda: http.Client(auth=_Digest()), "its authentication (_Digest)"),
        (lambda: http.Client(params={"key": "secret"}), "its query parameters"),
        (lambda: http.Client(event_hooks={"request": [lambda _: None]}), "what its request hooks do"),
    ],
)
def test_what_cannot_be_carried_over_is_said_with_what_to_do(make: Callable[[], Any], lost: str) -> None:
    with pytest.warns(UserWarning, match="cannot use") as told:
        ClientNetwork(make())
    (warning,) = told
    text = str(warning.message)
    assert lost in text
    assert "secret" not in text
    for argument in ("verify_tls=", "proxies=", "manager=", "headers="):
        assert argument in text


@pytest.mark.parametrize(
    "make",
    [
        lambda: http.Client(),
        lambda: http.Client(
            transport=_Named(), auth=("user", "pass"), headers={"X": "y"}, cookies={"a": "b"}, timeout=3
        ),
        lambda: http.Client(event_hooks={"request": [tokens._strip_secrets], "response": [print]}),
    ],
)
def test_nothing_is_said_where_all_is_carried_over(make: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClientNetwork(make(), client_network._KNOWN_HOOKS)


@pytest.mark.parametrize("client", [object(), http.MockTransport(lambda _: None)])
def test_a_client_of_another_kind_is_left_alone(client: Any) -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        network = ClientNetwork(client)
    assert network.path_to(HUB) is None
    assert network.headers_for(HUB, {"a": "b"}) == {"a": "b"}


def test_headers_go_out_as_the_client_would_send_them() -> None:
    client = http.Client(
        headers={"X-Team": "a", "X-Key": "client", "User-Agent": "client"}, cookies={"session": "s"}
    )
    sent = ClientNetwork(client).headers_for(
        HUB, {"authorization": "Bearer t", "x-key": "ours", "user-agent": "us"}
    )
    assert {k.lower(): v for k, v in sent.items()} == {
        "authorization": "Bearer t", "x-key": "ours", "user-agent": "us", "x-team": "a", "cookie": "session=s",
    }  # fmt: skip
    assert len(sent) == 5


def test_the_clients_own_password_wins_as_with_the_client() -> None:
    client = http.Client(auth=("user", "pass"))
    assert ClientNetwork(client).headers_for(HUB, {"authorization": "Bearer t"}) == {
        "authorization": "Basic dXNlcjpwYXNz"
    }
    assert ClientNetwork(client).headers_for(HUB, {}) == {"authorization": "Basic dXNlcjpwYXNz"}


def test_ways_to_very_many_origins_are_not_all_kept() -> None:
    network = ClientNetwork(http.Client())
    for number in range(2000):
        network.path_to(f"https://host{number}.test/file")
    assert len(network._paths) <= 500
