"""The six invariants of the life of a file, and what a disk that is full or refuses means for them."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.children import Nursery, job_for
from tests.support.engine import PART, SMALL, TOKEN, WEIGHTS, Rig, leftovers, serve_files
from tests.support.full_disk import FullDisk
from tests.support.hub import hub_environment, run_python
from tests.support.repos import random_bytes

from hf_haul.config import DEFAULT_TIMINGS, KiB, MiB, Timings
from hf_haul.errors import DiskFullError, IntegrityError
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.testing.faults import (
    Corrupt,
    Cut,
    IgnoreRange,
    Redirects,
    Reset,
    Stall,
    Status,
    TooLong,
    Trickle,
    WrongRange,
)
from hf_haul.storage import staged_file as staging
from hf_haul.storage.staged_file import StagedFile

TROUBLE = [
    pytest.param([], id="no trouble"),
    pytest.param([Cut(after=1000), Reset(after=30_000), TooLong(500), Stall(after=5000)], id="broken bodies"),
    pytest.param([WrongRange(4096), IgnoreRange(), WrongRange(-5000)], id="wrong ranges"),
    pytest.param([IgnoreRange()] * 50, id="no ranges at all"),
    pytest.param([Corrupt(3 * PART)], id="a wrong byte"),
    pytest.param([Trickle(3000.0)], id="a hedge"),
]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "out") as rig:
        yield rig
        rig.hub.faults.release()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("results")) as nursery:
        yield nursery


def _make_trouble(rig: Rig, faults: list[Any]) -> None:
    rig.tune(worth_hedging=0.2)
    for nth, fault in enumerate(faults):
        if isinstance(fault, Corrupt):
            rig.hub.faults.add(fault, kind="cdn", covers=fault.offset)
        else:
            rig.hub.faults.add(fault, kind="cdn", nth=nth + 1)


@pytest.mark.parametrize("faults", TROUBLE)
def test_bytes_are_written_only_at_their_own_offset_and_writing_them_twice_is_harmless(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, faults: list[Any]
) -> None:
    _make_trouble(rig, faults)
    wrong: list[int] = []
    written = []
    write = StagedFile.write

    def watched(self: StagedFile, offset: int, data: memoryview) -> None:
        source = rig.files[WEIGHTS] if self.size > 1000 else rig.files[SMALL]
        if bytes(data) != source[offset : offset + len(data)]:
            wrong.append(offset)
        written.append(len(data))
        write(self, offset, data)
        write(self, offset, data)

    monkeypatch.setattr(StagedFile, "write", watched)
    outcome = rig.fetch(WEIGHTS, SMALL)
    assert outcome.errors == {}
    assert rig.is_whole(WEIGHTS)
    assert sum(written) >= len(rig.files[WEIGHTS])
    # Only where the source itself sent a wrong byte was one written, at its own offset.
    assert len(wrong) == sum(isinstance(fault, Corrupt) for fault in faults)


@pytest.mark.parametrize("faults", [case for case in TROUBLE if case.id != "a wrong byte"])
def test_the_journal_never_claims_a_byte_that_was_not_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, faults: list[Any]
) -> None:
    _make_trouble(rig, faults)
    claims = []
    record = StagedFile.record

    def watched(self: StagedFile, start: int, stop: int, **more: bool) -> None:
        source = rig.files[WEIGHTS] if self.size > 1000 else rig.files[SMALL]
        claims.append(os.pread(self._fd, stop - start, start) == source[start:stop])
        record(self, start, stop, **more)

    monkeypatch.setattr(StagedFile, "record", watched)
    assert rig.fetch(WEIGHTS, SMALL).errors == {}
    assert claims
    assert all(claims)


def test_the_journal_of_a_killed_process_claims_only_what_is_there(tmp_path: Path, nursery: Nursery) -> None:
    size = 8 * MiB
    with serve_files(tmp_path / "out", weights=size) as rig:
        rig.hub.set_pace(4 * MiB)
        for step in range(1, 5):
            child = nursery.start(
                job_for(rig, rig.request(WEIGHTS, headers={}), part_size=MiB, chunk_size=32 * KiB)
            )
            assert rig.hub.requests.wait_for(lambda _, n=step: rig.sent() > n * size // 6)
            child.kill()
            for name in rig.left:
                raw = (rig.folder / name).read_bytes()
                for start, stop, _crc in struct.iter_unpack(
                    "<QQI", raw[size + 512 :][: (len(raw) - size - 512) // 20 * 20]
                ):
                    assert raw[start:stop] == rig.files[WEIGHTS][start:stop]


def test_a_file_appears_only_by_rename_of_a_verified_staged_file(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = rig.folder / WEIGHTS
    seen: list[bool] = []
    opened: list[str] = []
    real = {name: getattr(os, name) for name in ("rename", "replace", "open")}

    def moved(name: str) -> Any:
        def call(source: Any, destination: Any, *rest: Any, **more: Any) -> None:
            if Path(destination) == target:
                seen.append(Path(source).read_bytes() == rig.files[WEIGHTS] and not target.exists())
            real[name](source, destination, *rest, **more)

        return call

    def opening(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            opened.append(os.fspath(path))
        fd: int = real["open"](path, flags, *rest, **more)
        return fd

    monkeypatch.setattr(os, "rename", moved("rename"))
    monkeypatch.setattr(os, "replace", moved("replace"))
    monkeypatch.setattr(os, "open", opening)
    rig.hub.faults.add(Corrupt(2 * PART), kind="cdn", covers=2 * PART)
    assert rig.fetch(WEIGHTS).errors == {}
    assert seen == [True]
    assert str(target) not in opened
    rig.hub.faults.add(Corrupt(5), kind="cdn", times=None)
    outcome = rig.fetch(rig.request(WEIGHTS, fresh=True))
    assert isinstance(outcome.errors[WEIGHTS], IntegrityError)
    assert rig.is_whole(WEIGHTS)  # the good file of before
    assert seen == [True]


@pytest.mark.parametrize("exists", [True, False], ids=["in a shared store", "of a store that is gone"])
def test_nothing_writes_through_a_symlinked_blob(rig: Rig, tmp_path: Path, exists: bool) -> None:
    cache, store = tmp_path / "cache", tmp_path / "store"
    entry = rig.repo.head.tree.files[WEIGHTS]
    blob = cache / "models--org--m" / "blobs" / entry.etag
    blob.parent.mkdir(parents=True)
    store.mkdir()
    if exists:
        (store / "blob").write_bytes(b"somebody else's, and not what it should be")
    blob.symlink_to(store / "blob")
    with rig.manager() as manager:
        path = hf_hub_download(
            "org/m",
            WEIGHTS,
            cache_dir=cache,
            endpoint=rig.hub.url,
            token=False,
            force_download=True,
            manager=manager,
        )
    assert Path(path).read_bytes() == rig.files[WEIGHTS]
    assert not blob.is_symlink()
    assert [p.read_bytes() for p in store.iterdir()] == [
        b"somebody else's, and not what it should be"
    ] * exists


@pytest.mark.parametrize(
    ("pretend", "timings"),
    [
        pytest.param(("locks always succeed",), DEFAULT_TIMINGS, id="locks lie"),
        pytest.param(
            ("locks always succeed", "another container"), Timings(unseen=0.0), id="and nobody is seen"
        ),
    ],
)
def test_locks_save_bandwidth_and_never_correctness(
    rig: Rig, nursery: Nursery, pretend: tuple[str, ...], timings: Timings
) -> None:
    rig.hub.faults.add(Cut(after=10_000), kind="cdn", times=3)
    rig.hub.faults.add(WrongRange(1000), kind="cdn", nth=4, times=2)
    job = job_for(
        rig,
        rig.request(WEIGHTS, headers={}),
        rig.request(SMALL, headers={}),
        pretend=pretend,
        timings=timings,
        part_size=PART,
    )
    children = [nursery.start(job) for _ in range(4)]
    results = [child.wait() for child in children]
    assert rig.is_whole(WEIGHTS)
    assert rig.is_whole(SMALL)
    assert all(result["over"] for result in results)
    # One that was robbed again and again may give up, but never lies.
    told = [error for result in results for error in result["errors"].values()]
    assert [error for error in told if "StagedLostError" not in error] == []
    assert any(result["errors"] == {} for result in results)


_MEASURE = """
import resource, sys, threading
from pathlib import Path
from hf_haul.storage.destinations import FileDestination
from hf_haul.config import Settings
from hf_haul.manager import ParallelDownloadManager
from hf_haul.task import Digest, FileRequest, RemoteFile
import requests

