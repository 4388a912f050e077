"""Bytes kept in memory, or on their way."""

from __future__ import annotations

import gc
import random
import threading
from typing import Any

import pytest
from tests.support.clock import FakeClock
from tests.support.repos import random_bytes
from tests.support.sources import FakeTransport, make_reads, remote_file
from tests.support.waits import until

from hf_haul.errors import ConnectionFailedError, HttpStatusError
from hf_haul.reading.extents import Extents
from hf_haul.reading.file_reader import FileReader
from hf_haul.reading.link import Link
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.read_threads import Job

KiB = 1 << 10
MiB = 1 << 20
DATA = random_bytes(6 * MiB, "extents")
ME, OTHER = object(), object()


def make(transport: FakeTransport, **options: int) -> tuple[Extents, RangeSource]:
    reads, (source,) = make_reads(transport)
    return Extents(reads, **options), source


def read(
    extents: Extents, source: RangeSource, start: int, stop: int, fetch: tuple[int, int] | None = None
) -> bytes:
    return extents.read(source, start, stop, fetch=fetch or (start, stop), owner=ME)


def settle(extents: Extents) -> None:
    """Wait until nothing is on its way."""
    jobs: list[Job] = [each.job for each in (*extents._fresh, *extents._consumed)]
    for job in jobs:
        job.exception(10)


def test_any_reads_are_right_whatever_is_kept_or_fetched_ahead() -> None:
    noise = random.Random(11)
    transport = FakeTransport(DATA)
    extents, source = make(transport, budget=2 * MiB, consumed=MiB)
    failures: list[tuple[int, int]] = []

    def work(seed: int) -> None:
        noise = random.Random(seed)
        for _ in range(150):
            a = noise.randrange(len(DATA))
            b = min(len(DATA), a + noise.choice([1, 100, 5000, 300_000]))
            match noise.randrange(4):
                case 0:
                    extents.prefetch(source, [(a, b)], part=noise.choice([1000, 100_000]), owner=seed)
                case 1:
                    extents.release(seed, running=noise.random() < 0.5)
                case 2:
                    view = memoryview(bytearray(b - a))
                    extents.read_into(source, a, view, fetch=(a, b), owner=seed)
                    if view != DATA[a:b]:
                        failures.append((a, b))
                case _:
                    padded = (max(0, a - 500), min(len(DATA), b + 5000))
                    if extents.read(source, a, b, fetch=padded, owner=seed) != DATA[a:b]:
                        failures.append((a, b))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    settle(extents)
    kept = sum(each.stop - each.start for each in (*extents._fresh, *extents._consumed))
    assert kept == extents._bytes
    assert all(not each.waiters for each in (*extents._fresh, *extents._consumed))
    read(extents, source, 0, 1 + noise.randrange(9))
    assert extents._bytes <= 2 * MiB + 300_000


def test_a_byte_in_memory_is_not_fetched_again() -> None:
    transport = FakeTransport(DATA)
    extents, source = make(transport)
    assert read(extents, source, 100, 200, (0, 1000)) == DATA[100:200]
    assert read(extents, source, 0, 1000) == DATA[:1000]
    assert transport.asked == [(0, 1000)]
    assert read(extents, source, 500, 1500) == DATA[500:1500]
    assert transport.asked == [(0, 1000), (1000, 1500)]
    assert extents.covered_to(source, 0) == 1500
    assert extents.covered_to(source, 1500) == 1500


@pytest.mark.parametrize(("start", "stop"), [(0, 1000), (10, 20), (500, 1500), (0, 3000)])
def test_what_is_handed_out_is_bytes_that_nobody_else_can_change(start: int, stop: int) -> None:
    extents, source = make(FakeTransport(DATA))
    extents.prefetch(source, [(0, 3000)], part=1000, owner=ME)
    settle(extents)
    assert type(read(extents, source, start, stop)) is bytes
    assert read(extents, source, start, stop) == DATA[start:stop]


