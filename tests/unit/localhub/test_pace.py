"""How fast bodies are sent."""

from __future__ import annotations

import pytest

from hf_haul.localhub.pace import SLICE, Pace, slice_after, slice_for


def test_all_connections_share_the_total_rate_in_turn() -> None:
    pace = Pace()
    assert pace.reserve_total(1000, now=0.0) == 0.0
    pace.total = 100.0
    assert [pace.reserve_total(50, now=10.0) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert pace.reserve_total(50, now=11.0) == 0.5
    assert pace.reserve_total(50, now=100.0) == 0.0  # idle time is not saved up


@pytest.mark.parametrize(
    ("total", "turn"),
    [
        pytest.param(None, 32 << 20, id="no limit"),
        pytest.param(1e9, 1 << 20, id="more than anybody asks for at once"),
        pytest.param(20e6, 100_000, id="of 64 connections each gets some three times a second"),
        pytest.param(1e6, 16 << 10, id="a turn is worth a call"),
        pytest.param(1e3, 50, id="and lasts no longer than a twentieth of a second"),
        pytest.param(1.0, 1, id="slower than that"),
    ],
)
def test_turns_are_short_so_that_no_connection_stops_for_long(total: float | None, turn: int) -> None:
    pace = Pace()
    pace.total = total
    assert pace.turn == turn


@pytest.mark.parametrize(
    ("nbytes", "seconds", "sent", "then"),
    [
        pytest.param(1, 0.001, 1024, 2, id="all was taken at once"),
        pytest.param(32, 0.001, 1024, 32, id="there is a most"),
        pytest.param(32, 0.5, 1024, 1, id="it took its time"),
        pytest.param(1, 0.001, 8, 1, id="the beginning may be all that is wanted"),
        pytest.param(16, 0.001, 160, 20, id="an eighth of what was sent"),
    ],
)
def test_who_takes_all_at_once_is_handed_more(nbytes: int, seconds: float, sent: int, then: int) -> None:
    assert slice_after(nbytes * SLICE, seconds, sent * SLICE) == then * SLICE


def test_a_rate_bounds_what_is_handed_over() -> None:
    assert slice_for(None, 32 * SLICE) == 32 * SLICE
    assert slice_for(1e9, 32 * SLICE) == SLICE
    assert slice_for(1000.0) == 50
