"""Small but real repositories for tests: every file is what its name says."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["contents", "make_many_files", "make_repo", "make_sparse_file", "random_bytes"]

GITATTRIBUTES = "".join(
    f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n"
    for suffix in (".bin", ".safetensors", ".parquet", ".gguf", ".zip")
)
#: Names that go wrong when a URL is quoted too little, too much or twice.
ODD_NAMES = (
    "odd names/with space & #hash%20?.txt",
    "odd names/100%.txt",
    "odd names/a+b=c;d,e.txt",
    "odd names/ünïcode-日本語.txt",
    "odd names/[brackets] {braces} 'quote'.txt",
)


def random_bytes(nbytes: int, *seed: object) -> bytes:
    """Bytes that do not compress, and that are the same for the same seed."""
    return random.Random(repr(seed)).randbytes(nbytes)


def make_repo(
    folder: Path,
    repo_type: str = "model",
    *,
    seed: int = 0,
    shards: int = 2,
    shard_bytes: int = 256 * 1024,
) -> Path:
    """Fill ``folder`` with a repository of the given type, and return it.

    All types have a README, .gitattributes, nested folders, odd names and an empty file.

    Args:
        folder: Is created.
        repo_type: ``"model"``, ``"dataset"`` or ``"space"``.
        seed: Other bytes for another seed.
        shards: Number of weight or parquet files.
        shard_bytes: About the size of each of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in _common_files(repo_type, seed):
        _write(folder / path, data)
    if repo_type == "model":
        _make_model(folder, seed, shards, shard_bytes)
    elif repo_type == "dataset":
        _make_dataset(folder, seed, shards, shard_bytes)
    else:
        _write(folder / "app.py", b"import gradio as gr\n\ngr.Interface(str, 'text', 'text')\n")
        _write(folder / "assets/logo.png", b"\x89PNG\r\n\x1a\n" + random_bytes(2000, seed))
    return folder


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _common_files(repo_type: str, seed: int) -> Iterator[tuple[str, bytes]]:
    title = f"---\nlicense: apache-2.0\n---\n# A {repo_type}, seed {seed}\n"
    yield "README.md", title.encode()
    yield ".gitattributes", GITATTRIBUTES.encode()
    yield "empty.txt", b""
    yield "nested/one/two/three/leaf.txt", f"leaf {seed}\n".encode()
    yield "nested/one/also.json", json.dumps({"seed": seed}).encode()
    yield "nested/small.bin", random_bytes(1000, seed, "small")
    for name in ODD_NAMES:
        yield name, f"{name} {seed}\n".encode()


def _make_model(folder: Path, seed: int, shards: int, shard_bytes: int) -> None:
    config = {"architectures": ["TinyModel"], "model_type": "tiny", "hidden_size": 64}
    _write(folder / "config.json", json.dumps(config, indent=2).encode())
    vocab = {f"token{i}": i for i in range(2000)}
    tokenizer = {"version": "1.0", "model": {"type": "WordLevel", "vocab": vocab}}
    _write(folder / "tokenizer.json", json.dumps(tokenizer).encode())
    _write(folder / "tokenizer_config.json", b'{"model_max_length": 512}')
    _write(folder / "vocab.txt", "\n".join(vocab).encode())
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        tensors = [f"layer.{shard}.{part}.weight" for part in ("query", "key")]
        _write(folder / name, _safetensors(tensors, shard_bytes, seed, shard))
        weight_map.update(dict.fromkeys(tensors, name))
    total = shards * shard_bytes
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write(folder / "model.safetensors.index.json", json.dumps(index, indent=2).encode())


def _safetensors(names: list[str], nbytes: int, *seed: object) -> bytes:
    each = max(1, nbytes // len(names) // 4)  # float32 numbers in each tensor
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for i, name in enumerate(names):
        span = [i * each * 4, (i + 1) * each * 4]
        header[name] = {"dtype": "F32", "shape": [each], "data_offsets": span}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + random_bytes(len(names) * each * 4, *seed)


def _make_dataset(folder: Path, seed: int, shards: int, shard_bytes: int) -> None:
    rows = max(8, shard_bytes // 64)
    for shard in range(shards):
        noise = random.Random(repr((seed, shard)))
        table = pa.table(
            {
                "id": list(range(shard * rows, (shard + 1) * rows)),
                "text": [noise.randbytes(24).hex() for _ in range(rows)],
            }
        )
        path = folder / f"data/train-{shard:05d}-of-{shards:05d}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path, row_group_size=max(1, rows // 4))
    lines = ["id,label", *(f"{i},{i * seed % 7}" for i in range(200))]
    _write(folder / "data/labels.csv", "\n".join(lines).encode())
    _write(folder / "data/test.jsonl", b'{"id": 0}\n{"id": 1}\n')


def make_many_files(folder: Path, count: int, nbytes: int = 200, *, seed: int = 0) -> Path:
    """Fill ``folder`` with ``count`` files of ``nbytes`` bytes, a hundred to a sub-folder."""
    for i in range(count):
        _write(folder / f"part-{i // 100:04d}/file-{i:06d}.txt", random_bytes(nbytes, seed, i))
    return folder


def make_sparse_file(path: Path, nbytes: int, marks: int = 16) -> Path:
    """A file of any size that takes almost no room: zeros, and ``marks`` places that are not.

    Each mark holds its own offset, so a byte written in the wrong place shows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(nbytes)
        for i in range(marks):
            offset = i * max(0, nbytes - 64) // max(1, marks - 1)
            file.seek(offset)
            file.write(f"<offset {offset}>".ljust(64).encode()[: nbytes - offset])
    return path


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file below ``folder`` by its path; ``.cache`` is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and ".cache" not in relative.parts:
            found[relative.as_posix()] = _sha256(path)
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
