"""The log can be read while it is written."""

from __future__ import annotations

import threading

import pytest

from hf_haul.localhub.requestlog import RequestLog, RequestRecord


def record(
    kind: str = "cdn", path: str = "a.bin", start: float = 0.0, end: float | None = None
) -> RequestRecord:
    return RequestRecord("GET", kind, "/x", "org/x", path, {"authorization": "Bearer t"}, 1, start, end=end)


def filled(*records: RequestRecord, most: int | None = None) -> RequestLog:
    log = RequestLog(most)
    for one in records:
        log.add(one)
    return log


def test_requests_can_be_picked_by_kind_path_and_method() -> None:
    log = filled(record("tree", ""), record("cdn", "x/a.bin"), record("cdn", "b.txt"))
    assert [r.path for r in log.of("cdn")] == ["x/a.bin", "b.txt"]
    assert [r.path for r in log.of("cdn", "*.bin")] == ["x/a.bin"]
    assert [r.kind for r in log.of(path="*.txt")] == ["cdn"]
    assert log.of(method="HEAD") == []
    assert len(log) == 3
    assert log[-1].path == "b.txt"
    assert log[0].token == "Bearer t"


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([(0, 1), (1, 2), (2, 3)], 1, id="one after the other"),
        pytest.param([(0, 3), (1, 4), (2, 5)], 3, id="all at once"),
        pytest.param([(0, 2), (1, 3), (2.5, 4)], 2, id="two at a time"),
        pytest.param([(0, None), (5, None)], 2, id="still running"),
    ],
)
def test_the_peak_is_the_most_that_ran_at_once(
    spans: list[tuple[float, float | None]], expected: int
) -> None:
    assert filled(*(record(start=a, end=b) for a, b in spans)).peak() == expected


def test_waiting_ends_when_the_condition_comes_true() -> None:
    log = RequestLog()
    adder = threading.Timer(0.05, log.add, [record()])
    adder.start()
    assert log.wait_for(len, timeout=10)
    adder.join()
    assert not log.wait_for(lambda seen: len(seen) > 1, timeout=0.05)


def test_bytes_are_summed_and_old_requests_dropped() -> None:
    log = filled(record(), record(), record(), most=2)
    for one in log:
        one.body_bytes = 5
    assert (len(log), log.body_bytes) == (2, 10)
    log.clear()
    assert len(log) == 0
