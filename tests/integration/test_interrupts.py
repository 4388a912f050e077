"""Ctrl+C ends a call within a second, wherever it is, and the next call goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.disk import HungDisk
from tests.support.hub import ServedRepo, serve_repo
from tests.support.waits import until

from hf_haul.config import Settings
from hf_haul.filesystem import HaulFileSystem
from hf_haul.hub import local_dir
from hf_haul.hub.file_listing import FileListing
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.localhub.testing.faults import Delay, Fault, Stall, Status, Trickle
from hf_haul.manager import ParallelDownloadManager

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")

MODEL = "org/tiny"
WEIGHTS = "model-00001-of-00001.safetensors"
#: A second, and what a busy machine adds.
SOON = 1.5
#: Longer than any test waits.
LONG = 60.0
SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, durable=False)


@dataclass
class Place:
    """A hub, and where what comes from it goes."""

    served: ServedRepo
    folder: Path
    manager: ParallelDownloadManager
    patch: pytest.MonkeyPatch
    leave: threading.Event = field(default_factory=threading.Event)

    def fault(self, fault: Fault, hits: int = 1, **where: Any) -> Callable[[], object]:
        """Have the hub do so; returns whether it did."""
        rule = self.served.hub.faults.add(fault, times=None, **where)
        return lambda: rule.hits >= hits

    def hang(self, module: Any, name: str) -> Callable[[], object]:
        """Have a function hang until the test lets it go; returns whether it does."""
        reached = threading.Event()
        real = getattr(module, name)

        def call(*args: Any, **more: Any) -> Any:
            reached.set()
            self.leave.wait(LONG)
            return real(*args, **more)

        self.patch.setattr(module, name, call)
        return reached.is_set

    def hang_disk(self, *calls: str) -> Callable[[], object]:
        """Have the disk hang at some calls; returns whether it does."""
        disk = HungDisk(self.folder, self.patch)
        disk.hang(*calls)
        threading.Thread(target=lambda: (self.leave.wait(LONG), disk.release())).start()
        return disk.is_reached

    def release(self) -> None:
        self.leave.set()
        self.served.hub.faults.clear()

    # -- what is interrupted; each returns the sha256 of the weights

    def snapshot(self, **more: Any) -> str:
        root = snapshot_download(
            MODEL, endpoint=self.served.hub.url, cache_dir=self.folder / "cache", token=False, **{"manager": self.manager, **more}
        )  # fmt: skip
        return hashlib.sha256(Path(root, WEIGHTS).read_bytes()).hexdigest()

    def limited_snapshot(self) -> str:
        slow = not self.leave.is_set()
        return self.snapshot(**{"manager": None, "max_bandwidth": 50_000} if slow else {})

    def local_dir(self) -> str:
        return self.snapshot(local_dir=self.folder / "local")

    def file(self) -> str:
        path = hf_hub_download(
            MODEL, WEIGHTS, endpoint=self.served.hub.url, cache_dir=self.folder / "cache", token=False, manager=self.manager
        )  # fmt: skip
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def read(self) -> str:
        fs = HaulFileSystem(endpoint=self.served.hub.url, token=False, skip_instance_cache=True)
        fs.manager = self.manager
        with fs.open(f"{MODEL}/{WEIGHTS}") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def get(self) -> str:
        fs = HaulFileSystem(endpoint=self.served.hub.url, token=False, skip_instance_cache=True)
        fs.manager = self.manager
        fs.get_file(f"{MODEL}/{WEIGHTS}", str(self.folder / "got"))
        return hashlib.sha256((self.folder / "got").read_bytes()).hexdigest()


def _unclear(place: Place) -> None:
    """The listing tells no digests, so that each file is asked about."""
    place.patch.setattr(FileListing, "without_digest", lambda listing: [*listing])


def _metadata(fault: Fault) -> Callable[[Place], Callable[[], object]]:
    def prepare(place: Place) -> Callable[[], object]:
        _unclear(place)
        return place.fault(fault, hits=8, kind="resolve", method="HEAD")

    return prepare


def _fault(fault: Fault, **where: Any) -> Callable[[Place], Callable[[], object]]:
    return lambda place: place.fault(fault, **where)


def _limiter(place: Place) -> Callable[[], object]:
    def is_staged() -> bool:
        with contextlib.suppress(FileNotFoundError):  # a small one gets its name meanwhile
            return any(p.stat().st_size for p in place.folder.rglob("*.haul.incomplete"))
        return False

    return is_staged


def _hashing(place: Place) -> Callable[[], object]:
    target = place.folder / "local" / WEIGHTS
    target.parent.mkdir()
    target.write_bytes(bytes((place.served.folder / WEIGHTS).stat().st_size))
    return place.hang(local_dir, "file_digest")


BUSY = Status(503, retry_after=60)
PHASES: dict[str, tuple[Callable[[Place], Callable[[], object]], Callable[[Place], str]]] = {
    "snapshot: looking up the revision": (_fault(Delay(LONG), kind="info"), Place.snapshot),
    "snapshot: before it asks again for the revision": (_fault(BUSY, kind="info"), Place.snapshot),
    "snapshot: listing": (_fault(Delay(LONG), kind="tree"), Place.snapshot),
    "snapshot: in a listing that drips": (_fault(Trickle(20), kind="tree"), Place.snapshot),
    "snapshot: before it asks again for the listing": (_fault(BUSY, kind="tree"), Place.snapshot),
    "snapshot: asking about single files": (_metadata(Delay(LONG)), Place.snapshot),
    "snapshot: before it asks again about single files": (_metadata(BUSY), Place.snapshot),
    "snapshot: hashing what is in the local_dir": (_hashing, Place.local_dir),
    "snapshot: before the first byte": (_fault(Delay(LONG), kind="cdn"), Place.snapshot),
    "snapshot: in a body that stalls": (_fault(Stall(1000), kind="cdn"), Place.snapshot),
    "snapshot: as a storage asked": (_fault(BUSY, kind="cdn"), Place.snapshot),
    "snapshot: held back by a limit": (_limiter, Place.limited_snapshot),
    "snapshot: on a disk that hangs at a write": (lambda place: place.hang_disk("pwrite"), Place.snapshot),
    "snapshot: on a disk that hangs at the end": (lambda place: place.hang_disk("replace", "rename"), Place.snapshot),
    "file: asking about it": (_fault(Delay(LONG), kind="resolve", method="HEAD"), Place.file),
    "file: before it asks again": (_fault(BUSY, kind="resolve", method="HEAD"), Place.file),
    "file: before the first byte": (_fault(Delay(LONG), kind="cdn"), Place.file),
    "haul: looking up the revision": (_fault(Delay(LONG), kind="info"), Place.read),
    "haul: before it asks again": (_fault(BUSY, kind="info"), Place.read),
    "haul: before the first byte": (_fault(Delay(LONG), kind="cdn"), Place.read),
    "haul: in a body that stalls": (_fault(Stall(1000), kind="cdn"), Place.read),
    "haul: as a storage asked": (_fault(BUSY, kind="cdn"), Place.read),
    "haul: copying a file that stalls": (_fault(Stall(1000), kind="cdn"), Place.get),
}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    folder = tmp_path_factory.mktemp("source")
    with serve_repo(folder, shards=1, shard_bytes=600_000, lfs="redirect") as served:
        yield served


@pytest.fixture
def place(served: ServedRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    folder = tmp_path / "here"
    folder.mkdir()
    with ExitStack() as stack:
        manager = stack.enter_context(ParallelDownloadManager(settings=SETTINGS))
        place = Place(served, folder, manager, monkeypatch)
        stack.callback(place.release)
        yield place


@pytest.mark.parametrize("phase", PHASES)
def test_an_interrupt_ends_every_phase_of_a_call_within_a_second(place: Place, phase: str) -> None:
    prepare, call = PHASES[phase]
    reached = prepare(place)
    at: list[float] = []

    def interrupt() -> None:
        if until(reached, LONG / 2):
            time.sleep(0.05)  # CPython is late to see a signal that comes just before a call of the system
            at.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call(place)
        ended = time.monotonic()
    finally:
        place.leave.set()
        interrupting.join()
    assert at, "it never came so far"
    assert ended - at[0] < SOON
    place.release()
    place.patch.undo()
    with ParallelDownloadManager(settings=SETTINGS) as place.manager:  # who was asked for patience waits
        assert call(place) == place.served.contents[WEIGHTS]
