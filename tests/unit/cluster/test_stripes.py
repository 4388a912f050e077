from __future__ import annotations

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


def test_whoever_leaves_does_not_change_the_order_of_the_others() -> None:
    stripes = made(1000)
    firsts = set()
    for stripe in range(stripes.count):
        order = stripes.order(stripe, NODES)
        assert sorted(order) == sorted(NODES)
        assert stripes.first(stripe, NODES) == order[0]
        firsts.add(order[0])
        for gone in NODES:
            left = [name for name in NODES if name != gone]
            assert stripes.order(stripe, left) == [name for name in order if name != gone]
    assert firsts == set(NODES)
    assert stripes.first(0, []) is None
