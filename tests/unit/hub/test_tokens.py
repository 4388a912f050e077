from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, set_client_factory
from tests.support.hub_answers import ENDPOINT, SHA, SHA256, http

from hf_haul.errors import InvalidUrlError
from hf_haul.hub import tokens
from hf_haul.hub.repository import Repository


@pytest.fixture
def redirecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Has huggingface_hub's client led from one address to the next; yields what was asked."""
    asked: list[Any] = []

    def respond(request: Any) -> Any:
        asked.append(request)
        if request.url.path == "/end":
            return http.Response(
                200, json={"id": "org/m", "sha": SHA}, headers={"X-Repo-Commit": SHA, "ETag": SHA256}
            )
        return http.Response(
            307, headers={"Location": "http://hub.test:81/end"}
        )  # the same host, another origin

    set_client_factory(lambda: http.Client(transport=http.MockTransport(respond), follow_redirects=True))
    yield asked
    set_client_factory(importlib.import_module("huggingface_hub.utils._http").default_client_factory)


def test_huggingface_hubs_client_takes_nothing_secret_elsewhere_for_us(redirecting: list[Any]) -> None:
    home = Repository(
        "org/m", endpoint=ENDPOINT, token="hf_secret", headers={"X-Key": "secret", "Cookie": "secret"}
    )
    home.resolve("main", timeout=3)
    with suppress(Exception):
        home.metadata("a", "main", timeout=3)
    ports = [request.url.port for request in redirecting]
    assert {8080, 81} == set(ports)
    assert {request.url.port for request in redirecting if "secret" in repr(request.headers.raw)} == {8080}


def test_a_mirrors_http_may_lead_to_its_https(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = []
    monkeypatch.setattr(tokens, "get_session", lambda: allowed.append(tokens._allowed_origins.get()))
    with tokens.protect_secrets("http://mirror.test"):
        tokens.get_session()
    assert {"http://mirror.test:80", "https://mirror.test:443"} <= allowed[-1]
    with tokens.protect_secrets("http://mirror.test:8080"):
        tokens.get_session()
    assert not {"https://mirror.test:443", "https://mirror.test:8080"} & allowed[-1]


@pytest.mark.parametrize(("named", "endpoint"), [("HF_ENDPOINT", None), ("endpoint", "hub.test")])
def test_a_hub_without_a_url_is_told_by_the_settings_name(
    named: str, endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "")
    home = Repository("org/m", endpoint=endpoint, token=False)
    for ask in (home.resolve, partial(home.metadata, "a")):
        with pytest.raises(InvalidUrlError, match=f"^{named}, the Hub's URL, is not an http"):
            ask("main", timeout=3)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    with tokens.protect_secrets(""):  # the cache may have it
        pass


def test_what_a_body_needs_stays_with_it_wherever_it_goes() -> None:
    headers = {
        "Content-Type": "application/json",
        "Content-Length": "2",
        "X-Key": "secret",
        "Authorization": "secret",
    }
    request = http.Request("POST", "http://thief.test/", headers=headers, content=b"{}")
    with tokens.protect_secrets(ENDPOINT):
        tokens._strip_secrets(request)
    assert {"content-type", "content-length"} <= set(request.headers)
    assert "secret" not in repr(request.headers.raw)


def test_huggingface_hubs_client_does_for_others_what_it_always_did(redirecting: list[Any]) -> None:
    Repository("org/m", endpoint=ENDPOINT).resolve("main", timeout=3)  # we have been there
    redirecting.clear()
    huggingface_hub.get_session().get(f"{ENDPOINT}/x", headers={"X-Key": "the application's"})
    assert {request.headers["X-Key"] for request in redirecting} == {"the application's"}
    hooks = huggingface_hub.get_session().event_hooks["request"]
    assert len(hooks) == len(set(hooks)), "hooked in once"