def test_a_read_joins_what_is_on_its_way() -> None:
    transport = FakeTransport(DATA, gate=threading.Event())
    extents, source = make(transport)
    extents.prefetch(source, [(0, 1000)], part=1000, owner=OTHER)
    assert transport.wait_for_requests(1)
    found: list[bytes] = []
    readers = [
        threading.Thread(target=lambda: found.append(read(extents, source, 100, 200))) for _ in range(3)
    ]
    for reader in readers:
        reader.start()
    assert transport.gate is not None
    transport.gate.set()
    for reader in readers:
        reader.join(10)
    assert found == [DATA[100:200]] * 3
    assert transport.asked == [(0, 1000)]


def test_what_failed_ahead_is_tried_again_by_the_reader() -> None:
    transport = FakeTransport(DATA, faults=[HttpStatusError("no", status=403)])
    extents, source = make(transport)
    extents.prefetch(source, [(0, 1000)], part=1000, owner=OTHER)
    settle(extents)
    assert read(extents, source, 100, 200) == DATA[100:200]


def test_a_reader_gets_its_own_error_once_and_nothing_is_kept_of_it() -> None:
    transport = FakeTransport(DATA, faults=[HttpStatusError("no", status=403)])
    extents, source = make(transport)
    with pytest.raises(HttpStatusError):
        read(extents, source, 0, 10)
    assert len(transport.asked) == 1
    assert extents._bytes == 0
    assert read(extents, source, 0, 10) == DATA[:10]


def test_closing_calls_off_what_was_fetched_ahead_but_not_what_others_wait_for() -> None:
    transport = FakeTransport(DATA, gate=threading.Event())
    extents, source = make(transport)
    extents.prefetch(source, [(0, 40 * KiB)], part=KiB, owner=ME)
    assert transport.wait_for_requests(16)
    found: list[bytes] = []
    started = threading.Event()

    def other() -> None:
        started.set()
        found.append(extents.read(source, 0, 100, fetch=(0, 100), owner=OTHER))

    reader = threading.Thread(target=other)
    reader.start()
    started.wait(10)
    while not next(iter(extents._fresh)).waiters:
        reader.join(0.001)
    extents.release(ME, running=True)
    assert transport.gate is not None
    transport.gate.set()
    reader.join(10)
    assert found == [DATA[:100]]
    assert extents._bytes == KiB
    assert len(transport.asked) == 16
    assert transport.sent <= 16 * KiB


def test_a_jump_takes_back_only_what_has_not_begun() -> None:
    transport = FakeTransport(DATA, gate=threading.Event())
    extents, source = make(transport)
    extents.prefetch(source, [(0, 40 * KiB)], part=KiB, owner=ME)
    assert transport.wait_for_requests(16)
    extents.release(ME, running=False)
    assert extents._bytes == 16 * KiB
    assert transport.gate is not None
    transport.gate.set()
    settle(extents)
    assert extents.covered_to(source, 0) == 16 * KiB


def test_memory_has_a_limit() -> None:
    extents, source = make(FakeTransport(DATA), budget=MiB, consumed=256 * KiB)
    extents.prefetch(source, [(0, 5 * MiB)], part=128 * KiB, owner=ME)
    settle(extents)
    assert extents._bytes <= MiB
    for at in range(0, 5 * MiB, 64 * KiB):
        assert read(extents, source, at, at + 64 * KiB) == DATA[at : at + 64 * KiB]
        assert extents._consumed_bytes <= 256 * KiB + 128 * KiB
        assert extents._bytes <= MiB


def test_readers_at_the_same_time_fill_no_more_than_memory_and_nothing_is_fetched_twice() -> None:
    transport = FakeTransport(DATA)
    reads, _ = make_reads(transport)
    reads._open_transport = lambda _remote: transport
    extents = Extents(reads, budget=16 * MiB, consumed=2 * MiB)
    sources = [reads.source(remote_file(DATA, f"{i}.bin")) for i in range(8)]
    readers = [FileReader(source, extents) for source in sources]
    for at in range(0, len(DATA), 64 * KiB):
        for reader in readers:
            assert reader.read(at, at + 64 * KiB) == DATA[at : at + 64 * KiB]
        assert extents._bytes <= 16 * MiB
    settle(extents)
    assert transport.sent == 8 * len(DATA)


