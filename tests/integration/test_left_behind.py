"""What opens and reads of any number of files leave behind: numbers, and the few files used last."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_haul import finalizers, forks
from hf_haul.config import Settings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub import LocalHub, Repo
from hf_haul.manager import ParallelDownloadManager

COUNT = 400
SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, durable=False)


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    repo = Repo("org/many")
    files = {f"{i % 7}/{i}.{'parquet' if i % 3 else 'bin'}": b"%d," % i * (i % 500 + 1) for i in range(COUNT)}
    repo.commit(files, "first")
    with LocalHub(repo, lfs="redirect") as hub:
        yield hub


@pytest.fixture
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield manager


@pytest.fixture
def fs(hub: LocalHub, manager: ParallelDownloadManager) -> HaulFileSystem:
    fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    fs.manager = manager
    return fs


def census() -> Counter[str]:
    """How many objects of each class of ours, and of those that ours are made of, there are."""
    for _ in range(2):  # what finalizers leave may leave more
        gc.collect()
        done = threading.Event()
        finalizers.defer(done.set)
        finalizers.catch_up()
        assert done.wait(20)
    gc.collect()
    found: Counter[str] = Counter()
    for thing in gc.get_objects():
        module = str(getattr(type(thing), "__module__", ""))
        if module.startswith(("hf_haul", "threading", "concurrent", "urllib3")) and "localhub" not in module:
            found[f"{module}.{type(thing).__qualname__}"] += 1
    return found


@pytest.mark.parametrize(
    ("way", "closed"),
    [
        *((way, True) for way in ("opened", "opened as a stream", "cat_file", "cat_ranges", "get_file")),
        pytest.param("opened", False, id="opened and left to the collector"),
        pytest.param("opened as a stream", False, id="opened as a stream and left to the collector"),
    ],
)
def test_hundreds_of_files_leave_nothing_behind_but_the_last_few(
    way: str, closed: bool, fs: HaulFileSystem, hub: LocalHub, tmp_path: Path
) -> None:
    """Invariant 5."""
    names = fs.find("org/many")
    counted = [census()]  # what file systems of other tests used last is kept, too
    for i, name in enumerate(names, 1):
        if way.startswith("opened"):
            file = fs.open(name, block_size=0 if way != "opened" else None)
            file.read(3)
            file.read(10)
            if closed:
                file.close()
            else:
                file.cycle = file
            del file
        elif way == "get_file":
            with (tmp_path / "out").open("wb") as out:
                fs.get_file(name, outfile=out)
        else:
            assert fs.cat_file(name, 1, 9) if way == "cat_file" else fs.cat_ranges([name], 0, 5)
        if i in {COUNT // 3, COUNT}:
            counted.append(census())
    more = counted[2] - counted[1]
    # 267 files more: at the most what 64 connections need, and eight runs of files with their latest four visits
    assert {name: count for name, count in more.items() if count > 64} == {}
    kept = counted[2] - counted[0]
    assert (
        kept["hf_haul.reading.range_source.RangeSource"] <= 2 * 64
    )  # those read last, and those closed last
    assert len(fs.extents._files) <= 64 + 32  # closed last, and looked ahead at
    assert len(forks._owners) < 2000


def test_listings_of_any_number_of_repositories_are_kept_but_for_those_listed_last(
    manager: ParallelDownloadManager,
) -> None:
    repos = [Repo(f"org/r{i}") for i in range(80)]
    for i, repo in enumerate(repos):
        repo.commit({"a/b.txt": b"%d" % i, "c.txt": b"c"}, "first")
    with LocalHub(*repos) as hub:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        for i in range(80):
            assert fs.cat_file(f"org/r{i}/a/b.txt") == b"%d" % i
            assert fs.exists(f"org/r{i}/c.txt")
        assert len(fs.dircache) <= 2 * 64
        assert len(fs._repositories) <= 64
        hub.requests.clear()
        assert fs.cat_file("org/r79/a/b.txt") == b"79"
        assert not hub.requests.of("tree")
        assert fs.cat_file("org/r0/a/b.txt") == b"0"
        assert len(hub.requests.of("tree")) == 1
