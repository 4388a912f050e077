"""What is sent with a request."""

from __future__ import annotations

from typing import Any

import pytest

from hf_haul.cancellation import CancelToken
from hf_haul.transports.outgoing import Outgoing, merge_headers
from hf_haul.transports.request import InterruptibleRequest
from hf_haul.urls import parse_url

URL = parse_url("http://hub.test/a?b=%2F")
SIGNED = parse_url("http://me:secret@hub.test/a", userinfo=True)
USUAL = {"Accept": "*/*", "User-Agent": "haul"}


@pytest.mark.parametrize(
    ("own", "merged"),
    [
        (None, USUAL),
        ({"Range": "bytes=0-1"}, {**USUAL, "Range": "bytes=0-1"}),
        ({"user-agent": "mine"}, {"Accept": "*/*", "user-agent": "mine"}),
    ],
)
def test_a_requests_own_headers_go_before_those_of_all_in_any_case(
    own: dict[str, str] | None, merged: dict[str, str]
) -> None:
    assert merge_headers(URL, USUAL, own) == merged


def test_the_password_of_a_url_goes_before_any_other_authorization() -> None:
    merged = merge_headers(SIGNED, {"Authorization": "all"}, {"authorization": "own"})
    assert merged == {"Authorization": "Basic bWU6c2VjcmV0"}


def test_requests_gets_the_url_as_it_is_and_headers_in_any_case() -> None:
    adapter: Any = None
    call = InterruptibleRequest(CancelToken(), "hub.test")
    prepared = Outgoing(URL, {"X-A": "b"}, adapter, call, None).prepared()
    assert (prepared.method, prepared.url, prepared.headers["x-a"]) == ("GET", "http://hub.test/a?b=%2F", "b")


def test_a_request_that_is_shown_hides_its_headers() -> None:
    adapter: Any = None
    call = InterruptibleRequest(CancelToken(), "hub.test")
    assert "s3cret" not in repr(Outgoing(URL, {"Authorization": "Bearer s3cret"}, adapter, call, None))


def test_the_way_to_an_origin_is_asked_of_whoever_knows_it() -> None:
    class Paths:
        def path_to(self, url: str) -> Any:
            return f"the way to {url}"

    adapter: Any = None
    call = InterruptibleRequest(CancelToken(), "hub.test")
    paths: Any = Paths()
    assert str(Outgoing(URL, {}, adapter, call, paths).path) == "the way to http://hub.test/a?b=%2F"
    assert Outgoing(URL, {}, adapter, call, None).path is None
