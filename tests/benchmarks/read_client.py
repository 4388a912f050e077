"""One loader reads once, in a process of its own; prints what it took as JSON, and what it got as a digest.

Started as a program with the name of a function below, a protocol and the repository's name (for ``file``, its folder).
Imports are over before the clock starts; making the filesystem and listing the repository is not.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))

import fsspec
from tests.benchmarks.client import measured

Work = Callable[[], Any]

COLUMNS: Final = ["c03", "c07", "c11"]
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where a repository's files are.

    Attributes:
        protocol: ``haul``, ``hf``, or ``file`` for the truth.
        root: The repository's name, or its folder.
    """

    protocol: str
    root: str

    def fs(self) -> Any:
        """The filesystem, made anew."""
        return fsspec.filesystem(self.protocol, skip_instance_cache=True)

    def path(self, name: str) -> str:
        """A file for the filesystem."""
        return f"{self.root}/{name}"

    def url(self, name: str) -> str:
        """A file for a loader that takes URLs."""
        return f"{self.protocol}://{self.path(name)}"


def whole(place: Place) -> Work:
    """All of a file in one read."""

    def work() -> bytes:
        with place.fs().open(place.path("blob.bin")) as file:
            return bytes(file.read())

    return work


def _crc(file: Any) -> int:
    crc = 0
    while block := file.read(_MIB):
        crc = zlib.crc32(block, crc)
    return crc


def loop(place: Place) -> Work:
    """A MiB at a time."""

    def work() -> int:
        with place.fs().open(place.path("blob.bin")) as file:
            return _crc(file)

    return work


def stream(place: Place) -> Work:
    """The same, of a file that is opened forward-only."""

    def work() -> int:
        with place.fs().open(place.path("blob.bin"), block_size=0) as file:
            return _crc(file)

    return work


def _pandas(place: Place, columns: list[str] | None) -> Work:
    import pandas as pd
    import pyarrow.parquet

    del pyarrow
    return lambda: pd.read_parquet(place.url("t.parquet"), columns=columns)


def parquet_columns(place: Place) -> Work:
    """Three of 20 columns, by pandas."""
    return _pandas(place, COLUMNS)


def parquet_all(place: Place) -> Work:
    """All columns, by pandas."""
    return _pandas(place, None)


def dataset_columns(place: Place) -> Work:
    """Three of 20 columns of 20 files, by pyarrow.dataset."""
    import pyarrow.dataset as pads

    def work() -> Any:
        dataset = pads.dataset(place.path("data"), filesystem=place.fs(), format="parquet")
        return dataset.to_table(columns=COLUMNS).sort_by("c03").to_pandas()

    return work


def dask_columns(place: Place) -> Work:
    """The same, by dask."""
    import dask.dataframe as dd
    import pyarrow.parquet

    del pyarrow

    def work() -> Any:
        frame = dd.read_parquet(place.url("data/*.parquet"), columns=COLUMNS).compute()
        return frame.sort_values("c03", ignore_index=True)

    return work


def datasets_stream(place: Place) -> Work:
    """20 parquet files, streamed by datasets."""
    import datasets
    import datasets.packaged_modules.parquet.parquet
    import pyarrow.parquet

    del pyarrow
    datasets.disable_progress_bars()

    def work() -> Any:
        stream = datasets.load_dataset(
            "parquet", data_files={"train": place.url("data/*.parquet")}, split="train", streaming=True
        )
        rows, total = 0, 0.0
        for batch in stream.with_format("arrow").iter(batch_size=2000):
            rows += batch.num_rows
            total += sum(batch["c03"].to_numpy())
        return [rows, round(total, 3)]

    return work


def duckdb_sum(place: Place) -> Work:
    """The sum of a column, by duckdb."""
    import duckdb

    def work() -> Any:
        connection = duckdb.connect()
        if place.protocol == "file":
            source = place.path("t.parquet")
        else:
            connection.register_filesystem(place.fs())
            source = place.url("t.parquet")
        ((total, rows),) = connection.sql(f"SELECT sum(c03), count(*) FROM '{source}'").fetchall()
        return [round(total, 3), rows]

    return work


def cat_small(place: Place) -> Work:
    """200 small files into memory."""

    def work() -> Any:
        found = place.fs().cat(place.path("files/*.txt"))
        return [hashlib.sha256(found[name]).hexdigest() for name in sorted(found)]

    return work


def get_small(place: Place) -> Work:
    """200 small files to disk."""

    def work() -> Any:
        place.fs().get(place.path("files"), "got", recursive=True)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path("got").rglob("*.txt"))]

    return work


