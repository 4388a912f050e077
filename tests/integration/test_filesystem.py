"""haul:// against a local Hub: what is read, what is written to disk, and what it costs in requests."""

from __future__ import annotations

import gc
import hashlib
import io
import os
import pickle
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from fsspec.callbacks import Callback
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import HfFileSystem, HfFileSystemFile
from huggingface_hub.errors import HfHubHTTPError
from tests.support.hub import hub_environment, run_python
from tests.support.repos import contents, make_repo, random_bytes
from tests.support.waits import until

from hf_haul.config import Settings
from hf_haul.errors import IntegrityError, SourceChangedError, UnsafePathError
from hf_haul.filesystem import HaulFile, HaulFileSystem
from hf_haul.localhub import Account, LocalHub, Repo
from hf_haul.localhub.testing.faults import (
    Corrupt,
    Cut,
    Delay,
    Fault,
    IgnoreRange,
    Reset,
    Stall,
    Status,
    WrongRange,
    WrongTotal,
)  # fmt: skip
from hf_haul.manager import ParallelDownloadManager

SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, max_retries=3, durable=False)
MODEL = "org/tiny"
DATA = "datasets/org/data"
BIG = random_bytes(9_000_001, "big")
MiB = 1 << 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("source")
    model = make_repo(root / "model")
    (model / "big.bin").write_bytes(BIG)
    data = make_repo(root / "data", "dataset")
    (data / "lines.txt").write_bytes(b"".join(b"line %d %s\n" % (i, b"x" * (i % 97)) for i in range(5000)))
    return {MODEL: model, DATA: data}


@pytest.fixture(scope="module")
def hub(folders: dict[str, Path]) -> Iterator[LocalHub]:
    model = Repo.from_folder(folders[MODEL], MODEL)
    data = Repo.from_folder(folders[DATA], "org/data", "dataset")
    gated = Repo.from_folder(folders[DATA], "org/gated", "dataset", gated="auto")
    accounts = [Account("ada", "hf_ada", gated=())]
    with LocalHub(model, data, gated, accounts=accounts, lfs="redirect") as hub:
        yield hub


@pytest.fixture(autouse=True)
def _fresh_hub(hub: LocalHub) -> Iterator[None]:
    hub.requests.clear()
    yield
    hub.faults.clear()


@pytest.fixture
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield manager


@pytest.fixture
def fs(hub: LocalHub, manager: ParallelDownloadManager) -> HaulFileSystem:
    fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    fs.manager = manager
    return fs


def data_requests(hub: LocalHub, path: str = "*") -> list[Any]:
    """Requests that were answered with bytes of files, once none is under way any more."""
    assert hub.requests.settle()
    return [
        each
        for kind in ("resolve", "resolve-cache", "cdn")
        for each in hub.requests.of(kind, path)
        if each.status in {200, 206}
    ]


def bytes_sent(hub: LocalHub, path: str = "*") -> int:
    return sum(each.body_bytes for each in data_requests(hub, path))


# ---- names and listings


def test_the_protocol_is_known_to_fsspec(hub: LocalHub) -> None:
    fs = fsspec.filesystem("haul", endpoint=hub.url, token=False)
    assert isinstance(fs, HaulFileSystem)
    assert isinstance(fs, HfFileSystem)
    with fsspec.open(f"haul://{MODEL}/config.json", endpoint=hub.url, token=False) as file:
        assert b"TinyModel" in file.read()
    assert fsspec.filesystem("haul", endpoint=hub.url, token=False) is fs


@pytest.mark.parametrize("prefix", ["", "haul://", "hf://"])
def test_paths_of_both_protocols_and_of_none_are_understood(fs: HaulFileSystem, prefix: str) -> None:
    assert fs.info(f"{prefix}{MODEL}/config.json")["name"] == f"{MODEL}/config.json"
    assert fs.unstrip_protocol(f"{prefix}{MODEL}/config.json") == f"haul://{MODEL}/config.json"
    assert fs._strip_protocol([f"{prefix}{MODEL}/"]) == [MODEL]


def test_listings_are_those_of_huggingface_hub(hub: LocalHub, fs: HaulFileSystem) -> None:
    theirs = HfFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    for root in (MODEL, DATA):
        assert fs.find(root) == theirs.find(root)
        assert fs.ls(root, detail=True) == theirs.ls(root, detail=True)
        assert list(fs.walk(root)) == list(theirs.walk(root))
        assert fs.glob(f"{root}/**/*.txt") == theirs.glob(f"{root}/**/*.txt")
        assert fs.du(root) == theirs.du(root)
        assert fs.info(f"{root}/README.md") == theirs.info(f"{root}/README.md")


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(lambda fs, _: fs.cat(f"{MODEL}/nested/*.bin"), id="a pattern"),
        pytest.param(lambda fs, _: fs.find(f"{MODEL}/nested", withdirs=True), id="with folders"),
        pytest.param(lambda fs, out: fs.get(f"{MODEL}/nested", str(out), recursive=True), id="a folder"),
    ],
)
def test_a_folder_that_is_listed_is_not_looked_for_in_the_one_that_it_is_in(
    hub: LocalHub, fs: HaulFileSystem, tmp_path: Path, look: Callable[[HaulFileSystem, Path], Any]
) -> None:
    look(fs, tmp_path / "out")
    assert len(hub.requests.of("tree")) == 1
    theirs = HfFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    assert fs.info(f"{MODEL}/nested") == theirs.info(
        f"{MODEL}/nested"
    )  # with what only the other listing says


