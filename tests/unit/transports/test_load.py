"""What is seen of a source in a while."""

from __future__ import annotations

import pytest

from hf_haul.transports.load import LoadSample, LoadTick


def tick(*looks: LoadSample, began: float = 10.0, every: float = 0.5) -> LoadTick:
    made = LoadTick(began, LoadSample(1000.0, 500.0, 4, reading_total=2.0))
    for number, look in enumerate(looks, 1):
        made.add(began + number * every, look)
    return made


def test_rates_are_those_from_its_beginning_to_the_last_look() -> None:
    seen = tick(LoadSample(1300.0, 700.0, 4), LoadSample(3000.0, 900.0, 4))
    assert (seen.seconds, seen.rate, seen.bytes_per_second) == (1.0, 2000.0, 400.0)


def test_how_busy_the_processors_were_is_the_mean_of_all_looks() -> None:
    seen = tick(*(LoadSample(2000.0, 0.0, 4, cpu_busy=busy) for busy in (0.2, 0.4, 0.9)))
    assert seen.cpu_busy == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("reading", "share"),
    [pytest.param(4.0, 0.5, id="two of four connections"), pytest.param(None, 1.0, id="nobody tells")],
)
def test_reading_is_a_share_of_the_time_of_all_connections(reading: float | None, share: float) -> None:
    looks = [LoadSample(2000.0, 0.0, 4, reading_total=reading)] * 2
    assert tick(*looks).share_of_reading(4) == share


@pytest.mark.parametrize(
    ("looks", "conclusive"),
    [
        pytest.param([(4, 4), (4, 4)], True, id="all in use"),
        pytest.param([(3, 4), (3, 3)], True, id="three quarters in use, and all for a moment"),
        pytest.param([(3, 3), (3, 3)], False, id="never all"),
        pytest.param([(4, 4), (1, 4)], False, id="too few on average"),
        pytest.param([(5, 5), (4, 4)], False, id="more than there may be: those that leave"),
    ],
)
def test_a_tick_says_something_of_a_limit_that_was_in_use(
    looks: list[tuple[int, int]], conclusive: bool
) -> None:
    seen = tick(*(LoadSample(2000.0, 0.0, active, peak) for active, peak in looks))
    assert seen.is_conclusive(4) is conclusive


def test_a_tick_in_which_nothing_came_says_nothing() -> None:
    assert not tick(LoadSample(1000.0, 500.0, 4, 4)).is_conclusive(4)
