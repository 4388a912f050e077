"""Which connections are given up, and which slow range is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import KiB, MiB
from hf_haul.engine.transfer import Part, Transfer
from hf_haul.engine.watchdog import part_to_share, stalled_parts
from hf_haul.metrics import DownloadMetrics, SpeedMeter
from hf_haul.ranges import ByteRange
from hf_haul.task import DownloadTask

STALL = 10.0


class Bench:
    """Parts of one or more files on a clock that stands still unless moved."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self._folder = folder

    def transfer(self, host: str = "a.test", size: int = 100 * MiB) -> Transfer:
        source = FakeSource(b"")
        wanted = request(MemoryDestination(self._folder, "f"), source, size=size)
        task = DownloadTask("org/m", "f", f"https://{host}/f", self._folder / "f", size)
        made = Transfer(task, wanted, source, DownloadMetrics())
        made.sources.origin.name = f"https://{host}"
        return made

    def part(
        self, transfer: Transfer, *, age: float = 0.0, bps: float = 0.0, waiting: float | None = None, start: int = 0,
        stop: int = 100 * MiB,
    ) -> Part:  # fmt: skip
        """A part that has run for ``age`` seconds at ``bps`` bytes per second, and waits for a read since ``waiting``."""
        now = self.clock.now
        part = Part(transfer, ByteRange(start, stop), now=now - age)
        part.reading_since = now - age
        self.clock.now = now - age
        part.meter = SpeedMeter(clock=self.clock)
        for _ in range(int(age * 10)):
            self.clock.advance(0.1)
            part.meter.add(int(bps / 10))
        self.clock.now = now
        part.received = int(bps * age)
        part.position = min(stop, start + part.received)
        if waiting is not None:
            part.begin_call(now - waiting)
        transfer.parts.append(part)
        return part

    def stalled(self, *parts: Part, usual: float = 0.0, **options: Any) -> list[Part]:
        found = stalled_parts(parts, STALL, self.clock.now, usual_speed=lambda _source: usual, **options)
        return [part for part, _ in found]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("waiting", "given_up"),
    [
        pytest.param(None, False, id="between two reads"),
        pytest.param(9.9, False, id="just before"),
        pytest.param(10.0, True, id="at the limit"),
        pytest.param(60.0, True, id="long after"),
    ],
)
def test_a_connection_without_a_byte_for_too_long_is_given_up(
    bench: Bench, waiting: float | None, given_up: bool
) -> None:
    part = bench.part(bench.transfer(), age=14.0, bps=1e6, waiting=waiting)
    assert bench.stalled(part) == [part] * given_up


def test_the_reason_says_for_how_long_nothing_came(bench: Bench) -> None:
    part = bench.part(bench.transfer(), age=14.0, waiting=12.0)
    found = stalled_parts([part], STALL, bench.clock.now, usual_speed=lambda _source: 0.0)
    assert found == [(part, "no byte for 12 s")]


@pytest.mark.parametrize(
    ("waiting", "given_up"),
    [
        pytest.param(STALL, False, id="as long as between two bytes"),
        pytest.param(59.9, False, id="just before"),
        pytest.param(60.0, True, id="at the limit"),
    ],
)
def test_an_answer_may_take_longer_than_the_next_byte(bench: Bench, waiting: float, given_up: bool) -> None:
    part = bench.part(bench.transfer(), waiting=waiting)
    part.reading_since = None
    found = stalled_parts(
        [part], STALL, bench.clock.now, usual_speed=lambda _source: 0.0, answer_timeout=lambda _part: 60.0
    )
    assert found == [(part, "no byte for 60 s since the request")] * given_up


@pytest.mark.parametrize(("waiting", "given_up"), [(4.9, False), (5.0, True)])
def test_the_next_byte_may_have_to_come_sooner(bench: Bench, waiting: float, given_up: bool) -> None:
    part = bench.part(bench.transfer(), age=14.0, bps=1e6, waiting=waiting)
    assert bench.stalled(part, gap_timeout=lambda _part: 5.0) == [part] * given_up
    assert bench.stalled(part, gap_timeout=lambda _part: 2 * STALL) == []


