from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest
from tests.support.storage import COMMIT, ETAG, names_below, stage

from hf_haul.storage.destinations import (
    BlobDestination,
)
from hf_haul.storage.hub_cache import RepoFolder


@pytest.mark.parametrize("symlinks", [True, False], ids=["symlinks", "no symlinks"])
@pytest.mark.parametrize("blob_there", [True, False], ids=["blob there", "blob fetched"])
def test_the_pointer_of_a_commit_that_moved_on_leads_to_its_new_bytes(
    tmp_path: Path, symlinks: bool, blob_there: bool
) -> None:
    folder = RepoFolder(str(tmp_path / "hub"), "models--org--name", symlinks=lambda: symlinks)
    folder.prepare()
    for content in (b"old", b"new"):
        etag = hashlib.sha256(content).hexdigest()
        destination = BlobDestination(folder, "main", "dir/a.bin", etag)
        assert not destination.is_linked()
        if blob_there:
            stage(Path(folder.blob(etag)), content)
        else:
            assert not destination.is_present()
            destination.publish(stage(destination.staging_dir / "x.incomplete", content))
        assert destination.is_present()
        assert destination.is_linked()
        assert destination.path.read_bytes() == content
    assert not [name for name in names_below(Path(folder.root)) if name.endswith(".incomplete")]


def test_nothing_is_noted_as_missing_of_a_commit_that_may_move_on(folder: RepoFolder) -> None:
    folder.note_absent("main", "x")
    assert not (Path(folder.root) / ".no_exist").exists()


def test_a_branch_that_is_its_own_commit_is_found_by_its_ref(folder: RepoFolder) -> None:
    folder.write_ref("main", "main")
    assert folder.read_ref("main") == "main"
    folder.write_ref(COMMIT, COMMIT)
    assert folder.read_ref(COMMIT) is None


def test_a_published_blob_is_linked_relatively_from_its_snapshot(folder: RepoFolder) -> None:
    target = BlobDestination(folder, COMMIT, "nested/deep/file.bin", ETAG)
    assert not target.is_present()
    staged = stage(target.staging_dir / f"{target.staging_key}.incomplete")
    target.publish(staged)
    assert os.readlink(target.path) == f"../../../../blobs/{ETAG}"
    assert target.path.read_bytes() == b"content"
    assert not staged.exists()
    assert target.is_present()
    assert names_below(Path(folder.root)) == {
        f"blobs/{ETAG}",
        f"snapshots/{COMMIT}/nested/deep/file.bin",
    }


def test_a_blob_of_another_snapshot_is_linked_and_not_fetched(folder: RepoFolder) -> None:
    BlobDestination(folder, COMMIT, "a", ETAG).publish(stage(Path(folder.blobs) / "s"))
    other = BlobDestination(folder, "d" * 40, "renamed", ETAG)
    assert other.is_present()
    assert other.path.read_bytes() == b"content"


