from __future__ import annotations

import pytest

from hf_haul.cluster.bitmaps import bits_of, numbers_in
from hf_haul.cluster.known_nodes import KnownNodes, rest_after
from hf_haul.cluster.stripes import Stripes

NAMES = ("n0", "n1", "n2", "n3")


def known(count: int = 40) -> KnownNodes:
    return KnownNodes("n1", Stripes([("blob", 10 * count)], 10, NAMES))


def hear(nodes: KnownNodes, name: str, *have: int, claims: tuple[int, ...] = (), ended: bool = False) -> None:
    nodes.note_state(nodes.greet(name), bits_of(have), frozenset(claims), ended=ended)


def test_what_nodes_have_is_there_once_or_twice() -> None:
    nodes = known()
    hear(nodes, "n0", 1, 2)
    hear(nodes, "n2", 2, 3)
    hear(nodes, "n0", 1, 2, 5)
    assert (nodes.available.bits, nodes.twice.bits) == (bits_of([1, 2, 3, 5]), bits_of([2]))
    hear(nodes, "n2", 3)
    assert (nodes.available.bits, nodes.twice.bits) == (bits_of([1, 2, 3, 5]), 0)
    nodes.leave("n0", gone=True)
    assert (nodes.available.bits, nodes.twice.bits) == (bits_of([3]), 0)


def test_a_claim_counts_as_long_as_anybody_has_it() -> None:
    nodes = known()
    hear(nodes, "n0", claims=(1, 2))
    hear(nodes, "n2", claims=(2,))
    hear(nodes, "n0", claims=(1,))
    assert nodes.claimed.bits == bits_of([1, 2])
    nodes.leave("n2", gone=False)
    assert nodes.claimed.bits == bits_of([1])


def test_nodes_are_asked_from_the_own_place_on() -> None:
    nodes = known()
    for name in ("n0", "n3", "n2"):
        nodes.greet(name)
    assert [node.name for node in nodes.ring] == ["n2", "n3", "n0"]
    nodes.note_member("n15")
    assert [node.name for node in nodes.ring] == ["n15", "n2", "n3", "n0"]


def test_a_node_that_sends_much_slower_than_others_does_not_count_until_it_is_faster() -> None:
    nodes = known()
    for _ in range(5):
        nodes.note_pace(nodes.greet("n0"), 100.0)
    slow = nodes.greet("n2")
    for _ in range(2):
        nodes.note_pace(slow, 5.0)
        assert "n2" in [node.name for node in nodes.ring]
    nodes.note_pace(slow, 5.0)
    assert nodes.slow == [slow]
    assert "n2" not in [node.name for node in nodes.ring]
    for _ in range(9):
        nodes.note_pace(slow, 100.0)
    assert "n2" in [node.name for node in nodes.ring]


def test_one_that_lags_counts_only_if_it_is_known_to_send_fast() -> None:
    nodes = known()
    for name in ("n2", "n3"):
        nodes.greet(name)
    nodes.note_pace(nodes.greet("n0"), 100.0)
    nodes.note_lagging(frozenset({"n0", "n2"}))
    assert [node.name for node in nodes.ring] == ["n3", "n0"]


@pytest.mark.parametrize("how", ["gone", "silent", "ended", "lagging"])
def test_stripes_of_a_home_that_does_not_fetch_them_are_shared_out(how: str) -> None:
    nodes = known()
    nodes.greet("n0")
    everything = bits_of(range(40))
    assert nodes.inherited(everything, 0, 40) == 0
    if how == "ended":
        hear(nodes, "n0", ended=True)
    elif how == "lagging":
        nodes.note_lagging(frozenset({"n0"}))
    else:
        nodes.leave("n0", gone=how == "gone")
    mine = set(numbers_in(nodes.inherited(everything, 0, 40)))
    assert mine < set(range(0, 40, 4))
    assert 1 <= len(mine) <= 8
    assert mine == {each for each in range(0, 40, 4) if nodes.is_heir(each)}
    nodes.greet("n0")
    nodes.note_lagging(frozenset())
    hear(nodes, "n0")
    assert nodes.inherited(everything, 0, 40) == 0


def test_a_node_that_was_not_heard_of_yet_lives_if_the_job_began_with_it() -> None:
    nodes = known()
    nodes.note_member("n0")
    assert nodes.get("n0") is None
    assert nodes.alive("n0")
    assert not nodes.alive("late")
    nodes.note_member("late")
    assert nodes.alive("late")
    nodes.leave("n0", gone=True)
    assert not nodes.alive("n0")
    assert nodes.abandoned.bits == bits_of(range(0, 40, 4))
    nodes.note_member("n0")
    assert nodes.alive("n0")
    assert nodes.abandoned.bits == 0


def test_those_that_came_later_stand_in_when_nobody_else_is_left() -> None:
    nodes = KnownNodes("late2", Stripes([("blob", 400)], 10, NAMES))
    nodes.note_member("late1")
    for name in NAMES:
        assert not nodes.is_alone()
        assert next(nodes.stand_ins(7)) in NAMES
        nodes.leave(name, gone=True)
    assert list(nodes.stand_ins(7)) == ["late1", "late2"]
    nodes.leave("late1", gone=False)
    assert nodes.is_heir(7)
    assert nodes.is_alone()


def test_a_rest_is_longer_each_time_up_to_a_bound() -> None:
    assert [rest_after(n) for n in (1, 2, 3, 7, 99)] == [0.5, 1.0, 2.0, 30.0, 30.0]
