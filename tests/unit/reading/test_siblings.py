"""Which files will be opened next."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from hf_haul.reading.siblings import OpenOrder, Visit

KiB = 1 << 10
MiB = 1 << 20


def folder(count: int, name: str = "data") -> list[str]:
    return [f"{name}/{number:03d}.bin" for number in range(count)]


class Reader:
    """Opens files, reads them, and notes what was looked ahead at.

    Attributes:
        order: The order under test.
        names: All files, in order.
        size: Bytes of each.
        ahead: Files looked ahead at, by name, and whether they were opened since.
        read: Bytes read.
    """

    def __init__(self, names: list[str], size: int = 256 * KiB) -> None:
        self.order = OpenOrder()
        self.names = names
        self.size = size
        self.ahead: dict[str, bool] = {}
        self.read = 0

    def after(self, name: str) -> Iterator[str]:
        return iter(self.names[self.names.index(name) + 1 :])

    def open(self, name: str, read: Callable[[Visit], None] | None = None) -> list[str]:
        visit = Visit(self.size)
        if name in self.ahead:
            self.ahead[name] = True
        outlook = self.order.visit(name, visit, self.after)
        taken = []
        for each in outlook.names:
            if not self.order.take(each, self.size):
                break
            taken.append(each)
        self.ahead.update(dict.fromkeys(taken, False))
        if read is None:
            visit.read += self.size
        else:
            read(visit)
        self.read += visit.read
        return taken

    @property
    def wasted(self) -> int:
        return self.size * sum(not opened for opened in self.ahead.values())


def test_from_the_second_file_on_one_is_looked_ahead_at_then_two_four_and_eight() -> None:
    reader = Reader(folder(60), size=2 * MiB)

    def read_two_columns(visit: Visit) -> None:
        visit.columns.update({3, 7})

    found = [reader.open(name, read_two_columns) for name in reader.names[:6]]
    assert found == [
        [],
        ["data/002.bin"],
        ["data/003.bin", "data/004.bin"],
        ["data/005.bin", "data/006.bin", "data/007.bin"],
        [f"data/{n:03d}.bin" for n in range(8, 13)],
        ["data/013.bin"],  # eight are as much as may be read by nobody
    ]


def test_of_small_files_that_are_read_whole_more_are_ahead() -> None:
    reader = Reader(folder(200))
    for name in reader.names[:30]:
        reader.open(name)
    assert sum(not opened for opened in reader.ahead.values()) == 32
    for name in reader.names[30:150]:
        reader.open(name)
    assert reader.read == 150 * reader.size
    assert len(reader.ahead) == 180


def test_files_of_which_little_is_read_are_not_looked_ahead_at() -> None:
    reader = Reader(folder(40))
    for name in reader.names:
        assert not reader.open(name, lambda visit: setattr(visit, "read", 1000))


@pytest.mark.parametrize("size", [20 * KiB, MiB, 4 * MiB, 7 * MiB])
@pytest.mark.parametrize("count", [3, 7, 30, 90])
def test_what_a_reader_that_stops_has_ahead_is_little(size: int, count: int) -> None:
    reader = Reader(folder(200), size)

    def read(visit: Visit) -> None:
        visit.columns.add(0)
        visit.read = size

    for name in reader.names[:count]:
        reader.open(name, read)
        assert reader.wasted <= max(16 * MiB, reader.read // 2)


@pytest.mark.parametrize("count", [30, 100, 1000])
def test_after_eight_opens_at_random_next_to_nothing_is_looked_ahead_at(count: int) -> None:
    looked = read = 0
    for seed in range(100):
        reader = Reader(folder(count))
        names = random.Random(seed).sample(reader.names, min(count, 200))
        for name in names[:8]:
            reader.open(name)
        before = len(reader.ahead)
        for name in names[8:]:
            reader.open(name)
        looked += len(reader.ahead) - before
        read += len(names)
    assert looked < 0.01 * read


def test_neighbours_that_threads_mix_up_are_still_in_order() -> None:
    noise = random.Random(1)
    reader = Reader(folder(120))
    names = reader.names.copy()
    for at in range(4, len(names) - 3, 3):  # of three neighbours, any may come first
        names[at : at + 3] = noise.sample(names[at : at + 3], 3)
    for name in names:
        reader.open(name)
    assert len(reader.ahead) > 100
    assert not reader.wasted


def test_two_runs_in_one_folder_are_both_followed() -> None:
    reader = Reader(folder(40))
    for first, second in zip(reader.names[:15], reader.names[20:35], strict=True):
        reader.open(first)
        reader.open(second)
    assert set(reader.ahead) >= {"data/010.bin", "data/030.bin"}


def test_files_that_are_opened_twice_do_not_count_twice() -> None:
    reader = Reader(folder(20))
    for name in reader.names[:4]:
        reader.open(name, lambda visit: None)  # to look at its footer
        reader.open(name, lambda visit: visit.columns.add(1))
    assert reader.order._begun == 1
    assert reader.order._runs[0].length == 4
    assert reader.ahead


def test_readers_in_a_folder_know_each_others_columns_in_any_order() -> None:
    reader = Reader([*folder(20), *folder(5, "other")])
    reader.open("data/003.bin", lambda visit: visit.columns.update({1, 2}))
    seen: list[set[int]] = []
    reader.open("data/015.bin", lambda visit: seen.append(set(visit.columns)))
    reader.open("other/000.bin", lambda visit: seen.append(set(visit.columns)))
    assert seen == [{1, 2}, set()]


def test_an_order_may_go_on_in_the_next_folder() -> None:
    reader = Reader([*folder(6, "a"), *folder(6, "b")])
    for name in reader.names:
        reader.open(name)
    assert "b/005.bin" in reader.ahead
    assert not reader.wasted


def test_the_file_after_the_last_of_a_run_is_known_once_there_is_one() -> None:
    reader = Reader(folder(5), size=100 * MiB)
    reader.open("data/000.bin")
    assert reader.order.next_of("data/000.bin") is None
    reader.open("data/001.bin")
    assert reader.order.next_of("data/001.bin") == "data/002.bin"
    assert reader.order.next_of("data/000.bin") is None
    for name in reader.names[2:]:
        reader.open(name)
    assert reader.order.next_of("data/004.bin") is None


def test_what_is_remembered_is_bounded() -> None:
    reader = Reader([name for n in range(400) for name in folder(2, f"d{n}")])
    for name in reader.names:
        reader.open(name)
    order = reader.order
    assert len(order._runs) <= 8
    assert len(order._columns) <= 256
    assert len(order._visits) <= 33
