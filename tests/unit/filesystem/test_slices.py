"""Slices of many files: read together, each with its own outcome."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hf_haul.filesystem.slices import Slice, read_slices
from hf_haul.reading.batches import RangeRequest

FILES = {"a": b"0123456789", "b": b"abcdef", "broken": b"xxxxxx"}


class Reads:
    """Reads from memory; the file ``broken`` cannot be read."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def read_many(self, wanted: list[RangeRequest], *, max_gap: int | None, fail_fast: bool) -> list[Any]:
        assert (max_gap, fail_fast) == (7, False)
        assert all(each.start <= each.stop for each in wanted)
        self.batches.append(len(wanted))
        return [
            OSError("cannot be read") if each.source.name == "broken" else FILES[each.source.name][each.start : each.stop]  # type: ignore[attr-defined]  # ours
            for each in wanted
        ]  # fmt: skip


class Filesystem:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.reads = Reads()

    def source_of(self, path: str) -> Any:
        self.asked.append(path)
        if path.startswith("bucket/"):
            return None
        if path not in FILES:
            raise FileNotFoundError(path)
        explain = lambda error: LookupError(str(error))  # noqa: E731  short
        return SimpleNamespace(explain=explain), SimpleNamespace(name=path, size=len(FILES[path]))

    def read_file(self, path: str, start: int | None, end: int | None) -> bytes:
        if path == "bucket/none":
            raise FileNotFoundError(path)
        return f"{path}[{start}:{end}]".encode()

    def read(self, slices: list[Slice], *, fail_fast: bool) -> list[bytes | Exception]:
        reads: Any = self.reads
        return read_slices(
            slices,
            reads=reads,
            source_of=self.source_of,
            read_file=self.read_file,
            max_gap=7,
            fail_fast=fail_fast,
        )


def test_slices_are_read_at_once_in_the_order_asked_for_and_each_file_is_looked_for_once() -> None:
    fs = Filesystem()
    found = fs.read(
        [("a", 2, 4), ("b", -2, None), ("a", None, -8), ("b", 4, 2), ("a", 8, 99)], fail_fast=True
    )
    assert found == [b"23", b"ef", b"01", b"", b"89"]
    assert fs.asked == ["a", "b"]
    assert fs.reads.batches == [5]


def test_a_file_in_no_repository_is_read_alone() -> None:
    fs = Filesystem()
    assert fs.read([("bucket/x", 1, 2), ("a", 0, 1)], fail_fast=True) == [b"bucket/x[1:2]", b"0"]
    assert fs.reads.batches == [1]


def test_an_error_stands_in_the_place_of_its_slice() -> None:
    fs = Filesystem()
    found = fs.read([("none", 0, 1), ("a", 0, 1), ("broken", 0, 1), ("bucket/none", 0, 1)], fail_fast=False)
    assert [type(each) for each in found] == [FileNotFoundError, bytes, LookupError, FileNotFoundError]


@pytest.mark.parametrize(
    ("path", "error", "batches"),
    [("none", FileNotFoundError, []), ("bucket/none", FileNotFoundError, []), ("broken", LookupError, [2])],
)
def test_the_first_error_is_raised_where_that_is_asked_for(
    path: str, error: type[Exception], batches: list[int]
) -> None:
    fs = Filesystem()
    with pytest.raises(error):
        fs.read([("a", 0, 1), (path, 0, 1)], fail_fast=True)
    assert fs.reads.batches == batches, "nothing is read for a call that fails anyway"
