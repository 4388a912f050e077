"""What a power failure may take, by the order of the calls that a system gets."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import WEIGHTS, serve_files
from tests.support.repos import random_bytes
from tests.support.wire import BOUND, until

from hf_haul.config import MiB
from hf_haul.localhub.testing.faults import Stall
from hf_haul.storage import flushing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

MANY = {f"small/{number}.bin": random_bytes(1000, number) for number in range(40)}
FEW = {"a.bin": b"a" * 1000, "b.bin": b"b" * 1000}
LARGE = {"large.bin": random_bytes(5 * MiB, 99)}


class Calls:
    """Renames and flushes, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        self.broken = ""
        self._replace, self._fsync = os.replace, os.fsync
        self._whole = flushing._flush_file_system
        monkeypatch.setattr(os, "replace", self.replace)
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(flushing, "_flush_file_system", self.whole)

    def replace(self, source: Any, target: Any) -> None:
        self._replace(source, target)
        self.made.append(("named", os.path.basename(target)))

    def fsync(self, fd: int) -> None:
        self._fsync(fd)
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        self.made.append(("flushed", name))
        if name == self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def whole(self, path: str) -> bool:
        self.made.append(("flushed", "all"))
        return self._whole(path)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.made]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def fetch(folder: Path, files: dict[str, bytes], *, durable: bool = True) -> dict[str, BaseException]:
    """Download files; returns what failed."""
    with serve_files(folder / "out", more=files) as rig:
        rig.folder.mkdir()
        return rig.fetch(*files, durable=durable).errors


def test_many_small_files_are_flushed_at_once_after_the_last_has_its_name(
    tmp_path: Path, calls: Calls
) -> None:
    assert not fetch(tmp_path, MANY)
    assert calls.kinds() == ["named"] * len(MANY) + ["flushed"]


def test_a_few_small_files_are_flushed_each_after_the_last_has_its_name(tmp_path: Path, calls: Calls) -> None:
    assert not fetch(tmp_path, FEW)
    assert calls.kinds()[:2] == ["named"] * 2
    assert {name for kind, name in calls.made if kind == "flushed"} >= {"a.bin", "b.bin"}


def test_a_large_file_is_flushed_before_it_has_its_name(tmp_path: Path, calls: Calls) -> None:
    assert not fetch(tmp_path, LARGE)
    assert calls.kinds()[:2] == ["flushed", "named"]


def test_nothing_is_flushed_where_durability_is_not_wanted(tmp_path: Path, calls: Calls) -> None:
    assert not fetch(tmp_path, {**MANY, **LARGE}, durable=False)
    assert set(calls.kinds()) == {"named"}


def test_a_small_file_that_the_disk_does_not_take_has_failed_and_is_not_there(
    tmp_path: Path, calls: Calls
) -> None:
    calls.broken = "a.bin"
    errors = fetch(tmp_path, FEW)
    assert {path: type(error) for path, error in errors.items()} == {"a.bin": OSError}
    assert [path.name for path in tmp_path.rglob("[ab].bin")] == ["b.bin"]


def test_who_cancels_does_not_wait_for_the_disk(tmp_path: Path, calls: Calls) -> None:
    with serve_files(tmp_path / "out", more=MANY) as rig:
        rig.folder.mkdir()
        rig.hub.faults.add(Stall(), kind="cdn", path=WEIGHTS, times=None)
        with rig.manager(durable=True, stall_timeout=BOUND, first_byte_timeout=BOUND) as manager:
            handle = manager.submit([rig.request(path) for path in (*MANY, WEIGHTS)], model_id="org/m")
            until(lambda: len(calls.made) == len(MANY), "the small files")
            handle.cancel()
            assert handle.wait(BOUND)
        rig.hub.faults.release()
    assert set(calls.kinds()) == {"named"}
