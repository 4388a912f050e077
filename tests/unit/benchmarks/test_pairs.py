"""Ratios of pairs: their interval, and what it decides."""

from __future__ import annotations

import itertools
import json
import math
import random

import pytest
from tests.benchmarks.pairs import ENOUGH, PAYS, Comparison, Ratio, decide, median_interval, verdicts


def compared(*ratios: float, subject: str = "a", counts: bool = True) -> Comparison:
    """A comparison with these ratios, of a figure that is 2 with the mechanism."""
    return Comparison(subject, "some work", "seconds", [(2.0, 2.0 * each) for each in ratios], counts=counts)


@pytest.mark.parametrize("count", range(1, 13))
def test_an_interval_holds_the_median_as_often_as_it_says(count: int) -> None:
    low, high, said = median_interval([float(number) for number in range(count)])
    # Each value is as likely below the true median as above it; the median lies after all that are below.
    held = [
        low < below - 0.5 < high  # between the value that is the last below, and the first above
        for signs in itertools.product((0, 1), repeat=count)
        for below in [sum(signs)]
    ]
    assert said == pytest.approx(sum(held) / len(held))


@pytest.mark.parametrize(("count", "rank"), [(6, 1), (8, 1), (9, 2), (15, 4), (20, 6), (30, 10)])
def test_intervals_are_those_of_the_tables(count: int, rank: int) -> None:
    values = [float(number) for number in range(1, count + 1)]
    random.Random(count).shuffle(values)
    low, high, confidence = median_interval(values)
    assert (low, high) == (rank, count + 1 - rank)
    assert confidence >= 0.95


def test_too_few_values_have_all_of_their_range_and_less_confidence() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0, 0.75)
    assert median_interval([3.0]) == (3.0, 3.0, 0.0)
    for count in range(1, 30):
        ratio = Ratio.of([(1.0, 1.0)] * count)
        assert ratio is not None
        assert ratio.is_sure is (count >= ENOUGH)


def test_a_few_wild_values_do_not_move_an_interval() -> None:
    calm = [1.2 + number / 1000 for number in range(15)]
    wild = [*calm[:13], 50.0, math.inf]
    assert median_interval(wild)[0] == median_interval(calm)[0]
    assert median_interval(wild)[1] < 1.25


def test_a_ratio_is_taken_within_each_pair() -> None:
    ratio = Ratio.of([(load, 1.5 * load) for load in (1.0, 9.0, 2.0, 7.0, 3.0, 5.0, 4.0)])
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high, ratio.pairs) == (1.5, 1.5, 1.5, 7)
    assert str(ratio) == "1.50 (1.50 to 1.50)"
    assert Ratio.of([]) is None


@pytest.mark.parametrize(
    ("comparisons", "verdict"),
    [
        pytest.param([compared(*[1.2] * 15)], "stays", id="surely above"),
        pytest.param([compared(*[1.0] * 15), compared(*[1.2] * 15)], "stays", id="in one figure of two"),
        pytest.param([compared(*[PAYS] * 15)], "goes", id="just not above"),
        pytest.param([compared(*[1.0] * 4, *[2.0] * 11)], "goes", id="above, but not surely"),
        pytest.param([compared(*[1.0] * 3, *[2.0] * 12)], "stays", id="with three of fifteen below"),
        pytest.param([compared(*[0.5] * 15)], "goes", id="in the way"),
        pytest.param([compared(*[5.0] * 5)], "not enough pairs", id="too few"),
        pytest.param([compared(*[1.0] * 15), compared(5.0)], "not enough pairs", id="too few of one"),
        pytest.param([compared(*[1.2] * 15), compared(5.0)], "stays", id="too few of one, enough of another"),
        pytest.param([compared(*[1.2] * 15, counts=False)], "not enough pairs", id="nothing that counts"),
        pytest.param(
            [compared(*[1.0] * 15), compared(*[1.2] * 15, counts=False)], "goes", id="where it does nothing"
        ),
        pytest.param([compared()], "not enough pairs", id="nothing"),
    ],
)
def test_a_mechanism_stays_only_where_an_interval_is_above(
    comparisons: list[Comparison], verdict: str
) -> None:
    assert decide(comparisons) == verdict
    (said,) = verdicts(comparisons).values()
    assert said[0] == verdict


def test_runs_that_never_succeed_without_it_speak_for_a_mechanism() -> None:
    comparison = compared(*[math.inf] * 10)
    assert decide([comparison]) == "stays"
    json.dumps(comparison.as_dict(), allow_nan=False)


def test_runs_that_only_succeed_without_it_speak_against_a_mechanism() -> None:
    comparison = Comparison("a", "work", "seconds", [(math.inf, 2.0)] * 10)
    assert decide([comparison]) == "goes"
    assert comparison.ratio is not None
    assert comparison.ratio.high == 0.0
    json.dumps(comparison.as_dict(), allow_nan=False)


def test_each_mechanism_gets_its_verdict_and_the_figures_that_say_so() -> None:
    found = verdicts([compared(*[1.5] * 15, subject="a"), compared(*[1.0] * 15, subject="b")])
    assert found["a"] == (
        "stays",
        "interval above 1.10 in 1 of 1 figures: seconds of some work: 1.50 (1.50 to 1.50)",
    )
    assert found["b"][0] == "goes"
    assert "none of 1" in found["b"][1]
