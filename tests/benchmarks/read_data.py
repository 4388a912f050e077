"""What loaders read: real files of each kind, the same in every run."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.harness import KIB, MB, MIB

__all__ = ["MAKERS", "TENSORS", "make"]

#: Tensors in the safetensors file, of 1 MiB each.
TENSORS: Final = 100


def _noise(seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed)


def _blob(folder: Path, scale: float) -> None:
    (folder / "blob.bin").write_bytes(_noise(1).bytes(int(200 * MB * scale)))


def _parquet(path: Path, groups: int, rows: int, seed: int) -> None:
    """20 columns of float64 that do not compress."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    noise = _noise(seed)
    table = pa.table({f"c{column:02d}": noise.random(groups * rows) for column in range(20)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows, compression="none", use_dictionary=False)


def _table(folder: Path, scale: float) -> None:
    _parquet(folder / "t.parquet", max(2, int(50 * scale)), 25_000, 2)


def _tables(folder: Path, scale: float) -> None:
    for number in range(20):
        _parquet(folder / f"data/part-{number:02d}.parquet", 4, int(12_250 * scale), 10 + number)


def _small(folder: Path, scale: float) -> None:
    noise = _noise(3)
    for number in range(200):
        path = folder / f"files/{number:03d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise.bytes(int(20_000 * scale)))


def _zarr(folder: Path, scale: float) -> None:
    import zarr

    chunk = int(256 * KIB * scale) // 4
    values = _noise(4).random((16, 16 * chunk), dtype="float32")
    array = zarr.create_array(
        str(folder / "a.zarr"), shape=values.shape, chunks=(1, chunk), dtype="float32", compressors=None
    )
    array[:] = values


def _archives(folder: Path, scale: float) -> None:
    noise = _noise(5)
    with zipfile.ZipFile(folder / "many.zip", "w") as archive:
        for number in range(500):
            archive.writestr(f"{number:03d}.bin", noise.bytes(int(58 * KIB * scale)))
    with tarfile.open(folder / "many.tar", "w") as tar:
        for number in range(1000):
            entry = tarfile.TarInfo(f"{number:04d}.bin")
            data = noise.bytes(int(30_000 * scale))
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def _tensors(folder: Path, scale: float) -> None:
    nbytes = int(MIB * scale) // 4 * 4
    header = {
        f"t{number:03d}": {
            "dtype": "F32",
            "shape": [nbytes // 4],
            "data_offsets": [number * nbytes, (number + 1) * nbytes],
        }
        for number in range(TENSORS)
    }
    text = json.dumps(header).encode()
    with (folder / "m.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        noise = _noise(6)
        for _ in range(TENSORS):
            out.write(noise.bytes(nbytes))


def _lines(folder: Path, scale: float) -> None:
    noise = _noise(7)
    with (folder / "lines.jsonl").open("wb") as out:
        for number in range(int(600_000 * scale)):
            out.write(b'{"id": %d, "text": "%s"}\n' % (number, noise.bytes(42).hex().encode()))


def _medium(folder: Path, scale: float) -> None:
    (folder / "medium.bin").write_bytes(_noise(8).bytes(int(20 * MB * scale)))


def _eight(folder: Path, scale: float) -> None:
    for number in range(8):
        (folder / f"{number}.bin").write_bytes(_noise(20 + number).bytes(int(96 * MIB * scale)))


#: Repositories by name, and what makes their files, at a share of their full size.
MAKERS: Final[Mapping[str, Callable[[Path, float], None]]] = {
    "reads/blob": _blob,
    "reads/table": _table,
    "reads/tables": _tables,
    "reads/small": _small,
    "reads/zarr": _zarr,
    "reads/archives": _archives,
    "reads/tensors": _tensors,
    "reads/lines": _lines,
    "reads/medium": _medium,
    "reads/eight": _eight,
}


def make(repo: str, folder: Path, *, quick: bool) -> None:
    """Make the files of a repository, at a tenth of their size for a check of the harness."""
    folder.mkdir(parents=True, exist_ok=True)
    MAKERS[repo](folder, 0.1 if quick else 1.0)
