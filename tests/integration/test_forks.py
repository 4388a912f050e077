"""A forked child works, whatever the parent's threads were at."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import tqdm as hf_tqdm
from tests.support.forking import in_child
from tests.support.hub import ServedRepo, hub_environment, run_python, serve_repo
from tests.support.locks import holding, our_locks
from tests.support.repos import random_bytes
from tests.support.waits import until
from tqdm import tqdm

import hf_haul
from hf_haul.filesystem import HaulFileSystem
from hf_haul.localhub.testing.faults import IgnoreRange
from hf_haul.manager import ParallelDownloadManager

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

MODEL = "org/tiny"
BIG = random_bytes(6_000_001, "big")
SECONDS = 60


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedRepo]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "big.bin").write_bytes(BIG)
    (folder / "config.json").write_bytes(b"{}")
    with serve_repo(folder, lfs="redirect") as served:
        yield served


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Iterator[ParallelDownloadManager]:
    """The process-wide manager."""
    monkeypatch.setattr("hf_haul.manager._default", None)
    manager = hf_haul.default_manager()
    yield manager
    manager.shutdown(wait=False)


def test_a_forked_child_works_whatever_locks_the_parents_threads_held_at_the_fork(
    served: ServedRepo, default: ParallelDownloadManager, tmp_path: Path
) -> None:
    """Invariant 8."""
    hub = served.hub
    fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    name = f"{MODEL}/big.bin"
    own = ParallelDownloadManager()
    with (
        contextlib.closing(fs.open(name)) as file,
        contextlib.closing(fs.open(name, block_size=0)) as stream,
        own,
    ):
        with hf_haul.accelerate():
            assert file.read(300_000) + file.read(300_000) == BIG[:600_000]  # something is fetched ahead now
            assert stream.read(10) == BIG[:10]
            hf_haul.hf_hub_download(
                MODEL, "config.json", endpoint=hub.url, token=False, cache_dir=tmp_path / "a"
            )
            hub.set_pace(200_000)
            target = tmp_path / "slow.bin"
            task = own.add_download_task(MODEL, "big.bin", fs.url(name), str(target), len(BIG))
            assert until(lambda: own.get_download_stats()["connections"])
            locks = our_locks()
            with holding(locks) as held:
                hub.set_pace(None)
                works = in_child(
                    lambda: file.read(1_000_000) == BIG[600_000:1_600_000],
                    lambda: stream.read(1_000_000) == BIG[10:1_000_010],
                    lambda: fs.cat_file(name) == BIG,
                    lambda: fs.open(name).read(10_000) == BIG[:10_000],
                    lambda: fs.ls(MODEL, refresh=True),
                    lambda: Path(
                        hf_haul.hf_hub_download(
                            MODEL, "big.bin", endpoint=hub.url, token=False, cache_dir=tmp_path / "b"
                        )
                    ).read_bytes()
                    == BIG,
                    lambda: own.download_model_parallel(
                        MODEL, [Spec("config.json", 2)], fs.url(f"{MODEL}/config.json")[: -len("/config.json")],
                        str(tmp_path / "c"),
                    )["success"],
                    lambda: own.get_download_stats()["queues"] == 0,
                )  # fmt: skip
        assert works
        # All of the kinds there are, and not only some:
        assert len(held) > 50
        for kind in ("Extents", "RangeSource", "ReadThreads", "HaulFile", "Scheduler", "ConnectionPool", "RateLimits",
                     "BandwidthLimiter", "SourceHistory", "EventBus", "Acceleration",
                     "hf_haul.manager", "hf_haul.storage.adoption"):  # fmt: skip
            assert any(kind in each for each in held), kind
        # And the parent goes on.
        assert file.read() == BIG[600_000:]
        assert stream.read() == BIG[10:]
        assert own.wait_for_model_completion(task, SECONDS)["success"]
        assert target.read_bytes() == BIG


class Spec:
    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size


BUSY = """
import faulthandler, os, random, signal, sys, tempfile, threading, time
import hf_haul
from hf_haul import HaulFileSystem
rounds, url = int(sys.argv[1]), os.environ["HF_ENDPOINT"]
fs = HaulFileSystem(endpoint=url, token=False)
big, small = "org/tiny/big.bin", "org/tiny/config.json"
truth = fs.cat_file(big)
shared = fs.open(big)
stop = threading.Event()
problems = []
def reading():
    noise, file = random.Random(), fs.open(big)
    while not stop.is_set():
        at = noise.randrange(len(truth) - 3000)
        file.seek(at)
        if file.read(3000) != truth[at:at + 3000]: problems.append(at)
        with fs.open(big) as other: other.read(noise.choice([10, 100_000, 1_000_000]))
def downloading():
    while not stop.is_set():
        with tempfile.TemporaryDirectory() as folder:
            hf_haul.snapshot_download("org/tiny", local_dir=folder, token=False)
def forever(work):
    try: work()
    except BaseException as error: problems.append(repr(error))
