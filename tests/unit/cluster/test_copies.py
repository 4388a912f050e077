"""A second file of one blob in a folder: its bytes come from this node itself."""

from __future__ import annotations

from hf_haul.cluster.copies import CopyAssigner
from hf_haul.cluster.stripes import Stripes
from hf_haul.engine.assignment import Assignment, AssignmentEnd
from hf_haul.ranges import ByteRange
from hf_haul.task import OtherSource

ETAG = "e" * 64
STRIPES = Stripes([("other", 3000), (ETAG, 2500)], 1000, ["n0"])  # its stripes are 3, 4 and 5
ME = OtherSource("http://me/blob", joins_path=False)


class World:
    """A file, and what this node has of its blob."""

    def __init__(self, *missing: ByteRange) -> None:
        self.here: set[int] = set()
        self.lost = False
        self.copy = CopyAssigner(
            ETAG,
            STRIPES,
            has=lambda stripes: self.here.issuperset(stripes),
            is_lost=lambda: self.lost,
            source=ME,
        )
        self.copy.start(missing)

    def take(self, *, origin: bool = True) -> Assignment | None:
        found = self.copy.next(origin=origin, idle=True)
        if found is not None:
            self.copy.begin(found)
        return found

    def end(self, assignment: Assignment, *left: ByteRange) -> None:
        self.copy.end(assignment, AssignmentEnd(left, brought=not left, error=None, seconds=1.0))


def test_what_this_node_has_is_taken_from_it_and_the_rest_is_waited_for() -> None:
    world = World(ByteRange(0, 2500))
    assert world.take() is None
    assert "same bytes" in world.copy.waits_for()
    for stripe, span in [(4, ByteRange(1000, 2000)), (5, ByteRange(2000, 2500)), (3, ByteRange(0, 1000))]:
        world.here.add(stripe)
        found = world.take()
        assert found is not None
        assert (found.span, found.source) == (span, ME)
    assert world.take() is None


def test_only_what_is_missing_is_taken_and_what_did_not_come_again() -> None:
    world = World(ByteRange(500, 1200))
    world.here = {3, 4, 5}
    first, second = world.take(), world.take()
    assert first is not None
    assert second is not None
    assert (first.span, second.span) == (ByteRange(500, 1000), ByteRange(1000, 1200))
    assert world.take() is None
    world.end(first, ByteRange(700, 1000))
    world.end(second)
    again = world.take()
    assert again is not None
    assert again.span == ByteRange(700, 1000)
    assert world.copy.can_spare(again, OSError())


def test_once_the_first_file_is_given_up_the_origin_is_asked() -> None:
    world = World(ByteRange(0, 2500))
    world.lost = True
    assert world.take(origin=False) is None
    found = world.take()
    assert found is not None
    assert (found.span, found.source) == (ByteRange(0, 1000), None)
    assert not world.copy.can_spare(found, OSError())
