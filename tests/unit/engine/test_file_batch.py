"""Files whose requests are made when they are needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.batches import NumberedFiles
from tests.support.transport import MemoryDestination


def files(count: int) -> NumberedFiles:
    return NumberedFiles(count, lambda name: MemoryDestination(Path("here"), name), Path("here"))


def test_a_request_is_made_each_time_it_is_asked_for() -> None:
    batch = files(5)
    assert [each.remote.path for each in batch[1:3]] == ["0000001.png", "0000002.png"]
    assert batch[-1].remote.path == "0000004.png"
    assert batch[-1] is not batch[-1]
    assert batch.asked == [1, 2, 4, 4, 4]


def test_what_the_order_depends_on_needs_no_request() -> None:
    batch = files(3)
    assert list(batch.outlines()) == [
        ("0000000.png", 3, False),
        ("0000001.png", 2, False),
        ("0000002.png", 1, False),
    ]
    assert batch.asked == []


@pytest.mark.parametrize("number", [5, -6])
def test_there_is_no_file_beyond_the_last(number: int) -> None:
    with pytest.raises(IndexError):
        files(5)[number]
