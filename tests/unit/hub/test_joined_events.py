"""Several calls told as one."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.event_samples import T, ended, event, plan, progress, waiting
from tests.support.events import EventLog, validate_event

from hf_haul.hub.joined_events import JoinedEvents


def _told(*events: tuple[int, dict[str, Any]], count: int = 2) -> EventLog:
    """What is told of the events of some calls."""
    log = EventLog()
    joined = JoinedEvents(count, log)
    for number, each in events:
        joined.on_event({**each, "queue_id": str(number), "repo_id": f"org/{number}"})
    for each in log.events:
        validate_event(each)
    assert [each["t"] for each in log.events] == sorted(each["t"] for each in log.events)
    assert all("queue_id" not in each for each in log.events)
    return log


FILE = event("file", 0.5, state="started", path="a", bytes=1, reason=None)


def test_the_plan_is_told_once_all_are_known_and_adds_them_up() -> None:
    log = _told((0, plan(1000, 4, 100, 1)), (0, FILE), (1, plan(500, 2)), (1, FILE))
    assert log.kinds == ["plan", "file", "file"]
    told = log.one("plan")
    assert (told["bytes"], told["files"], told["reused"], told["files_reused"]) == (1500, 6, 100, 1)
    assert "repo_id" not in told
    assert [each["repo_id"] for each in log.of("file")] == ["org/0", "org/1"]


def test_a_size_that_is_not_known_makes_the_total_unknown() -> None:
    log = _told((0, plan(None)), (1, plan(500)), (0, progress(10, None)), (1, progress(5, 500)))
    assert log.one("plan")["bytes"] is None
    assert log.of("progress")[-1]["total"] is None


def test_one_that_fails_before_its_plan_holds_up_nobody_and_keeps_its_name() -> None:
    log = _told((0, ended("error", message="no such")), (1, plan()), (1, ended()))
    assert log.kinds == ["plan", "error", "error"]
    first, last = log.of("error")
    assert (first["repo_id"], first["message"]) == ("org/0", "no such")
    assert "fetched" not in first
    assert "repo_id" not in last
    assert last["message"] == "1 of 2 repositories failed; the first: no such"
    assert last["fetched"] == 2000


def test_where_all_fail_there_is_no_plan() -> None:
    log = _told((1, ended("error", message="b")), (0, ended("error", message="a")))
    assert log.kinds == ["error", "error", "error"]
    assert log.events[-1]["message"] == "2 of 2 repositories failed; the first: a"


def test_the_error_of_one_alone_is_its_own() -> None:
    log = _told((0, ended("error", message="a")), count=1)
    assert [each["message"] for each in log.events] == ["a", "a"]


def test_progress_is_told_once_a_second_for_all_and_adds_up() -> None:
    active = [{"path": "x", "done": 1, "total": 9}]
    log = _told(
        (0, plan(1000)),
        (1, plan(500, 2, 50, 1)),
        (0, progress(100, at=1.0, fetched=100, active=active, active_files=1, connections=2)),
        (1, progress(60, 500, at=1.1, fetched=10, files_total=2, files_done=1)),
        (0, progress(300, at=2.0, fetched=300, active=active, active_files=1, connections=2)),
        (1, progress(70, 500, at=2.1, fetched=20, files_total=2, files_done=1)),
    )
    first, second = log.of("progress")
    assert (first["done"], first["total"], first["files_total"]) == (150, 1500, 6), "as far as the plan says"
    assert (first["fetched"], first["rate"], first["eta"]) == (100, 0.0, None), "nobody knows yet"
    assert (second["done"], second["fetched"], second["rate"], second["connections"]) == (360, 310, 210.0, 2)
    assert second["eta"] == (1500 - 360) / 210.0
    assert second["active"] == [{"path": "x", "done": 1, "total": 9, "repo_id": "org/0"}]
    assert "repo_id" not in second


def test_what_is_done_never_goes_back() -> None:
    log = _told(
        (0, plan(1000)), (1, plan(500)), (0, progress(900, at=1.0)), (0, progress(100, at=2.0)), (0, progress(50, at=3.0))
    )  # fmt: skip
    assert [each["done"] for each in log.of("progress")] == [900, 900, 900]


def test_the_end_is_told_once_and_last_with_all_sums() -> None:
    log = _told(
        (0, plan(1000)),
        (1, plan(1000)),
        (0, progress(1000, files_done=4)),
        (0, ended()),
        (1, progress(1000, files_done=4)),
        (1, ended(seconds=4.0)),
    )
    assert log.kinds[-2:] == ["progress", "done"]
    log.check()
    done = log.one("done")
    assert (done["fetched"], done["files_fetched"], done["seconds"], done["rate"]) == (2000, 8, 4.0, 500.0)


@pytest.mark.parametrize(
    ("second", "count"),
    [
        pytest.param({"until": T + 5.5}, 1, id="the same"),
        pytest.param({"until": T + 9.0}, 2, id="longer"),
        pytest.param({"host": "other"}, 2, id="another host"),
        pytest.param({"reason": "network"}, 2, id="another reason"),
        pytest.param({"until": None}, 2, id="without an end"),
    ],
)
def test_a_wait_of_several_is_told_once(second: dict[str, Any], count: int) -> None:
    wait = {**event("wait"), **waiting("the Hub limits requests", 5.0), "host": "hub"}
    log = _told((0, wait), (1, {**wait, **second}))
    assert len(log.of("wait")) == count
    assert all("repo_id" not in each for each in log.events)


def test_a_wait_without_an_end_of_several_is_told_once() -> None:
    wait = {**event("wait"), **waiting("the Hub has not answered yet", None, "network")}
    assert len(_told((0, wait), (1, wait)).events) == 1


def test_a_wait_for_a_file_keeps_the_name_of_its_repository() -> None:
    wait = {
        **event("wait", 1.0),
        **waiting("f: another process fetches it", None, "another_process"),
        "path": "f",
    }
    log = _told((0, plan()), (1, plan()), (1, wait))
    assert log.one("wait")["repo_id"] == "org/1"
