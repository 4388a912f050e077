from __future__ import annotations

from collections import Counter

import pytest

from hf_haul.cluster.bitmaps import numbers_in
from hf_haul.cluster.stripes import Stripes
from hf_haul.ranges import ByteRange

NODES = ("a", "b", "c")


def made(*sizes: int) -> Stripes:
    return Stripes([(f"blob{i}", size) for i, size in enumerate(sizes)], 10, NODES)


def test_stripes_are_numbered_over_all_blobs() -> None:
    stripes = made(25, 3, 20)
    assert [stripes.locate(each) for each in range(stripes.count)] == [
        ("blob0", ByteRange(0, 10)),
        ("blob0", ByteRange(10, 20)),
        ("blob0", ByteRange(20, 25)),
        ("blob1", ByteRange(0, 3)),
        ("blob2", ByteRange(0, 10)),
        ("blob2", ByteRange(10, 20)),
    ]
    assert [stripes.of_blob(f"blob{i}") for i in range(4)] == [range(3), range(3, 4), range(4, 6), range(0)]
    assert (stripes.size_of("blob1"), stripes.size_of("blob9"), stripes.total_bytes) == (3, None, 48)
    assert stripes.length(2) == 5


@pytest.mark.parametrize("stripe", [-1, 6])
def test_a_stripe_that_there_is_not_is_refused(stripe: int) -> None:
    with pytest.raises(IndexError, match="of 6"):
        made(25, 3, 20).locate(stripe)


def test_every_node_is_home_to_as_many_stripes_give_or_take_one() -> None:
    stripes = made(250, 30, 199)
    homes = [stripes.home(each) for each in range(stripes.count)]
    counts = [homes.count(node) for node in NODES]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 64, 65, 1000])
def test_the_bitmap_of_a_home_has_its_stripes(count: int) -> None:
    stripes = made(*[10] * count)
    for place, node in enumerate(NODES):
        mine = {each for each in range(count) if stripes.home(each) == node}
        assert set(numbers_in(stripes.homes(place))) == mine
        for base in range(0, count, 5):
            seen = {base + bit for bit in numbers_in(stripes.homes(place, base, 7))}
            assert {each for each in seen if each < count} == {
                each for each in mine if base <= each < base + 7
            }


@pytest.mark.parametrize("nodes", [1, 2, 3, 6, 30, 31, 64])
def test_all_nodes_stand_in_for_a_stripe_in_an_order_of_its_own(nodes: int) -> None:
    names = [f"n{number}" for number in range(nodes)]
    stripes = Stripes([("blob", 1000 * nodes)], 10, names)
    firsts: Counter[str] = Counter()
    for stripe in range(stripes.count):
        order = list(stripes.order(stripe))
        assert sorted(order) == sorted(names)
        firsts[order[0]] += 1
    assert set(firsts) == set(names)
    assert max(firsts.values()) < 150


def test_the_stripes_of_one_home_go_to_many() -> None:
    names = [f"n{number}" for number in range(50)]
    stripes = Stripes([("blob", 10_000)], 10, names)
    heirs = {next(name for name in stripes.order(stripe) if name != "n7") for stripe in range(7, 1000, 50)}
    assert len(heirs) >= 12


@pytest.mark.parametrize("nodes", [1, 2, 7, 100])
def test_who_takes_stripes_over_watches_those_before_it_and_nobody_watches_itself(nodes: int) -> None:
    names = [f"n{number}" for number in range(nodes)]
    stripes = Stripes([("blob", 30 * nodes + 5)], 10, names)
    watched = {name: stripes.watched_by(name) for name in names}
    for stripe in range(stripes.count):
        home = stripes.home(stripe)
        first, second = [*(name for name in stripes.order(stripe) if name != home), None, None][:2]
        assert first is None or home in watched[first]
        assert second is None or {home, first} <= watched[second]
    assert all(name not in homes for name, homes in watched.items())
    assert sum(map(len, watched.values())) <= 3 * stripes.count
    assert stripes.watched_by("late") == frozenset()


def test_no_node_has_many_more_to_watch_however_many_stripes_there_are() -> None:
    names = [f"n{number}" for number in range(200)]
    stripes = Stripes([("blob", 10**9)], 10, names)
    few = Stripes([("blob", 320 * 200)], 10, names)
    assert stripes.watched_by("n5") == few.watched_by("n5")
    assert 40 <= len(few.watched_by("n5")) <= 120
