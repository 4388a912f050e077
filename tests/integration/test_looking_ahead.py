"""Files that are opened in order, over the wire: what is asked for, when, and what is not."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub import ServedRepo, serve_repo
from tests.support.repos import random_bytes
from tests.support.waits import until

from hf_haul.config import Settings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.manager import ParallelDownloadManager

MODEL = "org/tiny"
FILES = {f"c/{row}/{column}": random_bytes(20_000, row, column) for row in range(4) for column in range(12)}
LARGE = {f"large/{number}.bin": random_bytes(6 << 20, "large", number) for number in range(3)}

MiB = 1 << 20
#: Files of which a reader that stops leaves most alone, and files that are opened at random.
ORDERED = {f"ordered/{number:02d}.bin": random_bytes(MiB, "ordered", number) for number in range(48)}
MANY = {f"many/{number:03d}.bin": random_bytes(20_000, "many", number) for number in range(200)}
LONG = random_bytes(40 * MiB, "long")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    folder = tmp_path_factory.mktemp("served")
    for name, data in {**FILES, **LARGE, **ORDERED, **MANY, "long.bin": LONG}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "config.json").write_bytes(b"{}")
    with serve_repo(folder, lfs="redirect") as served:
        yield served


@pytest.fixture
def fs(served: ServedRepo) -> Iterator[HaulFileSystem]:
    served.hub.requests.clear()
    with ParallelDownloadManager(settings=Settings(max_read_connections=16)) as manager:
        fs = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        yield fs


def names_asked_for(served: ServedRepo) -> list[str]:
    """Files whose bytes were sent, each as often as it was."""
    assert served.hub.requests.settle()
    records = [each for kind in ("resolve-cache", "cdn", "resolve") for each in served.hub.requests.of(kind)]
    return sorted(each.path for each in records if each.status in {200, 206} and each.body_bytes)


def sent(served: ServedRepo) -> int:
    """Bytes of files that were sent, once none are under way any more."""
    assert served.hub.requests.settle()
    records = [each for kind in ("resolve-cache", "cdn", "resolve") for each in served.hub.requests.of(kind)]
    return sum(each.body_bytes for each in records if each.status in {200, 206})


def idle(fs: HaulFileSystem) -> bool:
    threads = fs.reads.threads
    return not threads._running and not threads._heap


def test_small_files_in_order_are_each_asked_for_once_and_ahead(
    served: ServedRepo, fs: HaulFileSystem
) -> None:
    names = list(FILES)
    for name in names[:4]:
        assert fs.cat_file(f"{MODEL}/{name}") == FILES[name]
        assert until(lambda: idle(fs))
    ahead = names_asked_for(served)
    assert ahead == sorted(names[: len(ahead)])
    assert len(ahead) > 6
    for name in names[4:]:
        assert fs.cat_file(f"{MODEL}/{name}") == FILES[name]
    assert until(lambda: idle(fs))
    assert names_asked_for(served) == sorted(names)
    assert len(served.hub.requests.of("tree")) <= 2


@pytest.mark.parametrize("count", [2, 5, 20])
def test_a_reader_of_files_in_order_that_stops_has_little_fetched_for_nothing(
    served: ServedRepo, fs: HaulFileSystem, count: int
) -> None:
    for name in list(ORDERED)[:count]:
        assert fs.cat_file(f"{MODEL}/{name}") == ORDERED[name]
    assert until(lambda: idle(fs))
    assert 0 < sent(served) - count * MiB <= 16 * MiB


@pytest.mark.parametrize("options", [{}, {"block_size": 0}], ids=["blocks", "stream"])
def test_a_reader_of_a_long_file_that_stops_has_little_fetched_for_nothing(
    served: ServedRepo, fs: HaulFileSystem, options: dict[str, Any]
) -> None:
    with fs.open(f"{MODEL}/long.bin", **options) as file:
        for at in range(0, 6 * MiB, MiB // 2):
            assert file.read(MiB // 2) == LONG[at : at + MiB // 2]
        assert until(lambda: idle(fs))
    assert 0 < sent(served) - 6 * MiB <= 16 * MiB


@pytest.mark.parametrize("seed", range(3))
def test_of_files_opened_at_random_next_to_nothing_is_fetched_for_nothing_after_the_eighth(
    served: ServedRepo, fs: HaulFileSystem, seed: int
) -> None:
    names = random.Random(seed).sample(list(MANY), 120)

    def read(some: list[str]) -> set[str]:
        """Read files; return those that were fetched and not opened so far."""
        for name in some:
            assert fs.cat_file(f"{MODEL}/{name}") == MANY[name]
        assert until(lambda: idle(fs))
        fetched = names_asked_for(served)
        assert len(fetched) == len(set(fetched)), "none twice"
        return set(fetched) - set(names)

    before = read(names[:8])
    assert len(read(names[8:]) - before) <= 0.01 * len(names[8:])


def test_without_prefetch_nothing_is_asked_for_that_is_not_read(served: ServedRepo) -> None:
    served.hub.requests.clear()
    fs = HaulFileSystem(endpoint=served.hub.url, token=False, prefetch="none", skip_instance_cache=True)
    with ParallelDownloadManager() as fs.manager:
        names = list(FILES)[:6]
        for name in names:
            assert fs.cat_file(f"{MODEL}/{name}") == FILES[name]
        assert until(lambda: idle(fs))
        assert names_asked_for(served) == sorted(names)
        served.hub.requests.clear()
        with fs.open(f"{MODEL}/large/0.bin") as file:
            assert file.read(1000) == LARGE["large/0.bin"][:1000]
            assert file.read(1000) == LARGE["large/0.bin"][1000:2000]
        assert served.hub.requests.settle()
        assert sum(each.body_bytes for each in served.hub.requests.of("cdn")) == 2000


def test_one_open_may_do_without_prefetch_also_when_it_is_pickled(
    served: ServedRepo, fs: HaulFileSystem
) -> None:
    with fs.open(f"{MODEL}/large/0.bin", prefetch="none") as file:
        again = pickle.loads(pickle.dumps(file))
        with again:
            assert again.read(1000) == LARGE["large/0.bin"][:1000]
    assert served.hub.requests.settle()
    assert sum(each.body_bytes for each in served.hub.requests.of("cdn")) == 1000
    for value in ("all", ""):
        with pytest.raises(ValueError, match='prefetch must be "auto" or "none"'):
            fs.open(f"{MODEL}/large/0.bin", prefetch=value)
    with pytest.raises(ValueError, match="prefetch"):
        HaulFileSystem(endpoint=served.hub.url, prefetch="some", skip_instance_cache=True)


def test_a_forked_child_goes_on_in_order_where_its_parent_was(served: ServedRepo, fs: HaulFileSystem) -> None:
    names = list(FILES)
    for name in names[:4]:
        fs.cat_file(f"{MODEL}/{name}")
    pid = os.fork()
    if not pid:
        good = all(fs.cat_file(f"{MODEL}/{name}") == FILES[name] for name in names[4:])
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for name in names[4:]:
        assert fs.cat_file(f"{MODEL}/{name}") == FILES[name]


def test_what_is_missing_is_known_from_what_is_listed(served: ServedRepo, fs: HaulFileSystem) -> None:
    assert fs.cat_file(f"{MODEL}/c/0/0") == FILES["c/0/0"]
    assert fs.cat_file(f"{MODEL}/c/1/0") == FILES["c/1/0"]
    before = len(list(served.hub.requests))
    for name in ("c/7/0", "c/0/99", "nope/a/b", "c/0/0/deeper"):
        assert not fs.exists(f"{MODEL}/{name}")
        with pytest.raises(FileNotFoundError):
            fs.cat_file(f"{MODEL}/{name}")
    assert len(list(served.hub.requests)) == before


def test_listings_made_together_are_those_made_one_by_one(served: ServedRepo, fs: HaulFileSystem) -> None:
    alone = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True)
    alone._folders.note_large(MODEL)
    for folder in ("c", "c/1", "c/3", "large", ""):
        mine, truth = (
            {each["name"]: each for each in one.ls(f"{MODEL}/{folder}".rstrip("/"))} for one in (fs, alone)
        )
        assert mine == truth
    assert fs.find(MODEL) == alone.find(MODEL)
    assert fs.isdir(f"{MODEL}/c/1")
    assert not fs.isfile(f"{MODEL}/c")


def test_a_root_of_more_than_one_page_is_not_listed_as_a_whole(tmp_path: Path) -> None:
    for number in range(1200):
        path = tmp_path / f"d{number % 3}/{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    with serve_repo(tmp_path) as served:
        fs = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True)
        for number in range(3):
            assert len(fs.ls(f"{MODEL}/d{number}")) == 400
        asked = [each.url for each in served.hub.requests.of("tree")]
        assert sum("recursive=true" in each for each in asked) <= 1
