from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tqdm import tqdm

from hf_haul import manager as manager_module
from hf_haul.engine.handle import QueueProgress
from hf_haul.errors import DownloadCancelledError
from hf_haul.hub import bar_making
from hf_haul.hub.bars import Bars, bars_of_one_file
from hf_haul.hub.call_options import CallOptions, raise_all
from hf_haul.task import DownloadPriority, DownloadState
from hf_haul.waits import Waits

IDLE = QueueProgress(
    files_total=2,
    files_done=0,
    files_failed=0,
    bytes_total=100,
    bytes_done=0,
    bytes_transferred=0,
    speed_bps=0.0,
    retries=0,
    connections=0,
    state=DownloadState.RUNNING,
    waiting_for=None,
)


class Handle:
    """A download whose progress and end the test decides."""

    def __init__(self) -> None:
        self.now = IDLE
        self.over = threading.Event()
        self.cancelled = False
        self.failed: list[tuple[str, BaseException]] = []
        self.asked = threading.Semaphore(0)
        self.waits = Waits()

    def progress(self) -> QueueProgress:
        self.asked.release()
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        return self.over.wait(timeout)

    def cancel(self) -> bool:
        self.cancelled = True
        self.over.set()
        return True

    def errors(self) -> list[tuple[str, BaseException]]:
        return self.failed

    def move(self, **changes: Any) -> None:
        """Change the progress, and wait until the bars have seen it."""
        self.now = replace(self.now, **changes)
        while self.asked.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self.asked.acquire(timeout=10)


class Bar:
    def __init__(self, total: int, initial: int = 0) -> None:
        self.total, self.n = total, initial
        self.moves: list[float] = []
        self.closed = False

    def update(self, n: float) -> None:
        self.n += int(n)
        self.moves.append(n)

    def close(self) -> None:
        self.closed = True


class Manager:
    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.given: dict[str, Any] = {}

    def submit(self, files: Any, **given: Any) -> Handle:
        self.given = {"files": files, **given}
        return self.handle


def no_bars(total: int, initial: int) -> list[tuple[str, Any]]:
    return []


def options(handle: Handle, **more: Any) -> CallOptions:
    return CallOptions(manager=Manager(handle), **more)  # type: ignore[arg-type]  # a manager as far as it goes


def test_what_the_caller_asked_for_reaches_the_manager() -> None:
    handle = Handle()
    handle.over.set()
    told: list[Any] = []
    call = options(handle, priority=DownloadPriority.HIGH, progress_callback=told.append)
    requests: list[Any] = [object()]
    assert call.download(requests, "org/name", no_bars) == []
    assert call.manager.given == {  # type: ignore[union-attr]  # our stand-in
        "files": requests,
        "model_id": "org/name",
        "priority": DownloadPriority.HIGH,
        "progress_callback": told.append,
        "events": None,
    }


def test_failures_come_back_in_their_order() -> None:
    handle = Handle()
    handle.failed = [("a", OSError("first")), ("b", OSError("second"))]
    handle.over.set()
    assert options(handle).download([], "m", no_bars) == handle.failed


def test_a_download_cancelled_from_elsewhere_is_an_error() -> None:
    handle = Handle()
    handle.now = replace(IDLE, state=DownloadState.CANCELLED)
    handle.over.set()
    ((name, error),) = options(handle).download([], "org/name", no_bars)
    assert name == "org/name"
    assert isinstance(error, DownloadCancelledError)


@dataclass
class Interrupted:
    """A handle's wait in which Ctrl+C comes."""

    handle: Handle
    calls: int = 0

    def __call__(self, timeout: float | None = None) -> bool:
        self.calls += 1
        if self.calls == 1:
            raise KeyboardInterrupt
        return self.handle.over.wait(timeout)


def test_an_interrupt_cancels_the_download_and_goes_up() -> None:
    handle = Handle()
    handle.wait = Interrupted(handle)  # type: ignore[method-assign]  # the interrupt
    with pytest.raises(KeyboardInterrupt):
        options(handle).download([], "m", no_bars)
    assert handle.cancelled


