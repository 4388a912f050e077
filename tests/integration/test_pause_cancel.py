"""Pause, resume and cancel: whatever a worker waits for, it stops within a second, and no byte is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.engine import PART, SMALL, WEIGHTS, Rig, serve_files
from tests.support.waits import SECOND, WAITS, keep_waiting, until

from hf_haul.config import KiB
from hf_haul.errors import DownloadCancelledError
from hf_haul.localhub.testing.faults import Stall
from hf_haul.storage.claiming import claim
from hf_haul.task import DownloadState

CHUNK = 16 * KiB
SIZE = 1024 * KiB


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path, weights=SIZE) as made:
        yield made


@pytest.mark.parametrize("wait", WAITS)
def test_a_pause_ends_every_wait_and_a_resume_goes_on(wait: str, tmp_path: Path) -> None:
    with keep_waiting(wait, tmp_path) as kept:
        kept.manager.pause_downloads()
        assert until(lambda: kept.handle.progress().connections == 0, SECOND)
        assert until(kept.is_quiet, SECOND)
        asked = len(kept.rig.hub.requests)
        assert kept.handle.state is DownloadState.PAUSED
        assert not kept.handle.wait(0.2)
        assert len(kept.rig.hub.requests) == asked
        kept.release()
        kept.manager.resume_downloads()
        if kept.finishes:
            assert kept.handle.wait(20), kept.handle.progress()
            assert kept.handle.errors() == []
            assert kept.rig.is_whole(WEIGHTS)


@pytest.mark.parametrize("wait", WAITS)
def test_a_cancel_ends_every_wait_and_is_reported(wait: str, tmp_path: Path) -> None:
    with keep_waiting(wait, tmp_path) as kept:
        started = time.monotonic()
        assert kept.handle.cancel()
        assert kept.handle.wait(SECOND)
        assert time.monotonic() - started < SECOND
        assert until(kept.is_quiet, SECOND)
        assert kept.handle.state is DownloadState.CANCELLED
        assert kept.handle.errors()
        assert all(isinstance(error, DownloadCancelledError) for _, error in kept.handle.errors())
        assert not kept.handle.cancel()
        status = kept.manager.get_model_queue_status(kept.handle.queue_id)
        assert status is not None
        assert status["state"] == "cancelled"
        assert kept.manager.wait_for_model_completion(kept.handle.queue_id)["success"] is False


@pytest.mark.parametrize("of", ["one queue", "everything"])
def test_after_a_pause_no_byte_leaves_the_server(rig: Rig, of: str) -> None:
    rig.hub.set_pace(100_000)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert until(lambda: rig.sent() > 100 * KiB)
        assert manager.pause_downloads(handle.queue_id if of == "one queue" else None)
        assert rig.hub.requests.settle(SECOND)
        sent = rig.hub.body_bytes
        assert not handle.wait(0.3)
        assert rig.hub.body_bytes == sent


@pytest.mark.parametrize("times", [1, 4])
def test_a_resumed_queue_fetches_at_most_one_read_per_connection_again(rig: Rig, times: int) -> None:
    rig.hub.set_pace(
        None, total=300_000
    )  # kept by the hub, and not by the kernel: what is counted has arrived
    with rig.manager(enable_adaptive_chunking=False, chunk_size=CHUNK, max_concurrent_downloads=4) as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        for nth in range(times):
            goal = (nth + 1) * SIZE // 8
            assert rig.hub.requests.wait_for(lambda log, goal=goal: log.body_bytes > goal)
            handle.pause()
            assert until(lambda: handle.progress().connections == 0, SECOND)
            handle.resume()
        rig.hub.set_pace(None)
        assert handle.wait(20)
        most = handle.progress()
        assert most.bytes_transferred == SIZE
    assert rig.hub.requests.settle()
    assert rig.is_whole(WEIGHTS)
    assert rig.sent(WEIGHTS) - SIZE <= times * 4 * CHUNK


def test_a_paused_queue_keeps_its_place_before_later_ones(rig: Rig) -> None:
    done: list[str] = []
    with rig.manager(max_concurrent_downloads=1, initial_connections=1) as manager:
        manager.pause_downloads()
        handles = []
        for name in ("first", "second", "third"):
            wanted = rig.request(SMALL)
            wanted = replace(wanted, destination=replace(wanted.destination, file=rig.folder / name))
            handles.append(
                manager.submit(
                    [wanted],
                    model_id=name,
                    progress_callback=lambda p: done.append(p.model_id) if p.status.final else None,
                )
            )
        handles[1].pause()
        handles[1].resume()
        assert done == []
        manager.resume_downloads()
        for handle in handles:
            assert handle.wait(10)
    assert done == ["first", "second", "third"]


def test_one_queue_is_paused_alone(rig: Rig) -> None:
    rig.hub.set_pace(100_000)
    with rig.manager() as manager:
        held = manager.submit([rig.request(WEIGHTS)], model_id="held")
        assert until(lambda: rig.sent(WEIGHTS))
        assert manager.pause_downloads(held.queue_id)
        free = manager.submit([rig.request(SMALL)], model_id="free")
        assert free.wait(5)
        assert held.state is DownloadState.PAUSED
        assert free.state is DownloadState.DONE


def test_a_pause_of_all_outlasts_the_resume_of_one(rig: Rig) -> None:
    with rig.manager() as manager:
        manager.pause_downloads()
        handle = manager.submit([rig.request(SMALL)], model_id="m")
        handle.pause()
        handle.resume()
        assert not handle.wait(0.2)
        assert list(rig.hub.requests) == []
        manager.resume_downloads()
        assert handle.wait(10)


def test_a_queue_is_cancelled_while_it_is_paused(rig: Rig) -> None:
    rig.hub.set_pace(100_000)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS), rig.request(SMALL)], model_id="m")
        assert until(lambda: rig.sent(WEIGHTS) > PART)
        handle.pause()
        assert until(lambda: handle.progress().connections == 0, SECOND)
        assert handle.cancel()
        assert handle.wait(SECOND)
        assert handle.state is DownloadState.CANCELLED
        assert handle.progress().bytes_done > 0
    assert rig.left


def test_a_cancelled_queue_is_resumed_by_the_next_from_where_it_was(rig: Rig) -> None:
    rig.hub.set_pace(200_000)
    with rig.manager(enable_adaptive_chunking=False, chunk_size=CHUNK) as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert until(lambda: rig.sent(WEIGHTS) > SIZE // 4)
        handle.cancel()
        assert handle.wait(SECOND)
        kept = handle.progress().bytes_done
        assert kept > SIZE // 16
        rig.hub.set_pace(None)
        assert rig.hub.requests.settle()
        rig.hub.requests.clear()
        again = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert again.wait(20)
        status = manager.get_model_queue_status(again.queue_id)
        assert status is not None
        assert status["bytes_resumed"] == kept
        assert status["bytes_downloaded"] == SIZE - kept
    assert rig.is_whole(WEIGHTS)
    assert rig.hub.requests.settle()
    # A range that is split near the end leaves what the server had sent ahead of its new end.
    assert SIZE - kept <= rig.sent(WEIGHTS) < SIZE


def test_a_queue_that_waits_for_another_process_can_be_cancelled(rig: Rig) -> None:
    request = rig.request(WEIGHTS)
    theirs = claim(request.destination.staging_dir, request.destination.staging_key, SIZE)
    try:
        with rig.manager() as manager:
            handle = manager.submit([request], model_id="m")
            assert until(lambda: handle.progress().waiting_for)
            assert handle.cancel()
            assert handle.wait(SECOND)
            assert handle.progress().waiting_for is None
    finally:
        theirs.delete()


@pytest.mark.parametrize(
    "says_size", [True, False], ids=["its source tells the size", "nobody tells the size"]
)
def test_a_file_of_unknown_size_survives_a_pause(rig: Rig, says_size: bool) -> None:
    rule = rig.hub.faults.add(Stall(after=0), path=SMALL, times=None)
    with rig.manager(stall_timeout=60.0) as manager:
        handle = manager.submit([rig.request(SMALL, size=None, digest=None)], model_id="m")
        assert rule.wait(10)
        handle.pause()
        assert until(lambda: handle.progress().connections == 0, SECOND)
        assert handle.errors() == []
        rig.hub.faults.clear()
        if not says_size:
            rig.hub.options.gzip_git_files = True
        handle.resume()
        assert handle.wait(10)
        assert handle.errors() == []
        status = manager.get_model_queue_status(handle.queue_id)
        assert status is not None
        assert (status["completion_rate"], status["total_bytes"]) == (100.0, len(rig.files[SMALL]))
    assert rig.is_whole(SMALL)


def test_of_a_cancelled_queue_every_file_is_told_once_and_finished_ones_stay(rig: Rig) -> None:
    told: list[tuple[str, str]] = []
    rig.hub.faults.add(Stall(after=1000), path=WEIGHTS, times=None)
    with rig.manager(max_concurrent_files_per_model=1, stall_timeout=60.0) as manager:
        wanted = [rig.request(SMALL), rig.request(WEIGHTS)]
        handle = manager.submit(
            wanted,
            model_id="m",
            progress_callback=lambda p: (
                told.append((p.file_path, p.status.value)) if p.status.final else None
            ),
        )
        assert until(lambda: handle.progress().files_done == 1)
        handle.cancel()
        assert handle.wait(SECOND)
        assert handle.state is DownloadState.CANCELLED
    assert sorted(told) == [(SMALL, "done"), (WEIGHTS, "cancelled")]
    assert rig.is_whole(SMALL)


def test_a_handle_shows_what_is_on_disk_of_files_in_progress(rig: Rig) -> None:
    stall = rig.hub.faults.add(Stall(after=CHUNK), path=f"*{WEIGHTS}", times=None)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert stall.wait()
        assert until(lambda: any(each.done for each in handle.staged_files().values()), 10)
        assert list(handle.staged_files()) == [WEIGHTS]
        assert not handle.is_over
        rig.hub.faults.clear()
        rig.hub.faults.release()
        assert handle.wait(20)
        assert handle.is_over
        assert handle.staged_files() == {}
