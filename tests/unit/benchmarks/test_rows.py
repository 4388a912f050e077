"""The rows of pairs: what there are, and what is made of their samples."""

from __future__ import annotations

import itertools
import json
import math
import socket
import subprocess
import sys
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmarks read /proc", allow_module_level=True)

from tests.benchmarks import bench_fixed, bench_mechanisms, client, report
from tests.benchmarks.bench_fixed import ADAPTIVE, contenders
from tests.benchmarks.bench_mechanisms import ROWS, Row
from tests.benchmarks.harness import Result, Sample
from tests.benchmarks.pairs import Comparison
from tests.benchmarks.rig import CLIENT, DATA, Options
from tests.benchmarks.switches import SWITCHES

BROKEN = "it broke"


def result_of(**samples: list[Sample]) -> Result:
    return Result("a-row", "some work", unit="s", samples=samples)


def test_every_mechanism_has_rows_and_every_row_a_mechanism() -> None:
    assert {row.mechanism for row in ROWS} == {*SWITCHES, "sequential-resume"} - {"adaptation", "locks"}
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.title for row in ROWS)


@pytest.mark.parametrize("mechanism", sorted({row.mechanism for row in ROWS}))
def test_a_mechanism_is_measured_over_both_schemes_with_one_connection_and_sixteen(mechanism: str) -> None:
    rows = [row for row in ROWS if row.mechanism == mechanism]
    assert {row.connections for row in rows} == {1, 16}
    assert {row.tls for row in rows} == {False, True}


@pytest.mark.parametrize(
    ("module", "chosen", "repo"),
    [(bench_mechanisms, "thrift-mixed", "bench/mixed"), (bench_fixed, "small", "bench/thousand")],
)
def test_what_a_module_needs_can_be_made_and_is_only_that_of_chosen_rows(
    module: Any, chosen: str, repo: str
) -> None:
    assert set(module.needs(Options())) <= DATA.keys()
    assert set(module.needs(Options(rows=[chosen]))) == {repo}
    assert module.needs(Options(rows=["no such row"])) == []


def test_rows_can_be_chosen_by_a_part_of_their_names() -> None:
    name = Row("eyeballs", "dead-address", tls=True, connections=16).name
    assert name == "eyeballs-dead-address-tls-16"
    assert Options().wants(name, [name])
    assert Options(rows=["thrift", "address-tls"]).wants(name, [name])
    assert not Options(rows=["thrift"]).wants(name, [name])


def test_a_row_that_is_named_is_chosen_alone() -> None:
    assert "fixed-small-far" in {f"fixed-{name}" for name in bench_fixed._WORKS}
    rows = ["fixed-small", "fixed-small-far", "fixed-large"]
    for chosen, expected in (("fixed-small", rows[:1]), ("small", rows[:2]), ("fixed", rows)):
        assert [row for row in rows if Options(rows=[chosen]).wants(row, rows)] == expected


def test_pairs_are_of_runs_of_one_round() -> None:
    result = result_of(a=[Sample(1.0, 0), Sample(2.0, 0)], b=[Sample(3.0, 0), Sample(4.0, 0)])
    assert result.pairs("a", "b") == [(1.0, 3.0), (2.0, 4.0)]
    assert result.pairs("a", "b", lambda sample: -sample.seconds) == [(-1.0, -3.0), (-2.0, -4.0)]


def test_a_program_that_gave_up_took_for_ever_where_that_is_the_question() -> None:
    good, given_up, unmeasured = (
        Sample(1.0, 0),
        Sample(2.0, 0, error=BROKEN, gave_up=True),
        Sample(0.0, 0, error=BROKEN),
    )
    rounds = [*itertools.product((good, given_up, unmeasured), repeat=2)]
    result = result_of(a=[a for a, _ in rounds], b=[b for _, b in rounds])
    assert result.pairs("a", "b") == [(1.0, 1.0)]
    assert result.pairs("a", "b", for_ever=True) == [(1.0, 1.0), (1.0, math.inf), (math.inf, 1.0)]
    assert (result.failures("a"), result.failures("b")) == (6, 6)
    assert result.seconds("a") == [1.0] * 3


