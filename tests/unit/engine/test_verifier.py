"""The running digest, from what the disk gives back, asked for by several threads."""

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
@pytest.mark.parametrize("step", [1000, 1 << 20, len(DATA)])
def test_a_file_that_grows_has_its_digest_in_the_end(digest: Digest, step: int) -> None:
    verifier = Verifier(digest, len(DATA))
    for end in range(step, len(DATA), step):
        assert not verifier.catch_up(lambda end=end: end, read_into, wait=True)  # type: ignore[misc]
        assert verifier.position == end
    assert verifier.catch_up(lambda: len(DATA), read_into, wait=True)
    assert verifier.actual() == digest.value


def test_a_stop_ends_hashing() -> None:
    verifier = Verifier(SHA256, len(DATA))

    def read_and_stop(offset: int, buffer: memoryview) -> int:
        verifier.stop()
        return read_into(offset, buffer)

    assert not verifier.catch_up(lambda: len(DATA), read_and_stop, wait=True)
    assert 0 < verifier.position < len(DATA)


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
    assert not verifier.catch_up(lambda: len(DATA), read_into, wait=False)
    go_on.set()
    thread.join(5)
    assert verifier.actual() == SHA256.value


def test_after_a_restart_nothing_of_the_old_bytes_counts() -> None:
    verifier = Verifier(GIT, len(DATA))
    verifier.catch_up(lambda: 1000, lambda _offset, buffer: len(buffer), wait=True)
    assert verifier.position == 1000
    verifier.restart()
    assert verifier.position == 0
    verifier.catch_up(lambda: len(DATA), read_into, wait=True)
    assert verifier.actual() == GIT.value
