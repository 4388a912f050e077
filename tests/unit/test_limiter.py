"""A bandwidth limit that holds over any time, for any number of threads."""

from __future__ import annotations

import heapq
import random
import threading

import pytest
from tests.support.clock import FakeCancelToken, FakeClock

from hf_haul.cancellation import CancelToken
from hf_haul.errors import StopRequestedError
from hf_haul.limiter import BandwidthLimiter

KB, MB = 1000, 1_000_000


def simulate(
    limiter: BandwidthLimiter, clock: FakeClock, threads: int, quantum: int, seconds: float
) -> list[float]:
    """Bytes that each of several greedy threads gets through in ``seconds``, without real time."""
    got = [0.0] * threads
    end = clock.now + seconds
    ready = [(clock.now, i) for i in range(threads)]
    heapq.heapify(ready)
    while ready[0][0] < end:
        at, thread = heapq.heappop(ready)
        clock.now = max(clock.now, at)
        wait = limiter.acquire_tokens(quantum)
        if clock.now + wait <= end:
            got[thread] += quantum
        heapq.heappush(ready, (clock.now + wait + 1e-4, thread))
    clock.now = end
    return got


@pytest.mark.parametrize("rate", [1 * MB, 10 * MB, 100 * MB], ids=lambda r: f"{r // MB} MB/s")
@pytest.mark.parametrize("threads", [1, 4, 16])
def test_the_rate_is_kept_within_two_percent_over_ten_seconds(rate: int, threads: int) -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(rate, clock=clock)
    assert limiter.quantum is not None
    got = sum(simulate(limiter, clock, threads, limiter.quantum, 10.0))
    assert got == pytest.approx(10 * rate, rel=0.02)


def test_threads_get_equal_shares() -> None:
    clock = FakeClock()
    got = simulate(BandwidthLimiter(10 * MB, clock=clock), clock, 8, 64 * KB, 10.0)
    assert max(got) <= 1.05 * min(got)


def test_a_mouse_beside_elephants_waits_for_no_more_than_those_before_it() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(1 * MB, 64 * KB, clock=clock)
    for _ in range(4):
        limiter.acquire_tokens(256 * KB)
    # 4 x 256 kB less the burst of 64 kB were booked before it, and nothing after it will push it back.
    mouse = limiter.acquire_tokens(1 * KB)
    assert mouse == pytest.approx(0.961)
    assert limiter.acquire_tokens(256 * KB) > mouse


def test_the_first_burst_is_the_bucket_and_then_the_rate_counts() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(1000, 500, clock=clock)
    assert [limiter.acquire_tokens(250) for _ in range(4)] == [0.0, 0.0, 0.25, 0.5]


def test_a_quiet_time_saves_up_no_more_than_the_bucket() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(1000, 500, clock=clock)
    limiter.acquire_tokens(500)
    clock.advance(3600)
    assert limiter.acquire_tokens(500) == 0.0
    assert limiter.acquire_tokens(1000) == 1.0


def test_a_request_larger_than_the_bucket_is_granted_and_paid_for_by_the_next() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(1000, 100, clock=clock)
    assert limiter.acquire_tokens(10_100) == pytest.approx(10.0)
    assert limiter.acquire_tokens(1000) == pytest.approx(11.0)
    clock.advance(11.0)
    assert limiter.acquire_tokens(0) == 0.0


def test_without_a_limit_nobody_waits() -> None:
    limiter = BandwidthLimiter(None)
    assert limiter.acquire_tokens(10**12) == 0.0
    assert limiter.wait(10**12, CancelToken()) == 0.0
    assert limiter.quantum is None
    assert limiter.bucket_size == 0
    assert limiter.throttled_seconds == 0.0


@pytest.mark.parametrize(
    ("rate", "bucket", "quantum"),
    [
        pytest.param(100 * KB, 65536, 16384, id="slow"),
        pytest.param(10 * MB, 500_000, 50_000, id="middle"),
        pytest.param(1000 * MB, 50_000_000, 262_144, id="fast"),
    ],
)
def test_bucket_and_quantum_follow_the_rate_between_bounds(rate: int, bucket: int, quantum: int) -> None:
    limiter = BandwidthLimiter(rate)
    assert limiter.bucket_size == bucket
    assert limiter.quantum == quantum


def test_a_bucket_that_was_asked_for_stays_when_the_rate_changes() -> None:
    limiter = BandwidthLimiter(1000, 123)
    limiter.max_bps = 50 * MB
    assert limiter.bucket_size == 123


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_that_lets_nothing_through_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="max_bps"):
        BandwidthLimiter(rate)
    limiter = BandwidthLimiter(5)
    with pytest.raises(ValueError, match="max_bps"):
        limiter.max_bps = rate
    assert limiter.max_bps == 5


