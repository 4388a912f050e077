"""What is waited for: told once, in one line, and again only when it is another wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.clock import FakeClock

from hf_haul import waits as module
from hf_haul.waits import Wait, WaitReason, Waits, in_words

NETWORK, LIMIT, PAUSED = WaitReason.NETWORK, WaitReason.RATE_LIMIT, WaitReason.PAUSED


class Bench:
    """A `Waits`, its clock, and what was told of it."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = FakeClock()
        self.waits = Waits(clock=self.clock, wall=lambda: 1e9 + self.clock())
        self.told: list[dict[str, Any]] = []
        self.waits.listener = self.told.append
        self._caplog = caplog

    @property
    def messages(self) -> list[str]:
        """What was told, and what was logged: the same."""
        told = [each["message"] for each in self.told]
        assert told == [record.getMessage() for record in self._caplog.records]
        assert {record.levelno for record in self._caplog.records} <= {logging.INFO}
        return told

    def pass_time(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass, with the looks of the engine."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.waits.review()


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Bench:
    caplog.set_level(logging.INFO, "hf_haul.waits")
    monkeypatch.setattr(module, "_log", module._Log())
    return Bench(caplog)


def retry(number: int, seconds: float, host: str = "hub", reason: WaitReason = NETWORK) -> Wait:
    return Wait(reason, f"{host}: retry {number} in {in_words(seconds)}", seconds, host, number, 8)


def test_a_wait_is_told_with_all_that_is_known_of_it(bench: Bench) -> None:
    bench.waits.begin("a", Wait(LIMIT, "hub limits requests", 57.0, "hub", 2, 8, "a.bin", 7, "python"))
    assert bench.told == [
        {
            "reason": "rate_limit", "until": 1e9 + 1057.0, "message": "hub limits requests", "attempt": 2, "attempts": 8,
            "host": "hub", "path": "a.bin", "pid": 7, "process": "python",
        }
    ]  # fmt: skip
    assert bench.waits.current() == bench.told
    bench.waits.end("a")
    assert bench.waits.current() == []
    assert bench.messages == ["hub limits requests"]


def test_many_connections_that_wait_for_the_same_are_one_wait(bench: Bench) -> None:
    for number in range(8):
        bench.waits.begin(number, retry(1, 50.0 + number / 10))
        bench.clock.advance(0.01)
    bench.pass_time(40)
    assert bench.messages == ["hub: retry 1 in 50 s"]
    (wait,) = bench.waits.current()
    assert wait["until"] == pytest.approx(1e9 + 1000.0 + 50.7 + 0.07)


def test_each_retry_of_one_connection_is_told(bench: Bench) -> None:
    for number in (1, 2, 3):
        with bench.waits.during(retry(number, 2.0)):
            bench.pass_time(2)
        bench.pass_time(0.5)
    assert bench.messages == [f"hub: retry {number} in 2 s" for number in (1, 2, 3)]


def test_no_more_than_one_line_a_second_is_told_of_one_host(bench: Bench) -> None:
    for number in range(1, 9):
        with bench.waits.during(retry(number, 0.2)):
            bench.pass_time(0.2)
        bench.pass_time(0.1)
    assert 2 <= len(bench.messages) <= 3  # in 2.4 seconds


def test_a_long_wait_that_follows_at_once_on_a_short_one_is_told_a_second_later(bench: Bench) -> None:
    with bench.waits.during(retry(1, 0.3)):
        bench.pass_time(0.3)
    bench.waits.begin("a", retry(2, 300.0, reason=NETWORK))
    assert bench.messages == ["hub: retry 1 in 0.3 s"]
    bench.pass_time(1)
    assert bench.messages == ["hub: retry 1 in 0.3 s", "hub: retry 2 in 5 min"]


@pytest.mark.parametrize(
    "other", [retry(1, 5.0, host="cdn"), retry(1, 5.0, reason=WaitReason.SERVER_BUSY)], ids=["host", "reason"]
)
def test_another_host_and_another_reason_are_other_waits(bench: Bench, other: Wait) -> None:
    bench.waits.begin("a", retry(1, 5.0))
    bench.waits.begin("b", other)
    assert len(bench.messages) == len(bench.waits.current()) == 2


@pytest.mark.parametrize(
    ("later", "told"),
    [pytest.param(2.0, 1, id="a little"), pytest.param(60.0, 2, id="much")],
)
def test_a_pace_that_is_made_longer_is_told_again_only_if_it_is_much_longer(
    bench: Bench, later: float, told: int
) -> None:
    bench.waits.begin("a", Wait(LIMIT, "first", 57.0, "hub"))
    bench.clock.advance(10)
    bench.waits.begin("b", Wait(LIMIT, "second", 47.0 + later, "hub"))
    assert len(bench.messages) == told


def test_the_others_that_a_server_made_wait_add_nothing_to_the_retry_that_it_asked_for(bench: Bench) -> None:
    bench.waits.begin("retry", retry(1, 57.0, reason=LIMIT))
    for number in range(4):
        bench.clock.advance(1.5)
        bench.waits.begin(number, Wait(LIMIT, "the next one goes out later", 57.0 - 1.5 * number, "hub"))
    bench.pass_time(20)
    assert len(bench.messages) == 1


def test_what_comes_and_goes_is_one_wait(bench: Bench) -> None:
    limit = Wait(WaitReason.BANDWIDTH_LIMIT, "held back")
    for pause in (0.1, 1.9, 2.5, 20.0):
        if not bench.waits.extend("limit", 2.0):
            bench.waits.begin("limit", limit, lasting=2.0)
        assert bench.waits.current()
        bench.pass_time(pause)
    assert bench.waits.current() == []
    assert bench.messages == ["held back"]
    bench.pass_time(30)
    bench.waits.begin("limit", limit, lasting=2.0)
    assert bench.messages == ["held back"] * 2


def test_a_pause_is_told_each_time(bench: Bench) -> None:
    for _ in range(3):
        with bench.waits.during(Wait(PAUSED, "org/m is paused")):
            bench.pass_time(700)
    assert bench.messages == ["org/m is paused"] * 3


def test_a_wait_is_worth_a_word_only_after_a_while(bench: Bench) -> None:
    asking = Wait(NETWORK, "hub has not answered yet", host="hub")
    with bench.waits.during(asking, after=5.0):
        bench.pass_time(4.8)
        assert bench.waits.current() == []
    with bench.waits.during(asking, after=5.0):
        bench.pass_time(5.2)
        assert len(bench.waits.current()) == 1
    assert bench.messages == ["hub has not answered yet"]


def test_a_wait_without_a_known_end_is_logged_again_when_it_takes_long(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    wait = Wait(WaitReason.ANOTHER_PROCESS, "a.bin: waiting for process 7", pid=7)
    for _ in range(2000):  # looked at again and again, as a file that another process has
        bench.waits.begin("a", wait)
        bench.pass_time(1.0, 1.0)
    assert len(bench.told) == 1
    assert caplog.messages == [
        "a.bin: waiting for process 7",
        *(f"still, for {seconds} s now: a.bin: waiting for process 7" for seconds in (60, 660, 1260, 1860)),
    ]


def test_another_process_that_has_the_file_is_another_wait(bench: Bench) -> None:
    for pid in (7, 8):
        bench.waits.begin("a", Wait(WaitReason.ANOTHER_PROCESS, f"a.bin: waiting for process {pid}", pid=pid))
        bench.pass_time(2)
    assert bench.messages == [f"a.bin: waiting for process {pid}" for pid in (7, 8)]
    assert bench.waits.first(WaitReason.ANOTHER_PROCESS) == "a.bin: waiting for process 8"
    assert bench.waits.first(PAUSED) is None


def test_several_queues_that_wait_for_the_same_server_write_one_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    others = [Waits(clock=bench.clock) for _ in range(3)]
    told: list[object] = []
    for each in (bench.waits, *others):
        each.listener = told.append
        each.begin("a", retry(1, 57.0 - 2 * len(told), reason=LIMIT))
        bench.clock.advance(2.0)
    assert len(told) == 4  # each tells its own listener
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(lambda waits: waits.begin("b", retry(1, 1.0)), id="begin"),
        pytest.param(lambda waits: waits.end("a"), id="end"),
        pytest.param(lambda waits: waits.current(), id="current"),
        pytest.param(lambda waits: waits.review(), id="review"),
    ],
)
def test_a_listener_may_ask_and_report(bench: Bench, report: Callable[[Waits], object]) -> None:
    called: list[object] = []

    def listen(_wait: dict[str, Any]) -> None:
        if not called:
            called.append(_wait)
            report(bench.waits)

    bench.waits.listener = listen
    done = threading.Event()

    def begin() -> None:
        bench.waits.begin("a", retry(1, 5.0))
        done.set()

    threading.Thread(target=begin, daemon=True).start()
    assert done.wait(10), "it was called with the lock held"
    assert called


