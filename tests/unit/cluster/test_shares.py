from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.clock import FakeClock

from hf_haul.cluster.bitmaps import bits_of
from hf_haul.cluster.node_state import NodeState
from hf_haul.cluster.shares import Choice, Shares
from hf_haul.cluster.stripes import Stripes


def names(count: int) -> list[str]:
    return [f"n{i}" for i in range(count)]


def striped(count: int, nodes: int) -> Stripes:
    return Stripes([("blob", 10 * count)], 10, names(nodes))


class Rig:
    """One node's policy, with a clock moved by hand."""

    def __init__(self, stripes: int = 12, nodes: int = 3, me: str = "n0") -> None:
        self.clock = FakeClock()
        self.stripes = striped(stripes, nodes)
        self.shares = Shares(me, self.stripes, clock=self.clock)
        self.busy: Counter[str | None] = Counter()
        self.begun: list[Choice] = []
        self.version = 0

    def wanted(self) -> int:
        under_way = {each.stripe for each in self.begun}
        mine = self.shares.state().have
        return bits_of(g for g in range(self.stripes.count) if not mine >> g & 1 and g not in under_way)

    def begin(self, **more: Any) -> Choice | None:
        choice = self.shares.next(self.wanted(), self.busy, **more)
        if choice is not None:
            self.shares.note_begun(choice.stripe, choice.node)
            self.busy[choice.node] += 1
            self.begun.append(choice)
        return choice

    def end(self, choice: Choice | None, seconds: float = 1.0, error: Any = None) -> None:
        assert choice is not None
        self.begun.remove(choice)
        self.busy[choice.node] -= 1
        if error is None:
            self.shares.note_done(choice.stripe, choice.node, seconds)
        else:
            self.shares.note_failed(choice.stripe, choice.node, error)

    def hear(self, name: str, have: Any = (), claims: Any = (), **more: Any) -> None:
        self.version += 1
        state = NodeState(name, self.version, bits_of(have), frozenset(claims), **more)
        self.shares.note_state(name, state)


def test_a_node_fetches_its_own_stripes_first_in_order() -> None:
    rig = Rig()
    assert [rig.begin() for _ in range(5)] == [*(Choice(g, None) for g in (0, 3, 6, 9)), None]
    assert rig.shares.state().claims == {0, 3, 6, 9}


@pytest.mark.parametrize(
    ("nodes", "own", "most"),
    [(3, 4, 4), (3, 16, 4), (3, 60, 10), (64, 60, 4), (128, 60, 2), (200, 60, 1), (1000, 60, 1)],
)
def test_a_node_has_few_connections_to_the_origin_the_fewer_the_more_nodes_there_are_and_the_fewer_stripes(
    nodes: int, own: int, most: int
) -> None:
    rig = Rig(stripes=own * nodes, nodes=nodes)
    begun = [rig.begin() for _ in range(most)]
    assert begun == [Choice(nodes * each, None) for each in range(most)]
    assert rig.begin() is None
    rig.end(begun[0])
    assert rig.begin() == (Choice(nodes * most, None) if most < own else None)


def test_what_others_have_or_claim_is_not_fetched_from_the_origin() -> None:
    rig = Rig()
    rig.hear("n1", have=[0])
    rig.hear("n2", claims=[3])
    assert [rig.begin() for _ in range(4)] == [
        Choice(6, None),
        Choice(0, "n1"),
        Choice(9, None),
        None,
    ]


def test_the_origin_and_the_nodes_are_asked_at_the_same_time() -> None:
    rig = Rig(stripes=30)
    rig.hear("n1", have=range(1, 30, 3))
    rig.hear("n2", have=range(2, 30, 3))
    asked = Counter(choice.node for _ in range(8) if (choice := rig.begin()))
    assert asked == {None: 4, "n1": 2, "n2": 2}


def test_a_node_has_two_connections_at_the_most_and_they_go_round() -> None:
    rig = Rig(nodes=4, stripes=40)
    for name in ("n1", "n2", "n3"):
        rig.hear(name, have=range(40))
    taken = [rig.begin(origin=False) for _ in range(7)]
    assert [each and each.node for each in taken] == ["n1", "n2", "n3", "n1", "n2", "n3", None]


