"""Progress callbacks and observers of a running manager: how often, what last, and what they may do."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import SMALL, WEIGHTS, Rig, serve_files
from tests.support.waits import SECOND, until

from hf_haul.config import KiB
from hf_haul.engine.events import DownloadEvent
from hf_haul.localhub.testing.faults import Reset, Status
from hf_haul.manager import DownloadHandle, ParallelDownloadManager
from hf_haul.task import DownloadProgress, DownloadState

SIZE = 500 * KiB


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path, weights=SIZE) as made:
        yield made
        made.hub.requests.settle(2)


class Told:
    """Remembers what a callback was told, and when."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, DownloadProgress]] = []

    def __call__(self, progress: DownloadProgress) -> None:
        self.messages.append((time.monotonic(), progress))

    def of(self, path: str) -> list[DownloadProgress]:
        return [progress for _, progress in self.messages if progress.file_path == path]


def test_each_file_is_told_at_most_ten_times_a_second_and_its_end_comes_last(rig: Rig) -> None:
    told = Told()
    rig.hub.set_pace(None, total=400_000)
    with rig.manager() as manager:
        handle = manager.submit(
            [rig.request(WEIGHTS), rig.request(SMALL)], model_id="org/m", progress_callback=told
        )
        assert handle.wait(20)
    times = defaultdict(list)
    for at, progress in told.messages:
        if not progress.status.final:
            times[progress.file_path].append(at)
    assert len(times[WEIGHTS]) >= 5
    for path, moments in times.items():
        windows = [sum(at <= other < at + 1 for other in moments) for at in moments]
        assert max(windows) <= 11, path  # a tenth of a second, measured by another thread's clock
    for path in (WEIGHTS, SMALL):
        messages = told.of(path)
        assert [m.status.final for m in messages].count(True) == 1
        last = messages[-1]
        assert (last.status, last.bytes_downloaded, last.total_bytes) == (
            DownloadState.DONE, len(rig.files[path]), len(rig.files[path]),
        )  # fmt: skip
        assert (last.speed_bps, last.eta_seconds, last.model_id) == (0.0, 0.0, "org/m")
    done = [m.bytes_downloaded for m in told.of(WEIGHTS)]
    assert done == sorted(done)
    moving = [m for m in told.of(WEIGHTS) if m.status is DownloadState.RUNNING and m.speed_bps]
    assert moving
    assert all(m.eta_seconds is not None and m.eta_seconds >= 0 for m in moving)


def test_a_pause_and_a_resume_are_told(rig: Rig) -> None:
    told = Told()
    rig.hub.set_pace(None, total=200_000)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m", progress_callback=told)
        assert until(lambda: handle.progress().bytes_done > 20_000)
        handle.pause()
        assert until(lambda: told.of(WEIGHTS)[-1].status is DownloadState.PAUSED, 2)
        handle.resume()
        assert until(lambda: told.of(WEIGHTS)[-1].status is DownloadState.RUNNING, 2)
        rig.hub.set_pace(None)
        assert handle.wait(20)
    assert told.of(WEIGHTS)[-1].status is DownloadState.DONE


