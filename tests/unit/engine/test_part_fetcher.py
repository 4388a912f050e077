"""Fetching one part: how long a source may keep it waiting."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.fetchers import quiet_fetcher
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import KiB, Settings
from hf_haul.engine import part_fetcher as fetch
from hf_haul.engine.transfer import Part, Transfer
from hf_haul.engine.verifier import Verifier
from hf_haul.engine.watchdog import part_to_share
from hf_haul.errors import (
    ConnectionFailedError,
    RetriesExhaustedError,
    SourceChangedError,
    StopRequestedError,
)
from hf_haul.metrics import DownloadMetrics, SpeedMeter
from hf_haul.ranges import ByteRange
from hf_haul.storage.claiming import claim
from hf_haul.task import Digest, DownloadTask

DATA = random.Random(5).randbytes(16 * KiB)
PATIENCE = 90.0


class Bench:
    """One part over all of a file, and a fetcher for it on a clock of its own."""

    def __init__(self, folder: Path, source: FakeSource, clock: FakeClock) -> None:
        destination = MemoryDestination(folder, "a.bin")
        wanted = request(destination, source)
        task = DownloadTask("org/m", "a.bin", wanted.remote.url, destination.path, size=len(DATA))
        self.transfer = Transfer(task, wanted, source, DownloadMetrics())
        self.transfer.staged = claim(folder, "a.bin", len(DATA))
        self.part = Part(self.transfer, ByteRange(0, len(DATA)), now=clock())
        self.retries: list[BaseException] = []
        settings = Settings(
            chunk_size=1 * KiB, min_chunk_size=1 * KiB, first_retry_wait=0.0, give_up_after=PATIENCE
        )
        self.fetcher = quiet_fetcher(
            settings, on_retry=lambda part, error: self.retries.append(error), clock=clock
        )

    def fetch(self) -> bytes:
        staged = self.transfer.staged
        assert staged is not None
        try:
            self.fetcher.fetch(self.part)
            buffer = bytearray(len(DATA))
            staged.read_into(0, memoryview(buffer))
            return bytes(buffer)
        finally:
            staged.close()


def test_a_part_that_took_long_and_brought_bytes_until_it_broke_is_tried_again(tmp_path: Path) -> None:
    clock = FakeClock()
    source = FakeSource(DATA, cut=[8 * KiB], on_read=lambda at: clock.advance(PATIENCE / 9))
    bench = Bench(tmp_path, source, clock)
    assert bench.fetch() == DATA
    assert source.log == [None, ByteRange(8 * KiB, len(DATA))]
    assert len(bench.retries) == 1


def test_a_part_without_a_byte_for_too_long_is_given_up_with_its_first_failure(tmp_path: Path) -> None:
    clock = FakeClock()
    source = FakeSource(
        DATA, faults=[ConnectionFailedError("reset by peer")], on_open=lambda want: clock.advance(PATIENCE)
    )
    bench = Bench(tmp_path, source, clock)
    with pytest.raises(RetriesExhaustedError, match="90 s without a new byte"):
        bench.fetch()
    assert bench.retries == []


def test_a_body_that_is_longer_than_the_file_is_not_kept_and_asked_for_again_from_its_start(
    tmp_path: Path,
) -> None:
    source = FakeSource(DATA, says_size=False)

    def answer(want: ByteRange | None) -> None:
        source.content = bytes(len(DATA)) + b"more" if len(source.log) == 1 else DATA

    source.on_open = answer
    bench = Bench(tmp_path, source, FakeClock())
    assert bench.fetch() == DATA
    assert source.log == [None, None]
    assert [str(error) for error in bench.retries] == [f"a.bin: the body is longer than {len(DATA)} bytes"]


def test_a_body_that_stays_too_long_is_believed_to_be_another_file(tmp_path: Path) -> None:
    source = FakeSource(DATA + b"more", says_size=False)
    bench = Bench(tmp_path, source, FakeClock())
    with pytest.raises(SourceChangedError, match="longer"):
        bench.fetch()


@pytest.mark.parametrize("seconds", [0.5, 2.5, 6.5])
@pytest.mark.parametrize("digest", [True, False], ids=["digest", "no digest"])
def test_what_seems_another_file_is_doubted_for_long_where_a_digest_says_what_it_must_be(
    tmp_path: Path, seconds: float, digest: bool
) -> None:
    """A proxy that is overloaded answers with a page of its own, for some seconds."""
    clock = FakeClock()
    source = FakeSource(DATA)
    began = clock()

    def answer(_want: ByteRange | None) -> None:
        clock.advance(1.0)
        if clock() - began < seconds:
            raise SourceChangedError("a page instead")

    source.on_open = answer
    bench = Bench(tmp_path, source, clock)
    if digest:
        bench.transfer.task.digest = Digest("sha256", hashlib.sha256(DATA).hexdigest())
    if not digest and seconds > 3:
        with pytest.raises(SourceChangedError):
            bench.fetch()
        assert len(source.log) == 3
        return
    assert bench.fetch() == DATA


def test_another_file_is_believed_in_when_it_stays(tmp_path: Path) -> None:
    clock = FakeClock()
    source = FakeSource(DATA, on_open=lambda _: clock.advance(8.0), faults=[SourceChangedError("no")] * 9)
    bench = Bench(tmp_path, source, clock)
    bench.transfer.task.digest = Digest("sha256", "0" * 64)
    with pytest.raises(SourceChangedError):
        bench.fetch()
    assert len(source.log) == 4


@pytest.mark.parametrize("way", ["reset", "stalled"])
def test_a_body_that_has_all_bytes_and_no_end_is_whole(tmp_path: Path, way: str) -> None:
    source, clock = FakeSource(DATA, says_size=False), FakeClock()
    bench = Bench(tmp_path, source, clock)

    def read(at: int) -> None:
        if at == len(DATA):
            assert bench.part.seconds_in_call(clock()) is not None, "the watchdog looks after it"
            if way == "stalled":
                bench.part.abandon("no byte for 10 s")
            raise ConnectionFailedError("reset by peer")

    source.on_read = read
    assert bench.fetch() == DATA
    assert bench.retries == []


class SlowDigest:
    """The digest of a bench's file, on a processor that another thread uses: it comes on only while the part waits.

    Attributes:
        lags: Bytes on disk that were not hashed, each time the part waited.
    """

    def __init__(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, then: Callable[[], None] = lambda: None
    ) -> None:
        monkeypatch.setattr(fetch, "_MOST_UNHASHED", 4 * KiB)
        self.bench, self.then = bench, then
        self.verifier = Verifier(Digest("sha256", hashlib.sha256(DATA).hexdigest()), len(DATA))
        self.verifier.catching_up = True
        bench.transfer.verifier = self.verifier
        monkeypatch.setattr(bench.part.cancel_token, "wait", self.wait)
        self.lags: list[int] = []

    def wait(self, seconds: float) -> bool:
        assert 0 < seconds < 0.1
        staged = self.bench.transfer.staged
        assert staged is not None
        self.lags.append(staged.frontier() - self.verifier.position)
        end = self.verifier.position + 2 * KiB
        self.verifier.catch_up(lambda: end, staged.read_into, wait=True)
        self.verifier.catching_up = True
        self.then()
        return self.bench.part.cancel_token.is_set()


def test_a_part_waits_for_a_digest_that_is_far_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, FakeSource(DATA), FakeClock())
    digest = SlowDigest(bench, monkeypatch)
    assert bench.fetch() == DATA
    assert digest.lags == [5 * KiB] * 6


def test_a_part_that_waits_for_a_digest_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, FakeSource(DATA), FakeClock())
    much_later = bench.part.started_at + 3600.0
    shared: list[object] = []

    def look() -> None:
        shared.append(part_to_share([bench.part], much_later))

    SlowDigest(bench, monkeypatch, look)
    assert bench.fetch() == DATA
    assert shared == [None] * 6
    bench.part.position = 0
    assert part_to_share([bench.part], much_later) is not None


def test_nobody_waits_for_a_digest_that_no_thread_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, FakeSource(DATA), FakeClock())
    digest = SlowDigest(bench, monkeypatch)
    digest.verifier.catching_up = False
    assert bench.fetch() == DATA
    assert digest.lags == []


def test_a_part_that_waits_for_a_digest_can_be_stopped_and_preempted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, FakeSource(DATA), FakeClock())
    SlowDigest(bench, monkeypatch, bench.part.cancel_token.set)
    with pytest.raises(StopRequestedError):
        bench.fetch()
    assert bench.part.position == 5 * KiB
    other = Bench(tmp_path / "b", FakeSource(DATA), FakeClock())
    SlowDigest(other, monkeypatch, lambda: other.part.preempt(0.0))
    other.fetch()
    assert other.part.position == 5 * KiB


def test_a_whole_file_that_comes_again_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    """The digest of the first half was taken, and what comes second may have another."""
    first, second = random.Random(6).randbytes(len(DATA)), DATA
    source = FakeSource(first, cut=[8 * KiB])
    hashed: list[int] = []

    def answer(want: ByteRange | None) -> None:
        verifier.catch_up(staged.frontier, staged.read_into, wait=True)
        hashed.append(verifier.position)
        source.content = first if len(source.log) == 1 else second

    source.on_open = answer
    bench = Bench(tmp_path, source, FakeClock())
    bench.transfer.mode = "whole"
    staged = bench.transfer.staged
    assert staged is not None
    digest = Digest("sha256", hashlib.sha256(second).hexdigest())
    verifier = bench.transfer.verifier = Verifier(digest, len(DATA))
    assert bench.fetch() == second
    assert source.log == [None, None]
    assert hashed == [0, 8 * KiB]
    assert verifier.position == 0


@pytest.mark.parametrize("size", [len(DATA), None], ids=["of known size", "of unknown size"])
def test_a_source_that_drips_is_given_up(tmp_path: Path, size: int | None) -> None:
    clock = FakeClock()
    source = FakeSource(DATA, step=90, on_read=lambda at: clock.advance(1.0))
    bench = Bench(tmp_path, source, clock)
    staged = bench.transfer.staged
    assert staged is not None
    fetch_it = bench.fetch if size else partial(bench.fetcher.fetch_unsized, bench.part, staged)
    with pytest.raises(RetriesExhaustedError, match=r"a\.bin: gave up, because only 5400 bytes came"):
        fetch_it()
    staged.close()


def test_a_source_that_drips_and_breaks_all_the_time_is_given_up(tmp_path: Path) -> None:
    clock = FakeClock()
    source = FakeSource(DATA, step=90, cut=[180] * 100, on_read=lambda at: clock.advance(1.0))
    bench = Bench(tmp_path, source, clock)
    with pytest.raises(RetriesExhaustedError, match="gave up, because only"):
        bench.fetch()


def test_what_a_limit_of_our_own_holds_back_is_no_drip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    bench = Bench(tmp_path, FakeSource(DATA, step=90, on_read=lambda at: clock.advance(0.1)), clock)
    limiter = bench.fetcher._limiter

    def wait(nbytes: int, cancel_token: object) -> float:
        clock.advance(10.0)
        return 10.0

    monkeypatch.setattr(limiter, "wait", wait)
    assert bench.fetch() == DATA


def test_seconds_before_an_answer_are_no_drip(tmp_path: Path) -> None:
    clock = FakeClock()
    source = FakeSource(DATA, cut=[100] * 5, on_open=lambda want: clock.advance(60.0))
    assert Bench(tmp_path, source, clock).fetch() == DATA


@pytest.mark.parametrize(
    ("answered", "setting"), [(False, "HF_HAUL_FIRST_BYTE_TIMEOUT"), (True, "HF_HAUL_STALL_TIMEOUT")]
)
def test_the_error_of_a_stall_names_the_setting_that_helps(
    tmp_path: Path, answered: bool, setting: str
) -> None:
    def stall(*_: object) -> None:
        bench.part.abandon("no byte for 60 s")
        raise ConnectionFailedError("interrupted")

    source = FakeSource(DATA, **{"on_read" if answered else "on_open": stall})  # type: ignore[arg-type]  # both take one
    bench = Bench(tmp_path, source, FakeClock())
    with pytest.raises(RetriesExhaustedError, match=rf"no byte for 60 s \({setting} sets"):
        bench.fetch()
    assert bench.part.unanswered == (0 if answered else len(source.log))


def test_the_wait_for_an_answer_does_not_slow_down_the_body(tmp_path: Path) -> None:
    clock = FakeClock()
    source = FakeSource(
        DATA, on_open=lambda want: clock.advance(60.0), on_read=lambda at: clock.advance(0.001)
    )
    bench = Bench(tmp_path, source, clock)
    bench.part.meter = SpeedMeter(clock=clock)
    bench.fetcher._on_bytes = lambda part, nbytes: part.meter.add(nbytes)
    bench.fetch()
    assert bench.part.meter.speed() == pytest.approx(1024 / 0.001, rel=0.1)