def test_without_room_what_idle_readers_have_ahead_makes_way_and_what_others_have_does_not() -> None:
    clock = FakeClock()
    reads, (source,) = make_reads(FakeTransport(DATA))
    extents = Extents(reads, budget=MiB, consumed=256 * KiB, clock=clock)
    read(extents, source, 0, 10)
    assert extents.prefetch(source, [(MiB, 3 * MiB)], part=128 * KiB, owner=ME) == 2 * MiB
    settle(extents)
    assert extents.prefetch(source, [(4 * MiB, 5 * MiB)], part=128 * KiB, owner=OTHER) == 4 * MiB
    clock.advance(20)
    extents.read(source, 5 * MiB, 5 * MiB + 10, fetch=(5 * MiB, 5 * MiB + 10), owner=OTHER)
    assert extents.prefetch(source, [(4 * MiB, 5 * MiB)], part=128 * KiB, owner=OTHER) > 4 * MiB
    assert extents.covered_to(source, MiB) == MiB


def test_for_a_read_without_room_goes_first_what_is_farthest_ahead_of_who_read_longest_ago() -> None:
    clock = FakeClock()
    reads, (source,) = make_reads(FakeTransport(DATA))
    extents = Extents(reads, budget=MiB, consumed=0, clock=clock)
    for owner, base in ((ME, 0), (OTHER, 2 * MiB)):
        extents.read(source, base, base + 10, fetch=(base, base + 10), owner=owner)
        extents.prefetch(source, [(base + KiB, base + 500 * KiB)], part=100 * KiB, owner=owner)
        clock.advance(1)
    settle(extents)
    read(extents, source, 5 * MiB, 5 * MiB + 200 * KiB)  # by ME, who read now
    assert extents.covered_to(source, KiB) == 500 * KiB
    assert KiB < extents.covered_to(source, 2 * MiB + KiB) - 2 * MiB < 500 * KiB


def test_what_was_put_there_whole_is_fetched_by_nobody(caplog: pytest.LogCaptureFixture) -> None:
    transport = FakeTransport(DATA)
    extents, source = make(transport)
    extents.put(source, DATA[:1000], owner=ME)
    assert read(extents, source, 0, 1000) == DATA[:1000]
    extents._after_fork()
    assert read(extents, source, 0, 1000) == DATA[:1000]
    assert transport.asked == []
    assert caplog.text == ""


def test_large_reads_are_not_kept_but_use_what_is_there() -> None:
    transport = FakeTransport(DATA)
    extents, source = make(transport)
    read(extents, source, MiB, MiB + 1000)
    assert read(extents, source, 0, 5 * MiB) == DATA[: 5 * MiB]
    assert transport.sent == 5 * MiB
    assert extents._bytes == 1000


def test_in_a_forked_child_what_is_here_stays_and_what_was_coming_is_forgotten() -> None:
    transport = FakeTransport(DATA)
    extents, source = make(transport)
    read(extents, source, 0, 1000)
    transport.gate = threading.Event()
    extents.prefetch(source, [(5000, 6000)], part=1000, owner=ME)
    assert transport.wait_for_requests(2)
    extents._lock.acquire()
    extents._after_fork()
    assert extents.covered_to(source, 0) == 1000
    assert extents.covered_to(source, 5000) == 5000
    transport.gate.set()
    assert read(extents, source, 5000, 6000) == DATA[5000:6000]


def test_a_job_run_by_its_reader_and_by_a_thread_at_once_is_done_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport = FakeTransport(DATA, gate=threading.Event())
    extents, source = make(transport)
    start, promoted = extents._start, threading.Event()

    def late(made: list[Any]) -> None:
        assert promoted.wait(10)  # by the other, to a thread that has begun by now
        assert transport.wait_for_requests(1)
        start(made)

    monkeypatch.setattr(extents, "_start", late)
    found: list[bytes] = []
    first = threading.Thread(target=lambda: found.append(read(extents, source, 0, 1000)))
    first.start()
    assert until(lambda: len(extents._fresh))
    monkeypatch.setattr(extents, "_start", start)
    second = threading.Thread(target=lambda: found.append(read(extents, source, 0, 1000)))
    second.start()
    assert transport.wait_for_requests(1)
    promoted.set()
    assert transport.gate is not None
    transport.gate.set()
    first.join(10)
    second.join(10)
    assert found == [DATA[:1000]] * 2
    assert transport.asked == [(0, 1000)]


