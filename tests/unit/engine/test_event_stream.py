"""The events of one call: what is told when, with which numbers, and what never happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from tests.support.clock import FakeClock
from tests.support.events import SCHEMA, EventLog

from hf_haul.digests import Digest
from hf_haul.engine.event_stream import EventStream
from hf_haul.engine.events import EventFeed
from hf_haul.engine.results import QueueStatus
from hf_haul.errors import DiskFullError
from hf_haul.task import DownloadState

NOTHING = QueueStatus(
    "q", "org/m", DownloadState.RUNNING, "NORMAL", files_total=2, files_done=0, files_failed=0, files_active=0,
    files_present=0, bytes_total=100, bytes_done=0, bytes_transferred=0, bytes_resumed=0, bytes_wasted=0, duration=0.0,
    speed_bps=0.0, average_speed_bps=0.0, peak_speed_bps=0.0, completion_rate=0.0, connections=0, peak_connections=0,
    retries=0, seconds_limited=0.0, waiting_for=None, failures=(),
)  # fmt: skip


class Bench:
    """A stream, its clock, and what it told."""

    def __init__(self) -> None:
        self.told = EventLog()
        self.clock = FakeClock()
        self.feed = EventFeed(self.told)
        self.stream = EventStream([self.feed], "org/m", clock=self.clock, wall=self.clock)

    def progress(
        self, *active: tuple[str, int, int | None], known: bool = True, **changes: Any
    ) -> dict[str, Any]:
        """Tell how far it is, and return what was told."""
        self.stream.progress(replace(NOTHING, **changes), active, sizes_known=known)
        return self.last()

    def last(self) -> dict[str, Any]:
        """The event that was told last."""
        assert self.feed.flush(end=False)  # the next event is told by the same thread
        return self.told.events[-1]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    assert made.feed.flush()


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_event_of_the_schema_says_what_it_is_and_what_it_must_have() -> None:
    for name in SCHEMA["properties"]["ev"]["enum"]:
        event = SCHEMA["$defs"][name]
        assert event["description"]
        assert "ev" in event["required"]
        assert event["properties"]["ev"] == {"const": name}


def test_all_events_of_a_call_are_those_of_the_schema(bench: Bench) -> None:
    stream = bench.stream
    stream.plan(
        files=3, nbytes=110, files_reused=1, reused=10, free_disk=5, revision="main", commit="c", path="/x"
    )
    stream.file("started", "a.bin", None)
    bench.progress(("a.bin", 10, 50), bytes_done=10)
    stream.verified("a.bin", 50, Digest("sha256", "0" * 64))
    stream.file("failed", "b.bin", 50, OSError("no\nsuch  file"))
    bench.progress(bytes_done=100, files_done=2)
    stream.note_end(replace(NOTHING, files_done=2, bytes_done=100, bytes_transferred=120, bytes_wasted=20))
    stream.done("/x")
    bench.last()
    bench.told.check()
    assert bench.told.of("file")[1]["reason"] == "no"
    done = bench.told.one("done")
    assert (done["fetched"], done["wasted"], done["reused"], done["files_reused"]) == (120, 20, 10, 1)


def test_what_is_done_never_goes_back_and_never_passes_the_total(bench: Bench) -> None:
    bench.stream.plan(files=2, nbytes=100)
    told = [bench.progress(bytes_done=done)["done"] for done in (10, 60, 0, 30, 70, 120)]
    assert told == [10, 60, 60, 60, 70, 100]


def test_a_total_is_told_once_every_size_is_known(bench: Bench) -> None:
    bench.stream.plan(files=2, nbytes=None, files_reused=1, reused=7)
    told = [
        bench.progress(known=known, bytes_total=size)["total"]
        for known, size in ((False, 5), (True, 9), (True, 30))
    ]
    assert told == [None, 16, 16]


def test_a_rate_is_that_of_the_last_seconds_and_nothing_if_nothing_comes(bench: Bench) -> None:
    bench.stream.plan(files=1, nbytes=1000)
    rates, etas = [], []
    for transferred in (0, 100, 200, 200, 200, 200, 200, 200):
        event = bench.progress(bytes_done=transferred, bytes_transferred=transferred)
        rates.append(event["rate"])
        etas.append(event["eta"])
        bench.clock.advance(1.0)
    assert rates == [0.0, 100.0, 100.0, pytest.approx(200 / 3), 50.0, 40.0, 20.0, 0.0]
    assert etas == [None, 9.0, 8.0, pytest.approx(12.0), 16.0, 20.0, 40.0, None]


def test_bytes_of_earlier_calls_are_no_speed(bench: Bench) -> None:
    bench.stream.plan(files=1, nbytes=1000)
    bench.progress(bytes_done=0)
    bench.clock.advance(1.0)
    assert bench.progress(bytes_done=900, bytes_resumed=900)["rate"] == 0.0


def test_of_many_files_in_progress_those_with_the_most_left_are_named(bench: Bench) -> None:
    bench.stream.plan(files=20, nbytes=None)
    event = bench.progress(
        *((f"{left:02}.bin", 100 - left, 100) for left in range(1, 19)), ("x.bin", 3, None)
    )
    assert event["active_files"] == 19
    assert [file["path"] for file in event["active"]] == [f"{left:02}.bin" for left in range(18, 2, -1)]


@pytest.mark.parametrize(
    ("steps", "due"),
    [
        pytest.param([0.0, 0.4, 0.7, 0.9, 1.0], [True, False, False, False, True], id="once a second"),
        pytest.param([0.0, 1.3, 2.0, 2.4, 3.1], [True, True, True, False, True], id="in step with the clock"),
        pytest.param([0.0, 10.0, 10.1, 10.4, 10.6], [True, True, False, False, True], id="after a pause"),
    ],
)
def test_progress_is_due_once_a_second(bench: Bench, steps: list[float], due: list[bool]) -> None:
    began, found = bench.clock(), []
    for step in steps:
        bench.clock.advance(began + step - bench.clock())
        found.append(bench.stream.is_due())
    assert found == due


@pytest.mark.parametrize(
    "end", [EventStream.done, lambda stream: stream.error(OSError("x"))], ids=["done", "error"]
)
def test_nothing_is_told_after_the_end(bench: Bench, end: Callable[[EventStream], None]) -> None:
    bench.stream.plan(files=1, nbytes=1)
    end(bench.stream)
    told = list(bench.told.events) if bench.last() else []
    bench.progress(bytes_done=1)
    bench.stream.file("done", "a.bin", 1)
    bench.stream.done()
    assert bench.last() is told[-1]
    assert not bench.stream.is_due()


def test_an_error_has_its_first_line_and_what_to_do(bench: Bench) -> None:
    bench.stream.error(DiskFullError("No space\nleft"), "a.bin")
    event = bench.last()
    assert (event["type"], event["message"], event["file"]) == ("DiskFullError", "No space", "a.bin")
    assert event["kind"] == "disk"
    bench.told.check()


def test_two_listeners_get_dicts_of_their_own() -> None:
    first, second = EventLog(), EventLog()
    feeds = [EventFeed(first), EventFeed(second)]
    EventStream(feeds, "org/m").plan(files=1, nbytes=1)
    assert all(feed.flush() for feed in feeds)
    first.events[0]["files"] = "mine"
    assert second.events[0]["files"] == 1


class Gate:
    """A listener that blocks in its first call until it is opened."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.told: list[tuple[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.entered.set()
        assert self.open.wait(10)
        self.told.append((event["ev"], event.get("done", event.get("path"))))


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


