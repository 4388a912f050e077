"""What is told of all nodes of a distribution, in one place."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support import event_samples
from tests.support.event_samples import ended, progress, waiting
from tests.support.events import EventLog, validate_event

from hf_haul.cluster.distribution import DistributionError
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.progress import JobProgress
from hf_haul.cluster.results import NodeResult
from hf_haul.errors import DiskFullError
from hf_haul.hub.metadata import ListedFile

COMMIT = "c" * 40
PLAN = JobPlan(
    job_id="job-1",
    endpoint="http://h",
    repo_type="model",
    repo_id="org/model",
    revision="main",
    commit=COMMIT,
    files={"a": ListedFile(600, "a" * 40), "b": ListedFile(400, "b" * 40), "c": ListedFile(9, "e" * 40)},
    selection=("a", "b"),
    stripe_bytes=100,
    nodes=("one", "two"),
)


class Bar:
    """Stands for a bar of the caller's."""

    made: list[Bar]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.n = 0
        self.closed = False
        Bar.made.append(self)

    def update(self, count: int) -> None:
        self.n += count

    def close(self) -> None:
        self.closed = True


def tick(told: JobProgress) -> None:
    """Have it told how far it is, and wait until it was: of reports that wait, only the newest is delivered."""
    told.tick()
    if told._feed is not None:
        assert told._feed.flush(end=False)


@pytest.fixture
def log() -> EventLog:
    Bar.made = []
    return EventLog()


def test_events_of_nodes_have_their_name_and_those_of_all_have_none(log: EventLog) -> None:
    told = JobProgress("org/model", log)
    with told.telling():
        told.begin(PLAN)
        told.note("one", progress(250, fetched=250, rate=9.0, connections=3))
        tick(told)
        told.note("one", ended(fetched=1000, bytes_by_source={"http://h": 600, "http://two": 400}))
        told.note("two", progress(1000, fetched=1000, connections=2))
        told.note("two", ended(fetched=1000, wasted=1))
        told.end({"one": NodeResult("/1", 600, 400), "two": NodeResult("/2", 400, 601)}, None)
    for event in log.events:
        validate_event(event)
    of_all = [event for event in log.events if "node" not in event]
    assert [event["ev"] for event in of_all] == ["plan", "progress", "progress", "done"]
    first, middle, _, last = of_all
    assert (first["files"], first["bytes"], first["commit"]) == (4, 2000, COMMIT)
    assert (middle["done"], middle["total"], middle["fetched"], middle["connections"]) == (250, 2000, 250, 3)
    assert middle["active"] == [{"path": "one", "done": 250, "total": 1000}]
    assert (last["fetched"], last["wasted"], last["reused"]) == (2001, 1, 0)
    assert last["bytes_by_source"] == {"http://h": 600, "http://two": 400}
    assert [event["node"] for event in log.events if "node" in event] == ["one", "one", "two", "two"]


def test_a_node_that_begins_again_takes_nothing_back(log: EventLog) -> None:
    told = JobProgress("org/model", log)
    with told.telling():
        told.begin(PLAN)
        told.note("one", progress(700, fetched=700))
        told.note("one", progress(300, fetched=0))
        tick(told)
        told.end({"one": NodeResult("/1"), "two": NodeResult("/2")}, None)
    assert [event["done"] for event in log.of("progress") if "node" not in event] == [700, 2000]


def test_one_that_joined_later_is_told_of_and_changes_no_total(log: EventLog) -> None:
    told = JobProgress("org/model", log)
    with told.telling():
        told.begin(PLAN)
        told.note("late", progress(800, fetched=800))
        tick(told)
        told.end({name: NodeResult("/1") for name in ("one", "two", "late")}, None)
    reports = [event for event in log.of("progress") if "node" not in event]
    assert [(event["done"], event["total"]) for event in reports] == [(0, 2000), (2000, 2000)]


def test_what_several_nodes_wait_for_is_told_once(log: EventLog) -> None:
    told = JobProgress("org/model", log)
    wait = {**waiting("the Hub limits requests", 1e6), "host": "h"}
    with told.telling():
        told.begin(PLAN)
        for name in ("one", "two"):
            told.note(name, progress(0, fetched=0, waits=[wait]))
        tick(told)
    (report,) = [event for event in log.of("progress") if "node" not in event]
    (shown,) = report["waits"]  # which of them it names is the same to people
    assert shown["message"].endswith(": the Hub limits requests")
    assert [each["message"] for each in log.of("wait")] == ["one: the Hub limits requests"]


def test_the_end_says_which_nodes_failed(log: EventLog) -> None:
    told = JobProgress("org/model", log)
    results = {"one": NodeResult("/1", 1000), "two": NodeResult(error=DiskFullError("no room"))}
    with told.telling():
        told.begin(PLAN)
        told.end(results, DistributionError.of({"two": DiskFullError("no room")}, 2))
    last = log.events[-1]
    validate_event(last)
    assert (last["ev"], last["kind"], last["message"]) == ("error", "disk", "1 of 2 nodes failed")
    assert last["details"] == ["two: no room"]
    assert last["fetched"] == 1000


def test_what_fails_before_it_begins_is_told(log: EventLog) -> None:
    told = JobProgress("org/model", log)
    with pytest.raises(DiskFullError), told.telling():
        raise DiskFullError("no room")
    assert log.kinds == ["error"]


def test_a_bar_of_the_callers_counts_the_bytes_of_all_nodes(log: EventLog) -> None:
    told = JobProgress("org/model", None, Bar)
    with told.telling():
        told.begin(PLAN)
        told.note("one", progress(250, fetched=250))
        tick(told)
        assert Bar.made[0].n == 250
        told.end({"one": NodeResult("/1"), "two": NodeResult("/2")}, None)
    (bar,) = Bar.made
    assert (bar.options["total"], bar.n, bar.closed) == (2000, 2000, True)
    assert bar.options["desc"] == "org/model onto 2 nodes"


def test_a_terminal_that_is_gone_ends_nothing(log: EventLog) -> None:
    class Broken(Bar):
        def update(self, count: int) -> None:
            raise OSError("hung up")

    told = JobProgress("org/model", None, Broken)
    with told.telling():
        told.begin(PLAN)
        told.note("one", progress(250, fetched=250))
        tick(told)
        told.note("one", event_samples.ended())
        told.end({"one": NodeResult("/1"), "two": NodeResult("/2")}, None)
