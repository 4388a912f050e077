"""What is shown of events: a terminal's view, lines, JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.event_samples import T, ended, event, plan, progress, waiting

from hf_haul.cli.progress.display import JsonView, Message, Output, PlainView, TerminalView, View
from hf_haul.cli.progress.overview import Overview
from hf_haul.cli.progress.plain import PlainLines
from hf_haul.cli.progress.screen import closing_line, render
from hf_haul.errors import DiskFullError

MB = 10**6


def overview(*events: dict[str, Any]) -> Overview:
    made = Overview(T)
    for each in events:
        made.note(each)
    return made


ACTIVE = [
    {"path": "model-00001-of-00002.safetensors", "done": 450 * MB, "total": 1000 * MB},
    {"path": "folder\x1b[2J/config.json", "done": 0, "total": None},
]
RUNNING = progress(
    1200 * MB, 2700 * MB, rate=12.3e6, eta=122, files_done=3, files_total=10, active=ACTIVE, active_files=5, connections=8,
    waits=[waiting("example.org limits requests", 23.0), waiting("over", -1.0)],
)  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        pytest.param(
            40,
            [
                "12.3 MB/s  2:02 left  44 %  1.2 GB of 2",
                "  waiting 0:18 - rate limit: example.or",
                "   45 %   450.0 MB   ...-00001-of-00002",
                "               0 B   ...[2J/config.json",
                "  and 3 more",
            ],
            id="40",
        ),
        pytest.param(
            200,
            [
                "12.3 MB/s  2:02 left  44 %  1.2 GB of 2.7 GB  3 of 10 files  8 connections  0:05 so far",
                "  waiting 0:18 - example.org limits requests",
                "   45 %   450.0 MB   model-00001-of-00002.safetensors",
                "               0 B   folder\\x1b[2J/config.json",
                "  and 3 more",
            ],
            id="200",
        ),
    ],
)
def test_a_view_begins_with_what_matters_most(columns: int, expected: list[str]) -> None:
    assert render(overview(plan(2700 * MB, 10), RUNNING), T + 5, columns, 24) == expected


def test_a_low_terminal_shows_fewer_files() -> None:
    lines = render(overview(plan(2700 * MB, 10), RUNNING), T + 5, 80, 6)
    assert len(lines) <= 4
    assert "0:18" in lines[1]


def test_while_nothing_moves_the_clock_goes_on_and_says_what_is_waited_for() -> None:
    seen = overview(event("wait", 0.0, **waiting("The Hub limits requests; retry 1 of 5", 30.0)))
    first, second = (render(seen, T + at, 80, 24) for at in (1.0, 2.0))
    assert first == [
        "0:01  finding out what there is to do",
        "  waiting 0:29 - The Hub limits requests; retry 1 of 5",
    ]
    assert second == [
        "0:02  finding out what there is to do",
        "  waiting 0:28 - The Hub limits requests; retry 1 of 5",
    ]
    assert render(seen, T + 31, 80, 24) == ["0:31  finding out what there is to do"]


def test_totals_never_grow_and_what_is_done_never_gets_less() -> None:
    seen = overview(plan(1000, reused=100), progress(500))
    for each in (progress(400, 2000), progress(450, None)):
        seen.note(each)
        assert (seen.done, seen.total) == (500, 1000)
    seen.note(progress(5000, 900))
    assert (seen.done, seen.total) == (900, 900)


def test_a_measurement_has_no_files_and_no_end() -> None:
    seen = overview(
        plan(None, 1, phase="measure"), progress(5 * MB, None, rate=9e6, connections=1, phase="measure")
    )
    assert render(seen, T + 2, 80, 24) == ["measuring  9.0 MB/s  5.0 MB  1 connection  0:02 so far"]


def test_each_phase_has_its_own_numbers() -> None:
    seen = overview(plan(9000, 9, phase="check"), progress(9000, 9000, rate=5.0, phase="check"))
    assert render(seen, T, 200, 24)[0].startswith("checking  5 B/s  100 %  9.0 kB of 9.0 kB")
    seen.note(plan(1000, 2, phase="repair"))
    assert render(seen, T, 40, 24) == ["repairing  0 B/s  0 %  0 B of 1.0 kB  0"]
    lines = PlainLines(seen)
    assert lines.about(plan(1000, 2, phase="repair")) == ["plan: repair 2 files, 1.0 kB"]


def test_several_repositories_are_added_up() -> None:
    other = {"repo_id": "org/data"}
    seen = overview(
        plan(1000),
        progress(500, rate=10.0),
        {**plan(3000, 2), **other},
        {**progress(1500, 3000, rate=40.0), **other},
    )
    assert (seen.done, seen.total, seen.rate, seen.files_total) == (2000, 4000, 50.0, 6)
    assert seen.eta == 40
    seen.note(ended())
    assert not seen.over
    seen.note({**ended(fetched=3000, files_fetched=2), **other})
    assert seen.over
    assert closing_line(seen, T + 8) == "done: 6 files fetched, 4.0 kB in 0:08, 500 B/s"


def test_files_of_several_repositories_told_as_one_are_not_taken_for_calls() -> None:
    def of_all(each: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in each.items() if name != "repo_id"}

    started = event("file", state="started", path="a", bytes=1, reason=None)
    told = overview(of_all(plan(MB)), started, ended("error", repo_id="org/nope", fetched=0, files_fetched=0))
    assert (told.planned, told.over, told.total) == (True, False, MB)
    told.note(event("wait", repo_id="org/b", **waiting("a is fetched by another process", None)))
    assert (told.planned, [each.message for each in told.waits(T)]) == (
        True,
        ["a is fetched by another process"],
    )
    told.note(of_all(progress(MB, MB, files_done=4)))
    told.note(of_all(ended("error", fetched=MB)))
    assert closing_line(told, T + 2) == "not complete: 4 files fetched, 1.0 MB in 0:02, 500.0 kB/s"


@pytest.mark.parametrize(
    ("events", "line"),
    [
        pytest.param([], "stopped after 0:04, before anything was fetched", id="nothing known"),
        pytest.param([ended("error")], "", id="an error before anything was known"),
        pytest.param([plan(dry_run=True)], "", id="only said what would be done"),
        pytest.param(
            [plan(phase="check"), progress(400, phase="check")],
            "stopped after 0:04, with 400 B of 1.0 kB checked",
            id="a check interrupted",
        ),
        pytest.param(
            [
                plan(9000, 9, phase="check"),
                plan(1000, 2, phase="repair"),
                ended(phase="repair", read=9000, files_fetched=1, files_reused=7, files_failed=1),
            ],
            "done: 9 files checked, 9.0 kB read in 0:04; 1 file repaired, 1.0 kB fetched; 1 file wrong or missing",
            id="checked and repaired",
        ),
        pytest.param([plan(), ended()], "done: 4 files fetched, 1.0 kB in 0:04, 250 B/s", id="fetched"),
        pytest.param(
            [
                plan(reused=1000, files_reused=4),
                ended(fetched=0, reused=1000, files_fetched=0, files_reused=4),
            ],
            "done: 4 files there already, 1.0 kB",
            id="there",
        ),
        pytest.param(
            [plan(), ended(retries=1, wasted=20)],
            "done: 4 files fetched, 1.0 kB in 0:04, 250 B/s; 1 retry; 20 B fetched in vain",
            id="with retries",
        ),
        pytest.param(
            [plan(), progress(300)], "stopped with 300 B of 1.0 kB there after 0:04", id="interrupted"
        ),
        pytest.param(
            [plan(), progress(300), ended("error", files_fetched=1, fetched=300, files_failed=1)],
            "stopped with 300 B of 1.0 kB there after 0:04; 1 file fetched, 300 B in 0:04, 75 B/s; 1 file failed",
            id="failed",
        ),
    ],
)
def test_the_last_line_says_what_it_came_to(events: list[dict[str, Any]], line: str) -> None:
    assert closing_line(overview(*events), T + 4) == line


def made(kind: type[View]) -> tuple[Any, io.StringIO, FakeClock]:
    stream, clock = io.StringIO(), FakeClock(T)
    return kind(Output(stream), clock), stream, clock


def test_a_log_gets_a_line_every_fifteen_seconds_at_quarters_and_at_the_end() -> None:
    view, stream, clock = made(PlainView)
    view.event(plan(1000, 4))
    for second in range(1, 41):
        clock.advance(1.0)
        view.event(progress(second * 20, at=second, rate=20.0, eta=50 - second))
        view.tick()
    view.event(ended())
    view.close()
    lines = stream.getvalue().splitlines()
    assert all(line.startswith("hf-haul: ") for line in lines)
    assert [line.split(": ")[1].split(",")[0] for line in lines] == [
        "plan",
        "progress",
        "progress",
        "progress",
        "done",
    ]
    assert [line.split(": ")[2].split(",")[0] for line in lines[1:-1]] == ["26 %", "50 %", "76 %"]
    assert lines[0] == "hf-haul: plan: 4 files, 1.0 kB, 0 of them there (0 B)"
    assert (
        lines[1] == "hf-haul: progress: 26 %, 260 B of 1.0 kB, 0 of 4 files, 20 B/s, 0:37 left, 0:13 so far"
    )


def test_a_log_says_when_a_wait_begins_and_what_failed() -> None:
    view, stream, clock = made(PlainView)
    view.event(event("wait", **waiting("The Hub limits requests\n", 30.0)))
    clock.advance(15.0)
    view.tick()
    view.event(plan())
    view.event(event("file", path="a\r.bin", state="failed", bytes=None, reason="no"))
    view.event(event("file", path="b.bin", state="failed", bytes=None, reason="b.bin: no"))
    assert stream.getvalue().splitlines() == [
        "hf-haul: wait: The Hub limits requests\\n",
        "hf-haul: progress: 0:15 so far, finding out what there is to do",
        "hf-haul: plan: 4 files, 1.0 kB, 0 of them there (0 B)",
        "hf-haul: failed: a\\r.bin: no",
        "hf-haul: failed: b.bin: no",
    ]


@pytest.mark.parametrize("kind", [PlainView, TerminalView])
def test_what_never_told_anything_leaves_nothing(kind: type[View]) -> None:
    view, stream, _ = made(kind)
    view.close()
    assert stream.getvalue() == ""
    view.tick()
    view.close()
    assert stream.getvalue() in {"", "0:00  finding out what there is to do\n\x1b[1A\r\x1b[J"}, "it is erased"


def test_every_line_of_json_is_an_object_messages_too() -> None:
    view, stream, _ = made(JsonView)
    view.event(plan())
    view.message(Message(level="warning", text="two\nlines", logger="hf_haul.x"))
    told = DiskFullError("no space left")
    view.event(ended("error", message="told by the call"))
    view.message(Message(level="error", text="words", logger="hf_haul", error=told))
    view.message(Message(level="error", text="words", logger="hf_haul", error=told))
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["ev"] for each in found] == ["plan", "log", "error", "error"], "and the same error once"
    assert found[1] | {"t": 0} == {
        "v": 1, "t": 0, "ev": "log", "level": "warning", "logger": "hf_haul.x", "message": "two\nlines",
    }  # fmt: skip
    assert found[3]["type"] == "DiskFullError"
    assert "no space left" in found[3]["message"]
