"""Which files of a folder belong to a repository, and what is known of them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tests.support.cached_files import COMMIT, OTHER, write

from hf_haul.localhub.folders import scan_folder
from hf_haul.localhub.objects import DigestCache, blob_id


def test_what_does_not_belong_to_a_repository_is_left_out(tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt", ".gitattributes", ".git/x", ".cache/x", "b/w.bin.incomplete"):
        write(tmp_path / name)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert {entry.path for entry in scan_folder(tmp_path)} == {"a.txt", "b/c.txt", ".gitattributes"}


@pytest.mark.parametrize(
    ("note", "etag", "is_lfs"),
    [
        pytest.param(f"{COMMIT}\n{'ab' * 32}\n2000000000.0\n", "ab" * 32, True, id="LFS"),
        pytest.param(f"{COMMIT}\n{OTHER}\n2000000000.0\n", OTHER, False, id="git"),
        pytest.param(f"{COMMIT}\n{OTHER}\n5.0\n", None, False, id="older than the file"),
        pytest.param(f"{COMMIT}\nodd-etag\n2000000000.0\n", None, False, id="an odd etag"),
        pytest.param("broken", None, False, id="broken"),
    ],
)
def test_notes_of_a_download_are_believed_while_they_are_newer(
    tmp_path: Path, note: str, etag: str | None, is_lfs: bool
) -> None:
    os.utime(write(tmp_path / "w.txt", b"data"), (1_900_000_000, 1_900_000_000))
    write(tmp_path / ".cache/huggingface/download/w.txt.metadata", note.encode())
    (entry,) = scan_folder(tmp_path, DigestCache())
    assert entry.is_lfs is is_lfs
    assert entry.etag == (etag or blob_id(b"data"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no fifos here")
@pytest.mark.parametrize("linked", [False, True], ids=["fifo", "link"])
def test_what_stands_in_place_of_a_note_is_not_read(tmp_path: Path, linked: bool) -> None:
    write(tmp_path / "w.txt", b"data")
    note = tmp_path / ".cache/huggingface/download/w.txt.metadata"
    note.parent.mkdir(parents=True)
    os.mkfifo(tmp_path / ".fifo" if linked else note)
    if linked:
        note.symlink_to(tmp_path / ".fifo")
    found: list[str] = []
    reader = threading.Thread(
        target=lambda: found.extend(entry.etag for entry in scan_folder(tmp_path, DigestCache())), daemon=True
    )
    reader.start()
    reader.join(10)
    assert found == [blob_id(b"data")]