def test_an_error_of_a_bar_cancels_the_download_and_goes_up() -> None:
    handle = Handle()

    def broken(total: int, initial: int) -> list[tuple[str, Any]]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        options(handle).download([], "m", broken)
    assert handle.cancelled


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param(BrokenPipeError("nobody reads"), id="pipe"),
        pytest.param(OSError(5, "hung up"), id="terminal"),
        pytest.param(ValueError("I/O operation on closed file."), id="closed"),
    ],
)
def test_a_terminal_that_is_gone_does_not_end_the_download(
    gone: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    handle = Handle()

    class Lost(Bar):
        def update(self, n: float) -> None:
            raise gone

    bars = Bars(handle, lambda total, initial: [("bytes", Lost(100))])  # type: ignore[arg-type]  # a handle as far as it goes
    handle.now = replace(IDLE, bytes_done=1)
    bars.close()
    bars.check()
    assert str(gone) in caplog.text


def test_bars_start_from_what_was_there_and_follow_the_download() -> None:
    handle = Handle()
    handle.now = replace(IDLE, bytes_done=40, bytes_transferred=10)
    made: dict[str, Bar] = {}

    def make(total: int, initial: int) -> list[tuple[str, Any]]:
        made["bytes"] = Bar(total, initial)
        made["files"] = Bar(2)
        return list(made.items())

    bars = Bars(handle, make)  # type: ignore[arg-type]  # a handle as far as it goes
    handle.move(bytes_done=60)
    assert (made["bytes"].n, made["bytes"].total) == (60, 100)
    handle.move(bytes_done=50, bytes_total=120)  # a wrong digest took some back; a size became known
    assert (made["bytes"].n, made["bytes"].total) == (50, 120)
    handle.now = replace(handle.now, bytes_done=120, files_done=2)
    bars.close()
    bars.check()
    assert (made["bytes"].n, made["files"].n) == (120, 2)
    assert all(bar.closed for bar in made.values())


def test_what_an_earlier_call_left_does_not_count_as_speed() -> None:
    handle, screen = Handle(), io.StringIO()
    made: list[Any] = []

    def make(total: int, initial: int) -> list[tuple[str, Any]]:
        bar = tqdm(total=total, initial=initial, file=screen, mininterval=0)
        made.append(bar)
        return [("bytes", bar)]

    bars = Bars(handle, make)  # type: ignore[arg-type]  # a handle as far as it goes
    handle.move(bytes_done=0)
    handle.move(bytes_done=70, bytes_transferred=10)  # a staged file was found
    (bar,) = made
    assert (bar.n, bar.initial) == (70, 60)
    handle.move(bytes_done=60, bytes_transferred=30)  # a wrong digest took some back
    assert (bar.n, bar.initial) == (60, 60)
    handle.now = replace(handle.now, bytes_done=100, bytes_transferred=70)
    bars.close()
    bars.check()
    assert (bar.n, bar.initial) == (100, 60)
    assert "70/100" in screen.getvalue()


def test_bars_that_are_switched_off_are_left_alone() -> None:
    handle = Handle()

    class Off(Bar):
        disable = True

    bar = Off(100)
    bars = Bars(handle, lambda total, initial: [("bytes", bar)])  # type: ignore[arg-type]  # a handle as far as it goes
    handle.now = replace(IDLE, bytes_done=100)
    bars.close()
    assert bar.moves == []


def test_where_no_thread_is_to_be_had_there_are_no_bars_but_a_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    handle, made = Handle(), []
    bars = Bars(handle, lambda total, initial: made.append(total) or [])  # type: ignore[arg-type,func-returns-value]  # as above
    bars.close()
    bars.check()
    assert made == []


def test_all_bars_are_closed_where_one_of_them_fails() -> None:
    handle = Handle()

    class Bad(Bar):
        def update(self, n: float) -> None:
            raise ZeroDivisionError

    made = {"bytes": Bad(100), "files": Bar(100)}
    bars = Bars(handle, lambda total, initial: list(made.items()))  # type: ignore[arg-type]  # as above
    handle.now = replace(IDLE, bytes_done=1, bytes_transferred=1)
    bars.close()
    with pytest.raises(ZeroDivisionError):
        bars.check()
    assert all(bar.closed for bar in made.values())


def test_a_bar_that_blocks_holds_the_end_for_a_bounded_time() -> None:
    handle, release, blocked = Handle(), threading.Event(), threading.Event()

    class Stuck(Bar):
        def update(self, n: float) -> None:
            blocked.set()
            release.wait(30)

    bars = Bars(handle, lambda total, initial: [("bytes", Stuck(100))])  # type: ignore[arg-type]  # as above
    handle.now = replace(IDLE, bytes_done=1)
    assert blocked.wait(10)
    try:
        bars.close(0.01)
        bars.check()
    finally:
        release.set()


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"max_bandwidth": "2MB/s"}, {"max_bandwidth_bps": 2_000_000}, id="bandwidth"),
        pytest.param({"max_connections": 3}, {"max_concurrent_downloads": 3}, id="connections"),
        pytest.param({"verify": False}, {"verify": False}, id="verify"),
        pytest.param({"max_workers": 1}, {"max_concurrent_files_per_model": 1}, id="files"),
    ],
)
def test_settings_make_a_manager_of_the_calls_own(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], changed: dict[str, Any]
) -> None:
    shared: Any = object()
    monkeypatch.setattr(manager_module, "default_manager", lambda: shared)
    with CallOptions(**given).engine() as manager:
        if not changed:
            assert manager is shared
            return
        assert manager is not shared
        for name, value in changed.items():
            assert getattr(manager.settings, name) == value
    with pytest.raises(RuntimeError):
        manager.submit([], model_id="m")


