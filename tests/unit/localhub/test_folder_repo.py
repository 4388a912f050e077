"""A repository that follows a folder."""

from __future__ import annotations

from pathlib import Path

from tests.support.cached_files import COMMIT, LISTED, keep_listing, write
from tests.support.clock import FakeClock

from hf_haul.localhub.folder_repo import FolderRepo
from hf_haul.localhub.following import Holding
from hf_haul.localhub.objects import DigestCache


def test_a_folder_that_was_downloaded_into_in_part_can_tell(tmp_path: Path) -> None:
    write(tmp_path / "config.json")
    write(tmp_path / "mine.txt")
    keep_listing(tmp_path / ".cache/huggingface", LISTED)
    assert FolderRepo(tmp_path, "o/r").holdings() == [Holding(COMMIT, [], 1, 3)]


def test_a_folder_has_one_commit_for_one_state(tmp_path: Path) -> None:
    clock = FakeClock(0.0)
    write(tmp_path / "a.txt", b"one")
    repo = FolderRepo(tmp_path, "o/r", interval=5, clock=clock, digests=DigestCache())
    first = repo.head
    clock.now = 5
    assert repo.head is first
    write(tmp_path / "b.txt", b"two")
    clock.now = 10
    second = repo.head
    assert second.id != first.id
    (tmp_path / "b.txt").unlink()
    clock.now = 15
    assert repo.head.id == first.id
