"""Lines and small reads of `haul://`: plain, compressed and as text, open in whatever way, over the wire."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import threading
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tests.support.hub import ServedRepo, serve_repo
from tests.support.wants import want_modules

from hf_haul.filesystem import HaulFileSystem

MODEL = "org/tiny"
chance = random.Random(7)
LINES = [
    json.dumps({"id": i, "text": "ä" * chance.randrange(120), "x": chance.random()}) for i in range(20_000)
]
PLAIN = "\n".join([*LINES, '"no end of line"']).encode()
SQUEEZED = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    folder: Path = tmp_path_factory.mktemp("served")
    (folder / "l.jsonl").write_bytes(PLAIN)
    for ending, compress in SQUEEZED.items():
        (folder / f"l.jsonl.{ending}").write_bytes(compress(PLAIN))
    if find_spec("zstandard"):
        (folder / "l.jsonl.zst").write_bytes(import_module("zstandard").compress(PLAIN))
    with serve_repo(folder, lfs="redirect") as served:
        yield served


@pytest.fixture
def fs(served: ServedRepo) -> HaulFileSystem:
    return HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True)


WAYS: dict[str, dict[str, Any]] = {
    "random access": {},
    "forward only": {"block_size": 0},
    "nothing ahead": {"prefetch": "none"},
    "fsspec's cache": {"cache_type": "readahead"},
}


@pytest.mark.parametrize("way", WAYS)
def test_lines_are_those_of_the_file(fs: HaulFileSystem, way: str) -> None:
    truth = io.BytesIO(PLAIN).readlines()
    with fs.open(f"{MODEL}/l.jsonl", **WAYS[way]) as file:
        assert list(file) == truth
        assert file.readline() == b""
        assert file.tell() == len(PLAIN)
    with fs.open(f"{MODEL}/l.jsonl", **WAYS[way]) as file:
        assert file.readline(5) == truth[0][:5]
        assert next(file) == truth[0][5:]
        assert file.readline() == truth[1]
        assert file.tell() == len(truth[0]) + len(truth[1])
        assert file.read(10) + file.readline() == truth[2]
        assert file.readlines(1) == [truth[3]]
        assert file.readlines() == truth[4:]


@pytest.mark.parametrize("seed", range(6))
def test_reads_and_lines_in_any_order_are_those_of_the_file(fs: HaulFileSystem, seed: int) -> None:
    chance = random.Random(seed)
    truth = io.BytesIO(PLAIN)
    with fs.open(f"{MODEL}/l.jsonl") as file:
        for _ in range(400):
            number = chance.randrange(20_000)
            match chance.randrange(5):
                case 0:
                    assert file.read(number) == truth.read(number)
                case 1:
                    at = chance.randrange(len(PLAIN))
                    assert file.seek(at) == truth.seek(at)
                case 2:
                    assert file.readline() == truth.readline()
                case 3:
                    assert [file.read(100) for _ in range(20)] == [truth.read(100) for _ in range(20)]
                case _:
                    for _, line in zip(range(number // 50), file, strict=False):
                        assert line == truth.readline()
                    truth.seek(file.tell())  # `zip` may have taken one more
            assert file.tell() == truth.tell()


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("way", ["random access", "forward only"])
def test_text_is_decoded_and_inflated(served: ServedRepo, ending: str, way: str) -> None:
    if ending == ".zst":
        want_modules("zstandard", extra="loaders")
    url = f"haul://{MODEL}/l.jsonl{ending}"
    options = {"endpoint": served.hub.url, "token": False, **WAYS[way]}
    with fsspec.open(url, "rt", compression="infer", encoding="utf-8", **options) as file:
        assert [line.rstrip("\n") for line in file] == [*LINES, '"no end of line"']


def test_each_thread_that_seeks_gets_the_line_it_sought(fs: HaulFileSystem) -> None:
    truth = io.BytesIO(PLAIN).readlines()
    offsets = [0]
    for line in truth:
        offsets.append(offsets[-1] + len(line))
    wrong: list[int] = []
    with fs.open(f"{MODEL}/l.jsonl") as file:

        def work(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(200):
                number = chance.randrange(len(truth))
                file.seek(offsets[number])
                if file.readline() != truth[number]:
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("options", [{}, {"block_size": 0}])
def test_a_closed_file_has_no_more_lines(fs: HaulFileSystem, options: dict[str, Any]) -> None:
    file = fs.open(f"{MODEL}/l.jsonl", **options)
    lines = iter(file)
    next(lines)
    file.close()
    for read in (file.readline, file.readlines, lambda: next(lines)):
        with pytest.raises(ValueError, match="closed file"):
            read()


def test_rows_of_a_table_can_be_read_by_csv(fs: HaulFileSystem) -> None:
    with fs.open(f"{MODEL}/l.jsonl", "r") as file:
        rows = list(csv.reader(file, delimiter="\x00", quoting=csv.QUOTE_NONE))
    assert [row[0] for row in rows] == [*LINES, '"no end of line"']
