"""``on_event``: what a call, a manager and its queues tell, from real downloads."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ResolvedRevision
from huggingface_hub.errors import RemoteEntryNotFoundError
from tests.support.engine import SMALL, WEIGHTS, Rig, serve_files
from tests.support.events import EventLog, validate_event
from tests.support.hub import ServedRepo, serve_repo
from tests.support.waits import until

from hf_haul.config import KiB, Settings, Timings
from hf_haul.engine.event_stream import EventStream
from hf_haul.errors import HttpStatusError, IntegrityError
from hf_haul.filesystem import HaulFileSystem
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.localhub.testing.faults import ChangedEtag, Corrupt, Delay, Fault, Reset, Stall, Status
from hf_haul.manager import ParallelDownloadManager

SIZE = 500 * KiB
SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, max_retries=3)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path, weights=SIZE) as made:
        yield made
        made.hub.requests.settle(2)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path_factory.mktemp("source"), lfs="direct") as served:
        yield served


@pytest.fixture
def told() -> EventLog:
    return EventLog()


@pytest.fixture
def where(served: ServedRepo, tmp_path: Path, told: EventLog) -> Iterator[dict[str, Any]]:
    """What every call needs to talk to the local Hub, to write below ``tmp_path``, and to be listened to."""
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield {
            "endpoint": served.hub.url,
            "cache_dir": tmp_path / "cache",
            "token": False,
            "manager": manager,
            "on_event": told,
        }
    served.hub.faults.clear()


def bytes_of(served: ServedRepo) -> int:
    return sum((served.folder / path).stat().st_size for path in served.contents)


# ---- calls


def test_a_snapshot_tells_its_plan_its_files_their_digests_and_its_sums(
    served: ServedRepo, where: dict[str, Any], told: EventLog
) -> None:
    folder = snapshot_download("org/tiny", **where)
    told.check()
    paths, nbytes = sorted(served.contents), bytes_of(served)
    plan, done = told.events[0], told.events[-1]
    expected = {"files": len(paths), "bytes": nbytes, "files_reused": 0, "reused": 0, "path": folder}
    assert {name: plan[name] for name in expected} == expected
    assert (plan["revision"], plan["commit"]) == ("main", Path(folder).name)
    assert plan["free_disk"] > 0
    assert told.files() == sorted((state, path) for state in ("started", "done") for path in paths)
    assert sorted(event["path"] for event in told.of("verified")) == paths
    digests = {
        event["path"]: event["digest"] for event in told.of("verified") if event["algorithm"] == "sha256"
    }
    assert digests
    assert digests.items() <= served.contents.items()
    sums = {"fetched": nbytes, "reused": 0, "wasted": 0, "retries": 0, "files_fetched": len(paths)}
    assert {name: done[name] for name in sums} == sums
    assert done["rate"] == pytest.approx(nbytes / done["seconds"])
    assert {event["repo_id"] for event in told.events} == {"org/tiny"}


def test_of_what_is_cached_a_plan_and_an_end_are_told(
    served: ServedRepo, where: dict[str, Any], told: EventLog
) -> None:
    snapshot_download("org/tiny", **{**where, "on_event": None})
    for more in ({}, {"local_files_only": True}):
        told.events.clear()
        told.threads.clear()
        snapshot_download("org/tiny", **where, **more)
        told.check()
        assert told.kinds == ["plan", "progress", "done"]
        plan, done = told.events[0], told.events[-1]
        assert plan["files"] == plan["files_reused"] == done["files_reused"] == len(served.contents)
        assert plan["bytes"] == plan["reused"] == done["reused"] == bytes_of(served)
        assert done["fetched"] == done["files_fetched"] == 0


def test_a_file_that_is_half_cached_counts_what_was_there(
    served: ServedRepo, where: dict[str, Any], told: EventLog
) -> None:
    first, *rest = sorted(served.contents)
    hf_hub_download("org/tiny", first, **{**where, "on_event": None})
    snapshot_download("org/tiny", **where)
    told.check()
    size = (served.folder / first).stat().st_size
    plan, done = told.events[0], told.events[-1]
    assert (plan["files_reused"], plan["reused"]) == (1, size)
    assert (done["reused"], done["fetched"]) == (size, bytes_of(served) - size)
    assert {path for _, path in told.files()} == set(rest)


def test_a_revision_that_is_resolved_already_is_told_as_it_was_asked_for(
    served: ServedRepo, where: dict[str, Any], told: EventLog
) -> None:
    commit = Path(snapshot_download("org/tiny", **{**where, "on_event": None})).name
    both = EventLog()
    with ParallelDownloadManager(settings=SETTINGS, on_event=both) as manager:
        revision = ResolvedRevision(resolved=commit, initial="main")
        snapshot_download("org/tiny", revision=revision, **{**where, "manager": manager})
    told.check()
    plan = told.one("plan")
    assert (type(plan["revision"]), plan["revision"], plan["commit"]) == (str, "main", commit)
    assert both.one("plan") == plan


def test_one_file_is_told_as_a_snapshot_is(served: ServedRepo, where: dict[str, Any], told: EventLog) -> None:
    path = min(served.contents)
    size = (served.folder / path).stat().st_size
    for state in ("missing", "there"):
        told.events.clear()
        told.threads.clear()
        found = hf_hub_download("org/tiny", path, **where)
        told.check()
        plan, done = told.events[0], told.events[-1]
        assert (plan["files"], plan["bytes"], plan["path"]) == (1, size, found)
        assert plan["files_reused"] == (state == "there")
        assert (done["fetched"], done["reused"]) == ((size, 0) if state == "missing" else (0, size))


def test_a_dry_run_tells_only_its_plan(served: ServedRepo, where: dict[str, Any], told: EventLog) -> None:
    snapshot_download("org/tiny", dry_run=True, **where)
    hf_hub_download("org/tiny", min(served.contents), dry_run=True, **where)
    assert told.kinds == ["plan", "plan"]
    assert [event["files"] for event in told.events] == [len(served.contents), 1]
    assert all(event["files_reused"] == 0 and event["bytes"] > 0 for event in told.events)


def test_a_call_that_fails_tells_the_error_that_it_raises(
    served: ServedRepo, where: dict[str, Any], told: EventLog
) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("org/tiny", "no.bin", **where)
    told.check()
    error = told.one("error")
    assert (error["type"], error["kind"], error["file"]) == (
        "RemoteEntryNotFoundError",
        "not_found",
        "no.bin",
    )
    assert error["hint"]
    assert "no.bin" in error["message"]


def test_a_file_that_fails_is_told_before_the_call_fails(
    served: ServedRepo, where: dict[str, Any], told: EventLog
) -> None:
    path = min(path for path in served.contents if path.endswith(".safetensors"))
    served.hub.faults.add(Corrupt(100), path=path, times=None)
    with pytest.raises(IntegrityError):
        snapshot_download("org/tiny", **where)
    told.check()
    (failed,) = [event for event in told.of("file") if event["state"] == "failed"]
    assert failed["path"] == path
    assert "digest does not match" in failed["reason"]
    error = told.one("error")
    assert (error["type"], error["file"]) == ("IntegrityError", path)
    assert error["wasted"] == 2 * (served.folder / path).stat().st_size  # it came twice, for nothing


# ---- managers


def test_a_manager_tells_of_all_its_queues_with_their_labels(rig: Rig, told: EventLog) -> None:
    rig.options["on_event"] = told
    with rig.manager() as manager:
        handles = [manager.submit([rig.request(path)], model_id=f"org/{path}") for path in (WEIGHTS, SMALL)]
        assert all(handle.wait(20) for handle in handles)
    for path in (WEIGHTS, SMALL):
        told.check(f"org/{path}")
        mine = [event for event in told.events if event["repo_id"] == f"org/{path}"]
        assert mine[0]["files"] == 1
        assert mine[-1]["fetched"] == len(rig.files[path])
    assert {(event["repo_id"], event["queue_id"]) for event in told.events} == {
        (f"org/{path}", handle.queue_id) for path, handle in zip((WEIGHTS, SMALL), handles, strict=True)
    }


def test_a_call_with_such_a_manager_is_told_to_both(
    served: ServedRepo, where: dict[str, Any], told: EventLog
) -> None:
    both = EventLog()
    with ParallelDownloadManager(settings=SETTINGS, on_event=both) as manager:
        snapshot_download("org/tiny", **{**where, "manager": manager})
    told.check()
    both.check()
    assert both.events == told.events


def test_progress_comes_once_a_second_and_its_numbers_only_grow(rig: Rig, told: EventLog) -> None:
    rig.options["on_event"] = told
    rig.hub.set_pace(None, total=200_000)
    with rig.manager() as manager:
        assert manager.submit([rig.request(WEIGHTS)], model_id="m").wait(20)
    told.check()
    progress = told.of("progress")
    seconds = told.one("done")["seconds"]
    assert 3 <= len(progress) <= seconds + 3  # at once, each second, and at the end
    moving = [event for event in progress[1:-1] if event["rate"]]
    assert moving
    for event in moving:
        assert event["rate"] < 400_000
        assert event["eta"] == pytest.approx((SIZE - event["done"]) / event["rate"])
        assert event["active_files"] == len(event["active"]) <= 1
        for file in event["active"]:
            assert (file["path"], file["total"]) == (WEIGHTS, SIZE)
            assert 0 < file["done"] <= SIZE
    assert any(event["active"] and event["connections"] for event in moving)


def test_bytes_that_came_twice_are_wasted_and_count_once(rig: Rig, told: EventLog) -> None:
    rig.options["on_event"] = told
    rig.hub.faults.add(Corrupt(100), kind="cdn", covers=100)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert handle.wait(20)
        result = manager.wait_for_model_completion(handle.queue_id)
    told.check()
    done = told.one("done")
    assert done["wasted"] == SIZE
    assert done["fetched"] == 2 * SIZE
    assert result["bytes_wasted"] == SIZE


def test_what_a_queue_fails_with_is_its_last_event(rig: Rig, told: EventLog) -> None:
    rig.options["on_event"] = told
    rig.hub.faults.add(Status(404), path=WEIGHTS)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS), rig.request(SMALL)], model_id="m")
        assert handle.wait(20)
        ((_, raised),) = handle.errors()
    assert isinstance(raised, HttpStatusError)
    told.check()
    error = told.events[-1]
    assert (error["type"], error["file"], error["files_failed"], error["files_fetched"]) == (
        "HttpStatusError", WEIGHTS, 1, 1,
    )  # fmt: skip


def test_a_cancelled_queue_tells_its_files_and_ends_in_an_error(rig: Rig, told: EventLog) -> None:
    rig.options["on_event"] = told
    rig.hub.set_pace(None, total=100_000)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        until(lambda: ("started", WEIGHTS) in told.files())
        handle.cancel()
        assert handle.wait(20)
    told.check()
    assert ("cancelled", WEIGHTS) in told.files()
    assert (told.events[-1]["type"], told.events[-1]["files_failed"]) == ("DownloadCancelledError", 0)


# ---- callbacks


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3)], ids=["an error", "an exit"])
def test_a_callback_that_raises_hurts_nothing_and_is_called_again(
    served: ServedRepo, where: dict[str, Any], error: BaseException
) -> None:
    told: list[str] = []

    def listen(event: dict[str, Any]) -> None:
        told.append(event["ev"])
        raise error

    snapshot_download("org/tiny", **{**where, "on_event": listen})
    assert told[0] == "plan"
    assert told[-1] == "done"


def test_a_mistake_while_telling_costs_an_event_and_no_download(
    served: ServedRepo,
    where: dict[str, Any],
    told: EventLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("plan", "file", "verified", "progress", "note_end", "done"):
        monkeypatch.setattr(EventStream, name, lambda *_args, **_how: 1 / 0)
    folder = snapshot_download("org/tiny", **where)
    assert len([path for path in Path(folder).rglob("*") if path.is_file()]) == len(served.contents)
    assert told.events == []
    assert "an event is lost" in caplog.messages


def test_a_callback_that_blocks_holds_up_nothing(served: ServedRepo, where: dict[str, Any]) -> None:
    released = threading.Event()
    listen = {**where, "on_event": lambda _event: released.wait(30)}
    try:
        began = time.monotonic()
        folder = snapshot_download("org/tiny", **listen)
        assert len([path for path in Path(folder).rglob("*") if path.is_file()]) == len(served.contents)
        assert 2.0 <= time.monotonic() - began < 3.5  # the last two seconds for the callback
        began = time.monotonic()
        with pytest.raises(RemoteEntryNotFoundError):
            hf_hub_download("org/tiny", "no.bin", **listen)
        assert time.monotonic() - began < 3.0
    finally:
        released.set()


def test_a_callback_that_is_none_is_refused_at_the_call(where: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="on_event must be a function that takes a dict, not 'print'"):
        snapshot_download("org/tiny", **{**where, "on_event": "print"})
    with pytest.raises(TypeError, match="on_event must be a function"):
        ParallelDownloadManager(on_event=7)  # type: ignore[arg-type]


def test_two_queues_of_one_name_keep_their_reports_apart(rig: Rig) -> None:
    reports: list[tuple[str, int]] = []
    entered, released = threading.Event(), threading.Event()

    def listen(event: dict[str, Any]) -> None:
        entered.set()
        released.wait(30)
        if event["ev"] == "progress":
            reports.append((event["queue_id"], event["done"]))

    rig.options["on_event"] = listen
    with rig.manager() as manager:
        handles = [manager.submit([rig.request(path)], model_id="m") for path in (WEIGHTS, SMALL)]
        assert entered.wait(10)
        assert until(lambda: all(handle.progress().state.final for handle in handles))
        released.set()
        assert all(handle.wait(20) for handle in handles)
        assert until(lambda: len(reports) == 2)
    assert sorted(reports) == sorted(
        (handle.queue_id, len(rig.files[path]))
        for handle, path in zip(handles, (WEIGHTS, SMALL), strict=True)
    )


def test_a_callback_may_use_the_manager(rig: Rig) -> None:
    seen: list[dict[str, Any]] = []
    rig.options["on_event"] = lambda _event: seen.append(manager.get_download_stats())  # it takes every lock
    with rig.manager() as manager:
        assert manager.submit([rig.request(WEIGHTS)], model_id="m").wait(20)
    assert seen


def test_without_a_listener_there_is_no_thread_for_one(rig: Rig) -> None:
    before = set(threading.enumerate())
    names: set[str] = set()
    with rig.manager() as manager:
        manager.submit(
            [rig.request(WEIGHTS)],
            model_id="m",
            progress_callback=lambda _progress: names.update(
                each.name for each in set(threading.enumerate()) - before
            ),
        ).wait(20)
    assert any(name.startswith("hf-haul-progress") for name in names)
    assert not any(name.startswith("hf-haul-on-event") for name in names)


# ---- waits


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of waits: every line at the level that people see who ask for it."""
    waits = [record for record in caplog.records if record.name == "hf_haul.waits"]
    assert {record.levelno for record in waits} <= {logging.INFO}
    others = [record.getMessage() for record in caplog.records if record not in waits]
    assert not [text for text in others if re.search(r"retry|asking again|trying again|waiting", text)], (
        others
    )
    return [record.getMessage() for record in waits]


