"""Listings that are kept beside the files: the Hub's, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub import ServedRepo, serve_repo
from tests.support.repos import contents

from hf_haul import hf_hub_download, snapshot_download
from hf_haul.hub import upstream_cache


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path / "src", shards=1, shard_bytes=1000) as made:
        yield made


@pytest.fixture(params=["cache_dir", "local_dir"])
def where(request: pytest.FixtureRequest, served: ServedRepo, tmp_path: Path) -> dict[str, Any]:
    return {"endpoint": served.hub.url, "token": False, request.param: tmp_path / "place"}


def trees(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "place").rglob("trees/*.json"))


def keep_a_part(served: ServedRepo, where: dict[str, Any], tmp_path: Path) -> Path:
    """Have a place with a few files, and a listing that has no others: some server said that this is all."""
    snapshot_download("org/tiny", allow_patterns="*.json", **where)
    (kept,) = trees(tmp_path)
    data = json.loads(kept.read_text())
    data["files"] = {name: about for name, about in data["files"].items() if name.endswith(".json")}
    kept.unlink()
    kept.write_text(json.dumps(data))
    # As a process that has read no listing yet.
    getattr(upstream_cache._tree_cache(), "_IN_MEMORY_TREE_CACHE", {}).clear()
    return kept


def is_whole(kept: Path, served: ServedRepo) -> bool:
    return json.loads(kept.read_text())["files"].keys() == served.contents.keys()


def test_a_listing_is_dropped_when_the_hub_names_a_file_that_it_lacks(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = keep_a_part(served, where, tmp_path)
    assert contents(Path(snapshot_download("org/tiny", **where))) == served.contents
    assert is_whole(kept, served)
    assert "Deleted the cached listing" in caplog.text
    caplog.clear()
    snapshot_download("org/tiny", **where)
    assert "dropped" not in caplog.text


@pytest.mark.parametrize("pinned", [True, False], ids=["commit", "branch"])
def test_a_listing_is_dropped_when_a_file_is_had_that_it_lacks(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path, pinned: bool
) -> None:
    kept = keep_a_part(served, where, tmp_path)
    revision = served.repo.head.id if pinned else None
    hf_hub_download("org/tiny", "config.json", revision=revision, **where)
    assert kept.exists(), "it has this one"
    hf_hub_download("org/tiny", "vocab.txt", revision=revision, **where)
    assert not kept.exists()
    folder = snapshot_download("org/tiny", revision=served.repo.head.id, **where)
    assert contents(Path(folder)) == served.contents


def test_a_forced_download_trusts_no_listing_that_was_kept(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    kept = keep_a_part(served, where, tmp_path)
    commit = served.repo.head.id
    folder = snapshot_download("org/tiny", revision=commit, force_download=True, **where)
    assert contents(Path(folder)) == served.contents
    assert is_whole(kept, served)
    served.hub.requests.clear()
    hf_hub_download("org/tiny", "config.json", revision=commit, force_download=True, **where)
    assert "HEAD" in {request.method for request in served.hub.requests}


def test_a_listing_that_another_process_dropped_is_not_used_from_memory(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    kept = keep_a_part(served, where, tmp_path)
    commit = served.repo.head.id
    snapshot_download("org/tiny", revision=commit, **where)
    kept.unlink()
    assert contents(Path(snapshot_download("org/tiny", revision=commit, **where))) == served.contents


def test_a_dry_run_passes_a_wrong_listing_over_and_leaves_it_there(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    kept = keep_a_part(served, where, tmp_path)
    plan = snapshot_download("org/tiny", dry_run=True, **where)
    assert {info.filename for info in plan} == served.contents.keys()
    assert kept.exists()


def test_a_listing_that_cannot_be_read_is_no_reason_to_fail(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    kept = keep_a_part(served, where, tmp_path)
    kept.write_text("{")
    hf_hub_download("org/tiny", "vocab.txt", **where)
    assert contents(Path(snapshot_download("org/tiny", **where))) == served.contents
