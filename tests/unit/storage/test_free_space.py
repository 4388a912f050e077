"""Whether a download fits, asked once for all of its files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import pytest
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import MiB
from hf_haul.errors import DiskFullError
from hf_haul.storage import free_space as disk
from hf_haul.storage import staged_names
from hf_haul.storage.claiming import claim
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.storage.free_space import check_space, have_room, space_needed
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.task import Destination, FileRequest, RemoteFile

SIZE = 16 * MiB
COMMIT = "a" * 40


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def never_asked() -> NoReturn:
    raise AssertionError("the rough number was enough")


def wanted(folder: Path, name: str, size: int | None) -> FileRequest:
    return request(MemoryDestination(folder, name), FakeSource(b""), size=size)


def fetched_to(destination: Destination, name: str, size: int = SIZE, *, fresh: bool = False) -> FileRequest:
    return FileRequest(RemoteFile(name, f"http://source.test/{name}", size), destination, fresh=fresh)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: Usage(10_000, 9_000, 1_000))


@pytest.mark.usefixtures("free")
def test_folders_have_room_where_each_file_system_could_take_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "not" / "there", tmp_path]
    assert have_room(folders, 1_000)
    assert not have_room(folders, 1_001)
    assert have_room([], 1 << 60), "nothing goes anywhere"

    def refuse(_place: Path) -> NoReturn:
        raise OSError("a file system that does not say")

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    assert not have_room(folders, 1)


@pytest.mark.usefixtures("free")
def test_what_fits_passes_without_counting_out_what_others_write_or_a_look_at_what_is_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "space_needed", lambda _requests: never_asked())
    check_space([wanted(tmp_path, "a", 600), wanted(tmp_path, "b", None)], 400, never_asked, "strict")


@pytest.mark.usefixtures("free")
def test_what_fits_beside_what_others_really_write_passes(tmp_path: Path) -> None:
    check_space([wanted(tmp_path, "a", 600)], 5_000, lambda: [wanted(tmp_path, "b", 400)], "strict")


@pytest.mark.usefixtures("free")
def test_folders_of_one_disk_are_added_up_and_the_error_says_everything(tmp_path: Path) -> None:
    needed = [wanted(tmp_path / "a", "x", 600), wanted(tmp_path / "b" / "c", "x", 401)]
    with pytest.raises(DiskFullError, match="1001 bytes are to be fetched but 1000 are free") as caught:
        check_space(needed, 0, list, "strict")
    assert "HF_HAUL_DISK_CHECK=warn" in str(caught.value)
    with pytest.warns(UserWarning, match="1001 bytes"):
        check_space(needed, 0, list, "warn")
    check_space(needed, 0, never_asked, "off")


@pytest.mark.usefixtures("free")
def test_what_others_are_still_going_to_write_counts(tmp_path: Path) -> None:
    with pytest.raises(
        DiskFullError, match="600 bytes are to be fetched, and 401 bytes of running downloads"
    ):
        check_space([wanted(tmp_path, "a", 600)], 401, lambda: [wanted(tmp_path, "b", 401)], "strict")


@pytest.mark.usefixtures("free")
def test_what_others_write_to_another_disk_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    real = os.stat

    def on_two_disks(path: Any, **options: Any) -> Any:
        found = real(path, **options)
        return SimpleNamespace(st_dev=1 if Path(path) == there else 2, st_mode=found.st_mode)

    monkeypatch.setattr(os, "stat", on_two_disks)
    check_space([wanted(here, "a", 600)], 5_000, lambda: [wanted(there, "b", 5_000)], "strict")
    with pytest.raises(DiskFullError, match=f"{here}: 600 bytes are to be fetched, and 401 bytes"):
        check_space([wanted(here, "a", 600)], 5_401, lambda: [wanted(here, "b", 401)], "strict")


@pytest.mark.usefixtures("free")
def test_a_blob_that_others_are_about_to_bring_needs_its_room_once(tmp_path: Path) -> None:
    folder = RepoFolder(str(tmp_path), "models--org--m")
    asked, running = (
        fetched_to(BlobDestination(folder, commit, "a.bin", "etag"), "a.bin", size=900)
        for commit in (COMMIT, "b" * 40)
    )
    check_space([asked], 900, lambda: [running], "strict")


def test_a_resume_passes_where_only_the_rest_of_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = SIZE // 2
    (tmp_path / "a.bin.seq.incomplete").write_bytes(b"x" * half)
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: Usage(2 * SIZE, SIZE, half))
    check_space([wanted(tmp_path, "a.bin", SIZE)], 0, never_asked, "strict")
    with pytest.raises(DiskFullError, match=f"{SIZE} bytes are to be fetched"):
        check_space([wanted(tmp_path, "b.bin", SIZE)], 0, list, "strict")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("{key}.haul.incomplete", id="at offsets"),
        pytest.param("{key}.seq.incomplete", id="in order"),
        pytest.param("{key}.0badc0de.haul.incomplete", id="at offsets, killed while it was adopted"),
        pytest.param("{key}.0badc0de.seq.incomplete", id="in order, killed while it was adopted"),
        pytest.param("{key}.0badc0de.sealed.incomplete", id="killed while it was published"),
    ],
)
@pytest.mark.parametrize(
    "destination",
    [
        pytest.param(lambda folder: MemoryDestination(folder, "a.bin"), id="any file"),
        pytest.param(
            lambda folder: BlobDestination(
                RepoFolder(str(folder), "models--o--m"), COMMIT, "a.bin", "e" * 64
            ),
            id="cache",
        ),
        pytest.param(
            lambda folder: LocalDirDestination(LocalFolder(str(folder)), "sub/a.bin", COMMIT, "e" * 64),
            id="local folder",
        ),
    ],
)
def test_what_is_staged_already_needs_no_more_room_whatever_its_name(
    tmp_path: Path, destination: Callable[[Path], Destination], name: str
) -> None:
    to = destination(tmp_path)
    asked = fetched_to(to, "a.bin")
    assert space_needed([asked]) == SIZE
    to.staging_dir.mkdir(parents=True, exist_ok=True)
    path = to.staging_dir / name.format(key=to.staging_key)
    path.write_bytes(b"x" * (4 * MiB))
    assert space_needed([asked]) == SIZE - 4 * MiB
    (to.staging_dir / f"{to.staging_key}.01234567.haul.incomplete").write_bytes(b"x" * (2 * SIZE))
    assert space_needed([asked]) == 0  # never less than nothing: another file would seem to fit


def test_a_hole_in_a_staged_file_still_needs_its_room(tmp_path: Path) -> None:
    staged = claim(tmp_path, "a.bin", SIZE)
    staged.write(SIZE - 4 * MiB, memoryview(b"x" * (4 * MiB)))
    staged.record(SIZE - 4 * MiB, SIZE)
    staged.close()
    if not hasattr(os.stat(staged.path), "st_blocks"):
        pytest.skip("this system does not tell holes")
    # The header and the journal take a block or two.
    assert SIZE - 5 * MiB < space_needed([wanted(tmp_path, "a.bin", SIZE)]) <= SIZE - 4 * MiB


def test_one_staged_file_under_two_names_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "a.bin.seq.incomplete"
    path.write_bytes(b"x" * (4 * MiB))
    os.link(path, tmp_path / "a.bin.0badc0de.seq.incomplete")
    assert space_needed([wanted(tmp_path, "a.bin", SIZE)]) == SIZE - 4 * MiB


def test_a_folder_is_listed_once_for_all_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []

    def list_it(folder: Path) -> dict[str, list[Path]]:
        listed.append(folder)
        return staged_names.scan_orphans(folder)

    monkeypatch.setattr(disk, "scan_orphans", list_it)
    asked = [wanted(tmp_path, f"{i}.bin", SIZE) for i in range(50)]
    assert space_needed(asked) == 50 * SIZE
    assert listed == [tmp_path]


@pytest.mark.parametrize(
    ("symlinks", "fresh", "there", "copies"),
    [
        pytest.param(True, False, False, 1, id="one blob, three links to it"),
        pytest.param(True, False, True, 0, id="the blob is there, three links to it"),
        pytest.param(True, True, False, 2, id="anew: the next copy is whole before it replaces the last"),
        pytest.param(True, True, True, 1, id="anew: beside the blob that is there"),
        pytest.param(False, False, False, 3, id="without symlinks every path has its bytes"),
        pytest.param(False, False, True, 3, id="without symlinks a blob that is there is copied"),
    ],
)
def test_files_of_one_content_need_as_much_room_as_there_will_be_copies(
    tmp_path: Path, symlinks: bool, fresh: bool, there: bool, copies: int
) -> None:
    folder = RepoFolder(str(tmp_path), "models--org--m", symlinks=lambda: symlinks)
    folder.prepare()
    if there:
        Path(folder.blob("etag")).write_bytes(b"x")
    names = ["a.bin", "b/a.bin", "c.bin"]
    asked = [fetched_to(BlobDestination(folder, COMMIT, name, "etag"), name, fresh=fresh) for name in names]
    other = fetched_to(BlobDestination(folder, COMMIT, "d.bin", "other"), "d.bin", size=1000)
    assert space_needed([*asked, other]) == copies * SIZE + 1000


def test_files_of_one_content_in_a_local_folder_are_fetched_each_and_need_room_each(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    asked = [
        fetched_to(LocalDirDestination(folder, name, COMMIT, "etag"), name)
        for name in ("a.bin", "b.bin", "c/a.bin")
    ]
    assert space_needed(asked) == 3 * SIZE


def test_what_is_staged_of_a_file_that_is_wanted_twice_is_subtracted_once(tmp_path: Path) -> None:
    folder = RepoFolder(str(tmp_path), "models--org--m", symlinks=lambda: False)
    folder.prepare()
    Path(folder.blobs, "etag.seq.incomplete").write_bytes(b"x" * (4 * MiB))
    asked = [fetched_to(BlobDestination(folder, COMMIT, name, "etag"), name) for name in ("a.bin", "b.bin")]
    assert space_needed(asked) == 2 * SIZE - 4 * MiB
    assert space_needed([replace(each, fresh=True) for each in asked]) == 2 * SIZE - 4 * MiB
