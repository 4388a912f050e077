"""Telling users: the newest of many messages, the last one always, and nobody hurt by what a callback does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from hf_haul.engine import events
from hf_haul.engine.events import DownloadEvent, EventBus, Notifier
from hf_haul.task import DownloadProgress, DownloadState

RUNNING, DONE = DownloadState.RUNNING, DownloadState.DONE


def message(task: str, done: int, status: DownloadState = RUNNING) -> DownloadProgress:
    return DownloadProgress(task, "org/m", f"{task}.bin", done, 100, 1.0, None, status)


class Gate:
    """A callback that blocks in its first call until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.told: list[tuple[str, int]] = []

    def __call__(self, progress: DownloadProgress) -> None:
        self.entered.set()
        assert self.open.wait(10)
        self.told.append((progress.task_id, progress.bytes_downloaded))


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


def test_of_messages_that_wait_only_the_newest_about_each_file_is_delivered(gate: Gate) -> None:
    notifier = Notifier(gate, "test")
    notifier.post(message("a", 0))
    assert gate.entered.wait(10)
    for done in range(1, 50):
        notifier.post(message("a", done))
        notifier.post(message("b", done))
    gate.open.set()
    assert notifier.flush()
    assert gate.told == [("a", 0), ("a", 49), ("b", 49)]


def test_a_last_message_is_not_replaced_by_an_older_one(gate: Gate) -> None:
    notifier = Notifier(gate, "test")
    notifier.post(message("a", 0))
    assert gate.entered.wait(10)
    notifier.post(message("a", 100, DONE))
    notifier.post(message("a", 50))
    gate.open.set()
    assert notifier.flush()
    assert gate.told == [("a", 0), ("a", 100)]


