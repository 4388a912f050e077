"""The way to each host."""

from __future__ import annotations

from typing import Any

import pytest
from urllib3 import PoolManager

from hf_haul.transports.network import Network, NetworkOptions, ca_from_environment, needs_no_proxy
from hf_haul.transports.pool import ConnectionPool
from hf_haul.urls import parse_url

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def network(**options: Any) -> Network:
    pool = ConnectionPool(1, trust_env=False, **options)
    return pool._network


@pytest.mark.parametrize(
    ("options", "verify", "cert", "own"),
    [
        pytest.param({}, True, None, True, id="as it comes"),
        pytest.param({"verify": "/ca"}, "/ca", None, True, id="the bundle by name"),
        pytest.param({"verify": "/ca"}, True, None, True, id="the default, whatever it is"),
        pytest.param({}, "/ca", None, False, id="another bundle"),
        pytest.param({}, False, None, False, id="no verification"),
        pytest.param({"verify": False}, False, None, False, id="a pool that verifies nothing"),
        pytest.param({"verify": False}, True, None, False, id="verification that the pool does not do"),
        pytest.param({"cert": "/me"}, True, "/me", True, id="the client's certificate"),
        pytest.param({"cert": "/me"}, True, None, False, id="without the client's certificate"),
        pytest.param({}, True, "/me", False, id="with a certificate of its own"),
    ],
)
def test_the_shared_tls_context_serves_who_asks_for_just_that(
    options: dict[str, Any], verify: Any, cert: Any, own: bool
) -> None:
    assert network(**options).is_own(verify, cert) is own


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        pytest.param({}, (None, None), id="none"),
        pytest.param({"SSL_CERT_FILE": "/f", "SSL_CERT_DIR": "/d"}, ("/f", "/d"), id="OpenSSL's"),
        pytest.param({"CURL_CA_BUNDLE": "/c", "SSL_CERT_FILE": "/f"}, ("/c", None), id="curl's"),
        pytest.param({"REQUESTS_CA_BUNDLE": "/r", "CURL_CA_BUNDLE": "/c"}, ("/r", None), id="requests'"),
        pytest.param({"REQUESTS_CA_BUNDLE": "/"}, (None, "/"), id="a folder"),
        pytest.param({"REQUESTS_CA_BUNDLE": "", "SSL_CERT_FILE": ""}, (None, None), id="empty"),
    ],
)
def test_trusted_certificates_are_found_in_the_order_of_requests(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: tuple[str | None, str | None]
) -> None:
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ca_from_environment() == found


def test_what_a_pool_was_made_with_cannot_be_changed_behind_its_back() -> None:
    options = network().options
    assert isinstance(options, NetworkOptions)
    with pytest.raises(AttributeError):
        options.verify = False  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    ("listed", "url", "directly"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080/", True),
        ("127.0.0.1:8080", "http://127.0.0.1:8081/", False),
        ("127.0.0.1:8080", "http://127.0.0.1/", False),
        ("hub.test:443", "https://hub.test/", True),
        ("hub.test:80", "https://hub.test/", False),
        (" a.test , HUB.test:443 ", "https://hub.test/", True),
        ("hub.test:443", "https://sub.hub.test/", True),
        (".hub.test:443", "https://sub.hub.test/", True),
        ("*.hub.test:443", "https://sub.hub.test/", True),
        ("hub.test:443", "https://nohub.test/", False),
        ("[::1]:8080", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[::1]:81/", False),
        ("http://hub.test", "http://hub.test:81/", True),
        ("http://hub.test", "https://hub.test/", False),
        ("all://hub.test:81", "http://hub.test:81/", True),
        ("hub.test", "https://hub.test/", False),
        ("*", "https://hub.test/", False),
        ("::1", "http://[::1]/", False),
        (":80", "http://hub.test/", False),
        ("", "https://hub.test/", False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_no_proxy_may_name_a_port_or_a_scheme(
    monkeypatch: pytest.MonkeyPatch, variable: str, listed: str, url: str, directly: bool
) -> None:
    """Plain hosts are left to requests, which knows more about them."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, listed)
    assert needs_no_proxy(parse_url(url)) is directly


def test_managers_of_proxies_are_kept_of_some_only() -> None:
    shared = network()
    made = [shared.proxy_manager(f"http://proxy{number}:1", lambda: PoolManager()) for number in range(1000)]
    assert len(shared._proxy_managers) <= 100
    assert shared.proxy_manager("http://proxy999:1", lambda: PoolManager()) is made[-1]
