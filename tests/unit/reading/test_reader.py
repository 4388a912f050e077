"""Parallel and vectored reads."""

from __future__ import annotations

import gc
import heapq
import itertools
import random
import threading
from dataclasses import replace
from typing import Any

import pytest
from tests.support.repos import random_bytes
from tests.support.sources import FakeBody, FakeTransport, make_reads, remote_file

from hf_haul.cancellation import CancelToken
from hf_haul.config import Settings
from hf_haul.errors import HaltedError, HttpStatusError, IntegrityError
from hf_haul.ranges import ByteRange
from hf_haul.reading import reader
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.reader import DEMAND, READ_AHEAD, Job, RangeRequest, ReadThreads, split

DATA = random_bytes(4_000_000, "reader")
KiB = 1 << 10
MiB = 1 << 20


# ---- parts


@pytest.mark.parametrize(
    ("start", "stop", "unit", "connections", "parts"),
    [
        pytest.param(0, 0, MiB, 16, 1, id="nothing"),
        pytest.param(0, 2 * MiB - 1, MiB, 16, 1, id="not worth two requests"),
        pytest.param(0, 2 * MiB, MiB, 16, 2, id="worth two"),
        pytest.param(5, 5 + 2 * MiB, 64 * KiB, 16, 8, id="no part below 256 KiB"),
        pytest.param(0, 64 * MiB, MiB, 16, 32, id="two for each connection"),
        pytest.param(0, 1024 * MiB, MiB, 16, 64, id="no part above 16 MiB"),
        pytest.param(0, 64 * MiB, MiB, 1, 1, id="one connection"),
    ],
)
def test_a_read_is_cut_into_parts_that_pay(
    start: int, stop: int, unit: int, connections: int, parts: int
) -> None:
    cut = split(start, stop, unit, connections)
    assert len(cut) == parts
    assert cut[0][0] == start
    assert cut[-1][1] == stop
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cut))


def test_a_large_read_is_exact_and_asks_for_each_byte_once() -> None:
    transport = FakeTransport(DATA)
    reads, (source,) = make_reads(transport)
    assert reads.read(source, 0, len(DATA)) == DATA
    assert transport.sent == len(DATA)
    assert len(transport.asked) == 4
    buffer = bytearray(3_000_000)
    reads.readinto(source, 500_000, memoryview(buffer))
    assert buffer == DATA[500_000:3_500_000]


def test_the_parts_of_a_read_are_fetched_at_once() -> None:
    transport = FakeTransport(DATA, gate=threading.Event())
    reads, (source,) = make_reads(transport)
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(reads.read(source, 0, len(DATA))))
    thread.start()
    assert transport.wait_for_requests(4)
    assert transport.gate is not None
    transport.gate.set()
    thread.join(10)
    assert done == [DATA]


def test_a_small_read_stays_in_its_thread() -> None:
    names: list[str] = []
    transport = FakeTransport(DATA, on_open=lambda: names.append(threading.current_thread().name))
    reads, (source,) = make_reads(transport)
    reads.read(source, 0, 1000)
    assert names == [threading.current_thread().name]


# ---- vectored reads


def test_any_ranges_come_back_in_their_order() -> None:
    noise = random.Random(5)
    for trial in range(30):
        files = [FakeTransport(random_bytes(noise.randrange(0, 3000), trial, i)) for i in range(3)]
        reads, sources = make_reads(*files)
        wanted = []
        for _ in range(noise.randrange(0, 25)):
            i = noise.randrange(3)
            a, b = sorted(noise.randrange(0, len(files[i].data) + 1) for _ in range(2))
            wanted.append((i, a, b))
        found = reads.read_many(
            [RangeRequest(sources[i], a, b) for i, a, b in wanted], max_gap=noise.choice([None, 0, 7, 10_000])
        )
        assert found == [files[i].data[a:b] for i, a, b in wanted]


def test_neighbours_are_asked_for_together_and_bytes_between_only_as_allowed() -> None:
    for gap, requests in ((0, 3), (99, 3), (100, 2), (10_000, 1)):
        transport = FakeTransport(DATA)
        reads, (source,) = make_reads(transport)
        ranges = [(5_000, 5_100), (1_000, 1_100), (1_200, 1_300), (1_050, 1_100)]
        found = reads.read_many([RangeRequest(source, a, b) for a, b in ranges], max_gap=gap)
        assert found == [DATA[a:b] for a, b in ranges]
        assert len(transport.asked) == requests