def test_posting_never_waits_for_the_callback(gate: Gate) -> None:
    notifier = Notifier(gate, "test")
    notifier.post(message("a", 0))
    assert gate.entered.wait(10)
    notifier.post(message("a", 1))  # would hang here
    assert not notifier.flush(0.05)


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_callback_that_raises_is_called_again_and_complained_about_once(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    told = []

    def callback(progress: DownloadProgress) -> None:
        told.append(progress.bytes_downloaded)
        raise error

    notifier = Notifier(callback, "test")
    for done in range(3):
        notifier.post(message(str(done), done))
    assert notifier.flush()
    assert told == [0, 1, 2]
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_a_callback_may_flush_and_post(gate: Gate) -> None:
    told: list[int] = []
    answers: list[bool] = []

    def callback(progress: DownloadProgress) -> None:
        told.append(progress.bytes_downloaded)
        if progress.bytes_downloaded == 0:
            answers.append(notifier.flush(10))
            notifier.post(message("a", 1))

    notifier = Notifier(callback, "test")
    notifier.post(message("a", 0))
    assert notifier.flush()
    assert told == [0, 1]
    assert answers == [False]


def test_the_thread_ends_with_a_flush_and_comes_back_with_the_next_message() -> None:
    told = []
    notifier = Notifier(lambda progress: told.append(progress.bytes_downloaded), "named-thread")
    for done in range(3):
        notifier.post(message("a", done))
        assert notifier.flush()
        assert not [t for t in threading.enumerate() if t.name.startswith("named-thread")]
    assert told == [0, 1, 2]


def test_the_thread_ends_by_itself_when_there_is_nothing_to_tell() -> None:
    notifier = Notifier(lambda progress: None, "brief-thread", linger=0.01)
    notifier.post(message("a", 0))
    assert notifier._threads.join(10)
    assert not [t for t in threading.enumerate() if t.name.startswith("brief-thread")]


def test_one_thread_serves_many_messages() -> None:
    threads = set()
    notifier = Notifier(lambda progress: threads.add(threading.get_ident()), "test")
    for i in range(100):
        notifier.post(message(str(i), 0))
    assert notifier.flush()
    assert len(threads) == 1


def test_where_no_thread_can_be_started_who_waits_is_told_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    told: list[object] = []
    by: set[int] = set()

    def callback(progress: DownloadProgress) -> None:
        told.append(progress.task_id)
        by.add(threading.get_ident())
        if progress.task_id == "a":
            notifier.post(message("b", 0))
            assert not notifier.flush()
        if progress.task_id == "b":
            raise SystemExit

    def observer(event: DownloadEvent) -> None:
        told.append(event.kind)

    notifier = Notifier(callback, "test")
    bus = EventBus()
    bus.subscribe(observer)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        notifier.post(message("a", 0))
        bus.emit("queue_started")
        assert not bus.flush(0.01, here=False)
        assert told == []
        assert notifier.flush()
        assert bus.flush()
        assert told == ["a", "b", "queue_started"]
        assert by == {threading.get_ident()}
        notifier.post(message("c", 0))
    notifier.post(message("d", 0))  # there are threads again, and what was left is told, too
    assert notifier.flush()
    assert told == ["a", "b", "queue_started", "c", "d"]
    assert len(by) == 2


def test_an_interrupt_while_a_callback_runs_on_the_waiting_thread_gets_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def callback(progress: DownloadProgress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start)
    notifier = Notifier(callback, "test")
    notifier.post(message("a", 0))
    with pytest.raises(KeyboardInterrupt):
        notifier.flush()
    assert notifier.flush()


def test_observers_get_every_event_in_order_until_they_unsubscribe() -> None:
    bus = EventBus()
    first: list[DownloadEvent] = []
    second: list[DownloadEvent] = []
    stop = bus.subscribe(first.append)
    bus.subscribe(second.append)
    bus.emit("queue_started", model_id="org/m", queue_id="q", files=2, bytes=None)
    assert bus.flush()
    stop()
    stop()
    bus.emit("queue_done", model_id="org/m", queue_id="q")
    assert bus.flush()
    assert [event.kind for event in first] == ["queue_started"]
    assert [event.kind for event in second] == ["queue_started", "queue_done"]
    event = second[0]
    assert (event.model_id, event.queue_id, event.task_id, event.file_path) == ("org/m", "q", None, None)
    assert event.details == {"files": 2}  # what is not known is left out


def test_an_observer_that_raises_or_blocks_costs_the_others_nothing(gate: Gate) -> None:
    bus = EventBus()
    told: list[str] = []

    def raises(event: DownloadEvent) -> None:
        raise SystemExit

    def blocks(event: DownloadEvent) -> None:
        assert gate.open.wait(10)

    bus.subscribe(raises)
    bus.subscribe(blocks)
    bus.subscribe(lambda event: told.append(event.kind))
    for _ in range(3):
        bus.emit("file_done")
    assert not bus.flush(0.2)
    assert told == ["file_done"] * 3


def test_a_slow_observer_loses_the_oldest_beyond_a_bound(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_EVENTS_KEPT", 5)
    bus = EventBus()
    seen: list[object] = []
    entered = threading.Event()

    def slow(event: DownloadEvent) -> None:
        entered.set()
        assert gate.open.wait(10)
        seen.append(event.details["n"])

    bus.subscribe(slow)
    bus.emit("file_done", n=0)
    assert entered.wait(10)
    for n in range(1, 20):
        bus.emit("file_done", n=n)
    gate.open.set()
    assert bus.flush()
    assert seen == [0, 15, 16, 17, 18, 19]


def test_after_a_fork_observers_are_told_although_their_thread_is_gone(gate: Gate) -> None:
    bus = EventBus()
    told: list[str] = []
    entered = threading.Event()

    def observer(event: DownloadEvent) -> None:
        if event.kind == "old":
            entered.set()
            assert gate.open.wait(10)
        told.append(event.kind)

    bus.subscribe(observer)
    bus.emit("old")
    assert entered.wait(10)
    bus._lock.acquire()  # by a thread that does not exist in the child
    bus._after_fork()
    bus.emit("new")
    assert bus.flush()
    assert told == ["new"]
