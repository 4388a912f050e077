"""A file on disk under reads: what is fetched, what is written, and what happens when the disk or others interfere."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.waits import until

from hf_haul.config import Settings
from hf_haul.errors import ConnectionFailedError
from hf_haul.reading import disk_copy as module
from hf_haul.reading.disk_copy import DiskCopy
from hf_haul.storage.claiming import claim
from hf_haul.storage.destinations import BlobDestination
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.staged_file import StagedFile
from hf_haul.task import Digest, RemoteFile

DATA = bytes(range(256)) * 40
SIZE = len(DATA)
SHA = hashlib.sha256(DATA).hexdigest()
COMMIT = "c" * 40


class Place:
    """A cache with room for one file, and a source that counts what it is asked for."""

    def __init__(self, root: Path) -> None:
        self.folder = RepoFolder(str(root), "models--org--m")
        self.blobs = Path(self.folder.blobs)
        self.fetched: list[tuple[int, int]] = []
        self.data = DATA
        self.later: list[Callable[[], None]] = []
        self.published = 0
        self.now = 1000.0

    def copy(self, **settings: Any) -> DiskCopy:
        remote = RemoteFile("a.bin", "https://hub/a.bin", size=SIZE, digest=Digest("sha256", SHA), etag=SHA)
        destination = BlobDestination(self.folder, COMMIT, "a.bin", SHA, SIZE)
        return DiskCopy(
            destination,
            remote,
            Settings(durable=False, **settings),
            self._later,
            self._note,
            clock=lambda: self.now,
        )

    def _later(self, work: Callable[[], None]) -> bool:
        self.later.append(work)
        return True

    def _note(self) -> None:
        self.published += 1

    def fetch(self, start: int, view: memoryview) -> None:
        self.fetched.append((start, start + len(view)))
        view[:] = self.data[start : start + len(view)]

    def read(self, copy: DiskCopy, start: int, stop: int) -> bytes:
        self.fetched.clear()
        buffer = bytearray(stop - start)
        copy.fill(start, memoryview(buffer), self.fetch)
        return bytes(buffer)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.blobs.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def close(copy: DiskCopy) -> None:
    assert copy.close_if_idle(0.0)


def test_only_holes_are_fetched_and_the_last_makes_a_blob(place: Place) -> None:
    copy = place.copy()
    assert place.read(copy, 100, 200) == DATA[100:200]
    assert place.read(copy, 300, 400) == DATA[300:400]
    assert place.read(copy, 50, 450) == DATA[50:450]
    assert place.fetched == [(50, 100), (200, 300), (400, 450)]
    assert place.read(copy, 60, 440) == DATA[60:440]
    assert place.fetched == []
    close(copy)
    again = place.copy()
    assert place.read(again, 0, SIZE) == DATA
    assert place.fetched == [(0, 50), (450, SIZE)]
    assert place.names() == [SHA]
    assert place.published == 1
    assert os.path.samefile(place.folder.pointer(COMMIT, "a.bin"), place.blobs / SHA)
    assert place.read(again, 5, 500) == place.read(place.copy(), 5, 500) == DATA[5:500]
    assert place.fetched == []


def test_it_lets_go_of_the_staged_file_by_itself(place: Place) -> None:
    copy = place.copy()
    place.read(copy, 0, 10)
    assert not copy.is_closed
    assert not copy.close_if_idle(5.0)
    place.now += 5.0
    assert until(lambda: copy.is_closed)
    assert place.names() == [f"{SHA}.haul.incomplete"]


def test_what_it_takes_again_is_said_once_and_what_others_left_is(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="hf_haul")
    first = place.copy()
    for start in (0, 1000, 2000):
        place.read(first, start, start + 1000)
        assert first.close_if_idle(0.0)
    assert "resuming" not in caplog.text
    place.read(place.copy(), 3000, 4000)
    assert caplog.text.count("resuming") == 1
    assert "3000 of" in caplog.text


def test_what_fails_to_be_fetched_is_not_kept_and_what_was_before_is(place: Place) -> None:
    copy = place.copy()
    place.read(copy, 0, 100)

    def fail(start: int, view: memoryview) -> None:
        view[:] = b"?" * len(view)
        raise ConnectionFailedError("gone")

    with pytest.raises(ConnectionFailedError):
        copy.fill(50, memoryview(bytearray(100)), fail)
    assert place.read(copy, 50, 150) == DATA[50:150]
    assert place.fetched == [(100, 150)]


def test_wrong_bytes_are_dropped_and_a_second_time_the_disk_is_left(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    copy = place.copy()
    place.data = bytes(SIZE)
    for times in (1, 2):
        assert place.read(copy, 0, SIZE) == place.data
        close(copy)
        assert place.names() == []
        assert caplog.text.count("another digest") == times
    place.data = DATA
    assert place.read(copy, 0, SIZE) == DATA
    assert place.names() == []
    assert place.read(place.copy(), 0, SIZE) == DATA
    assert place.names() == [SHA]


def test_a_large_file_is_checked_later_and_can_be_read_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", SIZE - 1)
    copy = place.copy()
    assert place.read(copy, 0, SIZE) == DATA
    assert place.names() == [f"{SHA}.haul.incomplete"]
    assert place.read(copy, 0, SIZE) == DATA
    assert place.fetched == []
    (check,) = place.later
    check()
    assert place.names() == [SHA]
    assert place.published == 1


def test_a_complete_staged_file_is_published_by_the_next_who_reads(place: Place) -> None:
    staged = claim(place.blobs, SHA, SIZE)
    staged.write(0, memoryview(DATA))
    staged.record(0, SIZE)
    staged.close()
    assert place.read(place.copy(), 7, 70) == DATA[7:70]
    assert place.names() == [SHA]


def test_what_others_have_is_tried_again_later(place: Place) -> None:
    theirs = claim(place.blobs, SHA, SIZE)
    copy = place.copy()
    assert place.read(copy, 0, 100) == DATA[:100]
    theirs.close()
    assert place.read(copy, 0, 100) == DATA[:100]
    assert place.names() == []
    place.now += 10
    assert place.read(copy, 0, 100) == DATA[:100]
    assert place.names() == [f"{SHA}.haul.incomplete"]


def test_a_staged_file_that_was_taken_away_is_not_written_to(place: Place) -> None:
    copy = place.copy()
    place.read(copy, 0, 100)
    staged = copy._staged
    assert staged is not None
    staged._last_look = float("-inf")
    path = place.blobs / f"{SHA}.haul.incomplete"
    path.unlink()
    path.write_bytes(b"theirs")
    assert place.read(copy, 0, 200) == DATA[:200]
    assert path.read_bytes() == b"theirs"
    assert place.read(copy, 0, SIZE) == DATA


@pytest.mark.parametrize("what", ["write", "read_into"])
def test_a_disk_that_fails_costs_no_read(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    copy = place.copy()
    place.read(copy, 0, 100)

    def fail(*_args: Any) -> int:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(StagedFile, what, fail)
    assert place.read(copy, 50, 200) == DATA[50:200]
    assert place.read(copy, 0, 300) == DATA[:300]
    assert "the disk is broken" in caplog.text
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1
    assert SHA not in place.names()


def test_a_file_that_a_sequential_download_left_is_left_to_it(place: Place) -> None:
    staged = claim(place.blobs, SHA, SIZE, sequential=True)
    staged.write(0, memoryview(DATA[:500]))
    staged.record(0, 500)
    staged.close()
    assert place.read(place.copy(), 0, 100) == DATA[:100]
    assert place.names() == [f"{SHA}.seq.incomplete"]


def test_nothing_is_staged_where_files_are_to_be_written_in_order(place: Place) -> None:
    copy = place.copy(write_mode="sequential")
    assert place.read(copy, 500, 600) == DATA[500:600]
    assert not place.blobs.exists()
    place.blobs.mkdir(parents=True)
    (place.blobs / SHA).write_bytes(DATA)
    assert place.read(copy, 500, 600) == DATA[500:600]
    assert place.fetched == []


def test_a_file_of_unknown_digest_is_refused() -> None:
    remote = RemoteFile("a.bin", "https://hub/a.bin", size=SIZE)
    with pytest.raises(ValueError, match=r"a\.bin: its size or digest is unknown"):
        DiskCopy(None, remote, Settings(), lambda _work: True)  # type: ignore[arg-type]  # not looked at
