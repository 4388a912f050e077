"""A disk that does not answer holds up the files that are on it, and nothing else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.disk import HungDisk
from tests.support.engine import SMALL, WEIGHTS, Rig, serve_files
from tests.support.repos import random_bytes
from tests.support.waits import OTHER, SECOND, until

from hf_haul.config import MiB, Timings
from hf_haul.localhub.testing.faults import Stall
from hf_haul.manager import ParallelDownloadManager
from hf_haul.storage.destinations import FileDestination
from hf_haul.task import DownloadState, FileRequest

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="tells files apart by /proc")

SIZE = 5 * MiB
#: Seconds within which something happens that a disk does not hold up, on any machine.
BOUND = 20.0
#: What hangs, by name: the call.
CALLS = [
    "pwrite",
    "fsync",
    "utime",
    "replace",
    "rename",
    "stat",
    "lstat",
    "open",
    "ftruncate",
    "preadv",
    "scandir",
]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "fine", weights=SIZE, more={OTHER: random_bytes(MiB, "other")}) as rig:
        yield rig
        rig.hub.faults.release()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HungDisk]:
    (tmp_path / "hung").mkdir()
    made = HungDisk(tmp_path / "hung", monkeypatch)
    yield made
    made.release()


def on(folder: Path, request: FileRequest) -> FileRequest:
    """The same file, to another folder."""
    digest, size = request.remote.digest, request.remote.size
    assert digest is not None
    return replace(
        request, destination=FileDestination(folder / request.remote.path, digest.value, digest, size)
    )


def answers(ask: Callable[[], Any]) -> bool:
    """Whether a call returns although the disk hangs: if it waits for that, it never does."""
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(BOUND)
    return not asking.is_alive()


def begin_on_hung_disk(
    rig: Rig, disk: HungDisk, manager: ParallelDownloadManager, folder: Path, call: str
) -> threading.Thread:
    """Have a queue come to where the call hangs; whoever submits it may hang, too."""
    wanted = [on(folder, rig.request(WEIGHTS))]
    disk.hang(call)
    submitting = threading.Thread(target=lambda: manager.submit(wanted, model_id="hung"))
    submitting.start()
    assert disk.reached(call)
    return submitting


@pytest.mark.parametrize("call", CALLS)
def test_nobody_who_holds_a_lock_of_ours_waits_for_the_disk(
    rig: Rig, disk: HungDisk, tmp_path: Path, call: str
) -> None:
    elsewhere = rig.hub.url.replace("127.0.0.1", "localhost")
    with rig.manager(
        durable=True, max_connections_per_host=3, part_size=MiB, timings=Timings(sign_of_life=0.0)
    ) as manager:
        rig.hub.set_pace(4 * MiB)
        submitting = begin_on_hung_disk(rig, disk, manager, tmp_path / "hung", call)
        fine = manager.submit([rig.request(SMALL, base=elsewhere)], model_id="fine")
        asks: list[Callable[[], Any]] = [
            manager.get_download_stats,
            lambda: manager.get_model_queue_status(fine.queue_id),
            fine.pause,
            fine.resume,
            fine.progress,
            lambda: manager.optimize_performance(),
            lambda: manager._engine.tick(),
        ]
        hung = next(
            (run.queue.queue_id for run in manager._engine.runs() if run.queue.model_id == "hung"), None
        )
        if hung is not None:  # or it has not come so far
            asks += [
                lambda: manager.get_model_queue_status(hung),
                lambda: manager.pause_downloads(hung),
                lambda: manager.resume_downloads(hung),
            ]
        for ask in asks:
            assert answers(ask)
        assert fine.wait(BOUND)
        assert fine.errors() == []
        assert rig.is_whole(SMALL)
        last = manager.submit([rig.request(WEIGHTS, base=elsewhere)], model_id="fine")
        assert answers(last.cancel)
        assert last.wait(BOUND)
        if hung is not None:
            assert answers(lambda: manager.cancel_model_download(hung))
            assert answers(lambda: manager.get_model_queue_status(hung))
        disk.release()
        submitting.join(BOUND)
        assert not submitting.is_alive()
        if hung is not None:
            assert manager.wait_for_model_completion(hung, BOUND)["timed_out"] is False


def test_a_dead_connection_is_given_up_while_another_files_disk_hangs(
    rig: Rig, disk: HungDisk, tmp_path: Path
) -> None:
    told: list[int] = []
    elsewhere = rig.hub.url.replace("127.0.0.1", "localhost")
    with rig.manager(max_connections_per_host=3, timings=Timings(sign_of_life=0.0)) as manager:
        rig.hub.set_pace(MiB)
        submitting = begin_on_hung_disk(rig, disk, manager, tmp_path / "hung", "utime")
        rule = rig.hub.faults.add(Stall(after=1000), kind="cdn", path=OTHER)
        fine = manager.submit(
            [rig.request(OTHER, base=elsewhere)],
            model_id="fine",
            progress_callback=lambda progress: told.append(progress.bytes_downloaded),
        )
        assert fine.wait(BOUND)
        assert fine.errors() == []
        assert rule.hits == 1
        assert told[-1] == MiB
        disk.release()
        submitting.join(BOUND)


def test_a_shutdown_does_not_wait_for_a_disk_that_hangs(
    rig: Rig, disk: HungDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with rig.manager() as manager:
        submitting = begin_on_hung_disk(rig, disk, manager, tmp_path / "hung", "pwrite")
        submitting.join(BOUND)
        assert answers(lambda: manager.shutdown(wait=False))
        assert "disk that does not answer" in caplog.text
        disk.release()
        assert until(lambda: not manager._engine._workers._group._threads)


def test_what_is_cancelled_is_let_go_of_once_its_disk_answers(
    rig: Rig, disk: HungDisk, tmp_path: Path
) -> None:
    with rig.manager() as manager:
        rig.hub.set_pace(MiB)
        handle = manager.submit([on(tmp_path / "hung", rig.request(WEIGHTS))], model_id="hung")
        assert until(lambda: handle.progress().bytes_done > MiB // 4)
        handle.pause()
        assert until(lambda: handle.progress().connections == 0)
        disk.hang("pwrite", "close", "scandir")
        assert answers(handle.cancel)
        assert disk.reached("pwrite")
        assert not handle.wait(0)
        assert handle.state is not DownloadState.DONE
        disk.release()
        assert handle.wait(BOUND)
        assert handle.state is DownloadState.CANCELLED
    rig.hub.set_pace(None)
    kept = handle.progress().bytes_done
    with rig.manager() as manager:  # another owner may go on at once: the file says that nobody has it
        again = manager.submit([on(tmp_path / "hung", rig.request(WEIGHTS))], model_id="m")
        assert again.wait(BOUND)
        assert again.progress().bytes_transferred == SIZE - kept


def test_calls_that_do_not_wait_take_no_time(rig: Rig, disk: HungDisk, tmp_path: Path) -> None:
    """In numbers, on a machine that has time: the best of several tries counts."""
    with rig.manager() as manager:
        submitting = begin_on_hung_disk(rig, disk, manager, tmp_path / "hung", "pwrite")
        submitting.join(BOUND)
        (run,) = manager._engine.runs()
        queue_id = run.queue.queue_id
        best: dict[str, float] = {}
        for _ in range(5):
            for name, ask in {
                "status": lambda: manager.get_model_queue_status(queue_id),
                "stats": manager.get_download_stats,
                "pause": lambda: manager.pause_downloads(queue_id),
                "resume": lambda: manager.resume_downloads(queue_id),
            }.items():
                began = time.monotonic()
                ask()
                best[name] = min(best.get(name, SECOND), time.monotonic() - began)
        assert max(best.values()) < 0.2, best
        disk.release()