def test_who_waits_for_his_turn_is_not_given_up(bench: Bench) -> None:
    part = bench.part(bench.transfer(), age=60.0, bps=1e6, waiting=60.0)
    with part.cancel_token.queueing():
        assert bench.stalled(part) == []


@pytest.mark.parametrize(
    ("others", "own", "given_up"),
    [
        pytest.param([1e6, 1e6], 0.5e5, True, id="a twentieth of its peers"),
        pytest.param([1e6, 1e6], 2e5, False, id="a fifth of its peers"),
        pytest.param([1e6], 0.5e5, False, id="too few peers to tell"),
        pytest.param([], 500.0, True, id="below a kilobyte a second, alone"),
        pytest.param([], 3000.0, False, id="slow, but moving, alone"),
        pytest.param([5e4, 5e4], 5e4, False, id="all are slow"),
    ],
)
def test_a_connection_far_slower_than_its_peers_is_given_up(
    bench: Bench, others: list[float], own: float, given_up: bool
) -> None:
    transfer = bench.transfer()
    peers = [bench.part(transfer, age=20.0, bps=bps, waiting=0.1) for bps in others]
    slow = bench.part(transfer, age=20.0, bps=own, waiting=0.1)
    assert bench.stalled(*peers, slow) == [slow] * given_up


@pytest.mark.parametrize(
    ("own", "age", "abandoned", "given_up"),
    [
        pytest.param(20e3, 20.0, 0, True, id="far below what was usual"),
        pytest.param(20e3, 20.0, 1, True, id="once more"),
        pytest.param(20e3, 20.0, 2, False, id="a third time: it may be the link"),
        pytest.param(20e3, 14.0, 0, False, id="young"),
        pytest.param(2e5, 20.0, 0, False, id="a fifth of it"),
    ],
)
def test_a_connection_that_is_left_alone_is_compared_with_what_its_source_did_before(
    bench: Bench, own: float, age: float, abandoned: int, given_up: bool
) -> None:
    slow = bench.part(bench.transfer(), age=age, bps=own, waiting=0.1)
    for _ in range(abandoned):
        slow.abandon("too slow")
        slow.begin_call(bench.clock.now)
    assert bench.stalled(slow, usual=1e6) == [slow] * given_up


def test_peers_that_are_slow_as_well_count_more_than_the_past(bench: Bench) -> None:
    transfer = bench.transfer()
    parts = [bench.part(transfer, age=20.0, bps=20e3, waiting=0.1) for _ in range(3)]
    assert bench.stalled(*parts, usual=1e6) == []


def test_connections_to_another_source_are_no_peers(bench: Bench) -> None:
    far = [bench.part(bench.transfer("fast.test"), age=20.0, bps=1e8, waiting=0.1) for _ in range(3)]
    near = [bench.part(bench.transfer("slow.test"), age=20.0, bps=1e5, waiting=0.1) for _ in range(3)]
    assert bench.stalled(*far, *near) == []


@pytest.mark.parametrize("why", ["young", "limited"])
def test_slowness_is_no_fault_of_a_young_or_a_limited_connection(bench: Bench, why: str) -> None:
    transfer = bench.transfer()
    parts = [bench.part(transfer, age=20.0, bps=1e6, waiting=0.1) for _ in range(3)]
    slow = bench.part(transfer, age=14.0 if why == "young" else 20.0, bps=100.0, waiting=0.1)
    assert bench.stalled(*parts, slow, limited=why == "limited") == []


# ---- sharing


def test_the_part_that_would_finish_last_is_split(bench: Bench) -> None:
    transfer = bench.transfer()
    bench.part(transfer, age=5.0, bps=10e6, stop=60 * MiB)
    slow = bench.part(transfer, age=5.0, bps=1e6, stop=60 * MiB)
    assert part_to_share(transfer.parts, bench.clock.now) == (slow, True)


def test_a_short_rest_is_hedged_once_it_would_take_seconds(bench: Bench) -> None:
    transfer = bench.transfer()
    stuck = bench.part(transfer, age=5.0, bps=100 * KiB, stop=500 * KiB + MiB)
    assert part_to_share([stuck], bench.clock.now) == (stuck, False)


