from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.support.waits import until

from hf_haul import threads
from hf_haul.threads import ThreadGroup, in_threads, results_in_threads, start_daemon


class Pile:
    """Work for a group, and the group."""

    def __init__(self, limit: int, **options: Any) -> None:
        self.waiting: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.group = ThreadGroup("test-group", limit, self.take, **options)

    def take(self) -> Callable[[], object] | None:
        try:
            return self.waiting.get_nowait()
        except queue.Empty:
            return None

    def add(self, work: Callable[[], object]) -> bool:
        self.waiting.put(work)
        self.group.wake()
        return self.group.start()


@pytest.fixture
def piles() -> Iterator[Callable[..., Pile]]:
    made: list[Pile] = []

    def make(limit: int, **options: Any) -> Pile:
        made.append(Pile(limit, **options))
        return made[-1]

    yield make
    for pile in made:
        pile.group.close()


Piles = Callable[..., Pile]


def test_all_work_is_done_by_no_more_threads_than_allowed(piles: Piles) -> None:
    pile = piles(3)
    lock, done, now, most = threading.Lock(), threading.Semaphore(0), 0, 0
    together = threading.Barrier(3)

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(10)
        with lock:
            now -= 1
        done.release()

    for _ in range(30):
        assert pile.add(work)
    for _ in range(30):
        assert done.acquire(timeout=10)
    assert most == 3


def test_an_idle_thread_is_used_before_another_is_started(piles: Piles) -> None:
    pile = piles(4)
    for _ in range(20):
        done = threading.Event()
        pile.add(done.set)
        assert done.wait(10)
        assert until(lambda: pile.group.idle)
    assert len(pile.group) == 1


