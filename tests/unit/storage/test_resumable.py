from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.storage import DATA, SIZE, left_behind, names_below, put, stage

from hf_haul.ranges import ByteRange
from hf_haul.storage.claiming import claim
from hf_haul.storage.resumable import find_resumable
from hf_haul.storage.staged_names import scan_orphans


def _paths(folder: Path) -> list[Path]:
    return [path for paths in scan_orphans(folder).values() for path in paths]


def _state(folder: Path) -> dict[Path, tuple[int, int, int]]:
    return {
        path: (about.st_ino, about.st_mtime_ns, about.st_size)
        for path in folder.rglob("*")
        for about in [path.stat()]
    }


def test_nothing_staged_is_all_missing(tmp_path: Path) -> None:
    found = find_resumable([], ["etag"], SIZE)
    assert (found.missing, found.done, found.fetched_by) == ((ByteRange(0, SIZE),), 0, None)
    assert find_resumable([tmp_path / "gone"], ["etag"], SIZE).done == 0
    assert find_resumable([], ["etag"], 0).missing == ()


def test_what_the_journal_of_the_fullest_says_is_there_and_nothing_is_changed(tmp_path: Path) -> None:
    left_behind(tmp_path, 400)
    most = left_behind(tmp_path / "x", 700)
    (tmp_path / "etag.0000beef.haul.incomplete").write_bytes(most.read_bytes())
    before = _state(tmp_path)
    paths = sorted(_paths(tmp_path))
    for order in (paths, paths[::-1]):
        found = find_resumable(order, ["etag"], SIZE)
        assert (found.done, found.missing, found.fetched_by) == (700, (ByteRange(700, SIZE),), None)
    assert _state(tmp_path) == before


def test_what_the_next_download_goes_on_from_is_what_was_told(tmp_path: Path) -> None:
    with closing(claim(tmp_path, "etag", SIZE)) as staged:
        put(staged, 10, 20)
        put(staged, 500, 600)
    told = find_resumable(_paths(tmp_path), ["etag"], SIZE)
    with closing(claim(tmp_path, "etag", SIZE)) as staged:
        assert list(told.missing) == staged.missing()
        assert told.done == staged.resumed == 110


def test_a_living_process_is_named(tmp_path: Path) -> None:
    with closing(claim(tmp_path, "etag", SIZE)) as staged:
        put(staged, 0, 300)
        found = find_resumable(_paths(tmp_path), ["etag"], SIZE)
        assert found.done == 300
        assert str(found.fetched_by).startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize(
    ("boot", "digest_known", "done"),
    [("another", True, 400), ("another", False, 0), (None, False, 400)],
    ids=["a digest tells", "nothing tells", "no reboot since"],
)
def test_without_a_digest_what_survived_a_reboot_does_not_count(
    tmp_path: Path, boot: str | None, digest_known: bool, done: int
) -> None:
    left_behind(tmp_path, owner={} if boot is None else {"boot": boot})
    assert find_resumable(_paths(tmp_path), ["etag"], SIZE, digest_known=digest_known).done == done


def test_a_complete_file_that_was_not_published_is_all_there(tmp_path: Path) -> None:
    stage(tmp_path / "etag.0000beef.sealed.incomplete", DATA)
    assert find_resumable(_paths(tmp_path), ["etag"], SIZE).missing == ()
    assert find_resumable(_paths(tmp_path), ["etag"], SIZE, digest_known=False).done == 0
    assert find_resumable(_paths(tmp_path), ["etag"], SIZE + 1).done == 0


def test_files_staged_the_other_way_do_not_count(tmp_path: Path) -> None:
    with closing(claim(tmp_path, "etag", SIZE, sequential=True)) as staged:
        put(staged, 0, 300)
    assert find_resumable(_paths(tmp_path), ["etag"], SIZE, sequential=True).done == 300
    assert find_resumable(_paths(tmp_path), ["etag"], SIZE).done == 0
    assert names_below(tmp_path) == {"etag.seq.incomplete"}
