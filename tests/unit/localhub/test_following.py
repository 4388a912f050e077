"""Repositories that follow the disk, whatever they find there."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.support.cached_files import write
from tests.support.clock import FakeClock

from hf_haul.localhub.folder_repo import FolderRepo


def test_one_thread_looks_while_all_others_wait_for_it(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    looks: list[int] = []
    go_on = threading.Event()

    class Counting(FolderRepo):
        def load(self) -> None:
            looks.append(1)
            go_on.wait(10)
            super().load()

    repo = Counting(tmp_path, "o/r", interval=1000)
    heads: list[str] = []
    askers = [threading.Thread(target=lambda: heads.append(repo.head.id)) for _ in range(8)]
    for asker in askers:
        asker.start()
    go_on.set()
    for asker in askers:
        asker.join(10)
    assert len(looks) == 1
    assert len(heads) == 8
    assert len(set(heads)) == 1


def test_a_folder_that_cannot_be_read_for_once_serves_what_it_had(tmp_path: Path) -> None:
    clock = FakeClock(0.0)
    write(tmp_path / "a.txt")
    errors: list[OSError] = []

    class Sometimes(FolderRepo):
        def load(self) -> None:
            if errors:
                raise errors.pop()
            super().load()

    repo = Sometimes(tmp_path, "o/r", interval=5, clock=clock)
    first = repo.head
    write(tmp_path / "b.txt")
    errors.append(PermissionError("not now"))
    clock.now = 5
    assert repo.head is first
    clock.now = 10
    assert set(repo.head.tree.files) == {"a.txt", "b.txt"}