@pytest.mark.parametrize("bucket", [0, -5])
def test_an_empty_bucket_is_refused(bucket: int) -> None:
    with pytest.raises(ValueError, match="bucket_size"):
        BandwidthLimiter(1000, bucket)


def test_nobody_can_give_bytes_back() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        BandwidthLimiter(1000).acquire_tokens(-1)


# ---- changes while running


def test_a_raised_rate_shortens_a_wait_under_way_to_the_moment() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(1000, 100, clock=clock)

    def raise_the_rate(_: float) -> None:
        if clock.now >= 1001.0:
            limiter.max_bps = 1_000_000

    waited = limiter.wait(10_100, FakeCancelToken(clock, raise_the_rate))  # 10 s at the old rate
    assert 1.0 <= waited <= 1.3


def test_an_unlimited_rate_ends_a_wait_within_a_tenth_of_a_second() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(1000, 100, clock=clock)

    def set_free(_: float) -> None:
        limiter.max_bps = None

    assert limiter.wait(1_000_100, FakeCancelToken(clock, set_free)) <= 0.11


def test_a_lowered_rate_lengthens_a_wait_under_way() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(10_000, 100, clock=clock)

    def lower_the_rate(_: float) -> None:
        limiter.max_bps = 1000

    assert limiter.wait(10_100, FakeCancelToken(clock, lower_the_rate)) == pytest.approx(10.0, rel=0.02)


def test_debt_is_kept_when_the_rate_changes() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(1000, 100, clock=clock)
    limiter.acquire_tokens(1100)  # 1000 bytes of debt
    limiter.max_bps = 2000
    assert limiter.acquire_tokens(0) == pytest.approx(0.5)


def test_a_limit_set_while_running_starts_without_debt_and_without_a_burst() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(None, clock=clock)
    limiter.acquire_tokens(10**9)
    clock.advance(100)
    limiter.max_bps = 1000
    assert limiter.acquire_tokens(1000) == pytest.approx(1.0)


@pytest.mark.parametrize("changes", [2, 10, 50])
def test_the_rate_is_kept_across_many_changes(changes: int) -> None:
    pick, clock = random.Random(changes), FakeClock()
    limiter = BandwidthLimiter(MB, clock=clock)
    allowed = got = 0.0
    for _ in range(changes):
        rate = pick.choice([MB, 5 * MB, 20 * MB])
        limiter.max_bps = rate
        got += sum(simulate(limiter, clock, 4, 16 * KB, 2.0))
        allowed += 2.0 * rate
    assert got == pytest.approx(allowed, rel=0.05)


# ---- waiting


def test_waiting_takes_as_long_as_the_tokens_say_and_is_counted() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(1000, 100, clock=clock)
    cancel_token = FakeCancelToken(clock)
    assert limiter.wait(100, cancel_token) == 0.0
    assert limiter.wait(2000, cancel_token) == pytest.approx(2.0)
    assert limiter.throttled_seconds == pytest.approx(2.0)
    assert max(cancel_token.waited) <= 0.1, "a change of the rate would be noticed too late"
    assert limiter.acquire_tokens(500) == pytest.approx(0.5)
    assert limiter.throttled_seconds == pytest.approx(2.5)


def test_a_cancel_token_ends_the_wait_and_counts_what_was_waited() -> None:
    clock = FakeClock()
    limiter = BandwidthLimiter(1000, 100, clock=clock)
    cancel_token = FakeCancelToken(clock)
    cancel_token.during = lambda _: cancel_token.set() if len(cancel_token.waited) == 3 else None
    with pytest.raises(StopRequestedError):
        limiter.wait(100_000, cancel_token)
    assert limiter.throttled_seconds == pytest.approx(0.2)


def test_a_cancel_token_wakes_a_thread_that_really_waits() -> None:
    limiter, cancel_token, ended = BandwidthLimiter(1, 1), CancelToken(), []

    def wait() -> None:
        try:
            limiter.wait(10**9, cancel_token)
        except StopRequestedError:
            ended.append("halted")

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    cancel_token.set()
    thread.join(10)
    assert ended == ["halted"]


def test_one_limiter_serves_many_threads_at_once_without_losing_a_byte() -> None:
    limiter = BandwidthLimiter(1e12, 1)
    clock_free = threading.Barrier(8)

    def take() -> None:
        clock_free.wait(10)
        for _ in range(2000):
            limiter.acquire_tokens(1)

    threads = [threading.Thread(target=take, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert limiter._taken == 16_000
