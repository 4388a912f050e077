"""Threads that work off reads, and the jobs they are given."""

from __future__ import annotations

import heapq
import threading
from typing import Any

import pytest
from tests.support.repos import random_bytes
from tests.support.sources import FakeTransport, make_reads

from hf_haul.config import Settings, Timings
from hf_haul.errors import StopRequestedError
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.read_threads import DEMAND, READ_AHEAD, Job, ReadThreads

DATA = random_bytes(4_000_000, "reader")


def test_the_most_urgent_job_goes_first_and_may_become_so_late() -> None:
    threads = ReadThreads(1, idle_seconds=0.01)
    began, gate = threading.Event(), threading.Event()
    order: list[str] = []

    def block() -> None:
        began.set()
        gate.wait(10)

    threads.submit(DEMAND, Job(block))
    assert began.wait(10)
    jobs = {
        name: Job(lambda name=name: order.append(name)) for name in ("ahead 1", "ahead 2", "demand", "late")
    }
    threads.submit(READ_AHEAD, jobs["ahead 1"])
    threads.submit(READ_AHEAD, jobs["ahead 2"])
    threads.submit(READ_AHEAD, jobs["late"])
    threads.submit(DEMAND, jobs["demand"])
    threads.promote(jobs["late"], DEMAND)
    assert jobs["ahead 1"].cancel()
    gate.set()
    for name in ("ahead 2", "demand", "late"):
        jobs[name].result(10)
    assert order == ["demand", "late", "ahead 2"]


def test_threads_are_no_more_than_allowed_and_end_when_idle() -> None:
    threads = ReadThreads(3, idle_seconds=0.01)
    lock, peak, now = threading.Lock(), 0, 0
    running: set[threading.Thread] = set()
    barrier = threading.Barrier(3)

    def work() -> None:
        nonlocal peak, now
        with lock:
            now += 1
            peak = max(peak, now)
            running.add(threading.current_thread())
        barrier.wait(10)
        with lock:
            now -= 1

    jobs = [Job(work) for _ in range(9)]
    for job in jobs:
        threads.submit(DEMAND, job)
    for job in jobs:
        job.result(10)
    assert peak == 3
    for thread in running:
        thread.join(10)
        assert not thread.is_alive()
    again = Job(lambda: None)
    threads.submit(DEMAND, again)
    again.result(10)


@pytest.mark.parametrize(
    ("sending", "at_once"),
    [
        pytest.param(1.0, 2, id="all send"),
        pytest.param(0.5, 4, id="half of the time"),
        pytest.param(0.01, 6, id="hardly ever: as many as there may be threads"),
        pytest.param(5.0, 1, id="one is never too much"),
    ],
)
def test_as_many_jobs_run_as_keep_the_lanes_sending(sending: float, at_once: int) -> None:
    threads = ReadThreads(6, lanes=2, idle_seconds=0.01)
    changed, began, gate = threading.Condition(), 0, threading.Event()

    def work() -> None:
        nonlocal began
        with changed:
            began += 1
            changed.notify_all()
        gate.wait(10)

    jobs = [Job(work, sending=sending) for _ in range(20)]
    for job in jobs:
        threads.submit(DEMAND, job)
    with changed:
        assert changed.wait_for(lambda: began == at_once, 10)
    assert len(threads._running) == at_once
    assert sum(not job.taken for job in jobs) == len(jobs) - at_once
    assert len(threads._group) <= at_once
    gate.set()
    for job in jobs:
        job.result(10)
    assert began == len(jobs)


def test_where_one_large_job_ends_several_small_ones_begin() -> None:
    threads = ReadThreads(6, lanes=1, idle_seconds=0.01)
    ended, together = threading.Event(), threading.Barrier(4)
    large = Job(lambda: ended.wait(10) and None)
    small = [Job(lambda: together.wait(10) and None, sending=0.2) for _ in range(4)]
    threads.submit(DEMAND, large)
    for job in small:
        threads.submit(DEMAND, job)
    assert not any(job.taken for job in small)
    ended.set()
    for job in small:
        job.result(10)


def test_a_job_that_fails_tells_whoever_waits_and_its_thread_lives_on() -> None:
    threads = ReadThreads(1)
    bad, good = Job(threading.Lock().release), Job(lambda: None)
    threads.submit(DEMAND, bad)
    threads.submit(DEMAND, good)
    with pytest.raises(RuntimeError, match="unlocked"):
        bad.result(10)
    good.result(10)


class _Met(Job):
    """A job whose runners meet in the middle of taking it."""

    together = threading.Barrier(2)
    _kept: Any

    @property
    def _work(self) -> Any:
        kept = self._kept
        self.together.wait(10)
        return kept

    @_work.setter
    def _work(self, work: Any) -> None:
        self._kept = work


def test_a_job_is_done_once_where_its_reader_and_a_thread_run_it_in_the_same_moment() -> None:
    done: list[str] = []
    job = _Met(lambda: done.append(threading.current_thread().name))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            job.run()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert job.result(10) is None
    assert len(done) == 1
    assert errors == []


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError(f"can't start new thread: {thread.name}")


def test_where_no_thread_is_to_be_had_the_caller_reads_by_itself_and_later_threads_do_again() -> None:
    names: set[str] = set()
    transport = FakeTransport(DATA, on_open=lambda: names.add(threading.current_thread().name))
    reads, (source,) = make_reads(transport)
    here = {threading.current_thread().name}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse)
        for _ in range(3):
            assert reads.read(source, 0, len(DATA)) == DATA
        assert names == here
        assert len(reads.threads._heap) <= 32  # those of the last read
    names.clear()
    assert reads.read(source, 0, len(DATA)) == DATA
    assert names
    assert not names & here


@pytest.mark.parametrize("error", [MemoryError(), ValueError("a fault of ours")])
@pytest.mark.parametrize(
    "where", ["while it looks for work", "before it begins", "in the work", "at the end"]
)
def test_a_thread_that_dies_of_anything_keeps_nobody_waiting(
    where: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(max_concurrent_downloads=2, timings=Timings(passed_over=0.02))
    reads, (source,) = make_reads(FakeTransport(DATA), settings=settings)
    me, failed = threading.current_thread(), threading.Event()
    owner, name = {
        "while it looks for work": (heapq, "heappop"),
        "before it begins": (Job, "run"),
        "in the work": (RangeSource, "fill"),
        "at the end": (Job, "set_result"),
    }[where]
    real = getattr(owner, name)

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not me and not failed.is_set():
            failed.set()
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, fail_once)
    try:
        found = reads.read(source, 0, len(DATA))
    except (MemoryError, ValueError, StopRequestedError):
        assert where in {"in the work", "at the end"}
    else:
        assert found == DATA
    assert failed.is_set()
    assert reads.read(source, 0, len(DATA)) == DATA  # and afterwards all is as before
