"""Connections per source: how many are free, and when none are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hf_haul.config import KiB, MiB, Settings
from hf_haul.errors import ServerBusyError
from hf_haul.metrics import SourceHistory
from hf_haul.transports.concurrency import ConcurrencyController
from hf_haul.transports.source_limits import SourceLimits, WorkloadType

A, B = "http://a.test", "http://b.test"


def limits(**settings: int) -> SourceLimits:
    now = iter(range(10**6))
    return SourceLimits(Settings(**settings), SourceHistory(), clock=lambda: float(next(now)))  # type: ignore[arg-type]


def test_a_source_has_its_first_connections_free() -> None:
    sources = limits(initial_connections=3)
    assert sources.free(A) == 3
    sources.count(A, 2)
    assert (sources.free(A), sources.free(B)) == (1, 3)


@pytest.mark.parametrize(
    "bound", ["max_concurrent_downloads", "connection_pool_size", "max_connections_per_host"]
)
def test_no_limit_is_above_any_bound(bound: str) -> None:
    assert limits(initial_connections=9, **{bound: 2}).free(A) == 2


def test_a_busy_server_costs_its_source_alone() -> None:
    sources = limits(initial_connections=8)
    sources.limit(A)
    sources.backoff(A, ServerBusyError("503"))
    assert (sources.limit(A), sources.limit(B)) == (4, 8)


def test_a_resting_part_gives_its_connection_back_until_half_of_the_workers_rest() -> None:
    sources = limits(max_concurrent_downloads=8, initial_connections=2)
    for backing_off in range(1, 5):
        sources.count(A, 1)
        sources.note_backing_off(A, 1)
        assert sources.free(A) == (2 if backing_off < 4 else 0)
    assert sources.free(B) == 2
    sources.note_backing_off(A, -1)
    assert sources.free(A) == 1


def test_only_sources_that_a_queue_wants_count_as_free() -> None:
    sources = limits(initial_connections=1)
    assert not sources.any_free()
    sources.register({A, B}, 1)
    sources.register({A}, 1)
    sources.count(A, 1)
    sources.count(B, 1)
    assert not sources.any_free()
    sources.count(B, -1)
    assert sources.any_free()
    sources.register({A, B}, -1)
    assert not sources.any_free()


def test_values_and_changes_are_told_by_source() -> None:
    sources = limits(initial_connections=4)
    sources.count(A, 1)
    sources.limit(A)
    assert sources.snapshot()[A]["active"] == 1
    assert sources.retune()[A]["connections"] == 4


@pytest.mark.parametrize(
    ("speed", "first_byte", "expected"),
    [
        pytest.param(20_000_000, 0.001, 8_000_000, id="0.4 s of a slow connection"),
        pytest.param(20_000_000, 0.1, 40_000_000, id="20 first bytes where they are late"),
        pytest.param(500_000_000, 0.001, 200_000_000, id="0.4 s of a fast connection"),
    ],
)
def test_a_part_is_as_long_as_one_connection_is_fast(speed: int, first_byte: float, expected: int) -> None:
    history = SourceHistory()
    sources = SourceLimits(Settings(), history, clock=lambda: 0.0)
    assert sources.most_per_part(A) == 0.0
    history.first_byte(A, first_byte)
    history.read(A, speed, 1.0)
    sources._controller(A)._phase = "hold"
    assert sources.most_per_part(A) == pytest.approx(expected)
    assert sources.most_per_part(B) == 0.0


def test_parts_are_short_while_the_limit_is_looked_for() -> None:
    history = SourceHistory()
    sources = SourceLimits(Settings(), history, clock=lambda: 0.0)
    history.first_byte(A, 0.001)
    history.read(A, 500_000_000, 1.0)
    assert sources.most_per_part(A) == pytest.approx(50_000_000)


def test_the_time_of_one_connection_is_first_bytes_and_bytes() -> None:
    history = SourceHistory()
    sources = SourceLimits(Settings(), history, clock=lambda: 0.0)
    assert sources.seconds(A, 10, 100) is None
    history.first_byte(A, 0.01)
    history.read(A, 20_000_000, 1.0)
    assert sources.seconds(A, 100, 40_000_000) == pytest.approx(3.0)


REQUEST = 64 * KiB  # what a request counts for


@pytest.mark.parametrize(
    ("looks", "changes"),
    [
        pytest.param([(MiB, 0)] * 9, 0, id="bytes all the time"),
        pytest.param([(0, REQUEST)] * 9, 0, id="requests all the time"),
        pytest.param([(MiB, 0)] * 3 + [(0, REQUEST)], 0, id="one look says little"),
        pytest.param([(MiB, 0)] * 3 + [(0, REQUEST)] * 5, 1, id="from bytes to requests"),
        pytest.param([(0, REQUEST), (MiB, 0), (MiB, 0), (0, REQUEST), (0, REQUEST)], 2, id="there and back"),
        pytest.param([(MiB, 0), (0, REQUEST), (0, 0), (0, REQUEST)], 1, id="nothing says nothing"),
        pytest.param([(MiB, 0), (0, REQUEST), (MiB, 0), (0, REQUEST), (MiB, 0)], 0, id="both in turn"),
        pytest.param(
            ([(MiB, 12 * REQUEST)] * 3 + [(MiB, 20 * REQUEST)] * 3) * 3, 0, id="about as much of both"
        ),
        pytest.param([(MiB, 4 * REQUEST)] * 3 + [(MiB, 40 * REQUEST)] * 3, 1, id="from few requests to many"),
        pytest.param([(MiB, 40 * REQUEST)] * 3 + [(MiB, 4 * REQUEST)] * 3, 1, id="from many requests to few"),
    ],
)
def test_the_kind_of_work_changes_when_two_looks_agree(looks: list[tuple[int, int]], changes: int) -> None:
    workload, nbytes, credit, seen = WorkloadType(), 0, 0, 0
    for got, earned in looks:
        nbytes, credit = nbytes + got, credit + earned
        seen += workload.changes(nbytes, credit)
    assert seen == changes


def test_a_limit_found_for_requests_is_looked_for_anew_when_bytes_come() -> None:
    history, now = SourceHistory(), 0.0
    sources = SourceLimits(Settings(), history, clock=lambda: now)
    sources.register([A], 1)
    controller = sources._controller(A)

    def look(nbytes: int, requests: int) -> str:
        nonlocal now
        now += 0.1
        history.read(A, nbytes, 0.1)
        for _ in range(requests):
            sources.count_request(A)
        sources.sample(now)
        phase: str = sources.snapshot()[A]["phase"]
        return phase

    for _ in range(3):
        look(KiB, 10)
    controller._phase = "hold"
    controller._hold_until = 1000.0
    assert look(KiB, 10) == "hold"
    assert [look(100 * MiB, 0), look(100 * MiB, 0)] == ["hold", "start"]


def test_a_source_that_no_queue_wants_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = SourceLimits(Settings(), SourceHistory(), clock=lambda: 0.0)
    looked_at: list[ConcurrencyController] = []
    monkeypatch.setattr(ConcurrencyController, "sample", lambda self, _now, _use: looked_at.append(self))
    sources.register([A, B], 1)
    for source in (A, B):
        sources.count(source, 1)
        sources.count(source, -1)
    sources.sample(0.1)
    assert looked_at == [sources._controller(A), sources._controller(B)]
    sources.register([A], -1)
    sources.sample(0.2)
    assert looked_at[2:] == [sources._controller(B)]


def test_a_source_that_no_queue_wants_does_not_keep_others_from_being_settled() -> None:
    sources = SourceLimits(Settings(), SourceHistory(), clock=lambda: 0.0)
    sources.register([A, B], 1)
    for source in (A, B):
        sources.count(source, 1)
    sources._controller(B)._phase = "hold"
    assert not sources.settled
    sources.register([A], -1)
    assert sources.settled


def test_limits_are_told_how_long_connections_read_since_they_came_into_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[float | None] = []
    monkeypatch.setattr(
        ConcurrencyController, "begin", lambda _self, _now, _total, reading: seen.append(reading)
    )
    monkeypatch.setattr(
        ConcurrencyController, "sample", lambda _self, _now, load: seen.append(load.reading_total)
    )
    sources = limits()
    sources.register([A], 1)
    sources._history.read(A, 10, 0.25)
    sources.count(A, 1)
    sources._history.read(A, 10, 0.5)
    sources.sample(1.0)
    assert seen == [0.25, 0.75]


def test_of_very_many_sources_those_in_use_and_the_latest_are_known() -> None:
    made = limits()
    made.register(["http://queued"], 1)
    made.limit("http://queued")
    made.count("http://busy", 1)
    made.note_backing_off("http://waiting", 1)
    for number in range(5000):
        source = f"http://host{number}"
        made.register([source], 1)
        made.count(source, 1)
        made.sample(float(number))
        made.count_request(source)
        made.note_failed_file(source, ServerBusyError("busy"))
        made.count(source, -1)
        made.register([source], -1)
    known = made.snapshot()
    assert len(known) <= 1000
    assert {"http://queued", "http://busy", "http://waiting", "http://host4999"} <= known.keys()
    assert known["http://busy"]["active"] == 1
    tables = [value for value in vars(made).values() if isinstance(value, dict)]
    assert max(len(table) for table in tables) <= 1000


@pytest.mark.parametrize(
    ("answer", "free"),
    [
        pytest.param(None, 3, id="nobody was answered: those that wait leave their places"),
        pytest.param(8.0, 3, id="slow: the same"),
        pytest.param(0.1, 0, id="quick: what waits will come"),
    ],
)
def test_connections_that_wait_for_a_slow_source_leave_their_places_to_others(
    answer: float | None, free: int
) -> None:
    sources = limits(initial_connections=4, max_concurrent_downloads=8)
    if answer is not None:
        sources._history.first_byte(A, answer, large=True)
    sources.register([A], 1)
    sources.count(A, 4)
    assert sources.free(A) == 0
    sources.sample(1.0, unanswered={A: 3})
    assert sources.free(A) == free
    if free:
        sources.count(A, 4)
        sources.sample(2.0, unanswered={A: 8})
        assert sources.free(A) == 0  # never more than there may be


@pytest.mark.parametrize(
    ("work", "cores", "grows"),
    [
        pytest.param("requests", 1.0, False, id="small files that one thread at a time can do"),
        pytest.param("requests", 0.3, True, id="small files that wait for their source"),
        pytest.param("bytes", 1.0, True, id="bytes, which move beside each other"),
        pytest.param("bytes", 8.0, False, id="bytes, with all processors busy"),
    ],
)
def test_no_connection_is_added_where_the_interpreter_is_what_limits_small_files(
    monkeypatch: pytest.MonkeyPatch, work: str, cores: float, grows: bool
) -> None:
    history, now = SourceHistory(), 0.0
    clock = SimpleNamespace(process_time=lambda: cores * now, monotonic=lambda: now)
    monkeypatch.setattr("hf_haul.transports.source_limits.time", clock)
    sources = SourceLimits(Settings(initial_connections=4), history, clock=lambda: now)
    monkeypatch.setattr(sources, "_processors", 8)
    sources.register({A}, 1)
    history.first_byte(A, 0.001)
    sources.count(A, 4)
    for _ in range(100):
        now += 0.05
        for _ in range(sources.limit(A)):  # as if each connection brought as much as every other
            if work == "requests":
                sources.count_request(A)
            history.read(A, KiB if work == "requests" else MiB, 0.04)
        sources.count(A, sources.free(A))
        sources.sample(now)
    assert (sources.limit(A) > 8) is grows
    assert sources.limit(A) >= 4


@pytest.mark.parametrize(
    ("work", "is_one"),
    [
        pytest.param("requests", True, id="small files, whose threads take turns"),
        pytest.param("bytes", False, id="bytes, which move beside each other"),
    ],
)
def test_small_files_that_keep_the_interpreter_busy_get_one_connection(
    monkeypatch: pytest.MonkeyPatch, work: str, is_one: bool
) -> None:
    history, now = SourceHistory(), 0.0
    clock = SimpleNamespace(process_time=lambda: now, monotonic=lambda: now)
    monkeypatch.setattr("hf_haul.transports.source_limits.time", clock)
    sources = SourceLimits(Settings(initial_connections=4), history, clock=lambda: now)
    sources.register({A}, 1)
    history.first_byte(A, 0.001)
    sources.count(A, 4)
    for _ in range(20):
        now += 0.05
        for _ in range(50):  # no more with four connections than with one
            if work == "requests":
                sources.count_request(A)
            history.read(A, KiB if work == "requests" else MiB // 50, 0.04)
        sources.count(A, sources.limit(A) - sources.snapshot()[A]["active"])
        sources.sample(now)
    assert (sources.limit(A) == 1) is is_one


@pytest.mark.parametrize(
    ("work", "answer", "expected"),
    [
        pytest.param("requests", 0.05, 64, id="small files that wait: as many as there may be"),
        pytest.param("requests", 0.02, 32, id="and fewer where they wait for less"),
        pytest.param("requests", 0.001, 4, id="small files that do not"),
        pytest.param("bytes", 0.05, 4, id="bytes, which fill a link"),
    ],
)
def test_small_files_have_at_once_the_connections_that_only_wait(
    work: str, answer: float, expected: int
) -> None:
    history = SourceHistory()
    sources = SourceLimits(Settings(initial_connections=4, max_concurrent_downloads=64), history)
    sources.register({A}, 1)
    history.first_byte(A, answer)
    sources.count(A, 4)
    if work == "requests":
        sources.count_request(A)
    history.read(A, KiB if work == "requests" else MiB, 0.01)
    assert sources.sample(1.0) is (expected > 4)
    assert sources.limit(A) == expected


def test_no_connection_is_added_at_once_after_a_refusal() -> None:
    history = SourceHistory()
    sources = SourceLimits(Settings(initial_connections=4), history)
    sources.register({A}, 1)
    history.first_byte(A, 0.05)
    sources.count(A, 4)
    sources.backoff(A, ServerBusyError("429"))
    sources.count_request(A)
    history.read(A, KiB, 0.01)
    sources.sample(1.0)
    assert sources.limit(A) == 2