@pytest.mark.parametrize("kind", ["info", "tree"])
@pytest.mark.parametrize(("status", "reason"), [(429, "rate_limit"), (503, "server_busy")])
def test_a_hub_that_is_busy_while_the_files_are_listed_is_told_before_the_plan(
    served: ServedRepo,
    where: dict[str, Any],
    told: EventLog,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    status: int,
    reason: str,
) -> None:
    caplog.set_level(logging.INFO, "hf_haul")
    served.hub.faults.add(Status(status, retry_after=1), kind=kind)
    before = time.time()
    settings = replace(SETTINGS, timings=Timings(ask_again=(0.1,) * 5))
    with ParallelDownloadManager(settings=settings) as manager:
        snapshot_download("org/tiny", **{**where, "manager": manager})
    told.check()
    assert told.kinds[:2] == ["wait", "plan"]
    wait = told.one("wait")
    host = served.hub.url.partition("://")[2]
    # The first question for the commit is followed by another one that counts its attempts.
    attempts, end = (
        ((None, None), "asked again in 1 s") if kind == "info" else ((1, 5), "retry 1 of 5 in 1 s")
    )
    assert (wait["reason"], wait["host"], (wait["attempt"], wait["attempts"])) == (reason, host, attempts)
    assert before + 1 <= wait["until"] <= before + 5
    assert told.one("done")["retries"] == 1
    (line,) = lines(caplog)
    assert line == wait["message"]
    assert line.startswith(host)
    assert line.endswith(end)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(Status(429, retry_after=1), "rate_limit", id="429"),
        pytest.param(Status(503), "server_busy", id="503"),
        pytest.param(Reset(), "network", id="reset"),
        pytest.param(Stall(after=1000), "stall", id="stall"),
    ],
)
def test_each_retry_of_a_file_is_one_event_and_one_line(
    rig: Rig, told: EventLog, caplog: pytest.LogCaptureFixture, fault: Fault, reason: str
) -> None:
    caplog.set_level(logging.INFO, "hf_haul")
    rig.options["on_event"] = told
    rig.hub.faults.add(fault, kind="cdn", times=1)
    with rig.manager(max_concurrent_downloads=1, stall_timeout=0.5) as manager:
        assert manager.submit([rig.request(WEIGHTS)], model_id="m").wait(30)
    told.check()
    (wait,) = told.of("wait")
    assert (wait["reason"], wait["attempt"], wait["attempts"], wait["path"]) == (reason, 1, 8, WEIGHTS)
    assert wait["host"]
    assert wait["host"].partition(":")[0] in wait["message"]
    assert ("no byte for" in wait["message"]) == (reason == "stall")
    assert lines(caplog) == [wait["message"]]
    assert told.one("done")["retries"] == 1