def test_nodes_do_not_all_begin_with_the_same_one() -> None:
    first = []
    for me in names(4):
        rig = Rig(nodes=4, stripes=40, me=me)
        for name in names(4):
            rig.hear(name, have=range(40))
        choice = rig.begin(origin=False)
        assert choice is not None
        first.append(choice.node)
    assert sorted(map(str, first)) == names(4)


def test_what_one_node_alone_has_is_fetched_before_what_others_have_too() -> None:
    rig = Rig(nodes=3)
    rig.hear("n1", have=[1, 4, 7])
    rig.hear("n2", have=[1, 4])
    assert rig.begin(origin=False) == Choice(7, "n1")


def test_nodes_that_want_what_one_alone_has_do_not_all_take_the_same_stripe() -> None:
    taken = []
    for me in names(40)[1:]:
        rig = Rig(nodes=40, stripes=400, me=me)
        rig.hear("n0", have=range(0, 400, 40))
        choice = rig.begin(origin=False)
        assert choice is not None
        assert choice.node == "n0"
        taken.append(choice.stripe)
    assert len(set(taken)) == 10
    assert max(Counter(taken).values()) < 12


def test_a_window_of_the_stripes_is_enough_to_choose() -> None:
    rig = Rig(stripes=3000)
    rig.hear("n1", have=[2500, 2999])
    assert rig.shares.next(0b111, {}, base=2997) == Choice(2997, None)
    assert rig.shares.next(0b110, {}, base=2997) == Choice(2999, "n1")
    assert rig.shares.next(0b010, {}, base=2997) is None


def test_the_stripes_of_a_dead_home_go_to_one_node_each() -> None:
    taken: list[int] = []
    for me in ("n0", "n1"):
        rig = Rig(me=me, stripes=60)
        rig.shares.note_gone("n2")
        while choice := rig.begin():
            assert choice.node is None
            taken.append(choice.stripe)
            rig.end(choice)
    assert sorted(taken) == list(range(60))


def test_a_silent_home_that_answers_again_keeps_its_stripes() -> None:
    rig = Rig(stripes=6)
    rig.shares.note_silent("n1")
    rig.shares.note_silent("n2")
    rig.hear("n1", claims=[1])
    assert {choice.stripe for _ in range(9) if (choice := rig.begin())} <= {0, 3, 2, 5}


def test_what_a_dead_node_had_is_not_asked_of_it() -> None:
    rig = Rig(stripes=6)
    rig.hear("n1", have=[1, 4])
    rig.shares.note_gone("n1")
    assert all(choice.node is None for _ in range(9) if (choice := rig.begin()))


def test_the_claims_of_a_dead_node_count_no_more() -> None:
    rig = Rig(stripes=2, nodes=2)
    rig.hear("n1", claims=[0, 1])
    assert rig.begin() is None
    rig.shares.note_gone("n1")
    assert [rig.begin(), rig.begin()] == [Choice(0, None), Choice(1, None)]


def test_the_stripes_of_a_node_that_ended_with_an_error_are_fetched_by_others_but_what_it_has_is_not() -> (
    None
):
    rig = Rig(stripes=4, nodes=2)
    rig.hear("n1", have=[1], done=True, error="No space left on device")
    assert [rig.begin() for _ in range(4)] == [
        Choice(0, None),
        Choice(1, "n1"),
        Choice(2, None),
        Choice(3, None),
    ]


def test_what_a_laggard_has_is_taken_from_it_and_its_other_stripes_from_the_last_to_the_first() -> None:
    rig = Rig(stripes=40, nodes=2)
    for _ in range(20):
        choice = rig.begin()
        rig.clock.advance(0.1)
        rig.end(choice)
    rig.hear("n1", have=[1], claims=[3])
    rig.clock.advance(3.0)
    rig.hear("n1", have=[1], claims=[3])
    assert [rig.begin() for _ in range(3)] == [Choice(1, "n1"), Choice(39, None), Choice(37, None)]


def test_a_home_at_the_pace_of_others_does_not_lag() -> None:
    rig = Rig(stripes=60, nodes=3)
    have: dict[str, list[int]] = {"n1": [], "n2": []}
    for step in range(0, 30, 3):
        choice = rig.begin()
        assert choice == Choice(step, None)
        rig.clock.advance(1.0)
        rig.end(choice)
        for place, name in enumerate(have, 1):
            have[name].append(step + place)
            rig.hear(name, have[name], claims=[step + place + 3])
        while choice := rig.begin(origin=False):
            rig.end(choice)


