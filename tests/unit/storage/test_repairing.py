from __future__ import annotations

import hashlib
import os
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.repos import random_bytes
from tests.support.storage import COMMIT, stage

from hf_haul.digests import Digest
from hf_haul.errors import StopRequestedError
from hf_haul.ranges import ByteRange
from hf_haul.storage import repairing
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.storage.file_checks import look_at
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.repairing import RepairDestination, stage_what_is_good, trusted_ranges

MiB = 1 << 20
PAGE = 4096
SIZE = 3 * MiB + 100
RIGHT = random_bytes(SIZE, "right")
DIGEST = Digest("sha256", hashlib.sha256(RIGHT).hexdigest())
ETAG = DIGEST.value


# ---- what is worth keeping


@pytest.mark.parametrize(
    ("have", "suspicious", "kept"),
    [
        pytest.param(60, [], [(0, 60)], id="too short: its beginning"),
        pytest.param(10, [], [], id="hardly anything of it: nothing"),
        pytest.param(0, [], [], id="empty: nothing"),
        pytest.param(110, [], [(0, 100)], id="too long: all but what is too much"),
        pytest.param(110, [(0, 20)], [(0, 100)], id="too long: zeros are not at fault"),
        pytest.param(100, [], [], id="no clue: nothing"),
        pytest.param(100, [(0, 20)], [(20, 100)], id="zeros at its start"),
        pytest.param(100, [(40, 50)], [(0, 40), (50, 100)], id="zeros in its middle"),
        pytest.param(60, [(50, 60)], [(0, 50)], id="too short, and zeros at its end"),
        pytest.param(60, [(10, 60)], [(0, 60)], id="too short, and mostly zeros: so it is"),
        pytest.param(100, [(0, 95)], [], id="hardly anything but zeros: nothing"),
    ],
)
def test_what_may_be_right_is_kept(
    have: int, suspicious: list[tuple[int, int]], kept: list[tuple[int, int]]
) -> None:
    unit = MiB  # far apart
    ranges = trusted_ranges(
        have * unit, 100 * unit, [(start * unit, stop * unit) for start, stop in suspicious]
    )
    assert ranges == [ByteRange(start * unit, stop * unit) for start, stop in kept]