def test_where_no_thread_is_to_be_had_nothing_is_fetched_ahead_and_reads_are_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    transport = FakeTransport(DATA)
    extents, source = make(transport)
    extents.prefetch(source, [(0, 40 * KiB)], part=KiB, owner=ME)
    assert transport.asked == []
    assert extents._bytes == 0
    assert extents._files == {}
    reader = FileReader(source, extents)
    for at in range(0, 5 * MiB, 100 * KiB):
        assert reader.read(at, at + 100 * KiB) == DATA[at : at + 100 * KiB]


# ---- one open file


def test_a_file_reader_reads_ahead_and_stops_when_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RangeSource, "link", Link(10e6, 0.05))
    transport = FakeTransport(DATA)
    extents, source = make(transport)
    reader = FileReader(source, extents)
    for at in range(0, 3 * MiB, 64 * KiB):
        assert reader.read(at, at + 64 * KiB) == DATA[at : at + 64 * KiB]
    settle(extents)
    assert extents.covered_to(source, 0) == len(DATA)
    assert len(transport.asked) <= 15
    assert transport.sent == len(DATA)
    reader.close()
    assert not [each for each in extents._fresh if each.owner is reader]


def test_a_file_reader_without_read_ahead_fetches_exactly() -> None:
    transport = FakeTransport(DATA)
    extents, source = make(transport)
    reader = FileReader(source, extents, ahead=False)
    for at in (0, 10, 4_000_000):
        reader.read(at, at + 10)
    view = memoryview(bytearray(10))
    reader.read_into(20, view)
    assert view == DATA[20:30]
    assert transport.sent == 40


def test_a_small_whole_file_is_read_once() -> None:
    transport = FakeTransport(DATA[: 2 * MiB])
    extents, source = make(transport)
    for _ in range(2):
        assert FileReader(source, extents).read(0, source.size) == DATA[: 2 * MiB]
    view = memoryview(bytearray(source.size))
    FileReader(source, extents).read_into(0, view)
    assert view == DATA[: 2 * MiB]
    assert transport.sent == 2 * MiB


def test_what_is_kept_of_a_file_goes_with_the_file_but_for_those_closed_last() -> None:
    data = DATA[: 100 * KiB]
    transport = FakeTransport(data)
    reads, _ = make_reads(transport)
    reads._open_transport = lambda _remote: transport
    extents = Extents(reads)
    stays = reads.source(remote_file(data, "open all the time.parquet"))
    open_file = FileReader(stays, extents)
    assert open_file.read(0, 1000) == data[:1000]
    for i in range(300):
        source = reads.source(remote_file(data, f"{i}.parquet"))
        source.layout = object() if i % 2 else None
        reader = FileReader(source, extents)
        assert reader.read(10, 20_000) == data[10:20_000]
        assert reader.read(0, len(data)) == data
        reader.close()
        reader.close()  # once more is nothing
    del source, reader
    gc.collect()
    assert len(extents._closed) == 64
    assert len(extents._files) <= 64 + 1
    assert extents._open == {stays: 1}
    assert len(reads._sources) <= 64 + 2
    again = len(transport.asked)
    assert open_file.read(0, 1000) == data[:1000]
    assert FileReader(reads.source(remote_file(data, "299.parquet")), extents).read(0, len(data)) == data
    assert len(transport.asked) == again


def test_a_large_read_that_is_not_kept_leaves_no_entry() -> None:
    extents, source = make(FakeTransport(DATA))
    assert read(extents, source, 0, 5 * MiB) == DATA[: 5 * MiB]
    assert extents.covered_to(source, 0) == 0
    assert extents._files == {}


def test_a_lost_connection_ahead_is_nobodys_error() -> None:
    transport = FakeTransport(DATA)
    extents, source = make(transport)
    reader = FileReader(source, extents)
    reader.read(0, MiB)
    transport.faults = [ConnectionFailedError("reset") for _ in range(2)]
    for at in range(MiB, 5 * MiB, MiB):
        assert reader.read(at, at + MiB) == DATA[at : at + MiB]