@pytest.mark.parametrize(
    ("peers", "hedged"),
    [
        pytest.param([], True, id="alone"),
        pytest.param([100 * KiB] * 3, False, id="as slow as all others: the link is full"),
        pytest.param([150 * KiB] * 3, False, id="not much slower"),
        pytest.param([10e6] * 3, True, id="much slower"),
    ],
)
def test_a_short_rest_is_hedged_only_if_others_come_faster(
    bench: Bench, peers: list[float], hedged: bool
) -> None:
    transfer = bench.transfer()
    rest = bench.part(transfer, age=5.0, bps=100 * KiB, stop=500 * KiB + MiB)
    others = [bench.part(transfer, age=5.0, bps=bps) for bps in peers]
    for each in others:
        each.stop = each.position + KiB  # nearly over
    assert part_to_share([rest, *others], bench.clock.now) == ((rest, False) if hedged else None)


@pytest.mark.parametrize(("seconds", "raced"), [(0.4, False), (0.6, True)])
def test_a_short_rest_is_raced_sooner_by_a_source_that_is_faster_by_far(
    bench: Bench, seconds: float, raced: bool
) -> None:
    transfer = bench.transfer()
    rest = bench.part(transfer, age=5.0, bps=1e6)
    rest.stop = rest.position + int(seconds * 1e6)
    peer = bench.part(transfer, age=5.0, bps=1e6)
    peer.stop = peer.position + KiB
    found = part_to_share(
        [rest, peer], bench.clock.now, usual_answer=lambda _part: 0.01, gain_elsewhere=lambda _part: 2.5
    )
    assert found == ((rest, rest.remaining >= 256 * KiB) if raced else None)


@pytest.mark.parametrize(
    ("gain", "rest", "found"),
    [
        pytest.param(0.0, 300 * KiB, None, id="its own source has nothing to add"),
        pytest.param(1.0, 300 * KiB, True, id="another one brings some of it"),
        pytest.param(1.0, 200 * KiB, None, id="too little to share with one that is no faster"),
        pytest.param(2.5, 200 * KiB, False, id="one that is faster by far brings it too"),
    ],
)
def test_a_short_rest_is_shared_with_another_source(
    bench: Bench, gain: float, rest: int, found: bool | None
) -> None:
    transfer = bench.transfer()
    parts = [bench.part(transfer, age=5.0, bps=100 * KiB) for _ in range(3)]
    for part, left in zip(parts, (rest, KiB, KiB), strict=True):
        part.stop = part.position + left
    shared = part_to_share(parts, bench.clock.now, gain_elsewhere=lambda _part: gain)
    assert shared == (None if found is None else (parts[0], found))


@pytest.mark.parametrize(("reading", "raced"), [(0.4, False), (0.6, True)])
def test_a_part_is_not_compared_with_another_source_before_it_has_come_for_a_while(
    bench: Bench, reading: float, raced: bool
) -> None:
    part = bench.part(bench.transfer(), age=reading, bps=10 * KiB)
    part.stop = part.position + 100 * KiB
    found = part_to_share([part], bench.clock.now, gain_elsewhere=lambda _part: 9.0, worth_hedging=60.0)
    assert found == ((part, False) if raced else None)


@pytest.mark.parametrize(
    ("unheard", "waiting", "raced"),
    [(True, 0.4, False), (True, 0.6, True), (False, 0.6, False), (False, 3.1, True)],
)
def test_a_source_that_never_answered_is_not_waited_for_long(
    bench: Bench, unheard: bool, waiting: float, raced: bool
) -> None:
    part = bench.part(bench.transfer(), age=waiting, waiting=waiting, stop=MiB)
    part.reading_since = None
    found = part_to_share(
        [part], bench.clock.now, usual_answer=lambda _part: 0.01, gain_elsewhere=lambda _part: 1.0,
        is_unheard=lambda _part: unheard,
    )  # fmt: skip
    assert found == ((part, False) if raced else None), "one request more, not two for its halves"