def test_zeros_near_each_other_are_one_gap_and_too_many_gaps_are_how_the_file_is() -> None:
    size = 1000 * MiB
    near = [(at, at + PAGE) for at in range(10 * MiB, 20 * MiB, MiB // 2)]
    assert trusted_ranges(size, size, near) == [ByteRange(0, near[0][0]), ByteRange(near[-1][1], size)]
    far = [(at, at + PAGE) for at in range(0, size, 10 * MiB)]
    assert trusted_ranges(size, size, far) == []


def test_an_empty_file_that_has_something_in_it_keeps_nothing() -> None:
    assert trusted_ranges(5, 0, []) == []


# ---- staging it


def _blob_place(folder: RepoFolder, wrong: bytes | None) -> RepairDestination:
    inner = BlobDestination(folder, COMMIT, "model.bin", ETAG, SIZE)
    identity = None
    if wrong is not None:
        stage(Path(folder.blob(ETAG)), wrong)
        folder.link(folder.blob(ETAG), os.fspath(inner.path))
        identity = look_at(os.fspath(inner.path)).identity
    return RepairDestination(inner, DIGEST, identity)


def _staged(place: RepairDestination) -> tuple[list[ByteRange], bytes]:
    """What the engine finds: the ranges that are there, and the bytes."""
    with closing(claim(place.staging_dir, place.staging_key, SIZE)) as staged:
        missing = staged.missing()
        data = bytearray(SIZE)
        for at in range(0, SIZE, MiB):
            part = memoryview(data)[at : at + MiB]
            assert staged.read_into(at, part) == len(part)
    return missing, bytes(data)


def test_what_is_left_of_a_short_file_is_staged_as_an_earlier_download_would_have_left_it(
    folder: RepoFolder,
) -> None:
    place = _blob_place(folder, RIGHT[: 2 * MiB + 5])
    assert stage_what_is_good(os.fspath(place.path), place, SIZE) == 2 * MiB + 5
    missing, data = _staged(place)
    assert missing == [ByteRange(2 * MiB + 5, SIZE)]
    assert data[: 2 * MiB + 5] == RIGHT[: 2 * MiB + 5]
    assert Path(folder.blob(ETAG)).read_bytes() == RIGHT[: 2 * MiB + 5], "the wrong file is as it was"


def test_lost_pages_are_left_out(folder: RepoFolder) -> None:
    at = MiB - PAGE
    place = _blob_place(folder, RIGHT[:at] + bytes(3 * PAGE) + RIGHT[at + 3 * PAGE :])
    assert stage_what_is_good(os.fspath(place.path), place, SIZE) == SIZE - 3 * PAGE
    assert _staged(place)[0] == [ByteRange(at, at + 3 * PAGE)], "also across two reads"


def test_nothing_is_staged_where_nothing_tells_what_is_wrong(folder: RepoFolder) -> None:
    place = _blob_place(folder, b"x" + RIGHT[1:])
    assert stage_what_is_good(os.fspath(place.path), place, SIZE) == 0
    assert os.listdir(place.staging_dir) == [ETAG]


def test_what_cannot_be_read_is_left_out(folder: RepoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    place = _blob_place(folder, RIGHT)
    read_at = repairing.read_at

    def fail(fd: int, offset: int, length: int) -> bytes:
        if offset == MiB:
            raise OSError(5, "Input/output error")
        return read_at(fd, offset, length)

    monkeypatch.setattr(repairing, "read_at", fail)
    assert stage_what_is_good(os.fspath(place.path), place, SIZE) == SIZE - MiB
    assert _staged(place)[0] == [ByteRange(MiB, 2 * MiB)]


def test_another_copy_is_staged_whole(folder: RepoFolder, tmp_path: Path) -> None:
    place = _blob_place(folder, None)
    copy = stage(tmp_path / "copy", bytes(MiB) + RIGHT[MiB:])  # its digest will tell whether it is right
    assert stage_what_is_good(os.fspath(copy), place, SIZE, whole=True) == SIZE
    assert _staged(place)[0] == []


def test_in_order_only_the_beginning_can_be_kept(folder: RepoFolder) -> None:
    place = _blob_place(folder, RIGHT[:MiB] + bytes(PAGE) + RIGHT[MiB + PAGE :])
    assert stage_what_is_good(os.fspath(place.path), place, SIZE, sequential=True) == MiB
    with closing(claim(place.staging_dir, place.staging_key, SIZE, sequential=True)) as staged:
        assert staged.missing() == [ByteRange(MiB, SIZE)]


def test_what_an_interrupted_repair_has_fetched_is_not_overwritten(folder: RepoFolder) -> None:
    place = _blob_place(folder, b"x" * MiB)
    with closing(claim(place.staging_dir, place.staging_key, SIZE)) as staged:
        staged.add(100, memoryview(RIGHT)[100:200])
        staged.record(100, 200)
    assert stage_what_is_good(os.fspath(place.path), place, SIZE) == MiB
    assert _staged(place)[1][99:201] == b"x" + RIGHT[100:200] + b"x"


def test_a_file_that_another_process_is_fetching_is_left_to_it(folder: RepoFolder) -> None:
    place = _blob_place(folder, RIGHT[:MiB])
    with closing(claim(place.staging_dir, place.staging_key, SIZE)), pytest.raises(StagedElsewhereError):
        stage_what_is_good(os.fspath(place.path), place, SIZE)


def test_staging_ends_when_it_is_told_to_and_keeps_what_is_there(folder: RepoFolder) -> None:
    place = _blob_place(folder, RIGHT[: 2 * MiB])
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise StopRequestedError

    with pytest.raises(StopRequestedError):
        stage_what_is_good(os.fspath(place.path), place, SIZE, check=check)
    assert stage_what_is_good(os.fspath(place.path), place, SIZE) == 2 * MiB


# ---- the place


def test_the_file_that_was_found_wrong_is_not_read_again(folder: RepoFolder) -> None:
    place = _blob_place(folder, RIGHT)  # right in truth: were it read, it would be taken
    assert not place.is_present()
    assert place.steps == []


def test_right_bytes_that_came_meanwhile_are_taken_and_linked(folder: RepoFolder) -> None:
    place = _blob_place(folder, None)
    assert not place.is_present()
    stage(Path(folder.blob(ETAG)), RIGHT)
    assert place.is_present()
    assert place.path.read_bytes() == RIGHT
    assert place.path.is_symlink()
    assert place.steps == ["linked"]


@pytest.mark.parametrize("other", [b"x" + RIGHT[1:], RIGHT[:5]], ids=["wrong", "short"])
def test_other_wrong_bytes_that_came_meanwhile_are_not(folder: RepoFolder, other: bytes) -> None:
    place = _blob_place(folder, None)
    stage(Path(folder.blob(ETAG)), other)
    assert not place.is_present()
    assert not place.path.exists()


def test_a_link_to_another_blob_is_replaced(folder: RepoFolder) -> None:
    place = _blob_place(folder, None)
    other = stage(Path(folder.blob("f" * 64)), b"x" * SIZE)
    folder.link(os.fspath(other), os.fspath(place.path))
    place.publish(stage(place.staging_dir / "staged", RIGHT))
    assert place.path.read_bytes() == RIGHT
    assert other.read_bytes() == b"x" * SIZE
    assert place.steps == ["published"]


def test_a_copy_in_the_place_of_a_link_is_replaced(folder: RepoFolder) -> None:
    place = _blob_place(folder, None)
    stage(place.path, b"x" * SIZE)
    place.publish(stage(place.staging_dir / "staged", RIGHT))
    assert place.path.is_symlink()
    assert place.path.read_bytes() == RIGHT


def test_a_blob_that_is_a_link_is_replaced_and_not_written_through(
    folder: RepoFolder, tmp_path: Path
) -> None:
    shared = stage(tmp_path / "store/blob", b"x" * SIZE)
    place = _blob_place(folder, None)
    os.symlink(shared, folder.blob(ETAG))
    folder.link(folder.blob(ETAG), os.fspath(place.path))
    place.publish(stage(place.staging_dir / "staged", RIGHT))
    assert shared.read_bytes() == b"x" * SIZE
    assert not os.path.islink(folder.blob(ETAG))
    assert place.path.read_bytes() == RIGHT


def test_another_name_of_a_repaired_blob_needs_no_reading(
    folder: RepoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _blob_place(folder, b"x" * SIZE)
    inner = BlobDestination(folder, "d" * 40, "model.bin", ETAG, SIZE)
    second = RepairDestination(inner, DIGEST, first.wrong, first.right)
    first.publish(stage(first.staging_dir / "staged", RIGHT))
    monkeypatch.setattr(repairing, "hex_digest", lambda *_, **__: pytest.fail("read again"))
    assert second.is_present()
    assert second.path.read_bytes() == RIGHT


def test_a_file_of_a_local_dir_is_noted(local: LocalFolder) -> None:
    place = RepairDestination(LocalDirDestination(local, "model.bin", COMMIT, ETAG), DIGEST, None)
    assert not place.is_present()
    place.publish(stage(place.staging_dir / "staged", RIGHT))
    noted = local.read_metadata("model.bin")
    assert noted is not None
    assert (noted.commit, noted.etag) == (COMMIT, ETAG)
    os.unlink(local.metadata_path("model.bin"))
    assert place.is_present()
    assert local.read_metadata("model.bin") is not None


def test_without_symlinks_the_file_itself_is_replaced(tmp_path: Path) -> None:
    folder = RepoFolder(str(tmp_path), "models--a", symlinks=lambda: False)
    place = RepairDestination(BlobDestination(folder, COMMIT, "model.bin", ETAG, SIZE), DIGEST, None)
    stage(place.path, b"x" * SIZE)
    place.publish(stage(place.staging_dir / "staged", RIGHT))
    assert place.path.read_bytes() == RIGHT
    assert not place.path.is_symlink()
    assert not os.path.exists(folder.blob(ETAG))