def test_a_node_without_a_home_takes_nothing_from_the_origin_while_others_do() -> None:
    rig = Rig(me="late", stripes=6)
    assert rig.begin() is None
    rig.hear("n1", have=[1, 4])
    assert {rig.begin(), rig.begin()} == {Choice(1, "n1"), Choice(4, "n1")}
    assert rig.begin() is None


def test_a_stripe_that_was_wrong_comes_from_the_origin_if_nobody_else_has_it() -> None:
    rig = Rig(stripes=6)
    rig.hear("n1", have=[1])
    rig.end(rig.begin(origin=False), error="wrong")
    assert [rig.begin() for _ in range(4)] == [Choice(0, None), Choice(3, None), Choice(1, None), None]


@pytest.mark.parametrize("kind", ["absent", "wrong"])
def test_a_stripe_that_a_node_did_not_bring_is_asked_of_another(kind: str) -> None:
    rig = Rig(stripes=6)
    rig.hear("n1", have=[1])
    rig.end(rig.begin(origin=False), error=kind)
    assert rig.begin(origin=False) is None
    rig.hear("n2", have=[1])
    assert rig.begin(origin=False) == Choice(1, "n2")


def test_a_node_that_sent_several_wrong_stripes_is_not_asked_any_more() -> None:
    rig = Rig(stripes=60)
    rig.hear("n1", have=range(60))
    for _ in range(3):
        rig.end(rig.begin(origin=False), error="wrong")
    assert rig.begin(origin=False) is None


