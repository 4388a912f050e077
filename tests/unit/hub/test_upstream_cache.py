from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from huggingface_hub import file_download
from tests.support.hub_answers import REDACTED, SHA, SHA256, XET, repository

from hf_haul.hub import upstream_cache
from hf_haul.hub.metadata import ListedFile


def test_a_kept_listing_is_the_one_huggingface_hub_keeps(tmp_path: Path) -> None:
    listing = {"a": ListedFile(7, SHA), "b": ListedFile(9, SHA, SHA256, 9, XET)}
    upstream_cache.write_tree(str(tmp_path), SHA, listing)
    kept = json.loads((tmp_path / "trees" / f"{SHA}.json").read_text())
    assert kept == {
        "format_version": 1,
        "files": {
            "a": {"size": 7, "blob_id": SHA},
            "b": {
                "size": 9,
                "blob_id": SHA,
                "lfs_sha256": SHA256,
                "lfs_size": 9,
                "xet_hash": XET,
            },
        },
    }
    assert upstream_cache.read_tree(str(tmp_path), SHA) == listing
    assert upstream_cache.read_tree(str(tmp_path), "d" * 40) is None


def test_huggingface_hub_keeps_few_listings_in_memory_however_many_are_written_and_read(
    tmp_path: Path,
) -> None:
    folders = [str(tmp_path / str(number)) for number in range(50)]
    memory = importlib.import_module("huggingface_hub._tree_cache")._IN_MEMORY_TREE_CACHE
    memory.clear()
    for folder in folders:
        upstream_cache.write_tree(folder, SHA, {"a": ListedFile(7, SHA)})
    assert 0 < len(memory) <= 10
    for folder in folders:
        assert upstream_cache.read_tree(folder, SHA) == {"a": ListedFile(7, SHA)}
    assert 0 < len(memory) <= 10
    assert any(name.startswith(folders[-1]) for name in memory), "the latest are those that are kept"


def test_a_very_long_listing_is_written_but_not_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = importlib.import_module("huggingface_hub._tree_cache")._IN_MEMORY_TREE_CACHE
    memory.clear()
    monkeypatch.setattr(upstream_cache, "_FILES_IN_MEMORY", 2)
    listing = {name: ListedFile(7, SHA) for name in "abc"}
    upstream_cache.write_tree(str(tmp_path), SHA, listing)
    assert not memory
    assert upstream_cache.read_tree(str(tmp_path), SHA) == listing


def test_a_redacted_listing_is_not_kept(tmp_path: Path) -> None:
    upstream_cache.write_tree(str(tmp_path), SHA, {"a": ListedFile(7, SHA, SHA256, 7, REDACTED)})
    assert not (tmp_path / "trees").exists()


def test_without_upstreams_cache_of_listings_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_cache, "_tree_cache", lambda: None)
    upstream_cache.write_tree(str(tmp_path), SHA, {"a": ListedFile(7, SHA)})
    assert upstream_cache.read_tree(str(tmp_path), SHA) is None
    assert not (tmp_path / "trees").exists()


def test_a_damaged_listing_is_no_listing(tmp_path: Path) -> None:
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / f"{SHA}.json").write_text("{")
    assert upstream_cache.read_tree(str(tmp_path), SHA) is None


def test_a_cache_folder_answers_symlinks_as_huggingface_hub_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda folder: False)
    folder = upstream_cache.cache_folder(repository(), str(tmp_path))
    assert folder.root == str(tmp_path / "models--org--name")
    assert not folder.symlinks
    assert folder.share is None


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [
        {"size": None}, {"size": "7"}, {"size": -1}, {"size": 1.5}, {"size": float("nan")}, {"size": True},
        {"size": 1 << 63}, {"lfs_size": None}, {"lfs_size": -1}, {"lfs_sha256": 5}, {"lfs_sha256": [1]},
        {"xet_hash": 5},
    ],
    ids=repr,
)  # fmt: skip
def test_a_kept_listing_that_no_hub_would_send_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], is_long: bool
) -> None:
    if is_long:
        monkeypatch.setattr(upstream_cache, "_BYTES_IN_MEMORY", 1)
    right = {"size": 9, "blob_id": SHA, "lfs_sha256": SHA256, "lfs_size": 9}
    keep(tmp_path, {"a": right})
    assert upstream_cache.read_tree(str(tmp_path), SHA) == {"a": ListedFile(9, SHA, SHA256, 9)}
    keep(tmp_path, {"a": right | wrong, "b": right})
    assert upstream_cache.read_tree(str(tmp_path), SHA) is None
    assert upstream_cache.read_tree_entry(str(tmp_path), SHA, "a") is None


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("path", ["a\ud800", "a/" * 2000 + "a"], ids=["no text", "deep"])
def test_a_kept_listing_with_paths_that_no_hub_would_send_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, is_long: bool
) -> None:
    if is_long:
        monkeypatch.setattr(upstream_cache, "_BYTES_IN_MEMORY", 1)
    keep(tmp_path, {path: {"size": 9, "blob_id": SHA}})
    assert upstream_cache.read_tree(str(tmp_path), SHA) is None


def keep(folder: Path, files: dict[str, dict[str, object]]) -> None:
    """Keep a listing as huggingface_hub does, which looks at nothing of it."""
    importlib.import_module("huggingface_hub._tree_cache")._IN_MEMORY_TREE_CACHE.clear()
    (folder / "trees").mkdir(exist_ok=True)
    text = json.dumps({"format_version": 1, "files": files})
    (folder / "trees" / f"{SHA}.json").write_text(text, encoding="utf-8")
