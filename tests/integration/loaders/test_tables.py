"""Tables through haul://: pandas, pyarrow, polars, duckdb and dask, beside the same files on disk."""

from __future__ import annotations

from typing import Any

import fsspec
import pandas as pd
import pyarrow.dataset as pads
import pyarrow.feather as feather
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal
from tests.support.loader_files import COLUMNS, PARTS, ROWS
from tests.support.wants import want_modules

PART = "tables/part-0.parquet"
#: Of a parquet file's bytes, what two of its 13 columns, its last 256 KiB and some air around may take.
FEW = 0.4


def assert_selective(here: Any, path: str, opens: int = 1) -> None:
    """Two columns took few of the file's bytes, and one resolve."""
    assert here.sent(path) < FEW * here.size(path) * opens
    assert here.resolves(path) == 1


# ---- pandas


def test_pandas_reads_columns_of_parquet(here: Any) -> None:
    frame = pd.read_parquet(here.url(PART), columns=COLUMNS)
    assert_frame_equal(frame, pd.read_parquet(here.local(PART), columns=COLUMNS))
    assert_selective(here, PART)
    assert here.listings() <= 3


def test_pandas_reads_all_of_parquet_once(here: Any) -> None:
    assert_frame_equal(pd.read_parquet(here.url(PART)), pd.read_parquet(here.local(PART)))
    assert here.sent(PART) < 1.1 * here.size(PART)


@pytest.mark.parametrize("engine", ["c", "pyarrow"])
def test_pandas_reads_csv(here: Any, engine: Any) -> None:
    frame = pd.read_csv(here.url("rows.csv"), engine=engine)
    assert_frame_equal(frame, pd.read_csv(here.local("rows.csv"), engine=engine))
    assert here.sent("rows.csv") == here.size("rows.csv")


def test_pandas_reads_the_head_of_csv_without_the_rest(here: Any) -> None:
    with pd.read_csv(here.url("rows.csv"), chunksize=100) as chunks:
        first = next(iter(chunks))
    assert_frame_equal(first, pd.read_csv(here.local("rows.csv"), nrows=100))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_pandas_reads_json_lines(here: Any, name: str) -> None:
    truth = pd.read_json(here.local(name), lines=True)
    assert_frame_equal(pd.read_json(here.url(name), lines=True), truth)
    assert here.sent(name) == here.size(name)
    with pd.read_json(here.url(name), lines=True, chunksize=3000) as chunks:
        assert_frame_equal(pd.concat(chunks), truth)


# ---- pyarrow


def test_a_pyarrow_dataset_reads_columns_of_a_folder(here: Any) -> None:
    fs = fsspec.filesystem("haul")
    dataset = pads.dataset(here.path("tables"), filesystem=fs, format="parquet")
    truth = pads.dataset(here.local("tables"), format="parquet")
    assert dataset.count_rows() == PARTS * ROWS
    assert dataset.to_table(columns=COLUMNS).equals(truth.to_table(columns=COLUMNS))
    for number in range(PARTS):
        assert_selective(here, f"tables/part-{number}.parquet")
    wanted = pads.field("id") < 100
    assert dataset.to_table(filter=wanted).equals(truth.to_table(filter=wanted))


@pytest.mark.parametrize("pre_buffer", [True, False])
def test_pyarrow_reads_columns_of_parquet(here: Any, pre_buffer: bool) -> None:
    fs = fsspec.filesystem("haul")
    table = pq.read_table(here.path(PART), columns=COLUMNS, filesystem=fs, pre_buffer=pre_buffer)
    assert table.equals(pq.read_table(here.local(PART), columns=COLUMNS))
    assert_selective(here, PART)


def test_pyarrow_reads_row_groups_one_by_one(here: Any) -> None:
    truth = pq.ParquetFile(here.local(PART))
    with fsspec.open(here.url(PART)) as file:
        remote = pq.ParquetFile(file)
        assert remote.metadata.equals(truth.metadata)
        for group in (5, 0, 7):
            assert remote.read_row_group(group, columns=COLUMNS).equals(
                truth.read_row_group(group, columns=COLUMNS)
            )
        assert [batch.num_rows for batch in remote.iter_batches(batch_size=3000)] == [
            batch.num_rows for batch in truth.iter_batches(batch_size=3000)
        ]


def test_pyarrow_reads_arrow_files_and_single_columns_of_them(here: Any) -> None:
    with fsspec.open(here.url("table.arrow")) as file:
        assert ipc.open_file(file).read_all().equals(feather.read_table(here.local("table.arrow")))
    assert here.sent("table.arrow") < 1.1 * here.size("table.arrow")
    with fsspec.open(here.url("table.arrow")) as file:
        table = feather.read_table(file, columns=["a2"])
    assert table.equals(feather.read_table(here.local("table.arrow"), columns=["a2"]))


