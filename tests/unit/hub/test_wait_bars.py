"""What bars say while something is waited for."""

from __future__ import annotations

import io
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.event_samples import T, waiting
from tqdm.std import tqdm

from hf_haul.hub import wait_bars
from hf_haul.hub.wait_bars import WaitBar, WaitNote, wait_line


def _wait(reason: str, until: float | None, host: str | None = "hub.test") -> dict[str, Any]:
    return {**waiting("for people", until, reason), "host": host}


@pytest.mark.parametrize(
    ("waits", "line"),
    [
        pytest.param([], "", id="nothing"),
        pytest.param([_wait("rate_limit", 57.0)], "Waiting 0:57, hub.test limits requests", id="429"),
        pytest.param([_wait("server_busy", 300.0, None)], "Waiting 5:00, the server is busy", id="without a host"),
        pytest.param([_wait("network", -1.0)], "Waiting: hub.test cannot be reached", id="over in a moment"),
        pytest.param([_wait("stall", None)], "Waiting: hub.test sends nothing", id="without an end"),
        pytest.param([_wait("paused", None)], "paused", id="paused"),
        pytest.param([_wait("bandwidth_limit", None), _wait("disk", None)], "Waiting: the disk is slow", id="a limit"),
    ],
)  # fmt: skip
def test_a_wait_is_a_few_words(waits: list[dict[str, Any]], line: str) -> None:
    assert wait_line(waits, T) == line


class Bar(tqdm):  # type: ignore[type-arg]  # of anything
    """Writes to memory, and counts how often."""

    def __init__(self, **options: Any) -> None:
        self.drawn: list[str] = []
        super().__init__(**{"file": io.StringIO(), "desc": "a.bin", "total": 100, **options})

    def display(self, *_: Any, **__: Any) -> None:
        self.drawn.append(self.desc)


def test_a_bar_says_what_is_waited_for_and_afterwards_what_it_is() -> None:
    clock, bar = FakeClock(T), Bar()
    note = WaitNote(bar, clock)
    note.show([])
    bar.drawn.clear()
    for _ in range(13):
        clock.advance(0.25)
        note.show([_wait("rate_limit", 57.0)])
    assert bar.drawn == [f"Waiting 0:{left}, hub.test limits requests: " for left in (57, 56, 55, 54)]
    note.show([])
    assert bar.desc == "a.bin: "


def test_a_bar_that_does_not_move_shows_that_time_goes_on() -> None:
    clock, bar = FakeClock(T), Bar()
    note = WaitNote(bar, clock)
    bar.drawn.clear()
    for _ in range(30):
        clock.advance(0.1)
        note.show([])
    assert len(bar.drawn) in {2, 3}
    bar.drawn.clear()
    for _ in range(30):
        clock.advance(0.1)
        note.show([], moved=True)
    assert bar.drawn == []


@pytest.mark.parametrize("bar", [None, object(), Bar(disable=True)], ids=["none", "an imitation", "disabled"])
def test_what_cannot_say_it_is_left_alone(bar: Any) -> None:
    note = WaitNote(bar)
    note.show([_wait("rate_limit", 57.0)])
    assert not note.is_shown


def test_before_the_first_file_a_line_of_its_own_shows_it_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = FakeClock(T), list[Any]()

    def make(cls: Any, name: str, **options: Any) -> Any:
        assert (cls, name, options) == (None, "name", {"bar_format": "{desc}", "leave": False})
        made.append(Bar(desc="", **options))
        return made[-1]

    monkeypatch.setattr(wait_bars, "make_bar", make)
    monkeypatch.setattr(wait_bars, "are_bars_disabled", lambda *_: False)
    bar = WaitBar(None, "name", clock)
    assert not bar.show([])
    assert not made
    assert bar.show([_wait("rate_limit", 57.0)])
    assert made[0].desc == "Waiting 0:57, hub.test limits requests"
    assert not bar.show([])
    assert made[0].disable, "closed"
    bar.show([_wait("rate_limit", 57.0)])
    bar.retire()
    assert made[1].disable, "closed"
    assert not bar.show([_wait("rate_limit", 57.0)])
    assert len(made) == 2


def test_a_class_of_the_callers_is_not_made_for_waits() -> None:
    bar = WaitBar(Bar, "name")
    assert not bar.show([_wait("rate_limit", 57.0)])


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: Any, **__: Any) -> Any:
        raise BrokenPipeError

    monkeypatch.setattr(wait_bars, "make_bar", make)
    monkeypatch.setattr(wait_bars, "are_bars_disabled", lambda *_: False)
    bar = WaitBar(None, "name")
    assert not bar.show([_wait("rate_limit", 57.0)])
    assert not bar.show([_wait("rate_limit", 57.0)])
