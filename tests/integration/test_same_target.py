"""Two queues with one target: whatever they meet each other at, both end well, and one whole file is in place."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import leftovers
from tests.support.transport import FakeSource
from tests.support.waits import until

from hf_haul.config import KiB, MiB, Settings
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.plan import make_plan
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.scheduler import Scheduler
from hf_haul.limiter import BandwidthLimiter
from hf_haul.storage.destinations import FileDestination
from hf_haul.task import Digest, FileRequest, RemoteFile

BOUND = 20.0  # seconds
NAME = "model.bin"
SMALL, LARGE = 100 * KiB, 5 * MiB


class Gate:
    """Holds up whoever comes to one step of a download, once."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.reached, self.open = threading.Event(), threading.Event()
        self.error: Exception | None = None  # what is raised behind it

    def __call__(self, step: str) -> None:
        if step == self.step and not self.reached.is_set():
            self.reached.set()
            assert self.open.wait(BOUND)
            if self.error is not None:
                raise self.error


@dataclass
class GatedDestination:
    """A file on disk that is told of each step."""

    inner: FileDestination
    gate: Callable[[str], None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __fspath__(self) -> str:
        return os.fspath(self.inner)

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        found = self.inner.is_present(check)
        self.gate("has looked")
        return found

    def publish(self, staged: Path) -> None:
        self.gate("is about to publish")
        self.inner.publish(staged)
        self.gate("has published")


@dataclass
class Two:
    """A scheduler and what two queues fetch to one place."""

    folder: Path
    sources: dict[str, FakeSource] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = Settings(
            part_size=MiB, chunk_size=64 * KiB, min_chunk_size=64 * KiB, first_retry_wait=0.0, durable=False
        )
        self.scheduler = Scheduler(
            settings, BandwidthLimiter(None), lambda request: self.sources[request.remote.url]
        )

    @property
    def target(self) -> Path:
        return self.folder / NAME

    def submit(
        self, who: str, content: bytes, gate: Callable[[str], None], *, fresh: bool = False
    ) -> QueueRun:
        url = f"http://{who}.test/{NAME}"
        self.sources[url] = FakeSource(
            content, step=64 * KiB, on_read=lambda at: gate("reads") if at else None
        )
        digest = Digest("sha256", hashlib.sha256(content).hexdigest())
        inner = FileDestination(self.target, digest.value, digest, len(content))
        request = FileRequest(
            RemoteFile(NAME, url, len(content), digest), GatedDestination(inner, gate), fresh=fresh
        )
        plan = make_plan(
            [request],
            model_id=who,
            policy=DefaultPolicy(),
            settings=self.scheduler.settings,
            created_at=lambda: 0.0,
        )
        return self.scheduler.submit(ModelDownloadQueue(who), plan.files, None)


@pytest.fixture(name="two")
def _two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path)
    yield made
    made.scheduler.shutdown(wait_for_work=False)


@pytest.mark.parametrize("fresh", [False, True], ids=["", "fresh"])
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("same", [True, False], ids=["one version", "two versions"])
@pytest.mark.parametrize("step", ["has looked", "reads", "is about to publish", "has published"])
def test_a_queue_that_meets_another_at_its_target_waits_or_goes_its_own_way(
    two: Two, step: str, same: bool, size: int, fresh: bool
) -> None:
    contents = [random.Random(1).randbytes(size), random.Random(1 if same else 2).randbytes(size)]
    gate = Gate(step)
    if fresh and step == "has looked":
        gate = Gate("reads")  # it does not look
    first = two.submit("first", contents[0], gate, fresh=fresh)
    assert gate.reached.wait(BOUND)
    second = two.submit("second", contents[1], lambda step: None, fresh=fresh)
    waits = gate.step == "reads" and same
    if waits:
        assert until(lambda: second.status().waiting_for)
    else:
        assert second.done.wait(BOUND)
        assert second.errors == []
    gate.open.set()
    for queue in (first, second):
        assert two.scheduler.wait(queue, BOUND)
        assert queue.errors == []
    assert two.target.read_bytes() in contents
    assert leftovers(two.folder) == []
    if waits and not fresh:
        assert second.metrics.bytes_downloaded == 0
        assert second.present_files == 1


@pytest.mark.parametrize("how", ["is cancelled", "fails"])
def test_who_waits_for_another_queues_file_takes_it_over_when_that_queue_ends_without_it(
    two: Two, how: str
) -> None:
    content = random.Random(1).randbytes(LARGE)
    gate = Gate("reads")
    first = two.submit("first", content, gate)
    assert gate.reached.wait(BOUND)
    second = two.submit("second", content, lambda step: None)
    assert until(lambda: second.status().waiting_for)
    if how == "is cancelled":
        two.scheduler.cancel(first)
    else:
        gate.error = ValueError("a bug")
    gate.open.set()
    for queue in (first, second):
        assert two.scheduler.wait(queue, BOUND)
    assert len(first.errors) == 1
    assert second.errors == []
    assert two.target.read_bytes() == content
    assert second.metrics.bytes_downloaded < len(content)
    assert leftovers(two.folder) == []


def test_many_queues_with_one_target_all_end(two: Two) -> None:
    content = random.Random(1).randbytes(LARGE)
    queues = [two.submit(f"queue{i}", content, lambda step: None) for i in range(12)]
    for queue in queues:
        assert two.scheduler.wait(queue, BOUND)
        assert queue.errors == []
    assert two.target.read_bytes() == content
    assert leftovers(two.folder) == []
