from __future__ import annotations

import json

import pytest

from hf_haul.hub.link_report import LinkReport, LinkSample, best_sample, limit_of, next_connections


def _samples(*rates: float, processors: float = 0.0) -> list[LinkSample]:
    """One for 1, 2, 4, ... connections."""
    return [LinkSample(1 << at, rate, int(rate), 1.0, processors) for at, rate in enumerate(rates)]


@pytest.mark.parametrize(
    ("rates", "following"),
    [
        pytest.param([], 1, id="one at first"),
        pytest.param([10], 2, id="twice as many"),
        pytest.param([10, 20, 40], 8, id="as long as it pays"),
        pytest.param([10, 20, 20.5], 8, id="once more where it did not"),
        pytest.param([10, 20, 20.5, 21], None, id="but not twice"),
        pytest.param([10, 20, 20.5, 40], 16, id="it pays again"),
        pytest.param([10, 5, 4], None, id="it gets worse"),
        pytest.param([10, 20, 40, 80, 160, 320], None, id="no more than allowed"),
    ],
)
def test_more_connections_are_tried_as_long_as_they_bring_more(
    rates: list[float], following: int | None
) -> None:
    assert next_connections(_samples(*rates), 32) == following


def test_the_most_is_tried_where_it_is_no_power_of_two() -> None:
    assert next_connections(_samples(1, 2, 4), 6) == 6
    assert next_connections([*_samples(1, 2, 4), LinkSample(6, 6.0, 6, 1.0)], 6) is None
    assert next_connections([LinkSample(1, 1.0, 1, 1.0)], 1) is None


@pytest.mark.parametrize(
    ("rates", "best"),
    [([], None), ([0.0], None), ([10], 1), ([10, 20, 40], 4), ([10, 40, 41, 40], 2), ([10, 20, 8], 2)],
)
def test_the_best_are_the_fewest_that_bring_as_much_as_any(rates: list[float], best: int | None) -> None:
    found = best_sample(_samples(*rates))
    assert (None if found is None else found.connections) == best


@pytest.mark.parametrize(
    ("rates", "processors", "limit", "expected"),
    [
        pytest.param([], 0.1, None, "unknown", id="nothing"),
        pytest.param([10], 0.1, None, "unknown", id="one sample"),
        pytest.param([10, 20, 40], 0.1, None, "connection", id="each brings the same"),
        pytest.param([10, 20, 30, 31, 31], 0.1, None, "link", id="more bring no more"),
        pytest.param([10, 12, 13, 13], 0.1, None, "link", id="from the first on"),
        pytest.param([10, 20, 40], 1.9, None, "processor", id="two processors of two"),
        pytest.param([10, 20, 24, 24], 0.1, 25, "bandwidth", id="the limit that was set"),
        pytest.param([10, 20, 24, 24], 0.1, 50, "link", id="a limit that was not reached"),
    ],
)
def test_what_limits_is_told(
    rates: list[float], processors: float, limit: float | None, expected: str
) -> None:
    assert limit_of(_samples(*rates, processors=processors), 2.0, limit) == expected


def test_a_last_step_that_is_smaller_is_judged_by_its_size() -> None:
    last = LinkSample(6, 60.0, 60, 1.0)
    assert limit_of([*_samples(10, 20, 40), last], 8.0) == "connection"


def test_a_report_is_plain_values() -> None:
    samples = tuple(_samples(1, 2))
    report = LinkReport("https://h/f", 10, 0.1, None, samples, "link", 2, 2.0, None, 20, 1.5)
    told = json.loads(json.dumps(report.as_dict()))
    assert told["samples"][1] == {
        "connections": 2, "rate": 2, "bytes": 2, "seconds": 1.0, "processors": 0.0
    }  # fmt: skip
