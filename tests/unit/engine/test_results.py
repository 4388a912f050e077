"""Results of queues that are over: which stay, and for how long."""

from __future__ import annotations

import tracemalloc

import pytest

from hf_haul.config import KiB
from hf_haul.engine import results
from hf_haul.engine.results import QueueStatus, Results
from hf_haul.task import DownloadState


def status(queue_id: str, failures: int = 0) -> QueueStatus:
    return QueueStatus(
        queue_id, "org/m", DownloadState.DONE, "NORMAL", 1, 1, 0, 0, 0, 10, 10, 10, 0, 0, 1.0, 0.0, 10.0, 10.0, 100.0,
        0, 1, 0, 0.0, None, tuple((f"{i}", "OSError: x") for i in range(failures)),
    )  # fmt: skip


def test_results_that_nobody_asked_for_stay_while_told_ones_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_MOST_TOLD", 3)
    kept = Results()
    for i in range(1000):
        kept.add(status(f"q{i}"))
    for i in range(1000):  # each is still there when its turn comes
        assert kept.find(f"q{i}") is not None
        kept.note_told(f"q{i}")
        kept.note_told(f"q{i}")
    assert len(kept) == 3
    assert [kept.find(f"q{i}") is not None for i in (0, 996, 997, 999)] == [False, False, True, True]


def test_a_result_takes_no_more_than_two_kib() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = Results()
        for i in range(1000):
            kept.add(status(f"queue-{i:016x}"), f"task-{i:016x}")
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken / 1000 <= 2 * KiB


def test_the_oldest_goes_beyond_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_MOST_UNTOLD", 3)
    kept = Results()
    for i in range(5):
        kept.add(status(f"q{i}"), f"t{i}")
    assert [kept.find(f"q{i}") is not None for i in range(5)] == [False, False, True, True, True]
    assert [kept.find(f"t{i}") is not None for i in range(5)] == [False, False, True, True, True]
    assert kept._queue_of.keys() == {"t2", "t3", "t4"}


def test_a_result_with_many_failures_takes_the_room_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_MOST_UNTOLD", 100)
    kept = Results()
    for i in range(50):
        kept.add(status(f"q{i}"))
    kept.add(status("many", failures=600))
    assert len(kept) == 40
    assert kept.find("many") is not None
    kept.add(status("too many", failures=10_000))
    assert len(kept) == 1  # at least the last one
    kept.note_told("too many")
    for i in range(100):
        kept.add(status(f"later{i}"))
    assert len(kept) == 101


def test_a_forgotten_result_leaves_nothing() -> None:
    kept = Results()
    kept.add(status("q"), "t")
    assert kept.find("t") is kept.find("q")
    kept.note_told("q")
    assert kept.find("t") is kept.find("q")
    kept.forget("q")
    kept.forget("q")
    assert kept.find("t") is None
    assert len(kept) == 0
    assert (kept._queue_of, kept._task_of, kept._weight) == ({}, {}, 0)
