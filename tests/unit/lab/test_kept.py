"""What was fetched for others, and which of it goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hf_haul.lab.kept import Kept, record_file

FOLDER = "models--org--m"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="symlinks need rights there")


def put(cache: Path, blob: str, *pointers: str, size: int = 10) -> None:
    """Put a file into a cache."""
    root = cache / FOLDER
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / blob).write_bytes(b"x" * size)
    for pointer in pointers:
        path = root / "snapshots" / pointer
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(root / "blobs" / blob, path.parent))


class Clock:
    """Seconds, each a second after the one before."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def kept_in(cache: Path, most: int | None) -> Kept:
    return Kept(cache, most, cache.parent / "record.json", Clock())


def names(cache: Path) -> set[str]:
    return {path.name for path in (cache / FOLDER / "blobs").iterdir()}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


def test_what_was_not_used_for_longest_goes_first(cache: Path) -> None:
    kept = kept_in(cache, 30)
    for blob in ("a", "b", "c"):
        put(cache, blob, f"sha/sub/{blob}")
        kept.add(FOLDER, blob, 10, f"sha/sub/{blob}", fetched=True)
    kept.note_use(FOLDER, "a")
    assert kept.make_room(FOLDER, "sha/d", 15)
    assert names(cache) == {"a"}
    assert (kept.evicted_files, kept.evicted_bytes, kept.total) == (2, 20, 10)
    assert [path.name for path in (cache / FOLDER / "snapshots").rglob("*") if path.is_symlink()] == ["a"]


def test_what_somebody_waits_for_stays(cache: Path) -> None:
    kept = kept_in(cache, 20)
    for blob in ("a", "b"):
        put(cache, blob, f"sha/{blob}")
        kept.add(FOLDER, blob, 10, f"sha/{blob}", fetched=True)
    for by in (1, 1, -1):
        kept.hold(FOLDER, "a", by)
    assert kept.make_room(FOLDER, "sha/c", 20)
    assert names(cache) == {"a"}
    kept.hold(FOLDER, "a", -1)
    assert kept.make_room(FOLDER, "sha/c", 20)
    assert names(cache) == set()
    assert not kept._held


def test_what_is_on_its_way_takes_room(cache: Path) -> None:
    kept = kept_in(cache, 30)
    put(cache, "a", "sha/a")
    kept.add(FOLDER, "a", 10, "sha/a", fetched=True)
    assert kept.make_room(FOLDER, "sha/b", 10)
    assert kept.make_room(FOLDER, "sha/b", 10)  # the same again
    assert names(cache) == {"a"}
    assert kept.make_room(FOLDER, "sha/c", 10)
    assert names(cache) == {"a"}
    kept.give_up(FOLDER, "sha/b")
    assert kept.make_room(FOLDER, "sha/d", 10)
    assert names(cache) == {"a"}
    assert kept.make_room(FOLDER, "sha/e", 10)
    assert names(cache) == set()
    assert not kept.make_room(FOLDER, "sha/f", 31)


def test_what_somebody_else_has_a_link_to_stays(cache: Path) -> None:
    kept = kept_in(cache, 10)
    put(cache, "a", "sha/a", "other/a")
    kept.add(FOLDER, "a", 10, "sha/a", fetched=True)
    assert kept.make_room(FOLDER, "sha/b", 10)
    assert (names(cache), kept.evicted_files, kept.total) == ({"a"}, 0, 0)


def test_what_was_here_already_is_not_counted(cache: Path) -> None:
    kept = kept_in(cache, 10)
    kept.add(FOLDER, "own", 10, "sha/own", fetched=False)
    assert (len(kept), kept.total) == (0, 0)
    kept.add(FOLDER, "a", 5, "sha/a", fetched=True)
    kept.add(FOLDER, "a", 5, "sha2/a", fetched=False)
    put(cache, "a", "sha/a", "sha2/a")
    assert kept.make_room(FOLDER, "sha/b", 10)
    assert names(cache) == set()
    assert list((cache / FOLDER / "snapshots").iterdir()) == []


def test_it_is_remembered(cache: Path) -> None:
    kept = kept_in(cache, None)
    kept.add(FOLDER, "a", 5, "sha/a", fetched=True)
    kept.save()
    assert kept_in(cache, None).total == 5


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="a list"),
        pytest.param('{"version": 99, "blobs": []}', id="a later version"),
        pytest.param('{"version": 1, "blobs": [{}]}', id="not a file"),
        *(
            pytest.param(
                json.dumps({"version": 1, "blobs": [{"folder": FOLDER, "blob": "a", "size": 1, "used": 0, "pointers": [], **wrong}]}),
                id=f"leads elsewhere: {wrong}",
            )
            for wrong in ({"folder": ".."}, {"folder": "/etc"}, {"blob": "../x"}, {"pointers": ["sha/../../x"]}, {"pointers": ["/x"]})
        ),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_relied_on_is_none(text: str, cache: Path) -> None:
    (cache.parent / "record.json").write_text(text)
    assert kept_in(cache, 1).total == 0


def test_each_cache_has_a_record_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (
        record_file(tmp_path / "a") == record_file(tmp_path / "b" / ".." / "a") != record_file(tmp_path / "b")
    )
    assert record_file(tmp_path / "a").is_relative_to(tmp_path / "hf-haul")
