"""One lane of a queue: files that have a task, and those that get one when their turn comes near."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from hf_haul.engine import lanes
from hf_haul.engine.lanes import Backlog, Lane, lane_key
from hf_haul.metrics import SMALL_FILE
from hf_haul.task import DownloadPriority, DownloadTask

HUB = ("https://hub",)


def task(rank: int, size: int | None = 10) -> DownloadTask:
    return DownloadTask("org/m", f"{rank}", f"https://hub/{rank}", Path(f"{rank}"), size, order=(rank,))


class Bench:
    """A lane with a backlog, and the ranks whose tasks were made."""

    def __init__(self, *ranks: int) -> None:
        self.made: list[int] = []
        self.lane = Lane()
        self.lane.follow(Backlog(array("I", ranks), 10 * len(ranks), self.make))

    def make(self, rank: int) -> DownloadTask:
        self.made.append(rank)
        return task(rank)

    def take(self) -> DownloadTask:
        first = self.lane.first()
        assert first is not None
        self.lane.pop(first)
        return first


def test_a_task_is_made_when_its_file_is_about_to_be_the_first() -> None:
    bench = Bench(3, 5, 8)
    assert (len(bench.lane), bench.lane.nbytes, bench.made) == (3, 30, [])
    for number, rank in enumerate([3, 5, 8], 1):
        assert bench.take().file_path == f"{rank}"
        assert bench.made == [3, 5, 8][:number]
        assert (len(bench.lane), bench.lane.nbytes) == (3 - number, 30 - 10 * number)
    assert bench.lane.first() is None


def test_files_with_a_task_take_their_place_among_those_without() -> None:
    bench = Bench(2, 4, 6)
    taken = bench.take()
    for rank in (5, 1):
        bench.lane.push(task(rank))
    bench.lane.push(taken)  # put back
    assert (len(bench.lane), bench.lane.nbytes) == (5, 50)
    assert [bench.take().file_path for _ in range(5)] == ["1", "2", "4", "5", "6"]


def test_only_the_first_can_be_taken() -> None:
    bench = Bench(1, 2)
    with pytest.raises(RuntimeError, match="9 is not the first"):
        bench.lane.pop(task(9))
    assert len(bench.lane) == 2


def test_a_task_that_could_not_be_made_is_made_by_the_next_who_asks() -> None:
    def make(rank: int) -> DownloadTask:
        if not failed:
            failed.append(rank)
            raise MemoryError
        return task(rank)

    failed: list[int] = []
    lane = Lane()
    lane.follow(Backlog(array("I", [1, 2]), 20, make))
    with pytest.raises(MemoryError):
        lane.first()
    assert len(lane) == 2
    first = lane.first()
    assert first is not None
    assert first.file_path == "1"


def test_a_lane_that_is_cleared_gives_tasks_and_what_has_none() -> None:
    bench = Bench(1, 2, 3)
    assert bench.lane.first() is not None
    tasks, backlog = bench.lane.clear()
    assert [each.file_path for each in tasks] == ["1"]
    assert backlog is not None
    assert list(backlog) == [2, 3]
    assert (len(bench.lane), bench.lane.nbytes, bench.lane.first()) == (0, 0, None)


def test_a_lane_has_one_backlog() -> None:
    with pytest.raises(RuntimeError, match="one backlog"):
        Bench(1).lane.follow(Backlog(array("I"), 0, task))


@pytest.mark.parametrize(
    ("priority", "size", "lane"),
    [
        pytest.param(DownloadPriority.HIGH, 1 << 40, "high", id="urgent, whatever its size"),
        pytest.param(DownloadPriority.LOW, SMALL_FILE, "small", id="small"),
        pytest.param(DownloadPriority.NORMAL, SMALL_FILE + 1, "large", id="large"),
        pytest.param(DownloadPriority.NORMAL, None, "large", id="of unknown size"),
    ],
)
def test_the_lane_of_a_file_follows_its_priority_and_size(
    priority: DownloadPriority, size: int | None, lane: str
) -> None:
    assert lane_key(priority, size, HUB) == (lane, HUB)


def test_a_file_keeps_its_place_where_there_is_no_memory_for_its_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(1, 2, 3)
    with monkeypatch.context() as scarce:
        scarce.setattr(lanes.heapq, "heappush", refuse)
        for _ in range(2):
            with pytest.raises(MemoryError):
                bench.lane.first()
            assert (len(bench.lane), bench.lane.nbytes) == (3, 30)
    assert [bench.take().file_path for _ in range(3)] == ["1", "2", "3"]
    assert bench.lane.first() is None


def refuse(*_: object) -> None:
    raise MemoryError
