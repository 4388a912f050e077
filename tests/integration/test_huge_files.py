"""Files that no single request can carry: 60 GB and 1 TiB, sparse on both ends, so that nothing moves but what is asked."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.repos import make_sparse_file

from hf_haul.config import GiB, KiB, MiB, Settings
from hf_haul.engine.plan import make_plan, next_part, part_size
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.errors import DownloadCancelledError
from hf_haul.filesystem import HaulFileSystem
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.requestlog import RequestLog
from hf_haul.manager import DownloadHandle, ParallelDownloadManager
from hf_haul.ranges import ByteRange
from hf_haul.storage.claiming import claim
from hf_haul.storage.destinations import FileDestination
from hf_haul.task import Digest, FileRequest, RemoteFile

NAME = "huge.safetensors"
HUGE = 60 * 10**9
TERA = 1 << 40
MARKS = 16
DIGEST = "f" * 64
SETTINGS = Settings(disk_check="off", durable=False, first_retry_wait=0.01)


def marks_of(size: int) -> list[int]:
    """Where `make_sparse_file` writes."""
    return [i * (size - 64) // (MARKS - 1) for i in range(MARKS)]


def mark(offset: int) -> bytes:
    return f"<offset {offset}>".ljust(64).encode()


def allocated(path: Path) -> int:
    """Bytes that a file takes on the disk."""
    return path.stat().st_blocks * 512


class Watched(ParallelDownloadManager):
    """A manager that keeps its handles."""

    handle: DownloadHandle

    def submit(self, *args: Any, **options: Any) -> DownloadHandle:
        self.handle = super().submit(*args, **options)
        return self.handle


@contextmanager
def serve_huge(folder: Path, size: int) -> Iterator[tuple[LocalHub, Repo]]:
    folder.mkdir()
    try:
        file = make_sparse_file(folder / NAME, size, MARKS)
    except OSError as error:
        pytest.skip(f"no file of {size} bytes can be made here: {error}")
    if not hasattr(file.stat(), "st_blocks") or allocated(file) > GiB:
        file.unlink()
        pytest.skip("files are not sparse here")
    # The digest is given, so that nobody reads all of it.
    repo = Repo.from_folder(folder, "org/huge", sha256={NAME: DIGEST})
    with LocalHub(repo) as hub:
        yield hub, repo


def download_some(
    hub: LocalHub, cache: Path, manager: Watched, enough: Callable[[RequestLog], bool]
) -> RequestLog:
    """Download until ``enough(log)``, then cancel."""
    ends: list[BaseException] = []
    hub.requests.clear()

    def run() -> None:
        try:
            snapshot_download("org/huge", endpoint=hub.url, token=False, cache_dir=cache, manager=manager)
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert hub.requests.wait_for(enough, 30), [record.url for record in hub.requests]
    finally:
        manager.handle.cancel()
        thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in ends] == [DownloadCancelledError]
    assert hub.requests.settle()
    return hub.requests


def asked(log: RequestLog) -> list[ByteRange]:
    found = []
    for record in log.of("cdn"):
        unit, _, span = record.range.partition("=")
        assert unit == "bytes", record.range
        first, _, last = span.partition("-")
        found.append(ByteRange(int(first), int(last) + 1))
    return found


@pytest.mark.parametrize("size", [pytest.param(HUGE, id="60 GB"), pytest.param(TERA, id="1 TiB")])
def test_a_huge_file_is_asked_for_in_ranges_over_several_connections_and_goes_on_later(
    tmp_path: Path, size: int
) -> None:
    cache = tmp_path / "cache"
    with serve_huge(tmp_path / "src", size) as (hub, _), Watched(settings=SETTINGS) as manager:
        hub.set_pace(None, total=40 * MiB)
        log = download_some(
            hub, cache, manager, lambda log: len(log.of("cdn")) >= 4 and log.body_bytes > 16 * MiB
        )
        first = asked(log)
        assert len(log.of("resolve")) == 1
        assert {record.status for record in log.of("cdn")} == {206}
        assert len({record.connection for record in log.of("cdn")}) >= 4
        assert log.peak("cdn") >= 4
        assert max(map(len, first)) <= 64 * MiB
        assert len(set(first)) == len(first)
        assert min(first).start == 0

        (staged,) = (cache / "models--org--huge" / "blobs").iterdir()
        assert staged.name == f"{DIGEST}.haul.incomplete"
        assert staged.stat().st_size >= size
        assert allocated(staged) < GiB
        with staged.open("rb") as file:
            assert file.read(64) == mark(0)

        sent = hub.body_bytes
        log = download_some(
            hub, cache, manager, lambda log: len(log.of("cdn")) >= 4 and log.body_bytes > 4 * MiB
        )
        assert hub.body_bytes > sent
        assert min(asked(log)).start > 0
        assert manager.handle.progress().bytes_done > 4 * MiB
        assert [path.name for path in staged.parent.iterdir()] == [staged.name]


def test_what_is_missing_of_a_huge_file_is_put_where_it_belongs(tmp_path: Path) -> None:
    destination = tmp_path / "out" / NAME
    with serve_huge(tmp_path / "src", HUGE) as (hub, repo):
        place = FileDestination(destination, version=DIGEST, size=HUGE)
        # An earlier run left all but the neighbourhood of each mark; what it left is zeros, as in the file.
        staged = claim(place.staging_dir, place.staging_key, HUGE)
        holes = [ByteRange(max(0, at - 32 * KiB), min(HUGE, at + 32 * KiB)) for at in marks_of(HUGE)]
        for before, after in zip([ByteRange(0, 0), *holes], [*holes, ByteRange(HUGE, HUGE)], strict=True):
            staged.record(before.stop, after.start)
        staged.close()
        url = f"{hub.url}/org/huge/resolve/{repo.head.id}/{NAME}"
        # A digest, which nobody computes here: hashing 60 GB takes minutes.
        remote = RemoteFile(NAME, url, size=HUGE, etag=DIGEST, digest=Digest("sha256", DIGEST))
        request = FileRequest(remote=remote, destination=place)
        settings = Settings(disk_check="off", durable=False, verify=False)
        hub.requests.clear()
        with ParallelDownloadManager(settings=settings) as manager:
            handle = manager.submit([request], model_id="huge")
            assert handle.wait(60)
        assert handle.errors() == []
        assert hub.requests.settle()
        assert sorted(asked(hub.requests)) == holes
    assert destination.stat().st_size == HUGE
    assert allocated(destination) < GiB
    with destination.open("rb") as file:
        for offset in marks_of(HUGE):
            file.seek(offset)
            assert file.read(64) == mark(offset)


def test_the_filesystem_reads_anywhere_in_a_huge_file(tmp_path: Path) -> None:
    with serve_huge(tmp_path / "src", HUGE) as (hub, _):
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        path = f"org/huge/{NAME}"
        marks = marks_of(HUGE)
        found = fs.cat_ranges([path] * MARKS, marks, [offset + 64 for offset in marks])
        assert found == [mark(offset) for offset in marks]
        with fs.open(path, "rb") as file:
            for offset in reversed(marks):
                file.seek(offset)
                assert file.read(64) == mark(offset)
        assert hub.requests.settle()
        assert hub.body_bytes < GiB


@pytest.mark.parametrize("connections", [1, 4, 32])
def test_the_parts_of_a_tebibyte_are_cut_in_no_time_and_in_no_memory(
    tmp_path: Path, connections: int
) -> None:
    request = FileRequest(
        remote=RemoteFile(NAME, "https://hub.test/huge", size=TERA),
        destination=FileDestination(tmp_path / NAME),
    )

    def cut() -> int:
        plan = make_plan(
            [request], model_id="m", policy=DefaultPolicy(), settings=SETTINGS, created_at=lambda: 0.0
        )
        assert [planned.task.size for planned in plan.files] == [TERA]
        limit = part_size(TERA, connections, SETTINGS)
        pending = [ByteRange(0, TERA)]
        count = position = 0
        while pending:
            part = next_part(pending, limit)
            assert part.start == position
            assert len(part) <= 64 * MiB
            position, count = part.stop, count + 1
        assert position == TERA
        return count

    began = time.perf_counter()
    assert cut() == TERA // (64 * MiB)
    assert time.perf_counter() - began < 1.0
    tracemalloc.start()
    try:
        cut()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MiB
