"""Which folders are listed, by whom, and how."""

from __future__ import annotations

import threading

import pytest

from hf_haul.filesystem.folders import FolderListings


def test_one_thread_asks_and_the_others_wait_for_it() -> None:
    folders = FolderListings()
    known: list[str] = []
    asked: list[int] = []
    began, gate = threading.Event(), threading.Event()

    def ask(number: int) -> None:
        with folders.alone("a", lambda: bool(known)) as wanted:
            if wanted:
                asked.append(number)
                began.set()
                gate.wait(10)
                known.append("a")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    with folders.alone("b", lambda: False) as wanted:  # something else is not held up
        assert wanted
    gate.set()
    for thread in threads:
        thread.join(10)
    assert len(asked) == 1
    assert not folders._now


def fail(folders: FolderListings) -> None:
    with folders.alone("a", lambda: False) as wanted:
        assert wanted
        raise OSError("gone")


def test_after_a_failure_the_next_one_asks() -> None:
    folders = FolderListings()
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            fail(folders)


def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    folders = FolderListings()
    with folders.alone("a", lambda: False):
        folders._lock.acquire()  # by a thread that the child does not have
        folders._start_empty()
        with folders.alone("a", lambda: False) as wanted:
            assert wanted


def test_the_second_folder_inside_one_has_all_of_that_listed_unless_it_is_large() -> None:
    folders = FolderListings()
    assert folders.whole_of("org/m", "org/m/a") is None
    assert folders.whole_of("org/m", "org/m/a/b/c") == "org/m"
    folders.note_large("org/m")
    assert folders.whole_of("org/m", "org/m/a/b/c") is None
    assert folders.whole_of("org/m", "org/m/a/b/d") == "org/m/a"
    folders.note_large("org/m/a")
    assert folders.whole_of("org/m", "org/m/a/b/d") == "org/m/a/b"
    assert folders.whole_of("org/m", "org/m/x/y") is None
    assert folders.whole_of("org/other", "org/other/a") is None


def test_of_very_many_folders_few_are_remembered() -> None:
    folders = FolderListings()
    for number in range(30_000):
        folders.whole_of(f"org/{number}", f"org/{number}/a")
    assert len(folders._inside) <= 10_001
