"""Parallel and vectored reads."""

from __future__ import annotations

import gc
import random
import threading
from dataclasses import replace

import pytest
from tests.support.repos import random_bytes
from tests.support.sources import FakeBody, FakeTransport, make_reads, remote_file

from hf_haul.cancellation import CancelToken
from hf_haul.config import MiB, Settings
from hf_haul.errors import HttpStatusError, IntegrityError, StopRequestedError
from hf_haul.metrics import SourceHistory
from hf_haul.ranges import ByteRange
from hf_haul.reading.batches import RangeRequest

DATA = random_bytes(4_000_000, "reader")


def test_a_large_read_is_exact_and_asks_for_each_byte_once() -> None:
    transport = FakeTransport(DATA)
    reads, (source,) = make_reads(transport)
    assert reads.read(source, 0, len(DATA)) == DATA
    assert transport.sent == len(DATA)
    assert len(transport.asked) == 31
    buffer = bytearray(3_000_000)
    reads.readinto(source, 500_000, memoryview(buffer))
    assert buffer == DATA[500_000:3_500_000]


def test_the_parts_of_a_read_are_fetched_at_once() -> None:
    transport = FakeTransport(DATA, gate=threading.Event())
    reads, (source,) = make_reads(transport)
    done: list[bytes] = []
    thread = threading.Thread(target=lambda: done.append(reads.read(source, 0, len(DATA))))
    thread.start()
    assert transport.wait_for_requests(16)
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
        if len(transport.asked) > 16:
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
        if len(waiting) == 15:
            others_wait.set()
        assert cancel_token.wait(10)
        raise StopRequestedError

    transport.open = opened  # type: ignore[method-assign]  # it fails in one part, and hangs in the others
    reads, (source,) = make_reads(transport)
    with pytest.raises(HttpStatusError):
        reads.readinto(source, 0, memoryview(bytearray(len(DATA))))
    assert len(waiting) == 15
    assert all(cancel_token.is_set() for cancel_token in waiting)


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


@pytest.mark.parametrize(
    ("measured", "answer", "requests"),
    [
        pytest.param("by nobody", 0.0, 32, id="unknown"),
        pytest.param("by reads", 0.1, 32, id="quick"),
        pytest.param("by reads", 12.0, 1, id="slow"),
        pytest.param("by downloads", 12.0, 1, id="slow for downloads"),
    ],
)
@pytest.mark.parametrize("into", [False, True], ids=["read", "readinto"])
def test_a_large_read_is_one_request_where_the_source_is_known_to_answer_slowly(
    measured: str, answer: float, requests: int, into: bool
) -> None:
    data = bytes(12 * MiB)
    transport = FakeTransport(data)
    downloads = SourceHistory()
    reads, (source,) = make_reads(transport, downloads=downloads)
    if measured != "by nobody":
        history = reads._history if measured == "by reads" else downloads
        history.first_byte(source.origin, answer, large=True)
    if into:
        reads.readinto(source, 0, memoryview(bytearray(len(data))))
    else:
        assert reads.read(source, 0, len(data)) == data
    assert len(transport.asked) == requests


def test_what_small_files_show_does_not_make_requests_for_large_ones_larger() -> None:
    transport = FakeTransport(bytes(12 * MiB))
    reads, (source,) = make_reads(transport)
    reads._history.first_byte(source.origin, 12.0)
    reads.read(source, 0, 12 * MiB)
    assert len(transport.asked) == 32
