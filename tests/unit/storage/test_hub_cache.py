from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_haul.errors import HaltedError, UnsafePathError
from hf_haul.halt import Halt
from hf_haul.storage import hub_cache as cache
from hf_haul.storage import staged_file as staging
from hf_haul.storage.hub_cache import (
    BlobDestination,
    FileDestination,
    HandedOverDestination,
    LocalDirDestination,
    LocalFolder,
    RepoFolder,
    digest_of,
    extended_path,
    is_lasting,
    require_place,
    require_safe_commit,
    require_safe_name,
    require_safe_path,
)
from hf_haul.task import Digest

COMMIT = "c" * 40
ETAG = "e" * 40

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")


@pytest.fixture
def folder(tmp_path: Path) -> RepoFolder:
    folder = RepoFolder(str(tmp_path / "hub"), "models--org--name")
    folder.prepare()
    return folder


def stage(path: Path, content: bytes = b"content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names_below(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink() or p.is_file()}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("../up", id="parent"),
        pytest.param("a/../../up", id="parent inside"),
        pytest.param("a\\..\\..\\up", id="parent with backslashes"),
        pytest.param("..", id="parent alone"),
        pytest.param("/etc/passwd", id="absolute"),
        pytest.param("\\windows", id="root-relative on Windows"),
        pytest.param("C:\\x", id="drive"),
        pytest.param("C:x", id="drive-relative"),
        pytest.param("a/C:/x", id="drive inside"),
        pytest.param("a/\\\\host\\share\\x", id="share inside"),
        pytest.param("\\\\host\\share\\x", id="share"),
        pytest.param("//host/share", id="share with slashes"),
        pytest.param("", id="nothing"),
        pytest.param(".", id="the folder itself"),
        pytest.param("a/..", id="the folder itself by a detour"),
        pytest.param("a\0b", id="nul"),
    ],
)
def test_a_path_that_leaves_its_folder_under_posix_or_windows_rules_is_refused(path: str) -> None:
    with pytest.raises(UnsafePathError):
        require_safe_path(path)


@pytest.mark.parametrize("path", ["a\ud800", "a/\udcff.bin"])
def test_a_path_that_is_no_text_is_refused(path: str) -> None:
    with pytest.raises(UnsafePathError, match="not Unicode"):
        require_safe_path(path)


@pytest.mark.parametrize(
    "path",
    [
        ".cache/huggingface/download/model.safetensors.metadata",
        ".cache/huggingface",
        ".CACHE/HuggingFace/x",
        "./.cache//huggingface/x",
        ".cache\\huggingface\\x",
        ".cache./huggingface /x",
        ".cache . ./huggingface.../x",
        ".cache:stream/huggingface::$INDEX_ALLOCATION/x",
        ".ca\u200cche/hugging\ufeffface/x",
        "\uff0ecache/\uff48uggingface/x",
        "CACHE~1/HUGGIN~1/x",
        "CA12AB~1/HUF00D~2/x",
        " ./.cache/huggingface/x",
    ],
)
def test_a_path_to_the_notes_of_a_local_dir_is_refused_however_it_is_written(
    local: LocalFolder, path: str
) -> None:
    for use in (local.file, local.notes, lambda name: LocalDirDestination(local, name, COMMIT, "e")):
        with pytest.raises(UnsafePathError, match="notes"):
            use(path)


@pytest.mark.parametrize(
    "path",
    [
        ".cache",
        ".cache/other/x",
        "huggingface/.cache/x",
        "a/.cache/huggingface/x",
        "cache/huggingface/x",
        ".cache/x",
    ],
)
def test_a_path_beside_the_notes_of_a_local_dir_is_accepted(local: LocalFolder, path: str) -> None:
    assert local.file(path) == os.path.join(local.root, path)


def test_a_file_whose_name_on_disk_is_no_text_has_a_key(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"gr\xf6\xdfe.bin")
    key = FileDestination(file, "v").staging_key
    assert key != FileDestination(tmp_path / "gr.bin", "v").staging_key
    stage(tmp_path / f"{key}.haul.incomplete")


