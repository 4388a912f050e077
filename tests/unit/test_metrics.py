"""What was measured: totals, smoothed speeds, sources."""

from __future__ import annotations

import threading

import pytest
from tests.support.clock import FakeClock

from hf_haul.config import KiB, MiB, Settings
from hf_haul.metrics import DownloadMetrics, SourceHistory, SpeedMeter

HUB, CDN = "https://hub", "https://cdn"


# ---- totals


def test_totals_add_up() -> None:
    metrics = DownloadMetrics(4, 1000, clock=FakeClock())
    metrics.add_bytes(300)
    metrics.add_bytes(200)
    metrics.add_file(ok=True)
    metrics.add_file(ok=False)
    metrics.add_retry()
    metrics.add_limited(1.5)
    metrics.add_limited(0.5)
    assert metrics.as_dict() == {
        "duration_seconds": 0.0,
        "completion_rate": 25.0,
        "files_total": 4,
        "files_done": 1,
        "files_failed": 1,
        "bytes_total": 1000,
        "bytes_downloaded": 500,
        "retries": 1,
        "seconds_limited": 2.0,
        "peak_connections": 0,
        "average_speed_bps": 0.0,
        "peak_speed_bps": 0.0,
    }


def test_the_clock_runs_until_the_first_finish() -> None:
    clock = FakeClock()
    metrics = DownloadMetrics(clock=clock)
    clock.advance(5)
    assert metrics.duration() == 5.0
    metrics.finish()
    clock.advance(5)
    metrics.finish()
    assert metrics.duration() == 5.0


@pytest.mark.parametrize(
    ("total", "done", "failed", "percent"),
    [(0, 0, 0, 100.0), (3, 0, 0, 0.0), (4, 1, 0, 25.0), (4, 2, 2, 50.0), (3, 3, 0, 100.0)],
)
def test_the_completion_rate_is_the_percentage_of_files_in_place(
    total: int, done: int, failed: int, percent: float
) -> None:
    metrics = DownloadMetrics(total)
    for ok in [True] * done + [False] * failed:
        metrics.add_file(ok=ok)
    assert metrics.completion_rate() == percent


def test_the_average_is_over_the_whole_duration_pauses_included() -> None:
    clock = FakeClock()
    metrics = DownloadMetrics(clock=clock)
    metrics.add_bytes(1000)
    clock.advance(10)
    assert metrics.average_speed_bps == 100.0


def test_the_peak_is_the_best_second() -> None:
    clock = FakeClock()
    metrics = DownloadMetrics(clock=clock)
    for rate in (10, 500, 20):
        for _ in range(10):
            clock.advance(0.1)
            metrics.add_bytes(rate)
    assert metrics.peak_speed_bps == pytest.approx(5000, rel=0.15)
    assert metrics.average_speed_bps == pytest.approx(5300 / 3)


def test_a_burst_out_of_a_buffer_is_no_peak() -> None:
    clock = FakeClock()
    metrics = DownloadMetrics(clock=clock)
    metrics.add_bytes(10**9)
    clock.advance(2)
    metrics.add_bytes(0)
    assert metrics.peak_speed_bps == 10**9 / 2


def test_the_peak_of_a_short_download_is_its_average() -> None:
    clock = FakeClock()
    metrics = DownloadMetrics(clock=clock)
    metrics.add_bytes(100)
    clock.advance(0.5)
    metrics.finish()
    assert metrics.peak_speed_bps == metrics.average_speed_bps == 200.0


