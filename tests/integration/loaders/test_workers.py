"""Worker processes that read through haul://, started as PyTorch's DataLoader starts its own: fork, spawn and forkserver.

torch itself is too large for CI. What of it matters here is how it makes workers: a multiprocessing context, the dataset
pickled (or inherited) into each, indices in, samples out through queues. With Debian's python3-torch (1.13.1), its DataLoader
gave the same in all three ways, of a dataset by indices and of an iterable one.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import fsspec
import pyarrow.parquet as pq
import pytest
from tests.support.loader_files import COLUMNS, PARTS, ROWS

from hf_haul.filesystem import HaulFileSystem

#: Seconds that a worker may take, with its imports, on a busy machine.
_TIMEOUT: Final = 45.0
_WORKERS: Final = 3


@dataclass
class Columns:
    """A dataset: the sum of two columns of each row group, by index; it holds a filesystem, or finds its files by URL."""

    where: str
    fs: Any = None

    def __len__(self) -> int:
        return PARTS * 8

    def __getitem__(self, index: int) -> float:
        name = f"{self.where}/part-{index // 8}.parquet"
        with self.fs.open(name) if self.fs else fsspec.open(name) as file:
            table = pq.ParquetFile(file).read_row_group(index % 8, columns=COLUMNS)
        return sum(float(table[name].to_numpy().sum()) for name in COLUMNS)


@dataclass
class Texts:
    """A dataset of small files, read a batch at a time."""

    names: list[str]
    fs: Any

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> bytes:
        data: bytes = self.fs.cat_file(self.names[index])
        return data


def work(dataset: Any, asked: Any, answered: Any) -> None:
    """What a worker does."""
    while (index := asked.get()) is not None:
        try:
            answered.put((index, dataset[index]))
        except Exception as error:
            answered.put((index, repr(error)))


def load(method: str, dataset: Any) -> dict[int, Any]:
    """All samples, from a few workers."""
    context = multiprocessing.get_context(method)
    asked, answered = context.Queue(), context.Queue()
    workers = [
        context.Process(target=work, args=(dataset, asked, answered), daemon=True) for _ in range(_WORKERS)
    ]
    for each in workers:
        each.start()
    try:
        for index in [*range(len(dataset)), *[None] * _WORKERS]:
            asked.put(index)
        found = {}
        for _ in range(len(dataset)):
            try:
                index, sample = answered.get(timeout=_TIMEOUT)
            except queue.Empty:
                pytest.fail(f"no sample for {_TIMEOUT:.0f} s; workers: {[each.exitcode for each in workers]}")
            found[index] = sample
        for each in workers:
            each.join(_TIMEOUT)
        assert [each.exitcode for each in workers] == [0] * _WORKERS
        return found
    finally:
        for each in workers:
            if each.is_alive():
                each.kill()
                each.join()


methods = pytest.mark.parametrize(
    "method",
    [
        each
        for each in ("fork", "spawn", "forkserver")
        if each in multiprocessing.get_all_start_methods() and (each != "fork" or sys.platform == "linux")
    ],
)


@pytest.fixture(autouse=True)
def _a_forkserver_of_its_own() -> Iterator[None]:
    """The server outlives a test, and gives its children the environment of the first: the endpoint of another Hub."""
    yield
    forkserver = sys.modules.get("multiprocessing.forkserver")
    if forkserver is not None:
        forkserver._forkserver._stop()


def truth_of(dataset: Any) -> dict[int, Any]:
    return {index: dataset[index] for index in range(len(dataset))}


@methods
def test_workers_read_by_a_filesystem_that_the_dataset_holds(here: Any, method: str) -> None:
    fs = fsspec.filesystem("haul")
    assert len(fs.find(here.path("tables"))) == PARTS
    here.hub.requests.clear()
    found = load(method, Columns(here.path("tables"), fs))
    assert found == truth_of(Columns(here.local("tables")))
    assert not here.listings()  # each worker has what the parent knew
    for part in range(PARTS):
        assert here.resolves(f"tables/part-{part}.parquet") <= _WORKERS


@methods
def test_workers_read_by_url(here: Any, method: str) -> None:
    found = load(method, Columns(here.url("tables")))
    assert found == truth_of(Columns(here.local("tables")))
    assert here.listings() <= 2 * _WORKERS


@methods
def test_workers_read_while_the_parent_does(here: Any, method: str) -> None:
    fs = fsspec.filesystem("haul")
    names = sorted(fs.find(here.path("texts")))
    truth = [path.read_bytes() for path in sorted((here.folder / "texts").iterdir())]
    blob = (here.folder / "blob.bin").read_bytes()
    stop = threading.Event()
    wrong = []

    def read_on() -> None:
        while not stop.is_set():
            with fs.open(here.path("blob.bin")) as file:
                wrong.extend(file for _ in range(3) if file.read(1_000_000) not in blob)

    readers = [threading.Thread(target=read_on) for _ in range(2)]
    for each in readers:
        each.start()
    try:
        assert load(method, Texts(names, fs)) == dict(enumerate(truth))
    finally:
        stop.set()
        for each in readers:
            each.join()
    assert not wrong


@methods
def test_an_open_file_goes_on_in_a_worker_where_it_was(here: Any, method: str) -> None:
    truth = (here.folder / "blob.bin").read_bytes()
    with fsspec.open(here.url("blob.bin")) as file:
        assert file.read(100) == truth[:100]
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            assert pool.apply_async(_read_on, (pickle.dumps(file),)).get(_TIMEOUT) == truth[100:200]
        assert file.read(100) == truth[100:200]


def _read_on(pickled: bytes) -> bytes:
    with pickle.loads(pickled) as file:
        data: bytes = file.read(100)
        return data


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_the_rows_of_a_streamed_dataset_are_shared_out_among_forked_workers(
    here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)  # it asks a server outside
    stream = datasets.load_dataset(
        "parquet",
        data_files={"train": here.url("tables/*.parquet")},
        split="train",
        streaming=True,
        columns=["id"],
    )
    assert stream.num_shards == PARTS
    shards = [stream.shard(PARTS, number) for number in range(PARTS)]
    found = load("fork", Shards(shards))
    assert sorted(number for rows in found.values() for number in rows) == list(range(PARTS * ROWS))


@dataclass
class Shards:
    """A dataset whose samples are all rows of a shard."""

    shards: list[Any]

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> list[int]:
        return [number for batch in self.shards[index].iter(10_000) for number in batch["id"]]


def test_what_is_pickled_knows_its_listings_and_holds_no_thread_or_lock(here: Any) -> None:
    fs = fsspec.filesystem("haul")
    fs.find(here.path("texts"))
    fs.cat(here.path("texts/*"))
    here.hub.requests.clear()
    again = pickle.loads(pickle.dumps(fs))
    assert isinstance(again, HaulFileSystem)
    assert sorted(again.find(here.path("texts"))) == sorted(fs.find(here.path("texts")))
    assert not here.listings()
