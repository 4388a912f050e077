"""Slices of many files: read together, each with its own outcome."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hf_haul.filesystem.slices import Slice, as_slices, read_slices
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
        self.held: dict[tuple[str, int, int], bytes] = {}

    def read_held(self, source: Any, start: int, stop: int) -> bytes | None:
        if (source.name, start, stop) == ("broken", 3, 4):
            raise OSError("does not come")
        return self.held.get((source.name, start, stop))

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
        extents: Any = self
        return read_slices(
            slices,
            extents=extents,
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


def test_what_is_in_memory_is_not_read_again_and_what_does_not_come_is_an_error_in_its_place() -> None:
    fs = Filesystem()
    fs.held["a", 2, 4] = b"23"
    found = fs.read([("a", 2, 4), ("a", 3, 5), ("broken", 3, 4)], fail_fast=False)
    assert found[:2] == [b"23", b"34"]
    assert isinstance(found[2], LookupError)
    assert fs.reads.batches == [1]


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


class Array:
    """Numbers as numpy has them: not Python's own, in something that is no list."""

    def __init__(self, *numbers: Any) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.numbers[index]


class Number:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.parametrize(
    ("paths", "starts", "ends", "expected"),
    [
        pytest.param(["a", "b"], [0, 1], [2, 3], [("a", 0, 2), ("b", 1, 3)], id="lists"),
        pytest.param(("a", "b"), (0, None), (None, -1), [("a", 0, None), ("b", None, -1)], id="tuples"),
        pytest.param(["a", "b"], Number(1), None, [("a", 1, None), ("b", 1, None)], id="one for all"),
        pytest.param(Array("a"), Array(Number(3)), Array(None), [("a", 3, None)], id="arrays"),
        pytest.param([], [], [], [], id="nothing"),
    ],
)
def test_slices_may_come_in_sequences_of_any_kind(
    paths: Any, starts: Any, ends: Any, expected: list[Slice]
) -> None:
    slices = as_slices(paths, starts, ends)
    assert slices == expected
    assert all(type(number) is int for each in slices for number in each[1:] if number is not None)


def test_slices_come_from_numpy_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    starts = numpy.arange(0, 20, 10, dtype="uint32")
    found = as_slices(numpy.array(["a", "b"]), starts, starts + 10)
    assert found == [("a", 0, 10), ("b", 10, 20)]
    assert [type(each) for each in found[0]] == [str, int, int]
    assert as_slices(["a", "b"], numpy.int64(3), numpy.array(7)) == [("a", 3, 7), ("b", 3, 7)]


@pytest.mark.parametrize(
    ("paths", "starts", "ends", "error", "message"),
    [
        pytest.param(
            "abc", 0, 1, TypeError, "paths must be a list or another sequence, not str", id="a text"
        ),
        pytest.param({"a": 1}, 0, 1, TypeError, "not dict", id="a dict"),
        pytest.param(["a"], [0.5], [1], TypeError, "the start of slice 0 .* not 0.5", id="half a byte"),
        pytest.param(["a", "b"], 0, [1, "2"], TypeError, "the end of slice 1 .* not '2'", id="a text as end"),
        pytest.param(
            ["a"], [0, 0], [1], ValueError, "same length; there are 1 paths and 2 starts", id="more"
        ),
    ],
)
def test_what_is_no_slice_is_refused_and_says_which(
    paths: Any, starts: Any, ends: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        as_slices(paths, starts, ends)