def test_many_threads_lose_no_count() -> None:
    metrics, meter = DownloadMetrics(), SpeedMeter(half_life=1e9)

    def add() -> None:
        for _ in range(2000):
            metrics.add_bytes(1)
            metrics.add_retry()
            meter.add(1)

    threads = [threading.Thread(target=add, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert metrics.bytes_downloaded == metrics.retries == 16_000
    assert meter._level == pytest.approx(16_000)


# ---- smoothed speed


def feed(meter: SpeedMeter, clock: FakeClock, rate: float, seconds: float, step: float = 0.1) -> None:
    for _ in range(round(seconds / step)):
        clock.advance(step)
        meter.add(int(rate * step))


@pytest.mark.parametrize("seconds", [0.2, 1.0, 5.0, 60.0])
def test_a_steady_stream_is_measured_right_from_the_beginning(seconds: float) -> None:
    clock = FakeClock()
    meter = SpeedMeter(2.0, clock)
    feed(meter, clock, 1e6, seconds)
    assert meter.speed() == pytest.approx(1e6, rel=0.05)


def test_half_of_the_way_to_a_new_speed_is_made_in_one_half_life() -> None:
    clock = FakeClock()
    meter = SpeedMeter(2.0, clock)
    feed(meter, clock, 1e6, 60.0)
    feed(meter, clock, 3e6, 2.0)
    assert meter.speed() == pytest.approx(2e6, rel=0.05)


def test_the_speed_fades_while_nothing_comes() -> None:
    clock = FakeClock()
    meter = SpeedMeter(2.0, clock)
    feed(meter, clock, 1e6, 60.0)
    before = meter.speed()
    clock.advance(2.0)
    assert meter.speed() == pytest.approx(before / 2, rel=0.01)
    clock.advance(60.0)
    assert meter.speed() < 1.0


def test_a_meter_that_is_restarted_knows_nothing_of_before() -> None:
    clock = FakeClock()
    meter = SpeedMeter(clock=clock)
    meter.add(5000)
    clock.advance(60)
    meter.restart()
    assert meter.speed() == 0.0
    clock.advance(0.001)
    meter.add(100)
    assert meter.speed() == pytest.approx(100_000, rel=0.01)


def test_a_meter_without_time_or_bytes_says_nothing() -> None:
    clock = FakeClock()
    meter = SpeedMeter(2.0, clock)
    meter.add(10**6)
    assert meter.speed() == 0.0
    clock.advance(1)
    assert SpeedMeter(2.0, clock).speed() == 0.0


@pytest.mark.parametrize("half_life", [0.0, -1.0, float("nan")])
def test_a_half_life_that_is_none_is_refused(half_life: float) -> None:
    with pytest.raises(ValueError, match="half_life"):
        SpeedMeter(half_life)


# ---- sources


@pytest.mark.parametrize(
    ("speed", "size"),
    [
        pytest.param(100 * KiB, 16 * KiB, id="clamped to the smallest"),
        pytest.param(320 * KiB, 32 * KiB, id="32 KiB a tenth"),
        pytest.param(3 * MiB, 256 * KiB, id="rounded down to a power of two"),
        pytest.param(500 * MiB, 1 * MiB, id="clamped to the largest"),
    ],
)
def test_a_read_takes_about_a_tenth_of_a_second(speed: int, size: int) -> None:
    history = SourceHistory()
    for _ in range(20):
        history.read(HUB, speed, 1.0)
    assert history.connection_speed(HUB) == pytest.approx(speed)
    assert history.read_size(HUB, Settings(), 10**9) == size


def test_an_unknown_source_gets_a_middling_read() -> None:
    assert SourceHistory().read_size(HUB, Settings(), None) == 256 * KiB


@pytest.mark.parametrize(("file_size", "size"), [(20_480, 20_480), (1, 1), (0, 1), (10**9, 256 * KiB)])
def test_a_small_file_is_read_at_once(file_size: int, size: int) -> None:
    assert SourceHistory().read_size(HUB, Settings(), file_size) == size


def test_a_largest_read_below_the_smallest_wins() -> None:
    assert SourceHistory().read_size(HUB, Settings(chunk_size=4096), None) == 4096


def test_sources_are_measured_apart() -> None:
    history = SourceHistory()
    history.read(HUB, 100, 1.0)
    history.read(CDN, 900, 1.0)
    assert history.connection_speed(HUB) == 100
    assert history.connection_speed(CDN) == 900
    assert history.connection_speed("https://other") is None


def test_old_measurements_fade_with_the_time_spent_reading() -> None:
    history = SourceHistory()
    history.read(HUB, 1000, 10.0)
    for _ in range(20):
        history.read(HUB, 1000, 1.0)
    assert history.connection_speed(HUB) == pytest.approx(1000, rel=0.01)


def test_reads_out_of_a_buffer_do_not_look_like_endless_speed() -> None:
    history = SourceHistory()
    history.read(HUB, 1000, 0.0)
    assert history.connection_speed(HUB) is None
    history.read(HUB, 1000, 1.0)
    history.read(HUB, 1000, 0.0)
    assert history.connection_speed(HUB) == pytest.approx(3000, rel=0.2)


def test_the_time_to_first_byte_is_smoothed() -> None:
    history = SourceHistory()
    assert history.first_byte_seconds(HUB) is None
    history.first_byte(HUB, 0.1)
    assert history.first_byte_seconds(HUB) == pytest.approx(0.1)
    history.first_byte(HUB, 1.1)
    assert history.first_byte_seconds(HUB) == pytest.approx(0.3)
    assert history.as_dict() == {
        HUB: {"connection_speed_bps": None, "first_byte_seconds": pytest.approx(0.3)}
    }


def test_reading_takes_the_time_of_answers_and_of_reads() -> None:
    history = SourceHistory()
    assert history.reading_total("http://a") == 0.0
    history.first_byte("http://a", 0.5)
    history.read("http://a", 100, 2.0)
    history.read("http://a", 100, 1.0)
    history.read("http://b", 100, 7.0)
    assert history.reading_total("http://a") == 3.5


@pytest.mark.parametrize(
    ("usual", "unanswered", "seconds"),
    [
        pytest.param(None, 0, 67.5, id="nothing known: with room for another attempt"),
        pytest.param(None, 1, 22.5, id="the other attempt"),
        pytest.param(0.1, 0, 10.0, id="quick"),
        pytest.param(0.1, 1, 20.0, id="quick, but not to this: twice as long"),
        pytest.param(0.1, 9, 22.5, id="never more than there is"),
        pytest.param(8.0, 0, 32.0, id="slow: four times as long as usual"),
        pytest.param(60.0, 0, 67.5, id="very slow"),
    ],
)
def test_an_answer_is_waited_for_by_what_its_source_has_shown(
    usual: float | None, unanswered: int, seconds: float
) -> None:
    history = SourceHistory()
    if usual is not None:
        history.first_byte("http://a", usual)
    assert history.answer_timeout("http://a", Settings(), unanswered) == seconds
    assert history.answer_timeout("http://a", Settings(first_byte_timeout=5.0), unanswered) == 5.0
    short = Settings(first_byte_timeout=500.0, give_up_after=50.0)
    assert history.answer_timeout("http://a", short, unanswered) == 50.0


def test_of_very_many_sources_those_heard_of_last_are_known() -> None:
    history = SourceHistory()
    history.read("http://forgotten", 100, 1.0)
    history.read("http://used", 100, 1.0)
    for number in range(5000):
        history.first_byte(f"http://host{number}", 0.1)
        history.read(f"http://host{number}", 100, 1.0)
        if number % 500 == 0:
            history.read("http://used", 100, 1.0)
    assert len(history.as_dict()) <= 1000
    assert history.bytes_total("http://used") == 1100
    assert history.bytes_total("http://host4999") == 100
    assert history.bytes_total("http://forgotten") == 0


def test_small_files_do_not_tell_how_long_the_answer_for_a_large_one_takes() -> None:
    history = SourceHistory()
    history.first_byte("http://a", 0.1)
    assert history.first_byte_seconds("http://a", large=True) is None
    assert history.answer_timeout("http://a", Settings()) == 10.0
    assert history.answer_timeout("http://a", Settings(), large=True) == 67.5
    history.first_byte("http://a", 4.1, large=True)
    assert history.first_byte_seconds("http://a", large=True) == 4.1
    assert history.first_byte_seconds("http://a") == pytest.approx(0.9)


def test_another_history_says_how_quickly_a_source_answers_until_it_has_answered_here() -> None:
    elsewhere = SourceHistory()
    history = SourceHistory(elsewhere)
    assert history.first_byte_seconds("http://a", large=True) is None
    elsewhere.first_byte("http://a", 12.0, large=True)
    history.first_byte("http://a", 0.1)
    assert history.first_byte_seconds("http://a", large=True) == 12.0
    assert history.first_byte_seconds("http://a") == 0.1
    history.first_byte("http://a", 3.0, large=True)
    assert history.first_byte_seconds("http://a", large=True) == 3.0


def test_a_source_that_is_slow_for_some_requests_only_gets_the_time_that_those_took() -> None:
    history = SourceHistory()
    history.first_byte("http://a", 12.0)
    for _ in range(15):
        history.first_byte("http://a", 0.05)
    assert history.answer_timeout("http://a", Settings()) > 20.0
    for _ in range(100):
        history.first_byte("http://a", 0.05)
    assert history.answer_timeout("http://a", Settings()) == 10.0
