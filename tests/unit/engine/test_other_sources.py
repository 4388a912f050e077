"""What callers say of other sources, made into values, and which secrets go there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hf_haul.config import Settings
from hf_haul.engine.other_sources import other_sources
from hf_haul.errors import InvalidUrlError
from hf_haul.task import OtherSource, RemoteFile

HUB_HEADERS = {"Authorization": "Bearer hf_secret", "User-Agent": "me/1", "X-Private": "1"}


def made(*urls: str, settings: Settings | None = None) -> tuple[OtherSource, ...]:
    return other_sources(urls, settings or Settings(), headers=HUB_HEADERS)


def test_nothing_but_the_user_agent_is_passed_on() -> None:
    (source,) = made("http://lab:8000")
    assert dict(source.headers) == {"User-Agent": "me/1"}


def test_a_source_gets_the_token_of_its_origin_and_the_others_that_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(source_tokens={"http://LAB:8000/models/": "hf_lab"})
    first, second = made("http://lab:8000", "http://lab:8001", settings=settings)
    assert first.headers["Authorization"] == "Bearer hf_lab"
    assert "Authorization" not in second.headers
    monkeypatch.setenv("HF_HAUL_SOURCE_TOKEN", "hf_all")
    first, second = made("http://lab:8000", "http://lab:8001", settings=settings)
    assert first.headers["Authorization"] == "Bearer hf_lab"
    assert second.headers["Authorization"] == "Bearer hf_all"


def test_a_source_given_twice_is_one() -> None:
    assert len(made("http://lab:8000", "http://lab:8000", "http://other")) == 2


def test_secrets_are_not_shown() -> None:
    (source,) = made(
        "http://me:hf_password@lab:8000", settings=Settings(source_tokens={"http://lab:8000": "hf_x"})
    )
    assert "hf_" not in repr(source)
    assert source.name == "http://lab:8000"


@pytest.mark.parametrize(
    ("url", "joins_path", "expected"),
    [
        ("http://lab", True, "http://lab/a%20b/c.bin"),
        ("http://lab/x/", True, "http://lab/x/a%20b/c.bin"),
        ("http://lab/x?key=1#y", True, "http://lab/x/a%20b/c.bin?key=1"),
        ("http://lab/x?key=1", False, "http://lab/x?key=1"),
    ],
)
def test_a_file_is_asked_for_below_the_url_or_at_it(url: str, joins_path: bool, expected: str) -> None:
    assert OtherSource(url, {}, joins_path).stand_in(RemoteFile("a b/c.bin", "http://hub/x")).url == expected


def test_what_is_meant_for_the_hub_alone_is_not_part_of_what_stands_in() -> None:
    remote = RemoteFile(
        "a", "http://hub/a", 5, headers=HUB_HEADERS, trusted_origins=frozenset({"http://hub:80"}), location="http://cdn/s",
        xet_hash="0" * 64,
    )  # fmt: skip
    stand_in = OtherSource("http://lab").stand_in(remote)
    assert dict(stand_in.headers) == {}
    assert (stand_in.trusted_origins, stand_in.location, stand_in.xet_hash) == (frozenset(), None, None)
    assert (stand_in.path, stand_in.size) == ("a", 5)


@pytest.mark.parametrize("url", ["ftp://lab", "lab:8000", "http://", "http://a\\@b"])
def test_what_is_no_url_is_refused_with_the_names_of_what_sets_it(url: str) -> None:
    with pytest.raises(
        InvalidUrlError, match=r"a source \(sources=, --source, HF_HAUL_SOURCES\) is not an http"
    ):
        made(url)


@pytest.mark.parametrize(
    "urls",
    [
        pytest.param("http://lab", id="a text"),
        pytest.param(5, id="a number"),
        pytest.param([None], id="a list of something else"),
        pytest.param(iter(["http://lab"]), id="what can be read once"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(urls: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"sources must be a list of URLs, not {urls!r}")):
        other_sources(urls, Settings(), headers={})


def test_a_password_is_not_shown_where_sources_are_refused() -> None:
    with pytest.raises(TypeError, match="sources must be a list of URLs") as caught:
        other_sources("http://me:hf_secret@lab", Settings(), headers={})
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["hf_a\nX: hf_b", "hf_ü", "hf_a b", "hf_a\0"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    settings = Settings(source_tokens={"http://lab": token})
    with pytest.raises(ValueError, match="the token of the source http://lab cannot be sent") as caught:
        made("http://lab", settings=settings)
    assert "hf_" not in str(caught.value)


def test_blanks_around_a_token_are_not_sent() -> None:
    (source,) = made("http://lab", settings=Settings(source_tokens={"http://lab": " hf_lab\n"}))
    assert source.headers["Authorization"] == "Bearer hf_lab"
