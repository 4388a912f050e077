"""Bytes of blobs, wherever they are at the moment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.storage import DATA, SIZE, put

from hf_haul.cluster.holdings import Holdings, NotHeldError
from hf_haul.ranges import ByteRange
from hf_haul.storage.claiming import claim
from hf_haul.storage.staged_file import StagedFile

ETAG = "e" * 64


@pytest.fixture
def staged(tmp_path: Path) -> Iterator[StagedFile]:
    with closing(claim(tmp_path / "blobs", ETAG, SIZE)) as made:
        yield made


def holdings(place: Path, *staged: StagedFile) -> Holdings:
    paths = ["a.bin", "copy of a.bin"]
    there = dict(zip(paths[1:], staged, strict=False))
    return Holdings({ETAG: paths}, lambda _etag: SIZE, lambda _path: place, lambda: there)


def read(held: Holdings, start: int, stop: int) -> bytes:
    with closing(held.open(ETAG, ByteRange(start, stop))) as found:
        found.file.seek(start)
        data = found.file.read(stop - start)
        assert hashlib.sha256(data).digest() == found.sha256
        return data


def test_a_staged_range_is_handed_out_and_what_is_missing_is_not(tmp_path: Path, staged: StagedFile) -> None:
    put(staged, 100, 300)
    held = holdings(tmp_path / "nothing", staged)
    assert read(held, 100, 300) == DATA[100:300]
    assert read(held, 150, 160) == DATA[150:160]
    for start, stop in [(99, 200), (200, 301), (0, SIZE)]:
        with pytest.raises(NotHeldError):
            held.open(ETAG, ByteRange(start, stop))


def test_a_file_in_place_is_handed_out_if_it_has_the_right_size(tmp_path: Path) -> None:
    place = tmp_path / "a.bin"
    held = holdings(place)
    assert not held.is_in_place(ETAG)
    place.write_bytes(DATA[:-1])
    assert not held.is_in_place(ETAG)
    with pytest.raises(NotHeldError):
        held.open(ETAG, ByteRange(0, 10))
    place.write_bytes(DATA)
    assert held.is_in_place(ETAG)
    assert read(held, 0, SIZE) == DATA


def test_a_folder_or_a_pipe_in_its_place_is_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(NotHeldError):
            holdings(tmp_path / name).open(ETAG, ByteRange(0, 1))


def test_what_gets_its_final_name_between_two_looks_is_found(tmp_path: Path, staged: StagedFile) -> None:
    put(staged, 0, SIZE)
    place = tmp_path / "a.bin"
    os.rename(staged.path, place)  # the staged file cannot be opened by its name any more
    os.truncate(place, SIZE)
    assert read(holdings(place, staged), 5, 10) == DATA[5:10]


def test_bytes_that_are_taken_back_are_no_longer_handed_out(tmp_path: Path, staged: StagedFile) -> None:
    put(staged, 0, 200)
    held = holdings(tmp_path / "nothing", staged)
    with closing(held.open(ETAG, ByteRange(0, 200))) as under_way:
        assert not under_way.is_withdrawn
        staged.forget([ByteRange(0, 200)])
        assert under_way.is_withdrawn
    with pytest.raises(NotHeldError):
        held.open(ETAG, ByteRange(0, 200))


def test_the_digest_of_a_range_is_taken_once_and_anew_after_it_was_taken_back(
    tmp_path: Path, staged: StagedFile
) -> None:
    put(staged, 0, 200)
    held = holdings(tmp_path / "nothing", staged)
    first = read(held, 0, 200)
    os.pwrite(staged._fd, b"?", 10)  # a disk that changes bytes: who asks finds out
    with closing(held.open(ETAG, ByteRange(0, 200))) as found:
        assert found.sha256 == hashlib.sha256(first).digest()
    staged.forget([ByteRange(0, 200)])
    put(staged, 0, 200)
    assert read(held, 0, 200) == DATA[:200]


def test_what_is_no_blob_of_the_job_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    held = holdings(tmp_path / "secret")
    for name in ("secret", "../secret", "", "f" * 64):
        with pytest.raises(NotHeldError):
            held.open(name, ByteRange(0, 1))
        with pytest.raises(NotHeldError):
            held.size(name)
