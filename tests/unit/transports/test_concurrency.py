"""The number of connections, on simulated links."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from hf_haul.transports.concurrency import ConcurrencyController
from hf_haul.transports.load import LoadSample

MB = 1e6
TICK = 0.1
Link = Callable[[int, float], float]


@dataclass
class Line:
    """A link, and a client that follows the limit: up at once, down as its parts come to their ends.

    Attributes:
        link: Bytes per second, by connections and by time.
        demand: Connections that there is work for.
        first_byte: Seconds until the first byte.
        ramp: Seconds a changed rate takes to show (slow start).
        noise: Share by which each tick's bytes vary.
        requests: Requests per second that are counted beside the bytes, by time.
        cpu: Share of the processors in use, by connections.
        reading: Share of the connections' time that reads take, by connections; ``None`` if nobody tells.
        small: Whether requests for small files are what takes the time.
    """

    link: Link
    demand: int = 10**6
    first_byte: float = 0.0
    ramp: float = 0.0
    noise: float = 0.0
    requests: Callable[[float], int] = lambda now: 0
    cpu: Callable[[int], float] = lambda n: 0.0
    reading: Callable[[int], float] | None = None
    small: bool = False
    initial: int = 4
    maximum: int = 32
    seed: int = 1
    now: float = 0.0
    total: float = 0.0
    credit: float = 0.0
    read_seconds: float = 0.0
    active: float = 0.0
    rate: float = 0.0
    limits: list[tuple[float, int]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.controller = ConcurrencyController(self.initial, self.maximum)
        self.controller.begin(self.now, self.total, 0.0 if self.reading else None)
        self.limits.append((self.now, self.initial))
        self._random = random.Random(self.seed)

    def run(self, seconds: float) -> Line:
        for _ in range(round(seconds / TICK)):
            self.now = round(self.now + TICK, 6)
            wanted = min(self.demand, self.controller.limit)
            self.active = wanted if wanted > self.active else max(wanted, self.active * 0.7)
            count = int(self.active)
            target = self.link(count, self.now) if self.now > self.first_byte else 0.0
            self.rate += (target - self.rate) * (min(1.0, TICK / self.ramp) if self.ramp else 1.0)
            moved = self.rate * TICK * (1 + self._random.uniform(-self.noise, self.noise))
            self.total += moved
            self.rates.append(moved / TICK)
            if self.now > self.first_byte:
                self.controller.first_byte(self.first_byte)
            self.credit += self.requests(self.now) * TICK * 65536
            goodput = self.total + self.credit
            reading = None
            if self.reading is not None:
                self.read_seconds += self.reading(count) * count * TICK
                reading = self.read_seconds
            load = LoadSample(
                goodput,
                self.total,
                count,
                cpu_busy=self.cpu(count),
                reading_total=reading,
                is_requests=self.small,
            )
            self.controller.sample(self.now, load)
            if self.limits[-1][1] != self.controller.limit:
                self.limits.append((self.now, self.controller.limit))
        return self

    @property
    def limit(self) -> int:
        return self.controller.limit

    def average(self, seconds: float) -> float:
        recent = self.rates[-round(seconds / TICK) :]
        return sum(recent) / len(recent)


def linear(n: int, _: float) -> float:
    return 20 * MB * n


def capped(total: float, each: float = 20 * MB) -> Link:
    return lambda n, _: min(each * n, total)


def test_a_link_that_scales_is_filled_within_half_a_second() -> None:
    line = Line(linear).run(0.6)
    assert [limit for _, limit in line.limits] == [4, 8, 16, 32]


def test_a_round_trip_makes_the_start_slower_but_not_lower() -> None:
    line = Line(linear, first_byte=0.3).run(5)
    assert line.limit == 32
    assert line.limits[-1][0] > 1.0, "it did not wait for what its steps brought"


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_noisy_link_that_scales_is_filled_all_the_same(noise: float, seed: int) -> None:
    line = Line(linear, noise=noise, seed=seed).run(60)
    assert line.average(50) >= 0.9 * 32 * 20 * MB


@pytest.mark.parametrize("noise", [0.0, 0.15])
@pytest.mark.parametrize("most", [60 * MB, 150 * MB, 300 * MB], ids=lambda m: f"{m / MB:.0f} MB/s")
def test_a_capped_link_is_filled_with_about_as_many_connections_as_it_takes(
    most: float, noise: float
) -> None:
    line = Line(capped(most), noise=noise).run(90)
    assert line.average(80) >= 0.93 * most
    assert line.limit <= 2.1 * max(4, most / (20 * MB))


def test_a_link_that_one_connection_fills_gets_no_more_than_the_first_few() -> None:
    line = Line(lambda n, t: 1400 * MB).run(60)
    assert max(limit for _, limit in line.limits) <= 8
    assert line.limit == 4


@pytest.mark.parametrize(("holds", "power"), [(4, 2.0), (6, 1.0), (12, 1.0), (16, 3.0)])
def test_a_link_that_collapses_under_load_is_left_where_it_held(holds: int, power: float) -> None:
    def collapsing(n: int, _: float) -> float:
        return 75 * MB * n if n <= holds else 75 * MB * holds * (holds / n) ** power

    line = Line(collapsing).run(90)
    best = 75 * MB * holds
    assert line.average(30) >= 0.85 * best
    assert line.limit <= holds + 2


def test_slow_start_does_not_pass_for_gain_for_ever() -> None:
    line = Line(capped(100 * MB), ramp=1.0, first_byte=0.1).run(90)
    assert line.limit <= 16
    assert line.average(30) >= 0.9 * 100 * MB


def test_the_limit_never_grows_where_there_is_not_enough_to_do() -> None:
    line = Line(linear, demand=3).run(30)
    assert [limit for _, limit in line.limits] == [4]


def test_more_work_later_lets_it_grow() -> None:
    line = Line(linear, demand=3).run(10)
    line.demand = 100
    assert line.run(2).limit == 32


def test_nothing_grows_while_no_byte_flows() -> None:
    line = Line(lambda n, t: 0.0).run(30)
    assert line.limit == 4


def test_a_busy_processor_stops_growth() -> None:
    line = Line(linear, cpu=lambda n: 0.95).run(30)
    assert max(limit for _, limit in line.limits) == 4


def test_growth_stops_where_the_processor_becomes_busy() -> None:
    line = Line(linear, cpu=lambda n: 0.05 * n).run(30)
    assert 16 <= max(limit for _, limit in line.limits) <= 20


def test_fast_connections_in_each_others_way_become_one() -> None:
    line = Line(lambda n, _: (1000 - 60 * n) * MB, cpu=lambda n: 0.7).run(2.5)
    assert line.limit == 1
    assert line.run(60).average(55) >= 0.98 * 940 * MB


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_fast_connections_that_bring_more_together_stay(noise: float) -> None:
    line = Line(lambda n, _: min(250 * n, 1000) * MB, cpu=lambda n: 0.7, noise=noise).run(30)
    assert line.limit == 4
    assert line.average(28) >= 0.95 * 1000 * MB


def test_losses_of_halves_do_not_add_up() -> None:
    rates = {8: 1000 * MB, 4: 850 * MB, 2: 720 * MB, 1: 610 * MB}
    line = Line(lambda n, _: rates.get(n, 1000 * MB), cpu=lambda n: 0.7, initial=8).run(4)
    assert [limit for _, limit in line.limits] == [8, 4, 2, 4], "a half of a half may not lose another part"


@pytest.mark.parametrize(
    ("share", "limits"),
    [
        pytest.param(0.0, [8, 1], id="reads take no time"),
        pytest.param(0.1, [8, 1], id="one has time for all"),
        pytest.param(0.2, [8, 2, 1], id="two have"),
        pytest.param(0.45, [8, 4, 2, 1], id="half have"),
    ],
)
def test_fast_connections_that_seldom_read_are_given_up_without_a_trial(
    share: float, limits: list[int]
) -> None:
    def link(_: int, now: float) -> float:
        return 1500 * MB if now < 0.25 else 900 * MB  # the file's digest cannot follow: a trial would fail

    line = Line(link, cpu=lambda n: 0.7, reading=lambda n: share, initial=8).run(1.5)
    assert [limit for _, limit in line.limits] == limits
    assert line.controller.drops_excess
    assert line.run(30).limit == 1


def test_fast_connections_that_read_most_of_the_time_are_tried_first() -> None:
    line = Line(lambda n, _: min(250 * n, 1000) * MB, cpu=lambda n: 0.7, reading=lambda n: 0.9).run(30)
    assert line.limit == 4
    assert line.average(28) >= 0.95 * 1000 * MB


@pytest.mark.parametrize("idle", [False, True], ids=["busy", "idle"])
def test_connections_that_are_missed_after_all_come_back_for_good(idle: bool) -> None:
    """A limiter, a digest or a disk was full of what they brought: that takes as many as before."""

    def cpu(n: int) -> float:
        return 0.55 if n > 2 else 0.2 if idle else 0.4

    line = Line(capped(400 * MB, 120 * MB), cpu=cpu, reading=lambda n: 0.2 if n > 3 else 0.97).run(60)
    assert line.limits[1][1] == 1
    assert line.average(58) >= 0.99 * 400 * MB
    assert len(line.limits) < 15


def test_connections_in_a_trial_and_after_a_refusal_are_of_use() -> None:
    line = Line(lambda n, _: 1000 * MB, cpu=lambda n: 0.7).run(4)
    assert line.limit == 1
    assert not line.controller.drops_excess
    line = Line(lambda n, _: 1000 * MB, cpu=lambda n: 0.7, reading=lambda n: 0.1, initial=8).run(0.2)
    assert line.controller.drops_excess
    line.controller.backoff(line.now, "ServerBusyError")
    assert not line.controller.drops_excess


def test_slow_connections_that_seldom_read_are_not_halved() -> None:
    line = Line(linear, cpu=lambda n: 0.7, reading=lambda n: 0.1).run(10)
    assert min(limit for _, limit in line.limits) == 4


def test_slow_connections_are_not_halved_however_busy_the_processor() -> None:
    line = Line(linear, cpu=lambda n: 0.7).run(30)
    assert min(limit for _, limit in line.limits) == 4


def test_thrift_ends_where_the_processor_has_nothing_to_do() -> None:
    def link(n: int, t: float) -> float:
        return 1000 * MB if t < 20 else 20 * MB * n

    line = Line(link, cpu=lambda n: 0.7).run(20)
    assert line.limit == 1
    line.cpu = lambda n: 0.02
    line.run(5)
    assert line.limit == 32


def test_a_refusal_ends_thrift() -> None:
    line = Line(lambda n, _: 1000 * MB, cpu=lambda n: 0.7).run(4)
    assert line.limit == 1
    line.controller.backoff(line.now, "ServerBusyError")
    line.cpu = lambda n: 0.02
    line.run(4)
    assert line.limit == 1


# ---- small files that keep the interpreter busy


def taking_turns(n: int, _: float) -> float:
    """Threads that take the interpreter from each other: four do three quarters of what one does."""
    return 20 * MB / (1 + 0.1 * (n - 1))


def small_files(link: Link, cpu: Callable[[int], float] = lambda n: 0.95, **more: float) -> Line:
    return Line(link, small=True, cpu=cpu, **more)  # type: ignore[arg-type]  # one of them is an int


def test_small_files_that_keep_the_interpreter_busy_get_one_connection_at_once() -> None:
    line = small_files(taking_turns).run(0.2)
    assert line.limit == 1
    line.run(60)
    assert [limit for _, limit in line.limits] == [4, 1]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_connections_for_small_files_that_are_missed_come_back(noise: float) -> None:
    """Each waits a little for its answers, so that one alone would leave the interpreter idle half the time."""

    def waiting(n: int, _: float) -> float:
        return 20 * MB * min(1.0, 0.5 * n)

    line = small_files(waiting, noise=noise).run(0.6)
    assert [limit for _, limit in line.limits] == [4, 1, 4]
    assert line.run(60).average(59) >= 0.95 * 20 * MB


def test_many_connections_for_far_small_files_are_not_given_up_for_one() -> None:
    line = small_files(lambda n, _: 20 * MB * min(n, 16), cpu=lambda n: min(0.06 * n, 0.96)).run(60)
    assert min(limit for _, limit in line.limits) >= 4
    assert line.average(59) >= 0.9 * 16 * 20 * MB


def test_a_beginning_that_is_busy_does_not_hold_up_growth_for_far_small_files() -> None:
    line = small_files(linear)
    line.run(0.1)
    line.cpu = lambda n: 0.01 * n
    assert line.run(0.9).limit == 32
    assert [limit for _, limit in line.limits[:3]] == [4, 1, 4]


@pytest.mark.parametrize(
    ("busy", "limit"),
    [
        pytest.param(0.4, 32, id="others have most of the time"),
        pytest.param(0.7, 1, id="others have little"),
    ],
)
def test_one_connection_for_small_files_is_not_enough_where_it_waits_most_of_the_time(
    busy: float, limit: int
) -> None:
    line = small_files(taking_turns).run(1)
    assert line.limit == 1
    line.cpu, line.link = (lambda n: busy if n == 1 else 0.1), linear
    assert line.run(2).limit == limit


def test_one_connection_that_was_refused_by_mistake_is_found_by_probes() -> None:
    def link(n: int, now: float) -> float:
        return taking_turns(n, now) if n > 1 or now > 0.5 else 0.1 * MB

    line = small_files(link).run(0.5)
    assert [limit for _, limit in line.limits] == [4, 1, 4]
    assert line.run(30).limit == 1


@pytest.mark.parametrize("seconds", [0.2, 1.0], ids=["on trial", "found"])
def test_one_connection_that_was_right_for_small_files_is_not_where_large_ones_begin(seconds: float) -> None:
    line = small_files(taking_turns).run(seconds)
    assert line.limit == 1
    line.controller.note_other_work(line.now)
    assert line.limit == 4
    line.small, line.link, line.cpu = False, linear, lambda n: 0.2
    assert line.run(0.6).limit == 32


def test_other_work_does_not_hold_up_leaps() -> None:
    line = Line(linear).run(0.1)
    line.controller.note_other_work(line.now)
    assert line.controller.snapshot()["trying"] is True


# ---- bounds and probes


def test_the_maximum_is_never_exceeded_and_the_initial_limit_not_undercut_by_probes() -> None:
    line = Line(linear, initial=3, maximum=29).run(120)
    assert {limit for _, limit in line.limits} <= set(range(3, 30))
    assert line.average(60) >= 0.95 * 29 * 20 * MB


def test_probing_costs_little() -> None:
    line = Line(capped(160 * MB)).run(120)
    assert line.average(115) >= 0.97 * 160 * MB


def test_a_link_that_becomes_wider_is_noticed() -> None:
    line = Line(lambda n, t: min(20 * MB * n, (100 if t < 30 else 400) * MB)).run(75)
    assert line.average(10) >= 0.85 * 400 * MB


# ---- backing off


def grown() -> Line:
    line = Line(linear).run(2)
    assert line.limit == 32
    return line


def test_a_refusal_halves_at_once_but_at_most_once_a_second() -> None:
    line = grown()
    halved = []
    for later in (0.0, 0.1, 0.9, 1.0, 1.5, 2.0):
        line.controller.backoff(line.now + later, "ServerBusyError")
        halved.append(line.limit)
    assert halved == [16, 16, 16, 8, 8, 4]


def test_refusals_go_down_to_one_connection_and_no_further() -> None:
    line = grown()
    for second in range(20):
        line.controller.backoff(line.now + second, "ServerBusyError")
    assert line.limit == 1


def test_one_broken_connection_is_bad_luck_and_two_are_not() -> None:
    line = grown()
    line.controller.backoff(line.now, "ConnectionFailedError")
    assert line.limit == 32
    line.controller.backoff(line.now + 1, "StalledError")
    assert line.limit == 16


def test_broken_connections_far_apart_do_no_harm() -> None:
    line = grown()
    for minute in range(10):
        line.controller.backoff(line.now + 60 * minute, "ConnectionFailedError")
    assert line.limit == 32


def test_broken_connections_never_take_more_than_what_was_earned() -> None:
    line = grown()
    for second in range(60):
        line.controller.backoff(line.now + second, "ConnectionFailedError")
    assert line.limit == 4


def test_broken_connections_do_not_raise_a_limit_that_refusals_brought_down() -> None:
    line = grown()
    for second in range(10):
        line.controller.backoff(line.now + second, "ServerBusyError")
    for second in range(10, 20):
        line.controller.backoff(line.now + second, "ConnectionFailedError")
    assert line.limit == 1


@pytest.mark.parametrize("reason", ["LinkExpiredError", "RangeRefusedError", "SourceChangedError"])
def test_what_is_no_sign_of_overload_changes_nothing(reason: str) -> None:
    line = grown()
    for _ in range(10):
        line.controller.backoff(line.now, reason)
    assert line.limit == 32


def test_the_limit_rests_after_a_refusal_and_then_earns_its_way_back() -> None:
    line = grown()
    line.controller.backoff(line.now, "ServerBusyError")
    line.run(4)
    assert line.limit == 16
    line.run(60)
    assert line.average(10) >= 0.8 * 32 * 20 * MB


def test_a_refusal_in_the_middle_of_a_trial_counts_from_the_trial() -> None:
    line = Line(linear).run(0.1)
    assert line.limit == 8
    line.controller.backoff(line.now, "ServerBusyError")
    assert line.limit == 4
    assert line.controller.snapshot()["trying"] is False


def test_retuning_starts_over_from_the_present_limit() -> None:
    line = Line(linear)
    line.run(2)
    for second in range(10):
        line.controller.backoff(line.now + second, "ServerBusyError")
    line.controller.retune(line.now)
    assert line.limit == 1
    assert line.controller.snapshot()["phase"] == "start"
    assert line.run(2).limit == 32


# ---- the rest


def test_a_known_time_to_first_byte_makes_ticks_longer() -> None:
    line = Line(linear, first_byte=0.5).run(1.9)
    assert line.limit == 4, "a tick from the first byte on lasts three times as long as it took"
    assert line.run(10).limit == 32


def test_what_came_until_the_first_look_is_a_tick() -> None:
    controller = ConcurrencyController(4, 32)
    controller.begin(10.0, 500.0)
    controller.first_byte(0.001)
    controller.sample(10.02, LoadSample(500.0, 500.0, 4))
    assert controller.limit == 4, "nothing has come"
    controller.sample(10.1, LoadSample(8e6, 8e6, 4))
    assert controller.limit == 8


def test_connections_that_end_between_two_looks_are_in_use_all_the_same() -> None:
    limits = []
    for active, peak in [(3, 4), (3, 3), (2, 4)]:
        controller = ConcurrencyController(4, 32)
        controller.begin(0.0, 0.0)
        controller.first_byte(0.001)
        controller.sample(0.1, LoadSample(8e6, 8e6, active, peak))
        limits.append(controller.limit)
    assert limits == [8, 4, 4]


def test_requests_say_nothing_of_how_fast_one_connection_can_be() -> None:
    line = Line(linear, initial=4, maximum=16, requests=lambda now: 2000 if now < 1 else 0).run(30)
    assert [limit for _, limit in line.limits] == [4, 8, 16]


def test_fewer_connections_that_bring_less_are_given_up_after_one_tick() -> None:
    line = Line(lambda n, now: 20 * MB * n * (1.3 if now < 1 else 1.0), initial=4, maximum=16).run(12)
    (tried, smaller), (back, restored) = line.limits[-2:]
    assert smaller < restored == 16
    assert back - tried == pytest.approx(0.5), "one tick, though it holds the bytes of those that leave"


def test_a_snapshot_is_made_of_plain_values() -> None:
    line = grown()
    line.controller.backoff(line.now, "ServerBusyError")
    assert line.controller.snapshot() == {
        "limit": 16,
        "maximum": 32,
        "phase": "hold",
        "trying": False,
        "goodput_bps": 0.0,
        "first_byte_seconds": pytest.approx(0.0, abs=0.2),
        "backoffs": {"ServerBusyError": 1},
    }


@pytest.mark.parametrize(("initial", "maximum"), [(0, 4), (5, 4), (-1, -1)])
def test_limits_that_contradict_each_other_are_refused(initial: int, maximum: int) -> None:
    with pytest.raises(ValueError, match="initial"):
        ConcurrencyController(initial, maximum)


def test_one_connection_is_enough_where_no_more_is_allowed() -> None:
    line = Line(linear, initial=1, maximum=1).run(30)
    assert [limit for _, limit in line.limits] == [1]


def test_a_step_that_pays_in_full_is_followed_by_leaps() -> None:
    line = Line(lambda n, t: 20 * MB * n if t > 10 else 80 * MB).run(10)
    assert line.limit <= 6
    assert line.run(10).limit == 32


@pytest.mark.parametrize(
    ("burst", "cpu"), [pytest.param(15 * MB, 0.3, id="doubled"), pytest.param(60 * MB, 0.6, id="halved")]
)
def test_a_burst_at_the_start_does_not_hold_up_growth_for_long(burst: float, cpu: float) -> None:
    line = Line(linear, cpu=lambda n: cpu)
    line.total = burst  # on its way when the first look comes
    line.run(5)
    assert line.limit == 32


@pytest.mark.parametrize("look", [1, 2, 3])
def test_one_busy_look_at_the_start_does_not_hold_up_growth_for_long(look: int) -> None:
    line = Line(linear)
    line.run((look - 1) * TICK)
    line.cpu = lambda n: 1.0
    line.run(TICK)
    line.cpu = lambda n: 0.3
    assert line.run(3).limit == 32


@pytest.mark.parametrize("quiet", range(5))
def test_one_quiet_look_in_five_does_not_hide_a_busy_processor(quiet: int) -> None:
    line = Line(linear)
    while line.limit < 16:
        line.run(TICK)
    line.cpu = lambda n: 1.0
    line.run(1)
    line.cpu = lambda n: 0.5 if round(line.now / TICK) % 5 == quiet else 1.0
    assert line.run(20).limit <= 16


def test_a_time_without_a_look_says_nothing_of_what_flowed() -> None:
    line = Line(linear, maximum=16).run(3)
    assert line.limit == 16
    line.now += 60.0  # between two queues
    line.run(3)
    assert line.limit == 16


@pytest.mark.parametrize("seconds", [1.2, 1.6, 2.0, 2.6, 3.0])
def test_a_limit_found_while_requests_counted_is_looked_for_anew_once_they_end(seconds: float) -> None:
    line = Line(linear, requests=lambda now: 1200 if now < seconds else 0)
    line.total = 15 * MB  # a burst: without it, the first leaps would do
    line.run(seconds)
    assert line.limit < 16
    line.run(3)
    assert line.limit == 32