def test_what_is_waited_for_stands_in_the_progress_and_no_longer_than_it_lasts(
    rig: Rig, told: EventLog
) -> None:
    rig.options["on_event"] = told
    rig.hub.faults.add(Status(429, retry_after=2), kind="cdn", times=1)
    with rig.manager(max_concurrent_downloads=1) as manager:
        assert manager.submit([rig.request(WEIGHTS)], model_id="m").wait(30)
    told.check()
    waiting = [event for event in told.of("progress") if event["waits"]]
    assert waiting
    for event in waiting:
        (wait,) = event["waits"]
        assert wait["reason"] == "rate_limit"
        assert event["t"] <= wait["until"] + 1
        assert event["rate"] == 0.0 or event["done"]
    assert told.of("progress")[-1]["waits"] == []


def test_a_bandwidth_limit_is_told_once(rig: Rig, told: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hf_haul")
    rig.options["on_event"] = told
    with rig.manager(max_bandwidth_bps=200_000) as manager:
        assert manager.submit([rig.request(WEIGHTS)], model_id="m").wait(30)
    told.check()
    wait = told.one("wait")
    assert (wait["reason"], wait["until"], wait["host"]) == ("bandwidth_limit", None, None)
    assert lines(caplog) == ["the bandwidth limit of 200 kB/s holds the download back"]
    assert any(event["waits"] for event in told.of("progress"))


def test_a_pause_is_told_until_it_is_over(rig: Rig, told: EventLog) -> None:
    rig.options["on_event"] = told
    rig.hub.set_pace(None, total=400_000)
    with rig.manager() as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="org/m")
        assert until(lambda: ("started", WEIGHTS) in told.files())
        handle.pause()
        assert until(lambda: any(event["waits"] for event in told.of("progress")))
        assert told.one("wait")["message"] == "org/m is paused"
        handle.resume()
        assert handle.wait(30)
    told.check()
    assert [event["reason"] for event in told.of("wait")] == ["paused"]
    assert told.of("progress")[-1]["waits"] == []


