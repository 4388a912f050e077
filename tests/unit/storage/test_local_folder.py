from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from tests.support.storage import COMMIT, ETAG, stage

from hf_haul.storage.destinations import (
    LocalDirDestination,
)
from hf_haul.storage.local_folder import LocalFolder


def test_a_file_of_a_local_dir_is_plain_and_noted(local: LocalFolder) -> None:
    target = LocalDirDestination(local, "sub/file.txt", COMMIT, ETAG)
    assert not target.is_present()
    target.publish(stage(target.staging_dir / "staged"))
    assert target.path.read_bytes() == b"content"
    notes = Path(local.root) / ".cache" / "huggingface" / "download" / "sub" / "file.txt.metadata"
    commit, etag, timestamp = notes.read_text().splitlines()
    assert (commit, etag) == (COMMIT, ETAG)
    assert abs(float(timestamp) - target.path.stat().st_mtime) < 60
    assert (Path(local.root) / ".cache" / "huggingface" / ".gitignore").read_text() == "*"
    assert (Path(local.root) / ".cache" / "huggingface" / "CACHEDIR.TAG").exists()
    assert target.is_present()


def test_a_known_etag_moves_on_to_the_new_commit_without_a_download(local: LocalFolder) -> None:
    LocalDirDestination(local, "a", COMMIT, ETAG).publish(stage(Path(local.root) / "s"))
    assert LocalDirDestination(local, "a", "d" * 40, ETAG).is_present()
    noted = local.read_metadata("a")
    assert noted is not None
    assert noted.commit == "d" * 40
    assert not LocalDirDestination(local, "a", COMMIT, "f" * 40).is_present()


def test_metadata_older_than_their_file_by_more_than_a_second_count_for_nothing(
    local: LocalFolder,
) -> None:
    LocalDirDestination(local, "a", COMMIT, ETAG).publish(stage(Path(local.root) / "s"))
    noted = local.read_metadata("a")
    assert noted is not None
    os.utime(local.file("a"), (noted.timestamp + 0.9, noted.timestamp + 0.9))
    assert local.read_metadata("a") == noted
    os.utime(local.file("a"), (noted.timestamp + 2, noted.timestamp + 2))
    assert local.read_metadata("a") is None


@pytest.mark.parametrize("text", ["", "only\n", f"{COMMIT}\n{ETAG}\nnot a time\n", "\x00\xff"])
def test_damaged_metadata_are_removed_with_a_warning(
    local: LocalFolder, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = Path(local.metadata_path("a"))
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="latin-1")
    with caplog.at_level(logging.WARNING):
        assert local.read_metadata("a") is None
    assert not path.exists()
    assert "Invalid metadata file" in caplog.text


def test_metadata_of_a_file_that_is_gone_count_for_nothing(local: LocalFolder) -> None:
    LocalDirDestination(local, "a", COMMIT, ETAG).publish(stage(Path(local.root) / "s"))
    os.unlink(local.file("a"))
    assert local.read_metadata("a") is None


def test_a_copy_comes_in_by_rename_and_leaves_nothing_behind(local: LocalFolder, tmp_path: Path) -> None:
    source = stage(tmp_path / "source", b"cached")
    local.copy_in(str(source), "sub/a")
    assert Path(local.file("sub/a")).read_bytes() == b"cached"
    assert not list(Path(local.root).rglob("*.incomplete"))
    with pytest.raises(FileNotFoundError):
        local.copy_in(str(tmp_path / "missing"), "sub/b")
    assert not list(Path(local.root).rglob("*.incomplete"))


def test_a_subfolder_removed_behind_our_back_is_made_again(local: LocalFolder) -> None:
    for name in ("sub/a", "sub/b"):
        target = LocalDirDestination(local, name, COMMIT, ETAG)
        target.publish(stage(target.staging_dir / "staged"))
        target.path.unlink()
        target.path.parent.rmdir()
    assert not Path(local.file("sub/b")).exists()


@pytest.mark.parametrize(
    "why", ["its name is taken by a folder", "its name is too long", "its folder is a file"]
)
def test_a_note_that_cannot_be_written_is_a_warning_and_the_file_is_in_place(
    local: LocalFolder, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    name = "n" * 250 if "too long" in why else "sub/model.bin"
    staged = stage(Path(local.root) / "staged")
    if "taken" in why:
        os.makedirs(local.metadata_path(name))
    elif "file" in why:
        stage(Path(os.path.dirname(local.metadata_path(name))))
    destination = LocalDirDestination(local, name, COMMIT, ETAG)
    destination.publish(staged)
    assert destination.path.read_bytes() == b"content"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert name in caplog.text
    assert not list(Path(local.root).rglob("*.tmp"))


@pytest.mark.skipif(os.name == "nt", reason="symlinks need rights there")
@pytest.mark.parametrize("what", ["a link", "a pipe"])
def test_a_note_that_is_no_file_is_not_read(local: LocalFolder, tmp_path: Path, what: str) -> None:
    local.write_metadata("a.bin", COMMIT, ETAG)
    stage(Path(local.file("a.bin")))
    note = Path(local.metadata_path("a.bin"))
    assert local.read_metadata("a.bin") is not None
    if what == "a link":
        note.rename(tmp_path / "elsewhere")
        note.symlink_to(tmp_path / "elsewhere")
    else:
        note.unlink()
        os.mkfifo(note)
    assert local.read_metadata("a.bin") is None


def test_what_was_noted_is_told_whatever_became_of_the_file_and_nothing_is_changed(
    local: LocalFolder, tmp_path: Path
) -> None:
    local.write_metadata("a/b.txt", COMMIT, ETAG)
    noted = local.noted("a/b.txt")
    assert noted is not None
    assert (noted.commit, noted.etag) == (COMMIT, ETAG)
    assert local.read_metadata("a/b.txt") is None, "the file is not there"
    note = Path(local.metadata_path("c.txt"))
    note.write_text("half a not")
    assert local.noted("c.txt") is None
    assert note.exists()
    assert local.noted("d.txt") is None
