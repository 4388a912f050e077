"""What a program fetches before it reads it: `fs.prefetch`, over the wire."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub import ServedRepo, serve_repo
from tests.support.repos import random_bytes
from tests.support.waits import until

from hf_haul.config import Settings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub.faults import Delay, Status
from hf_haul.manager import ParallelDownloadManager

MODEL = "org/tiny"
BIG = random_bytes(9_000_000, "big")
FILES = {f"parts/{number}.bin": random_bytes(100_000, number) for number in range(5)} | {"big.bin": BIG}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedRepo]:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with serve_repo(tmp_path, lfs="redirect") as served:
        yield served


@pytest.fixture
def fs(served: ServedRepo) -> Iterator[HaulFileSystem]:
    with ParallelDownloadManager(settings=Settings(max_read_connections=16)) as manager:
        fs = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        yield fs


def sent(served: ServedRepo) -> int:
    """Bytes of files that were sent, once none are under way any more."""
    assert served.hub.requests.settle()
    records = [each for kind in ("resolve-cache", "cdn", "resolve") for each in served.hub.requests.of(kind)]
    return sum(each.body_bytes for each in records if each.status in {200, 206})


WAYS: dict[str, Any] = {
    "cat_file": lambda fs, name: fs.cat_file(name),
    "cat_file of a slice": lambda fs, name: fs.cat_file(name, 0, 50_000) + fs.cat_file(name, 50_000),
    "cat": lambda fs, name: fs.cat([name])[name],
    "cat_ranges": lambda fs, name: b"".join(fs.cat_ranges([name] * 2, [0, 50_000], [50_000, None])),
    "open": lambda fs, name: fs.open(name).read(),
    "open in blocks": lambda fs, name: b"".join(iter(partial(fs.open(name).read, 7_000), b"")),
    "stream": lambda fs, name: fs.open(name, block_size=0).read(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("option", ["auto", "none"])
def test_what_was_fetched_ahead_is_read_from_memory(served: ServedRepo, way: str, option: str) -> None:
    with ParallelDownloadManager(settings=Settings()) as manager:
        fs = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True, prefetch=option)
        fs.manager = manager
        handle = fs.prefetch([f"{MODEL}/parts/1.bin", f"{MODEL}/parts/3.bin"])
        assert handle.wait(30)
        assert handle.done
        assert (handle.nbytes, handle.left_out) == (200_000, 0)
        served.hub.requests.clear()
        for number in (1, 3):
            assert WAYS[way](fs, f"{MODEL}/parts/{number}.bin") == FILES[f"parts/{number}.bin"]
        assert sent(served) == 0


@pytest.mark.parametrize(
    ("wanted", "nbytes"),
    [
        pytest.param(f"{MODEL}/parts/1.bin", 100_000, id="a file"),
        pytest.param(f"{MODEL}/parts", 500_000, id="a folder"),
        pytest.param(f"{MODEL}/parts/[0-2].*", 300_000, id="a pattern"),
        pytest.param((f"{MODEL}/big.bin", 10, 1_000_010), 1_000_000, id="a range"),
        pytest.param(
            [(f"{MODEL}/big.bin", -500, None), f"{MODEL}/parts/0.bin", (f"{MODEL}/big.bin", None, 7)],
            100_507,
            id="ranges and files",
        ),
        pytest.param([(f"{MODEL}/big.bin", 0, 100), (f"{MODEL}/big.bin", 50, 150)], 200, id="overlapping"),
        pytest.param([(f"{MODEL}/big.bin", 5, 5), (f"{MODEL}/big.bin", 9, 2)], 0, id="nothing"),
        pytest.param([], 0, id="none"),
    ],
)
def test_files_folders_patterns_and_ranges_can_be_fetched(
    served: ServedRepo, fs: HaulFileSystem, wanted: Any, nbytes: int
) -> None:
    handle = fs.prefetch(wanted)
    assert handle.wait(30)
    assert handle.nbytes == nbytes
    assert sent(served) == min(nbytes, 150 if nbytes == 200 else nbytes)


def test_nothing_is_waited_for_until_it_is_and_then_as_long_as_was_said(
    served: ServedRepo, fs: HaulFileSystem
) -> None:
    fs.info(f"{MODEL}/big.bin")
    served.hub.faults.add(Delay(30), path="big.bin", times=None)
    handle = fs.prefetch(f"{MODEL}/big.bin", priority="high")
    assert not handle.done
    assert not handle.wait(0.05)
    assert not handle.wait(0)
    assert "under way" in repr(handle)
    handle.cancel()
    assert handle.wait(10)
    assert handle.done
    handle.cancel()
    served.hub.faults.clear()
    assert fs.cat_file(f"{MODEL}/big.bin") == BIG


def test_what_cannot_be_fetched_is_told_to_whoever_reads_it(served: ServedRepo, fs: HaulFileSystem) -> None:
    fs.info(f"{MODEL}/big.bin")
    served.hub.faults.add(Status(404, headers={"X-Error-Code": "EntryNotFound"}), path="big.bin", times=None)
    handle = fs.prefetch(f"{MODEL}/big.bin")
    assert handle.wait(30)
    with pytest.raises(OSError, match=r"big\.bin"):
        fs.cat_file(f"{MODEL}/big.bin", 0, 100)
    served.hub.faults.clear()
    assert fs.cat_file(f"{MODEL}/big.bin") == BIG


def test_no_more_is_fetched_than_memory_has_room_for(served: ServedRepo, fs: HaulFileSystem) -> None:
    fs.extents._budget = 2 << 20
    handle = fs.prefetch(f"{MODEL}/big.bin")
    assert handle.wait(30)
    assert 0 < handle.nbytes <= 2 << 20
    assert handle.nbytes + handle.left_out == len(BIG)
    assert f"{handle.left_out} left out" in repr(handle)
    assert fs.cat_file(f"{MODEL}/big.bin") == BIG


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param((f"{MODEL}/nope.bin",), FileNotFoundError, "nope.bin", id="no such file"),
        pytest.param((7,), TypeError, "takes files, or .* not int", id="a number"),
        pytest.param(([f"{MODEL}/big.bin", 7],), TypeError, r"not 7 \(number 1\)", id="a number among files"),
        pytest.param(((f"{MODEL}/big.bin", 0.5, 1),), TypeError, "start of slice 0 .* not 0.5", id="half"),
        pytest.param((f"{MODEL}/big.bin", "urgent"), ValueError, "HIGH .* not 'urgent'", id="priority"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(
    fs: HaulFileSystem, arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fs.prefetch(*arguments)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_what_its_parent_fetches(
    served: ServedRepo, fs: HaulFileSystem
) -> None:
    fs.info(f"{MODEL}/big.bin")
    served.hub.faults.add(Delay(30), path="big.bin", times=None)
    handle = fs.prefetch(f"{MODEL}/big.bin")
    child = os.fork()
    if child == 0:
        os._exit(0 if handle.wait(0) and handle.done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    handle.cancel()
    assert until(lambda: handle.done)