def test_another_process_that_fetches_the_file_is_told_by_its_number_and_program(
    rig: Rig, told: EventLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "hf_haul")
    monkeypatch.setattr("hf_haul.storage.adoption._is_this_process", lambda _: False)
    rig.hub.set_pace(None, total=200_000)
    with rig.manager(stall_timeout=30.0) as first:
        theirs = first.submit([rig.request(WEIGHTS)], model_id="theirs")
        assert until(lambda: theirs.progress().bytes_transferred)
        rig.options["on_event"] = told
        with rig.manager() as second:
            ours = second.submit([rig.request(WEIGHTS)], model_id="ours")
            assert ours.wait(30)
        assert theirs.wait(30)
    told.check()
    wait = told.one("wait")
    assert (wait["reason"], wait["pid"], wait["path"]) == ("another_process", os.getpid(), WEIGHTS)
    assert wait["process"]
    assert f"process {os.getpid()} ({wait['process']})" in wait["message"]
    assert lines(caplog) == [wait["message"]]
    done = told.one("done")
    assert (done["fetched"], done["reused"], done["files_reused"]) == (0, SIZE, 1)
    assert any(
        each["reason"] == "another_process" for event in told.of("progress") for each in event["waits"]
    )


def test_a_connection_that_brings_nothing_is_told_before_it_is_given_up(rig: Rig, told: EventLog) -> None:
    rig.tune(worth_a_word=0.3)
    rig.options["on_event"] = told
    rig.hub.faults.add(Stall(after=1000), kind="cdn", times=1)
    with rig.manager(max_concurrent_downloads=1, stall_timeout=60.0) as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert until(lambda: told.of("wait"))
        rig.hub.faults.clear()
        assert handle.wait(30)
    told.check()
    wait = told.one("wait")
    assert (wait["reason"], wait["attempt"], wait["path"]) == ("stall", None, WEIGHTS)
    assert wait["until"] > time.time() + 30
    assert "sends nothing" in wait["message"]


