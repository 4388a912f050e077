"""The garbage collector may run at any allocation, in any thread, whatever lock it holds: finalizers wait for nothing."""

from __future__ import annotations

import gc
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub import ServedRepo, hub_environment, run_python, serve_repo
from tests.support.locks import our_locks
from tests.support.repos import random_bytes
from tests.support.waits import until

import hf_haul
from hf_haul import finalizers
from hf_haul.cancellation import CancelToken
from hf_haul.filesystem import HaulFileSystem
from hf_haul.manager import ParallelDownloadManager

MODEL = "org/tiny"
BIG = random_bytes(3_000_001, "big")
NAME = f"{MODEL}/big.bin"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedRepo]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "big.bin").write_bytes(BIG)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "lines.txt").write_bytes(b"one\ntwo\n" * 1000)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("inside.txt", b"inside\n" * 1000)
    with serve_repo(folder, lfs="redirect") as served:
        yield served


@pytest.fixture
def collected_quickly() -> Iterator[None]:
    """What there is already is passed over by the collector: only what a test drops is looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Cycle:
    """What only the collector can let go of."""

    def __init__(self, *kept: object) -> None:
        self.kept = kept
        self.me = self


def read_on(file: Any) -> Any:
    """A file that is being read, with more under way."""
    for _ in range(3):
        file.read(100_000)
    return file


def failed(fs: HaulFileSystem) -> BaseException:
    """An error that somebody keeps, with the frames that it went through."""
    file = read_on(fs.open(NAME))
    try:
        raise ValueError(f"a bad record in {file}")
    except ValueError as error:
        return error


def abandoned(fs: HaulFileSystem, manager: ParallelDownloadManager) -> dict[str, Callable[[], object]]:
    """All that can be dropped without being closed, by name."""

    def answer() -> object:
        response = manager._pool.open(fs.url(NAME), {}, CancelToken())
        response.readinto(memoryview(bytearray(1000)))
        return response

    return {
        "file": lambda: read_on(fs.open(NAME)),
        "text": lambda: fs.open(f"{MODEL}/lines.txt", "r").readline() and fs.open(f"{MODEL}/lines.txt", "r"),
        "buffered": lambda: io.BufferedReader(read_on(fs.open(NAME))),
        "zip": lambda: zipfile.ZipFile(fs.open(f"{MODEL}/a.zip")).open("inside.txt"),
        "stream": lambda: read_on(fs.open(NAME, block_size=0)),
        "cached": lambda: read_on(fs.open(NAME, cache_type="readahead")),
        "background": lambda: read_on(fs.open(NAME, cache_type="background")),
        "error": lambda: failed(fs),
        "answer": answer,
        "manager": ParallelDownloadManager,
    }


@pytest.mark.usefixtures("collected_quickly")
@pytest.mark.timeout(300)
def test_what_the_collector_closes_takes_no_lock_of_ours(served: ServedRepo, tmp_path: Path) -> None:
    hub = served.hub
    fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    with ParallelDownloadManager(max_concurrent_downloads=4) as manager, hf_haul.accelerate():
        fs.manager = manager
        kinds = abandoned(fs, manager)
        kept = [make() for make in kinds.values()]
        hub.set_pace(50_000)
        manager.add_download_task(MODEL, "big.bin", fs.url(NAME), str(tmp_path / "slow.bin"), len(BIG))
        assert until(lambda: manager.get_download_stats()["connections"])
        locks = our_locks()
        hub.set_pace(None)
        for name, lock in locks.items():
            assert _drop_under(kinds, lock), f"under {name}"
        assert len(locks) > 50
        del kept
        gc.collect()
        finalizers.catch_up()
        # And all of it is let go of:
        assert until(lambda: not manager._pool.get_stats()["busy_connections"])
        assert until(lambda: not fs.extents._open)
        assert fs.cat_file(NAME) == BIG


def _drop_under(kinds: dict[str, Callable[[], object]], lock: Any) -> bool:
    """Have the collector find all that can be dropped in a thread that holds a lock; whether that thread goes on."""
    dropped = [Cycle(make()) for make in kinds.values()]

    def drop() -> None:
        if lock.acquire(timeout=1.0):  # else somebody has it all the time
            try:
                dropped.clear()
                gc.collect()
            finally:
                lock.release()

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


ALWAYS = """
import faulthandler, gc, os, random, sys, tempfile, threading
import hf_haul
from hf_haul import HaulFileSystem
faulthandler.dump_traceback_later(100, exit=True)
fs = HaulFileSystem(endpoint=os.environ["HF_ENDPOINT"], token=False)
truth = fs.cat_file("org/tiny/big.bin")
def abandoned():
    file = fs.open("org/tiny/big.bin", block_size=random.choice([0, None]))
    file.read(random.choice([0, 10, 100_000]))
    return file
with tempfile.TemporaryDirectory() as folder:
    hf_haul.snapshot_download("org/tiny", local_dir=folder, token=False)
unclosed = [abandoned() for _ in range(1500)]
problems = []
def leave(phase, info):
    if phase == "stop" and unclosed:
        cycle = [unclosed.pop()]
        cycle.append(cycle)
def reading():
    noise = random.Random(1)
    with fs.open("org/tiny/big.bin") as file:
        for _ in range(25):
            at = noise.randrange(len(truth) - 3000)
            file.seek(at)
            if file.read(3000) != truth[at:at + 3000]: problems.append(at)
    if fs.cat_file("org/tiny/big.bin", 1000, 2_000_000) != truth[1000:2_000_000]: problems.append("cat")
def downloading():
    with tempfile.TemporaryDirectory() as folder:
        hf_haul.snapshot_download("org/tiny", local_dir=folder, token=False)
        if open(folder + "/big.bin", "rb").read() != truth: problems.append("download")
def watched(work):
    try: work()
    except BaseException as error: problems.append(repr(error))
gc.collect(); gc.freeze()
gc.callbacks.append(leave)
gc.set_threshold(1, 5, 50)
threads = [threading.Thread(target=watched, args=(work,)) for work in (reading, reading, downloading)]
for thread in threads: thread.start()
for thread in threads: thread.join()
gc.set_threshold(0)
gc.callbacks.remove(leave)
print(problems, len(unclosed))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.timeout(200)
def test_reads_and_downloads_bear_a_collector_that_closes_a_file_at_every_allocation(
    served: ServedRepo, tmp_path: Path
) -> None:
    result = run_python(ALWAYS, hub_environment(served.hub, tmp_path, PYTHONWARNINGS="ignore"), timeout=150)
    assert result.stdout == "[] 0\n", result.stderr
