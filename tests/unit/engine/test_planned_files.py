"""The files of a plan: their tasks are made when somebody asks, and of very many not kept."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from pathlib import Path

import pytest
from tests.support.batches import NumberedFiles
from tests.support.plans import planned
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.engine import planned_files
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.planned_files import PlannedFiles
from hf_haul.engine.queue_run import QueueRun
from hf_haul.task import DownloadState


def batch(count: int) -> NumberedFiles:
    return NumberedFiles(count, lambda name: MemoryDestination(Path("here"), name), Path("here"))


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> PlannedFiles:
    """A plan that counts as one of very many files."""
    monkeypatch.setattr(planned_files, "LONG", 10)
    return planned(batch(100))


def test_a_plan_is_the_same_made_of_a_batch_and_of_its_requests() -> None:
    some = batch(50)
    lazy, eager = planned(some), planned(list(some))
    assert [each.task.file_path for each in lazy] == [each.task.file_path for each in eager]
    assert lazy[0].task.file_path == "0000049.png", "the smallest goes first"
    assert (lazy.nbytes, lazy.unknown_sizes) == (eager.nbytes, eager.unknown_sizes) == (50 * 51 // 2, 0)
    assert lazy.sources == eager.sources == {"http://source.test"}
    assert set(lazy.staging_dirs()) == set(eager.staging_dirs())
    assert [each.task.sort_key[:2] for each in lazy] == [each.task.sort_key[:2] for each in eager]


def test_ids_are_unique_lead_back_and_need_no_task() -> None:
    some = batch(50)
    made = planned(some)
    assert len(set(made.task_ids) | set(planned(some).task_ids)) == 100
    assert [made.task_ids.rank(each) for each in made.task_ids] == list(range(50))
    assert some.asked == []
    assert [task.task_id for task in made.tasks] == list(made.task_ids)


@pytest.mark.parametrize("text", ["task-", "task-xyz", "queue-0000000000000000", "task-" + "f" * 40])
def test_another_id_is_none_of_a_plan(text: str) -> None:
    with pytest.raises(KeyError):
        planned(batch(3)).task_ids.rank(text)


def test_a_task_of_few_files_is_made_once_and_kept() -> None:
    made = planned(batch(5))
    assert all(made.tasks[rank] is made.task(rank) is made[rank].task for rank in range(5))
    assert not made.is_long


def test_a_task_of_many_files_lives_as_long_as_somebody_has_it(long: PlannedFiles) -> None:
    task = long.task(7)
    assert long.task(7) is task
    gone = weakref.ref(task)
    del task
    gc.collect()
    assert gone() is None
    assert long.task(7).state is DownloadState.QUEUED


def test_a_forgotten_task_that_was_done_comes_back_done_with_the_size_it_had(long: PlannedFiles) -> None:
    done, task = long.new_list(), long.task(3)
    task.size = 4711
    done.append(task)
    assert task in done
    task_id = task.task_id
    del task
    gc.collect()
    (again,) = done
    assert (again.task_id, again.state, again.size) == (task_id, DownloadState.DONE, 4711)
    assert long.tasks[3] is again
    done.remove(again)
    assert (len(done), again in done) == (0, False)
    del again
    gc.collect()
    assert long.task(3).state is DownloadState.QUEUED


def test_a_request_is_found_by_its_task(long: PlannedFiles) -> None:
    assert long.request_of(long.task(4)).remote.path == long.task(4).file_path


def test_sizes_that_nobody_knows_are_counted() -> None:
    requests = [
        request(MemoryDestination(Path("here"), name), FakeSource(b"123"), size=size)
        for name, size in [("a", None), ("b", 3), ("c", None)]
    ]
    made = planned(requests)
    assert (made.unknown_sizes, made.nbytes) == (2, 3)
    run = QueueRun(ModelDownloadQueue("m"), made, None, clock=lambda: 0.0)
    for rank in range(3):
        run.learn_size(made.task(rank), 3)
    assert run.unknown_sizes == 0


def test_nothing_of_a_plan_outlives_it_until_a_collection() -> None:
    made = planned(batch(5))
    gone, tasks = weakref.ref(made), weakref.ref(made.task(0))
    gc.disable()
    try:
        del made
        assert (gone(), tasks()) == (None, None)
    finally:
        gc.enable()


def test_a_file_that_waits_takes_a_few_bytes() -> None:
    count = 20_000
    some = batch(count)
    tracemalloc.start()
    try:
        queue = ModelDownloadQueue("m")
        queue.add_planned(planned(some))
        run = QueueRun(queue, queue_files(queue), None, clock=lambda: 0.0)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert run.metrics.files_total == len(queue.tasks) == count
    assert some.asked == []
    assert kept / count < 20
    assert peak / count < 320


def queue_files(queue: ModelDownloadQueue) -> PlannedFiles:
    assert queue._planned is not None
    return queue._planned