def test_publishing_replaces_a_blob_that_is_a_symlink_and_never_writes_through_it(
    folder: RepoFolder, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.write_bytes(b"shared")
    os.symlink(shared, Path(folder.blobs) / ETAG)
    target = BlobDestination(folder, COMMIT, "a", ETAG)
    target.publish(stage(Path(folder.blobs) / "staged", b"new"))
    assert shared.read_bytes() == b"shared"
    assert not (Path(folder.blobs) / ETAG).is_symlink()
    assert target.path.read_bytes() == b"new"


@pytest.mark.parametrize(
    "left_over",
    [
        pytest.param("dangling", id="a link to a blob that is gone"),
        pytest.param("same", id="the same link, made by another process"),
    ],
)
def test_a_pointer_in_the_way_is_replaced_or_kept(folder: RepoFolder, left_over: str) -> None:
    target = BlobDestination(folder, COMMIT, "a", ETAG)
    target.path.parent.mkdir(parents=True)
    os.symlink("../../blobs/" + ("gone" if left_over == "dangling" else ETAG), target.path)
    target.publish(stage(Path(folder.blobs) / "staged"))
    assert os.readlink(target.path) == f"../../blobs/{ETAG}"


def test_a_snapshot_folder_removed_behind_our_back_is_made_again(folder: RepoFolder) -> None:
    first = BlobDestination(folder, COMMIT, "a", ETAG)
    first.publish(stage(Path(folder.blobs) / "s1"))
    first.path.unlink()
    first.path.parent.rmdir()
    second = BlobDestination(folder, COMMIT, "b", "f" * 40)
    second.publish(stage(Path(folder.blobs) / "s2"))
    assert second.path.read_bytes() == b"content"


def test_without_symlinks_a_new_file_moves_into_the_snapshot_and_an_old_blob_is_copied(
    tmp_path: Path,
) -> None:
    folder = RepoFolder(str(tmp_path), "models--a", symlinks=lambda: False)
    folder.prepare()
    new = BlobDestination(folder, COMMIT, "x/new", ETAG)
    new.publish(stage(Path(folder.blobs) / "staged"))
    assert new.path.read_bytes() == b"content"
    assert not new.path.is_symlink()
    assert not (Path(folder.blobs) / ETAG).exists()

    (Path(folder.blobs) / "old").write_bytes(b"old")
    old = BlobDestination(folder, COMMIT, "x/old", "old")
    assert old.is_present()
    assert not old.path.is_symlink()
    assert (Path(folder.blobs) / "old").read_bytes() == old.path.read_bytes() == b"old"


def test_symlink_support_is_asked_once(tmp_path: Path) -> None:
    asked = []
    folder = RepoFolder(str(tmp_path), "models--a", symlinks=lambda: bool(asked.append(1)) or True)
    assert folder.symlinks
    assert folder.symlinks
    assert asked == [1]


def test_a_blob_of_the_shared_store_is_linked_by_its_xet_hash(tmp_path: Path) -> None:
    asked: list[tuple[str, str, int | None]] = []

    def share(blob: str, xet_hash: str, size: int | None) -> bool:
        asked.append((blob, xet_hash, size))
        Path(blob).write_bytes(b"shared")
        return True

    folder = RepoFolder(str(tmp_path), "models--a", share=share)
    assert not BlobDestination(folder, COMMIT, "a", ETAG, 6).is_present()
    assert BlobDestination(folder, COMMIT, "a", ETAG, 6, "f" * 64).is_present()
    assert asked == [(folder.blob(ETAG), "f" * 64, 6)]


def test_a_folder_is_marked_as_a_cache_and_an_existing_mark_is_left_alone(tmp_path: Path) -> None:
    RepoFolder(str(tmp_path), "models--a").prepare()
    tag = tmp_path / "CACHEDIR.TAG"
    assert tag.read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    tag.write_text("mine")
    RepoFolder(str(tmp_path), "models--b").prepare()
    assert tag.read_text() == "mine"


def test_a_ref_is_written_only_when_it_changes(folder: RepoFolder) -> None:
    ref = Path(folder.root) / "refs" / "refs" / "pr" / "1"
    folder.write_ref("refs/pr/1", COMMIT)
    assert ref.read_text() == COMMIT
    before = ref.stat().st_ino
    folder.write_ref("refs/pr/1", COMMIT)
    assert ref.stat().st_ino == before
    folder.write_ref("refs/pr/1", "d" * 40)
    assert folder.read_ref("refs/pr/1") == "d" * 40
    assert [p.name for p in ref.parent.iterdir()] == ["1"]
    folder.write_ref(COMMIT, COMMIT)
    assert folder.read_ref(COMMIT) is None


def test_a_missing_file_is_remembered(folder: RepoFolder) -> None:
    folder.note_absent(COMMIT, "sub/nope.json")
    folder.note_absent(COMMIT, "sub/nope.json")
    assert (Path(folder.root) / ".no_exist" / COMMIT / "sub" / "nope.json").read_bytes() == b""


def test_a_missing_file_that_cannot_be_remembered_is_only_logged(
    folder: RepoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (Path(folder.root) / ".no_exist").write_text("in the way")
    folder.note_absent(COMMIT, "nope")
    assert "nope" in caplog.text


def test_many_threads_may_publish_one_file(folder: RepoFolder) -> None:
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def publish(number: int) -> None:
        target = BlobDestination(folder, COMMIT, "dir/a", ETAG)
        staged = stage(Path(folder.blobs) / f"staged{number}")
        start.wait()
        try:
            target.publish(staged)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert failures == []
    assert BlobDestination(folder, COMMIT, "dir/a", ETAG).path.read_bytes() == b"content"


@pytest.mark.skipif(os.name == "nt", reason="symlinks need rights there")
def test_a_marker_is_not_made_through_a_link(folder: RepoFolder, tmp_path: Path) -> None:
    marker = Path(folder.root) / ".no_exist" / COMMIT / "a.json"
    marker.parent.mkdir(parents=True)
    marker.symlink_to(tmp_path / "elsewhere")
    folder.note_absent(COMMIT, "a.json")
    assert not (tmp_path / "elsewhere").exists()