def test_a_hub_that_does_not_answer_is_told_after_a_while(
    served: ServedRepo, where: dict[str, Any], told: EventLog
) -> None:
    served.hub.faults.add(Delay(2), kind="tree")
    settings = replace(SETTINGS, timings=Timings(worth_a_word=0.2))
    with ParallelDownloadManager(settings=settings) as manager:
        snapshot_download("org/tiny", **{**where, "manager": manager})
    told.check()
    wait = told.one("wait")
    assert (wait["reason"], wait["host"]) == ("network", served.hub.url.partition("://")[2])
    assert "has not answered yet" in wait["message"]
    assert told.one("done")["retries"] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_tells_of_its_own_downloads(rig: Rig, told: EventLog) -> None:
    rig.options["on_event"] = told
    with rig.manager() as manager:
        assert manager.submit([rig.request(SMALL)], model_id="parent").wait(20)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                told.events.clear()
                told.threads.clear()
                handle = manager.submit([rig.request(WEIGHTS)], model_id="child")
                if handle.wait(20):
                    told.check()
                    code = 0 if {event["repo_id"] for event in told.events} == {"child"} else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert (rig.folder / WEIGHTS).read_bytes() == rig.files[WEIGHTS]
    told.check()
    assert {event["repo_id"] for event in told.events} == {"parent"}