def test_a_resumed_file_starts_from_what_is_there(rig: Rig) -> None:
    rig.hub.set_pace(None, total=300_000)
    told = Told()
    with rig.manager() as manager:
        first = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert until(lambda: first.progress().bytes_transferred > SIZE // 4)
        first.cancel()
        assert first.wait(SECOND)
        kept = first.progress().bytes_done
        again = manager.submit([rig.request(WEIGHTS)], model_id="m", progress_callback=told)
        assert until(lambda: again.progress().bytes_transferred > 0)
        rig.hub.set_pace(None)
        assert again.wait(20)
    assert all(m.bytes_downloaded >= kept for m in told.of(WEIGHTS) if m.bytes_downloaded)


@pytest.mark.parametrize(
    ("fault", "status"), [(None, "done"), (Status(404), "failed")], ids=["in place", "failed"]
)
def test_the_last_message_says_how_it_ended(rig: Rig, fault: Any, status: str) -> None:
    if fault is not None:
        rig.hub.faults.add(fault, path=SMALL, times=None)
    told = Told()
    with rig.manager() as manager:
        handle = manager.submit([rig.request(SMALL)], model_id="m", progress_callback=told)
        assert handle.wait(20)
    assert [m.status.value for m in told.of(SMALL) if m.status.final] == [status]


def test_a_file_of_unknown_size_shows_its_progress(rig: Rig) -> None:
    rig.hub.options.gzip_git_files = False
    told = Told()
    with rig.manager() as manager:
        handle = manager.submit(
            [rig.request(SMALL, size=None, digest=None)], model_id="m", progress_callback=told
        )
        assert handle.wait(20)
    assert told.of(SMALL)[-1].total_bytes == len(rig.files[SMALL])


# ---- what a callback may do


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_callback_that_raises_hurts_nobody(rig: Rig, error: type[BaseException]) -> None:
    calls: list[str] = []

    def callback(progress: DownloadProgress) -> None:
        calls.append(progress.file_path)
        raise error

    with rig.manager() as manager:
        wanted = [rig.request(WEIGHTS), rig.request(SMALL)]
        handle = manager.submit(wanted, model_id="m", progress_callback=callback)
        assert handle.wait(20)
        assert handle.errors() == []
    assert {WEIGHTS, SMALL} == set(calls)
    assert rig.is_whole(WEIGHTS)


def test_a_callback_that_blocks_hurts_nobody(rig: Rig) -> None:
    release, entered = threading.Event(), threading.Event()
    last: list[DownloadProgress] = []

    def callback(progress: DownloadProgress) -> None:
        entered.set()
        assert release.wait(30)
        last.append(progress)

    try:
        with rig.manager() as manager:
            blocked = manager.submit([rig.request(SMALL)], model_id="m", progress_callback=callback)
            assert entered.wait(10)
            other = manager.submit([rig.request(WEIGHTS)], model_id="m")
            assert other.wait(20)
            assert rig.is_whole(WEIGHTS)
            started = time.monotonic()
            assert blocked.wait(0.1)  # the download is over, whatever the callback does
            assert time.monotonic() - started < SECOND
            assert blocked.state is DownloadState.DONE
            assert manager.wait_for_model_completion(blocked.queue_id, 0.1)["success"]
            started = time.monotonic()
            manager.shutdown()
            assert time.monotonic() - started < 5
    finally:
        release.set()
    assert until(lambda: last and last[-1].status is DownloadState.DONE)


def _cancels(manager: ParallelDownloadManager, handle: DownloadHandle, _rig: Rig) -> None:
    assert manager.cancel_model_download(handle.queue_id)
    assert handle.wait(SECOND)


def _pauses_and_resumes(manager: ParallelDownloadManager, handle: DownloadHandle, _rig: Rig) -> None:
    manager.pause_downloads()
    manager.resume_downloads()


def _submits_and_waits(manager: ParallelDownloadManager, _handle: DownloadHandle, rig: Rig) -> None:
    another = manager.submit([rig.request(SMALL)], model_id="another")
    assert another.wait(10)


def _waits_for_itself(manager: ParallelDownloadManager, handle: DownloadHandle, rig: Rig) -> None:
    rig.hub.set_pace(None)
    assert manager.wait_for_model_completion(handle.queue_id, 20)["success"]


def _asks(manager: ParallelDownloadManager, handle: DownloadHandle, _rig: Rig) -> None:
    assert manager.get_model_queue_status(handle.queue_id)
    assert manager.get_download_stats()["queues"] == 1
    assert manager.optimize_performance()["sources"]
    manager.max_bandwidth_bps = "100MB/s"


def _shuts_down(manager: ParallelDownloadManager, _handle: DownloadHandle, rig: Rig) -> None:
    manager.shutdown(wait=False)


def _unsubscribes(manager: ParallelDownloadManager, _handle: DownloadHandle, _rig: Rig) -> None:
    manager.events.subscribe(lambda event: None)()


@pytest.mark.parametrize(
    ("action", "state"),
    [
        pytest.param(_cancels, DownloadState.CANCELLED, id="cancel"),
        pytest.param(_pauses_and_resumes, DownloadState.DONE, id="pause and resume"),
        pytest.param(_submits_and_waits, DownloadState.DONE, id="submit and wait"),
        pytest.param(_waits_for_itself, DownloadState.DONE, id="wait for its own queue"),
        pytest.param(_asks, DownloadState.DONE, id="ask and tune"),
        pytest.param(_shuts_down, DownloadState.CANCELLED, id="shut down"),
        pytest.param(_unsubscribes, DownloadState.DONE, id="subscribe and unsubscribe"),
    ],
)
@pytest.mark.parametrize("through", ["progress callback", "observer"])
def test_a_callback_may_call_back_into_the_manager(
    rig: Rig, through: str, action: Callable[[ParallelDownloadManager, DownloadHandle, Rig], None], state: Any
) -> None:
    rig.hub.set_pace(None, total=300_000)
    handles: list[DownloadHandle] = []
    submitted, finished = threading.Event(), threading.Event()
    wrong: list[BaseException] = []

    def callback(progress: DownloadProgress | DownloadEvent) -> None:
        if finished.is_set() or (isinstance(progress, DownloadProgress) and progress.status.final):
            return
        assert submitted.wait(10)
        finished.set()
        try:
            action(manager, handles[0], rig)
        except BaseException as error:
            wrong.append(error)
        done.set()

    done = threading.Event()
    with rig.manager() as manager:
        if through == "observer":
            manager.events.subscribe(callback)
        handles.append(
            manager.submit(
                [rig.request(WEIGHTS)],
                model_id="m",
                progress_callback=callback if through != "observer" else None,
            )
        )
        submitted.set()
        assert done.wait(20)
        rig.hub.set_pace(None)
        assert handles[0].wait(20)
        assert wrong == []
        assert handles[0].state is state


# ---- observers


def test_an_observer_is_told_the_life_of_a_queue(rig: Rig) -> None:
    seen: list[DownloadEvent] = []
    # In the body: a connection that served before and is reset without an answer is replaced in silence.
    rig.hub.faults.add(Reset(after=1000), path=WEIGHTS, kind="cdn", times=1)
    rig.hub.faults.add(Status(404), path=SMALL, times=None)
    with rig.manager() as manager:
        manager.events.subscribe(seen.append)
        handle = manager.submit([rig.request(WEIGHTS), rig.request(SMALL)], model_id="org/m")
        assert handle.wait(20)
        assert manager.events.flush()
    kinds = [event.kind for event in seen]
    assert kinds[0] == "queue_started"
    assert kinds[-1] == "queue_done"
    assert {"file_retried", "file_done", "file_failed"} == set(kinds[1:-1])
    assert {event.model_id for event in seen} == {"org/m"}
    failed = next(event for event in seen if event.kind == "file_failed")
    assert failed.file_path == SMALL
    assert "404" in str(failed.details["error"])
    assert seen[-1].details == {"failed": 1}
    assert seen[0].details["files"] == 2


def test_an_observer_is_told_of_every_file_of_a_cancelled_queue(rig: Rig) -> None:
    seen: list[tuple[str, str | None]] = []
    with rig.manager() as manager:
        manager.pause_downloads()
        manager.events.subscribe(lambda event: seen.append((event.kind, event.file_path)))
        handle = manager.submit([rig.request(WEIGHTS), rig.request(SMALL)], model_id="org/m")
        handle.cancel()
        assert handle.wait(SECOND)
        assert manager.events.flush()
    assert seen[0] == ("queue_started", None)
    assert sorted(seen[1:-1]) == [("file_cancelled", SMALL), ("file_cancelled", WEIGHTS)]
    assert seen[-1] == ("queue_done", None)
