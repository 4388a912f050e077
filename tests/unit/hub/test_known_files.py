from __future__ import annotations

import pytest
from tests.support.hub_answers import SHA, SHA256, XET

from hf_haul.hub.file_listing import FileListing
from hf_haul.hub.known_files import KnownFiles
from hf_haul.hub.metadata import FileMetadata, ListedFile

COMMIT = "d" * 40
LISTED = {"plain": ListedFile(7, SHA), "xet": ListedFile(9, SHA, SHA256, 9, XET), "odd": ListedFile(0, SHA)}
ASKED = FileMetadata("other", "etag", 5, location="https://elsewhere/a")


@pytest.fixture
def known() -> KnownFiles:
    return KnownFiles(COMMIT, FileListing(LISTED), {"asked": ASKED})


def test_metadata_are_those_of_the_listing_and_of_the_answers(known: KnownFiles) -> None:
    assert known == {
        "plain": FileMetadata(COMMIT, SHA, 7, listed=True),
        "xet": FileMetadata(COMMIT, SHA256, 9, XET, listed=True),
        "odd": FileMetadata(COMMIT, SHA, None, listed=True),
        "asked": ASKED,
    }
    assert list(known) == ["plain", "xet", "odd", "asked"]
    assert known.commits == {COMMIT, "other"}


def test_sizes_are_those_of_the_metadata(known: KnownFiles) -> None:
    assert dict(known.sizes(known)) == {path: meta.size for path, meta in known.items()}
    alone = KnownFiles(COMMIT, FileListing(LISTED), {})
    assert list(alone.sizes(["xet", "odd"])) == [("xet", 9), ("odd", None)]


def test_what_is_not_there_is_not_known(known: KnownFiles) -> None:
    assert "nothing" not in known
    assert "asked" in known
    with pytest.raises(KeyError):
        known["nothing"]