def test_a_read_that_waits_says_so_in_one_line_though_nobody_listens(
    served: ServedRepo, caplog: pytest.LogCaptureFixture
) -> None:
    fs = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True)
    caplog.set_level(logging.INFO, "hf_haul")
    path = min(path for path in served.contents if path.endswith(".safetensors"))
    served.hub.faults.add(Status(503, retry_after=1), kind="resolve", path=path, method="GET")
    assert fs.cat_file(f"org/tiny/{path}") == (served.folder / path).read_bytes()
    served.hub.faults.clear()
    (line,) = lines(caplog)
    host = served.hub.url.partition("://")[2]
    assert line.startswith(f"org/tiny/{path}: {host} is busy")
    assert line.endswith("retry 1 of 8 in 1 s")


@pytest.mark.parametrize("kind", ["info", "tree", "resolve"])  # lfs="direct": there is no other host
def test_a_manager_tells_what_reads_through_it_wait_for(
    served: ServedRepo, told: EventLog, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = min(path for path in served.contents if path.endswith(".safetensors"))
    with ParallelDownloadManager(settings=SETTINGS, on_event=told) as manager:
        fs = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        served.hub.faults.add(Status(429, retry_after=1), kind=kind, times=1)
        assert fs.cat_file(f"org/tiny/{path}") == (served.folder / path).read_bytes()
        served.hub.faults.clear()
    (event,) = told.events
    validate_event(event)
    assert (event["ev"], event["reason"], event["attempt"]) == ("wait", "rate_limit", 1)
    assert (event["path"] is not None) == (kind == "resolve")


def test_a_second_request_for_the_same_bytes_wastes_what_one_of_them_brought(
    rig: Rig, told: EventLog
) -> None:
    rig.options["on_event"] = told
    rig.tune(worth_hedging=0.5)
    rig.hub.set_pace(None, total=400_000)  # shared by those who hedge the only part
    with rig.manager(part_size=SIZE, stall_timeout=30.0) as manager:
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m")
        assert handle.wait(30)
    told.check()
    done = told.one("done")
    assert done["wasted"] == handle.progress().bytes_wasted > 0
    assert done["fetched"] == SIZE + done["wasted"]


def test_a_source_that_changes_its_file_wastes_what_came_of_the_old_one(rig: Rig, told: EventLog) -> None:
    rig.options["on_event"] = told
    rig.hub.faults.add(ChangedEtag(), kind="cdn", nth=3, times=None)
    with rig.manager(max_concurrent_downloads=1) as manager:
        assert manager.submit([rig.request(WEIGHTS, digest=None, etag=None)], model_id="m").wait(30)
    told.check()
    done = told.one("done")
    assert done["wasted"] > 0
    assert done["fetched"] == SIZE + done["wasted"]
