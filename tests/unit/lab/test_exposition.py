"""The text format of Prometheus."""

from __future__ import annotations

import pytest

from hf_haul.lab.exposition import Metric, expose, histogram


def test_each_metric_says_first_what_it_is() -> None:
    text = expose([Metric("a_total", "counter", "Some\nthing.", 3.0), Metric("b", "gauge", "Half.", 0.5)])
    assert text.splitlines() == [
        "# HELP a_total Some\\nthing.",
        "# TYPE a_total counter",
        "a_total 3",
        "# HELP b Half.",
        "# TYPE b gauge",
        "b 0.5",
    ]
    assert text.endswith("\n")


def test_labels_are_escaped() -> None:
    text = expose([Metric("a", "gauge", "A.", {('x"\\\n', "y"): 1.0}, ("one", "two"))])
    assert text.splitlines()[-1] == 'a{one="x\\"\\\\\\n",two="y"} 1'


def test_buckets_add_up() -> None:
    text = expose([histogram("t", "T.", [(0.5, 2), (1.0, 0), (float("inf"), 1)], 7.25)])
    assert text.splitlines()[1:] == [
        "# TYPE t histogram",
        't_bucket{le="0.5"} 2',
        't_bucket{le="1"} 2',
        't_bucket{le="+Inf"} 3',
        "t_sum 7.25",
        "t_count 3",
    ]


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not the name"):
        expose([Metric("a-b", "gauge", "A.", 1.0)])