@pytest.mark.parametrize(
    "path",
    ["a", "a/b/c.bin", "..a", "a..b/c..", "to?/awful?name%you:never", "a b", "ünï/日本語", "CON", ".git"],
)
def test_odd_names_that_stay_inside_are_accepted(path: str) -> None:
    require_safe_path(path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "C:x", "a\0", "x" * 201])
def test_an_etag_or_commit_that_cannot_name_one_file_is_refused(name: str) -> None:
    with pytest.raises(UnsafePathError, match="etag"):
        require_safe_name(name, what="etag")


@pytest.mark.parametrize(
    "name", ["", ".", "../x", "a/../b", "/a", "a//b", "a/", "a\\b", "C:/x", "a\0", "x" * 201]
)
def test_a_commit_that_would_leave_the_snapshots_is_refused(name: str) -> None:
    with pytest.raises(UnsafePathError, match="commit"):
        require_safe_commit(name)


@pytest.mark.parametrize(
    ("name", "lasting"),
    [
        pytest.param("c" * 40, True, id="sha1"),
        pytest.param("c" * 64, True, id="sha256"),
        pytest.param("main", False, id="branch"),
        pytest.param("release/1.0", False, id="tag with a slash"),
        pytest.param("refs/pr/1", False, id="pull request"),
        pytest.param("c" * 39, False, id="short id"),
    ],
)
def test_only_an_id_made_from_content_lasts(name: str, lasting: bool) -> None:
    assert require_safe_commit(name) == name
    assert is_lasting(name) is lasting


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
    folder.remember_missing("main", "x")
    assert not (Path(folder.root) / ".no_exist").exists()


def test_a_branch_that_is_its_own_commit_is_found_by_its_ref(folder: RepoFolder) -> None:
    folder.write_ref("main", "main")
    assert folder.read_ref("main") == "main"
    folder.write_ref(COMMIT, COMMIT)
    assert folder.read_ref(COMMIT) is None


def test_every_door_into_a_repo_folder_checks_names(folder: RepoFolder) -> None:
    for call in (
        lambda: folder.pointer(COMMIT, "../x"),
        lambda: folder.pointer("../x", "a"),
        lambda: folder.blob("../x"),
        lambda: folder.write_ref("../../x", COMMIT),
        lambda: folder.remember_missing(COMMIT, "../x"),
        lambda: folder.remember_missing("..", "x"),
        lambda: BlobDestination(folder, COMMIT, "../x", ETAG),
        lambda: BlobDestination(folder, COMMIT, "x", "../" + ETAG),
        lambda: LocalDirDestination(LocalFolder("/nowhere"), "../x", COMMIT, ETAG),
        lambda: LocalDirDestination(LocalFolder("/nowhere"), "x", COMMIT, "a/b"),
    ):
        with pytest.raises(UnsafePathError):
            call()