def test_of_reports_that_wait_the_newest_is_told_and_all_else_in_order(gate: Gate) -> None:
    feed = EventFeed(gate)
    stream = EventStream([feed], "org/m")
    stream.plan(files=1, nbytes=100)
    assert gate.entered.wait(10)
    stream.progress(replace(NOTHING, bytes_done=10), [], sizes_known=True)
    stream.file("started", "a.bin", 1)
    stream.progress(replace(NOTHING, bytes_done=20), [], sizes_known=True)
    stream.file("done", "a.bin", 1)
    gate.open.set()
    assert feed.flush()
    assert gate.told == [("plan", None), ("file", "a.bin"), ("progress", 20), ("file", "a.bin")]


def test_cancelled_files_are_no_failures_whether_they_were_told_of_or_only_counted(bench: Bench) -> None:
    bench.stream.plan(files=30, nbytes=100)
    bench.stream.file("cancelled", "a.bin", 1)
    bench.stream.note_cancelled(28)
    bench.stream.note_end(replace(NOTHING, files_failed=30))
    assert bench.stream.sums()["files_failed"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_forgets_what_waited_and_tells_what_is_new(gate: Gate) -> None:
    feed = EventFeed(gate)
    stream = EventStream([feed], "org/m")
    stream.plan(files=1, nbytes=100)
    assert gate.entered.wait(10)
    stream.file("started", "parent.bin", 1)
    pid = os.fork()
    if not pid:
        told = False
        try:
            gate.open.set()
            stream.file("started", "child.bin", 1)
            told = feed.flush() and gate.told == [("file", "child.bin")]
        finally:
            os._exit(0 if told else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    gate.open.set()
    assert feed.flush()
    assert gate.told == [("plan", None), ("file", "parent.bin")]
