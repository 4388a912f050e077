"""The running digest, fed in order, out of order, and by several threads."""

from __future__ import annotations

import hashlib
import random
import threading

import pytest

from hf_haul.engine.verifier import Verifier
from hf_haul.task import Digest

DATA = random.Random(3).randbytes(3 << 20)
SHA256 = Digest("sha256", hashlib.sha256(DATA).hexdigest())
GIT = Digest("git-sha1", hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest())


def read_into(offset: int, buffer: memoryview) -> int:
    part = DATA[offset : offset + len(buffer)]
    buffer[: len(part)] = part
    return len(part)


@pytest.mark.parametrize("digest", [pytest.param(SHA256, id="sha256"), pytest.param(GIT, id="git-sha1")])
@pytest.mark.parametrize("step", [1000, 4096, 1 << 20, len(DATA)])
def test_feeding_in_order_gives_the_digest(digest: Digest, step: int) -> None:
    verifier = Verifier(digest, len(DATA))
    for at in range(0, len(DATA), step):
        assert verifier.feed(at, memoryview(DATA)[at : at + step], 0)
    assert verifier.position == len(DATA)
    assert verifier.actual() == digest.value


def test_what_is_not_next_is_refused_and_read_back_later() -> None:
    verifier = Verifier(SHA256, len(DATA))
    assert not verifier.feed(100, memoryview(DATA)[100:200], 0)
    assert verifier.feed(0, memoryview(DATA)[:100], 0)
    assert not verifier.catch_up(lambda: 5000, read_into, wait=True)
    assert verifier.position == 5000
    assert verifier.catch_up(lambda: len(DATA), read_into, wait=True)
    assert verifier.actual() == SHA256.value


def test_the_prefix_may_grow_while_it_is_hashed() -> None:
    verifier = Verifier(SHA256, len(DATA))
    ends = iter([1000, 2_000_000, len(DATA), len(DATA)])
    assert verifier.catch_up(lambda: next(ends), read_into, wait=True)
    assert verifier.actual() == SHA256.value


def test_a_cut_file_ends_hashing_without_a_verdict() -> None:
    verifier = Verifier(SHA256, len(DATA))
    assert not verifier.catch_up(lambda: len(DATA), lambda _offset, _buffer: 0, wait=True)


def test_nobody_waits_for_the_thread_that_hashes() -> None:
    verifier = Verifier(SHA256, len(DATA))
    hashing, go_on = threading.Event(), threading.Event()

    def slow_read(offset: int, buffer: memoryview) -> int:
        hashing.set()
        assert go_on.wait(5)
        return read_into(offset, buffer)

    thread = threading.Thread(
        target=verifier.catch_up, args=(lambda: len(DATA), slow_read), kwargs={"wait": True}
    )
    thread.start()
    assert hashing.wait(5)
    assert not verifier.feed(0, memoryview(DATA)[:10], 0)
    assert not verifier.catch_up(lambda: len(DATA), read_into, wait=False)
    go_on.set()
    thread.join(5)
    assert verifier.actual() == SHA256.value


def test_after_a_restart_nothing_of_the_old_bytes_counts() -> None:
    verifier = Verifier(GIT, len(DATA))
    verifier.feed(0, memoryview(b"wrong"), 0)
    verifier.restart()
    verifier.catch_up(lambda: len(DATA), read_into, wait=True)
    assert verifier.actual() == GIT.value


class Handed:
    """Blocks of the file, handed over one after the other as the digest asks how far the file has come."""

    def __init__(self, verifier: Verifier, *blocks: tuple[int, int]) -> None:
        self.verifier = verifier
        self.blocks = list(blocks)
        self.taken: list[bool] = []
        self.done: list[int] = []
        self.read: list[tuple[int, int]] = []

    def frontier(self) -> int:
        for start, stop in self.blocks:
            data = memoryview(DATA)[start:stop]
            self.taken.append(self.verifier.hand(start, data, 0, lambda start=start: self.done.append(start)))  # type: ignore[misc]
        self.blocks.clear()
        return len(DATA)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.read.append((offset, offset + len(buffer)))
        return read_into(offset, buffer)


