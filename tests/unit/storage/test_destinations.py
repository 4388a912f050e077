from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.storage import COMMIT, ETAG, needs_pipes, stage

from hf_haul.errors import UnsafePathError
from hf_haul.storage.destinations import (
    BlobDestination,
    FileDestination,
    LocalDirDestination,
    UpstreamDestination,
)
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.repairing import RepairDestination
from hf_haul.task import Digest


def test_a_file_whose_name_on_disk_is_no_text_has_a_key(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"gr\xf6\xdfe.bin")
    key = FileDestination(file, "v").staging_key
    assert key != FileDestination(tmp_path / "gr.bin", "v").staging_key
    stage(tmp_path / f"{key}.haul.incomplete")


def test_every_door_into_a_repo_folder_checks_names(folder: RepoFolder) -> None:
    for call in (
        lambda: folder.pointer(COMMIT, "../x"),
        lambda: folder.pointer("../x", "a"),
        lambda: folder.blob("../x"),
        lambda: folder.write_ref("../../x", COMMIT),
        lambda: folder.note_absent(COMMIT, "../x"),
        lambda: folder.note_absent("..", "x"),
        lambda: BlobDestination(folder, COMMIT, "../x", ETAG),
        lambda: BlobDestination(folder, COMMIT, "x", "../" + ETAG),
        lambda: LocalDirDestination(LocalFolder("/nowhere"), "../x", COMMIT, ETAG),
        lambda: LocalDirDestination(LocalFolder("/nowhere"), "x", COMMIT, "a/b"),
    ):
        with pytest.raises(UnsafePathError):
            call()


@pytest.mark.parametrize("name", ["a.json", "folder/a.json", "folder//a.json", "folder/./a.json"])
def test_a_destination_is_the_same_place_as_text_and_as_a_path(tmp_path: Path, name: str) -> None:
    folder = RepoFolder(str(tmp_path / "hub"), "models--a")
    blob = BlobDestination(folder, COMMIT, name, ETAG)
    assert os.fspath(blob) == folder.pointer(COMMIT, name)
    for each in (
        blob,
        LocalDirDestination(LocalFolder(str(tmp_path / "local")), name, COMMIT, ETAG),
        FileDestination(tmp_path / name),
        UpstreamDestination(tmp_path / name, tmp_path / "staged.incomplete"),
        RepairDestination(blob, None, None),
    ):
        assert Path(each) == each.path


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


def test_files_of_one_folder_and_etag_are_staged_under_different_keys(local: LocalFolder) -> None:
    keys = {LocalDirDestination(local, n, COMMIT, ETAG).staging_key for n in ("a", "b", "c.txt")}
    assert len(keys) == 3
    assert all("/" not in key for key in keys)


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
        "handed over": UpstreamDestination(tmp_path / "b.bin", staged),
    }
    destination = destinations.get(kind) or BlobDestination(folder, COMMIT, "a/b.bin", ETAG)
    place = Path(folder.blob(ETAG)) if kind == "link in a cache" else destination.path
    place.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(place)
    with pytest.raises(FileExistsError, match="pipe"):
        destination.publish(staged)
    assert stat.S_ISFIFO(os.lstat(place).st_mode)
    assert staged.exists()


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
        UpstreamDestination(tmp_path / "a", tmp_path / f"{'h' * 240}.incomplete").staging_key,
    ]
    assert all(len(f"{key}.01234567.sealed.incomplete") <= 255 for key in keys)
    assert keys[0] == etag
    assert keys[1] != LocalDirDestination(local, "a", COMMIT, "f" * 200).staging_key


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


def test_the_bytes_are_found_in_the_snapshot_or_as_a_blob_of_the_right_size(folder: RepoFolder) -> None:
    destination = sized(folder, len(CONTENT))
    assert destination.found() is None
    destination.publish(stage(destination.staging_dir / "staged"))
    assert destination.found() == os.fspath(destination.path)
    destination.path.unlink()
    assert destination.found() == folder.blob(destination.etag)
    Path(folder.blob(destination.etag)).write_bytes(CONTENT[:-1])
    assert destination.found() is None


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
    assert UpstreamDestination(tmp_path / "a", tmp_path / "k.incomplete").former_keys == ()


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
    assert not UpstreamDestination(tmp_path / "a", tmp_path / "k.incomplete").replaces("k")


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
    assert UpstreamDestination(tmp_path / "a", tmp_path / "k.incomplete").upstream_lock is None
