"""Where the chunks of a parquet file are, by its footer alone."""

from __future__ import annotations

import io
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_haul.reading.footer import chunks_of_groups
from hf_haul.reading.parquet import footer_start


def written(table: pa.Table, **options: Any) -> tuple[bytes, Any]:
    """Return the footer of a table, and what pyarrow reads in it."""
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    data = file.getvalue()
    return data[footer_start(data[-8:], len(data)) :], pq.read_metadata(io.BytesIO(data))


TABLE = pa.table({
    "number": pa.array(range(1000)),
    "text": pa.array([f"{i % 7}" for i in range(1000)]),
    "flag": pa.array([i % 2 == 0 for i in range(1000)]),
    "list": pa.array([[{"a": i, "b": None}] for i in range(1000)]),
    "day": pa.array([None] * 1000, pa.timestamp("us", tz="UTC")),
})  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as it comes"),
        pytest.param({"row_group_size": 37}, id="many groups"),
        pytest.param({"use_dictionary": False, "compression": "none"}, id="no dictionary"),
        pytest.param({"compression": "zstd", "write_page_index": True}, id="page index"),
        pytest.param({"write_statistics": False, "version": "1.0"}, id="old"),
        pytest.param({"sorting_columns": [pq.SortingColumn(0)], "write_page_checksum": True}, id="sorted"),
    ],
)
def test_the_chunks_are_where_pyarrow_finds_them(options: dict[str, Any]) -> None:
    footer, metadata = written(TABLE.replace_schema_metadata({"key": "value " * 99}), **options)
    found = chunks_of_groups(footer)
    assert found is not None
    assert len(found) == metadata.num_row_groups
    for g, group in enumerate(found):
        columns = [metadata.row_group(g).column(c) for c in range(metadata.num_columns)]
        starts = [
            min(each.data_page_offset, each.dictionary_page_offset or each.data_page_offset)
            for each in columns
        ]
        stops = [start + each.total_compressed_size for start, each in zip(starts, columns, strict=True)]
        assert group == list(zip(starts, stops, range(len(columns)), strict=True))


def test_a_footer_cut_or_changed_anywhere_is_none_or_chunks() -> None:
    footer, _ = written(TABLE, row_group_size=400)
    chance = random.Random(1)
    for cut in range(len(footer)):
        chunks_of_groups(footer[:cut])
    for _ in range(3000):
        broken = bytearray(footer)
        for _ in range(chance.randrange(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        found = chunks_of_groups(bytes(broken))
        assert found is None or all(0 <= start <= stop for group in found for start, stop, _ in group)


@pytest.mark.parametrize(
    "footer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x49\xfc" + b"\xff" * 9 + b"\x01", id="more groups than bytes"),
        pytest.param(b"\x16" + b"\x80" * 100_000, id="a number without an end"),
        pytest.param(b"\x1c" * 1000, id="structures without an end"),
        pytest.param(b"\x19\xf1" + b"\xff" * 9 + b"\x01", id="more items than bytes"),
        pytest.param(b"\x00" * (256 * 1024 + 1), id="too large"),
    ],
)
def test_what_is_no_footer_is_given_up_at_once(footer: bytes) -> None:
    assert chunks_of_groups(footer) is None
