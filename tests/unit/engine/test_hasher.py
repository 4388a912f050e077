"""Threads that hash: one for each file, no more than allowed, gone when there is nothing to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from hf_haul.engine.hasher import Hasher

BOUND = 10.0  # seconds


class File:
    """Stands for a staged file and its digest; hashing it lasts until ``go_on`` is set."""

    catching_up = False

    def __init__(self) -> None:
        self.times = 0
        self.begun, self.go_on, self.hashed = threading.Event(), threading.Event(), threading.Event()
        self.frontier = self.read_into = None
        self.error: OSError | None = None

    def catch_up(self, _frontier: Any, _read_into: Any, *, wait: bool) -> None:
        assert not wait
        self.times += 1
        self.begun.set()
        assert self.go_on.wait(BOUND)
        self.hashed.set()
        if self.error is not None:
            raise self.error


@pytest.fixture(name="hasher")
def _hasher() -> Iterator[Hasher]:
    hasher = Hasher(2)
    yield hasher
    hasher.close()
    assert not threads()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("hf-haul-hasher")]


def soon(hasher: Hasher, file: File) -> None:
    hasher.soon(file, file)  # type: ignore[arg-type]  # it is both
    hasher.start()


def test_files_are_hashed_side_by_side_up_to_the_most(hasher: Hasher) -> None:
    files = [File() for _ in range(3)]
    for file in files:
        soon(hasher, file)
    assert files[0].begun.wait(BOUND)
    assert files[1].begun.wait(BOUND)
    assert len(threads()) == 2
    for file in files:
        file.go_on.set()
    assert files[2].hashed.wait(BOUND)


def test_a_file_that_waits_for_its_turn_waits_once(hasher: Hasher) -> None:
    first, second, third = (File() for _ in range(3))
    soon(hasher, first)
    soon(hasher, second)
    assert first.begun.wait(BOUND)
    assert second.begun.wait(BOUND)
    for _ in range(5):
        soon(hasher, third)
    for file in (first, second, third):
        file.go_on.set()
    assert third.hashed.wait(BOUND)
    hasher.close()
    assert third.times == 1


def test_a_file_closed_meanwhile_hurts_no_other(hasher: Hasher) -> None:
    closed, other = File(), File()
    closed.error = OSError("closed")
    closed.go_on.set()
    other.go_on.set()
    soon(hasher, closed)
    assert closed.hashed.wait(BOUND)
    soon(hasher, other)
    assert other.hashed.wait(BOUND)


def test_nothing_is_hashed_after_the_end(hasher: Hasher) -> None:
    hasher.close()
    file = File()
    soon(hasher, file)
    assert not threads()


def test_where_no_thread_is_to_be_had_hashing_is_left_to_the_end(
    hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    file = File()
    file.go_on.set()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        soon(hasher, file)
    other = File()
    other.go_on.set()
    soon(hasher, other)
    assert file.hashed.wait(BOUND)  # by the thread that came for the other
    assert other.hashed.wait(BOUND)