base, folder, sha256, size, files = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
digest = Digest("sha256", sha256)

def request(n):
    path = f"w{n}.bin"
    return FileRequest(RemoteFile(path, f"{base}/{path}", size=size, digest=digest),
                       FileDestination(folder / path, sha256, digest, size))

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
with ParallelDownloadManager(settings=Settings(initial_connections=32, durable=False)) as manager:
    handle = manager.submit([request(n) for n in range(files)], model_id="m")
    assert handle.wait(60)
    assert handle.errors() == []
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("size", "files"),
    [(256 * MiB, 1), (4 * MiB, 64), (2 * KiB, 500)],
    ids=["one file", "64 files", "500 files"],
)
def test_memory_is_bounded_by_connections_and_not_by_files_or_bytes(
    tmp_path: Path, size: int, files: int
) -> None:
    source = tmp_path / "zeros.bin"
    with source.open("wb") as file:
        file.truncate(size)
    repo = Repo("org/m")
    repo.commit({f"w{n}.bin": source for n in range(files)}, "first")
    sha256 = repo.head.tree.files["w0.bin"].content.sha256()
    with LocalHub(repo, lfs="direct", git_files="direct") as hub:
        result = run_python(
            _MEASURE,
            hub_environment(hub, tmp_path / "home"),
            f"{hub.url}/org/m/resolve/main", str(tmp_path / "out"), sha256, str(size), str(files),
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 100 * MiB


def test_a_token_is_sent_only_to_the_hubs_own_origin(rig: Rig) -> None:
    """Neither to the place a redirect points to, nor to one it led through."""
    rig.hub.faults.add(Redirects(302, 307), kind="resolve", path=WEIGHTS)
    rig.hub.faults.add(Redirects(308), kind="cdn")
    with LocalHub(rig.repo, lfs="direct") as other:
        elsewhere = {"Location": f"{other.url}/org/m/resolve/{rig.repo.head.id}/{SMALL}"}
        rig.hub.faults.add(Status(302, headers=elsewhere), kind="resolve", path=SMALL)
        assert rig.fetch(WEIGHTS, SMALL).errors == {}
        assert rig.is_whole(SMALL)
        assert {record.token for record in rig.hub.requests if record.kind == "resolve"} == {TOKEN}
        assert {record.token for record in rig.hub.requests if record.kind == "cdn"} == {None}
        assert len(other.requests)
        assert {record.token for record in other.requests} == {None}


# -- the disk


@pytest.mark.parametrize("room", [0, 100, 600, 100_000, 250_000])
def test_a_disk_that_fills_up_is_told_and_everything_goes_on_once_there_is_room(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    more = {f"part-{i}.bin": random_bytes(PART, i) for i in range(4)}
    rig.repo.commit(more, "more")
    rig.files.update(more)
    with monkeypatch.context() as patch:
        patch.setattr(staging, "os", FullDisk(room))
        outcome = rig.fetch(*rig.files)
    assert outcome.errors
    for path, error in outcome.errors.items():
        assert isinstance(error, DiskFullError)
        assert path in str(error)
        assert "free some space" in str(error)
        assert error.errno == errno.ENOSPC
    assert all(rig.is_whole(path) for path in rig.files if path not in outcome.errors)
    received = outcome.progress.bytes_transferred
    again = rig.fetch(*rig.files)
    assert again.errors == {}
    assert all(rig.is_whole(path) for path in rig.files)
    assert rig.left == []
    # What had been written when the disk was full was not fetched again, but for what its journal had no room for.
    total = sum(map(len, rig.files.values()))
    assert received + again.progress.bytes_transferred <= total + 8 * (PART + 16 * KiB)


def test_a_disk_that_refuses_fails_its_file_and_names_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(self: StagedFile, data: memoryview, offset: int) -> int:
        if self.size > 1000 and offset < self.size:
            raise OSError(errno.EIO, "Input/output error")
        return os.pwrite(self._fd, data, offset)

    monkeypatch.setattr(StagedFile, "_pwrite", pwrite)
    outcome = rig.fetch(WEIGHTS, SMALL)
    error = outcome.errors[WEIGHTS]
    assert isinstance(error, OSError)
    assert error.errno == errno.EIO
    assert WEIGHTS in str(error)
    assert outcome.progress.retries == 0
    assert rig.is_whole(SMALL)


def test_a_file_too_large_for_its_file_system_fails_before_a_byte_is_fetched(
    tmp_path: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(self: StagedFile, data: memoryview, offset: int) -> int:
        if offset + len(data) > 200_000:
            raise OSError(errno.EFBIG, "File too large")
        return os.pwrite(self._fd, data, offset)

    monkeypatch.setattr(StagedFile, "_pwrite", pwrite)
    outcome = rig.fetch(WEIGHTS)
    error = outcome.errors[WEIGHTS]
    assert isinstance(error, OSError)
    assert error.errno == errno.EFBIG
    assert WEIGHTS in str(error)
    assert rig.left == []
    assert rig.sent() == 0


def test_a_folder_that_refuses_the_finished_file_loses_no_byte(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(move: Any) -> Any:
        def call(source: Any, destination: Any) -> None:
            if Path(destination) == rig.folder / WEIGHTS:
                raise PermissionError(errno.EACCES, "Permission denied", destination)
            move(source, destination)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refusing(os.replace))
        patch.setattr(os, "rename", refusing(os.rename))
        outcome = rig.fetch(WEIGHTS)
    assert isinstance(outcome.errors[WEIGHTS], PermissionError)
    again = rig.fetch(WEIGHTS)
    assert again.errors == {}
    assert again.progress.bytes_transferred == 0
    assert rig.is_whole(WEIGHTS)
    assert leftovers(rig.folder) == []
