"""What is fetched beyond what is read."""

from __future__ import annotations

import random

import pytest

from hf_haul.reading.readahead import ReadAhead

KiB = 1 << 10
MiB = 1 << 20
UNIT = 512 * KiB
SIZE = 1024 * MiB


def follow(policy: ReadAhead, reads: list[tuple[int, int]], unit: int = UNIT) -> tuple[int, int]:
    """Play reads against a store that keeps everything: the bytes fetched, and the requests made."""
    have: set[int] = set()  # grains of 4 KiB
    grain = 4 * KiB
    fetched = requests = 0

    def fetch(start: int, stop: int, part: int) -> None:
        nonlocal fetched, requests
        missing = [g for g in range(start // grain, -(-stop // grain)) if g not in have]
        have.update(missing)
        fetched += len(missing) * grain
        requests += -(-len(missing) * grain // part)

    def covered(start: int) -> int:
        g = start // grain
        if g not in have:
            return start
        while g in have:
            g += 1
        return g * grain

    for start, stop in reads:
        here = covered(start)
        advice = policy.advise(start, stop, unit)
        assert advice.start <= start
        assert advice.stop >= min(stop, policy.size)
        assert advice.stop <= policy.size
        begin = here if here >= stop else advice.stop
        if begin < advice.ahead and begin - stop < advice.refill:
            policy.followed(advice)
            parts = -(-(advice.ahead - begin) // advice.part)
            fetch(begin, min(begin + parts * advice.part, policy.size), advice.part)
        if here < stop:
            fetch(advice.start, advice.stop, 1 << 60)
    return fetched, requests


@pytest.mark.parametrize("step", [8 * KiB, 256 * KiB, MiB, 16 * MiB])
def test_a_sequential_reader_gets_large_windows_in_few_requests(step: int) -> None:
    total = 256 * MiB if step > 8 * KiB else 16 * MiB
    policy = ReadAhead(total)
    fetched, requests = follow(policy, [(at, min(at + step, total)) for at in range(0, total, step)])
    assert fetched == total
    assert requests < 160


def test_the_window_grows_only_as_the_reader_follows() -> None:
    policy = ReadAhead(SIZE)
    fetched, _ = follow(policy, [(at, at + 256 * KiB) for at in range(0, 4 * MiB, 256 * KiB)])
    assert 4 * MiB < fetched <= 13 * MiB


@pytest.mark.parametrize(
    ("read", "most"),
    [
        pytest.param((0, 8), UNIT // 2, id="a header"),
        pytest.param((0, 2 * MiB), 2 * MiB, id="a large head"),
        pytest.param((500 * MiB, 500 * MiB + 4096), 4096 + UNIT // 2, id="the middle"),
        pytest.param((SIZE - 8, SIZE), 8, id="the last bytes"),
        pytest.param((SIZE - 65536, SIZE - 65530), 65536, id="near the end"),
    ],
)
def test_a_first_read_fetches_little_more_than_it_needs(read: tuple[int, int], most: int) -> None:
    advice = ReadAhead(SIZE).advise(*read, UNIT)
    assert advice.start == read[0]
    assert advice.stop - advice.start <= most
    assert not advice.ahead


def test_random_reads_cost_little_more_than_they_ask_for() -> None:
    noise = random.Random(3)
    reads = [(at, at + 4096) for at in (noise.randrange(SIZE - 4096) for _ in range(2000))]
    fetched, requests = follow(ReadAhead(SIZE), reads)
    assert fetched < 2000 * 40 * KiB
    assert requests <= 2100


def test_small_steps_back_and_forth_are_still_sequential() -> None:
    policy = ReadAhead(SIZE)
    for at in range(0, 4 * MiB, 100 * KiB):
        advice = policy.advise(at, at + 512, UNIT)
        policy.advise(at + 512 - 30 * KiB if at else 512, at + 2048, UNIT)
    assert advice.ahead > 4 * MiB
    assert not advice.jumped


def test_places_read_in_turn_each_have_their_window() -> None:
    policy = ReadAhead(SIZE)
    for i in range(20):
        for base in (0, 300 * MiB, 600 * MiB):
            advice = policy.advise(base + i * 64 * KiB, base + (i + 1) * 64 * KiB, UNIT)
    assert advice.ahead > 600 * MiB


def test_leaving_is_noticed() -> None:
    policy = ReadAhead(SIZE)
    assert not policy.advise(0, 10, UNIT).jumped
    assert not policy.advise(10, 20, UNIT).jumped
    assert policy.advise(500 * MiB, 500 * MiB + 10, UNIT).jumped


def test_nothing_is_asked_for_beyond_the_end() -> None:
    policy = ReadAhead(10 * MiB)
    for at in range(0, 10 * MiB, MiB):
        advice = policy.advise(at, at + MiB, UNIT)
        assert advice.stop <= 10 * MiB
        assert advice.ahead <= 10 * MiB