@pytest.mark.parametrize(
    ("path", "limit", "expected"),
    [
        pytest.param("C:\\short", 255, "C:\\short", id="short"),
        pytest.param("C:\\" + "a" * 260, 255, "\\\\?\\C:\\" + "a" * 260, id="long"),
        pytest.param("C:\\" + "a" * 246, 247, "\\\\?\\C:\\" + "a" * 246, id="too long for a folder"),
        pytest.param("C:\\" + "a" * 246, 255, "C:\\" + "a" * 246, id="not too long for a file"),
        pytest.param("\\\\h\\s\\" + "a" * 260, 255, "\\\\?\\UNC\\h\\s\\" + "a" * 260, id="share"),
        pytest.param("\\\\?\\C:\\" + "a" * 260, 255, "\\\\?\\C:\\" + "a" * 260, id="extended already"),
    ],
)
def test_long_windows_paths_take_their_extended_form(path: str, limit: int, expected: str) -> None:
    assert extended_path(path, limit, windows=True) == expected
    assert extended_path(path, limit, windows=False) == path


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


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o037, 0o640), (0o077, 0o600)])
def test_published_files_have_the_permissions_of_new_ones(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        folder = RepoFolder(str(tmp_path / "hub"), "models--a")
        folder.prepare()
        blob = BlobDestination(folder, COMMIT, "a", ETAG)
        local = LocalDirDestination(LocalFolder(str(tmp_path / "local")), "b", COMMIT, ETAG)
        plain = FileDestination(tmp_path / "plain" / "c")
        for target in (blob, local, plain):
            staged = stage(target.staging_dir / "staged")
            staged.chmod(0o600)
            target.publish(staged)
            assert stat.S_IMODE(target.path.stat().st_mode) == mode
    finally:
        os.umask(before)


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
    folder.remember_missing(COMMIT, "sub/nope.json")
    folder.remember_missing(COMMIT, "sub/nope.json")
    assert (Path(folder.root) / ".no_exist" / COMMIT / "sub" / "nope.json").read_bytes() == b""


def test_a_missing_file_that_cannot_be_remembered_is_only_logged(
    folder: RepoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (Path(folder.root) / ".no_exist").write_text("in the way")
    folder.remember_missing(COMMIT, "nope")
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


@pytest.mark.parametrize("occupied", [False, True])
def test_a_file_system_that_refuses_renames_gets_the_file_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, occupied: bool
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(18, "cross-device")

    source, target = stage(tmp_path / "a" / "source", b"new"), tmp_path / "b" / "target"
    target.parent.mkdir()
    if occupied:
        target.write_bytes(b"old")
    monkeypatch.setattr(cache.os, "replace", refuse)
    cache._replace(str(source), str(target))
    assert target.read_bytes() == b"new"
    assert names_below(tmp_path) == {"b/target"}


def test_a_move_that_fails_keeps_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = stage(tmp_path / "source", b"new"), stage(tmp_path / "target", b"old")
    rename = os.rename

    def refuse(a: str, b: str) -> None:
        if str(b) == str(target) and ".new" in str(a):
            raise OSError(5, "no")
        rename(a, b)

    monkeypatch.setattr(cache.os, "replace", lambda a, b: refuse("x.new", str(target)))
    monkeypatch.setattr(cache.os, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        cache._replace(str(source), str(target))
    assert source.read_bytes() == b"new"
    assert target.read_bytes() == b"old"
    assert names_below(tmp_path) == {"source", "target"}


@pytest.mark.parametrize("refused", [False, True], ids=["renames work", "renames are refused"])
def test_a_folder_is_never_replaced_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(18, "cross-device")

    source, theirs = stage(tmp_path / "source", b"new"), stage(tmp_path / "target" / "precious", b"theirs")
    if refused:
        monkeypatch.setattr(cache.os, "replace", refuse)
    with pytest.raises(IsADirectoryError, match="target"):
        cache._replace(str(source), str(theirs.parent))
    assert names_below(tmp_path) == {"source", "target/precious"}


@pytest.mark.skipif(os.name == "nt", reason="symlinks need rights there")
def test_a_link_to_a_folder_is_replaced_and_the_folder_is_not(tmp_path: Path) -> None:
    source, theirs = stage(tmp_path / "source", b"new"), stage(tmp_path / "folder" / "precious", b"theirs")
    link = tmp_path / "link"
    link.symlink_to(theirs.parent)
    cache._replace(str(source), str(link))
    assert link.read_bytes() == b"new"
    assert names_below(tmp_path) == {"link", "folder/precious"}


# ---- local_dir


@pytest.fixture
def local(tmp_path: Path) -> LocalFolder:
    return LocalFolder(str(tmp_path / "local"))


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
    path = Path(local.notes("a"))
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


def test_files_of_one_folder_and_etag_are_staged_under_different_keys(local: LocalFolder) -> None:
    keys = {LocalDirDestination(local, n, COMMIT, ETAG).staging_key for n in ("a", "b", "c.txt")}
    assert len(keys) == 3
    assert all("/" not in key for key in keys)


# ---- any file


def test_a_plain_file_is_present_by_its_digest_or_else_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "f"
    digest = Digest("sha256", hashlib.sha256(b"content").hexdigest())
    assert not FileDestination(path, size=7).is_present()
    path.write_bytes(b"content")
    assert FileDestination(path, size=7).is_present()
    assert FileDestination(path, digest=digest).is_present()
    assert not FileDestination(path).is_present()
    assert not FileDestination(path, size=8).is_present()
    path.write_bytes(b"CONTENT")
    assert not FileDestination(path, size=7, digest=digest).is_present()


def test_staging_keys_of_plain_files_differ_by_name_and_version_and_fit_a_file_name(
    tmp_path: Path,
) -> None:
    names = ("a", "b", "x" * 250)
    keys = [FileDestination(tmp_path / n, v).staging_key for n in names for v in ("1", "2")]
    assert len(set(keys)) == 6
    assert max(map(len, keys)) < 200


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("sha256", "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"),
        ("git-sha1", "6b584e8ece562ebffc15d38808cd6b98fc3d97ea"),
    ],
)
def test_a_file_hashes_as_git_and_sha256sum_say(tmp_path: Path, algorithm: str, expected: str) -> None:
    path = stage(tmp_path / "f", b"content")
    assert digest_of(path, algorithm).value == expected


def test_hashing_ends_when_halted(tmp_path: Path) -> None:
    halt = Halt()
    halt.set()
    with pytest.raises(HaltedError):
        digest_of(stage(tmp_path / "f"), "sha256", halt.check)


# ---- what cannot be written, and what cannot be placed


@pytest.mark.parametrize(
    "why", ["its name is taken by a folder", "its name is too long", "its folder is a file"]
)
def test_a_note_that_cannot_be_written_is_a_warning_and_the_file_is_in_place(
    local: LocalFolder, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    name = "n" * 250 if "too long" in why else "sub/model.bin"
    staged = stage(Path(local.root) / "staged")
    if "taken" in why:
        os.makedirs(local.notes(name))
    elif "file" in why:
        stage(Path(os.path.dirname(local.notes(name))))
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
    note = Path(local.notes("a.bin"))
    assert local.read_metadata("a.bin") is not None
    if what == "a link":
        note.rename(tmp_path / "elsewhere")
        note.symlink_to(tmp_path / "elsewhere")
    else:
        note.unlink()
        os.mkfifo(note)
    assert local.read_metadata("a.bin") is None


@pytest.mark.skipif(os.name == "nt", reason="symlinks need rights there")
def test_a_marker_is_not_made_through_a_link(folder: RepoFolder, tmp_path: Path) -> None:
    marker = Path(folder.root) / ".no_exist" / COMMIT / "a.json"
    marker.parent.mkdir(parents=True)
    marker.symlink_to(tmp_path / "elsewhere")
    folder.remember_missing(COMMIT, "a.json")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("new/file", None),
        ("file", None),
        ("link", None),
        ("folder", IsADirectoryError),
        ("file/below", FileExistsError),
        ("file/far/below", FileExistsError),
        pytest.param("pipe", FileExistsError, marks=needs_pipes),
        ("n" * 256, OSError),
        ("new/" + "ж" * 128, OSError),
    ],
)
def test_where_no_file_can_be_is_known_before_it_is_fetched(
    tmp_path: Path, path: str, expected: type[OSError] | None
) -> None:
    stage(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    if "new" in path and expected is not None:
        (tmp_path / "new").mkdir()
    if path == "pipe":
        os.mkfifo(tmp_path / path)
    if expected is None:
        require_place(tmp_path / path)
        return
    with pytest.raises(expected) as caught:
        require_place(tmp_path / path)
    if expected is FileExistsError:
        assert caught.value.filename == str(tmp_path / path.partition("/")[0])


@needs_pipes
@pytest.mark.parametrize("kind", ["link in a cache", "file in a cache", "local_dir", "file", "handed over"])
def test_nothing_takes_the_place_of_a_pipe_that_was_made_while_its_file_was_fetched(
    tmp_path: Path, local: LocalFolder, kind: str
) -> None:
    folder = RepoFolder(
        str(tmp_path / "hub"), "models--org--name", symlinks=lambda: kind == "link in a cache"
    )
    staged = stage(tmp_path / "hub" / "staged")
    destinations: dict[str, Any] = {
        "local_dir": LocalDirDestination(local, "a/b.bin", COMMIT, ETAG),
        "file": FileDestination(tmp_path / "b.bin"),
        "handed over": HandedOverDestination(tmp_path / "b.bin", staged),
    }
    destination = destinations.get(kind) or BlobDestination(folder, COMMIT, "a/b.bin", ETAG)
    place = Path(folder.blob(ETAG)) if kind == "link in a cache" else destination.path
    place.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(place)
    with pytest.raises(FileExistsError, match="pipe"):
        destination.publish(staged)
    assert stat.S_ISFIFO(os.lstat(place).st_mode)
    assert staged.exists()


@pytest.mark.parametrize("what", ["note", "branch", "link", "file without links", "copy for a local_dir"])
def test_a_kill_before_a_rename_leaves_at_the_most_what_is_swept(
    tmp_path: Path, local: LocalFolder, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = RepoFolder(str(tmp_path / "hub"), "models--org--name", symlinks=lambda: what == "link")
    folder.prepare()
    blob = str(stage(Path(folder.blob(ETAG))))
    local.copy_in(blob, "earlier.bin")
    pointer = folder.pointer(COMMIT, "a.bin")
    other = stage(tmp_path / "other")
    Path(pointer).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(other, pointer)
    known = names_below(tmp_path)
    doings: dict[str, Callable[[], object]] = {
        "note": lambda: local.write_metadata("a.bin", COMMIT, ETAG),
        "branch": lambda: folder.write_ref("main", COMMIT),
        "link": lambda: folder.link(blob, pointer, over=True),
        "file without links": lambda: folder.link(blob, pointer, over=True),
        "copy for a local_dir": lambda: local.copy_in(blob, "a.bin"),
    }

    class Killed(BaseException):
        pass

    def die(*_args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_replace", die)
        patch.setattr(cache, "_discard", lambda _path: None)
        with pytest.raises(Killed):
            doings[what]()
    (left,) = names_below(tmp_path) - known
    monkeypatch.setattr(staging, "is_running", lambda _pid: False)
    staging.sweep((tmp_path / left).parent, {})
    assert os.path.lexists(tmp_path / left)  # somebody on another host may be at it
    os.utime(tmp_path / left, (1, 1), follow_symlinks=False)
    staging.sweep((tmp_path / left).parent, {})
    assert names_below(tmp_path) == known
    staged_in = {tmp_path / "hub" / "models--org--name" / "blobs", Path(local.notes("a.bin")).parent}
    assert (tmp_path / left).parent in staged_in  # which downloads sweep


@pytest.mark.parametrize("killed_at", range(1, 6))
def test_a_kill_while_permissions_are_looked_at_leaves_at_the_most_what_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    calls = 0

    class Killed(BaseException):
        pass

    class Mortal:
        def __getattr__(self, name: str) -> Any:
            real = getattr(os, name)
            if name not in {"open", "unlink", "fstat", "close"}:
                return real

            def call(*args: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls >= killed_at:
                    raise Killed
                return real(*args)

            return call

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(cache, "os", Mortal())
        cache._probe_mode(str(tmp_path))
    names = [path.name for path in tmp_path.iterdir()]
    assert all(re.fullmatch(r"\.probe\.[0-9a-f]{8}\.haul\.incomplete", name) for name in names)
    assert len(names) == (killed_at == 2)


@pytest.mark.parametrize("letter", ["a", "ж", "模", "😀"])
def test_a_file_of_the_longest_name_has_a_key_that_fits(tmp_path: Path, letter: str) -> None:
    for count in range(1, 256 // len(letter.encode()) + 1):
        file = tmp_path / (letter * count)[: 255 // len(letter.encode())]
        key = FileDestination(file, "version").staging_key
        assert len(f"{key}.01234567.sealed.incomplete".encode()) <= 255
    destination = FileDestination(file, "version")
    destination.publish(stage(tmp_path / f"{key}.01234567.sealed.incomplete"))
    assert file.read_bytes() == b"content"


def test_keys_that_fitted_before_are_what_they_were(tmp_path: Path) -> None:
    """What version 0.1.0 left staged is found again."""
    for name in ["a.bin", "a" * 250, "ж" * 105, "模" * 70]:
        version = hashlib.sha256(f"{name}\0v".encode()).hexdigest()[:16]
        assert FileDestination(tmp_path / name, "v").staging_key == f"{name[:140]}.{version}"


def test_long_etags_have_keys_that_fit(folder: RepoFolder, local: LocalFolder, tmp_path: Path) -> None:
    etag = "e" * 200
    keys = [
        BlobDestination(folder, COMMIT, "a", etag).staging_key,
        LocalDirDestination(local, "a", COMMIT, etag).staging_key,
        HandedOverDestination(tmp_path / "a", tmp_path / f"{'h' * 240}.incomplete").staging_key,
    ]
    assert all(len(f"{key}.01234567.sealed.incomplete") <= 255 for key in keys)
    assert keys[0] == etag
    assert keys[1] != LocalDirDestination(local, "a", COMMIT, "f" * 200).staging_key


# ---- files of the wrong size

CONTENT = b"content"
GIT_SHA1 = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


def sized(folder: RepoFolder, size: int | None, name: str = "a.bin") -> BlobDestination:
    return BlobDestination(folder, COMMIT, name, GIT_SHA1, size)


@pytest.mark.parametrize("symlinks", [True, False], ids=["symlinks", "no symlinks"])
@pytest.mark.parametrize("change", [b"", b"cont", b"content and more"])
def test_a_file_of_another_size_than_was_announced_is_not_present_and_is_replaced(
    tmp_path: Path, symlinks: bool, change: bytes
) -> None:
    folder = RepoFolder(str(tmp_path / "hub"), "models--org--name", symlinks=lambda: symlinks)
    folder.prepare()
    destination = sized(folder, len(CONTENT))
    destination.publish(stage(destination.staging_dir / "staged"))
    assert destination.is_linked()
    destination.path.write_bytes(change)  # through the link: a disk that was full, or a program
    assert not destination.is_linked()
    assert not destination.is_present()
    destination.publish(stage(destination.staging_dir / "staged"))
    assert destination.path.read_bytes() == CONTENT
    assert destination.is_linked()


def test_a_pointer_of_the_wrong_size_leads_to_the_right_blob_again(folder: RepoFolder) -> None:
    destination = sized(folder, len(CONTENT))
    destination.publish(stage(destination.staging_dir / "staged"))
    destination.path.unlink()
    stage(destination.path, b"a copy that was cut")
    assert destination.is_present()
    assert destination.path.is_symlink()
    assert destination.path.read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [0, 3, 1000])
def test_a_file_of_the_right_digest_is_present_whatever_size_was_announced(
    folder: RepoFolder, announced: int
) -> None:
    destination = sized(folder, announced)
    destination.publish(stage(destination.staging_dir / "staged"))
    assert not destination.is_linked()
    checked = []
    assert destination.is_present(lambda: checked.append(1))
    assert checked, "a look that takes long can be ended"


def test_a_look_at_a_file_costs_one_stat(folder: RepoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = sized(folder, len(CONTENT))
    destination.publish(stage(destination.staging_dir / "staged"))
    real, looks = os.stat, []

    def look(path: Any, *args: Any, **more: Any) -> os.stat_result:
        looks.append(path)
        return real(path, *args, **more)

    monkeypatch.setattr(os, "stat", look)
    assert destination.is_linked()
    assert looks == [str(destination.path)]


# ---- which other staged files belong to a place


def test_a_link_that_was_signed_anew_has_the_same_key_and_the_former_one_is_known(tmp_path: Path) -> None:
    place = FileDestination(tmp_path / "a.bin", "url", former_versions=("url?signature",))
    assert place.former_keys == (FileDestination(tmp_path / "a.bin", "url?signature").staging_key,)
    assert FileDestination(tmp_path / "a.bin", "url").former_keys == ()


def test_keys_that_did_not_fit_are_former_ones(
    tmp_path: Path, folder: RepoFolder, local: LocalFolder
) -> None:
    name = "ж" * 110
    place = FileDestination(tmp_path / name, "v")
    assert place.former_keys == (f"{name}.{place.staging_key[-16:]}",)
    etag = "e" * 200
    assert LocalDirDestination(local, "a", COMMIT, etag).former_keys[0].endswith(etag)
    assert BlobDestination(folder, COMMIT, "a", etag).former_keys == ()
    assert HandedOverDestination(tmp_path / "a", tmp_path / "k.incomplete").former_keys == ()


def test_a_place_knows_other_versions_of_its_file_and_no_other_file(
    tmp_path: Path, folder: RepoFolder, local: LocalFolder
) -> None:
    def keys(make: Callable[[str, str], Any]) -> tuple[Any, list[str]]:
        return make("a.bin", "1"), [
            make(*each).staging_key for each in [("a.bin", "2"), ("b.bin", "1"), ("a", "1")]
        ]

    for make, expected in [
        (lambda name, version: FileDestination(tmp_path / name, version), [True, False, False]),
        (lambda name, version: LocalDirDestination(local, name, COMMIT, version), [True, False, False]),
        (lambda name, version: BlobDestination(folder, COMMIT, name, version), [False, False, False]),
    ]:
        place, others = keys(make)
        assert [place.replaces(other) for other in others] == expected
    long = FileDestination(tmp_path / ("n" * 200), "1")
    assert not long.replaces(FileDestination(tmp_path / ("n" * 201), "1").staging_key), (
        "no telling whose it is"
    )
    assert not HandedOverDestination(tmp_path / "a", tmp_path / "k.incomplete").replaces("k")


def test_locks_are_where_huggingface_hub_has_them(
    tmp_path: Path, folder: RepoFolder, local: LocalFolder
) -> None:
    blob = BlobDestination(folder, COMMIT, "a.bin", ETAG)
    assert blob.upstream_lock == Path(folder.cache_dir, ".locks", "models--org--name", f"{ETAG}.lock")
    noted = LocalDirDestination(local, "sub/a.bin", COMMIT, ETAG)
    assert noted.upstream_lock == Path(local.root, ".cache/huggingface/download/sub/a.bin.lock")
    from huggingface_hub._local_folder import get_local_download_paths

    theirs = get_local_download_paths(Path(local.root), "sub/a.bin")
    assert theirs.lock_path == noted.upstream_lock
    assert theirs.incomplete_path(ETAG).name == f"{noted.staging_key}.incomplete"
    assert FileDestination(tmp_path / "a").upstream_lock is None
    assert HandedOverDestination(tmp_path / "a", tmp_path / "k.incomplete").upstream_lock is None


def test_names_in_more_folders_than_can_be_made_are_refused() -> None:
    deep = "d/" * 255
    require_safe_path(f"{deep}x")
    require_safe_commit(f"{deep}x")
    for refuse in (require_safe_path, require_safe_commit):
        with pytest.raises(UnsafePathError, match="in more than 255 folders"):
            refuse(f"{deep}d/x")