def test_of_very_many_repositories_that_are_asked_for_the_latest_are_remembered_without_frames(
    fs: HaulFileSystem, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_haul.filesystem.listings._EXISTING", 20)
    names = [f"org/none-{number}/file" for number in range(60)]
    for name in names:
        assert not fs.exists(name)
    known = fs._repo_and_revision_exists_cache
    assert len(known) <= 22
    assert [error.__traceback__ for exists, error in known.values() if not exists] == [None] * len(known)
    hub.requests.clear()
    assert not fs.exists(names[-1])
    assert len(hub.requests) == 0
    assert not fs.exists(names[0])
    assert len(hub.requests) > 0


def test_missing_things_are_not_found_and_cost_no_request_once_listed(
    hub: LocalHub, fs: HaulFileSystem
) -> None:
    fs.find(MODEL)
    hub.requests.clear()
    for name in ("nope.txt", "nested/nope.txt"):
        assert not fs.exists(f"{MODEL}/{name}")
        with pytest.raises(FileNotFoundError):
            fs.open(f"{MODEL}/{name}")
        with pytest.raises(FileNotFoundError):
            fs.cat_file(f"{MODEL}/{name}")
    assert not hub.requests.of("*")
    with pytest.raises(FileNotFoundError, match="repository not found"):
        fs.info("org/nope/file")
    with pytest.raises(FileNotFoundError, match="revision not found"):
        fs.info(f"{MODEL}@nope/file")


def test_opening_and_reading_one_file_takes_four_requests(hub: LocalHub, fs: HaulFileSystem) -> None:
    assert fs.cat_file(f"{MODEL}/nested/small.bin") == random_bytes(1000, 0, "small")
    assert [each.kind for each in hub.requests] == ["info", "tree", "resolve", "cdn"]


def test_when_a_file_changed_is_asked_once(hub: LocalHub, fs: HaulFileSystem) -> None:
    theirs = HfFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    name = f"{MODEL}/config.json"
    expected = theirs.modified(name)
    hub.requests.clear()
    assert [fs.modified(name) for _ in range(3)] == [expected] * 3
    assert len(hub.requests.of("paths-info")) == 1
    fs.invalidate_cache(name)
    assert fs.modified(name) == expected
    assert len(hub.requests.of("paths-info")) == 2


def test_a_key_of_a_file_depends_on_its_content_alone(hub: LocalHub, fs: HaulFileSystem) -> None:
    other = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True, expand_info=True)
    names = [f"{MODEL}/config.json", f"{MODEL}/big.bin", f"{MODEL}/README.md"]
    assert [fs.ukey(name) for name in names] == [other.ukey(name) for name in names]
    assert len({fs.checksum(name) for name in names}) == 3


# ---- one version


def test_reads_stay_with_the_commit_first_seen(tmp_path: Path, manager: ParallelDownloadManager) -> None:
    repo = Repo("org/moving")
    first = repo.commit({"a.txt": b"old a", "b.txt": b"old b"}, "first")
    with LocalHub(repo) as hub:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        with fs.open("org/moving/a.txt") as file:
            repo.commit({"a.txt": b"new a!", "b.txt": b"new b!"}, "second")
            assert file.read() == b"old a"
            assert file.url().endswith(f"/resolve/{first.id}/a.txt")
        assert fs.cat_file("org/moving/b.txt") == b"old b"
        assert fs.find("org/moving", detail=True)["org/moving/b.txt"]["size"] == len(b"old b")
        fs.invalidate_cache("org/moving/a.txt")
        assert fs.cat(["org/moving/a.txt", "org/moving/b.txt"]) == {
            "org/moving/a.txt": b"new a!",
            "org/moving/b.txt": b"new b!",
        }
        assert fs.cat_file(f"org/moving@{first.id}/a.txt") == b"old a"


def test_a_file_that_is_open_while_its_branch_moves_goes_on_at_its_commit_and_so_do_pickles_of_it(
    manager: ParallelDownloadManager,
) -> None:
    old, new = random_bytes(3_000_000, "old"), random_bytes(3_000_000, "new")
    repo = Repo("org/moving")
    repo.commit({"big.bin": old}, "first")
    with LocalHub(repo) as hub:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True, prefetch="none")
        fs.manager = manager
        name = "org/moving/big.bin"
        with fs.open(name) as file, fs.open(name, block_size=0) as stream:
            assert file.read(100_000) == stream.read(100_000) == old[:100_000]
            before = pickle.dumps((file, stream))
            repo.commit({"big.bin": new}, "second")
            fs.invalidate_cache()
            assert fs.cat_file(name) == new
            after = pickle.dumps((file, stream))
            for each in (file, stream, *pickle.loads(before), *pickle.loads(after)):
                with each:
                    assert each.read() == old[100_000:]
        assert fs.cat_file(name, 100_000) == new[100_000:]


def test_another_file_behind_the_same_address_is_refused(hub: LocalHub, fs: HaulFileSystem) -> None:
    hub.faults.add(WrongTotal(12345), path="big.bin", kind="cdn", times=None)
    with pytest.raises(SourceChangedError, match="expected 9000001"):
        fs.cat_file(f"{MODEL}/big.bin", 10, 20)


