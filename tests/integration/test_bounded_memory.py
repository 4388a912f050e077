"""Memory is bounded, whatever the number of files and queues over a process's life: what is over leaves numbers behind."""

from __future__ import annotations

import gc
import threading
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.transport import FakeSource
from tests.support.waits import until

from hf_haul.config import KiB, Settings
from hf_haul.engine.part_fetcher import PartFetcher
from hf_haul.engine.queue_run import QueueRun
from hf_haul.errors import HttpStatusError
from hf_haul.manager import DownloadHandle, ParallelDownloadManager
from hf_haul.task import DownloadState

BOUND = 120.0  # seconds
URL = "http://source.test/files"
CONTENT = b"x" * 100
#: What belongs to running queues, by the names of its classes.
OF_RUNNING = {
    "DownloadTask", "FileRequest", "RemoteFile", "FileDestination", "ModelDownloadQueue", "QueueRun", "Transfer", "Part", "CancelToken",
    "StagedFile", "Verifier", "PlannedFile", "DownloadMetrics", "Notifier", "OwnerWatch", "FakeSource", "_Job", "_Then",
}  # fmt: skip


@dataclass
class Spec:
    path: str
    size: int = len(CONTENT)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[ParallelDownloadManager]:
    def source(_manager: ParallelDownloadManager, request: Any) -> FakeSource:
        missing = "missing" in request.remote.path
        return FakeSource(CONTENT, faults=[HttpStatusError("gone", status=404)] if missing else [])

    monkeypatch.setattr(ParallelDownloadManager, "_transport_for", source)
    made = ParallelDownloadManager(settings=Settings(durable=False, max_concurrent_downloads=2))
    yield made
    made.shutdown(wait=False)


def alive() -> Counter[str]:
    gc.collect()
    return Counter(name for name in (type(each).__name__ for each in gc.get_objects()) if name in OF_RUNNING)


def kept() -> int:
    """Bytes in small blocks since tracing began. Large ones are buffers, and the interpreter's own table of strings."""
    gc.collect()
    return sum(trace.size for trace in tracemalloc.take_snapshot().traces if trace.size < 256 * KiB)


def begin(manager: ParallelDownloadManager, folder: Path, queues: int, files: int = 10) -> list[str]:
    return [
        manager.queue_model_download(
            "org/m", [Spec(f"{i}.bin") for i in range(files)], URL, folder / f"{number}",
            progress_callback=lambda _progress: None,
        )
        for number in range(queues)
    ]  # fmt: skip


@pytest.mark.timeout(300)
def test_hundreds_of_queues_of_a_thousand_files_leave_nothing_but_numbers(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    before = alive()
    tracemalloc.start()
    try:
        for each in begin(manager, tmp_path / "first", 10, 5):
            assert manager.wait_for_model_completion(each, BOUND)["success"]
        base = kept()
        queues = begin(manager, tmp_path / "then", 200, 5)
        assert until(lambda: manager.get_download_stats()["queues"] == 0, 2 * BOUND)
        assert until(lambda: alive() == before)
        untold = kept() - base
        for each in queues:  # in order: none was forgotten meanwhile
            assert manager.wait_for_model_completion(each, BOUND)["success"]
        told = kept() - base
    finally:
        tracemalloc.stop()
    # What a thousand files left would be two MiB, and more.
    assert untold < 200 * 2 * KiB + 512 * KiB
    assert told < 100 * 2 * KiB + 512 * KiB
    assert manager.get_model_queue_status(queues[0]) is None
    assert manager.get_model_queue_status(queues[-1]) is not None


def test_a_handle_keeps_what_became_of_its_queue_and_not_the_queue(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    before = alive()
    requests = [
        manager._request(
            path, f"{URL}/{path}", tmp_path / path, size=100, digest=None, etag=None, priority=None
        )
        for path in ("a.bin", "missing.bin")
    ]
    handle = manager.submit(requests, model_id="org/m", progress_callback=lambda _progress: None)
    ids = handle.task_ids
    del requests
    assert handle.wait(BOUND)
    assert until(lambda: alive() == before)
    assert handle.wait(0)
    assert handle.task_ids == ids
    assert handle.state is DownloadState.FAILED
    progress = handle.progress()
    assert (progress.files_done, progress.files_failed, progress.bytes_done) == (1, 1, 100)
    ((path, error),) = handle.errors()
    assert path == "missing.bin"
    assert isinstance(error, HttpStatusError)
    status = manager.get_model_queue_status(handle.queue_id)
    assert status is not None
    assert status["failed_files"] == [{"file_path": "missing.bin", "error": f"HttpStatusError: {error}"}]
    assert not handle.cancel()
    handle.pause()
    handle.resume()
    assert handle.state is DownloadState.FAILED
    assert manager.pause_downloads(handle.queue_id)
    assert manager.cancel_model_download(handle.queue_id) is False
    assert alive() == before


def test_a_task_is_found_by_its_own_id_after_the_end(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    task = manager.add_download_task("org/m", "a", f"{URL}/a", tmp_path / "a", 100)
    assert until(lambda: manager.get_download_stats()["queues"] == 0, BOUND)
    for _ in range(2):
        status = manager.get_model_queue_status(task)
        assert status is not None
        assert status["state"] == "done"
        assert manager.wait_for_model_completion(task)["success"]


def test_who_keeps_an_error_keeps_nothing_of_the_download(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    before = alive()
    kept = []
    for i in range(3):
        requests = [
            manager._request(
                "missing",
                f"{URL}/missing",
                tmp_path / f"{i}",
                size=100,
                digest=None,
                etag=None,
                priority=None,
            )
        ]
        handle = manager.submit(requests, model_id="org/m")
        assert handle.wait(BOUND)
        kept += handle.errors()
    del handle, requests
    assert until(lambda: alive() == before)
    assert len(kept) == 3


def test_an_error_of_our_own_still_says_where_it_came_from(
    manager: ParallelDownloadManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = threading.Event()

    def broken(*_args: Any) -> None:
        assert found.wait(BOUND)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(PartFetcher, "_check_version", staticmethod(broken))
    task = manager.add_download_task("org/m", "a", f"{URL}/a", tmp_path / "a", 100)
    run = manager._find(task)
    found.set()
    assert isinstance(run, QueueRun)
    handle = DownloadHandle(manager._scheduler, run.outcome)
    assert handle.wait(BOUND)
    ((_, error),) = handle.errors()
    assert isinstance(error, ZeroDivisionError)
    assert "in broken" in "".join(traceback.format_exception(error))
