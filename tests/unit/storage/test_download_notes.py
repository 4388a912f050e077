"""Where a file came from stays with the file, as long as it is the same file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hf_haul.storage import download_notes
from hf_haul.storage.download_notes import DownloadNote, read_download_note, write_download_note

ORIGIN = DownloadNote.of("https://h/a.bin", '"v1"', 1_600_000_000)


@pytest.fixture(params=["attributes", "none"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file on a file system with extended attributes, and on one without."""
    found = tmp_path / "a.bin"
    found.write_bytes(b"bytes")
    if request.param == "none":
        monkeypatch.setattr(download_notes, "_set_attribute", lambda _name, _note: False)
        monkeypatch.setattr(download_notes, "_attribute", lambda _name: "")
    elif sys.platform != "linux":
        pytest.skip("Python has no extended attributes here")
    return found


def test_what_is_noted_is_read_and_the_file_has_its_sources_time(path: Path) -> None:
    write_download_note(path, ORIGIN)
    assert read_download_note(path) == ORIGIN
    assert path.stat().st_mtime == ORIGIN.modified


def test_nothing_is_visible_beside_the_file(path: Path) -> None:
    write_download_note(path, ORIGIN)
    assert [each.name for each in path.parent.iterdir() if not each.name.startswith(".")] == ["a.bin"]


def test_a_note_of_a_file_that_changed_does_not_count(path: Path) -> None:
    write_download_note(path, ORIGIN)
    path.write_bytes(b"other")  # of the same size, at another time
    assert read_download_note(path) is None


def test_a_note_of_a_file_of_another_size_does_not_count(path: Path) -> None:
    write_download_note(path, ORIGIN)
    path.write_bytes(b"more bytes")
    os.utime(path, (0, ORIGIN.modified or 0))
    assert read_download_note(path) is None


def test_a_new_note_takes_the_place_of_the_old_one(path: Path) -> None:
    write_download_note(path, ORIGIN)
    newer = DownloadNote.of("https://h/a.bin", "v2", None)
    write_download_note(path, newer)
    assert read_download_note(path) == newer


def test_a_file_without_a_note_has_none(path: Path) -> None:
    assert read_download_note(path) is None
    assert read_download_note(path.parent / "not there") is None


@pytest.mark.parametrize(
    "note", ["", "{", "[]", "null", '{"v": 2}', '{"v": 1, "size": 5}', "[" * 5000, "\udcff"]
)
def test_a_note_that_means_nothing_is_passed_over(note: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"bytes")
    (tmp_path / ".a.bin.origin.json").write_bytes(note.encode("utf-8", "surrogateescape"))
    assert read_download_note(path) is None


@pytest.mark.parametrize(
    ("known", "now", "same"),
    [
        pytest.param(("u", "1", 5), ("u", "1", 6), True, id="the etag decides"),
        pytest.param(("u", "1", 5), ("u", "2", 5), False, id="another etag"),
        pytest.param(("u", None, 5), ("u", "2", 5), True, id="the time, where one has no etag"),
        pytest.param(("u", None, 5), ("u", None, 6), False, id="another time"),
        pytest.param(("u", None, None), ("u", None, None), False, id="nothing is known"),
        pytest.param(("u", "1", 5), ("w", "1", 5), False, id="another URL"),
    ],
)
def test_a_version_is_told_by_etag_or_time(
    known: tuple[str, str | None, int | None], now: tuple[str, str | None, int | None], *, same: bool
) -> None:
    assert DownloadNote(*known).is_still(DownloadNote(*now)) is same


def test_a_link_that_was_signed_anew_leads_to_the_same_file() -> None:
    urls = [f"https://h/a?X-Amz-Signature={n}&X-Amz-Date={n}" for n in "12"]
    first, second = (DownloadNote.of(url, "v", None) for url in urls)
    assert first == second
    assert "https" not in repr(first)