@pytest.mark.parametrize(
    "why", ["soon over", "preempted", "hedged already", "backing_off", "queued", "complete", "just begun"]
)
def test_nothing_is_shared_that_gains_nothing(bench: Bench, why: str) -> None:
    transfer = bench.transfer()
    part = bench.part(
        transfer, age=0.2 if why == "just begun" else 5.0, bps=0.0 if why == "just begun" else 100 * KiB
    )
    if why == "soon over":
        part.stop = part.position + 10 * KiB
    elif why == "preempted":
        part.preempt(bench.clock.now)
    elif why == "hedged already":
        part.hedge = part
    elif why == "backing_off":
        part.backing_off = True
    elif why == "queued":
        part.cancel_token.queued = True
    elif why == "complete":
        part.position = part.stop
    assert part_to_share([part], bench.clock.now) is None


@pytest.mark.parametrize(
    ("usual", "waiting", "shared"),
    [
        pytest.param(None, 300.0, False, id="nobody has been answered"),
        pytest.param(0.1, 2.9, False, id="quick, and not late yet"),
        pytest.param(0.1, 3.0, True, id="quick, and late"),
        pytest.param(8.0, 23.0, False, id="slow, as usual"),
        pytest.param(8.0, 24.0, True, id="slow, and late"),
    ],
)
@pytest.mark.parametrize("rest", [KiB, 64 * MiB], ids=["short", "long"])
def test_a_part_without_an_answer_is_shared_only_where_others_were_answered_sooner(
    bench: Bench, usual: float | None, waiting: float, shared: bool, rest: int
) -> None:
    part = bench.part(bench.transfer(), age=waiting, waiting=waiting, stop=rest)
    part.reading_since = None
    found = part_to_share([part], bench.clock.now, usual_answer=lambda _file: usual)
    assert found == ((part, rest > MiB) if shared else None)


@pytest.mark.parametrize(
    ("seconds_left", "rest", "shared"),
    [
        pytest.param(15.0, 8 * MiB, False, id="half of it would have to wait for as long"),
        pytest.param(20.0, 8 * MiB, True, id="half of it would be here sooner"),
        pytest.param(20.0, MiB, False, id="a hedge would come too late"),
        pytest.param(30.0, MiB, True, id="a hedge may come first"),
    ],
)
def test_a_slow_body_is_shared_if_that_is_worth_another_slow_answer(
    bench: Bench, seconds_left: float, rest: int, shared: bool
) -> None:
    part = bench.part(bench.transfer(), age=20.0, bps=rest / seconds_left, stop=10**12)
    part.stop = part.position + rest
    found = part_to_share([part], bench.clock.now, usual_answer=lambda _file: 8.0)
    assert (found is not None) is shared


@pytest.mark.parametrize(("reading", "shared"), [(0.01, False), (3.0, True)])
def test_the_speed_of_a_body_is_not_judged_by_what_its_answer_took(
    bench: Bench, reading: float, shared: bool
) -> None:
    part = bench.part(bench.transfer(), age=12.0, stop=100 * MiB)
    part.position = part.received = 16 * KiB
    part.reading_since = bench.clock.now - reading
    found = part_to_share([part], bench.clock.now, usual_answer=lambda _file: 12.0)
    assert (found is not None) is shared


def test_a_part_that_hangs_is_shared_before_any_that_moves(bench: Bench) -> None:
    transfer = bench.transfer()
    bench.part(transfer, age=20.0, bps=1e6)
    hangs = bench.part(transfer, age=20.0, bps=5e6, waiting=4.0, stop=200 * MiB)
    assert part_to_share(transfer.parts, bench.clock.now) == (hangs, True)


def test_an_old_part_whose_new_attempt_has_just_begun_is_not_slow(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    transfer = bench.transfer()
    part = bench.part(transfer, age=100.0, bps=0.0, waiting=1.0)
    assert bench.stalled(part) == [part]
    part.reading_since = None  # it asks again, and has no answer yet
    assert bench.stalled(part) == []
    part.reading_since = bench.clock.now - 1.0
    assert bench.stalled(part) == []


def test_a_part_that_waits_for_its_turn_is_not_stalled(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    part = bench.part(bench.transfer(), age=100.0, bps=1e6, waiting=60.0)
    assert bench.stalled(part) == [part]
    part.cancel_token.queued = True
    assert bench.stalled(part) == []
    part.cancel_token.queued = False
    part.cancel_token.dequeued_at = bench.clock.now - 5.0
    assert bench.stalled(part) == []
