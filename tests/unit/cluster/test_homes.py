from __future__ import annotations

import math

import pytest

from hf_haul.cluster.homes import Home, Homes, laggards
from hf_haul.cluster.stripes import Stripes


def at(count: int, under_way: int = 0, total: int = 16, first: int = 0, now: float = 10.0) -> Home:
    home = Home(0.0, total, first_count=first)
    home.note(count, under_way, now)
    return home


@pytest.mark.parametrize(
    ("home", "expected"),
    [
        pytest.param(at(8), 20.0, id="half"),
        pytest.param(at(0), math.inf, id="nothing"),
        pytest.param(at(16), 10.0, id="all"),
        pytest.param(at(12, first=8), 20.0, id="half of what was left"),
        pytest.param(at(0, total=0), 10.0, id="has none"),
    ],
)
def test_the_end_is_reckoned_by_the_pace_so_far(home: Home, expected: float) -> None:
    assert home.end(10.0, hopeful=False) == expected


def test_an_end_that_was_reached_stays_unless_something_is_lost() -> None:
    home = at(16)
    assert home.end(99.0, hopeful=False) == 10.0
    home.note(15, 0, 20.0)
    assert home.end(21.0, hopeful=False) == 21.0 * 16 / 15


def test_what_a_home_has_done_since_it_was_heard_of_is_not_held_against_it() -> None:
    homes = {"a": at(8), "b": at(8), "seldom asked": at(4, now=4.0)}
    assert laggards(homes, 10.0) == set()
    homes["seldom asked"].note(4, 0, 10.0)
    assert laggards(homes, 10.0) == {"seldom asked"}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param({"a": (8, 2), "b": (8, 2), "c": (7, 2)}, set(), id="all alike"),
        pytest.param({"a": (8, 2), "b": (8, 2), "c": (2, 2)}, {"c"}, id="one behind"),
        pytest.param({"a": (8, 2), "b": (8, 2), "c": (0, 0)}, {"c"}, id="one does nothing"),
        pytest.param(
            {"a": (8, 4), "b": (8, 4), "c": (4, 4)}, set(), id="what is under way may be here at once"
        ),
        pytest.param({"a": (1, 1), "b": (1, 1), "c": (0, 0)}, set(), id="too early to tell"),
        pytest.param({"a": (8, 0)}, set(), id="alone"),
        pytest.param({"a": (8, 2), "b": (0, 0)}, {"b"}, id="one of two"),
    ],
)
def test_a_home_lags_that_would_end_much_later_than_half(
    counts: dict[str, tuple[int, int]], expected: set[str]
) -> None:
    assert laggards({name: at(*each) for name, each in counts.items()}, 10.0) == expected


def test_with_one_stripe_each_the_last_one_lags_once_half_have_theirs() -> None:
    homes = {"a": at(1, total=1, now=1.0), "b": at(1, total=1, now=1.0), "c": at(0, 1, total=1, now=1.0)}
    assert laggards(homes, 1.9) == set()
    assert laggards(homes, 2.1) == {"c"}


def test_only_nodes_with_stripes_are_homes_and_only_those_that_were_heard_of_are_known() -> None:
    homes = Homes(Stripes([("blob", 50)], 10, ("a", "b", "c", "d", "e", "f")), now=1.0)
    assert homes.of("f") is None
    assert homes.of("late") is None
    homes.note("b", have=0b10, claims=[], now=2.0, first=False)
    homes.note("f", have=0b10, claims=[], now=2.0, first=True)
    homes.note("c", have=0b1000, claims=[2, 3], now=2.0, first=True)
    assert [(name, home.total, home.count, home.under_way) for name, home in homes.items()] == [
        ("b", 1, 1, 0),
        ("c", 1, 0, 1),
    ]


def test_who_has_just_begun_lags_behind_nobody() -> None:
    homes = {"a": at(16, now=0.5), "late": Home(10.0, 16)}
    assert laggards(homes, 10.5) == set()
    assert laggards(homes, 11.5) == {"late"}


def test_what_a_node_took_to_start_does_not_count_for_its_pace() -> None:
    stripes = Stripes([("e", 8 * 1024)], 1024, ("a", "b"))
    homes = Homes(stripes, 0.0)
    homes.note("b", 0, (), 10.0, first=True)
    homes.note("b", 0b1010, (), 11.0, first=False)
    home = homes.of("b")
    assert home is not None
    assert home.end(11.0, hopeful=False) == 2.0  # seconds from its begin: half of its four in one
