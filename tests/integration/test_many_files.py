"""A repository of very many small files: what they cost until their turn comes, and how it is all dropped."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.benchmarks.many_files import FIRST, REPO_ID, served_apart

from hf_haul.engine.planned_files import LONG, NAMED
from hf_haul.hub.call_options import CallOptions
from hf_haul.hub.snapshot_call import ReadySnapshot, SnapshotCall, make_snapshot_call
from hf_haul.manager import ParallelDownloadManager
from hf_haul.task import DownloadState

FILES = 20_000
#: Bytes of a file of the listing that waits, and the most while all are put into their order.
KEPT, PEAK = 220, 350
#: Of CPU time, which does not depend on what else the machine is at.
SECOND = 1.0


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """The URL of a hub in a process of its own, so that what it takes does not count."""
    with served_apart(FILES) as url:
        yield url


def call(hub: str, folder: Path, manager: ParallelDownloadManager) -> SnapshotCall:
    return make_snapshot_call(
        REPO_ID,
        repo_type="dataset",
        cache_dir=folder / "cache",
        endpoint=hub,
        options=CallOptions(manager=manager),
    )


def ready(made: SnapshotCall) -> ReadySnapshot:
    found = made.prepare()
    assert isinstance(found, ReadySnapshot)
    return found


def test_files_that_wait_take_little_memory(hub: str, tmp_path: Path) -> None:
    with ParallelDownloadManager() as manager:
        manager.pause_downloads()
        ready(call(hub, tmp_path / "warm", manager))  # brings modules and connections along
        tracemalloc.start()
        try:
            found = ready(call(hub, tmp_path, manager))
            handle = manager.submit(found.requests, model_id=REPO_ID)
            kept, peak = (each / FILES for each in tracemalloc.get_traced_memory())
        finally:
            tracemalloc.stop()
        handle.cancel()
        assert len(found.requests) == handle.progress().files_total == FILES > LONG
        assert kept < KEPT
        assert peak < PEAK


def test_what_goes_first_is_the_first_there_and_cancelling_the_others_takes_no_second(
    hub: str, tmp_path: Path
) -> None:
    with ParallelDownloadManager() as manager:
        made = call(hub, tmp_path, manager)
        found = ready(made)
        assert list(found.known)[-1] == FIRST, "it is the last of the listing"
        handle = manager.submit(found.requests, model_id=REPO_ID)
        ids = handle.task_ids
        while handle.progress().files_done < 20:
            assert not handle.wait(0.01)
        began = time.process_time()
        assert handle.cancel()
        assert handle.wait(60)
        assert time.process_time() - began < SECOND
        now = handle.progress()
        there = {
            str(path.relative_to(found.path)) for path in Path(found.path).rglob("*.*") if path.is_file()
        }
        assert FIRST in there
        earlier = sorted(path for path in there if path != FIRST)
        assert earlier == [f"images/{int(p[-12:-4]) // 1000:05d}/{p[-12:]}" for p in earlier]
        assert all(int(path[-12:-4]) < 2 * now.files_done + 100 for path in earlier), "smallest name first"
        assert now.state is DownloadState.CANCELLED
        assert now.files_done + now.files_failed == now.files_total == FILES
        assert NAMED <= len(handle.errors()) < 2 * NAMED
        assert handle.task_ids == ids
        assert len(set(ids)) == FILES


def test_the_second_call_goes_on_from_the_kept_listing(hub: str, tmp_path: Path) -> None:
    with ParallelDownloadManager() as manager:
        first = ready(call(hub, tmp_path, manager))
        trees = list((tmp_path / "cache").rglob("trees/*.json"))
        assert len(trees) == 1
        before = trees[0].stat().st_mtime_ns
        again = ready(call(hub, tmp_path, manager))
        assert trees[0].stat().st_mtime_ns == before
        assert again.known == first.known
