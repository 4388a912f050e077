"""`haul://` over the Hub's cache on disk, `cache="hub"`: what is read from it, kept in it, and never waited for."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import huggingface_hub
import pytest
from huggingface_hub import constants
from tests.support.hub import SRC, ServedRepo, hub_environment, serve_repo
from tests.support.repos import random_bytes
from tests.support.waits import until

import hf_haul
from hf_haul import snapshot_download
from hf_haul.config import Settings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub.faults import Corrupt
from hf_haul.manager import ParallelDownloadManager
from hf_haul.reading import disk_copy
from hf_haul.storage import ownership
from hf_haul.storage.claiming import claim

MODEL = "org/tiny"
SIZE = 6_000_000
STEP = 100_000
BIG = random_bytes(SIZE, "big")
SHA = hashlib.sha256(BIG).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (folder / "big.bin").write_bytes(BIG)
    (folder / "config.json").write_bytes(b'{"a": 1}')
    return folder


@pytest.fixture
def served(folder: Path) -> Iterator[ServedRepo]:
    with serve_repo(folder, lfs="redirect") as served:
        yield served


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def new(served: ServedRepo, cache: Path) -> Iterator[Callable[..., HaulFileSystem]]:
    """Makes a filesystem that knows nothing yet, with a memory of its own."""
    managers: list[ParallelDownloadManager] = []

    def make(**options: Any) -> HaulFileSystem:
        fs = HaulFileSystem(
            endpoint=served.hub.url, token=False, skip_instance_cache=True, **{"cache": "hub", **options}
        )
        managers.append(ParallelDownloadManager(settings=Settings(durable=False)))
        fs.manager = managers[-1]
        served.hub.requests.clear()
        return fs

    yield make
    for manager in managers:
        manager.shutdown()


def sent(served: ServedRepo, path: str = "*") -> int:
    """Bytes of files that were sent, once none are under way any more."""
    assert served.hub.requests.settle()
    kinds = ("resolve-cache", "cdn", "resolve")
    records = [each for kind in kinds for each in served.hub.requests.of(kind, path)]
    return sum(each.body_bytes for each in records if each.status in {200, 206})


def asked(served: ServedRepo, path: str) -> set[int]:
    """Each tenth of a million bytes that was asked for, by its offset; more than once where a request was slow."""
    assert served.hub.requests.settle()
    found: set[int] = set()
    for each in served.hub.requests.of("cdn", path):
        start, _, last = each.range.removeprefix("bytes=").partition("-")
        found.update(range(int(start or 0) // STEP * STEP, int(last) + 1 if last else SIZE, STEP))
    return found


def blobs(cache: Path) -> Path:
    return cache / "models--org--tiny/blobs"


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in blobs(cache).iterdir())


def let_go(cache: Path) -> bool:
    """Whether the staged file is there, and belongs to nobody any more."""

    def is_free() -> bool:
        found = list(blobs(cache).glob("*.haul.incomplete"))
        return len(found) == 1 and b"hf-haul1R" in found[0].read_bytes()[SIZE : SIZE + 16]

    return until(is_free)


def read_all(fs: HaulFileSystem, name: str = f"{MODEL}/big.bin") -> bytes:
    with fs.open(name) as file:
        return b"".join(iter(lambda: file.read(300_000), b""))


# ---- what is kept


def test_what_was_read_is_fetched_no_second_time_by_reads_nor_by_a_download(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem]
) -> None:
    fs = new()
    assert fs.cat_file(f"{MODEL}/big.bin", 1_000_000, 3_000_000) == BIG[1_000_000:3_000_000]
    assert names(cache) == [f"{SHA}.haul.incomplete"]
    assert let_go(cache)
    again = new()
    assert again.cat_file(f"{MODEL}/big.bin", 900_000, 3_100_000) == BIG[900_000:3_100_000]
    assert sent(served) == 200_000
    assert let_go(cache)
    served.hub.requests.clear()
    found = snapshot_download(MODEL, cache_dir=cache, endpoint=served.hub.url, token=False)
    assert Path(found, "big.bin").read_bytes() == BIG
    assert asked(served, "big.bin") == {*range(0, 900_000, STEP), *range(3_100_000, SIZE, STEP)}


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda fs: fs.cat_file(f"{MODEL}/big.bin"), id="cat_file"),
        pytest.param(read_all, id="in blocks"),
        pytest.param(lambda fs: fs.open(f"{MODEL}/big.bin", block_size=0).read(), id="stream"),
        pytest.param(lambda fs: fs.cat([f"{MODEL}/big.bin"])[f"{MODEL}/big.bin"], id="cat"),
        pytest.param(
            lambda fs: b"".join(
                fs.cat_ranges([f"{MODEL}/big.bin"] * 3, [0, SIZE // 2, SIZE // 2 + 99], [SIZE // 2, SIZE // 2 + 99, None])
            ),
            id="ranges",
        ),
    ],
)  # fmt: skip
def test_a_file_that_was_read_to_its_end_is_a_blob_that_others_find(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem], read: Callable[[Any], bytes]
) -> None:
    fs = new()
    assert read(fs) == BIG
    assert until(lambda: names(cache) == [SHA])
    assert (blobs(cache) / SHA).read_bytes() == BIG
    assert sent(served) == SIZE
    found = huggingface_hub.hf_hub_download(
        MODEL, "big.bin", revision=served.repo.head.id, cache_dir=cache, local_files_only=True
    )
    assert Path(found).resolve() == (blobs(cache) / SHA).resolve()
    assert huggingface_hub.hf_hub_download(MODEL, "big.bin", cache_dir=cache, local_files_only=True) == found


def test_what_is_prefetched_is_kept_too(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem]
) -> None:
    assert new().prefetch([f"{MODEL}/big.bin", f"{MODEL}/config.json"]).wait(30)
    assert until(lambda: len(names(cache)) == 2)
    assert not [name for name in names(cache) if name.endswith(".incomplete")]


@pytest.mark.parametrize("options", [{"cache": "memory"}, {"cache": None}])
def test_by_default_nothing_is_written(
    cache: Path, new: Callable[..., HaulFileSystem], options: dict[str, Any]
) -> None:
    assert read_all(new(**options)) == BIG
    assert not cache.exists()


def test_the_setting_decides_where_nobody_says(
    served: ServedRepo, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ParallelDownloadManager(settings=Settings.from_environment({"HF_HAUL_FS_CACHE": "hub"})) as manager:
        fs = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True)
        fs.manager = manager
        assert fs.cat_file(f"{MODEL}/config.json") == b'{"a": 1}'
        assert until(lambda: len(names(cache)) == 1)
        with pytest.raises(ValueError, match='cache must be "memory" or "hub", not \'disk\''):
            HaulFileSystem(endpoint=served.hub.url, cache="disk", skip_instance_cache=True)


# ---- what is read from it


def test_a_blob_is_read_without_a_request_for_bytes_and_without_any_for_a_commit(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem]
) -> None:
    assert read_all(new()) == BIG
    assert until(lambda: names(cache) == [SHA])
    fs = new()
    assert read_all(fs) == BIG
    assert sent(served) == 0
    fs = new()
    name = f"{MODEL}@{served.repo.head.id}/big.bin"
    assert fs.info(name)["size"] == SIZE
    assert fs.cat_file(name, 5, 5_000_000) == BIG[5:5_000_000]
    assert read_all(fs, name) == BIG
    assert fs.open(name, block_size=0).read() == BIG
    assert list(served.hub.requests) == []


def test_a_kept_listing_serves_for_a_commit(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem]
) -> None:
    snapshot_download(MODEL, cache_dir=cache, endpoint=served.hub.url, token=False)
    (cache / "models--org--tiny/snapshots" / served.repo.head.id / "big.bin").unlink()
    fs = new()
    name = f"{MODEL}@{served.repo.head.id}/big.bin"
    assert read_all(fs, name) == BIG
    assert list(served.hub.requests) == []
    assert fs.info(name)["lfs"]["sha256"] == SHA


def test_offline_a_branch_is_what_it_was_last(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_all(new()) == BIG
    assert until(lambda: names(cache) == [SHA])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fs = new()
    assert read_all(fs) == BIG
    assert fs.exists(f"{MODEL}/big.bin")
    assert fs.cat_file(f"{MODEL}/big.bin", -7) == BIG[-7:]
    with pytest.raises(OSError, match="offline"):
        fs.cat_file(f"{MODEL}/config.json")
    with pytest.raises(OSError, match="offline"):
        fs.cat_file("org/other/config.json")
    assert list(served.hub.requests) == []


def test_a_blob_that_something_has_changed_is_not_taken_for_the_file(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem]
) -> None:
    assert read_all(new()) == BIG
    assert until(lambda: names(cache) == [SHA])
    blob = blobs(cache) / SHA
    blob.write_bytes(BIG[:3_000_000] + b"?" + BIG[3_000_001:])
    assert new().cat_file(f"{MODEL}/big.bin") == BIG
    blob.write_bytes(BIG[:-1])  # of another size
    assert read_all(new()) == BIG


# ---- what is copied


COPIES: dict[str, Callable[[HaulFileSystem, str, Path], Any]] = {
    "get_file": lambda fs, repo, out: fs.get_file(f"{repo}/big.bin", str(out / "big.bin")),
    "get": lambda fs, repo, out: fs.get(f"{repo}/big.bin", str(out / "big.bin")),
    "get of a list": lambda fs, repo, out: fs.get([f"{repo}/big.bin"], [str(out / "big.bin")]),
    "get of a folder": lambda fs, repo, out: fs.get(repo, str(out), recursive=True),
}
copies = pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
Copy = Callable[[HaulFileSystem, str, Path], Any]


@copies
def test_what_the_cache_has_is_copied_without_a_request_for_bytes(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem], tmp_path: Path, copy: Copy
) -> None:
    snapshot_download(MODEL, cache_dir=cache, endpoint=served.hub.url, token=False)
    copy(new(), MODEL, tmp_path / "out")
    assert (tmp_path / "out/big.bin").read_bytes() == BIG
    assert not (tmp_path / "out/big.bin").is_symlink()
    assert sent(served) == 0
    (tmp_path / "out/big.bin").write_bytes(b"edited")
    assert (blobs(cache) / SHA).read_bytes() == BIG


def test_a_file_at_a_commit_is_copied_without_any_request_and_offline_one_at_a_branch(
    served: ServedRepo,
    cache: Path,
    new: Callable[..., HaulFileSystem],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot_download(MODEL, cache_dir=cache, endpoint=served.hub.url, token=False)
    fs = new()
    fs.get_file(f"{MODEL}@{served.repo.head.id}/big.bin", str(tmp_path / "pinned.bin"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    new().get_file(f"{MODEL}/big.bin", str(tmp_path / "offline.bin"))
    assert (tmp_path / "pinned.bin").read_bytes() == (tmp_path / "offline.bin").read_bytes() == BIG
    assert list(served.hub.requests) == []


@copies
def test_what_is_copied_is_in_the_cache_then_and_fetched_by_nobody_else(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem], tmp_path: Path, copy: Copy
) -> None:
    copy(new(), MODEL, tmp_path / "out")
    assert asked(served, "big.bin") == set(range(0, SIZE, STEP))
    assert SHA in names(cache)
    assert not [name for name in names(cache) if name.endswith(".incomplete")]
    again = new()
    copy(again, MODEL, tmp_path / "again")
    assert read_all(again) == BIG
    found = huggingface_hub.hf_hub_download(MODEL, "big.bin", cache_dir=cache, local_files_only=True)
    assert Path(found).resolve() == (blobs(cache) / SHA).resolve()
    for folder in ("out", "again"):
        assert (tmp_path / folder / "big.bin").read_bytes() == BIG
    assert sent(served, "big.bin") == 0


def test_of_what_was_read_in_part_a_copy_fetches_the_rest(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem], tmp_path: Path
) -> None:
    assert new().cat_file(f"{MODEL}/big.bin", 1_000_000, 3_000_000) == BIG[1_000_000:3_000_000]
    assert let_go(cache)
    new().get_file(f"{MODEL}/big.bin", str(tmp_path / "big.bin"))
    assert (tmp_path / "big.bin").read_bytes() == BIG
    assert asked(served, "big.bin") == {*range(0, 1_000_000, STEP), *range(3_000_000, SIZE, STEP)}
    assert names(cache) == [SHA]


def test_one_file_that_goes_to_two_places_is_fetched_once(
    served: ServedRepo, new: Callable[..., HaulFileSystem], tmp_path: Path
) -> None:
    callback = fsspec.Callback()
    name = f"{MODEL}/config.json"
    new().get([name, name], [str(tmp_path / "a"), str(tmp_path / "b")], callback=callback)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b'{"a": 1}'
    assert sent(served) == 8
    assert (callback.size, callback.value) == (2, 2)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(BIG[:3_000_000] + b"?" + BIG[3_000_001:], id="another byte"),
        pytest.param(BIG[:-1], id="cut short"),
    ],
)
def test_a_blob_that_something_has_changed_is_not_copied(
    cache: Path, new: Callable[..., HaulFileSystem], tmp_path: Path, change: bytes
) -> None:
    assert read_all(new()) == BIG
    assert until(lambda: names(cache) == [SHA])
    (blobs(cache) / SHA).write_bytes(change)
    new().get_file(f"{MODEL}/big.bin", str(tmp_path / "big.bin"))
    assert (tmp_path / "big.bin").read_bytes() == BIG
    assert sorted(os.listdir(tmp_path)) == ["big.bin", "cache"], "nothing is left of the attempt"


def test_a_copy_that_is_right_already_is_left_alone_and_nothing_fetched(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem], tmp_path: Path
) -> None:
    (tmp_path / "big.bin").write_bytes(BIG)
    os.utime(tmp_path / "big.bin", (1, 1))
    new().get_file(f"{MODEL}/big.bin", str(tmp_path / "big.bin"))
    assert (tmp_path / "big.bin").stat().st_mtime == 1
    assert sent(served) == 0
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_keeps_nothing_from_being_copied(
    cache: Path, new: Callable[..., HaulFileSystem], tmp_path: Path
) -> None:
    cache.write_bytes(b"a file where the folder should be")
    new().get(MODEL, str(tmp_path / "out"), recursive=True)
    assert (tmp_path / "out/big.bin").read_bytes() == BIG
    assert (tmp_path / "out/config.json").read_bytes() == b'{"a": 1}'


def test_wrong_bytes_are_neither_copied_nor_kept(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem], tmp_path: Path
) -> None:
    served.hub.faults.add(Corrupt(2_500_000), kind="cdn", path="big.bin", times=None)
    with pytest.raises(OSError, match="digest does not match"):
        new().get_file(f"{MODEL}/big.bin", str(tmp_path / "big.bin"))
    assert not (tmp_path / "big.bin").exists()
    assert SHA not in names(cache)


def test_by_default_a_copy_is_the_only_one(
    cache: Path, new: Callable[..., HaulFileSystem], tmp_path: Path
) -> None:
    new(cache="memory").get(MODEL, str(tmp_path / "out"), recursive=True)
    assert (tmp_path / "out/big.bin").read_bytes() == BIG
    assert not cache.exists()


# ---- who else has it


def test_a_staged_file_that_another_has_is_neither_touched_nor_waited_for(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem]
) -> None:
    theirs = claim(blobs(cache), SHA, SIZE)
    try:
        fs = new()
        assert read_all(fs) == BIG
        assert theirs.done == 0
        assert theirs.is_ours()
        assert names(cache) == [f"{SHA}.haul.incomplete"]
    finally:
        theirs.close()


def test_a_download_gets_the_staged_file_while_readers_have_the_file_open(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem]
) -> None:
    fs = new()
    with fs.open(f"{MODEL}/big.bin") as file:
        assert file.read(100_000) == BIG[:100_000]
        found = snapshot_download(MODEL, cache_dir=cache, endpoint=served.hub.url, token=False)
        assert Path(found, "big.bin").read_bytes() == BIG
        assert file.read() == BIG[100_000:]
    assert SHA in names(cache)
    assert not [name for name in names(cache) if name.endswith(".incomplete")]


def test_threads_and_filesystems_that_read_the_same_make_one_blob(
    cache: Path, new: Callable[..., HaulFileSystem]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read_all, [new() for _ in range(4)]))
    assert found == [BIG] * 4
    assert until(lambda: names(cache) == [SHA])


def test_what_was_staged_before_the_machine_started_is_left_to_a_download(
    served: ServedRepo, cache: Path, new: Callable[..., HaulFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = bytes(2_000_000)  # as a power failure may leave it
    with monkeypatch.context() as patch:
        before = ownership.current_owner()
        patch.setattr(ownership, "_me", ownership.owner_from({**_fields(before), "boot": "before"}))
        staged = claim(blobs(cache), SHA, SIZE)
        staged.write(0, memoryview(wrong))
        staged.record(0, len(wrong))
        staged.close()
    fs = new()
    assert fs.cat_file(f"{MODEL}/big.bin", 0, 1_000_000) == BIG[:1_000_000]
    assert read_all(fs) == BIG
    assert names(cache) == [f"{SHA}.haul.incomplete"]
    found = snapshot_download(MODEL, cache_dir=cache, endpoint=served.hub.url, token=False)
    assert Path(found, "big.bin").read_bytes() == BIG


def _fields(owner: ownership.Owner) -> dict[str, Any]:
    return {name: getattr(owner, name) for name in ownership.Owner.__slots__}


# ---- when something goes wrong


def test_a_wrong_byte_never_becomes_a_blob(
    served: ServedRepo,
    cache: Path,
    new: Callable[..., HaulFileSystem],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rule = served.hub.faults.add(Corrupt(2_500_000), kind="cdn", path="big.bin", times=None)
    assert len(new().cat_file(f"{MODEL}/big.bin", 2_000_000, 3_000_000)) == 1_000_000
    assert rule.hits
    served.hub.faults.clear()
    assert let_go(cache)
    fs = new()
    assert len(read_all(fs)) == SIZE  # the rest is right, and the whole is not
    assert until(lambda: "another digest" in caplog.text)
    assert until(lambda: not any(blobs(cache).glob("*")))
    assert read_all(new()) == BIG
    assert until(lambda: names(cache) == [SHA])
    assert (blobs(cache) / SHA).read_bytes() == BIG


def test_a_cache_that_cannot_be_written_is_done_without(
    cache: Path, new: Callable[..., HaulFileSystem], caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_bytes(b"a file where the folder should be")
    assert read_all(new()) == BIG
    said = [each for each in caplog.records if "memory only" in each.getMessage()]
    assert len(said) == 1


def test_a_large_file_is_checked_by_a_thread(
    cache: Path, new: Callable[..., HaulFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_copy, "_AT_ONCE", 0)
    assert read_all(new()) == BIG
    assert until(lambda: names(cache) == [SHA])


def test_a_name_that_would_leave_the_cache_is_read_and_not_kept(new: Callable[..., HaulFileSystem]) -> None:
    fs = new()
    with pytest.raises((FileNotFoundError, ValueError)):
        fs.cat_file(f"{MODEL}/../../outside")


PROGRAM = """
import sys, fsspec
fs = fsspec.filesystem("haul", cache="hub", token=False)
with fs.open("org/tiny/big.bin") as file:
    done = 0
    while block := file.read(100_000):
        done += len(block)
        if done >= int(sys.argv[1]):
            print("so far", flush=True)
            sys.stdin.readline()
