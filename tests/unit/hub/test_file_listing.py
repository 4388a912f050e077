from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from tests.support.hub_answers import REDACTED, SHA, SHA256, XET

from hf_haul.hub.file_listing import FileListing, pack
from hf_haul.hub.metadata import LARGEST, ListedFile, metadata_from_listing

EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
PLAIN = ListedFile(7, SHA)
LFS = ListedFile(130, SHA, SHA256, 1 << 40)
FILES = [
    pytest.param(PLAIN, True, id="plain"),
    pytest.param(ListedFile(0, EMPTY), True, id="empty"),
    pytest.param(ListedFile(0, SHA), True, id="0, of a file that is not empty"),
    pytest.param(ListedFile(LARGEST, SHA), True, id="the largest"),
    pytest.param(LFS, True, id="lfs"),
    pytest.param(replace(LFS, lfs_size=0), True, id="lfs, 0 of a file that is not empty"),
    pytest.param(replace(LFS, xet_hash=XET), True, id="xet"),
    pytest.param(replace(LFS, xet_hash=REDACTED), False, id="redacted Xet hash"),
    pytest.param(replace(LFS, lfs_sha256=REDACTED), False, id="redacted sha256"),
    pytest.param(replace(LFS, lfs_size=None), False, id="lfs without a size"),
    pytest.param(replace(LFS, lfs_sha256=SHA256.upper()), False, id="upper case"),
    pytest.param(ListedFile(7, "?"), False, id="no id"),
    pytest.param(ListedFile(7, "a " * 20), False, id="an id with blanks"),
    pytest.param(ListedFile(-1, SHA), False, id="less than nothing"),
    pytest.param(ListedFile(LARGEST + 1, SHA), False, id="more than any file has"),
    pytest.param(replace(PLAIN, xet_hash=XET), False, id="xet without lfs"),
]


@pytest.mark.parametrize(("file", "packs"), FILES)
def test_a_listing_gives_back_what_was_put_in(file: ListedFile, packs: bool) -> None:
    listing = FileListing({"a/b": file})
    assert isinstance(pack(file), bytes) is packs
    assert listing == {"a/b": file}
    assert listing["a/b"] == ListedFile(*listing.fields("a/b")) == file


@pytest.mark.parametrize(("file", "packs"), FILES)
def test_sizes_and_missing_digests_are_those_of_the_metadata(file: ListedFile, packs: bool) -> None:
    del packs
    listing = FileListing({"a": file})
    metadata = metadata_from_listing(SHA, file)
    assert listing.without_digest() == ([] if metadata is not None else ["a"])
    if metadata is not None:
        assert list(listing.content_sizes(["a"])) == [("a", metadata.size)]


def test_a_listing_is_a_mapping_in_the_order_of_the_hub() -> None:
    listing = FileListing({"b": PLAIN, "a": LFS})
    assert list(listing) == list(listing.keys()) == ["b", "a"]
    assert "a" in listing
    assert "c" not in listing
    assert len(listing) == 2
    with pytest.raises(KeyError):
        listing["c"]
    assert list(listing.only(["a"]).items()) == [("a", LFS)]
    assert FileListing.of(listing) is listing
    assert FileListing.of({"a": LFS}) == {"a": LFS}


def test_a_listing_is_safe_until_a_name_comes_that_leads_out() -> None:
    listing = FileListing({"a/b": PLAIN})
    assert listing.is_safe
    listing.put("../c", pack(PLAIN))
    assert not listing.is_safe
    assert listing.only(["a/b"]).is_safe


def test_a_part_of_a_partial_listing_is_partial() -> None:
    listing = FileListing({"a": PLAIN})
    listing.partial = True
    assert listing.only(["a"]).partial


def test_a_file_of_a_listing_takes_few_bytes_beside_its_name() -> None:
    count = 20_000
    names = [f"images/{number:08d}.png" for number in range(count)]
    tracemalloc.start()
    try:
        listing = FileListing()
        for name in names:
            listing.put(name, pack(ListedFile(7, SHA)))
        assert tracemalloc.get_traced_memory()[0] / count < 130
    finally:
        tracemalloc.stop()
    assert listing[names[-1]] == PLAIN