@pytest.mark.parametrize(
    ("wrong", "liar"),
    [
        pytest.param([(1, "n1"), (4, "n1")], "n1", id="the home itself"),
        pytest.param([(1, "n2"), (4, "n3"), (7, "n1")], "n1", id="what others had from it"),
        pytest.param([(0, "n2"), (1, "n2"), (3, "n2")], "n2", id="what it passed on"),
        pytest.param([(2, "n1")], "n2", id="one stripe: its home before whoever passed it on"),
        pytest.param([(0, "n0")], None, id="nobody but this node"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_for_wrong_stripes_the_node_is_blamed_that_explains_most(
    wrong: list[tuple[int, str]], liar: str | None
) -> None:
    rig = Rig(stripes=60)
    for name in ("n1", "n2", "n3"):
        rig.hear(name, have=range(60))
    assert rig.shares.note_lies(wrong) == liar
    asked = {choice.node for _ in range(9) if (choice := rig.begin(origin=False))}
    assert asked == {"n1", "n2", "n3"} - {liar}


def test_a_node_that_failed_is_left_alone_for_longer_each_time() -> None:
    rig = Rig(stripes=60)
    rests = []
    for _ in range(4):
        rig.hear("n1", have=range(60))
        seconds = 0.0
        while (choice := rig.begin(origin=False)) is None:
            rig.clock.advance(0.25)
            seconds += 0.25
        rests.append(seconds)
        rig.end(choice, error="failed")
    assert rests == [0.0, 0.5, 1.0, 2.0]


def test_a_refused_connection_means_that_a_node_does_not_answer() -> None:
    rig = Rig(stripes=4, nodes=2)
    rig.hear("n1", have=[1, 3])
    rig.end(rig.begin(origin=False), error="gone")
    assert rig.begin(origin=False) is None
    assert [rig.begin() for _ in range(4)] == [Choice(g, None) for g in (0, 2, 1, 3)]


@pytest.mark.parametrize("error", ["failed", "absent"])
def test_what_a_node_announces_and_never_sends_is_fetched_by_others(error: str) -> None:
    rig = Rig(stripes=4, nodes=2)
    fetched: list[int] = []
    for _ in range(40):
        rig.hear("n1", have=range(4))  # also what is asked for in vain
        choice = rig.begin()
        if choice is None:
            rig.clock.advance(0.5)
        elif choice.node == "n1":
            rig.end(choice, error=error)
        else:
            fetched.append(choice.stripe)
            rig.end(choice)
    assert sorted(fetched) == [0, 1, 2, 3]


def test_a_node_that_failed_counts_again_once_it_was_left_alone_or_has_sent_something() -> None:
    rig = Rig(stripes=9, nodes=3)
    rig.hear("n1", have=range(9))
    choices = [rig.begin() for _ in range(2)]
    for choice in choices:
        rig.shares.note_failed(choice.stripe if choice else 0, "n1", "failed", told=7.0)
        rig.busy["n1"] -= 1
    rig.begun.clear()
    assert rig.begin() == Choice(0, None)
    rig.clock.advance(7.0)
    again = rig.begin()
    assert again is not None
    assert again.node == "n1"
    rig.end(again)
    assert (rig.begin() or again).node == "n1"


def test_an_origin_that_failed_is_left_alone_while_nodes_are_asked() -> None:
    rig = Rig(stripes=4, nodes=2)
    rig.end(rig.begin(), error="failed")
    rig.hear("n1", have=[0])
    assert rig.begin() == Choice(0, "n1")
    assert rig.begin() is None
    rig.clock.advance(0.5)
    assert rig.begin() == Choice(2, None)


def test_who_has_been_idle_for_long_takes_what_nobody_brings() -> None:
    rig = Rig(stripes=2, nodes=2)
    rig.end(rig.begin())
    rig.hear("n1", have=[])
    assert rig.begin() is None
    rig.clock.advance(4.9)
    rig.shares.note_state("n1", NodeState("n1", 2))
    while rig.clock.now < 1030 and (choice := rig.begin()) is None:
        rig.clock.advance(1.0)
    assert choice == Choice(1, None)


def test_what_only_a_slow_node_has_is_taken_from_it_by_one_node_each() -> None:
    def taken_by(me: str, other: str) -> list[int]:
        rig = Rig(stripes=60, me=me)
        rig.hear("n1", have=range(1, 60, 3))
        rig.hear(other, have=range(int(other[1:]), 60, 3))
        taken = []
        while choice := rig.begin(origin=False):
            if choice.node == "n1":
                taken.append(choice.stripe)
            rig.end(choice, seconds=10.0 if choice.node == "n1" else 0.1)
        return taken

    known = 3  # it takes so many to know that a node is slow
    # In the end there is nothing else, and what is usual is slow, too.
    first, second = taken_by("n0", "n2")[known:8], taken_by("n2", "n0")[known:8]
    assert (len(first), len(second)) == (5, 5)
    assert not {*first} & {*second}


def test_a_node_is_slow_from_which_the_first_stripe_has_been_under_way_for_long() -> None:
    rig = Rig(stripes=60)
    rig.hear("n1", have=range(1, 60, 3))
    rig.hear("n2", have=range(2, 60, 3))
    begun = [rig.begin(origin=False) for _ in range(4)]
    from_slow = [each for each in begun if each is not None and each.node == "n1"]
    for each in begun:
        if each not in from_slow:
            rig.end(each, seconds=0.1)
    rig.clock.advance(1.5)
    more = [rig.begin(origin=False, idle=False) for _ in range(3)]
    assert [each and each.node for each in more] == ["n2", "n2", None]
    rig.end(from_slow[0], seconds=2.0)
    assert rig.begin(origin=False, idle=False) is None, (
        "one connection is in use, and no more are spent on it"
    )


def test_a_stripe_that_is_under_way_for_long_is_had_from_another_node_as_well() -> None:
    rig = Rig(stripes=6)
    rig.hear("n1", have=[1])
    first = rig.begin(origin=False)
    rig.clock.advance(1.1)
    assert rig.begin(origin=False, under_way=0b10) is None
    rig.hear("n2", have=[1])
    assert rig.begin(origin=False, under_way=0b10) == Choice(1, "n2", hedge=True)
    assert first == Choice(1, "n1")


def test_what_is_fetched_because_nobody_brought_it_does_not_make_a_node_patient_again() -> None:
    rig = Rig(me="late", stripes=6)
    assert rig.begin() is None
    rig.clock.advance(21.0)
    taken = 0
    while choice := rig.begin():
        taken += 1
        rig.end(choice)
    assert taken == 6


def test_the_version_grows_with_each_change_and_with_nothing_else() -> None:
    rig = Rig()
    seen = [rig.shares.version]

    def changed(act: Callable[[], object]) -> bool:
        act()
        seen.append(rig.shares.version)
        return seen[-1] > seen[-2]

    begun: list[Choice | None] = []
    assert changed(lambda: begun.append(rig.begin()))
    assert changed(lambda: rig.end(begun[0]))
    assert not changed(lambda: rig.hear("n1", have=[1]))
    assert not changed(lambda: rig.shares.note_have(0))
    assert changed(lambda: rig.shares.note_lost(0))
    assert changed(rig.shares.note_ended)
    assert rig.shares.state().done


def test_it_says_whom_a_file_waits_for() -> None:
    rig = Rig(stripes=3)
    rig.end(rig.begin())
    assert rig.begin() is None
    assert rig.shares.waits_for() == "n1, which has to fetch it"
    rig.hear("n1", claims=[1])
    assert rig.shares.waits_for() == "n1, which is fetching it from the origin"


class Swarm:
    """Nodes that all hear of each other at once, one stripe per node at a time from the origin."""

    def __init__(self, nodes: int, stripes: int, *, slow: str | None = None) -> None:
        self.clock = FakeClock()
        made = striped(stripes, nodes)
        self.rigs = {name: Rig(stripes, nodes, name) for name in names(nodes)}
        for rig in self.rigs.values():
            rig.clock = self.clock
            rig.shares = Shares(rig.shares.me, made, clock=self.clock)
        self.slow = slow
        self.from_origin = 0
        self.ends: dict[str, float] = {}
        self._running: list[tuple[float, int, Rig, Choice]] = []
        self._count = 0

    def seconds(self, rig: Rig, choice: Choice) -> float:
        factor = 10.0 if self.slow and self.slow in (rig.shares.me, choice.node) else 1.0
        return factor * (1.0 if choice.node is None else 0.25)

    def run(self, dies: str | None = None, after: float = 1e9) -> None:
        everything = (1 << self.rigs["n0"].stripes.count) - 1
        while len(self.ends) < len(self.rigs):
            if dies in self.rigs and self.clock.now - 1000 >= after:
                dead = self.rigs.pop(str(dies))
                self._running = [each for each in self._running if each[2] is not dead]
                for rig in self.rigs.values():
                    rig.shares.note_gone(str(dies))
            self._begin()
            self._running.sort(key=lambda each: each[:2])
            at, _, rig, choice = self._running.pop(0)
            self.clock.now = at
            rig.end(choice, self.seconds(rig, choice))
            if rig.shares.state().have == everything:
                self.ends.setdefault(rig.shares.me, at - 1000)
                for each in list(rig.begun):
                    rig.begun.remove(each)
                    rig.shares.note_dropped(each.stripe, each.node)
                self._running = [each for each in self._running if each[2] is not rig]
                rig.shares.note_ended()
            self._tell()

    def _begin(self) -> None:
        for rig in self.rigs.values():
            under_way = bits_of({each.stripe for each in rig.begun})
            while rig.shares.me not in self.ends and len(rig.begun) < 6:
                choice = rig.begin(origin=rig.busy[None] < 2, under_way=under_way)
                if choice is None:
                    break
                self.from_origin += choice.node is None
                self._count += 1
                ends_at = self.clock.now + self.seconds(rig, choice)
                self._running.append((ends_at, self._count, rig, choice))
                self._tell()

    def _tell(self) -> None:
        for rig in self.rigs.values():
            state = rig.shares.state()
            for other in self.rigs.values():
                if other is not rig:
                    other.shares.note_state(rig.shares.me, state)


@pytest.mark.parametrize(("nodes", "stripes"), [(2, 40), (6, 96), (6, 7), (9, 5), (1, 3)])
def test_together_they_fetch_each_stripe_once(nodes: int, stripes: int) -> None:
    swarm = Swarm(nodes, stripes)
    swarm.run()
    assert swarm.from_origin <= stripes * 1.05
    assert len(swarm.ends) == nodes


@pytest.mark.parametrize("after", [0.0, 2.0, 4.0, 7.0])
def test_one_that_dies_costs_its_part_at_the_most(after: float) -> None:
    swarm = Swarm(6, 96)
    swarm.run(dies="n2", after=after)
    assert swarm.from_origin <= 96 * (1 + 2 / 6)
    assert len(swarm.ends) == 5


def test_one_at_a_tenth_of_the_pace_delays_the_others_little() -> None:
    level, slow = Swarm(6, 96), Swarm(6, 96, slow="n2")
    level.run()
    slow.run()
    del level.ends["n2"], slow.ends["n2"]
    assert max(slow.ends.values()) <= 1.2 * max(level.ends.values()) * 6 / 5
    assert slow.from_origin <= 96 * 1.05
