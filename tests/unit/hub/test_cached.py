from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import constants, scan_cache_dir
from tests.support.cached_files import COMMIT, LISTED, OTHER, cache_file, keep_listing, write
from tests.support.storage import SIZE, left_behind, put, stage

from hf_haul.hub.cached import CachedRepositories, CachedRepository, list_cached
from hf_haul.storage.claiming import claim

SHA = "ab" * 32


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


@pytest.fixture
def repository(hub: Path) -> Path:
    """A repository with two of three files of a listing."""
    root = hub / "models--org--name"
    cache_file(root, COMMIT, "a/w.bin", SHA, b"1234")
    cache_file(root, COMMIT, "config.json", OTHER)
    keep_listing(root, LISTED)
    write(root / "refs/main", COMMIT.encode())
    return root


def _only(hub: Path) -> CachedRepository:
    (found,) = list_cached(hub).repositories
    return found


def test_an_empty_cache_holds_nothing_and_one_that_is_not_there_yet_neither(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list_cached(hub) == CachedRepositories(hub, (), 0, ())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "none"))
    assert list_cached() == CachedRepositories(hub / "none", (), 0, ())
    with pytest.raises(FileNotFoundError):
        list_cached(hub / "none")
    with pytest.raises(NotADirectoryError):
        list_cached(write(hub / "file"))


def test_a_repository_is_partial_until_every_file_of_its_listing_is_here(hub: Path, repository: Path) -> None:
    found = _only(hub)
    (revision,) = found.revisions
    assert (found.repo_type, found.repo_id, found.path) == ("model", "org/name", repository)
    assert (found.state, revision.state, revision.files, revision.files_listed) == (
        "partial",
        "partial",
        2,
        3,
    )
    cache_file(repository, COMMIT, "more.json", "2" * 40, b"123456789")
    found = _only(hub)
    (revision,) = found.revisions
    assert (found.state, revision.state) == ("complete", "complete")
    assert (revision.commit, revision.refs, revision.bytes) == (COMMIT, ("main",), 14)
    assert (found.files, found.bytes, found.problems) == (3, 14, ())
    assert list_cached(hub).bytes == 14


def test_a_file_that_was_cut_makes_it_partial_and_is_named(hub: Path, repository: Path) -> None:
    cache_file(repository, COMMIT, "more.json", "2" * 40, b"123456789")
    (repository / "blobs" / SHA).write_bytes(b"12")
    found = _only(hub)
    assert found.state == "partial"
    (problem,) = found.problems
    assert problem.path.as_posix().endswith(f"{COMMIT}/a/w.bin")
    assert problem.message == "it has 2 bytes, and should have 4"


def test_without_a_listing_nobody_knows(hub: Path) -> None:
    cache_file(hub / "models--org--name", COMMIT, "a.bin", SHA)
    assert _only(hub).state == "unknown"


def test_commits_with_a_name_come_first_and_decide(hub: Path, repository: Path) -> None:
    cache_file(repository, COMMIT, "more.json", "2" * 40, b"123456789")
    cache_file(repository, "0" * 40, "old.bin", "3" * 40)
    keep_listing(repository, LISTED, "0" * 40)
    write(repository / "refs/refs/pr/1", COMMIT.encode())
    found = _only(hub)
    assert [(each.commit, each.refs, each.state) for each in found.revisions] == [
        (COMMIT, ("main", "refs/pr/1"), "complete"),
        ("0" * 40, (), "partial"),
    ]
    assert found.state == "complete"


def test_what_is_being_fetched_or_was_left_is_counted_apart(hub: Path, repository: Path) -> None:
    cache_file(repository, COMMIT, "more.json", "2" * 40, b"123456789")
    with closing(claim(repository / "blobs", "9" * 64, SIZE)) as staged:
        put(staged, 0, 10)
        found = _only(hub)
    assert (found.state, found.files, found.bytes, found.partial_files) == ("partial", 3, 14, 1)
    assert found.partial_bytes > 0
    assert list_cached(hub).bytes == 14 + found.partial_bytes
    stage(repository / "blobs/8.incomplete")
    assert _only(hub).partial_files == 2


def test_what_is_left_of_a_file_in_place_makes_nothing_partial(hub: Path, repository: Path) -> None:
    cache_file(repository, COMMIT, "more.json", "2" * 40, b"123456789")
    left_behind(repository / "blobs", key=SHA)
    stage(repository / f"blobs/{SHA}.0123abcd.incomplete")
    assert (_only(hub).state, _only(hub).partial_files) == ("complete", 0)


