"""What is fetched of files that nobody has opened yet."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.repos import random_bytes
from tests.support.sources import FakeTransport, make_reads
from tests.support.waits import until

from hf_haul.errors import HttpStatusError
from hf_haul.reading.extents import Extents
from hf_haul.reading.file_reader import FileReader
from hf_haul.reading.lookahead import LookAhead
from hf_haul.reading.range_source import RangeSource

KiB = 1 << 10
MiB = 1 << 20


class Folder:
    """Files that are opened and read one after the other.

    Attributes:
        transports: Where each file's bytes come from.
        extents: Where they are kept.
    """

    def __init__(self, files: list[bytes], suffix: str = ".bin") -> None:
        self.transports = [FakeTransport(data) for data in files]
        self.reads, sources = make_reads(*self.transports, suffix=suffix)
        self.names = [f"d/{n:03d}{suffix}" for n in range(len(files))]
        self.sources = dict(zip(self.names, sources, strict=True))
        self.extents = Extents(self.reads)
        self.look_ahead = LookAhead(self.extents)
        self.found: list[str] = []

    def after(self, name: str) -> Iterator[str]:
        return iter(self.names[self.names.index(name) + 1 :])

    def source_of(self, name: str) -> RangeSource | None:
        self.found.append(name)
        return self.sources[name]

    def open(self, number: int, *, stream: bool = False) -> FileReader:
        name = self.names[number]
        visit, near_end = self.look_ahead.visit("group", name, self.sources[name], self.after, self.source_of)
        return FileReader(self.sources[name], self.extents, stream=stream, visit=visit, near_end=near_end)

    def read_whole(self, number: int) -> bytes:
        reader = self.open(number)
        data = reader.read(0, len(self.transports[number].data))
        reader.close()
        return data

    def settle(self) -> None:
        def is_settled() -> bool:
            jobs = [each.job.done() for each in (*self.extents._fresh, *self.extents._consumed)]
            return all(jobs) and not self.reads.threads._running and not self.reads.threads._heap

        assert until(is_settled)

    @property
    def asked(self) -> list[int]:
        return [len(each.asked) for each in self.transports]

    @property
    def sent(self) -> list[int]:
        return [each.sent for each in self.transports]


def small(count: int) -> list[bytes]:
    return [random_bytes(50_000 + n, "small", n) for n in range(count)]


def test_small_files_come_whole_before_they_are_opened_and_once() -> None:
    folder = Folder(small(12))
    for number in range(3):
        assert folder.read_whole(number) == folder.transports[number].data
        folder.settle()
    assert folder.asked == [1] * 5 + [0] * 7
    for number in range(3, 12):
        assert folder.read_whole(number) == folder.transports[number].data
        folder.settle()
    assert folder.asked == [1] * 12


def test_a_small_file_that_came_ahead_with_other_bytes_is_fetched_again() -> None:
    folder = Folder(small(4))
    good = folder.transports[2].data
    folder.transports[2].data = bytes(len(good))
    folder.read_whole(0)
    folder.read_whole(1)
    folder.settle()
    assert folder.asked[2] == 1
    folder.transports[2].data = good
    assert folder.read_whole(2) == good


def test_what_cannot_be_had_ahead_is_the_readers_to_ask_for_again() -> None:
    folder = Folder(small(4))
    folder.transports[2].faults = [HttpStatusError("gone", status=404)]
    for number in range(4):
        assert folder.read_whole(number) == folder.transports[number].data
        folder.settle()


def test_a_reader_that_stops_has_nothing_fetched_for_it_any_more() -> None:
    folder = Folder(small(12))
    for number in range(3):
        folder.read_whole(number)
        folder.settle()
    before = folder.asked
    folder.settle()
    assert folder.asked == before
    assert sum(folder.sent[3:]) <= 16 * MiB


def parquet_files(count: int) -> list[bytes]:
    found = []
    for seed in range(count):
        columns = {
            f"c{n}": pa.array(memoryview(random_bytes(200_000, "p", seed, n)).cast("d")) for n in range(10)
        }
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out, row_group_size=5000, compression="none", use_dictionary=False)
        found.append(out.getvalue())
    return found


def test_of_parquet_files_the_footer_and_the_columns_that_are_read_come_ahead() -> None:
    folder = Folder(parquet_files(6), ".parquet")
    for number in range(3):
        reader = folder.open(number)
        pq.read_table(PythonFile(reader, len(folder.transports[number].data)), columns=["c2", "c5"])
        reader.close()
        folder.settle()
    sent = folder.sent
    assert sent[5] == 0
    for ahead in (3, 4):
        data = folder.transports[ahead].data
        chunks = sum(
            pq.read_metadata(io.BytesIO(data)).row_group(group).column(column).total_compressed_size
            for group in range(5)
            for column in (2, 5)
        )
        assert chunks <= sent[ahead] <= chunks + 256 * KiB
    before = folder.asked
    reader = folder.open(3)
    pq.read_table(PythonFile(reader, len(folder.transports[3].data)), columns=["c2", "c5"])
    assert folder.asked[3] == before[3]


class PythonFile(io.RawIOBase):
    """An open file over a reader, for pyarrow."""

    def __init__(self, reader: FileReader, size: int) -> None:
        self.reader, self.size, self.at = reader, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, at: int, whence: int = 0) -> int:
        self.at = at + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, length: int | None = -1) -> bytes:
        stop = self.size if length is None or length < 0 else min(self.size, self.at + length)
        data = self.reader.read(self.at, stop) if stop > self.at else b""
        self.at = max(self.at, stop)
        return data


@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
def test_the_head_of_the_next_file_comes_when_the_end_of_this_one_is_on_its_way(stream: bool) -> None:
    folder = Folder([random_bytes(30 * MiB, "large", n) for n in range(3)])
    for number in range(2):
        reader = folder.open(number, stream=stream)
        for at in range(0, 30 * MiB, MiB):
            assert reader.read(at, at + MiB) == folder.transports[number].data[at : at + MiB]
            if at < 10 * MiB:
                assert not folder.transports[2].asked
        reader.close()
        folder.settle()
    assert MiB <= folder.sent[2] <= 30 * MiB
    before = folder.asked[2]
    assert folder.open(2, stream=stream).read(0, 1000) == folder.transports[2].data[:1000]
    assert folder.asked[2] == before


def test_where_a_file_cannot_be_found_ahead_nothing_happens() -> None:
    folder = Folder([random_bytes(6 * MiB, n) for n in range(3)])

    def fails(name: str) -> RangeSource | None:
        raise OSError(name)

    folder.source_of = fails  # type: ignore[method-assign]
    for number in range(2):
        reader = folder.open(number)
        for at in range(0, 6 * MiB, MiB):
            reader.read(at, at + MiB)
    folder.settle()
    assert not folder.transports[2].asked


def test_of_very_many_groups_the_latest_are_followed() -> None:
    folder = Folder(small(2))
    for group in range(1000):
        folder.look_ahead.visit(
            group, folder.names[0], folder.sources[folder.names[0]], folder.after, folder.source_of
        )
    assert len(folder.look_ahead._orders) == 64