def test_a_thread_without_work_ends_and_later_work_gets_a_new_one(piles: Piles) -> None:
    pile = piles(1, idle_seconds=0.0)
    for _ in range(200):  # many times: work comes in the moment the thread decides to end
        done = threading.Event()
        assert pile.add(done.set)
        assert done.wait(10)
    pile.group.join()
    assert len(pile.group) == 0


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), SystemExit(1), KeyboardInterrupt()])
def test_whatever_work_raises_its_thread_goes_on(
    piles: Piles, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    pile = piles(1)
    idents: list[int] = []
    done = threading.Event()

    def fail() -> None:
        idents.append(threading.get_ident())
        raise error

    def succeed() -> None:
        idents.append(threading.get_ident())
        done.set()

    with caplog.at_level(logging.WARNING):
        pile.add(fail)
        pile.add(succeed)
        assert done.wait(10)
    assert idents[0] == idents[1]
    assert "test-group: unexpected error" in caplog.text


def test_an_owner_that_cannot_say_what_comes_next_is_asked_again_at_the_next_call(
    piles: Piles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pile = piles(1)
    done, asked = threading.Event(), threading.Event()
    real = pile.group._take

    def broken() -> None:
        monkeypatch.setattr(pile.group, "_take", real)
        asked.set()
        raise MemoryError

    monkeypatch.setattr(pile.group, "_take", broken)
    pile.add(done.set)
    assert asked.wait(10)
    pile.group.wake()
    assert pile.group.start()
    assert done.wait(10)


def test_a_refused_thread_is_said_and_is_not_counted(piles: Piles, monkeypatch: pytest.MonkeyPatch) -> None:
    pile = piles(2)
    with monkeypatch.context() as patch:

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        assert start_daemon(lambda: None, "x") is None
        for _ in range(5):
            assert not pile.add(lambda: None)
        assert len(pile.group) == 0
    done = threading.Event()
    assert pile.add(done.set)  # it works again, and what was left is done, too
    assert done.wait(10)


def test_who_has_work_knows_whether_the_thread_that_somebody_else_starts_was_refused(
    piles: Piles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pile = piles(1)
    starting, go_on = threading.Event(), threading.Event()
    real = threading.Thread.start
    answers: list[bool] = []

    def refuse(thread: threading.Thread) -> None:
        if not thread.name.startswith("test-group"):
            real(thread)
            return
        starting.set()
        assert go_on.wait(10)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    first, second = (
        threading.Thread(target=lambda: answers.append(pile.add(lambda: None))) for _ in range(2)
    )
    first.start()
    assert starting.wait(10)
    second.start()
    assert until(lambda: pile.group._calls or not second.is_alive())
    assert not answers
    go_on.set()
    first.join(10)
    second.join(10)
    assert answers == [False, False]


def test_a_thread_that_is_there_does_what_was_refused_another(
    piles: Piles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pile = piles(2)
    busy, leave, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        leave.wait(10)

    pile.add(work)
    assert busy.wait(10)

    def refuse(_thread: threading.Thread) -> None:
        raise MemoryError

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert pile.add(done.set)
    leave.set()
    assert done.wait(10)


def test_a_thread_that_dies_before_it_begins_is_a_refused_one(
    piles: Piles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPython's own start waits for it for ever."""
    pile = piles(2)
    seen: list[object] = []

    def out_of_memory(_event: threading.Event) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(threads._Unwaited, "set", out_of_memory)
        patch.setattr(sys, "unraisablehook", lambda _: seen.append(1))  # where the interpreter tells of it
        before = threading.enumerate()
        assert start_daemon(lambda: None, "x") is None
        assert not pile.add(lambda: None)
        assert len(pile.group) == 0
        assert set(threading.enumerate()) <= set(before)  # another test's may end meanwhile
        assert until(lambda: len(seen) == 2)
    done = threading.Event()
    assert pile.add(done.set)
    assert done.wait(10)


def test_a_thread_without_the_memory_to_look_for_work_tries_again(
    piles: Piles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pile = piles(1)
    failed, done = threading.Event(), threading.Event()
    real = ThreadGroup._wait

    def out_of_memory(self: ThreadGroup, me: threading.Thread) -> bool:
        monkeypatch.setattr(ThreadGroup, "_wait", real)
        failed.set()
        raise MemoryError

    monkeypatch.setattr(ThreadGroup, "_wait", out_of_memory)
    pile.add(lambda: None)
    assert failed.wait(10)
    pile.waiting.put(done.set)  # nobody is woken for it
    assert done.wait(10)
    assert len(pile.group) == 1


def test_retiring_ends_idle_threads_and_later_work_gets_new_ones(piles: Piles) -> None:
    pile = piles(2, idle_seconds=60.0)
    for _ in range(3):
        done = threading.Event()
        assert pile.add(done.set)
        assert done.wait(10)
        assert pile.group.retire(10)
        assert len(pile.group) == 0


def test_waiting_for_threads_to_end_takes_so_long_in_all(piles: Piles) -> None:
    pile = piles(3)
    busy, leave = threading.Barrier(4), threading.Event()

    def work() -> None:
        busy.wait(10)
        leave.wait(10)

    for _ in range(3):
        pile.add(work)
    busy.wait(10)
    assert not pile.group.retire(0.01)
    assert not pile.group.close(0.01)
    assert len(pile.group) == 3
    leave.set()
    assert pile.group.join(10)


def test_close_ends_idle_threads_and_waits_for_busy_ones(piles: Piles) -> None:
    pile = piles(2)
    busy, leave = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        leave.wait(10)

    pile.add(work)
    assert busy.wait(10)
    threading.Timer(0.05, leave.set).start()
    pile.group.close()
    assert leave.is_set()
    assert len(pile.group) == 0
    pile.group.wake()
    pile.group.start()
    assert len(pile.group) == 0


def test_work_may_close_its_own_group(piles: Piles) -> None:
    pile = piles(1)
    closed = threading.Event()

    def work() -> None:
        pile.group.close()
        closed.set()

    pile.add(work)
    assert closed.wait(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_threads_of_its_own(piles: Piles) -> None:
    pile = piles(1)
    busy, leave = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        leave.wait(10)

    pile.add(work)
    assert busy.wait(10)
    with pile.group._changed:  # held at the fork
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            done = threading.Event()
            pile.add(done.set)
            os._exit(0 if done.wait(5) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    leave.set()


# ---- several things at once


def test_work_is_done_for_each_of_several_things_in_their_order() -> None:
    together = threading.Barrier(3, timeout=10)

    def work(number: int) -> int | None:
        together.wait()
        return number * 10 if number else None

    assert in_threads("test", 3, work, [2, 0, 1], pytest.fail) == {2: 20, 0: None, 1: 10}
    assert list(in_threads("test", 3, str, [2, 0, 1, 2], pytest.fail)) == [2, 0, 1]
    assert in_threads("test", 3, work, [], pytest.fail) == {}


def test_results_come_as_they_are_there_and_the_caller_gets_its_turn_meanwhile() -> None:
    go_on = threading.Event()

    def work(number: int) -> int:
        if number:
            assert go_on.wait(10)
        return number * 10

    seen: list[tuple[int, int] | None] = []
    for result in results_in_threads("test", 2, work, [1, 0], pytest.fail):
        seen.append(result)
        if result is None and (0, 0) in seen:
            go_on.set()  # the caller does: without its turn, this would never end
    assert [each for each in seen if each is not None] == [(0, 0), (1, 10)]


def test_results_that_nobody_waits_for_any_more_end_the_work() -> None:
    stopped = threading.Event()
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number:
            stopped.wait(10)
        return number

    with closing(results_in_threads("test", 2, work, range(1000), stopped.set)) as results:
        assert next(result for result in results if result is not None) == (0, 0)
    assert stopped.is_set()
    assert len(begun) <= 3


def test_the_first_error_ends_the_work_for_several_things() -> None:
    stopped = threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        if number == 1:
            raise KeyError("one")
        stopped.wait(10)

    with pytest.raises(KeyError, match="one"):
        in_threads("test", 2, work, range(1000), stopped.set)
    assert stopped.is_set()
    assert len(done) <= 3


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize("stops", [True, False], ids=["stops", "cannot be stopped"])
def test_an_interrupt_waits_for_nothing_that_is_under_way(stops: bool) -> None:
    leave = threading.Event()
    begun = threading.Barrier(3, timeout=10)
    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        begun.wait()
        leave.wait(30)

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            in_threads("test", 2, work, range(100), leave.set if stops else lambda: None)
        assert time.monotonic() - began < 10
        assert sorted(done) == [0, 1]
    finally:
        leave.set()
        interrupting.join(10)


@pytest.mark.parametrize("refused", ["all", "later", "dies"])
def test_where_no_thread_is_to_be_had_the_caller_does_the_work(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        if refused == "all" or started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    if refused == "dies":  # on its way to the work that it has taken

        def lose(self: ThreadGroup) -> bool:
            self._take()
            self._threads.clear()
            return False

        monkeypatch.setattr(ThreadGroup, "_do_next", lose)
    assert in_threads("test", 4, str, range(9), pytest.fail) == {n: str(n) for n in range(9)}
