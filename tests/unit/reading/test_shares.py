"""Memory for bytes fetched ahead, and who may have how much of it."""

from __future__ import annotations

from tests.support.clock import FakeClock

from hf_haul.reading.shares import Shares


def test_who_reads_alone_has_all_and_who_reads_at_the_same_time_has_as_much_as_the_others() -> None:
    clock = FakeClock()
    shares = Shares(960, clock)
    assert shares.of("a") == 960
    for reader in "abc":
        shares.note_read(reader)
    assert [shares.of(reader) for reader in "abcd"] == [320, 320, 320, 240]
    clock.advance(1.0)
    shares.note_read("c")
    clock.advance(1.5)
    assert shares.of("c") == 960
    assert shares.of("a") == 480


def test_who_reads_no_more_is_idle_after_a_while_and_who_ended_at_once() -> None:
    clock = FakeClock()
    shares = Shares(960, clock)
    shares.note_read("a")
    shares.note_read("b")
    clock.advance(9.0)
    shares.note_read("b")
    clock.advance(2.0)
    assert shares.is_idle("a")
    assert not shares.is_idle("b")
    assert shares.last_read("a") < shares.last_read("b")
    shares.forget("b")
    shares.forget("b")
    assert shares.is_idle("b")


def test_of_very_many_readers_the_latest_are_remembered() -> None:
    shares = Shares(960, FakeClock())
    for reader in range(5000):
        shares.note_read(reader)
    assert len(shares._read_at) == 1000
    assert shares.last_read(4999) >= 0