# ---- reading


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param(None, None, id="whole"),
        pytest.param(0, 10, id="head"),
        pytest.param(10, 5, id="backwards"),
        pytest.param(-7, None, id="tail"),
        pytest.param(-20, -7, id="from the end"),
        pytest.param(5, -5, id="to the end"),
        pytest.param(85, 10_000, id="past the end"),
        pytest.param(10_000, None, id="begins past the end"),
        pytest.param(-10_000, 3, id="begins before the start"),
    ],
)
def test_cat_file_slices_as_python_does_and_moves_no_byte_more(
    hub: LocalHub, fs: HaulFileSystem, folders: dict[str, Path], start: int | None, end: int | None
) -> None:
    expected = (folders[MODEL] / "config.json").read_bytes()[start:end]
    assert fs.cat_file(f"{MODEL}/config.json", start, end) == expected
    assert fs.cat_ranges([f"{MODEL}/config.json"], start, end) == [expected]
    whole = (start, end) == (None, None)  # which is kept in memory; slices are not
    assert bytes_sent(hub) == (1 if whole else 2) * len(expected)


def test_a_large_read_goes_over_several_connections_with_one_resolve(
    hub: LocalHub, fs: HaulFileSystem
) -> None:
    hub.set_latency(0.1)
    try:
        with fs.open(f"{MODEL}/big.bin") as file:
            assert file.read() == BIG
            assert file.read() == b""
    finally:
        hub.set_latency(0)
    assert hub.requests.settle()  # the last bytes are here before they are counted there
    assert len(hub.requests.of("resolve")) == 1
    assert len(data_requests(hub)) > 4
    assert hub.requests.peak("cdn") > 2
    assert bytes_sent(hub) == len(BIG)


def test_random_reads_resolve_once_and_reopening_does_not_resolve_again(
    hub: LocalHub, fs: HaulFileSystem
) -> None:
    for _ in range(2):
        with fs.open(f"{MODEL}/big.bin", cache_type="none") as file:
            for at in (8_000_000, 17, 5_000_000, 100):
                file.seek(at)
                assert file.read(100) == BIG[at : at + 100]
    assert len(hub.requests.of("resolve")) == 1


def test_an_expired_link_is_resolved_again(hub: LocalHub, fs: HaulFileSystem) -> None:
    with fs.open(f"{MODEL}/big.bin", cache_type="none") as file:
        assert file.read(10) == BIG[:10]
        hub.expire_urls()
        file.seek(1_000_000)
        assert file.read(10) == BIG[1_000_000:1_000_010]
    assert len(hub.requests.of("resolve")) == 2


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        pytest.param(Cut(1000), 1, id="cut short"),
        pytest.param(Reset(1000), 1, id="reset in the body"),
        pytest.param(Reset(), 1, id="reset before the answer"),
        pytest.param(Status(503), 2, id="busy"),
        pytest.param(WrongRange(4096), 1, id="another range"),
        pytest.param(IgnoreRange(), 1, id="the whole file once"),
        pytest.param(IgnoreRange(), None, id="the whole file always"),
        pytest.param(Corrupt(2_000_000), 1, id="a wrong byte once"),
    ],
)
def test_what_goes_wrong_on_the_way_is_never_read(
    hub: LocalHub, fs: HaulFileSystem, fault: Fault, times: int | None
) -> None:
    rule = hub.faults.add(fault, kind="cdn", path="big.bin", times=times)
    assert fs.cat_file(f"{MODEL}/big.bin") == BIG
    assert rule.hits
    with fs.open(f"{MODEL}/big.bin") as file:
        file.seek(3_000_000)
        assert file.read(1000) == BIG[3_000_000:3_001_000]


@pytest.mark.parametrize("after", [pytest.param(5000, id="in the body"), pytest.param(None, id="before it")])
def test_a_connection_that_stalls_is_replaced(hub: LocalHub, after: int | None) -> None:
    settings = Settings(first_retry_wait=0.01, stall_timeout=1.5, first_byte_timeout=1.5)
    with ParallelDownloadManager(settings=settings) as manager:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        fault = Delay(20) if after is None else Stall(after)
        rule = hub.faults.add(fault, kind="cdn", path="big.bin")
        assert fs.cat_file(f"{MODEL}/big.bin", 100_000, 200_000) == BIG[100_000:200_000]
        assert rule.hits == 1
    # Others may be what the test before has left on its way.
    ranges = [each.range for each in hub.requests.of("cdn") if str(each.range).endswith("-199999")]
    assert ranges == ["bytes=100000-199999", f"bytes={100_000 + (after or 0)}-199999"]


def test_a_source_that_takes_long_to_its_first_byte_is_asked_once(hub: LocalHub) -> None:
    with ParallelDownloadManager(settings=Settings(stall_timeout=0.6)) as manager:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        hub.faults.add(Delay(1.5), kind="cdn", path="big.bin", times=None)
        assert fs.cat_file(f"{MODEL}/big.bin", 100_000, 200_000) == BIG[100_000:200_000]
    assert [each.range for each in hub.requests.of("cdn")] == ["bytes=100000-199999"]


def test_a_source_that_ignores_ranges_is_fetched_once(hub: LocalHub, fs: HaulFileSystem) -> None:
    hub.faults.add(IgnoreRange(), kind="cdn", path="big.bin", times=None)
    with fs.open(f"{MODEL}/big.bin", cache_type="none") as file:
        for at in (100, 5_000_000, 17, 8_999_990):
            file.seek(at)
            assert file.read(50) == BIG[at : at + 50]
    whole = [each for each in data_requests(hub, "big.bin") if each.body_bytes == len(BIG)]
    assert len(whole) == 1