print("all", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_again_and_again_a_reader_fetches_little_twice_and_the_blob_is_right(
    served: ServedRepo, cache: Path, tmp_path: Path, new: Callable[..., HaulFileSystem]
) -> None:
    environment = hub_environment(
        served.hub, tmp_path / "home", HF_HUB_CACHE=str(cache), PYTHONPATH=os.pathsep.join([str(SRC)])
    )
    here = [0]
    for stop in (500_000, 2_000_000, 4_000_000):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(stop)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            assert child.stdout.readline() == "so far\n"
            child.send_signal(signal.SIGKILL)
        if names(cache) == [SHA]:
            here.append(SIZE)
        else:
            here += [each.bytes_done or 0 for each in hf_haul.status(cache).files]
    assert len(here) == 4
    assert here == sorted(here)
    assert here[1] > 0
    assert here[2] > 500_000
    assert served.hub.requests.settle()
    served.hub.requests.clear()
    assert read_all(new()) == BIG
    assert sent(served) <= SIZE - here[-1], "what is here is not fetched again"
    assert until(lambda: names(cache) == [SHA])
    assert (blobs(cache) / SHA).read_bytes() == BIG


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_reads_and_leaves_its_parents_staged_file_alone(
    cache: Path, new: Callable[..., HaulFileSystem]
) -> None:
    fs = new()
    with fs.open(f"{MODEL}/big.bin") as file:
        assert file.read(200_000) == BIG[:200_000]
        child = os.fork()
        if child == 0:
            right = file.read(100_000) == BIG[200_000:300_000] and fs.cat_file(f"{MODEL}/big.bin") == BIG
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert file.read() == BIG[200_000:]
    assert until(lambda: names(cache) == [SHA])
    assert (blobs(cache) / SHA).read_bytes() == BIG


def test_urls_take_the_option(served: ServedRepo, cache: Path) -> None:
    options = {"endpoint": served.hub.url, "token": False, "cache": "hub"}
    with fsspec.open(f"haul://{MODEL}/big.bin", **options) as file:
        assert file.read() == BIG
    assert until(lambda: names(cache) == [SHA])
    HaulFileSystem.clear_instance_cache()
