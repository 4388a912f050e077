"""What came from which source of a file, and who sent wrong bytes."""

from __future__ import annotations

import pytest
from tests.support.transport import FakeSource

from hf_haul.engine.file_sources import FileSource, FileSources
from hf_haul.errors import StopRequestedError
from hf_haul.ranges import ByteRange

RIGHT = bytes(range(100))


class Disk:
    """The bytes of a file."""

    def __init__(self) -> None:
        self.bytes = bytearray(RIGHT)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        found = self.bytes[offset : offset + len(buffer)]
        buffer[: len(found)] = found
        return len(found)


def go_on() -> None:
    """Let it run to its end."""


def sources(*others: str) -> FileSources:
    def make(name: str, *, is_origin: bool = False) -> FileSource:
        return FileSource(name, lambda: FakeSource(RIGHT), is_origin=is_origin)

    return FileSources(make("hub", is_origin=True), [make(each) for each in others])


def test_a_transport_is_made_once_it_is_needed() -> None:
    made: list[FakeSource] = []

    def make() -> FakeSource:
        made.append(FakeSource(RIGHT))
        return made[-1]

    source = FileSource("hub", make)
    assert made == []
    assert source.transport is source.transport
    assert len(made) == 1


def test_all_are_in_use_but_those_that_are_lost_and_at_the_least_the_origin() -> None:
    found = sources("a", "b")
    assert [each.name for each in found.in_use()] == ["a", "b", "hub"]
    found.others[0].lost = True
    assert [each.name for each in found.in_use()] == ["b", "hub"]
    found.origin.lost = found.others[1].lost = True
    assert [each.name for each in found.in_use()] == ["hub"]


def test_nobody_is_suspected_of_what_the_origin_brought() -> None:
    found = sources("a")
    found.origin.brought.add(0, 100)
    assert found.suspects() == []


def test_what_others_brought_is_dropped_and_what_an_earlier_session_left() -> None:
    found, disk = sources("a", "b"), Disk()
    found.origin.brought.add(0, 40)
    found.others[0].brought.add(30, 50)  # some of it both brought
    found.others[1].brought.add(80, 90)
    assert found.suspect(disk.read_into, 100, go_on) == [ByteRange(30, 100)]
    assert found.one_by_one
    assert [each.name for each in found.in_use()] == ["hub", "a", "b"], "in this order"
    assert [(each.source.name, each.span) for each in found.suspicions] == [
        ("a", ByteRange(30, 50)),
        ("b", ByteRange(80, 90)),
    ]
    assert found.suspects() == []


def test_what_came_from_who_is_known_to_lie_is_all_that_is_dropped() -> None:
    found, disk = sources("a", "b"), Disk()
    a, b = found.others
    a.brought.add(30, 50)
    b.brought.add(80, 90)
    b.brought.add(95, 100)
    b.lies = True
    assert found.suspect(disk.read_into, 100, go_on) == [ByteRange(80, 90), ByteRange(95, 100)]
    assert not found.one_by_one
    assert found.suspicions == ()
    assert found.suspects() == [a]


def test_who_was_alone_when_the_digest_was_wrong_is_not_asked_again() -> None:
    found, disk = sources("a", "b", "c"), Disk()
    a, b, c = found.others
    found.origin.lost = True
    for each in found.others:
        each.brought.add(0, 10)
    found.suspect(disk.read_into, 100, go_on)
    asked = []
    while (each := found.in_use()[0]) is not found.origin:
        asked.append(each)
        each.brought.add(0, 100)
        assert found.suspect(disk.read_into, 100, go_on) == [ByteRange(0, 100)]
    assert asked == [a, b, c]


def test_of_several_that_came_after_each_other_the_last_one_gets_to_be_alone() -> None:
    found, disk = sources("a", "b", "c"), Disk()
    a, b, c = found.others
    found.suspect(disk.read_into, 100, go_on)
    a.brought.add(0, 10)
    b.brought.add(10, 100)
    found.suspect(disk.read_into, 100, go_on)
    assert found.in_use() == [found.origin, b, c]


@pytest.mark.parametrize(("wrong", "liars"), [([35], ["a"]), ([85], ["b"]), ([35, 85], ["a", "b"]), ([], [])])
def test_who_brought_other_bytes_than_the_right_ones_is_found(wrong: list[int], liars: list[str]) -> None:
    found, disk = sources("a", "b"), Disk()
    found.others[0].brought.add(30, 50)
    found.others[1].brought.add(80, 90)
    for offset in wrong:
        disk.bytes[offset] ^= 0xFF
    found.suspect(disk.read_into, 100, go_on)
    disk.bytes[:] = RIGHT
    found.find_liars(disk.read_into, go_on)
    assert [each.name for each in found.liars] == liars


def test_looking_for_the_liar_can_be_ended() -> None:
    found, disk = sources("a"), Disk()
    found.others[0].brought.add(0, 100)

    def stop() -> None:
        raise StopRequestedError

    with pytest.raises(StopRequestedError):
        found.suspect(disk.read_into, 100, stop)


def test_what_was_brought_can_be_noted_in_pieces() -> None:
    found, disk = sources("a"), Disk()
    found.piece_bytes = 30
    found.others[0].brought.add(20, 95)
    found.suspect(disk.read_into, 100, go_on)
    pieces = [ByteRange(20, 30), ByteRange(30, 60), ByteRange(60, 90), ByteRange(90, 95)]
    assert [each.span for each in found.suspicions] == pieces