def test_a_digest_that_stays_wrong_is_an_error(hub: LocalHub, fs: HaulFileSystem) -> None:
    hub.faults.add(Corrupt(10), path="nested/small.bin", times=None)
    with pytest.raises(IntegrityError, match="small"):
        fs.cat_file(f"{MODEL}/nested/small.bin")


def test_a_file_that_may_not_be_read_raises_as_huggingface_hub_does(
    hub: LocalHub, manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    fs = HaulFileSystem(endpoint=hub.url, token="hf_ada", skip_instance_cache=True)
    fs.manager = manager
    name = "datasets/org/gated/data/labels.csv"
    for ask in (
        lambda: fs.cat_file(name),
        lambda: fs.open(name).read(),
        lambda: fs.get_file(name, tmp_path / "x"),
        lambda: fs.get([name], [str(tmp_path / "x")]),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            ask()
        assert type(caught.value).__name__ == "GatedRepoError"
    assert not list(tmp_path.iterdir())


# ---- many at once


def test_cat_of_a_folder_is_parallel_and_exact(
    hub: LocalHub, fs: HaulFileSystem, folders: dict[str, Path]
) -> None:
    hub.set_latency(0.1)
    try:
        found = fs.cat(f"{MODEL}/**")
    finally:
        hub.set_latency(0)
    assert {
        name.removeprefix(f"{MODEL}/"): hashlib.sha256(data).hexdigest() for name, data in found.items()
    } == contents(folders[MODEL])
    assert len(hub.requests.of("info")) == 1
    assert hub.requests.peak("resolve") + hub.requests.peak("resolve-cache") + hub.requests.peak("cdn") > 4
    assert fs.cat(MODEL, recursive=True) == found


def test_cat_reports_errors_as_asked(hub: LocalHub, fs: HaulFileSystem) -> None:
    names = [f"{MODEL}/config.json", f"{MODEL}/vocab.txt"]
    hub.faults.add(Status(404, headers={"X-Error-Code": "EntryNotFound"}), path="vocab.txt", times=None)
    assert set(fs.cat(names, on_error="omit")) == {names[0]}
    assert isinstance(fs.cat(names, on_error="return")[names[1]], HfHubHTTPError)
    with pytest.raises(HfHubHTTPError):
        fs.cat(names)


def test_cat_ranges_merges_neighbours_and_keeps_the_order(hub: LocalHub, fs: HaulFileSystem) -> None:
    big, config = f"{MODEL}/big.bin", f"{MODEL}/config.json"
    slices = [(big, at, at + 1000) for at in range(4_000_000, 4_050_000, 1100)]
    slices = [*slices[::-1], (config, 0, 5), (big, -10, None), (big, 7, 3), (big, 0, 1000), (big, 0, 1000)]
    paths, starts, ends = (list(each) for each in zip(*slices, strict=True))
    config_bytes = fs.cat_file(config)
    hub.requests.clear()
    found = fs.cat_ranges(paths, starts, ends)
    assert found == [(BIG if path == big else config_bytes)[a:b] for path, a, b in slices]
    assert len(data_requests(hub, "big.bin")) == 3
    assert bytes_sent(hub, "big.bin") < 60_000


def test_cat_ranges_puts_errors_in_their_place(fs: HaulFileSystem) -> None:
    found = fs.cat_ranges([f"{MODEL}/nope", f"{MODEL}/big.bin"], [0, 0], [4, 4])
    assert isinstance(found[0], FileNotFoundError)
    assert found[1] == BIG[:4]
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([f"{MODEL}/big.bin", f"{MODEL}/nope"], [0, 0], [4, 4], on_error="raise")
    with pytest.raises(ValueError, match="same length"):
        fs.cat_ranges([f"{MODEL}/big.bin"], [0, 0], [4, 4])


def test_cat_ranges_bridges_the_gap_it_was_told(hub: LocalHub, fs: HaulFileSystem) -> None:
    names = [f"{MODEL}/big.bin"] * 2
    fs.cat_file(names[0], 0, 1)
    for gap, nbytes in ((0, 20), (1 << 20, 400_010)):
        hub.requests.clear()
        assert fs.cat_ranges(names, [0, 400_000], [10, 400_010], max_gap=gap) == [
            BIG[:10],
            BIG[400_000:400_010],
        ]
        assert until(lambda nbytes=nbytes: bytes_sent(hub, "big.bin") == nbytes)  # counted once it is sent


# ---- to disk


class Recorder(Callback):
    """Writes down what it is told, and by which thread."""

    def __init__(self, log: list[tuple[Any, ...]], name: str = "") -> None:
        super().__init__()
        self.log, self.name = log, name
        self.threads = {threading.get_ident()}
        self.closed = False

    def set_size(self, size: int | None) -> None:
        super().set_size(size)
        self.log.append((self.name, "size", size))

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self.threads.add(threading.get_ident())
        assert self.threads == {threading.get_ident()}
        self.log.append((self.name, "update", inc))

    def branched(self, path_1: str, path_2: str, **_: Any) -> Recorder:
        return Recorder(self.log, path_1)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self.log.append((self.name, "close", None))


def test_get_copies_a_repository_in_parallel(
    hub: LocalHub, fs: HaulFileSystem, folders: dict[str, Path], tmp_path: Path
) -> None:
    log: list[tuple[Any, ...]] = []
    callback = Recorder(log)
    hub.set_latency(0.1)
    try:
        fs.get(f"haul://{MODEL}", str(tmp_path / "out"), recursive=True, callback=callback)
    finally:
        hub.set_latency(0)
    expected = contents(folders[MODEL])
    assert contents(tmp_path / "out") == expected
    assert not [path for path in (tmp_path / "out").rglob("*") if "incomplete" in path.name]
    peaks = [hub.requests.peak(kind) for kind in ("resolve", "resolve-cache", "cdn")]
    assert sum(peaks) > 2
    sizes = {name: size for name, what, size in log if what == "size" and name}
    assert sizes == {f"{MODEL}/{name}": (folders[MODEL] / name).stat().st_size for name in expected}
    assert callback.value == callback.size
    for name, size in sizes.items():
        assert sum(n for who, what, n in log if who == name and what == "update") == size
        assert log.count((name, "close", None)) == 1


@pytest.mark.parametrize("kind", ["path", "str", "new folder"])
def test_get_file_writes_a_whole_file(fs: HaulFileSystem, tmp_path: Path, kind: str) -> None:
    place = tmp_path / ("a/b/c.bin" if kind == "new folder" else "c.bin")
    log: list[tuple[Any, ...]] = []
    fs.get_file(f"{MODEL}/big.bin", place if kind == "path" else str(place), callback=Recorder(log))
    assert place.read_bytes() == BIG
    assert log[0] == ("", "size", len(BIG))
    assert sum(n for _, what, n in log if what == "update") == len(BIG)
    assert [path.name for path in place.parent.iterdir()] == ["c.bin"]


def test_a_file_that_fails_leaves_no_file_and_keeps_the_old_one(
    hub: LocalHub, fs: HaulFileSystem, tmp_path: Path
) -> None:
    place = tmp_path / "small.bin"
    place.write_bytes(b"old")
    hub.faults.add(Corrupt(10), path="nested/small.bin", times=None)
    with pytest.raises(IntegrityError):
        fs.get_file(f"{MODEL}/nested/small.bin", place)
    assert place.read_bytes() == b"old"
    hub.faults.clear()
    fs.get_file(f"{MODEL}/nested/small.bin", place)
    assert place.read_bytes() == random_bytes(1000, 0, "small")


def test_the_first_failure_ends_a_get(hub: LocalHub, fs: HaulFileSystem, tmp_path: Path) -> None:
    hub.faults.add(Status(404, headers={"X-Error-Code": "EntryNotFound"}), path="vocab.txt", times=None)
    with pytest.raises(HfHubHTTPError, match="404"):
        fs.get(MODEL, str(tmp_path), recursive=True)
    assert not (tmp_path / "vocab.txt").exists()


class InterruptedAfter(Callback):
    """Raises as a Ctrl+C does, once a file is in place."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.name = name

    def branched(self, path_1: str, path_2: str, **_: Any) -> Callback:
        return InterruptedAfter(self.name) if path_1.endswith(f"/{self.name}") else Callback()

    def close(self) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_get_of_a_folder_goes_on_in_the_folder_it_made(
    hub: LocalHub, fs: HaulFileSystem, folders: dict[str, Path], tmp_path: Path
) -> None:
    target = tmp_path / "got"
    for name in ("vocab.txt", "config.json"):
        with pytest.raises(KeyboardInterrupt):
            fs.get(MODEL, str(target), recursive=True, callback=InterruptedAfter(name))
        assert (target / name).is_file()
    hub.requests.clear()
    fs.get(MODEL, str(target), recursive=True)
    assert contents(target) == contents(folders[MODEL])
    assert not list(tmp_path.rglob("*incomplete*"))
    assert not data_requests(hub, "config.json") + data_requests(hub, "vocab.txt")


def test_only_a_folder_of_the_same_source_is_gone_on_with(
    hub: LocalHub, fs: HaulFileSystem, folders: dict[str, Path], tmp_path: Path
) -> None:
    hub.faults.add(Status(404, headers={"X-Error-Code": "EntryNotFound"}), path="vocab.txt", times=None)
    with pytest.raises(HfHubHTTPError, match="404"):
        fs.get(MODEL, str(tmp_path / "got"), recursive=True)
    hub.faults.clear()
    fs.get(f"{MODEL}/nested", str(tmp_path / "got"), recursive=True)
    nested = contents(folders[MODEL] / "nested")
    assert contents(tmp_path / "got" / "nested") == nested
    fs.get(f"{MODEL}/nested", str(tmp_path / "whole"), recursive=True)
    fs.get(f"{MODEL}/nested", str(tmp_path / "whole"), recursive=True)
    assert contents(tmp_path / "whole" / "nested") == nested


def test_a_callback_that_raises_ends_the_get(fs: HaulFileSystem, tmp_path: Path) -> None:
    class Broken(Callback):
        def relative_update(self, inc: int = 1) -> None:
            raise LookupError("the callback's own")

    with pytest.raises(LookupError, match="own"):
        fs.get_file(f"{MODEL}/big.bin", tmp_path / "x", callback=Broken())


def test_open_files_are_filled_in_order(fs: HaulFileSystem, tmp_path: Path) -> None:
    into = io.BytesIO(b"abc")
    into.seek(3)
    fs.get_file(f"{MODEL}/big.bin", outfile=into)
    assert into.tell() == 3
    assert into.getvalue() == b"abc" + BIG
    with (tmp_path / "x").open("wb+") as file:
        fs.get_file(f"{MODEL}/big.bin", file)
        assert file.read() == BIG
    one, two = io.BytesIO(), io.BytesIO()
    fs.get([f"{MODEL}/config.json", f"{MODEL}/README.md"], [one, two])
    assert b"TinyModel" in one.getvalue()
    assert b"license" in two.getvalue()


def test_an_open_file_that_gets_wrong_bytes_is_an_error(hub: LocalHub, fs: HaulFileSystem) -> None:
    hub.faults.add(Corrupt(10), path="big.bin", kind="cdn", times=None)
    with pytest.raises(IntegrityError):
        fs.get_file(f"{MODEL}/big.bin", io.BytesIO())


def test_names_that_would_leave_the_target_are_refused(
    hub: LocalHub, fs: HaulFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    real = fs._api.list_repo_tree
    evil = "nested/../../../evil.txt"

    def hostile(*args: Any, **options: Any) -> Iterator[Any]:
        for entry in real(*args, **options):
            if entry.path == "README.md":
                entry.path = evil
            yield entry

    fs.max_workers = 1
    monkeypatch.setattr(fs._api, "list_repo_tree", hostile)
    with pytest.raises((UnsafePathError, ValueError, FileNotFoundError)):
        fs.get(MODEL, str(tmp_path / "in"), recursive=True)
    with pytest.raises(UnsafePathError):
        fs.get_file(f"{MODEL}/{evil}", str(tmp_path / "in/x"))
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_get_goes_where_fsspec_would_put_it(fs: HaulFileSystem, tmp_path: Path) -> None:
    fs.get(f"{MODEL}/nested/one/also.json", str(tmp_path / "named.json"))
    fs.get(f"{MODEL}/nested/one/also.json", f"{tmp_path}/")
    fs.get(f"{MODEL}/*.txt", f"{tmp_path}/texts/")
    fs.get([f"{MODEL}/README.md", f"{MODEL}/config.json"], [str(tmp_path / "1"), str(tmp_path / "2")])
    fs.get([], [])
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "named.json", "also.json", "texts/empty.txt", "texts/vocab.txt", "1", "2",
    }  # fmt: skip


# ---- loaders


def test_pandas_reads_csv_and_parquet(hub: LocalHub, folders: dict[str, Path]) -> None:
    options = {"endpoint": hub.url, "token": False}
    frame = pd.read_csv(f"haul://{DATA}/data/labels.csv", storage_options=options)
    assert frame.equals(pd.read_csv(folders[DATA] / "data/labels.csv"))
    name = "data/train-00000-of-00002.parquet"
    frame = pd.read_parquet(f"haul://{DATA}/{name}", storage_options=options)
    assert frame.equals(pd.read_parquet(folders[DATA] / name))
    frame = pd.read_json(f"haul://{DATA}/data/test.jsonl", lines=True, storage_options=options)
    assert list(frame["id"]) == [0, 1]


def test_two_columns_of_a_parquet_file_cost_little_more_than_their_bytes(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    rows = 200_000
    table = pa.table(
        {f"c{i}": pa.array([(n * 2654435761 + i) % 2**62 for n in range(rows)]) for i in range(12)}
    )
    pq.write_table(
        table, tmp_path / "t.parquet", row_group_size=rows // 20, compression="none", use_dictionary=False
    )
    chunks = pq.read_metadata(tmp_path / "t.parquet")
    needed = sum(chunks.row_group(g).column(c).total_compressed_size for g in range(20) for c in (2, 7))
    with LocalHub(Repo.from_folder(tmp_path, "org/wide", "dataset")) as hub:
        fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        hub.set_latency(0.1)
        frame = pd.read_parquet("datasets/org/wide/t.parquet", columns=["c2", "c7"], filesystem=fs)
        assert frame.equals(table.select(["c2", "c7"]).to_pandas())
        assert bytes_sent(hub) <= needed * 1.1 + 262_144
        assert len(hub.requests.of("resolve")) == 1
        assert hub.requests.peak("cdn") > 2  # although pyarrow asks for one at a time


def test_pyarrow_reads_a_data_set(fs: HaulFileSystem, folders: dict[str, Path]) -> None:
    table = pads.dataset(
        f"{DATA}/data", filesystem=fs, format="parquet", exclude_invalid_files=True
    ).to_table()
    expected = pa.concat_tables(pq.read_table(path) for path in sorted(folders[DATA].glob("data/*.parquet")))
    assert table.sort_by("id").equals(expected.sort_by("id"))


def test_cached_filesystems_download_through_ours(hub: LocalHub, tmp_path: Path) -> None:
    url = f"{MODEL}/big.bin"
    options = {"haul": {"endpoint": hub.url, "token": False}, "simplecache": {"cache_storage": str(tmp_path)}}
    with fsspec.open(f"simplecache::haul://{url}", **options) as file:
        assert file.read() == BIG
    with fsspec.open(
        f"filecache::haul://{url}", filecache={"cache_storage": str(tmp_path / "2")}, haul=options["haul"]
    ) as file:
        assert file.read() == BIG


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # fsspec leaves its file open
def test_blockcache_really_caches(hub: LocalHub, tmp_path: Path) -> None:
    options = {"haul": {"endpoint": hub.url, "token": False}, "blockcache": {"cache_storage": str(tmp_path)}}
    for _ in range(2):
        with fsspec.open(f"blockcache::haul://{MODEL}/big.bin", **options) as file:
            assert file.read() == BIG
    assert bytes_sent(hub, "big.bin") == len(BIG)
    del file
    gc.collect()


# ---- open files


def test_a_file_behaves_as_one_on_disk(fs: HaulFileSystem, folders: dict[str, Path]) -> None:
    path = "lines.txt"
    with fs.open(f"{DATA}/{path}") as ours, (folders[DATA] / path).open("rb") as theirs:
        assert isinstance(ours, HfFileSystemFile)
        for step in (
            lambda f: f.read(7),
            lambda f: f.tell(),
            lambda f: f.readline(),
            lambda f: f.readline(3),
            lambda f: f.seek(-5, 1),
            lambda f: f.readline(),
            lambda f: next(f),
            lambda f: f.seek(-100, 2),
            lambda f: f.readlines(),
            lambda f: f.read(),
            lambda f: f.read(5),
            lambda f: f.seek(10_000_000),
            lambda f: f.read(5),
            lambda f: f.tell(),
            lambda f: f.seek(3),
            lambda f: (f.readinto(buffer := bytearray(9)), bytes(buffer)),
            lambda f: f.readlines(1000),
            lambda f: f.tell(),
            lambda f: f.read(0),
            lambda f: f.read(None),
        ):
            assert step(ours) == step(theirs)
        with pytest.raises(ValueError, match="before start"):
            ours.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        ours.read(1)


def test_lines_are_read_in_order_of_their_bytes(
    hub: LocalHub, fs: HaulFileSystem, folders: dict[str, Path]
) -> None:
    expected = (folders[DATA] / "lines.txt").read_bytes()
    with fs.open(f"{DATA}/lines.txt", cache_type="none") as file:
        assert b"".join(file) == expected
    assert bytes_sent(hub, "lines.txt") == len(expected)
    with fs.open(f"{DATA}/lines.txt", "r") as file:
        assert "".join(file) == expected.decode()
    with fs.open(f"{DATA}/lines.txt") as file:
        assert file.readuntil(b" 20 ") == expected[: expected.index(b" 20 ") + 4]


@pytest.mark.parametrize("cache", [None, "none", "readahead", "bytes", "blockcache", "background"])
def test_threads_that_seek_and_read_get_their_own_bytes(fs: HaulFileSystem, cache: str | None) -> None:
    # What DuckDB does: one handle, eight threads, seek and read as two calls.
    wrong: list[int] = []
    interval = sys.getswitchinterval()
    with fs.open(f"{MODEL}/big.bin", cache_type=cache, block_size=64 * 1024) as file:
        file.read(1)

        def work(seed: int) -> None:
            for i in range(40):
                at = (seed * 7919 + i * 104_729) % (200_000)
                file.seek(at)
                if file.read(100) != BIG[at : at + 100]:
                    wrong.append(at)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        finally:
            sys.setswitchinterval(interval)
    assert not wrong


def test_a_position_set_by_one_thread_is_where_another_reads_on(fs: HaulFileSystem) -> None:
    def elsewhere(work: Callable[[], Any]) -> Any:
        result: list[Any] = []
        thread = threading.Thread(target=lambda: result.append(work()))
        thread.start()
        thread.join(30)
        return result[0]

    with fs.open(f"{MODEL}/big.bin") as file:
        file.seek(1000)
        assert elsewhere(lambda: file.read(100)) == BIG[1000:1100]
        assert elsewhere(lambda: file.read(100)) == BIG[1100:1200]
        assert file.tell() == 1200
        assert file.read(100) == BIG[1200:1300]
        assert elsewhere(file.tell) == 1300


def test_a_failed_read_can_be_repeated(hub: LocalHub, fs: HaulFileSystem) -> None:
    with fs.open(f"{MODEL}/big.bin", cache_type="none") as file:
        file.read(10)
        hub.faults.add(Status(403), kind="cdn", path="big.bin", times=None)
        hub.faults.add(Status(404), kind="resolve", path="big.bin", times=None)
        with pytest.raises(OSError):
            file.read(10)
        hub.faults.clear()
        assert file.read(10) == BIG[10:20]


def test_streams_are_read_forward_only(hub: LocalHub, fs: HaulFileSystem) -> None:
    with fs.open(f"{MODEL}/big.bin", block_size=0) as file:
        assert file.read(10) == BIG[:10]
        with pytest.raises(ValueError, match="seek"):
            file.seek(0)
        assert file.read(3_000_000) == BIG[10:3_000_010]
        copy = pickle.loads(pickle.dumps(file))
        assert file.read() == copy.read() == BIG[3_000_010:]
        assert file.read(1) == b""
        copy.close()
    with fs.open(f"{DATA}/lines.txt", block_size=0) as file:
        assert file.readline() == b"line 0 \n"
        assert file.readline() == b"line 1 x\n"
        assert file.tell() == 17


def test_a_stream_is_not_fooled_by_a_server_that_ignores_ranges(hub: LocalHub, fs: HaulFileSystem) -> None:
    hub.faults.add(IgnoreRange(), kind="cdn", path="big.bin", times=None)
    with fs.open(f"{MODEL}/big.bin", block_size=0) as file:
        assert file.read() == BIG


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_manager_that_is_shut_down_keeps_nothing_of_what_was_read(
    hub: LocalHub,
    manager: ParallelDownloadManager,
    fs: HaulFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # no other test has files there

    def temporary_files() -> list[str]:
        found = []
        for each in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # another thread has closed it
                found.append(os.readlink(f"/proc/self/fd/{each}"))
        return [name for name in found if name.startswith(str(tmp_path)) and name.endswith("(deleted)")]

    def is_gone() -> bool:
        gc.collect()
        return extents() is None and not temporary_files()

    hub.faults.add(IgnoreRange(), kind="cdn", path="big.bin", times=None)
    assert fs.cat_file(f"{MODEL}/big.bin") == BIG
    assert len(temporary_files()) == 1
    extents = weakref.ref(fs.extents)
    manager.shutdown()
    assert until(is_gone)


# ---- processes


def test_a_pickled_file_goes_on_where_it_was_at_its_commit(hub: LocalHub, fs: HaulFileSystem) -> None:
    with fs.open(f"{MODEL}/big.bin") as file:
        file.seek(1234)
        file.read(10)
        copy = pickle.loads(pickle.dumps(file))
        with copy:
            assert copy.tell() == 1244
            assert copy.read(10) == BIG[1244:1254] == file.read(10)
    assert len(hub.requests.of("info")) == 1
    assert len(hub.requests.of("tree")) == 1


SPAWN = """
import multiprocessing, sys
import hf_haul.filesystem

def work(fs):
    return fs.cat_file("org/tiny/config.json") + fs.open("org/tiny/README.md").read()

if __name__ == "__main__":
    fs = hf_haul.filesystem.HaulFileSystem()
    names = fs.find("org/tiny")
    expected = work(fs)
    for method in sys.argv[1:]:
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(work, [fs] * 4) == [expected] * 4, method
    print("done")
"""

FORK = """
import os, sys, threading
import hf_haul.filesystem
from hf_haul.localhub import LocalHub

fs = hf_haul.filesystem.HaulFileSystem()
name = "org/tiny/big.bin"
file = fs.open(name)
expected = fs.cat_file(name)
stop = threading.Event()
def busy():
    while not stop.is_set():
        fs.cat_file(name)
threads = [threading.Thread(target=busy, daemon=True) for _ in range(2)]
for thread in threads: thread.start()
try:
    for i in range(5):
        pid = os.fork()
        if pid == 0:
            ok = fs.cat_file(name) == expected and file.read(100) == expected[:100]
            ok = ok and fs.cat(["org/tiny/config.json", "org/tiny/README.md"]) and fs.exists("org/tiny/vocab.txt")
            os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0, i
finally:
    stop.set()
    for thread in threads: thread.join()
print("done")
"""


@pytest.mark.slow
def test_workers_of_every_kind_can_read_and_list_nothing_again(hub: LocalHub, tmp_path: Path) -> None:
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    methods = ["spawn"] if sys.platform == "win32" else ["spawn", "fork"]
    code = (
        f"import runpy, sys; sys.argv[1:] = {methods!r}; runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    result = run_python(code, hub_environment(hub, tmp_path), timeout=90)
    assert result.stdout == "done\n", result.stderr
    assert len(hub.requests.of("tree")) <= 2
    assert len(hub.requests.of("info")) <= 2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
def test_a_forked_child_reads_while_its_parent_was_busy(hub: LocalHub, tmp_path: Path) -> None:
    result = run_python(FORK, hub_environment(hub, tmp_path, PYTHONWARNINGS="ignore"), timeout=90)
    assert result.stdout == "done\n", result.stderr


def test_ours_and_theirs_share_the_cache_of_instances_without_meeting(hub: LocalHub) -> None:
    ours = HaulFileSystem(endpoint=hub.url, token=False)
    theirs = HfFileSystem(endpoint=hub.url, token=False)
    assert type(ours) is HaulFileSystem
    assert type(theirs) is HfFileSystem
    assert HaulFileSystem(endpoint=hub.url, token=False) is ours
    assert ours in HfFileSystem._cache.values()
    assert pickle.loads(pickle.dumps(ours)) is ours


def test_a_folder_can_be_got_by_its_own_local_filesystem_rules(fs: HaulFileSystem, tmp_path: Path) -> None:
    fs.get(f"{MODEL}/nested", f"{tmp_path}/", recursive=True)
    assert LocalFileSystem().find(str(tmp_path)) == [
        str(tmp_path / "nested" / name) for name in ("one/also.json", "one/two/three/leaf.txt", "small.bin")
    ]


def test_files_opened_are_ours(fs: HaulFileSystem) -> None:
    with fs.open(f"{MODEL}/config.json") as file:
        assert isinstance(file, HaulFile)
        assert file.cache.name == "haul"
        assert bytes(file.read_buffer(4)) == b"{\n  "


@pytest.mark.parametrize("options", [{}, {"prefetch": "none"}, {"cache_type": "readahead"}])
def test_what_pyarrow_gets_is_what_a_read_gives(fs: HaulFileSystem, options: dict[str, Any]) -> None:
    with fs.open(f"{MODEL}/big.bin", **options) as file:
        file.seek(100)
        for nbytes in (10, 2_000_000, 70_000):
            at = file.tell()
            assert file.read_buffer(nbytes) == BIG[at : at + nbytes]
            assert file.tell() == at + nbytes
        file.seek(-1_500_000, 2)
        assert file.read_buffer(2_000_000) == BIG[-1_500_000:]
        assert file.read_buffer(2_000_000) == b""
        file.seek(0)
        assert file.read_buffer() == BIG
