from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.storage import DATA, SIZE, abandon, left_behind, put

from hf_haul.storage import (
    ownership,
    sweeping,
)
from hf_haul.storage.claiming import claim
from hf_haul.storage.sweeping import leftover_keys, sweep, sweep_partials_of_upstream


def locked_by(path: Path) -> Any:
    """A destination, as far as it matters here."""
    return SimpleNamespace(upstream_lock=path)


def test_keys_of_what_was_left_are_those_that_a_sweep_would_look_for(tmp_path: Path) -> None:
    for name in (
        "ours.haul.incomplete",
        "ours.01234567.sealed.incomplete",
        "theirs.incomplete",
        "theirs.89abcdef.incomplete",
        ".probe.00000001.haul.incomplete",
        "blob",
    ):
        (tmp_path / name).touch()
    assert leftover_keys(tmp_path) >= {"ours", "theirs", ".probe"}
    assert "blob" not in leftover_keys(tmp_path)
    assert leftover_keys(tmp_path / "nowhere") == set()


@pytest.mark.usefixtures("dead")
def test_sweeping_removes_what_was_left_of_files_in_place_and_nothing_else(tmp_path: Path) -> None:
    sealed = claim(tmp_path, "done", SIZE)
    put(sealed, 0, SIZE)
    sealed.seal(durable=False)
    for key in ("done", "other"):
        staged = claim(tmp_path, key, SIZE)
        put(staged, 0, 10)
        abandon(staged)
    (tmp_path / "done.01234567.incomplete").write_bytes(b"upstream's")
    sweep(tmp_path, {"done": SIZE})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["done.01234567.incomplete", "other.haul.incomplete"]


def test_sweeping_removes_probes_of_processes_that_were_killed(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    names = [f".probe.{pid:08x}.haul.incomplete" for pid in (int(gone.stdout), os.getppid())]
    for name in names:
        (tmp_path / name).touch()
    sweep(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == names[1:]


def test_sweeping_leaves_what_a_living_process_fetches(tmp_path: Path) -> None:
    staged = claim(tmp_path, "done", SIZE)
    put(staged, 0, 10)
    sweep(tmp_path, {"done": SIZE})
    put(staged, 10, SIZE)
    assert staged.seal(durable=False).read_bytes() == DATA


def test_sweeping_removes_other_versions_of_a_file_in_place_unless_somebody_fetches_them(
    tmp_path: Path,
) -> None:
    for key in ("a.bin.1", "a.bin.2", "b.bin.1"):
        left_behind(tmp_path, key=key)
    alive = claim(tmp_path, "a.bin.3", 5 * SIZE)
    alive.write(0, memoryview(DATA))
    alive.record(0, SIZE)
    sweep(tmp_path, {"a.bin.4": SIZE}, lambda key: key.startswith("a.bin."))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.bin.3.haul.incomplete",
        "b.bin.1.haul.incomplete",
    ]
    alive.close()


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere we do not know which file systems are this host's"
)
@pytest.mark.parametrize(
    ("name", "hours", "lock", "removed"),
    [
        pytest.param("etag.incomplete", 25, None, True, id="as older versions call it"),
        pytest.param("etag.0123abcd.incomplete", 25, "free", True, id="as newer versions call it"),
        pytest.param("etag.0123abcd.incomplete", 25, "held", False, id="somebody holds its lock"),
        pytest.param("etag.0123abcd.incomplete", 25, "soft", False, id="somebody holds a lock that is none"),
        pytest.param("etag.0123abcd.incomplete", 25, "link", False, id="its lock is a link"),
        pytest.param("etag.0123abcd.incomplete", 23, "free", False, id="touched today"),
        pytest.param("other.0123abcd.incomplete", 25, "free", False, id="of another file"),
        pytest.param("etag.more.incomplete", 25, "free", False, id="of a file of a longer name"),
    ],
)
def test_what_huggingface_hub_left_goes_only_where_it_is_surely_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hours: int, lock: str | None, removed: bool
) -> None:
    monkeypatch.setattr(sweeping, "keeps_writes", lambda _: True)
    (tmp_path / "blobs").mkdir()
    partial, path = tmp_path / "blobs" / name, tmp_path / "etag.lock"
    partial.write_bytes(b"upstream's")
    at = time.time() - hours * 3600
    os.utime(partial, (at, at))
    if lock == "link":
        (tmp_path / "elsewhere").touch()
        path.symlink_to(tmp_path / "elsewhere")
    elif lock is not None:
        path.write_bytes(b"4711\nhost" if lock == "soft" else b"")
    holder = os.open(path, os.O_RDWR) if lock == "held" else -1
    if lock == "held":
        assert ownership.try_lock(holder)
    sweep_partials_of_upstream(tmp_path / "blobs", {"etag": locked_by(path)})
    assert partial.exists() != removed
    if lock == "held":
        os.close(holder)


@pytest.mark.skipif(sys.platform == "win32", reason="no advisory locks there")
def test_on_a_file_system_of_other_hosts_all_that_huggingface_hub_left_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "keeps_writes", lambda _: False)
    partial = tmp_path / "etag.incomplete"
    partial.touch()
    os.utime(partial, (1, 1))
    sweep_partials_of_upstream(tmp_path, {"etag": locked_by(tmp_path / "etag.lock")})
    assert partial.exists()
