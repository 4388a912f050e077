from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.storage import DATA, SIZE, left_behind, put, stage

from hf_haul.storage import adoption, ownership, partial_files, sweeping
from hf_haul.storage.claiming import claim
from hf_haul.storage.partial_files import PartialOnDisk
from hf_haul.storage.removal import StillInUseError, remove_partial
from hf_haul.storage.staged_file import StagedFile
from hf_haul.storage.staging_places import staging_places


def _found(folder: Path) -> list[PartialOnDisk]:
    return [found for place in staging_places(folder) for found in partial_files.partial_files(place)]


def _only(folder: Path) -> PartialOnDisk:
    (found,) = _found(folder)
    return found


def _age(path: Path, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(path, (at, at))


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    folder = tmp_path / "hub/models--org--name/blobs"
    folder.mkdir(parents=True)
    return folder


def test_what_a_dead_owner_left_is_removed_and_its_bytes_are_told(tmp_path: Path) -> None:
    path = left_behind(tmp_path)
    on_disk = path.stat().st_blocks * 512
    assert remove_partial(_only(tmp_path)) == on_disk > 0
    assert list(tmp_path.iterdir()) == []


def test_a_living_owners_file_stays_and_goes_on(tmp_path: Path) -> None:
    with closing(claim(tmp_path, "etag", SIZE)) as staged:
        put(staged, 0, 400)
        with pytest.raises(StillInUseError):
            remove_partial(_only(tmp_path))
        put(staged, 400, SIZE)
        assert staged.seal(durable=False).read_bytes() == DATA


def test_what_was_dead_and_is_fetched_by_now_stays(tmp_path: Path) -> None:
    left_behind(tmp_path)
    found = _only(tmp_path)
    with closing(claim(tmp_path, "etag", SIZE)) as staged:
        assert staged.resumed == 400
        with pytest.raises(StillInUseError, match="is being fetched by another download of this process"):
            remove_partial(found)
        put(staged, 400, SIZE)
        assert staged.seal(durable=False).read_bytes() == DATA


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks there")
def test_nobody_adopts_what_is_about_to_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(tmp_path)
    found = _only(tmp_path)
    real = adoption._rename

    def late(path: Path, private: Path) -> None:
        monkeypatch.setattr(adoption, "_rename", real)
        monkeypatch.setattr(adoption, "_taking_over", set())  # from another process
        with pytest.raises(adoption.StagedElsewhereError):
            claim(tmp_path, "etag", SIZE)
        assert path.exists()
        real(path, private)

    monkeypatch.setattr(adoption, "_rename", late)
    assert remove_partial(found) > 0
    assert list(tmp_path.iterdir()) == []


def test_where_locks_lie_what_somebody_adopts_at_the_last_moment_keeps_its_name_and_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    left_behind(tmp_path)
    found = _only(tmp_path)
    adopted: list[StagedFile] = []
    real = adoption._rename

    def late(path: Path, private: Path) -> None:
        monkeypatch.setattr(adoption, "_rename", real)
        monkeypatch.setattr(adoption, "_taking_over", set())  # from another process
        adopted.append(claim(tmp_path, "etag", SIZE))
        real(path, private)

    monkeypatch.setattr(adoption, "_rename", late)
    with pytest.raises(StillInUseError):
        remove_partial(found)
    (staged,) = adopted
    assert staged.path.name == "etag.haul.incomplete"
    put(staged, 400, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks there")
def test_what_somebody_has_locked_and_not_signed_yet_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left_behind(tmp_path)
    found = _only(tmp_path)
    adopter = os.open(path, os.O_RDWR)  # its header still names the dead owner
    assert ownership.try_lock(adopter)
    monkeypatch.setattr(os, "rename", lambda *_: pytest.fail("it was renamed"))
    with pytest.raises(StillInUseError):
        remove_partial(found)
    os.close(adopter)
    assert path.exists()


def test_where_locks_lie_a_living_owner_is_told_after_the_rename_at_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    path = left_behind(tmp_path)
    adopted: list[StagedFile] = []
    real = adoption._rename

    def late(old: Path, private: Path) -> None:
        monkeypatch.setattr(adoption, "_rename", real)
        monkeypatch.setattr(adoption, "_taking_over", set())  # from another process
        adopted.append(claim(tmp_path, "etag", SIZE))
        real(old, private)

    monkeypatch.setattr(adoption, "_rename", late)
    with pytest.raises(adoption.StagedElsewhereError, match="another download of this process"):
        adoption.Adopter(path, "etag", -1).remove_one(path, lambda _: True)
    assert adopted[0].is_ours()
    adopted[0].delete()


def test_whoever_looks_for_it_while_it_is_removed_waits_and_begins_anew_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(tmp_path)
    found = _only(tmp_path)
    met: list[str] = []
    real = partial_files.owner_state

    def look(left: Any) -> Any:
        monkeypatch.setattr(adoption, "_taking_over", set())  # from another process
        for path in tmp_path.iterdir():
            with pytest.raises(adoption.StagedElsewhereError):
                adoption.Adopter(tmp_path / "etag.haul.incomplete", "etag", SIZE).best_of([path])
            met.append(path.name)
        return real(left)

    monkeypatch.setattr("hf_haul.storage.removal.owner_state", look)
    remove_partial(found)
    assert len(met) == 1
    with closing(claim(tmp_path, "etag", SIZE)) as staged:
        assert staged.resumed == 0


def test_what_cannot_be_seen_to_be_dead_any_more_gets_its_name_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left_behind(tmp_path)
    found = _only(tmp_path)
    monkeypatch.setattr("hf_haul.storage.removal.owner_state", lambda _: "unknown")
    with pytest.raises(StillInUseError):
        remove_partial(found)
    assert list(tmp_path.iterdir()) == [path]


def test_a_complete_file_that_nobody_published_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = claim(tmp_path, "etag", SIZE)
    put(staged, 0, SIZE)
    staged.seal(durable=False)
    with pytest.raises(StillInUseError):
        remove_partial(_only(tmp_path))
    later = time.time() + 130
    monkeypatch.setattr(time, "time", lambda: later)
    remove_partial(_only(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["rename", "unlink"])
def test_what_may_not_be_removed_is_an_error_and_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = left_behind(tmp_path)
    found = _only(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, refuse)
        if step == "unlink":  # to give it its name back takes a link and an unlink
            patch.setattr(adoption, "move_back", lambda private, to: os.rename(private, to))
        with pytest.raises(PermissionError):
            remove_partial(found)
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_gone_already_is_no_error(blobs: Path) -> None:
    left_behind(blobs)
    _age(stage(blobs / "etag.incomplete"), 90000)
    _age(stage(blobs / "tmp_1"), 90000)
    found = _found(blobs.parent)
    assert len(found) == 3
    for path in blobs.iterdir():
        path.unlink()
    assert [remove_partial(each) for each in found] == [0, 0, 0]


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere we do not know which file systems are this host's"
)
@pytest.mark.parametrize("meanwhile", ["nothing", "locked", "written", "replaced"])
def test_a_file_of_huggingface_hubs_goes_if_nobody_has_come_to_use_it(
    blobs: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    monkeypatch.setattr(sweeping, "keeps_writes", lambda _: True)
    path = stage(blobs / "etag.incomplete", b"theirs")
    _age(path, 90000)
    lock = stage(blobs.parents[1] / ".locks/models--org--name/etag.lock", b"")
    found = _only(blobs.parent)
    holder = os.open(lock, os.O_RDWR)
    if meanwhile == "locked":
        assert ownership.try_lock(holder)
    elif meanwhile == "written":
        path.write_bytes(b"theirs, and more")
    elif meanwhile == "replaced":
        os.rename(stage(blobs / "new", b"another one's"), path)
    try:
        if meanwhile == "replaced":
            assert remove_partial(found) == 0
        elif meanwhile == "nothing":
            assert remove_partial(found) > 0
        else:
            with pytest.raises(StillInUseError):
                remove_partial(found)
    finally:
        os.close(holder)
    assert path.exists() == (meanwhile != "nothing")


def test_a_file_that_exists_for_a_moment_goes_once_it_has_been_seen_for_longer(blobs: Path) -> None:
    path = stage(blobs / "tmp_1", b"")
    with pytest.raises(StillInUseError):
        remove_partial(_only(blobs.parent), seen_for=0.5)
    remove_partial(_only(blobs.parent), seen_for=2.0)
    assert not path.exists()


def test_a_probe_for_links_goes_with_what_is_in_it_and_with_nothing_else(blobs: Path) -> None:
    probe = blobs.parent / "tmpabcd1234"
    stage(probe / "dummy_file_src")
    (probe / "dummy_file_dst").symlink_to("dummy_file_src")
    _age(probe, 200)
    found = _only(blobs.parent)
    mine = stage(probe / "mine")
    _age(probe, 200)
    with pytest.raises(OSError, match=r"not empty|has changed"):
        remove_partial(PartialOnDisk(**{**{name: getattr(found, name) for name in found.__slots__},
                                        "modified": probe.stat().st_mtime}))  # fmt: skip
    assert mine.exists()
    mine.unlink()
    stage(probe / "dummy_file_src")
    _age(probe, 200)
    remove_partial(_only(blobs.parent))
    assert not probe.exists()
