from __future__ import annotations

import pytest
from tests.support.hub_answers import REDACTED, SHA, SHA256, XET

from hf_haul.digests import Digest
from hf_haul.hub import metadata
from hf_haul.hub.metadata import FileMetadata, ListedFile


@pytest.mark.parametrize(
    ("entry", "digest", "size", "xet"),
    [
        pytest.param(ListedFile(7, SHA), Digest("git-sha1", SHA), 7, None, id="git"),
        pytest.param(
            ListedFile(1, SHA, SHA256, 9, XET), Digest("sha256", SHA256), 9, XET, id="xet"
        ),
        pytest.param(ListedFile(9, SHA, SHA256, 9), Digest("sha256", SHA256), 9, None, id="lfs"),
        pytest.param(
            ListedFile(9, SHA, SHA256, 9, REDACTED), Digest("sha256", SHA256), 9, None,
            id="only the xet hash redacted",
        ),
        pytest.param(ListedFile(9, SHA, REDACTED, 9), None, 9, None, id="digest redacted"),
        pytest.param(ListedFile(9, SHA, None, None, REDACTED), None, 9, None, id="xet without lfs"),
        pytest.param(ListedFile(9, SHA256), None, 9, None, id="another kind of object id"),
        pytest.param(ListedFile(9, "W/x"), None, 9, None, id="no object id"),
    ],
)  # fmt: skip
def test_a_listing_is_trusted_only_where_it_names_a_digest(
    entry: ListedFile, digest: Digest | None, size: int, xet: str | None
) -> None:
    assert entry.digest == digest
    assert entry.bytes == size
    assert entry.valid_xet_hash == xet
    known = metadata.metadata_from_listing(SHA, entry)
    assert known == (None if digest is None else FileMetadata(SHA, digest.value, size, xet))


@pytest.mark.parametrize(
    ("etag", "algorithm"),
    [
        (SHA, "git-sha1"),
        (SHA256, "sha256"),
        ("d41d8cd98f00b204e9800998ecf8427e", None),
        ("A" * 40, None),
        ("5d41-2", None),
        ("", None),
    ],
)
def test_an_etag_is_a_digest_only_in_the_hubs_own_forms(etag: str, algorithm: str | None) -> None:
    digest = metadata.digest_from_etag(etag)
    assert (None if digest is None else digest.algorithm) == algorithm


@pytest.mark.parametrize(
    ("revision", "commit"),
    [("main", False), (SHA, True), (SHA + "\n", False), (SHA[:12], False), (SHA256, False)],
)
def test_only_forty_hex_digits_are_a_commit(revision: str, commit: bool) -> None:
    assert metadata.is_commit(revision) is commit