threads = [threading.Thread(target=forever, args=(work,), daemon=True) for work in (reading, reading, downloading, downloading)]
for thread in threads: thread.start()
hung = wrong = 0
for i in range(rounds):
    time.sleep(random.random() * 0.02)
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(20, exit=True)
        with fs.open(big) as file:
            file.seek(i * 1000)
            ok = file.read(3000) == truth[i * 1000:i * 1000 + 3000]
        shared.seek(5000)
        ok = ok and shared.read(10) == truth[5000:5010]
        if i % 10 == 0:
            with tempfile.TemporaryDirectory() as folder:
                path = hf_haul.hf_hub_download("org/tiny", "config.json", local_dir=folder, token=False)
                ok = ok and open(path, "rb").read() == fs.cat_file(small)
        os._exit(0 if ok else 2)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    hung += status == 1
    wrong += status not in (0, 1)
stop.set()
for thread in threads: thread.join(30)
print(hung, wrong, problems, sum(thread.is_alive() for thread in threads))
os._exit(0)
"""


@pytest.mark.timeout(600)
def test_children_of_a_parent_whose_threads_read_and_download_never_hang(
    served: ServedRepo, tmp_path: Path
) -> None:
    environment = hub_environment(served.hub, tmp_path, PYTHONWARNINGS="ignore")
    result = run_python(BUSY, environment, "80", timeout=590)
    assert result.stdout == "0 0 [] 0\n", result.stderr


def test_a_child_asks_the_hub_whatever_the_parents_client_was_at(served: ServedRepo) -> None:
    from huggingface_hub.utils import _http  # type: ignore[attr-defined]  # whose lock it is

    api = HfApi(endpoint=served.hub.url, token=False)
    api.model_info(MODEL)
    client = _http.get_session()
    pool = client._transport._pool
    locks = {"client": _http._CLIENT_LOCK, "pool": pool._optional_thread_lock._lock}
    with holding(locks) as held:
        assert len(held) == 2
        assert in_child(lambda: api.model_info(MODEL).id == MODEL, lambda: _http.get_session() is not client)
    assert _http.get_session() is client
    assert api.model_info(MODEL).id == MODEL


def test_a_child_meets_no_lock_that_a_library_held_for_another_thread(
    served: ServedRepo, default: ParallelDownloadManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del default
    hub = served.hub
    fs = HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
    hub.faults.add(IgnoreRange(), path="*big.bin", times=None)  # its copy goes into a temporary file
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert HfApi(endpoint=hub.url, token=False).model_info(MODEL).last_modified  # reads a date
    found = {
        value: f"{name}.{variable}"
        for name, module in list(sys.modules.items())
        if name.startswith("huggingface_hub") or name in {"tempfile", "_strptime"}
        for variable, value in vars(module).items()
        if isinstance(value, type(threading.Lock()))
    }
    locks = {name: lock for lock, name in found.items()}
    assert {"tempfile._once_lock", "_strptime._cache_lock"} < set(locks)
    with holding(locks) as held:
        assert held == list(locks)
        assert in_child(
            lambda: fs.cat_file(f"{MODEL}/big.bin", 100_000, 100_100) == BIG[100_000:100_100],
            lambda: HfApi(endpoint=hub.url, token=False).model_info(MODEL).last_modified,
            lambda: hf_haul.snapshot_download(MODEL, endpoint=hub.url, token=False, cache_dir=tmp_path / "c"),
        )


def test_a_cache_of_fsspecs_that_a_thread_was_filling_is_not_used_in_a_child(
    served: ServedRepo, default: ParallelDownloadManager
) -> None:
    del default
    fs = HaulFileSystem(endpoint=served.hub.url, token=False, skip_instance_cache=True)
    for kind in ("readahead", "bytes", "background"):
        with fs.open(f"{MODEL}/big.bin", cache_type=kind) as file:
            assert file.read(100) == BIG[:100]
            with holding({"caching": file._caching}):
                file.cache.start, file.cache.end = 3_000_000, 3_100_000  # as in the middle of a change
                assert in_child(lambda file=file: file.read(100) == BIG[100:200])


@pytest.mark.parametrize("cls", [tqdm, hf_tqdm])
def test_a_child_shows_bars_whatever_bar_its_parent_was_moving(
    cls: Any, served: ServedRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[hf_tqdm.__module__], "HF_HUB_DISABLE_PROGRESS_BARS", False)
    with cls(total=1, file=io.StringIO(), disable=False):
        lock = cls.get_lock()
        with holding({"bars": getattr(lock, "locks", [lock])[-1]}) as held:
            assert held == ["bars"]
            made: list[Any] = []

            def make(*args: Any, **options: Any) -> Any:
                made.append(cls(*args, **{**options, "file": io.StringIO(), "disable": False}))
                return made[-1]

            def download() -> bool:
                hf_haul.snapshot_download(
                    MODEL, endpoint=served.hub.url, token=False, local_dir=tmp_path / "out", tqdm_class=make
                )
                return len(made) == 2 and all(bar.n == bar.total for bar in made)

            assert in_child(download)
