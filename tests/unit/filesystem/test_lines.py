"""Lines and small reads: what `io.BytesIO` gives, in whatever order they are asked for."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest

from hf_haul.filesystem import lines as module
from hf_haul.filesystem.lines import LineReader


class Reader:
    """Stands for a `FileReader`: bytes in memory up to a point, and what was asked for."""

    def __init__(self, data: bytes, held: int = 0) -> None:
        self.data = data
        self.held = held
        self.reads: list[tuple[int, int]] = []
        self.noted: list[tuple[int, int]] = []

    def held_to(self, start: int) -> int:
        return max(start, self.held)

    def read(self, start: int, stop: int) -> bytes:
        self.reads.append((start, stop))
        self.noted.append((start, stop))
        return self.data[start:stop]

    def read_held(self, start: int, stop: int) -> bytes | None:
        return self.data[start:stop] if stop <= self.held else None

    def note(self, start: int, stop: int) -> None:
        self.noted.append((start, stop))


class File(LineReader):
    """A file in memory."""

    def __init__(self, data: bytes, held: int = 0) -> None:
        self.reader = Reader(data, held)
        self.size = len(data)
        self.loc = 0
        self._start_lines()

    def tell(self) -> int:
        return self._common_position()

    def seek(self, at: int) -> int:
        self._end_lines()
        self.loc = at
        return at

    def pread(self, start: int, stop: int) -> bytes:
        near = self._read_small(start, stop, self.reader)  # type: ignore[arg-type]  # stands for one
        return self.reader.read(start, stop) if near is None else near

    def _take(self, length: int) -> tuple[int, int]:
        self._end_lines()
        start = self.loc
        self.loc = self.size if length < 0 else min(start + length, self.size)
        return start, max(start, self.loc)

    def read(self, length: int = -1) -> bytes:
        return self.pread(*self._take(length))


def some_lines(chance: random.Random, nbytes: int) -> bytes:
    made = bytearray()
    while len(made) < nbytes:
        made += chance.randbytes(chance.choice([0, 1, 3, 50, 400])).replace(b"\n", b"\r")
        made += chance.choice([b"\n", b"\r\n", b"\n\n", b""])
    return bytes(made)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_BLOCK", 64)
    monkeypatch.setattr(module, "_LARGEST_BLOCK", 1024)


def step(chance: random.Random, size: int) -> Any:
    """Something to do with a file, that says what came of it."""
    kind = chance.choice(["line", "lines", "loop", "some", "limit", "read", "seek", "tell", "all"])
    number = chance.randrange(300)
    return {
        "line": lambda file: file.readline(),
        "lines": lambda file: file.readlines(number + 1),
        "loop": lambda file: [line for line, _ in zip(file, range(number), strict=False)] and None,
        "some": lambda file: [file.readline() for _ in range(number // 10)],
        "limit": lambda file: file.readline(number),
        "read": lambda file: file.read(number),
        "seek": lambda file: file.seek(number * size // 300),
        "tell": lambda file: file.tell(),
        "all": lambda file: file.readlines() if number < 10 else None,
    }[kind]


@pytest.mark.parametrize("seed", range(40))
def test_in_any_order_the_bytes_and_the_position_are_those_of_a_file_in_memory(seed: int) -> None:
    chance = random.Random(seed)
    data = some_lines(chance, 5_000)
    file, truth = File(data, held=chance.choice([0, 2_000, 5_000])), io.BytesIO(data)
    for _ in range(300):
        work = step(chance, len(data))
        assert work(file) == work(truth)
        assert file.tell() == truth.tell()


@pytest.mark.parametrize("tail", [b"", b"no end", b"\n"])
@pytest.mark.parametrize("data", [b"", b"\n", b"a\nbc\n\nd", b"x" * 1_000 + b"\n" + b"y" * 200 + b"\n"])
def test_all_lines_come_with_their_ends(data: bytes, tail: bytes) -> None:
    expected = io.BytesIO(data + tail).readlines()
    assert list(File(data + tail)) == expected
    assert File(data + tail).readlines() == expected
    assert list(iter(File(data + tail).readline, b"")) == expected


def test_a_loop_goes_on_where_the_position_was_moved_to() -> None:
    file = File(b"".join(b"%d\n" % number for number in range(100)))
    seen = []
    for line in file:
        seen.append(line)
        assert file.tell() == file.reader.data.index(b"\n" + line) + 1 + len(line) if line != b"0\n" else 2
        if line == b"3\n":
            assert file.read(4) == b"4\n5\n"
        if line == b"7\n":
            assert file.readline() == b"8\n"
        if line == b"9\n":
            file.seek(file.reader.data.index(b"\n97\n") + 1)
    assert seen == [b"0\n", b"1\n", b"2\n", b"3\n", b"6\n", b"7\n", b"9\n", b"97\n", b"98\n", b"99\n"]


@pytest.mark.parametrize("block", [1, 2, 3, 64, 1000])
def test_a_mark_across_two_blocks_is_found(block: int) -> None:
    data = b"one<>two<>><>" + b"z" * 300
    file = File(data)
    assert [file.readuntil(b"<>", block) for _ in range(4)] == [b"one<>", b"two<>", b"><>", b"z" * 300]
    assert file.readuntil(b"<>", block) == b""


def test_small_reads_in_order_are_taken_from_what_is_held() -> None:
    data = random.Random(1).randbytes(4_000)
    file = File(data, held=3_000)
    assert b"".join(iter(lambda: file.read(20), b"")) == data
    reads, noted = file.reader.reads, file.reader.noted
    assert reads[0] == (0, 20)
    assert all(stop - start <= 20 for start, stop in reads), "more was asked for than was read"
    assert len([each for each in reads if each[0] < 2_900]) < 15
    assert [start for start, _ in noted[1:]] == [stop for _, stop in noted[:-1]], "all is told, in order"


def test_small_reads_at_random_ask_for_no_more_than_they_need() -> None:
    data = random.Random(1).randbytes(4_000)
    file = File(data, held=4_000)
    for start in (500, 100, 3_000, 2_000):
        file.seek(start)
        assert file.read(20) == data[start : start + 20]
    assert all(stop - start == 20 for start, stop in file.reader.reads)


def test_blocks_grow_while_lines_follow_each_other() -> None:
    file = File(b"0123456789abcde\n" * 1_000)
    assert len(file.readlines()) == 1_000
    sizes = [stop - start for start, stop in file.reader.reads]
    assert sizes[:5] == [64, 128, 256, 512, 1024]
    assert set(sizes[5:-1]) == {1024}
