"""What tells one version of a file from another."""

from __future__ import annotations

import pytest

from hf_haul.task import Digest, RemoteFile
from hf_haul.transports.validators import is_comparable, kind_of, normalize_etag, versions_in


@pytest.mark.parametrize(
    ("value", "etag"),
    [('"a"', "a"), ('W/"a"', "a"), ("a", "a"), ('"W/a"', "W/a"), ("", None), (None, None)],
)
def test_an_etag_is_what_stands_in_its_quotes(value: str | None, etag: str | None) -> None:
    assert normalize_etag(value) == etag


def test_an_etag_tells_better_than_a_date() -> None:
    said = versions_in({"Last-Modified": "then", "ETag": '"a"'})
    assert [kind_of(version) for version in said.values()] == ["etag", "modified"]
    assert versions_in({"ETag": ""}) == {}


@pytest.mark.parametrize(
    ("etag", "comparable"), [("b" * 64, True), ("b" * 40, False), ("b" * 32 + "-7", False), ("B" * 64, False)]
)
def test_an_etag_is_compared_with_a_digest_of_its_kind(etag: str, comparable: bool) -> None:
    remote = RemoteFile("a.bin", "https://hub.test/a.bin", digest=Digest("sha256", "a" * 64))
    assert is_comparable(etag, remote) is comparable
    assert is_comparable(etag, RemoteFile("a.bin", "https://hub.test/a.bin"))