def cat_ranges(place: Place) -> Work:
    """2,000 ranges of 4 KiB at random of a file, asked for at once."""

    def work() -> Any:
        fs, path = place.fs(), place.path("blob.bin")
        size = fs.info(path)["size"]
        chance = random.Random(1)
        starts = [chance.randrange(size - 4096) for _ in range(2000)]
        found = fs.cat_ranges([path] * len(starts), starts, [start + 4096 for start in starts])
        return b"".join(found)

    return work


def zarr_all(place: Place) -> Work:
    """An array of 256 chunks, by zarr."""
    import zarr
    from zarr.storage import FsspecStore, LocalStore

    def work() -> Any:
        if place.protocol == "file":
            store: Any = LocalStore(place.path("a.zarr"), read_only=True)
        else:
            store = FsspecStore.from_url(place.url("a.zarr"), read_only=True)
        return zarr.open_array(store, mode="r")[:].tobytes()

    return work


def zip_random(place: Place) -> Work:
    """50 of 500 members of a zip, at random."""

    def work() -> Any:
        with place.fs().open(place.path("many.zip")) as file, zipfile.ZipFile(file) as archive:
            names = random.Random(2).sample(archive.namelist(), 50)
            return b"".join(archive.read(name) for name in names)

    return work


def tensors(place: Place) -> Work:
    """10 of 100 tensors of a safetensors file, in order."""

    def work() -> Any:
        with place.fs().open(place.path("m.safetensors")) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            found = []
            for number in sorted(random.Random(3).sample(range(100), 10)):
                start, stop = header[f"t{number:03d}"]["data_offsets"]
                file.seek(8 + length + start)
                found.append(file.read(stop - start))
            return b"".join(found)

    return work


def lines(place: Place) -> Work:
    """600,000 lines."""

    def work() -> Any:
        count = longest = 0
        with place.fs().open(place.path("lines.jsonl")) as file:
            for line in file:
                count += 1
                longest = max(longest, len(line))
        return [count, longest]

    return work


def tar_stream(place: Place) -> Work:
    """All members of a tar, as a stream."""

    def work() -> int:
        crc = 0
        with (
            place.fs().open(place.path("many.tar")) as file,
            tarfile.open(fileobj=file, mode="r|") as archive,
        ):
            for member in archive:
                data = archive.extractfile(member)
                assert data is not None
                crc = zlib.crc32(data.read(), crc)
        return crc

    return work


def random_small(place: Place) -> Work:
    """40 reads of 1 KB at random."""

    def work() -> bytes:
        chance = random.Random(4)
        with place.fs().open(place.path("medium.bin")) as file:
            found = []
            for _ in range(40):
                file.seek(chance.randrange(file.size - 1000))
                found.append(file.read(1000))
            return b"".join(found)

    return work


def eight_at_once(place: Place) -> Work:
    """Eight files at once, each a MiB at a time."""

    def work() -> list[int]:
        fs = place.fs()

        def read(number: int) -> int:
            with fs.open(place.path(f"{number}.bin")) as file:
                return _crc(file)

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(read, range(8)))

    return work


READERS: Final[dict[str, Callable[[Place], Work]]] = {
    each.__name__: each
    for each in (
        whole, loop, stream, parquet_columns, parquet_all, dataset_columns, dask_columns, datasets_stream, duckdb_sum,
        cat_small, get_small, cat_ranges, zarr_all, zip_random, tensors, lines, tar_stream, random_small, eight_at_once,
    )
}  # fmt: skip


def digest(answer: Any) -> str:
    """What tells one answer from another."""
    if hasattr(answer, "to_parquet"):
        import pandas as pd

        hashes = pd.util.hash_pandas_object(answer, index=False)
        return f"{len(answer)} {','.join(answer.columns)} {hashes.sum()}"
    if isinstance(answer, bytes):
        return hashlib.sha256(answer).hexdigest()
    return json.dumps(answer)


def main() -> int:
    """Run what the command line names."""
    name, protocol, root = sys.argv[1:]
    work = READERS[name](Place(protocol, root))
    if protocol == "haul":
        import hf_haul.filesystem

        del hf_haul
    elif protocol == "hf":
        import huggingface_hub.hf_file_system

        del huggingface_hub
    Path("/proc/self/clear_refs").write_text("5")  # peak memory counts from here
    answers = []

    def once() -> None:
        answers.append(work())

    report = measured(once)
    print(json.dumps({**report, "answer": digest(answers[0])}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
