"""One file read by ranges."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.repos import random_bytes
from tests.support.sources import SETTINGS, FakeTransport, make_source, remote_file

from hf_haul import finalizers
from hf_haul.cancellation import CancelToken, SilenceLimits
from hf_haul.errors import (
    ConnectionFailedError,
    HttpStatusError,
    IntegrityError,
    RangeRefusedError,
    RetriesExhaustedError,
    ServerBusyError,
    SourceChangedError,
    StalledError,
    StopRequestedError,
    TransferError,
)
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SourceHistory
from hf_haul.reading.link import Link
from hf_haul.reading.range_source import Checksum, RangeSource, learn_size

DATA = random_bytes(500_000, "ranged")


def fill(source: RangeSource, start: int, stop: int) -> bytes:
    buffer = bytearray(stop - start)
    source.fill(start, memoryview(buffer), CancelToken())
    return bytes(buffer)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 10), (0, 300_000), (299_999, 300_000), (5, 5), (100, 70_000)]
)
def test_a_range_is_what_the_file_has_there(start: int, stop: int) -> None:
    transport = FakeTransport(DATA)
    assert fill(make_source(transport), start, stop) == DATA[start:stop]
    assert transport.asked == ([(start, stop)] if stop > start else [])
    assert transport.closed == transport.opened


def test_a_body_cut_short_goes_on_where_it_ended() -> None:
    transport = FakeTransport(DATA, faults=[100, 50])
    assert fill(make_source(transport), 1000, 2000) == DATA[1000:2000]
    assert transport.asked == [(1000, 2000), (1100, 2000), (1150, 2000)]
    assert transport.sent == 1000


def test_a_failure_that_was_got_over_is_forgotten_without_the_collector() -> None:
    source = make_source(FakeTransport(DATA, faults=[100, 50]))
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(each, TransferError) for each in gc.get_objects())
        assert fill(source, 1000, 2000) == DATA[1000:2000]
        assert sum(isinstance(each, TransferError) for each in gc.get_objects()) == before
    finally:
        gc.enable()


def test_the_budget_is_for_failures_without_a_byte() -> None:
    many = FakeTransport(DATA, faults=[10] * 20)
    assert fill(make_source(many), 0, 1000) == DATA[:1000]
    dead = FakeTransport(DATA, faults=[ConnectionFailedError("refused") for _ in range(20)])
    with pytest.raises(RetriesExhaustedError, match="refused"):
        fill(make_source(dead), 0, 1000)
    assert len(dead.asked) == 3


@pytest.mark.parametrize(
    ("error", "requests"),
    [
        pytest.param(HttpStatusError("no", status=403), 1, id="forbidden"),
        pytest.param(ServerBusyError("busy"), 3, id="busy"),
        pytest.param(SourceChangedError("other"), 3, id="changed"),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, requests: int) -> None:
    transport = FakeTransport(
        DATA, faults=[type(error)(*error.args) if requests > 1 else error for _ in range(9)]
    )
    with pytest.raises((type(error), RetriesExhaustedError)) as raised:
        fill(make_source(transport), 20, 30)
    assert len(transport.asked) == requests
    said = [str(raised.value), *getattr(raised.value, "__notes__", ())]
    assert sum("bytes 20-29" in each for each in said) == 1, "which bytes is said, and once"


def test_a_source_without_ranges_is_fetched_once_and_served_from_there() -> None:
    transport = FakeTransport(DATA, no_ranges=True)
    source = make_source(transport)
    for start in (100, 200_000, 7):
        assert fill(source, start, start + 50) == DATA[start : start + 50]
    assert transport.asked == [(100, 150), (100, 150), None]


@pytest.mark.parametrize("size", [300_000, 3_000_000], ids=["in memory", "on disk"])
def test_a_whole_file_is_fetched_by_one_of_those_that_want_it_and_read_by_all(size: int) -> None:
    data = random_bytes(size, "whole")
    transport = FakeTransport(data, no_ranges=True, gate=threading.Event())
    source = make_source(transport)
    source._refusals = 9
    found: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda at=at: found.update({at: fill(source, at, at + 50_000)}))
        for at in range(0, size - 50_000, size // 7)
    ]
    for thread in threads:
        thread.start()
    assert transport.wait_for_requests(1)
    assert source._lock.acquire(timeout=10)  # nobody holds a lock while the source is slow
    source._lock.release()
    assert transport.gate is not None
    transport.gate.set()
    for thread in threads:
        thread.join(10)
    assert transport.asked == [None]
    assert found == {at: data[at : at + 50_000] for at in range(0, size - 50_000, size // 7)}


def test_who_waits_for_a_whole_file_can_be_called_off_and_one_that_fails_is_followed_by_the_next() -> None:
    transport = FakeTransport(DATA, no_ranges=True, gate=threading.Event())
    source = make_source(transport)
    source._refusals = 9
    first = threading.Thread(target=lambda: fill(source, 0, 10))
    first.start()
    assert transport.wait_for_requests(1)
    cancel_token, errors = CancelToken(), []

    def wait() -> None:
        try:
            source.fill(0, memoryview(bytearray(10)), cancel_token)
        except StopRequestedError as error:
            errors.append(error)

    second = threading.Thread(target=wait)
    second.start()
    cancel_token.set()
    second.join(10)
    assert len(errors) == 1
    third = threading.Thread(target=lambda: fill(source, 0, 10))
    third.start()
    transport.faults = [ConnectionFailedError("lost")]
    assert transport.gate is not None
    transport.gate.set()
    first.join(10)
    third.join(10)
    assert fill(source, 5, 500) == DATA[5:500]
    assert transport.opened == 1


def test_the_collector_leaves_it_to_others_to_close_a_copy_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Callable[[], object]] = []
    monkeypatch.setattr(finalizers, "defer", left.append)
    source = make_source(FakeTransport(random_bytes(2_000_000, "copy"), no_ranges=True))
    source._refusals = 9
    fill(source, 0, 10)
    assert source._whole is not None
    file = source._whole._file
    assert file is not None
    del source
    gc.collect()
    assert not file.closed
    (close,) = left
    close()
    assert file.closed


def test_a_whole_file_fetched_instead_of_ranges_is_checked() -> None:
    transport = FakeTransport(DATA, no_ranges=True)
    source = make_source(transport)
    transport.data = DATA[:-1] + b"?"
    with pytest.raises(IntegrityError):
        fill(source, 100, 150)


def test_a_head_that_comes_as_the_whole_file_is_cut_to_size() -> None:
    transport = FakeTransport(DATA, no_ranges=True)
    assert fill(make_source(transport), 0, 50) == DATA[:50]
    assert transport.sent == 50


def test_a_cancel_token_ends_a_read() -> None:
    cancel_token = CancelToken()
    transport = FakeTransport(DATA, on_open=cancel_token.set, faults=[ConnectionFailedError("woken")])
    with pytest.raises(StopRequestedError):
        make_source(transport).fill(0, memoryview(bytearray(10)), cancel_token)
    assert len(transport.asked) == 1


def test_an_answer_may_take_longer_the_more_often_none_came_and_the_next_byte_as_long_as_ever() -> None:
    faults: list[Exception | int | None] = [StalledError("slow"), StalledError("slow"), 5, None]
    transport = FakeTransport(DATA, faults=faults)
    source = make_source(transport, replace(SETTINGS, stall_timeout=7.0, give_up_after=1000.0))
    source._history.first_byte(source.origin, 0.1)
    fill(source, 0, 10)
    assert transport.limits == [SilenceLimits(seconds, 7.0) for seconds in (10.0, 20.0, 40.0, 10.0)]
    fill(source, 0, 10)  # another read starts anew
    assert transport.limits[-1] == SilenceLimits(10.0, 7.0)


def test_who_asks_for_a_size_is_as_patient() -> None:
    transport = FakeTransport(DATA, faults=[StalledError("slow"), RangeRefusedError("empty")])
    history, remote = SourceHistory(), remote_file(DATA)
    history.first_byte("http://hub.example", 0.1)
    assert learn_size(
        remote, lambda _: transport, replace(SETTINGS, stall_timeout=7.0, give_up_after=1000.0), history
    ) == len(DATA)
    assert transport.limits == [SilenceLimits(seconds, 7.0) for seconds in (10.0, 20.0, 20.0)]
    assert transport.asked == [(0, 1), (0, 1), None]


def test_the_link_is_what_answers_have_shown() -> None:
    source = make_source(FakeTransport(DATA))
    assert source.link == Link()
    source._history.first_byte(source.origin, 0.05)
    assert fill(source, 0, 300_000) == DATA[:300_000]
    assert source.link.speed is None  # most of it came at once
    assert fill(source, 0, 500_000) == DATA[:500_000]
    assert source.link.speed is not None


def test_what_small_files_show_says_nothing_of_large_ones() -> None:
    history = SourceHistory()
    small, large = (
        RangeSource(
            replace(remote_file(DATA), size=size),
            lambda _: FakeTransport(DATA),
            SETTINGS,
            BandwidthLimiter(None),
            history,
        )
        for size in (len(DATA), 5 << 20)
    )
    assert fill(small, 0, 500_000) == DATA[:500_000]
    assert small.link.speed is not None
    assert large.link == Link()


def test_a_fork_starts_over_with_fresh_locks_and_connections() -> None:
    transports = [FakeTransport(DATA), FakeTransport(DATA)]
    source = make_source(transports[0])
    source._open_transport = lambda _: transports.pop(0)
    assert fill(source, 0, 10) == DATA[:10]
    source._lock.acquire()  # as if held by a thread that the child does not have
    source._fetching = threading.Event()
    source._reset()
    assert fill(source, 0, 10) == DATA[:10]
    assert not transports


def test_checksums_are_those_of_git_and_sha256() -> None:
    from hf_haul.task import Digest, RemoteFile

    remote = remote_file(DATA)
    git = RemoteFile(
        "f", "http://x/f", size=6, digest=Digest("git-sha1", "ce013625030ba8dba906f756967f9e9ca394464a")
    )
    for each, data in ((remote, DATA), (git, b"hello\n"), (RemoteFile("f", "http://x/f", size=1), b"?")):
        checksum = Checksum(each)
        checksum.update(data)
        checksum.check()
    checksum = Checksum(git)
    checksum.update(b"hello!")
    with pytest.raises(IntegrityError):
        checksum.check()
