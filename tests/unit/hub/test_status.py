from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import constants
from tests.support.cached_files import COMMIT, keep_listing, write
from tests.support.storage import SIZE, left_behind, put, stage

from hf_haul.hub.status import PartialFile, PartialStatus, status
from hf_haul.hub.uris import uri_of
from hf_haul.storage.claiming import claim
from hf_haul.storage.local_folder import LocalFolder, short_name

SHA = "ab" * 32


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


def _only(found: PartialStatus) -> PartialFile:
    (file,) = found.files
    return file


def _listing(size: int = SIZE) -> dict[str, dict[str, object]]:
    return {"deep/w 1.bin": {"size": 130, "blob_id": "1" * 40, "lfs_sha256": SHA, "lfs_size": size}}


def test_an_empty_cache_has_nothing_and_one_that_is_not_there_yet_neither(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status(hub).files == ()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "none"))
    assert status() == PartialStatus(hub / "none", (), 0, 0, 0, ())


def test_a_folder_that_is_not_there_or_is_none_is_an_error(hub: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        status(hub / "none")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        status(cache_dir=hub / "none")
    with pytest.raises(NotADirectoryError, match="is no folder"):
        status(stage(hub / "file"))
    with pytest.raises(ValueError, match="together"):
        status(hub, cache_dir=hub)


def test_a_partial_file_says_by_itself_what_it_is_of(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    repository = hub / "datasets--org--data"
    left_behind(repository / "blobs", key=SHA, uri=uri_of("dataset", "org/data", COMMIT, "deep/w 1.bin"))
    file = _only(status())
    assert (file.repo_type, file.repo_id, file.file) == ("dataset", "org/data", "deep/w 1.bin")
    assert (file.etag, file.revision) == (SHA, COMMIT)
    assert (file.bytes_done, file.bytes_total, file.percent) == (400, SIZE, 40.0)
    assert (file.owner.state, file.resumable, file.in_place) == ("dead", True, False)
    assert file.command is not None
    assert shlex.split(file.command) == [
        "hf-haul", "download", "org/data", "deep/w 1.bin", "--type", "dataset", "--revision", COMMIT,
    ]  # fmt: skip
    write(repository / "refs/pr/1", COMMIT.encode())
    assert _only(status()).revision == "pr/1"
    write(repository / "refs/main", COMMIT.encode())
    file = _only(status())
    assert (file.revision, file.command) == (
        "main",
        "hf-haul download org/data 'deep/w 1.bin' --type dataset",
    )


def test_one_that_does_not_is_found_in_a_kept_listing(hub: Path) -> None:
    repository = hub / "models--org--name"
    left_behind(repository / "blobs", key=SHA)
    file = _only(status(hub))
    assert (file.file, file.revision, file.repo_id) == (None, None, "org/name")
    assert file.command == f"hf-haul download org/name --cache-dir {hub}"
    keep_listing(repository, _listing())
    write(repository / "refs/main", COMMIT.encode())
    file = _only(status(hub))
    assert (file.file, file.revision) == ("deep/w 1.bin", "main")
    assert file.command == f"hf-haul download org/name 'deep/w 1.bin' --cache-dir {hub}"


@pytest.mark.parametrize("said", [True, False])
def test_of_a_local_dir_the_file_is_known_and_the_repository_where_the_file_says_it(
    tmp_path: Path, said: bool
) -> None:
    uri = uri_of("model", "org/name", COMMIT, "deep/w 1.bin") if said else ""
    key = f"{short_name('w 1.bin.metadata')}.{SHA}"
    left_behind(tmp_path / ".cache/huggingface/download/deep", key=key, uri=uri)
    keep_listing(tmp_path / ".cache/huggingface", _listing())
    file = _only(status(tmp_path))
    assert (file.file, file.etag, file.repo_id) == ("deep/w 1.bin", SHA, "org/name" if said else None)
    assert file.command == (
        f"hf-haul download org/name 'deep/w 1.bin' --revision {COMMIT} --local-dir {tmp_path}"
        if said
        else None
    )
    assert "goes on from it" in file.hint


def test_what_is_in_place_already_is_of_no_use(tmp_path: Path, hub: Path) -> None:
    left_behind(hub / "models--org--name/blobs", key=SHA)
    write(hub / "models--org--name/blobs" / SHA)
    uri = uri_of("model", "org/name", COMMIT, "w.bin")
    local = LocalFolder(str(tmp_path / "local"))
    write(tmp_path / "local/w.bin")
    local.write_metadata("w.bin", COMMIT, SHA)
    key = f"{short_name('w.bin.metadata')}.{SHA}"
    left_behind(tmp_path / "local/.cache/huggingface/download", key=key, uri=uri)
    files = status(tmp_path).files
    assert [(file.in_place, file.resumable, file.command) for file in files] == [(True, False, None)] * 2
    assert {file.hint for file in files} == {"the whole file is in place: `hf-haul clean` removes this one"}
    (tmp_path / "local/w.bin").unlink()
    (hub / "models--org--name/blobs" / SHA).unlink()
    assert [file.in_place for file in status(tmp_path).files] == [False, False]


def test_what_is_being_fetched_needs_no_command(hub: Path) -> None:
    with closing(claim(hub / "models--org--name/blobs", SHA, SIZE)) as staged:
        put(staged, 0, 10)
        file = _only(status(hub))
    assert (file.owner.state, file.owner.pid, file.command) == ("alive", os.getpid(), None)
    assert file.owner.program
    assert "being fetched" in file.hint


def test_files_of_huggingface_hubs_are_said_to_be_its_own(hub: Path) -> None:
    stage(hub / "models--org--name/blobs" / f"{SHA}.0123abcd.incomplete", b"x" * 500)
    keep_listing(hub / "models--org--name", _listing())
    file = _only(status(hub))
    assert (file.kind, file.repo_id, file.file, file.resumable) == (
        "huggingface_hub", "org/name", "deep/w 1.bin", False,
    )  # fmt: skip
    assert (file.bytes_total, file.command) == (SIZE, None)
    assert "huggingface_hub begins it anew" in file.hint


def test_a_file_of_any_url_is_known_by_its_name(tmp_path: Path) -> None:
    left_behind(tmp_path / "got", key="a.b.bin.0123456789abcdef")
    file = _only(status(tmp_path))
    assert (file.file, file.repo_id, file.command) == ("a.b.bin", None, None)
    assert "same URL" in file.hint


def test_temporary_files_are_no_partial_ones(hub: Path) -> None:
    stage(hub / "models--org--name/blobs/tmp_1", b"")
    assert status(hub).files == ()


def test_the_sums_are_those_of_the_files(hub: Path) -> None:
    for number, done in enumerate((100, 200, 300)):
        left_behind(hub / f"models--org--{number}/blobs", key=SHA, done=done)
    found = status(hub)
    assert [file.repo_id for file in found.files] == ["org/0", "org/1", "org/2"]
    assert (found.bytes_done, found.bytes_total) == (600, 3 * SIZE)
    assert found.bytes_on_disk == sum(file.bytes_on_disk for file in found.files)


def test_a_damaged_listing_and_damaged_refs_cost_the_names_only(hub: Path) -> None:
    repository = hub / "models--org--name"
    left_behind(repository / "blobs", key=SHA)
    write(repository / f"trees/{COMMIT}.json", b"{")
    write(repository / "refs/main", b"\xff\xfe")
    (repository / "refs/loop").symlink_to("loop")
    assert _only(status(hub)).bytes_done == 400


@pytest.mark.skipif(sys.platform == "win32", reason="names are no bytes there")
def test_a_folder_whose_name_is_no_text_is_looked_at(hub: Path) -> None:
    left_behind(hub / os.fsdecode(b"b\xffd"), key="a.bin.0123456789abcdef")
    assert _only(status(hub)).file == "a.bin"


def test_ten_thousand_files_take_seconds(hub: Path) -> None:
    code = """
import json, resource, sys, time
from hf_haul.hub.status import status
begun = time.process_time()
found = status(sys.argv[1])
print(json.dumps([len(found.files), sum(file.file is not None for file in found.files), time.process_time() - begun]))
"""
    blobs = hub / "models--org--name/blobs"
    data = left_behind(blobs, key="0" * 64).read_bytes()
    (blobs / f"{'0' * 64}.haul.incomplete").unlink()
    for number in range(5000):
        (blobs / f"{number:064x}.haul.incomplete").write_bytes(data)
        (blobs / f"{number:064x}").write_bytes(b"")
    files = {
        f"{n}.bin": {"size": 1, "blob_id": "1" * 40, "lfs_sha256": f"{n:064x}", "lfs_size": SIZE}
        for n in range(5000)
    }
    keep_listing(hub / "models--org--name", files)
    done = subprocess.run([sys.executable, "-c", code, hub], capture_output=True, text=True, check=True)
    count, named, seconds = json.loads(done.stdout)
    assert (count, named) == (5000, 5000)
    assert seconds < 10