def test_a_text_lifts_a_limit_of_the_settings_for_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HAUL_MAX_BANDWIDTH", "5MB/s")
    with CallOptions(max_bandwidth="0", verify=True).engine() as manager:
        assert manager.settings.max_bandwidth_bps is None
    with CallOptions(max_bandwidth="", verify=True).engine() as manager:
        assert manager.settings.max_bandwidth_bps == 5_000_000


@pytest.mark.parametrize("given", [{"max_bandwidth": 1}, {"max_connections": 1}, {"verify": True}])
def test_settings_and_a_manager_together_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="on that manager"):
        options(Handle(), **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({"max_workers": 0}, "max_workers must be greater than 0, not 0", id="files"),
        pytest.param({"max_connections": -1}, "max_connections must be greater than 0, not -1", id="connections"),
        pytest.param({"max_bandwidth": 0}, "max_bandwidth must be greater than 0, or None, not 0", id="bandwidth"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused_by_the_name_it_was_given(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        CallOptions(**given)


def test_the_number_of_files_at_once_is_the_managers_own_affair() -> None:
    assert options(Handle(), max_workers=1).manager is not None


def notes_of(raiser: Callable[[], None]) -> list[str]:
    with pytest.raises(OSError, match="first") as caught:
        raiser()
    return list(getattr(caught.value, "__notes__", []))


def test_the_first_error_is_raised_with_the_others_as_notes() -> None:
    errors = [("a", OSError("first")), ("b", KeyError("second")), ("c", ValueError("third"))]
    assert notes_of(lambda: raise_all(errors)) == [
        "also failed: b: KeyError: 'second'",
        "also failed: c: third",
    ]


def test_files_that_failed_for_one_reason_are_told_together() -> None:
    same = [(name, OSError("first")) for name in "abcdef"]
    assert notes_of(lambda: raise_all([*same, ("g", OSError("second"))])) == [
        "also failed, for the same reason: b, c, d and 2 more",
        "also failed: g: second",
    ]


def test_notes_are_bounded() -> None:
    errors = [("0", OSError("first")), *((str(i), OSError(f"{i}")) for i in range(1, 200))]
    notes = notes_of(lambda: raise_all(errors))
    assert len(notes) == 51
    assert notes[-1] == "and 149 more files"


def test_without_add_note_the_notes_are_kept_all_the_same() -> None:
    class Old(OSError):
        add_note = property()  # as on Python 3.10: hasattr says no

    assert notes_of(lambda: raise_all([("a", Old("first")), ("b", OSError("x"))])) == ["also failed: b: x"]


def test_without_stderr_there_are_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under pythonw: tqdm would fail, and then hang when it is collected."""
    monkeypatch.setattr(bar_making, "are_progress_bars_disabled", lambda _: False)
    assert bars_of_one_file(None, "a.bin", 3) is not None
    monkeypatch.setattr(sys, "stderr", None)
    assert bars_of_one_file(None, "a.bin", 3) is None
