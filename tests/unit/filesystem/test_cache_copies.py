"""Copies by way of the Hub's cache: what is copied, what is fetched into it first, and what is left to others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_haul.errors import DiskFullError
from hf_haul.filesystem import cache_copies as module
from hf_haul.filesystem.cache_copies import take_from_cache
from hf_haul.filesystem.target import Target
from hf_haul.storage.destinations import BlobDestination
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.task import Digest, FileRequest, RemoteFile

DATA = b"some bytes"
SHA = hashlib.sha256(DATA).hexdigest()
COMMIT = "c" * 40


class Place:
    """A cache, and a source that writes down what is fetched into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = RepoFolder(str(root / "cache"), "models--org--m")
        self.fetched: list[str] = []
        self.copied: list[str] = []
        self.kept = 0
        self.error: Exception | None = None

    def kept_at(self, target: Target) -> tuple[BlobDestination, Callable[[], None]] | None:
        if target.name == "nowhere":
            return None
        return BlobDestination(self.folder, COMMIT, target.path, SHA, len(DATA)), self._note

    def _note(self) -> None:
        self.kept += 1

    def fetch(self, requests: list[FileRequest]) -> None:
        self.fetched += [request.remote.path for request in requests]
        if self.error is not None:
            raise self.error
        for request in requests:
            self.put(request.destination, DATA)

    def put(self, destination: Any, data: bytes) -> None:
        self.folder.prepare()
        staged = destination.staging_dir / "staged"
        staged.write_bytes(data)
        destination.publish(staged)

    def take(self, *names: str, durable: bool = False) -> list[str]:
        wanted = {str(self.root / name): target(name) for name in names}
        left = take_from_cache(
            wanted, self.kept_at, self.fetch, lambda each: self.copied.append(each.name), durable=durable
        )
        return [each.name for each in left.values()]


def target(name: str) -> Target:
    remote = RemoteFile(name, f"https://hub/{name}", len(DATA), Digest("sha256", SHA), SHA)
    repository: Any = SimpleNamespace()
    return Target(name, name, repository, name, COMMIT, remote, {})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_blob_is_copied_and_nothing_fetched(place: Place, tmp_path: Path) -> None:
    found = place.kept_at(target("a"))
    assert found is not None
    place.put(found[0], DATA)
    assert place.take("a", "b") == []
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == DATA
    assert (place.fetched, place.copied) == ([], ["a", "b"])


def test_what_is_absent_is_fetched_into_the_cache_each_blob_once(place: Place, tmp_path: Path) -> None:
    assert place.take("a", "b") == []
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == DATA
    assert len(place.fetched) == 1
    assert place.copied == ["a", "b"]
    assert place.kept == 2


def test_what_is_kept_nowhere_is_left(place: Place, tmp_path: Path) -> None:
    assert place.take("nowhere") == ["nowhere"]
    assert (place.fetched, place.copied, place.kept) == ([], [], 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b"other byte", b"short"])
def test_other_bytes_under_the_name_of_the_file_are_not_copied(
    place: Place, tmp_path: Path, data: bytes
) -> None:
    found = place.kept_at(target("a"))
    assert found is not None
    place.put(found[0], data)
    place.error = DiskFullError("no room")
    assert place.take("a") == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_where_the_cache_has_no_room_the_files_are_left(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.error = DiskFullError("no room")
    assert place.take("a", "nowhere") == ["a", "nowhere"]
    assert place.fetched == ["a"]
    assert place.kept == 0
    assert "not kept in the cache: no room" in caplog.text


def test_another_failure_is_raised(place: Place) -> None:
    place.error = ConnectionError("gone")
    with pytest.raises(ConnectionError):
        place.take("a")


def test_a_file_that_is_right_already_is_left_as_it_is(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    before = (tmp_path / "a").stat().st_ino
    assert place.take("a") == []
    assert (tmp_path / "a").stat().st_ino == before
    assert (place.fetched, place.copied) == ([], ["a"])


def test_a_folder_where_the_file_should_go_is_refused_before_anything_is_fetched(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        place.take("a")
    assert place.fetched == []


def test_a_blob_that_cannot_be_read_is_not_copied(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlobDestination, "found", lambda _self: str(tmp_path / "gone"))
    assert place.take("a") == ["a"]
    assert "gone cannot be read" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_copies_are_on_the_disk_before_they_are_said_to_be_there(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[list[str]] = []

    def flush(paths: Any) -> dict[str, OSError]:
        flushed.append(list(paths))
        return {each: OSError("lost") for each in paths}

    monkeypatch.setattr(module, "flush_files", flush)
    assert place.take("a") == []
    assert flushed == []
    with pytest.raises(OSError, match="lost"):
        place.take("b", durable=True)
    assert flushed == [[str(tmp_path / "b")]]
