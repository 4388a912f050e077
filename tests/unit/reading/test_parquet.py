"""Which chunks of a parquet file are fetched before they are asked for."""

from __future__ import annotations

import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.sources import FakeTransport, make_reads

from hf_haul.reading.extents import Extents
from hf_haul.reading.file_reader import FileReader
from hf_haul.reading.parquet import Layout, ParquetPlan, footer_start, parse_layout

MiB = 1 << 20
GROUPS, COLUMNS, CHUNK = 20, 5, 300_000


def layout(chunk: int = CHUNK) -> Layout:
    row = COLUMNS * chunk
    return Layout(
        [4 + g * row for g in range(GROUPS)],
        lambda g: [(4 + g * row + c * chunk, 4 + g * row + (c + 1) * chunk, c) for c in range(COLUMNS)],
    )


def chunk_at(group: int, column: int, chunk: int = CHUNK) -> tuple[int, int]:
    start = 4 + (group * COLUMNS + column) * chunk
    return start, start + chunk


def parquet_file(rows: int = 4000, groups: int = 8) -> bytes:
    table = pa.table({name: [f"{name}{i}" for i in range(rows)] for name in "abcd"})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=rows // groups, compression="none")
    return file.getvalue()


def test_the_layout_is_what_pyarrow_says() -> None:
    data = parquet_file()
    begin = footer_start(data[-8:], len(data))
    assert begin is not None
    found = parse_layout(data[begin:])
    assert found is not None
    metadata = pq.read_metadata(io.BytesIO(data))
    assert found.groups == metadata.num_row_groups == 8
    for g in range(found.groups):
        chunks = found.chunks(g)
        assert sorted(c for _, _, c in chunks) == [0, 1, 2, 3]
        assert sum(stop - start for start, stop, _ in chunks) == sum(
            metadata.row_group(g).column(c).total_compressed_size for c in range(4)
        )
    assert found.chunks(0)[0][0] == 4


@pytest.mark.parametrize(
    ("last", "size"),
    [
        pytest.param(b"\x10\0\0\0PARE", 10_000, id="encrypted"),
        pytest.param(b"\x10\0\0\0xxxx", 10_000, id="no parquet"),
        pytest.param(b"\x10\0\0\0PAR", 10_000, id="too short"),
        pytest.param(b"\0\0\0\x7fPAR1", 1 << 40, id="a footer of 2 GB"),
        pytest.param(b"\x10\0\0\0PAR1", 20, id="a footer larger than the file"),
    ],
)
def test_other_ends_are_no_footers(last: bytes, size: int) -> None:
    assert footer_start(last, size) is None


def test_a_broken_footer_is_no_layout() -> None:
    assert parse_layout(b"\x15\x04garbage" + b"\x09\0\0\0PAR1") is None


def test_without_pyarrow_the_layout_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = parquet_file()
    footer = data[footer_start(data[-8:], len(data)) :]
    theirs = parse_layout(footer)
    monkeypatch.delitem(sys.modules, "pyarrow")
    ours = parse_layout(footer)
    assert "pyarrow" not in sys.modules
    assert ours is not None
    assert theirs is not None
    assert [ours.chunks(g) for g in range(8)] == [theirs.chunks(g) for g in range(8)]
    assert parse_layout(b"\x15\x04garbage" + b"\x09\0\0\0PAR1") is None


def test_the_columns_read_are_sent_for_in_the_groups_to_come_and_each_only_once() -> None:
    plan = ParquetPlan(layout())
    asked: list[tuple[int, int]] = []
    for group in range(GROUPS):
        for column in (1, 3):
            advice = plan.advise(*chunk_at(group, column))
            assert advice is not None
            assert (advice.start, advice.stop) == chunk_at(group, column)
            asked += advice.ahead
    wanted = {chunk_at(g, c) for g in range(GROUPS) for c in (1, 3)}
    assert set(asked) <= wanted
    # All but what was read before the reader's columns were known.
    assert wanted - set(asked) <= {chunk_at(0, 1), chunk_at(0, 3)}
    repeated = [each for each in set(asked) if asked.count(each) > 1]
    assert all(
        each in {chunk_at(g, 1) for g in range(GROUPS)} for each in repeated
    )  # until column 3 was known


def test_the_window_starts_small() -> None:
    plan = ParquetPlan(layout())
    advice = plan.advise(*chunk_at(0, 2))
    assert advice is not None
    assert sum(b - a for a, b in advice.ahead) <= 2 * MiB + CHUNK


def test_whole_groups_are_fetched_in_one_run() -> None:
    plan = ParquetPlan(layout())
    advice = plan.advise(4, chunk_at(1, 4)[1])
    assert advice is not None
    assert len(advice.ahead) == 1
    assert advice.ahead[0][0] == chunk_at(2, 0)[0]


def test_a_part_of_a_chunk_brings_the_chunk_unless_it_is_huge() -> None:
    start, stop = chunk_at(3, 2)
    advice = ParquetPlan(layout()).advise(start + 100, start + 200)
    assert advice is not None
    assert (advice.start, advice.stop) == (start, stop)
    huge = 40 * MiB
    start, stop = chunk_at(3, 2, huge)
    advice = ParquetPlan(layout(huge)).advise(start + 100, start + 200)
    assert advice is not None
    assert (advice.start, advice.stop) == (start + 100, start + 200)


def test_what_is_no_chunk_is_left_to_others() -> None:
    assert ParquetPlan(layout()).advise(GROUPS * COLUMNS * CHUNK + 10, GROUPS * COLUMNS * CHUNK + 20) is None
    assert ParquetPlan(layout()).advise(0, 4) is None


def test_going_back_plans_again() -> None:
    plan = ParquetPlan(layout())
    for group in (0, 1, 15):
        plan.advise(*chunk_at(group, 0))
    advice = plan.advise(*chunk_at(2, 4))
    assert advice is not None
    start, stop = chunk_at(3, 4)
    assert any(a <= start and stop <= b for a, b in advice.ahead)


def test_a_reader_of_two_columns_moves_little_more_than_they_are() -> None:
    data = parquet_file(rows=200_000, groups=20)
    transport = FakeTransport(data)
    reads, (source,) = make_reads(transport, suffix=".parquet")
    extents = Extents(reads)
    metadata = pq.read_metadata(io.BytesIO(data))
    reader = FileReader(source, extents)
    reader.read(source.size - 65536, source.size)
    assert min(start for start, _ in transport.asked) == source.size - 262_144
    assert transport.sent == 262_144
    needed = 0
    for g in range(metadata.num_row_groups):
        for c in (1, 3):
            chunk = metadata.row_group(g).column(c)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            stop = start + chunk.total_compressed_size
            needed += stop - start
            assert reader.read(start, stop) == data[start:stop]
    reader.close()
    assert transport.sent <= 262_144 + needed * 1.1
    again = FileReader(source, extents)
    assert again._plan is not None


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 300_000, b"x" * 299_992 + b"\xff\xff\xff\x00PAR1"])
def test_a_file_that_only_says_it_is_parquet_is_read_as_any_other(data: bytes) -> None:
    transport = FakeTransport(data)
    reads, (source,) = make_reads(transport, suffix=".parquet")
    reader = FileReader(source, Extents(reads))
    for start, stop in ((max(0, len(data) - 8), len(data)), (0, len(data)), (len(data) // 2, len(data))):
        if stop > start:
            assert reader.read(start, stop) == data[start:stop]
