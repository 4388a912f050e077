"""An event loop beside a download, which ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from hf_haul.cluster import loop_thread
from hf_haul.cluster.loop_thread import LoopThread
from hf_haul.errors import HaulError, StopRequestedError


@pytest.fixture
def loop() -> LoopThread:
    made = LoopThread("test-loop")
    made.start()
    return made


def test_what_it_is_given_runs_in_its_thread_and_errors_come_back(loop: LoopThread) -> None:
    async def name() -> str:
        return threading.current_thread().name

    async def fail() -> None:
        raise KeyError("no")

    assert loop.run(name) == "test-loop"
    with pytest.raises(KeyError):
        loop.run(fail)
    loop.close()


def test_it_ends_at_once_whatever_is_waited_for_in_it(loop: LoopThread) -> None:
    ended = threading.Event()

    async def wait_for_ever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(wait_for_ever())

    task = loop.run(begin)
    began = time.monotonic()
    loop.close()
    assert time.monotonic() - began < 1.0
    assert task.cancelled() or task.done() or not ended.is_set()
    assert "test-loop" not in {thread.name for thread in threading.enumerate() if thread.is_alive()}


def test_its_end_does_not_wait_for_ever_for_the_last_thing_to_do(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_thread, "_END_SECONDS", 0.05)
    done: list[str] = []

    async def last() -> None:
        done.append("begun")
        await asyncio.sleep(3600)

    loop.close(last)
    assert done == ["begun"]
    loop.close(last)  # again
    loop.call(done.append, "late")
    assert done == ["begun"]


def test_what_is_waited_for_when_it_ends_is_given_up(loop: LoopThread) -> None:
    begun = threading.Event()

    async def wait_for_ever() -> None:
        begun.set()
        await asyncio.sleep(3600)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(loop.run, wait_for_ever)
        assert begun.wait(10)
        loop.close()
        with pytest.raises(StopRequestedError):
            waiting.result(10)
    with pytest.raises(StopRequestedError):  # nor is anything begun any more
        loop.run(wait_for_ever)


def test_what_it_was_given_as_it_ended_is_not_waited_for(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing() -> None:
        pass

    def lose(coroutine: Coroutine[Any, Any, None], _loop: object) -> Future[None]:
        coroutine.close()
        return Future()

    loop.close()
    monkeypatch.setattr(loop_thread, "_LOOK", 0.01)
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", lose)
    with pytest.raises(StopRequestedError):
        loop.run(nothing)


def test_a_forked_child_leaves_it_alone(loop: LoopThread) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        began = time.monotonic()
        loop.close()
        os.write(write, b"1" if time.monotonic() - began < 0.5 else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.close(write)

    async def alive() -> bool:
        return True

    assert loop.run(alive)
    loop.close()


def test_no_thread_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_thread, "start_daemon", lambda _target, _name: None)
    made = LoopThread("test-loop")
    with pytest.raises(HaulError, match="no more threads"):
        made.start()
    made.close()
