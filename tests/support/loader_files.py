"""A dataset repository with a file of each kind that loaders read, small and real."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

__all__ = ["COLUMNS", "PARTS", "ROWS", "SAMPLES", "make_loader_files"]

#: Columns that selective readers ask for.
COLUMNS: Final = ["c01", "c05"]
#: Parquet files below ``tables/``, and rows of each.
PARTS: Final = 3
ROWS: Final = 40_000
#: Samples of each of the two shards below ``shards/``.
SAMPLES: Final = 40


def make_loader_files(folder: Path) -> Path:
    """Fill a folder with everything that needs no more than the extra ``test``; the same each time."""
    noise = np.random.default_rng(7)
    for number in range(PARTS):
        _parquet(folder / f"tables/part-{number}.parquet", number, noise)
    rows = pd.DataFrame(
        {"id": range(20_000), "name": [f"name {i % 97}" for i in range(20_000)], "x": noise.random(20_000)}
    )
    rows.to_csv(folder / "rows.csv", index=False)
    rows.to_json(folder / "rows.jsonl", orient="records", lines=True, double_precision=15)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress((folder / "rows.jsonl").read_bytes(), mtime=0))
    table = pa.table({f"a{i}": noise.random(40_000) for i in range(6)})
    feather.write_feather(table, folder / "table.arrow", compression="uncompressed", chunksize=5_000)
    for shard in range(2):
        _shard(folder / f"shards/{shard:02d}.tar", shard, noise)
    with zipfile.ZipFile(folder / "many.zip", "w") as archive:
        for number in range(60):
            archive.writestr(f"in/{number:02d}.bin", noise.bytes(20_000))
    for number in range(24):
        path = folder / f"texts/{number:02d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text {number} " * 300)
    (folder / "blob.bin").write_bytes(noise.bytes(3_000_001))
    return folder


def _parquet(path: Path, number: int, noise: Any) -> None:
    """12 columns in 8 row groups: 3.8 MB."""
    table = pa.table({f"c{column:02d}": noise.random(ROWS) for column in range(12)})
    table = table.append_column("id", pa.array(np.arange(ROWS) + number * ROWS))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=ROWS // 8, compression="none", use_dictionary=False)


def _shard(path: Path, shard: int, noise: Any) -> None:
    """A tar of samples as webdataset has them: a JSON and some bytes under one key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(SAMPLES):
            key = f"{shard:02d}{number:04d}"
            for suffix, data in (
                ("json", json.dumps({"label": number}).encode()),
                ("bin", noise.bytes(9_000)),
            ):
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
