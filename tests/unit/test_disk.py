"""Whether a download fits, asked once for all of its files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import MiB
from hf_haul.disk import check_space, space_needed
from hf_haul.errors import DiskFullError
from hf_haul.staging import claim


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def never_asked() -> int:
    raise AssertionError("the rough number was enough")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: Usage(10_000, 9_000, 1_000))


@pytest.mark.usefixtures("free")
def test_what_fits_passes_without_counting_out_what_others_write(tmp_path: Path) -> None:
    check_space({tmp_path: 600}, 400, never_asked, "strict")


@pytest.mark.usefixtures("free")
def test_what_fits_beside_what_others_really_write_passes(tmp_path: Path) -> None:
    check_space({tmp_path: 600}, 5_000, lambda: 400, "strict")


@pytest.mark.usefixtures("free")
def test_folders_of_one_disk_are_added_up_and_the_error_says_everything(tmp_path: Path) -> None:
    needed = {tmp_path / "a": 600, tmp_path / "b" / "c": 401}
    with pytest.raises(DiskFullError, match="1001 bytes are to be fetched but 1000 are free") as caught:
        check_space(needed, 0, lambda: 0, "strict")
    assert "HF_HAUL_DISK_CHECK=warn" in str(caught.value)
    with pytest.warns(UserWarning, match="1001 bytes"):
        check_space(needed, 0, lambda: 0, "warn")
    check_space(needed, 0, never_asked, "off")


@pytest.mark.usefixtures("free")
def test_what_others_are_still_going_to_write_counts(tmp_path: Path) -> None:
    with pytest.raises(
        DiskFullError, match="600 bytes are to be fetched, and 401 bytes of running downloads"
    ):
        check_space({tmp_path: 600}, 401, lambda: 401, "strict")


def test_what_is_staged_already_needs_no_more_room(tmp_path: Path) -> None:
    size = 16 * MiB
    wanted = request(MemoryDestination(tmp_path, "a.bin"), FakeSource(b""), size=size)
    assert space_needed([wanted]) == {tmp_path: size}
    staged = claim(tmp_path, "a.bin", size)
    staged.write(0, memoryview(bytes(b"x" * (4 * MiB))))
    staged.record(0, 4 * MiB)
    staged.close()
    assert space_needed([wanted])[tmp_path] <= size - 4 * MiB
