"""Samples in order through haul://: datasets, streaming and not, and webdataset, beside the same files on disk."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.support.loader_files import COLUMNS, PARTS, ROWS, SAMPLES
from tests.support.wants import want_modules

want_modules("datasets", "webdataset", extra="loaders")

import datasets  # noqa: E402  if it is there
import webdataset  # noqa: E402  the same


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)  # it asks a server outside
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "datasets/downloads")
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", tmp_path / "datasets/downloads/extracted")


def load(kind: str, files: str, *, streaming: bool, **options: Any) -> Any:
    return datasets.load_dataset(
        kind, data_files={"train": files}, split="train", streaming=streaming, **options
    )


def assert_read_once(here: Any, pattern: str, *, times: float = 1.1) -> None:
    """No byte of the files was fetched twice, but for a few, and where each is was asked once."""
    names = [path.relative_to(here.folder).as_posix() for path in here.folder.glob(pattern)]
    assert names
    for name in names:
        assert here.sent(name) <= times * here.size(name), name
        assert here.resolves(name) == 1, name


def rows_of(dataset: Any) -> list[Any]:
    return list(dataset)


# ---- datasets


def test_datasets_streams_parquet(here: Any) -> None:
    stream = load("parquet", here.url("tables/*.parquet"), streaming=True, columns=["id", *COLUMNS])
    truth = load("parquet", here.local("tables/*.parquet"), streaming=True, columns=["id", *COLUMNS])
    batches = list(stream.with_format("arrow").iter(batch_size=5_000))
    assert sum(batch.num_rows for batch in batches) == PARTS * ROWS
    assert all(
        a.equals(b) for a, b in zip(batches, truth.with_format("arrow").iter(batch_size=5_000), strict=True)
    )
    assert_read_once(here, "tables/*.parquet", times=0.5)
    assert here.listings() <= 3


def test_datasets_takes_the_first_rows_of_parquet_without_the_rest(here: Any) -> None:
    stream = load("parquet", here.url("tables/*.parquet"), streaming=True)
    assert [row["id"] for row in stream.take(3)] == [0, 1, 2]
    assert here.sent() < 1.1 * here.size("tables/part-0.parquet")
    assert not here.answers("tables/part-2.parquet")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_datasets_streams_json_lines(here: Any, name: str) -> None:
    stream = load("json", here.url(name), streaming=True)
    assert rows_of(stream) == rows_of(load("json", here.local(name), streaming=True))
    assert_read_once(here, name)


def test_datasets_streams_webdataset_shards(here: Any) -> None:
    stream = load("webdataset", here.url("shards/*.tar"), streaming=True)
    found = [(row["json"]["label"], row["bin"]) for row in stream]
    truth = load("webdataset", here.local("shards/*.tar"), streaming=True)
    assert found == [(row["json"]["label"], row["bin"]) for row in truth]
    assert len(found) == 2 * SAMPLES


def test_datasets_fetches_the_first_shard_once_though_it_opens_it_twice(here: Any) -> None:
    assert len(rows_of(load("webdataset", here.url("shards/*.tar"), streaming=True))) == 2 * SAMPLES
    assert_read_once(here, "shards/*.tar")


def test_a_stream_of_datasets_goes_on_where_it_was(here: Any) -> None:
    stream = load("parquet", here.url("tables/*.parquet"), streaming=True, columns=["id"])
    rows = iter(stream)
    seen = [next(rows)["id"] for _ in range(ROWS + 10)]
    state = stream.state_dict()
    again = load("parquet", here.url("tables/*.parquet"), streaming=True, columns=["id"])
    again.load_state_dict(state)
    assert next(iter(again))["id"] == seen[-1] + 1


@pytest.mark.parametrize(("kind", "pattern"), [("parquet", "tables/*.parquet"), ("json", "rows.jsonl")])
def test_datasets_downloads_and_keeps(here: Any, kind: str, pattern: str) -> None:
    made = load(kind, here.url(pattern), streaming=False)
    truth = load(kind, here.local(pattern), streaming=False)
    assert made.data.table.equals(truth.data.table)
    assert_read_once(here, pattern, times=1.0)
    here.hub.requests.clear()
    assert load(kind, here.url(pattern), streaming=False).num_rows == truth.num_rows
    assert not here.answers()


# ---- webdataset


def _samples(urls: list[str], **options: Any) -> list[tuple[str, Any, bytes]]:
    data = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False, **options).decode()
    return [(sample["__key__"], sample["json"], sample["bin"]) for sample in data]


def _shards(name: Any) -> list[str]:
    return [name(f"shards/{number:02d}.tar") for number in range(2)]


def test_webdataset_opens_haul_urls_by_its_own_hook(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gopen(url: str, mode: str = "rb", bufsize: int = 8192, **_options: Any) -> Any:
        return fsspec.open(url, mode).open()

    monkeypatch.setitem(sys.modules["webdataset.gopen"].gopen_schemes, "haul", gopen)
    found = _samples(_shards(here.url))
    assert found == _samples(_shards(here.local))
    assert len(found) == 2 * SAMPLES
    assert_read_once(here, "shards/*.tar")


def test_webdataset_reads_open_streams(here: Any) -> None:
    truth = _samples(_shards(here.local))
    found: list[Any] = []
    for url in _shards(here.url):
        with fsspec.open(url, block_size=0) as stream:
            entries = webdataset.tariterators.tar_file_iterator(io.BufferedReader(stream))  # type: ignore[arg-type]
            found += [entry["data"] for entry in entries if entry["fname"].endswith(".bin")]
    assert found == [sample[2] for sample in truth]
    assert_read_once(here, "shards/*.tar", times=1.0)