@pytest.mark.parametrize(("least", "count"), [(2, 2), (3, 4)])
def test_disturbed_rounds_are_left_out_where_there_are_enough_others(least: int, count: int) -> None:
    result = result_of(
        a=[Sample(1.0, 0), Sample(1.0, 0, others=1.0), Sample(1.0, 0), Sample(1.0, 0)],
        b=[Sample(1.0, 0), Sample(1.0, 0), Sample(1.0, 0, others=1.0), Sample(1.0, 0)],
    )
    assert len(result.pairs("a", "b", least=least)) == count


def test_what_surely_is_not_the_best_number_is_not_tried_on() -> None:
    seconds = {"1": [9.0, 8.0], "2": [4.5, 9.0], "4": [4.6, 4.7], "8": [3.0, 3.1], "16": []}
    assert contenders(seconds) == ["2", "8"]
    assert contenders({}) == []


@pytest.mark.parametrize(("seconds", "reached"), [(2.29, True), (2.31, False)])
def test_the_adaptive_number_is_compared_with_the_best_that_took_part_in_all_rounds(
    seconds: float, reached: bool
) -> None:
    rounds = 6
    result = result_of(
        **{
            ADAPTIVE: [Sample(seconds, 0) for _ in range(rounds)],
            "few": [Sample(1.9, 0)] * 2,  # lucky, and out
            "best": [Sample(2.0, 0) for _ in range(rounds)],
            "other": [Sample(2.1, 0) for _ in range(rounds)],
        }
    )
    bench_fixed._judge(result, ["few", "best", "other"])
    (goal,) = result.goals
    assert goal.value == pytest.approx(seconds / 2.0)
    assert goal.reached is reached
    assert "(best)" in goal.text
    assert result.notes[0].startswith("within" if reached else "NOT within")


def test_a_row_of_which_nothing_succeeded_is_not_measured() -> None:
    result = result_of(**{ADAPTIVE: [Sample(1.0, 0, error=BROKEN)], "one": [Sample(1.0, 0, error=BROKEN)]})
    bench_fixed._judge(result, ["one"])
    assert [goal.reached for goal in result.goals] == [None]


def test_tables_say_of_each_figure_whether_its_interval_is_above() -> None:
    result = result_of()
    result.comparisons = [
        Comparison("eyeballs", "work", "seconds", [(1.0, 1.5)] * 15),
        Comparison("eyeballs", "work", "processor seconds", [(1.0, 1.0)] * 15, failed=(1, 2)),
        Comparison("eyeballs", "work", "seconds", [(1.0, 1.5)] * 15, counts=False),
        Comparison("eyeballs", "work", "seconds", [(1.0, 1.5)] * 3),
        Comparison("eyeballs", "work", "seconds", []),
    ]
    ends = [line.split()[-1] for line in report.pairs_table([result]).splitlines()[2:]]
    assert ends == ["yes", "no", "here", "-", "failed"]
    assert "failed 1+2" in report.pairs_table([result])
    assert report.verdict_lines([result])[0].startswith("eyeballs: stays: interval above 1.10 in 1 of 3")
    assert report.pairs_table([result_of()]) == ""
    json.dumps(result.as_dict(), allow_nan=False)


def test_names_have_the_addresses_given_and_others_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if options.get("flags") == socket.AI_NUMERICHOST and not host[0].isdigit():
            raise socket.gaierror
        return [(host, port)]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    client.resolve({"two.test": ["127.0.0.2", "127.0.0.1"]})
    assert socket.getaddrinfo("two.test", 80) == [("127.0.0.2", 80), ("127.0.0.1", 80)]  # type: ignore[comparison-overlap]
    assert socket.getaddrinfo("other.test", 80) == [("other.test", 80)]  # type: ignore[comparison-overlap]
    with pytest.raises(socket.gaierror):  # it is a name, and no number
        socket.getaddrinfo("two.test", 80, flags=socket.AI_NUMERICHOST)


def test_a_program_can_do_without_each_mechanism() -> None:
    without = [word for name in SWITCHES for word in ("--without", name)]
    done = subprocess.run(
        [sys.executable, str(CLIENT), "nothing", "{}", *without], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seconds"] >= 0.0


def test_a_program_that_cannot_do_without_something_fails() -> None:
    done = subprocess.run(
        [sys.executable, str(CLIENT), "nothing", "{}", "--without", "speed"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "no mechanism 'speed'" in done.stderr