def test_one_bad_file_spoils_only_its_own_ranges() -> None:
    bad = FakeTransport(DATA, faults=[HttpStatusError("gone", status=404) for _ in range(9)])
    good = FakeTransport(DATA[:1000])
    reads, (first, second) = make_reads(bad, good)
    wanted = [
        RangeRequest(second, 0, 10),
        RangeRequest(first, 0, 10),
        RangeRequest(second, 20, 30),
        RangeRequest(first, 10, 20),
    ]
    found = reads.read_many(wanted, fail_fast=False)
    assert found[0] == DATA[:10]
    assert found[2] == DATA[20:30]
    assert isinstance(found[1], HttpStatusError)
    assert isinstance(found[3], HttpStatusError)
    with pytest.raises(HttpStatusError):
        reads.read_many(wanted)


def test_a_whole_file_with_a_wrong_digest_gets_one_more_try() -> None:
    wrong = DATA[:-1] + bytes([DATA[-1] ^ 1])
    transport = FakeTransport(DATA)
    reads, (source,) = make_reads(transport)

    def heal() -> None:
        if len(transport.asked) > 4:
            transport.data = DATA

    transport.data = wrong
    with pytest.raises(IntegrityError):
        reads.read(source, 0, len(DATA))
    transport.asked.clear()
    transport.on_open = heal
    assert reads.read(source, 0, len(DATA)) == DATA
    assert reads.read(source, 1, len(DATA)) == DATA[1:]


def test_digests_are_not_checked_where_settings_say_so() -> None:
    transport = FakeTransport(DATA[:100])
    reads, (source,) = make_reads(transport, settings=Settings(verify=False))
    transport.data = b"?" * 100
    assert reads.read(source, 0, 100) == b"?" * 100


def test_a_failed_part_calls_the_others_off() -> None:
    transport = FakeTransport(DATA)
    first, others_wait = threading.Lock(), threading.Event()
    waiting: list[CancelToken] = []

    def opened(want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool = False) -> FakeBody:
        if first.acquire(blocking=False):
            assert others_wait.wait(10)
            raise HttpStatusError("gone", status=404)
        waiting.append(cancel_token)
        if len(waiting) == 3:
            others_wait.set()
        assert cancel_token.wait(10)
        raise HaltedError

    transport.open = opened  # type: ignore[method-assign]  # it fails in one part, and hangs in the others
    reads, (source,) = make_reads(transport)
    with pytest.raises(HttpStatusError):
        reads.readinto(source, 0, memoryview(bytearray(len(DATA))))
    assert len(waiting) == 3
    assert all(cancel_token.is_set() for cancel_token in waiting)


# ---- streams


def test_a_stream_is_in_order_and_stops_when_let_go() -> None:
    transport = FakeTransport(DATA)
    reads, (source,) = make_reads(transport)
    assert b"".join(reads.stream(source, 0, len(DATA))) == DATA
    assert b"".join(reads.stream(source, 100, 100)) == b""
    blocks = reads.stream(source, 10, len(DATA))
    assert next(blocks) == DATA[10 : 10 + MiB]
    blocks.close()


# ---- threads


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
            assert b"".join(reads.stream(source, 0, len(DATA))) == DATA
        assert names == here
        assert len(reads.threads._heap) <= 5  # those of the last read
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
    monkeypatch.setattr(reader, "_LOOK_SECONDS", 0.02)
    reads, (source,) = make_reads(FakeTransport(DATA), settings=Settings(max_concurrent_downloads=2))
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
    except (MemoryError, ValueError, HaltedError):
        assert where in {"in the work", "at the end"}
    else:
        assert found == DATA
    assert failed.is_set()
    assert reads.read(source, 0, len(DATA)) == DATA  # and afterwards all is as before


def test_files_that_nobody_reads_any_more_are_forgotten_but_for_the_last_few() -> None:
    transport = FakeTransport(DATA[:100])
    reads, _ = make_reads(transport)
    reads._open_transport = lambda _remote: transport
    in_use = reads.source(replace(remote_file(DATA[:100], "in use"), size=100))
    for i in range(1000):
        assert reads.read(reads.source(remote_file(DATA[:100], str(i))), 0, 100) == DATA[:100]
    gc.collect()
    assert len(reads._sources) <= 64 + 2
    assert reads.source(in_use.remote) is in_use


def test_files_are_resolved_once_however_often_they_are_opened() -> None:
    reads, (source,) = make_reads(FakeTransport(DATA))
    assert reads.source(source.remote) is source
