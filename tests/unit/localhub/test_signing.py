"""Signed URLs are good as they are, for a while, and not longer."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from hf_haul.localhub.signing import Signer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def check(signer: Signer, url: str) -> str | None:
    path, _, query = url.partition("?")
    return signer.check(path, dict(parse_qsl(query)))


def test_a_signed_url_is_good_until_its_time_is_over() -> None:
    clock = Clock()
    signer = Signer(60, clock=clock)
    url = signer.sign("/a%20b/c", file="ü &=?", response_content_disposition="x; y")
    assert check(signer, url) is None
    clock.now += 59.9
    assert check(signer, url) is None
    clock.now += 0.1
    assert check(signer, url) == "Request has expired"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("/path", "/other", id="path"),
        pytest.param("file=x", "file=y", id="parameter"),
        pytest.param("Expires=1060", "Expires=9060", id="expiry"),
        pytest.param("file=x&", "", id="parameter left out"),
        pytest.param("Signature=", "Signature=0", id="signature"),
        pytest.param("Signature=", "Nothing=", id="no signature"),
    ],
)
def test_any_change_to_a_signed_url_shows(old: str, new: str) -> None:
    signer = Signer(60, clock=Clock())
    url = signer.sign("/path", file="x")
    assert old in url
    wrong = check(signer, url.replace(old, new, 1))
    assert wrong is not None
    assert "signature" in wrong


def test_another_secret_makes_another_signature() -> None:
    clock = Clock()
    url = Signer(60, b"one", clock).sign("/path")
    assert check(Signer(60, b"one", clock), url) is None
    assert check(Signer(60, b"two", clock), url) is not None


def test_all_urls_can_be_retired_at_once_and_new_ones_are_good() -> None:
    signer = Signer(60, clock=Clock())
    old = signer.sign("/path")
    signer.expire_all()
    assert check(signer, old) == "Request has expired"
    assert check(signer, signer.sign("/path")) is None