def test_pyarrow_takes_the_filesystem_by_url(here: Any) -> None:
    table = pq.read_table(f"fsspec+{here.url(PART)}", columns=COLUMNS)
    assert table.equals(pq.read_table(here.local(PART), columns=COLUMNS))
    assert_selective(here, PART)


# ---- polars


def test_polars_reads_open_files(here: Any) -> None:
    want_modules("polars", extra="loaders")
    import polars as pl

    with fsspec.open(here.url(PART)) as file:
        assert pl.read_parquet(file, columns=COLUMNS).equals(
            pl.read_parquet(here.local(PART), columns=COLUMNS)
        )
    assert here.sent(PART) <= here.size(PART)  # polars reads all of an open file, whatever is asked of it
    with fsspec.open(here.url("rows.csv")) as file:
        assert pl.read_csv(file).equals(pl.read_csv(here.local("rows.csv")))
    with fsspec.open(here.url("rows.jsonl")) as file:
        assert pl.read_ndjson(file).equals(pl.read_ndjson(here.local("rows.jsonl")))
    for name in ("rows.csv", "rows.jsonl"):
        assert here.sent(name) == here.size(name)
        assert here.resolves(name) == 1


def test_polars_scans_columns_through_a_pyarrow_dataset(here: Any) -> None:
    want_modules("polars", extra="loaders")
    import polars as pl

    dataset = pads.dataset(here.path(PART), filesystem=fsspec.filesystem("haul"), format="parquet")
    query = pl.scan_pyarrow_dataset(dataset).select(COLUMNS).filter(pl.col("c01") > 0.5)
    truth = pl.scan_parquet(here.local(PART)).select(COLUMNS).filter(pl.col("c01") > 0.5)
    assert query.collect().equals(truth.collect())
    assert_selective(here, PART)


# ---- duckdb


@pytest.fixture
def duck(here: Any) -> Any:
    want_modules("duckdb", extra="loaders")
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET threads = 4")
        connection.register_filesystem(fsspec.filesystem("haul"))
        yield connection


def test_duckdb_sums_columns_of_one_file_and_of_many(here: Any, duck: Any) -> None:
    for name in (PART, "tables/*.parquet"):
        query = "SELECT count(*), sum(id), round(sum(c01), 6), max(c05) FROM '{}'"
        assert (
            duck.sql(query.format(here.url(name))).fetchall()
            == duck.sql(query.format(here.local(name))).fetchall()
        )
    assert here.resolves(PART) == 1
    assert here.sent(PART) < 1.1 * here.size(PART)


def test_duckdb_reads_csv_and_json(here: Any, duck: Any) -> None:
    for name in ("rows.csv", "rows.jsonl"):
        query = "SELECT count(*), sum(id), round(sum(x), 6), count(DISTINCT name) FROM '{}'"
        assert (
            duck.sql(query.format(here.url(name))).fetchall()
            == duck.sql(query.format(here.local(name))).fetchall()
        )
        assert here.sent(name) < 1.1 * here.size(name)
        assert here.resolves(name) == 1


# ---- dask


def test_dask_reads_columns_of_many_files_in_threads(here: Any) -> None:
    want_modules("dask", "pyarrow", extra="loaders")
    import dask.dataframe as dd

    frame = dd.read_parquet(here.url("tables/*.parquet"), columns=COLUMNS).compute(scheduler="threads")
    truth = dd.read_parquet(here.local("tables/*.parquet"), columns=COLUMNS).compute(scheduler="threads")
    assert_frame_equal(frame, truth)
    for number in range(PARTS):
        assert_selective(here, f"tables/part-{number}.parquet")


def test_dask_reads_in_the_processes_of_a_distributed_scheduler(here: Any) -> None:
    want_modules("dask", "distributed", extra="loaders")
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    truth = dd.read_parquet(here.local("tables/*.parquet"), columns=COLUMNS)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster),
    ):
        frame = dd.read_parquet(here.url("tables/*.parquet"), columns=COLUMNS)
        assert_frame_equal(frame.compute(), truth.compute(scheduler="threads"))
        lines = dd.read_csv(here.url("rows.csv"), blocksize=200_000).compute()
    assert_frame_equal(lines.reset_index(drop=True), pd.read_csv(here.local("rows.csv")), check_dtype=False)
    assert here.sent("tables/part-1.parquet") < FEW * here.size("tables/part-1.parquet") * 2