def test_what_is_remembered_is_bounded(bench: Bench) -> None:
    for number in range(1000):
        with bench.waits.during(retry(1, 1.0, host=f"host{number}")):
            pass
    assert len(bench.waits._told) <= 100
    assert len(module._log._written) <= 100


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0.0 s"), (0.31, "0.3 s"), (1.0, "1 s"), (57.2, "57 s"), (119, "119 s"), (301, "5 min")],
)
def test_lengths_of_time_are_said_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.fixture
def alone(bench: Bench) -> Bench:
    """One whose waits nobody is told."""
    bench.waits.listener = None
    return bench


def _lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("wait", "seconds", "warning"),
    [
        pytest.param(Wait(LIMIT, "hub limits requests", 57.0, "hub"), 1.0, "hub limits requests", id="known to be long"),
        pytest.param(
            Wait(NETWORK, "hub has not answered", None, "hub"), 10.5, "still waiting, for 10 s now: hub has not answered",
            id="long by now",
        ),
        pytest.param(retry(4, 5.0), 1.0, "hub: retry 4 in 5 s", id="after three retries in vain"),
        pytest.param(retry(3, 9.0), 9.0, None, id="short"),
        pytest.param(Wait(NETWORK, "hub has not answered", None, "hub"), 9.0, None, id="short so far"),
        pytest.param(Wait(PAUSED, "m is paused"), 100.0, None, id="as somebody wants it"),
    ],
)  # fmt: skip
def test_a_long_wait_that_nobody_shows_is_a_warning_once(
    alone: Bench, caplog: pytest.LogCaptureFixture, wait: Wait, seconds: float, warning: str | None
) -> None:
    alone.waits.begin("a", wait)
    alone.pass_time(seconds)
    assert _lines(caplog) == [("INFO", wait.message), *([] if warning is None else [("WARNING", warning)])]
    alone.pass_time(20)
    assert [level for level, _ in _lines(caplog)].count("WARNING") <= 1


def test_what_is_shown_is_no_warning(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    long = Wait(LIMIT, "hub limits requests", 57.0, "hub")
    bench.waits.begin("a", long)
    bench.pass_time(20)
    bench.waits.listener, bench.waits.shown = None, True
    bench.pass_time(20)
    assert _lines(caplog) == [("INFO", long.message)]


def test_warnings_of_the_same_are_a_minute_apart(alone: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(7):
        with alone.waits.during(Wait(LIMIT, "hub limits requests", 12.0, "hub")):
            alone.pass_time(12)
        alone.pass_time(8.5)
    assert [level for level, _ in _lines(caplog)].count("WARNING") == 3


def test_where_nobody_looks_again_the_line_itself_is_the_warning(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    waits = Waits(clock=bench.clock, reviewed=False)
    waits.begin("a", Wait(LIMIT, "hub limits requests", 57.0, "hub"))
    waits.begin("b", Wait(LIMIT, "cdn limits requests", 5.0, "cdn"))
    assert _lines(caplog) == [("WARNING", "hub limits requests"), ("INFO", "cdn limits requests")]
