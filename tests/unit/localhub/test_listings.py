"""Listings as the Hub's clients keep them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub._tree_cache import TreeCacheEntry, write_tree_cache

from hf_haul.localhub.listings import KeptFile, kept_path, read_kept, stamp

SHA = "0123456789abcdef0123456789abcdef01234567"
SHA256 = "ab" * 32
ENTRY = {"size": 3, "blob_id": SHA}


def keep(folder: Path, value: Any) -> Path:
    path = kept_path(folder, SHA)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_what_huggingface_hub_kept_is_read(tmp_path: Path) -> None:
    entries = {
        "a.json": TreeCacheEntry(3, SHA),
        "sub/w.bin": TreeCacheEntry(130, SHA, SHA256, 7_000, "cd" * 32),
    }
    write_tree_cache(str(tmp_path), SHA, entries)
    assert read_kept(kept_path(tmp_path, SHA)) == {
        "a.json": KeptFile(3, SHA, None),
        "sub/w.bin": KeptFile(7_000, SHA, SHA256),
    }
    assert stamp(kept_path(tmp_path, SHA)) is not None


def test_no_listing_is_nothing_to_speak_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_kept(kept_path(tmp_path, SHA)) is None
    assert stamp(kept_path(tmp_path, SHA)) is None
    assert not caplog.records


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("{", id="no JSON"),
        pytest.param("[" * 100_000, id="nested"),
        pytest.param("[]", id="a list"),
        pytest.param({"files": {}}, id="no version"),
        pytest.param({"format_version": 2, "files": {}}, id="a later version"),
        pytest.param({"format_version": 1}, id="no files"),
        pytest.param({"format_version": 1, "files": [1]}, id="files in a list"),
        pytest.param({"format_version": 1, "files": {"a": []}}, id="a file in a list"),
        pytest.param({"format_version": 1, "files": {"a": {"size": 1}}}, id="no object id"),
        pytest.param({"format_version": 1, "files": {"a": {**ENTRY, "size": -1}}}, id="a negative size"),
        pytest.param({"format_version": 1, "files": {"a": {**ENTRY, "size": True}}}, id="no size"),
        pytest.param(
            {"format_version": 1, "files": {"a": {**ENTRY, "lfs_sha256": 7}}}, id="a number for an id"
        ),
        pytest.param(
            {"format_version": 1, "files": {"a": {**ENTRY, "lfs_sha256": SHA256, "xet_hash": "***"}}},
            id="redacted",
        ),
        pytest.param({"format_version": 1, "files": {"a/../b": ENTRY}}, id="a path that climbs"),
        pytest.param({"format_version": 1, "files": {"/a": ENTRY}}, id="a path from the root"),
        pytest.param({"format_version": 1, "files": {"a": ENTRY, "a/b/c": ENTRY}}, id="a file and a folder"),
    ],
)
def test_a_listing_that_cannot_be_relied_on_is_passed_over(
    tmp_path: Path, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_kept(keep(tmp_path, value)) is None
    assert "ignoring the listing" in caplog.text


def test_a_listing_that_is_a_link_to_elsewhere_is_passed_over(tmp_path: Path) -> None:
    kept = keep(tmp_path / "elsewhere", {"format_version": 1, "files": {"a": ENTRY}})
    link = kept_path(tmp_path / "cache", SHA)
    link.parent.mkdir(parents=True)
    link.symlink_to(kept)
    assert read_kept(link) is None
