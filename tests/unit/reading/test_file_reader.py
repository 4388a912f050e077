"""One open file: what is in memory already, what is fetched for it, what is fetched ahead."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.repos import random_bytes
from tests.support.sources import FakeTransport, make_reads

from hf_haul.errors import IntegrityError
from hf_haul.reading.extents import Extents
from hf_haul.reading.file_reader import FileReader
from hf_haul.reading.range_source import RangeSource

MiB = 1 << 20
DATA = random_bytes(6 * MiB, "file reader")


def make(transport: FakeTransport, **options: Any) -> tuple[FileReader, Extents, RangeSource]:
    reads, (source,) = make_reads(transport)
    extents = Extents(reads)
    return FileReader(source, extents, **options), extents, source


def settle(extents: Extents) -> None:
    """Wait until nothing is on its way."""
    for extent in (*extents._fresh, *extents._consumed):
        extent.job.exception(10)


def test_a_whole_file_is_fetched_once_and_kept() -> None:
    transport = FakeTransport(DATA[:MiB])
    reader, _, _ = make(transport)
    assert reader.read(0, MiB) == DATA[:MiB]
    assert reader.read(0, MiB) == DATA[:MiB]
    assert reader.read(10, 20) == DATA[10:20]
    assert transport.sent == MiB


def test_a_whole_file_is_checked_against_its_digest_also_when_read_into_a_buffer() -> None:
    transport = FakeTransport(DATA[:1000])
    reader, _, _ = make(transport)
    transport.data = bytes(1000)
    with pytest.raises(IntegrityError):
        reader.read_into(0, memoryview(bytearray(1000)))


def test_reading_on_fetches_ahead_and_only_if_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for ahead in (True, False):
        reader, extents, source = make(FakeTransport(DATA), ahead=ahead)
        sent_for: list[tuple[int, int]] = []
        monkeypatch.setattr(
            extents,
            "prefetch",
            lambda _, ranges, sent_for=sent_for, **__: sent_for.extend(ranges) or ranges[-1][1],
        )
        for at in range(0, 3 * MiB, MiB):
            assert reader.read(at, at + MiB) == DATA[at : at + MiB]
        assert bool(sent_for) == ahead
        assert all(stop > start >= MiB for start, stop in sent_for)
        assert extents.covered_to(source, 0) >= 3 * MiB


def test_without_reading_ahead_no_byte_is_asked_for_that_is_not_read() -> None:
    transport = FakeTransport(DATA)
    reader, _, _ = make(transport, ahead=False)
    view = memoryview(bytearray(1000))
    reader.read_into(5 * MiB, view)
    assert view == DATA[5 * MiB : 5 * MiB + 1000]
    assert reader.read(100, 300) == DATA[100:300]
    assert transport.asked == [(5 * MiB, 5 * MiB + 1000), (100, 300)]


def test_a_closed_reader_lets_go_of_its_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, extents, source = make(FakeTransport(DATA))
    let_go: list[tuple[object, object]] = []
    monkeypatch.setattr(extents, "detach", lambda *of: let_go.append(of))
    reader.close()
    reader.close()
    assert let_go == [(source, reader)]


def test_a_forked_child_reads_though_the_lock_was_held_at_the_fork() -> None:
    reader, extents, _ = make(FakeTransport(DATA))
    reader._lock.acquire()  # by a thread that the child does not have
    reader._start_anew()
    assert reader.read(0, 10) == DATA[:10]
    settle(extents)