def test_broken_entries_are_told_and_hide_nothing(hub: Path, repository: Path) -> None:
    os.unlink(repository / "blobs" / SHA)
    write(repository / "refs/dangling", b"d" * 40)
    write(repository / "refs/odd", b"\xff")
    (repository / "refs/loop").symlink_to("loop")
    write(repository / "snapshots/file")
    write(repository / "trees" / f"{'d' * 40}.json", b"{")
    (hub / "models--org--empty").mkdir()
    write(hub / "models--org--file")
    (hub / "models--org--nowhere").symlink_to(hub / "none")
    write(hub / "CACHEDIR.TAG")
    write(hub / "version.txt")
    (hub / ".locks").mkdir()
    (hub / "other--org--name").mkdir()
    (hub / "models--").mkdir()
    with pytest.raises(UnicodeDecodeError):  # which is why it is not used here
        scan_cache_dir(hub)
    found = {each.repo_id: each for each in list_cached(hub).repositories}
    assert sorted(found) == ["org/empty", "org/name"]
    named = {each.commit: each for each in found["org/name"].revisions}
    assert (named[COMMIT].files, named[COMMIT].state) == (1, "partial")
    assert (named["d" * 40].files, named["d" * 40].refs) == (0, ("dangling",))
    (problem,) = found["org/name"].problems
    assert problem.message == "it is a link to a file that is not there"
    assert (found["org/empty"].files, found["org/empty"].last_used, found["org/empty"].state) == (
        0,
        None,
        "unknown",
    )


def test_it_says_the_same_as_huggingface_hub_of_a_cache_in_order(hub: Path, repository: Path) -> None:
    cache_file(repository, OTHER, "a/w.bin", SHA, b"1234")
    cache_file(hub / "datasets--org--data", COMMIT, "d.csv", "4" * 40, b"a,b")
    cache_file(hub / "models--gpt2", COMMIT, "g.bin", "5" * 40, b"gpt")
    ours = {(each.repo_type, each.repo_id): each for each in list_cached(hub).repositories}
    theirs = {(each.repo_type, each.repo_id): each for each in scan_cache_dir(hub).repos}
    assert ours.keys() == theirs.keys()
    for key, found in ours.items():
        assert (found.files, found.bytes) == (theirs[key].nb_files, theirs[key].size_on_disk)
        assert (found.last_used, found.last_modified) == (
            theirs[key].last_accessed,
            theirs[key].last_modified,
        )
        assert {each.commit: (set(each.refs), each.files) for each in found.revisions} == {
            each.commit_hash: (set(each.refs), each.nb_files) for each in theirs[key].revisions
        }
    assert list_cached(hub).bytes == scan_cache_dir(hub).size_on_disk


def test_the_last_use_is_that_of_the_file_read_last(hub: Path, repository: Path) -> None:
    at = time.time()
    os.utime(repository / "blobs" / SHA, (at - 5000, at - 9000))
    os.utime(repository / "blobs" / OTHER, (at - 7000, at - 8000))
    found = _only(hub)
    assert found.last_used == pytest.approx(at - 5000)
    assert found.last_modified == pytest.approx(at - 8000)


def test_a_file_in_the_store_that_repositories_share_counts_once(hub: Path) -> None:
    write(hub / "blobs/ab" / SHA, b"1234")
    for name in ("one", "two"):
        cache_file(hub / f"models--org--{name}", COMMIT, "w.bin", SHA)
        blob = hub / f"models--org--{name}/blobs" / SHA
        blob.unlink()
        blob.symlink_to(f"../../blobs/ab/{SHA}")
    found = list_cached(hub)
    assert [each.bytes for each in found.repositories] == [4, 4]
    assert found.bytes == 4


def test_a_cache_without_links_is_listed(hub: Path) -> None:
    root = hub / "models--org--name"
    write(root / f"snapshots/{COMMIT}/a/w.bin", b"1234")
    write(root / f"snapshots/{COMMIT}/config.json")
    keep_listing(root, {name: LISTED[name] for name in ("a/w.bin", "config.json")})
    assert (_only(hub).state, _only(hub).files, _only(hub).bytes) == ("complete", 2, 5)


def test_ten_thousand_files_take_seconds(hub: Path) -> None:
    root = hub / "models--org--name"
    (root / "blobs").mkdir(parents=True)
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for number in range(10_000):
        (root / f"blobs/{number:064x}").write_bytes(b"x")
        (folder / f"{number}.bin").symlink_to(f"../../blobs/{number:064x}")
    keep_listing(
        root,
        {
            f"{n}.bin": {"size": 1, "blob_id": "1" * 40, "lfs_sha256": f"{n:064x}", "lfs_size": 1}
            for n in range(10_000)
        },
    )
    code = """
import json, sys, time
from hf_haul.hub.cached import list_cached
begun = time.process_time()
(found,) = list_cached(sys.argv[1]).repositories
print(json.dumps([found.files, found.state, time.process_time() - begun]))
"""
    done = subprocess.run([sys.executable, "-c", code, hub], capture_output=True, text=True, check=True)
    files, state, seconds = json.loads(done.stdout)
    assert (files, state) == (10_000, "complete")
    assert seconds < 10
