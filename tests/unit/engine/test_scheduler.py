"""The scheduler on the calling thread: what goes first, what follows a failure, what is left behind."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.transport import FakeSource, MemoryDestination, request, reset_by_peer

from hf_haul.config import KiB, MiB, Settings, Timings
from hf_haul.engine import scheduler as scheduler_module
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.jobs import FollowUp, Job, JobKind
from hf_haul.engine.plan import make_plan
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.scheduler import Scheduler
from hf_haul.errors import (
    DownloadCancelledError,
    HttpStatusError,
    IntegrityError,
    LinkExpiredError,
    RangeRefusedError,
    RetriesExhaustedError,
    SourceChangedError,
    StopRequestedError,
    TransferError,
)
from hf_haul.limiter import BandwidthLimiter
from hf_haul.ranges import ByteRange
from hf_haul.storage.claiming import claim
from hf_haul.storage.staged_file import StagedFile, StagedLostError
from hf_haul.task import Digest, DownloadPriority, DownloadState, FileRequest
from hf_haul.transports.base import Transport

PART = 64 * KiB
DATA = random.Random(11).randbytes(5 * PART + 123)
SHA256 = Digest("sha256", hashlib.sha256(DATA).hexdigest())
SETTINGS: dict[str, Any] = {
    "part_size": PART, "first_retry_wait": 0.0, "chunk_size": 16 * KiB, "min_chunk_size": 1 * KiB, "durable": False,
}  # fmt: skip


class Bench:
    """A scheduler over sources in memory, without threads unless a test is about them."""

    def __init__(self, folder: Path, *, threads: bool = False, **settings: Any) -> None:
        self.folder = folder
        self.sources: dict[str, FakeSource] = {}
        self.destinations: dict[str, MemoryDestination] = {}
        self.scheduler = Scheduler(
            Settings(**{**SETTINGS, **settings}), BandwidthLimiter(None), self.transport_for, threads=threads
        )

    def transport_for(self, wanted: FileRequest) -> Transport:
        return self.sources[wanted.remote.path]

    def file(self, name: str, content: bytes = DATA, **more: Any) -> FileRequest:
        options = {key: more.pop(key) for key in ("digest", "size", "priority") if key in more}
        self.sources[name] = FakeSource(content, **more)
        self.destinations[name] = MemoryDestination(self.folder, name)
        return request(self.destinations[name], self.sources[name], **options)

    def submit(self, *files: FileRequest, priority: DownloadPriority = DownloadPriority.NORMAL) -> QueueRun:
        plan = make_plan(
            files,
            model_id="org/m",
            policy=DefaultPolicy(),
            settings=self.scheduler.settings,
            created_at=lambda: 0.0,
        )
        queue = ModelDownloadQueue(
            "org/m", priority, max_concurrent_files=self.scheduler.settings.max_concurrent_files_per_model
        )
        return self.scheduler.submit(queue, plan.files, None)

    def run(self, *files: FileRequest) -> QueueRun:
        run = self.submit(*files)
        self.scheduler.drain()
        return run

    def left_behind(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def only_error(run: QueueRun) -> BaseException:
    ((_, error),) = run.errors
    return error


# ---- the way of a file


def test_a_file_is_fetched_in_parts_in_order_and_nothing_is_left_behind(bench: Bench) -> None:
    run = bench.run(bench.file("a.bin", digest=SHA256))
    assert run.done.is_set()
    assert bench.destinations["a.bin"].content == DATA
    assert bench.sources["a.bin"].log == [
        ByteRange(0, PART), ByteRange(PART, 2 * PART), ByteRange(2 * PART, 3 * PART), ByteRange(3 * PART, 4 * PART),
        ByteRange(4 * PART, 5 * PART + 123),
    ]  # fmt: skip
    assert bench.left_behind() == []
    assert run.queue.completed[0].state is DownloadState.DONE
    assert run.metrics.bytes_downloaded == len(DATA)


def test_a_small_file_is_one_request_without_a_range(bench: Bench) -> None:
    bench.run(bench.file("config.json", b"{}"))
    assert bench.sources["config.json"].log == [None]
    assert bench.destinations["config.json"].content == b"{}"


@pytest.mark.parametrize("says_size", [pytest.param(True, id="told"), pytest.param(False, id="not told")])
def test_an_empty_file_without_a_digest_is_asked_about(bench: Bench, says_size: bool) -> None:
    bench.run(bench.file("empty", b"", size=0, says_size=says_size))
    assert bench.sources["empty"].log == [ByteRange(0, 1)]
    assert bench.destinations["empty"].content == b""


def test_a_file_said_to_be_empty_that_is_not_fails_and_leaves_nothing(bench: Bench) -> None:
    run = bench.run(bench.file("a.bin", size=0))
    error = only_error(run)
    assert isinstance(error, SourceChangedError)
    assert str(len(DATA)) in str(error)
    assert bench.destinations["a.bin"].content is None
    assert bench.left_behind() == []


def test_an_empty_file_needs_no_request(bench: Bench) -> None:
    empty = hashlib.sha1(b"blob 0\0").hexdigest()
    bench.run(bench.file("empty", b"", digest=Digest("git-sha1", empty)))
    assert bench.sources["empty"].log == []
    assert bench.destinations["empty"].content == b""


def test_a_file_in_place_is_not_fetched_again(bench: Bench) -> None:
    wanted = bench.file("a.bin")
    bench.destinations["a.bin"].content = DATA
    run = bench.run(wanted)
    assert bench.sources["a.bin"].log == []
    assert run.present_files == 1
    assert run.done.is_set()


@pytest.mark.parametrize("size", [None, -1], ids=["size unknown", "size known"])
def test_a_size_that_the_source_tells_is_learned(bench: Bench, size: int | None) -> None:
    run = bench.run(bench.file("a.bin", size=size, digest=SHA256))
    assert bench.destinations["a.bin"].content == DATA
    assert run.queue.completed[0].size == len(DATA)


def test_a_file_whose_size_nobody_tells_comes_in_one_stream_and_is_verified(bench: Bench) -> None:
    bench.run(bench.file("a.bin", size=None, says_size=False, digest=SHA256))
    assert bench.destinations["a.bin"].content == DATA
    assert bench.left_behind() == []


def test_a_source_without_ranges_is_read_in_one_stream(bench: Bench) -> None:
    bench.run(bench.file("a.bin", ranges=False, digest=SHA256))
    assert bench.destinations["a.bin"].content == DATA
    assert bench.sources["a.bin"].log == [ByteRange(0, PART)]


# ---- what survives


def test_a_staged_file_is_resumed_and_only_what_is_missing_is_fetched(bench: Bench) -> None:
    staged = claim(bench.folder, "a.bin", len(DATA))
    staged.write(100, memoryview(DATA)[100:300_000])
    staged.record(100, 300_000)
    staged.close()
    run = bench.run(bench.file("a.bin", digest=SHA256))
    assert bench.destinations["a.bin"].content == DATA
    assert sorted(bench.sources["a.bin"].fetched()) == [*range(100), *range(300_000, len(DATA))]
    assert run.resumed_bytes == 299_900


def test_without_resume_everything_is_fetched_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, enable_resume=False)
    staged = claim(tmp_path, "a.bin", len(DATA))
    staged.write(0, memoryview(DATA))
    staged.record(0, len(DATA))
    staged.close()
    bench.run(bench.file("a.bin", digest=SHA256))
    assert sorted(bench.sources["a.bin"].fetched()) == list(range(len(DATA)))


def test_a_body_cut_short_is_continued_at_the_exact_byte(bench: Bench) -> None:
    bench.run(bench.file("a.bin", digest=SHA256, cut=[1000, 50_000]))
    assert bench.destinations["a.bin"].content == DATA
    assert bench.sources["a.bin"].log[:3] == [
        ByteRange(0, PART),
        ByteRange(1000, PART),
        ByteRange(51_000, PART),
    ]


def test_failures_without_progress_are_counted_and_a_new_byte_forgives_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_retries=3)
    faults = [reset_by_peer(), reset_by_peer(), reset_by_peer(), None] * 3
    run = bench.run(bench.file("a.bin", DATA[:60_000], faults=faults, cut=[20_000, 20_000]))
    assert bench.destinations["a.bin"].content == DATA[:60_000]
    assert run.metrics.retries == 11


def test_a_fault_that_lasts_ends_the_file_and_keeps_what_came(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_retries=2)
    wanted = bench.file("a.bin", digest=SHA256, faults=[None, *[reset_by_peer() for _ in range(9)]])
    other = bench.file("b.bin", digest=SHA256)
    run = bench.run(wanted, other)
    assert isinstance(only_error(run), RetriesExhaustedError)
    assert bench.destinations["b.bin"].content == DATA
    assert bench.left_behind() == ["a.bin.haul.incomplete"]
    bench.sources["a.bin"].faults.clear()
    bench.sources["a.bin"].log.clear()
    bench.run(wanted)
    assert bench.destinations["a.bin"].content == DATA
    assert min(w.start for w in bench.sources["a.bin"].log if w) == PART


def test_a_source_that_fails_file_after_file_is_not_waited_for_by_all_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_retries=5, max_concurrent_files_per_model=1)
    files = [bench.file(f"{i:03}.bin", b"x" * i, faults=[reset_by_peer()] * 99) for i in range(1, 101)]
    run = bench.run(*files)
    assert run.done.is_set()
    assert len(run.errors) == 100
    assert all(isinstance(error, RetriesExhaustedError) for _, error in run.errors)
    attempts = [len(source.log) for source in bench.sources.values()]
    assert attempts == [6, *[1] * 7, *[0] * 92]
    assert "not tried, because 8 files in a row" in str(run.errors[-1][1])


def test_a_source_of_other_versions_than_listed_is_not_asked_for_all_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_concurrent_files_per_model=1)
    faults = [SourceChangedError("another etag")] * 99
    run = bench.run(*(bench.file(f"{i:03}.bin", b"x" * i, faults=faults) for i in range(1, 101)))
    assert len(run.errors) == 100
    assert [type(error) for _, error in run.errors] == [SourceChangedError, *[RetriesExhaustedError] * 99]
    assert [len(source.log) for source in bench.sources.values()] == [9, *[1] * 7, *[0] * 92]
    assert "not tried, because 8 files in a row" in str(run.errors[-1][1])


def test_one_bad_file_does_not_cost_others_their_retries(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_retries=2, max_concurrent_files_per_model=1)
    bad = bench.file("a.bin", b"1", faults=[reset_by_peer()] * 99)
    good = bench.file("b.bin", b"22")
    flaky = bench.file("c.bin", b"333", faults=[reset_by_peer(), reset_by_peer()])
    run = bench.run(bad, good, flaky)
    assert [task.file_path for task, _ in run.errors] == ["a.bin"]
    assert bench.destinations["c.bin"].content == b"333"


@pytest.mark.parametrize(
    ("given_up_for", "then"),
    [
        pytest.param(reset_by_peer, lambda: LinkExpiredError("403"), id="silence, then an expired link"),
        pytest.param(reset_by_peer, lambda: SourceChangedError("size"), id="silence, then another size"),
        pytest.param(lambda: SourceChangedError("size"), reset_by_peer, id="another version, then a reset"),
        pytest.param(
            lambda: SourceChangedError("size"), lambda: LinkExpiredError("403"), id="and an expired link"
        ),
        pytest.param(lambda: LinkExpiredError("403"), reset_by_peer, id="no good link, then a reset"),
    ],
)
def test_what_one_file_was_given_up_for_costs_no_other_its_retries_of_something_else(
    tmp_path: Path, given_up_for: Callable[[], TransferError], then: Callable[[], TransferError]
) -> None:
    bench = Bench(tmp_path, max_retries=2, max_concurrent_files_per_model=1)
    bad = bench.file("a.bin", b"1", faults=[given_up_for() for _ in range(99)])
    run = bench.run(bad, bench.file("b.bin", b"22", faults=[then()]))
    assert [task.file_path for task, _ in run.errors] == ["a.bin"]
    assert bench.destinations["b.bin"].content == b"22"


def test_a_source_that_cannot_be_made_fails_its_own_file_and_no_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    run = bench.submit(bench.file("bad.bin"), bench.file("good.bin"))
    del bench.sources["bad.bin"]
    bench.scheduler.drain()
    assert run.done.is_set()
    ((task, error),) = run.errors
    assert task.file_path == "bad.bin"
    assert isinstance(error, KeyError)
    assert bench.destinations["good.bin"].content == DATA


def test_what_no_retry_changes_fails_at_once(bench: Bench) -> None:
    run = bench.run(bench.file("a.bin", faults=[HttpStatusError("gone", status=404)]))
    assert isinstance(only_error(run), HttpStatusError)
    assert bench.sources["a.bin"].log == [ByteRange(0, PART)]
    assert bench.left_behind() == []
    assert run.queue.failed[0].state is DownloadState.FAILED


# ---- wrong bytes


def test_a_wrong_digest_once_is_cured_by_fetching_again_in_order(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    source = bench.file("a.bin", digest=SHA256)
    served = bench.sources["a.bin"]
    served.content = b"wrong" + DATA[5:]

    def heal(want: ByteRange | None) -> None:
        if len(served.log) > 5:
            served.content = DATA

    served.on_open = heal
    run = bench.run(source)
    assert bench.destinations["a.bin"].content == DATA
    assert bench.destinations["a.bin"].published == 1
    assert not run.errors
    first = hashlib.sha256(b"wrong" + DATA[5:]).hexdigest()
    assert caplog.messages == [
        f"a.bin: digest does not match (expected {SHA256.value}, got {first}); fetching it again in one stream"
    ]


def test_wrong_bytes_of_an_earlier_session_are_dropped_and_the_file_is_fetched_as_any_other(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    staged = claim(bench.folder, "a.bin", len(DATA))
    staged.add(0, memoryview(b"wrong" + DATA[5:PART]))
    staged.record(0, PART)
    staged.close()
    run = bench.run(bench.file("a.bin", digest=SHA256))
    assert bench.destinations["a.bin"].content == DATA
    assert not run.errors
    assert bench.sources["a.bin"].log.count(ByteRange(0, PART)) == 1
    wrong = hashlib.sha256(b"wrong" + DATA[5:]).hexdigest()
    finding = f"(expected {SHA256.value}, got {wrong}, {PART} bytes of it from an earlier session)"
    assert f"a.bin: digest does not match {finding}; fetching it again" in caplog.messages


def test_a_source_that_is_wrong_after_such_bytes_still_gets_its_second_chance(
    bench: Bench,
) -> None:
    staged = claim(bench.folder, "a.bin", len(DATA))
    staged.add(0, memoryview(b"wrong" + DATA[5:PART]))
    staged.record(0, PART)
    staged.close()
    wanted = bench.file("a.bin", digest=SHA256)
    served = bench.sources["a.bin"]
    served.content = b"wrong" + DATA[5:]

    def heal(want: ByteRange | None) -> None:
        if served.log.count(ByteRange(0, PART)) > 1:
            served.content = DATA

    served.on_open = heal
    run = bench.run(wanted)
    assert not run.errors
    assert bench.destinations["a.bin"].content == DATA


def test_a_wrong_digest_twice_is_an_error_that_says_everything_and_publishes_nothing(bench: Bench) -> None:
    wrong = b"wrong" + DATA[5:]
    wanted = bench.file("a.bin", digest=SHA256)
    bench.sources["a.bin"].content = wrong
    run = bench.run(wanted)
    error = only_error(run)
    assert isinstance(error, IntegrityError)
    assert (error.file_path, error.expected, error.actual) == (
        "a.bin", SHA256.value, hashlib.sha256(wrong).hexdigest()
    )  # fmt: skip
    assert bench.destinations["a.bin"].content is None
    assert bench.left_behind() == []


def test_verify_false_takes_what_comes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, verify=False)
    wanted = bench.file("a.bin", digest=SHA256)
    bench.sources["a.bin"].content = b"wrong" + DATA[5:]
    bench.run(wanted)
    assert bench.destinations["a.bin"].content == b"wrong" + DATA[5:]


def test_a_source_that_changes_is_taken_as_it_is_now_if_nobody_said_what_it_should_be(bench: Bench) -> None:
    wanted = bench.file("a.bin")
    served = bench.sources["a.bin"]
    newer = bytes(reversed(DATA))

    def change(want: ByteRange | None) -> None:
        served.version = "old" if len(served.log) <= 3 else "new"
        served.content = DATA if len(served.log) <= 3 else newer

    served.on_open = change
    bench.run(wanted)
    assert bench.destinations["a.bin"].content == newer


def test_a_source_that_never_stands_still_fails(bench: Bench) -> None:
    wanted = bench.file("a.bin")
    served = bench.sources["a.bin"]
    served.on_open = lambda _: setattr(served, "version", str(len(served.log)))
    assert isinstance(only_error(bench.run(wanted)), SourceChangedError)
    assert bench.destinations["a.bin"].content is None


def test_refused_ranges_lead_to_one_stream(bench: Bench) -> None:
    faults = [None, RangeRefusedError("another range"), *[RangeRefusedError("another range")] * 9]
    wanted = bench.file("a.bin", digest=SHA256, faults=faults)
    served = bench.sources["a.bin"]
    served.on_open = lambda want: served.faults.clear() if want is None else None
    bench.run(wanted)
    assert bench.destinations["a.bin"].content == DATA
    assert served.log[-1] is None


# ---- order


def test_what_a_loader_needs_is_opened_before_the_weights(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    opened: list[str] = []
    files = []
    for name, size in [
        ("w1.safetensors", 6 * MiB),
        ("config.json", 100),
        ("tokenizer.json", 2000),
        ("x.bin", 900),
    ]:
        files.append(bench.file(name, DATA[:size] if size < len(DATA) else bytes(size)))
        bench.sources[name].on_open = lambda _, name=name: opened.append(name)  # type: ignore[misc]
    bench.run(*files)
    assert list(dict.fromkeys(opened)) == ["config.json", "tokenizer.json", "x.bin", "w1.safetensors"]


def test_a_more_urgent_queue_goes_before_what_is_left_of_others(bench: Bench) -> None:
    order: list[str] = []
    low = bench.file("low.bin")
    high = bench.file("high.bin")
    late: list[QueueRun] = []

    def submit_high(_want: ByteRange | None) -> None:
        order.append("low")
        if not late:
            late.append(bench.submit(high, priority=DownloadPriority.HIGH))

    bench.sources["low.bin"].on_open = submit_high
    bench.sources["high.bin"].on_open = lambda _: order.append("high")
    bench.submit(low, priority=DownloadPriority.LOW)
    bench.scheduler.drain()
    assert order[0] == "low"
    assert order[1:6] == ["high"] * 5
    assert bench.destinations["low.bin"].content == DATA
    assert sum(1 for _ in bench.sources["low.bin"].fetched()) <= len(DATA) + PART


def test_open_files_are_bounded_per_queue(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_concurrent_files_per_model=1)
    files = [bench.file(f"{i}.bin") for i in range(4)]
    most = 0

    def count(_want: ByteRange | None) -> None:
        nonlocal most
        most = max(most, len(list(tmp_path.glob("*.incomplete"))))

    for source in bench.sources.values():
        source.on_open = count
    bench.run(*files)
    assert most == 1


def test_a_queue_goes_on_with_one_source_while_another_is_full(bench: Bench) -> None:
    from dataclasses import replace

    slow = [bench.file(f"a{i}.json", b"{}") for i in range(9)]
    quick = bench.file("z.json", b"{}")
    quick = replace(quick, remote=replace(quick.remote, url="http://other.test/z.json"))
    bench.submit(*slow, quick)
    taken = [bench.scheduler.next_job() for _ in range(6)]
    names = [each.transfer.task.file_path for each in taken if each is not None and each.part is None]
    assert names == ["a0.json", "a1.json", "a2.json", "a3.json", "z.json"]
    assert taken[5] is None


@pytest.mark.parametrize(
    ("size", "waits"),
    [
        pytest.param(4 * MiB, True, id="small: who finishes it is soon back"),
        pytest.param(4 * MiB + 1, False, id="large: its digest and flush take a while"),
    ],
)
def test_who_finishes_a_small_file_keeps_its_connection_for_the_next(
    tmp_path: Path, size: int, waits: bool
) -> None:
    bench = Bench(tmp_path, initial_connections=1, part_size=8 * MiB)
    bench.submit(bench.file("a.bin", bytes(size)), bench.file("b.bin", bytes(size)))
    scheduler, job, kinds = bench.scheduler, bench.scheduler.next_job(), []
    while job is not None and job.kind is not JobKind.FINISH:
        kinds.append(job.kind)
        job = scheduler.settle(job, scheduler._workers.attempt(job), FollowUp())
    assert job is not None
    assert kinds == [JobKind.OPEN, JobKind.FETCH]
    assert (scheduler.next_job() is None) is waits
    scheduler.settle(job, scheduler._workers.attempt(job), FollowUp())
    assert (scheduler.next_job() is None) is not waits


def test_a_folder_is_listed_once_for_files_that_are_added_one_by_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []
    monkeypatch.setattr(scheduler_module, "scan_orphans", lambda folder: listed.append(folder) or {})
    for i in range(50):
        bench.submit(bench.file(f"{i}.bin"))
    assert listed == [bench.folder]


def test_what_is_still_to_come_shrinks_with_every_file_and_knows_sizes_that_were_learned(
    bench: Bench,
) -> None:
    names = ["a.bin", "b.bin", "c.bin"]
    files = [bench.file(name, size=None) for name in names]
    left: dict[str, dict[str, int | None]] = {}

    def look(name: str) -> None:
        left[name] = {each.remote.path: each.remote.size for each in bench.scheduler.unsettled()}

    for name in names:
        bench.sources[name].on_read = lambda _at, name=name: look(name)
    run = bench.submit(*files)
    assert bench.scheduler.unsettled() == files
    bench.scheduler.drain()
    assert run.done.is_set()
    assert left["c.bin"] == {"c.bin": len(DATA)}
    assert left["a.bin"].keys() == set(names)
    assert left["a.bin"]["a.bin"] == len(DATA)
    assert bench.scheduler.unsettled() == []
    again = bench.submit(bench.file("d.bin"))
    bench.scheduler.cancel(again)
    assert bench.scheduler.unsettled() == []


# ---- stopping


def during_first_part(bench: Bench, name: str, action: Callable[[], object]) -> None:
    source = bench.sources[name]
    source.step = 10_000

    def act(at: int) -> None:
        if at == 20_000 and len(source.log) == 1:
            action()

    source.on_read = act


def test_a_cancelled_queue_stops_reports_it_and_stays_resumable(bench: Bench) -> None:
    wanted, waiting = bench.file("a.bin", digest=SHA256), bench.file("b.bin")
    run = bench.submit(wanted, waiting)
    during_first_part(bench, "a.bin", lambda: bench.scheduler.cancel(run))
    bench.scheduler.drain()
    assert run.done.is_set()
    assert {task.state for task in run.queue.failed} == {DownloadState.CANCELLED}
    assert all(isinstance(error, DownloadCancelledError) for _, error in run.errors)
    assert bench.left_behind() == ["a.bin.haul.incomplete"]
    assert not bench.scheduler.cancel(run)
    bench.sources["a.bin"].log.clear()
    bench.run(wanted)
    first = bench.sources["a.bin"].log[0]
    assert first is not None
    assert first.start >= 20_000


def test_a_paused_scheduler_does_nothing_until_resumed_and_loses_no_byte(bench: Bench) -> None:
    run = bench.submit(bench.file("a.bin", digest=SHA256))
    during_first_part(bench, "a.bin", bench.scheduler.pause)
    bench.scheduler.drain()
    assert not run.done.is_set()
    assert run.queue.tasks[0].state is DownloadState.PAUSED
    fetched = len(bench.sources["a.bin"].log)
    bench.scheduler.drain()
    assert len(bench.sources["a.bin"].log) == fetched == 1
    bench.scheduler.resume()
    bench.scheduler.drain()
    assert bench.destinations["a.bin"].content == DATA
    assert run.metrics.bytes_downloaded <= len(DATA) + 10_000


def test_a_long_look_at_a_file_in_place_ends_with_its_queue(bench: Bench) -> None:
    run = bench.submit(bench.file("a.bin", digest=SHA256))
    (bench.folder / "a.bin").write_bytes(b"old")
    bench.destinations["a.bin"].on_look = lambda: bench.scheduler.cancel(run)
    bench.scheduler.drain()
    assert run.done.is_set()
    assert isinstance(only_error(run), DownloadCancelledError)
    assert bench.sources["a.bin"].log == []


def test_a_long_look_at_a_file_in_place_ends_with_a_pause_and_is_repeated(bench: Bench) -> None:
    run = bench.submit(bench.file("a.bin", digest=SHA256))
    (bench.folder / "a.bin").write_bytes(b"old")
    bench.destinations["a.bin"].on_look = bench.scheduler.pause
    bench.scheduler.drain()
    assert run.queue.tasks[0].state is DownloadState.QUEUED
    assert bench.sources["a.bin"].log == []
    looks: list[int] = []
    bench.destinations["a.bin"].on_look = lambda: looks.append(1)
    bench.scheduler.resume()
    bench.scheduler.drain()
    assert bench.destinations["a.bin"].content == DATA
    assert looks


def test_one_queue_can_be_paused_alone(bench: Bench) -> None:
    first, second = bench.submit(bench.file("a.bin")), bench.submit(bench.file("b.bin"))
    bench.scheduler.pause(first)
    bench.scheduler.drain()
    assert second.done.is_set()
    assert bench.sources["a.bin"].log == []
    bench.scheduler.resume(first)
    bench.scheduler.drain()
    assert first.done.is_set()


# ---- others


def test_a_file_that_another_process_fetches_is_looked_at_again_and_linked_when_it_is_there(
    bench: Bench,
) -> None:
    theirs = claim(bench.folder, "a.bin", len(DATA))
    run = bench.submit(bench.file("a.bin"))
    bench.scheduler.drain()
    assert bench.sources["a.bin"].log == []
    waiting_for = run.status().waiting_for
    assert waiting_for is not None
    assert "a.bin: waiting for another download of this process" in waiting_for
    bench.destinations["a.bin"].content = DATA  # they publish
    theirs.delete()
    bench.scheduler._clock = lambda: 1e9
    bench.scheduler.tick()
    bench.scheduler.drain()
    assert run.done.is_set()
    assert run.status().waiting_for is None
    assert bench.sources["a.bin"].log == []


@pytest.mark.parametrize("tell", [True, False])
def test_a_look_tells_of_progress_only_where_it_should(
    bench: Bench, tell: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[QueueRun] = []
    monkeypatch.setattr(QueueRun, "post_progress", lambda run, **_how: posted.append(run))
    run = bench.submit(bench.file("a.bin"))
    bench.scheduler.tick(tell=tell)
    assert posted == [run] * tell


def test_a_staged_file_lost_to_somebody_else_is_fetched_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_haul.storage.staged_file import StagedFile

    real = StagedFile.seal
    losses = iter([True, False])

    def seal(self: StagedFile, *, durable: bool) -> Path:
        if next(losses):
            self.path.unlink()
            raise StagedLostError("taken")
        return real(self, durable=durable)

    monkeypatch.setattr(StagedFile, "seal", seal)
    run = bench.submit(bench.file("a.bin", digest=SHA256))
    bench.scheduler.drain()
    bench.scheduler._clock = lambda: 1e9
    bench.scheduler.tick()
    bench.scheduler.drain()
    assert run.done.is_set()
    assert bench.destinations["a.bin"].content == DATA


@pytest.mark.parametrize("times", [1, 5, 6])
def test_a_staged_file_that_was_taken_is_given_up_in_the_middle_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Who slept for long, and goes on to write into a file that nobody will publish, fetches all the rest in vain."""
    bench = Bench(tmp_path, part_size=4 * MiB)
    taken = 0
    real = StagedFile.require_ours

    def look(self: StagedFile, interval: float) -> None:
        nonlocal taken
        if taken < times:
            taken += 1
            self.path.rename(self.path.with_suffix(".theirs"))
            interval = 0.0
        real(self, interval)

    monkeypatch.setattr(StagedFile, "require_ours", look)
    run = bench.submit(bench.file("a.bin", bytes(4 * MiB)))
    for number in range(10):
        bench.scheduler._clock = lambda number=number: 1e9 + number
        bench.scheduler.tick()
        bench.scheduler.drain()
    assert run.done.is_set()
    if times <= 5:
        assert bench.destinations["a.bin"].content == bytes(4 * MiB)
    else:
        assert isinstance(only_error(run), StagedLostError)