MIB = 1 << 20


@pytest.mark.parametrize("digest", [pytest.param(SHA256, id="sha256"), pytest.param(GIT, id="git-sha1")])
def test_what_is_handed_over_is_not_read_back(digest: Digest) -> None:
    verifier = Verifier(digest, len(DATA))
    handed = Handed(verifier, (0, MIB), (MIB, 2 * MIB), (2 * MIB, 3 * MIB))
    assert verifier.catch_up(handed.frontier, handed.read_into, wait=True)
    assert verifier.actual() == digest.value
    assert handed.taken == [True] * 3
    assert handed.done == [0, MIB, 2 * MIB]
    assert handed.read == []


def test_what_lies_before_and_between_blocks_is_read_back() -> None:
    verifier = Verifier(SHA256, len(DATA))
    handed = Handed(verifier, (1000, MIB), (2 * MIB, 2 * MIB + 10))
    assert verifier.catch_up(handed.frontier, handed.read_into, wait=True)
    assert verifier.actual() == SHA256.value
    assert handed.done == [1000, 2 * MIB]
    assert handed.read == [(0, 1000), (MIB, 2 * MIB), (2 * MIB + 10, 3 * MIB)]


def test_blocks_out_of_order_too_far_ahead_or_hashed_already_do_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hf_haul.engine.verifier.IN_TOUCH", MIB)
    verifier = Verifier(SHA256, len(DATA))
    assert verifier.feed(0, memoryview(DATA)[:1000], 0)
    handed = Handed(verifier, (500, 600), (2000, 3000), (2500, 4000), (2000, 3000), (MIB + 1001, MIB + 2000))
    assert verifier.catch_up(handed.frontier, handed.read_into, wait=True)
    assert verifier.actual() == SHA256.value
    assert handed.taken == [True, True, False, False, False]
    assert handed.done == [500, 2000]


def test_nobody_keeps_a_block_when_nobody_hashes() -> None:
    verifier = Verifier(SHA256, len(DATA))
    done: list[int] = []
    assert not verifier.hand(0, memoryview(DATA)[:10], 0, lambda: done.append(0))
    handed = Handed(verifier, (0, MIB), (MIB, 2 * MIB))
    verifier.stop()
    assert not verifier.catch_up(handed.frontier, handed.read_into, wait=True)
    assert (handed.taken, handed.done, done) == ([True, True], [0, MIB], [])
    assert not verifier.hand(0, memoryview(DATA)[:10], 0, lambda: done.append(0))
    verifier.stopped = False
    assert verifier.catch_up(lambda: len(DATA), read_into, wait=True)
    assert verifier.actual() == SHA256.value


def test_what_was_written_before_a_restart_is_neither_fed_nor_handed_over() -> None:
    """A connection that was held up between its write and the digest: what it wrote may have been dropped since."""
    verifier = Verifier(SHA256, len(DATA))
    before = verifier.restarts
    verifier.restart()
    assert not verifier.feed(0, memoryview(b"dropped"), before)
    handed: list[bool] = []

    def frontier() -> int:
        if not handed:
            for restarts in (before, verifier.restarts):
                handed.append(verifier.hand(0, memoryview(DATA)[:MIB], restarts, lambda: None))
        return len(DATA)

    assert verifier.catch_up(frontier, read_into, wait=True)
    assert handed == [False, True]
    assert verifier.actual() == SHA256.value


def test_where_writes_may_be_lost_all_is_taken_from_the_disk() -> None:
    verifier = Verifier(SHA256, len(DATA), from_disk=True)
    assert not verifier.feed(0, memoryview(DATA)[:MIB], 0)
    handed = Handed(verifier, (0, MIB), (MIB, 2 * MIB))
    assert verifier.catch_up(handed.frontier, handed.read_into, wait=True)
    assert verifier.actual() == SHA256.value
    assert handed.taken == [False, False]
    assert [start for start, _ in handed.read] == [0, MIB, 2 * MIB]
