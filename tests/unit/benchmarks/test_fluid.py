"""Flows over shared links move as many bytes as max-min fairness gives them."""

from __future__ import annotations

import random

import pytest
from tests.benchmarks.fluid import Network


def test_a_flow_that_is_held_back_elsewhere_leaves_its_share_to_the_others() -> None:
    network = Network([10.0, 2.0])
    narrow, wide, other = (
        network.start(name, 100, links) for name, links in (("a", [0, 1]), ("b", [0]), ("c", [0]))
    )
    assert network.rates() == pytest.approx({narrow: 2.0, wide: 4.0, other: 4.0})


def test_flows_end_in_the_order_of_their_ends_and_free_what_they_had() -> None:
    network = Network([10.0])
    network.start("long", 100, [0])
    network.start("short", 20, [0])
    assert network.next_end() == pytest.approx(4.0)
    assert network.advance(4.0) == [(pytest.approx(4.0), "short")]
    assert network.next_end() == pytest.approx(8.0)
    assert network.advance(8.0) == [(pytest.approx(8.0), "long")]
    assert len(network) == 0


def test_a_flow_that_is_stopped_says_what_it_did_not_move() -> None:
    network = Network([10.0])
    number = network.start("a", 100, [0])
    network.advance(3.0)
    assert network.stop(number) == pytest.approx(70.0)
    assert network.advance(100.0) == []


def test_nothing_moves_over_a_link_that_is_cut_until_it_is_there_again() -> None:
    network = Network([10.0, 10.0])
    network.start("a", 100, [0, 1])
    network.set_capacity(1, 0.0)
    assert network.next_end() == float("inf")
    assert network.advance(50.0) == []
    network.set_capacity(1, 5.0)
    assert network.next_end() == pytest.approx(20.0)


def test_no_link_carries_more_than_it_can_and_each_flow_has_a_full_link() -> None:
    dice = random.Random(3)
    capacities = [dice.uniform(1, 20) for _ in range(40)]
    network = Network(capacities)
    flows = {
        network.start(None, 1e9, links): links for links in (dice.sample(range(40), 3) for _ in range(300))
    }
    rates = network.rates()
    used = [sum(rates[flow] for flow, links in flows.items() if link in links) for link in range(40)]
    assert all(have <= most * 1.000001 for have, most in zip(used, capacities, strict=True))
    full = {link for link in range(40) if used[link] >= capacities[link] * 0.999999}
    # Fair: on one of its full links, nobody has more than it.
    for flow, links in flows.items():
        mates = [
            [rates[each] for each, theirs in flows.items() if link in theirs]
            for link in full.intersection(links)
        ]
        assert any(max(rate) <= rates[flow] * 1.000001 for rate in mates)