@pytest.mark.parametrize("which", ["one queue", "all", "none"])
def test_a_paused_file_gives_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Another process need not wait until the pause is over: after a while it copies what is there."""
    bench = Bench(tmp_path, timings=Timings(sign_of_life=0.0))
    scheduler, beats = bench.scheduler, []
    run = bench.submit(bench.file("a.bin"))
    opened = scheduler.next_job()
    assert opened is not None
    scheduler._workers.attempt(opened)
    monkeypatch.setattr(scheduler, "_threads_allowed", True)
    monkeypatch.setattr(scheduler, "_wake_workers", lambda: None)
    monkeypatch.setattr(scheduler._errands, "add", lambda *what: beats.append(what))
    if which != "none":
        scheduler.pause(run if which == "one queue" else None)
    scheduler.tick()
    assert len(beats) == (which == "none")


def test_a_destination_that_refuses_keeps_the_verified_bytes(bench: Bench) -> None:
    wanted = bench.file("a.bin", digest=SHA256)
    bench.destinations["a.bin"].fails = [PermissionError("read-only")]
    run = bench.run(wanted)
    assert isinstance(only_error(run), PermissionError)
    assert bench.destinations["a.bin"].content is None


def test_a_slow_part_is_split_and_a_stuck_rest_is_hedged(tmp_path: Path) -> None:
    now = 1000.0
    bench = Bench(tmp_path, part_size=64 * MiB)
    bench.scheduler._clock = bench.scheduler._chooser._clock = lambda: now
    bench.submit(bench.file("big.bin", bytes(16 * MiB)))
    opened = bench.scheduler.next_job()
    assert opened is not None
    bench.scheduler.settle(opened, bench.scheduler._workers.attempt(opened), FollowUp())
    (slow,) = opened.transfer.parts
    assert (slow.start, slow.stop) == (0, 16 * MiB)
    bench.scheduler.history.first_byte(
        opened.transfer.source, 0.1, large=True
    )  # a source that has answered others
    assert bench.scheduler.next_job() is None  # too young to judge
    now += 5
    job = bench.scheduler.next_job()
    assert job is not None
    half = job.part
    assert half is not None
    assert (slow.stop, half.start, half.stop) == (8 * MiB, 8 * MiB, 16 * MiB)
    slow.position = slow.stop - 1000
    half.position = half.stop - 10
    slow.busy_since = now - 4
    half.busy_since = now
    job = bench.scheduler.next_job()
    assert job is not None
    hedge = job.part
    assert hedge is not None
    assert (hedge.start, hedge.stop, hedge.hedge, slow.hedge) == (slow.position, slow.stop, slow, hedge)


def test_the_slower_of_two_hedges_is_stopped_at_once_and_not_hedged_again(tmp_path: Path) -> None:
    """Else the slower one was hedged in its turn, for bytes that were on disk, and so on: the file never ended."""
    now = 1000.0
    bench = Bench(tmp_path)
    bench.scheduler._clock = bench.scheduler._chooser._clock = lambda: now
    run = bench.submit(bench.file("a.bin", bytes(1000)))
    bench.scheduler._fetcher.fetch = lambda part: None  # type: ignore[method-assign]
    opening = bench.scheduler.next_job()
    assert opening is not None
    opened = opening.transfer
    first = bench.scheduler.settle(opening, bench.scheduler._workers.attempt(opening), FollowUp())
    assert first is not None
    (slow,) = opened.parts
    bench.scheduler.history.first_byte(opened.source, 0.1)
    slow.busy_since = now
    now += 5
    second = bench.scheduler.next_job()
    assert second is not None
    quick = second.part
    assert quick is not None
    assert quick.hedge is slow
    assert opened.staged is not None
    opened.staged.write(0, memoryview(bytes(1000)))
    opened.staged.record(0, 1000)
    quick.position = quick.stop
    then = FollowUp()
    bench.scheduler.settle(second, None, then)
    now += 5
    assert bench.scheduler.next_job() is None
    bench.scheduler.carry_out(then)
    assert slow.cancel_token.is_set()
    last = bench.scheduler.settle(first, StopRequestedError(), FollowUp())
    assert last is not None
    bench.scheduler._workers.perform(last)
    assert run.done.is_set()
    assert bench.destinations["a.bin"].content == bytes(1000)


def test_a_queue_that_comes_while_the_only_worker_ends_is_not_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, threads=True, max_concurrent_downloads=1, timings=Timings(idle_workers=0.01))
    first, second = bench.file("a.bin"), bench.file("b.bin")
    runs: list[QueueRun] = []
    came = threading.Event()
    look_for_work = bench.scheduler.next_job

    def next_job() -> Job | None:
        job = look_for_work()
        if job is None and not came.is_set():  # it has decided to end, and has not ended yet
            runs.append(bench.submit(second))
            came.set()
        return job

    monkeypatch.setattr(bench.scheduler, "next_job", next_job)
    try:
        assert bench.submit(first).done.wait(10)
        assert came.wait(10)
        assert runs[0].done.wait(10)
    finally:
        bench.scheduler.shutdown(wait_for_work=False)
