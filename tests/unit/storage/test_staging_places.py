from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.support.storage import stage

from hf_haul.storage.local_folder import LocalFolder, short_name
from hf_haul.storage.staging_places import StagingPlace, staging_places


def _found(root: Path) -> dict[str, StagingPlace]:
    return {place.folder.relative_to(root).as_posix(): place for place in staging_places(root)}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    hub = tmp_path / "hub"
    for repository in ("models--org--name", "datasets--org--data"):
        stage(hub / repository / "blobs/etag.haul.incomplete")
        stage(hub / repository / "snapshots/c/deep/a.bin")
        stage(hub / repository / "trees/c.json")
    stage(hub / ".locks/models--org--name/etag.lock")
    stage(hub / "blobs/ab/shared")
    return hub


def test_of_a_cache_every_repositorys_blobs_and_listings_are_looked_at_and_no_snapshot(cache: Path) -> None:
    places = _found(cache)
    assert {name: place.kind for name, place in places.items()} == {
        ".": "cache",
        "blobs": "files",
        "blobs/ab": "files",
        **{
            name: kind
            for repository in ("models--org--name", "datasets--org--data")
            for name, kind in ((repository, "repository"), (f"{repository}/blobs", "blobs"),
                               (f"{repository}/trees", "listings"))
        },
    }  # fmt: skip
    blobs = places["models--org--name/blobs"]
    assert (blobs.names, blobs.root) == (["etag.haul.incomplete"], cache / "models--org--name")
    assert blobs.upstream_lock("etag") == cache / ".locks/models--org--name/etag.lock"


def test_a_repositorys_folder_and_the_folder_above_the_cache_give_the_same_places(cache: Path) -> None:
    alone = {place.folder: place for place in staging_places(cache / "models--org--name")}
    above = {place.folder: place for place in staging_places(cache.parent)}
    assert alone.items() <= above.items()
    assert cache / "datasets--org--data/blobs" in above
    assert not [folder for folder in above if ".locks" in folder.parts]


def test_of_a_local_dir_its_metadata_folders_are_known_and_their_locks_found(tmp_path: Path) -> None:
    local = LocalFolder(str(tmp_path))
    metadata = Path(local.metadata_path("sub/a.bin"))
    stage(metadata.with_suffix(".lock"), b"")
    stage(tmp_path / "sub/a.bin")
    stage(tmp_path / ".cache/huggingface/trees/c.json")
    places = _found(tmp_path)
    inside = places[".cache/huggingface/download/sub"]
    assert (inside.kind, inside.root) == ("metadata", tmp_path)
    assert inside.upstream_lock(f"{short_name(metadata.name)}.etag") == metadata.with_suffix(".lock")
    assert inside.upstream_lock(f"{short_name('b.bin.metadata')}.etag") is None
    assert places[".cache/huggingface/trees"].kind == "listings"
    assert (places["sub"].kind, places["sub"].root) == ("files", tmp_path / "sub")
    assert places["sub"].upstream_lock("etag") is None


def test_links_are_not_followed_whatever_they_are_called(cache: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    stage(outside / "blobs/etag.haul.incomplete")
    (cache / "models--org--linked").symlink_to(outside)
    (cache / "linked").symlink_to(outside)
    (cache / "models--org--name/blobs/linked").symlink_to(outside)
    other = cache / "models--org--other"
    other.mkdir()
    (other / "blobs").symlink_to(outside / "blobs")
    places = _found(cache)
    assert not [name for name in places if "linked" in name]
    assert "models--org--other/blobs" not in places
    assert not [place for place in places.values() if outside in place.folder.parents]


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions there")
def test_a_folder_that_cannot_be_read_is_told_and_the_others_are_looked_at(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == cache / "models--org--name/blobs":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    errors: list[OSError] = []
    folders = {place.folder for place in staging_places(cache, errors.append)}
    assert [error.filename for error in errors] == [str(cache / "models--org--name/blobs")]
    assert cache / "models--org--name/blobs" not in folders
    assert cache / "datasets--org--data/blobs" in folders
