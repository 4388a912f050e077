"""What is fetched beyond what is read."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from hf_haul.reading.link import Link
from hf_haul.reading.readahead import Advice, ReadAhead, window_after

KiB = 1 << 10
MiB = 1 << 20
LINK = Link(10e6, 0.05)
UNIT = LINK.unit
SIZE = 1024 * MiB
GRAIN = KiB


@dataclass
class Store:
    """Keeps everything that a policy has fetched.

    Attributes:
        fetched: Bytes so far.
        requests: How many.
        waits: Reads that could not be served from what had been asked for before.
    """

    policy: ReadAhead
    link: Link = LINK
    room: int = 1 << 40
    fetched: int = 0
    requests: int = 0
    waits: int = 0
    have: set[int] = field(default_factory=set)

    def read(self, start: int, stop: int) -> Advice:
        advice = self.policy.advise(start, stop, lambda: self.link, lambda: self.room)
        assert advice.start <= start
        assert min(stop, self.policy.size) <= advice.stop <= self.policy.size
        begin, end = advice.ahead
        assert begin <= end <= self.policy.size
        if self._missing(start, stop):
            self.waits += 1
            self._fetch(advice.start, advice.stop, 1 << 60)
        self._fetch(begin, end, advice.part)
        return advice

    def follow(self, reads: Iterable[tuple[int, int]]) -> None:
        for start, stop in reads:
            self.read(start, min(stop, self.policy.size))

    def _missing(self, start: int, stop: int) -> list[int]:
        return [g for g in range(start // GRAIN, -(-stop // GRAIN)) if g not in self.have]

    def _fetch(self, start: int, stop: int, part: int) -> None:
        missing = self._missing(start, stop)
        self.have.update(missing)
        self.fetched += len(missing) * GRAIN
        self.requests += -(-len(missing) * GRAIN // part)


def in_steps(total: int, step: int, base: int = 0) -> list[tuple[int, int]]:
    return [(base + at, base + at + step) for at in range(0, total, step)]


@pytest.mark.parametrize("step", [8 * KiB, 256 * KiB, MiB, 16 * MiB])
@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
def test_a_sequential_reader_waits_once_and_makes_few_requests(step: int, stream: bool) -> None:
    total = 200 * MiB if step > 8 * KiB else 20 * MiB
    store = Store(ReadAhead(total, stream=stream))
    store.follow(in_steps(total, step))
    assert store.fetched == total
    assert store.waits <= 3
    assert store.requests <= 260


@pytest.mark.parametrize("step", [8 * KiB, 100 * KiB, MiB, 5 * MiB])
def test_of_what_a_reader_that_stops_has_ahead_the_window_is_all(step: int) -> None:
    store = Store(ReadAhead(SIZE))
    read = 0
    for start, stop in in_steps(150 * MiB, step):
        store.read(start, stop)
        read = stop
        assert store.fetched - read <= max(16 * MiB, read // 2) + GRAIN


def test_the_window_grows_with_what_was_read_and_is_no_larger_than_memory_has_room() -> None:
    assert [window_after(n * MiB) for n in (0, 32, 64, 128, 1000)] == [n * MiB for n in (16, 16, 32, 64, 64)]
    store = Store(ReadAhead(SIZE), room=3 * MiB)
    for start, stop in in_steps(100 * MiB, MiB):
        store.read(start, stop)
        assert store.fetched - stop <= 3 * MiB + GRAIN
    assert store.requests < 300


def test_without_any_room_small_reads_are_still_no_requests_of_their_own() -> None:
    store = Store(ReadAhead(SIZE), room=0)
    store.follow(in_steps(20 * MiB, 8 * KiB))
    assert store.requests <= 100
    assert store.fetched < 21 * MiB


def test_where_memory_had_less_room_than_it_said_the_window_goes_on_from_there() -> None:
    policy = ReadAhead(SIZE)
    for start, stop in in_steps(4 * MiB, MiB):
        advice = policy.advise(start, stop, lambda: LINK, lambda: 1 << 40)
        if advice.ahead[0] < advice.ahead[1]:
            policy.came_short(advice.ahead, advice.ahead[0])
            reached = advice.ahead[0]
    assert policy.advise(4 * MiB, 5 * MiB, lambda: LINK, lambda: 1 << 40).ahead[0] == max(reached, 5 * MiB)


def test_a_slow_link_gets_a_small_first_window() -> None:
    store = Store(ReadAhead(SIZE), link=Link(1e5, 0.05))
    store.follow(in_steps(MiB, 64 * KiB))
    assert store.fetched <= 4 * MiB


@pytest.mark.parametrize(
    ("read", "most"),
    [
        pytest.param((0, 8), UNIT // 2, id="a header"),
        pytest.param((0, 256 * KiB), 256 * KiB, id="a block"),
        pytest.param((500 * MiB, 500 * MiB + 4096), UNIT // 2, id="the middle"),
        pytest.param((500 * MiB, 502 * MiB), 2 * MiB, id="much of the middle"),
        pytest.param((SIZE - 8, SIZE), 64 * KiB, id="the last bytes"),
        pytest.param((SIZE - 65536, SIZE - 65530), 64 * KiB, id="near the end"),
        pytest.param((SIZE - 200_000, SIZE - 199_000), 200_000, id="not far from the end"),
    ],
)
def test_a_first_read_fetches_little_more_than_it_needs(read: tuple[int, int], most: int) -> None:
    store = Store(ReadAhead(SIZE))
    advice = store.read(*read)
    assert advice.start == min(read[0], SIZE - (64 * KiB if read[0] > 1000 * MiB else 0))
    assert store.fetched <= most + 2 * GRAIN


def test_a_first_read_of_a_large_block_opens_a_window_in_proportion() -> None:
    store = Store(ReadAhead(SIZE))
    store.read(0, MiB)
    assert 4 * MiB <= store.fetched <= 5 * MiB


def test_small_reads_at_the_head_open_no_window() -> None:
    store = Store(ReadAhead(SIZE))
    store.follow((at, at + 8) for at in range(0, 4000, 8))
    assert (store.requests, store.waits) == (1, 1)
    assert store.fetched <= UNIT // 2 + GRAIN


def test_forty_random_reads_of_a_kilobyte_move_less_than_two_megabytes() -> None:
    for seed in range(20):
        noise = random.Random(seed)
        store = Store(ReadAhead(20_000_000))
        store.follow((at, at + 1000) for at in (noise.randrange(20_000_000 - 1000) for _ in range(40)))
        assert store.fetched < 2_000_000, seed
        assert store.waits <= 40


def test_random_reads_cost_little_more_than_they_ask_for() -> None:
    noise = random.Random(3)
    store = Store(ReadAhead(SIZE))
    store.follow((at, at + 4096) for at in (noise.randrange(SIZE - 4096) for _ in range(2000)))
    assert store.fetched < 2000 * 20 * KiB
    assert store.requests <= 2010


def zip_member(at: int, nbytes: int) -> list[tuple[int, int]]:
    return [(at, at + 30), (at + 30, at + 37), (at + 37, at + 37 + nbytes)]


def test_a_jump_fetches_as_much_as_the_runs_before_were_long() -> None:
    noise = random.Random(2)
    starts = noise.sample(range(0, 500 * 59_500, 59_500), 50)
    store = Store(ReadAhead(SIZE))
    store.follow([(SIZE - 22, SIZE), (SIZE - 30_000, SIZE - 22)])
    store.follow(zip_member(starts[0], 58 * KiB))
    before = store.waits
    for start in starts[1:]:
        store.follow(zip_member(start, 58 * KiB))
    assert store.waits - before <= 49
    assert store.fetched <= 51 * 80 * KiB


def test_one_long_run_by_chance_does_not_make_every_jump_fetch_as_much() -> None:
    noise = random.Random(4)
    store = Store(ReadAhead(SIZE))
    for i in range(30):
        at = noise.randrange(SIZE - MiB)
        store.follow(in_steps(300 * KiB if i == 10 else 1000, 1000, at))
    assert store.fetched < 2 * MiB


def test_runs_longer_than_a_request_are_fetched_in_parts_ahead() -> None:
    store = Store(ReadAhead(SIZE))
    for i in range(1, 6):
        store.follow(in_steps(5 * MiB, 64 * KiB, i * 100 * MiB))
    waits, fetched = store.waits, store.fetched
    store.follow(in_steps(5 * MiB, 64 * KiB, 700 * MiB))
    assert store.waits - waits == 1
    assert store.fetched - fetched <= 6 * MiB


def test_a_tensor_that_follows_the_last_one_by_chance_opens_no_large_window() -> None:
    store = Store(ReadAhead(SIZE))
    store.follow([(0, 8), (8, 9000)])
    tensors = (5, 17, 18, 30, 44, 61, 62, 70, 81, 95)
    store.follow((n * MiB, (n + 1) * MiB) for n in tensors)
    assert store.fetched <= 17 * MiB


def test_a_file_whose_end_is_read_first_is_then_read_in_order_with_a_window_that_soon_is_large() -> None:
    store = Store(ReadAhead(SIZE))
    store.follow([(SIZE - 22, SIZE)])
    store.follow(in_steps(50 * MiB, 64 * KiB))
    assert store.waits <= 4


def test_small_steps_back_and_forth_are_still_sequential() -> None:
    store = Store(ReadAhead(SIZE))
    for at in range(0, 4 * MiB, 60 * KiB):
        store.read(at, at + 512)
        advice = store.read(at + 512 - 30 * KiB if at else 512, at + 2048)
        assert not advice.jumped
    assert store.fetched > 8 * MiB


def test_places_read_in_turn_each_have_their_window() -> None:
    store = Store(ReadAhead(SIZE))
    bases = (0, 300 * MiB, 600 * MiB)
    for i in range(40):
        store.follow((base + i * 64 * KiB, base + (i + 1) * 64 * KiB) for base in bases)
    assert all((base + 3 * MiB) // GRAIN in store.have for base in bases)
    assert store.waits < 30


def test_leaving_is_noticed() -> None:
    store = Store(ReadAhead(SIZE))
    assert not store.read(0, 10).jumped
    assert not store.read(10, 20).jumped
    assert store.read(500 * MiB, 500 * MiB + 10).jumped


def test_nothing_is_asked_for_beyond_the_end() -> None:
    store = Store(ReadAhead(10 * MiB + 1))
    store.follow(in_steps(10 * MiB + 1, MiB))
    assert store.fetched == 10 * MiB + GRAIN
