"""Order inside a queue, order of queues, and the two lanes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.support.batches import NumberedFiles
from tests.support.plans import planned
from tests.support.transport import MemoryDestination

from hf_haul.config import GiB, KiB
from hf_haul.engine import planned_files
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.task import DownloadPriority, DownloadTask

HIGH, NORMAL, LOW = DownloadPriority


def task(
    name: str, size: int, priority: DownloadPriority = NORMAL, order: tuple[int, ...] = ()
) -> DownloadTask:
    return DownloadTask("org/m", name, f"https://hub/{name}", Path(name), size, priority, order)


def names(queue: ModelDownloadQueue, *, prefer_small: bool = True) -> list[str]:
    taken = []
    while (first := queue.first_high() or queue.first_of_lanes(prefer_small=prefer_small)) is not None:
        queue.start(first)
        queue.settle(first, ok=True)
        taken.append(first.file_path)
    return taken


def test_files_leave_by_priority_then_policy_then_age() -> None:
    tasks = [task(f"{p.name}-{o}-{a}", 1, p, (o,)) for p in DownloadPriority for o in (1, 2) for a in (1, 2)]
    shuffled = list(tasks)
    random.Random(5).shuffle(shuffled)
    queue = ModelDownloadQueue("org/m", tasks=shuffled)
    by_rule = sorted(shuffled, key=lambda t: (t.priority, t.order, t.sequence))
    assert names(queue) == [t.file_path for t in by_rule]


def test_the_lane_asked_for_goes_first_and_the_other_follows() -> None:
    small, large = task("small", 20 * KiB), task("large", GiB)
    queue = ModelDownloadQueue("org/m", tasks=[small, large])
    assert queue.first_of_lanes(prefer_small=True) is small
    assert queue.first_of_lanes(prefer_small=False) is large
    assert names(queue, prefer_small=False) == ["large", "small"]


def test_more_urgent_queues_go_first_and_among_equals_the_older() -> None:
    queues = [
        ModelDownloadQueue(name, priority)
        for name, priority in [("a", LOW), ("b", HIGH), ("c", LOW), ("d", HIGH)]
    ]
    assert [q.model_id for q in sorted(queues)] == ["b", "d", "a", "c"]
    assert len({q.queue_id for q in queues}) == 4


def test_active_files_are_bounded() -> None:
    queue = ModelDownloadQueue("org/m", tasks=[task(str(i), 1) for i in range(3)], max_concurrent_files=2)
    for _ in range(2):
        assert queue.has_room
        first = queue.first_of_lanes(prefer_small=True)
        assert first is not None
        queue.start(first)
    assert not queue.has_room


def test_a_deferred_file_makes_room_and_returns_to_its_place() -> None:
    first, second = task("1", 1, order=(1,)), task("2", 1, order=(2,))
    queue = ModelDownloadQueue("org/m", tasks=[first, second], max_concurrent_files=1)
    queue.start(first)
    queue.defer(first)
    assert queue.has_room
    assert not queue.finished
    queue.put_back(first.task_id)
    assert queue.first_of_lanes(prefer_small=True) is first


def test_a_queue_is_finished_when_every_file_is_settled() -> None:
    good, bad = task("good", 1), task("bad", 1)
    queue = ModelDownloadQueue("org/m", tasks=[good, bad])
    for each, ok in [(good, True), (bad, False)]:
        assert not queue.finished
        queue.start(each)
        queue.settle(each, ok=ok)
    assert queue.finished
    assert (queue.completed, queue.failed) == ([good], [bad])


def test_only_the_first_of_a_lane_can_be_started() -> None:
    first, second = task("1", 1), task("2", 1)
    queue = ModelDownloadQueue("org/m", tasks=[first, second])
    with pytest.raises(RuntimeError, match="not the first"):
        queue.start(second)


def test_dropping_empties_lanes_and_deferred_files() -> None:
    tasks = [task("high", 1, HIGH), task("small", 1), task("large", GiB), task("elsewhere", 1)]
    queue = ModelDownloadQueue("org/m", tasks=tasks[3:])
    queue.start(tasks[3])
    queue.defer(tasks[3])
    for each in tasks[:3]:
        queue.add(each)
    assert {t.file_path for t in queue.drop_waiting()} == {"high", "small", "large", "elsewhere"}
    assert queue.finished


def test_a_source_that_is_full_holds_up_only_its_own_files() -> None:
    there = [task(f"{i}", 1, priority, (i,)) for i, priority in enumerate([HIGH, NORMAL, LOW])]
    other = DownloadTask("org/m", "o", "https://other/o", Path("o"), 1, HIGH, (9,))
    queue = ModelDownloadQueue("org/m", tasks=[*there, other])
    assert queue.first_high() is there[0]
    assert queue.first_high(lambda sources: sources == ("https://other",)) is other
    assert queue.first_high(lambda _source: False) is None
    assert (
        queue.first_of_lanes(prefer_small=True, may_begin=lambda sources: sources == ("https://other",))
        is None
    )


def test_the_work_that_waits_is_told_by_lane_and_source() -> None:
    queue = ModelDownloadQueue("org/m")
    sizes = {"a": 20 * KiB, "b": 30 * KiB, "c": GiB, "d": 2 * GiB, "e": None}
    tasks = {
        name: DownloadTask(
            "org/m", name, f"https://{'other' if name == 'd' else 'hub'}/{name}", Path(name), size
        )
        for name, size in sizes.items()
    }
    for each in tasks.values():
        queue.add(each)
    hub, other = "https://hub", "https://other"

    def waiting() -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
        return queue.waiting_work(small=True), queue.waiting_work(small=False)

    assert waiting() == (
        {hub: (2, 50 * KiB)},
        {hub: (2, GiB), other: (1, 2 * GiB)},
    )  # of one no size is known
    queue.start(tasks["c"])
    first = queue.first_of_lanes(prefer_small=True)
    assert first is not None
    queue.start(first)
    assert waiting() == ({hub: (1, 50 * KiB - (first.size or 0))}, {hub: (1, 0), other: (1, 2 * GiB)})
    queue.defer(first)
    queue.put_back(first.task_id)
    queue.drop_waiting((other,))
    assert waiting() == ({hub: (2, 50 * KiB)}, {hub: (1, 0)})


class TestVeryMany:
    """The files of a plan, with few of them taken for very many."""

    @pytest.fixture
    def batch(self, monkeypatch: pytest.MonkeyPatch) -> NumberedFiles:
        for name in ("LONG", "NAMED"):
            monkeypatch.setattr(planned_files, name, 10)
        return NumberedFiles(30, lambda name: MemoryDestination(Path("here"), name), Path("here"))

    @pytest.fixture
    def queue(self, batch: NumberedFiles) -> ModelDownloadQueue:
        queue = ModelDownloadQueue("org/m")
        queue.add_planned(planned(batch))
        return queue

    def test_requests_are_made_one_after_the_other(
        self, batch: NumberedFiles, queue: ModelDownloadQueue
    ) -> None:
        assert (len(queue), len(queue.tasks), batch.asked) == (30, 30, [])
        for number in range(30):
            assert not queue.finished
            first = queue.first_of_lanes(prefer_small=True)
            assert first is not None
            assert batch.asked == list(range(29, 28 - number, -1)), "the smallest is the last of the batch"
            queue.start(first)
            queue.settle(first, ok=True)
        assert queue.finished
        assert len(queue.completed) == 30
        assert queue.lost() == []

    def test_a_file_that_was_put_back_goes_before_those_behind_it(self, queue: ModelDownloadQueue) -> None:
        first = queue.first_of_lanes(prefer_small=True)
        assert first is not None
        queue.start(first)
        queue.defer(first)
        second = queue.first_of_lanes(prefer_small=True)
        assert second is not first
        queue.put_back(first.task_id)
        assert queue.first_of_lanes(prefer_small=True) is first

    def test_of_those_that_are_given_up_the_last_get_no_task(
        self, batch: NumberedFiles, queue: ModelDownloadQueue
    ) -> None:
        first = queue.first_of_lanes(prefer_small=True)
        assert first is not None
        queue.start(first)
        dropped = queue.drop_waiting()
        assert (len(dropped), queue.unnamed, len(queue)) == (10, 19, 0)
        assert len(batch.asked) == 11
        for each in dropped:
            queue.settle(each, ok=False)
        queue.settle(first, ok=True)
        assert queue.finished
        assert queue.lost() == []

    def test_a_file_that_no_list_has_is_found(self, queue: ModelDownloadQueue) -> None:
        first = queue.first_of_lanes(prefer_small=True)
        assert first is not None
        queue.start(first)
        del queue.active[first.task_id]
        assert queue.lost() == [first]
        queue.put_back_lost(first)
        assert queue.lost() == []
        assert queue.first_of_lanes(prefer_small=True) is first

    def test_files_of_a_plan_and_others_do_not_mix(self, queue: ModelDownloadQueue) -> None:
        with pytest.raises(RuntimeError, match="has the files of a plan"):
            queue.add(task("a", 1))
        with pytest.raises(RuntimeError, match="has files already"):
            queue.add_planned(planned())
