"""A queue's running state: what its user is told, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import Settings
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.events import Notifier
from hf_haul.engine.plan import make_plan
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.transfer import Part, Transfer
from hf_haul.errors import DownloadCancelledError
from hf_haul.ranges import ByteRange
from hf_haul.storage.claiming import claim
from hf_haul.task import DownloadProgress, DownloadState, DownloadTask

SIZE = 1000


class Bench:
    """One queue of one file, and everything its user was told."""

    def __init__(self, folder: Path) -> None:
        self.told: list[DownloadProgress] = []
        source = FakeSource(bytes(SIZE))
        wanted = request(MemoryDestination(folder, "a.bin"), source)
        plan = make_plan(
            [wanted], model_id="m", policy=DefaultPolicy(), settings=Settings(), created_at=lambda: 0.0
        )
        self.notifier = Notifier(self.told.append, "test")
        queue = ModelDownloadQueue("m")
        self.run = QueueRun(queue, plan.files, self.notifier, clock=FakeClock())
        (planned,) = plan.files
        self.task: DownloadTask = planned.task
        queue.add(self.task)
        queue.start(self.task)
        self.transfer = Transfer(self.task, wanted, source, self.run.metrics)
        self.transfer.staged = claim(folder, "a.bin", SIZE)
        self.run.transfers[self.task.task_id] = self.transfer
        self.task.move_to(DownloadState.RUNNING)

    def write(self, start: int, stop: int) -> None:
        assert self.transfer.staged is not None
        self.transfer.staged.add(start, memoryview(bytes(stop - start)))

    def said(self) -> list[tuple[int, str]]:
        assert self.notifier.flush()
        return [(message.bytes_downloaded, message.status.value) for message in self.told]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    if made.transfer.staged is not None:
        made.transfer.staged.delete()


def test_only_what_moved_is_told(bench: Bench) -> None:
    for step in (0, 0, 300, 300, 600):
        if step:
            bench.write(0, step)
        bench.run.post_progress()
        bench.notifier.flush()
    assert bench.said() == [(0, "running"), (300, "running"), (600, "running")]


def test_a_change_of_state_is_told_without_a_new_byte(bench: Bench) -> None:
    bench.run.post_progress()
    bench.notifier.flush()
    bench.task.move_to(DownloadState.PAUSED)
    bench.run.post_progress()
    assert bench.said() == [(0, "running"), (0, "paused")]


def test_nothing_is_told_after_the_end_by_one_who_looked_before_it(bench: Bench) -> None:
    bench.write(0, SIZE)
    looking = dict(bench.run.transfers)
    bench.task.move_to(DownloadState.VERIFYING)
    bench.task.move_to(DownloadState.DONE)
    bench.run.succeed(bench.transfer, transferred=True)
    bench.run.post(bench.transfer)
    assert bench.said() == [(SIZE, "done")]
    bench.run.transfers = looking  # a ticker that made its list a moment earlier
    bench.run.post_progress()
    assert bench.said() == [(SIZE, "done")]


def test_what_is_on_disk_counts_wherever_it_is(bench: Bench) -> None:
    bench.write(0, 400)
    assert bench.run.bytes_done() == 400
    bench.run.drop(bench.transfer, 400)  # as of a file that was cancelled
    assert bench.run.bytes_done() == 400
    bench.run.fail(bench.task, DownloadCancelledError("a.bin"), DownloadState.CANCELLED)
    assert bench.run.metrics.files_failed == 1


@pytest.mark.parametrize("ends", ["in place", "dropped"])
def test_a_file_that_ends_while_bytes_are_counted_counts_once(
    bench: Bench, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(0, SIZE)
    staged = bench.transfer.staged
    assert staged is not None
    done = staged.done

    def end_meanwhile(_: object) -> int:
        monkeypatch.undo()
        if ends == "dropped":
            bench.run.drop(bench.transfer, done)
        else:
            bench.run.succeed(bench.transfer, transferred=True)
        return done

    monkeypatch.setattr(type(staged), "done", property(end_meanwhile))
    assert bench.run.bytes_done() == SIZE
    assert bench.run.bytes_done() == SIZE


def test_a_size_that_is_learned_counts_in_the_total(bench: Bench) -> None:
    before = bench.run.total_bytes
    bench.run.learn_size(bench.task, SIZE + 5)
    assert (bench.task.size, bench.run.total_bytes) == (SIZE + 5, before + SIZE + 5)


def test_its_sources_are_named_without_secrets(tmp_path: Path) -> None:
    assert Bench(tmp_path).run.sources == {"http://source.test"}


@pytest.mark.parametrize(
    ("received", "resumed", "kept", "wasted"),
    [
        pytest.param(400, 0, True, 0, id="all of it is there"),
        pytest.param(700, 0, True, 300, id="some of it came twice"),
        pytest.param(300, 100, True, 0, id="an earlier session left a part"),
        pytest.param(400, 0, False, 400, id="what came is dropped"),
        pytest.param(300, 100, False, 300, id="what an earlier session left was not fetched here"),
    ],
)
def test_what_came_and_is_not_there_was_wasted(
    bench: Bench, received: int, resumed: int, kept: bool, wasted: int
) -> None:
    bench.write(0, 400)
    assert bench.transfer.staged is not None
    bench.transfer.staged.resumed = resumed
    part = Part(bench.transfer, ByteRange(0, 400), now=0.0)
    part.received = received
    bench.transfer.parts.append(part)
    assert bench.run.bytes_wasted() == (wasted if kept else 0)  # nobody has dropped it yet
    bench.transfer.remove(part)
    bench.run.drop(bench.transfer, 400 if kept else 0)
    assert bench.run.bytes_wasted() == bench.run.status().bytes_wasted == wasted
