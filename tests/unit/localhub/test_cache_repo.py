"""A repository of the Hub's own cache, and what its listings say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.cached_files import COMMIT, LISTED, OTHER, cache_file, keep_listing, write
from tests.support.clock import FakeClock

from hf_haul.localhub.cache_repo import CacheRepo
from hf_haul.localhub.following import Holding
from hf_haul.localhub.objects import blob_id


def test_a_cache_tells_digests_by_the_names_of_its_blobs(tmp_path: Path) -> None:
    cache_file(tmp_path, COMMIT, "a/w.bin", "ab" * 32)
    cache_file(tmp_path, COMMIT, "config.json", OTHER)
    write(tmp_path / "snapshots" / COMMIT / "plain.txt", b"no link")  # as on Windows
    write(tmp_path / "refs" / "main", COMMIT.encode())
    write(tmp_path / "refs" / "refs" / "pr" / "1", COMMIT.encode())
    write(tmp_path / "refs" / "gone", OTHER.encode())
    repo = CacheRepo(tmp_path, "o/r")
    assert repo.head.id == COMMIT
    assert {path: entry.etag for path, entry in repo.head.tree.files.items()} == {
        "a/w.bin": "ab" * 32,
        "config.json": OTHER,
        "plain.txt": blob_id(b"no link"),
    }
    assert repo.refs.keys() == {"refs/heads/main", "refs/pr/1"}


def test_the_listing_that_was_kept_tells_what_a_commit_has(tmp_path: Path) -> None:
    cache_file(tmp_path, COMMIT, "a/w.bin", "ab" * 32, b"data")
    cache_file(tmp_path, COMMIT, "config.json", OTHER)
    write(tmp_path / "snapshots" / COMMIT / "notes.txt", b"put there by somebody, it is no link")
    write(tmp_path / "refs" / "main", COMMIT.encode())
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r")
    files = repo.head.tree.files
    assert repo.head.listing == "whole"
    assert {path: entry.is_here for path, entry in files.items()} == {
        "a/w.bin": True,
        "config.json": True,
        "more.json": False,
    }
    assert {path: (entry.git_oid, entry.etag, entry.size) for path, entry in files.items()} == {
        "a/w.bin": ("1" * 40, "ab" * 32, 4),
        "config.json": (OTHER, OTHER, 1),
        "more.json": ("2" * 40, "2" * 40, 9),
    }
    assert repo.holdings() == [Holding(COMMIT, ["main"], 2, 3)]


@pytest.mark.parametrize("complete", [False, True])
def test_without_the_listing_nobody_knows_but_somebody_can_vouch(tmp_path: Path, complete: bool) -> None:
    cache_file(tmp_path, COMMIT, "a.txt", OTHER)
    repo = CacheRepo(tmp_path, "o/r", complete=complete)
    assert repo.head.listing == ("vouched" if complete else "unknown")
    assert set(repo.head.tree.files) == {"a.txt"}
    assert repo.holdings() == [Holding(COMMIT, [], 1, None)]


def test_a_listing_that_lacks_a_file_which_is_here_is_none(tmp_path: Path) -> None:
    cache_file(tmp_path, COMMIT, "config.json", OTHER)
    cache_file(tmp_path, COMMIT, "later.json", "e" * 40)
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r")
    assert repo.head.listing == "unknown"
    assert set(repo.head.tree.files) == {"config.json", "later.json"}


def test_in_a_cache_without_links_any_file_can_show_that_a_listing_lacks_it(tmp_path: Path) -> None:
    write(tmp_path / "snapshots" / COMMIT / "config.json")
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r", interval=0)
    assert repo.head.listing == "whole"
    assert repo.head.tree.files["config.json"].etag == OTHER, "the listing's, without hashing"
    write(tmp_path / "snapshots" / COMMIT / "later.json")
    assert repo.resolve("HEAD").listing == "unknown"  # type: ignore[union-attr]  it is there


@pytest.mark.parametrize(
    ("etag", "data"),
    [
        pytest.param(OTHER, b"too long", id="another size"),
        pytest.param("e" * 40, b"x", id="another blob"),
    ],
)
def test_a_file_that_is_not_the_listed_one_is_not_here(tmp_path: Path, etag: str, data: bytes) -> None:
    cache_file(tmp_path, COMMIT, "config.json", etag, data)
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r")
    assert not repo.head.tree.files["config.json"].is_here
    assert repo.head.tree.files["config.json"].size == 1


def test_what_a_cache_loses_is_here_no_more(tmp_path: Path) -> None:
    cache_file(tmp_path, COMMIT, "config.json", OTHER)
    keep_listing(tmp_path, LISTED)
    repo = CacheRepo(tmp_path, "o/r", interval=0)
    assert repo.head.tree.files["config.json"].is_here
    (tmp_path / "snapshots" / COMMIT / "config.json").unlink()
    assert not repo.resolve("HEAD").tree.files["config.json"].is_here  # type: ignore[union-attr]  it is there


def test_a_cache_gives_out_blobs_and_nothing_that_lies_elsewhere(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", b"key")
    root = tmp_path / "cache/models--o--r"
    cache_file(root, COMMIT, "config.json", OTHER)
    store = write(root.parent / "blobs/cd" / ("cd" * 32), b"shared")
    (root / "blobs" / ("ab" * 32)).symlink_to(os.path.relpath(store, root / "blobs"))
    for name, target in {
        "shared.bin": root / "blobs" / ("ab" * 32),
        "evil": secret,
        "evil-too": root / "blobs/evil",
    }.items():
        (root / "snapshots" / COMMIT / name).symlink_to(target)
    (root / "blobs/evil").symlink_to(secret)
    write(tmp_path / "ssh/id_rsa")
    (root / "snapshots" / OTHER).symlink_to(tmp_path / "ssh")
    write(root / "refs/main", COMMIT.encode())
    (root / "refs/evil").symlink_to(secret)
    repo = CacheRepo(root, "o/r")
    assert set(repo.head.tree.files) == {"config.json", "shared.bin"}
    assert repo.resolve(OTHER) is None
    assert repo.refs.keys() == {"refs/heads/main"}


def test_a_cache_is_followed(tmp_path: Path) -> None:
    clock = FakeClock(0.0)
    cache_file(tmp_path, COMMIT, "a.txt", OTHER)
    repo = CacheRepo(tmp_path, "o/r", interval=5, clock=clock)
    assert set(repo.head.tree.files) == {"a.txt"}
    cache_file(tmp_path, COMMIT, "b.txt", "e" * 40)  # the download of this snapshot goes on
    cache_file(tmp_path, OTHER, "c.txt", "d" * 40)
    write(tmp_path / "refs" / "main", OTHER.encode())
    assert repo.resolve("main") is None
    clock.now = 5
    main = repo.resolve("main")
    assert main is not None
    assert set(main.tree.files) == {"c.txt"}
    first = repo.resolve(COMMIT)
    assert first is not None
    assert set(first.tree.files) == {"a.txt", "b.txt"}


def test_a_commit_that_is_not_all_here_is_looked_for_again_by_its_id(tmp_path: Path) -> None:
    clock = FakeClock(0.0)
    cache_file(tmp_path, COMMIT, "config.json", OTHER)
    repo = CacheRepo(tmp_path, "o/r", interval=5, clock=clock)
    looks = [repo.resolve(COMMIT)]
    keep_listing(tmp_path, LISTED)
    clock.now = 5
    looks.append(repo.resolve(COMMIT))
    cache_file(tmp_path, COMMIT, "a/w.bin", "ab" * 32, b"data")
    cache_file(tmp_path, COMMIT, "more.json", "2" * 40, b"nine more")
    clock.now = 10
    looks.append(repo.resolve(COMMIT))
    assert [look and (look.listing, look.is_settled) for look in looks] == [
        ("unknown", False),
        ("whole", False),
        ("whole", True),
    ]
    clock.now = 15
    assert repo.resolve(COMMIT) is looks[-1]
