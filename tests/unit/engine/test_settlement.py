"""What is done about a file when a job of it ends, and what is repaired of state that an error left half-made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import KiB, Settings
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.events import EventBus
from hf_haul.engine.file_sources import FileSource, Suspicion
from hf_haul.engine.job_choice import Chooser
from hf_haul.engine.jobs import FollowUp, Job, JobKind
from hf_haul.engine.plan import make_plan
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.queues import Queues
from hf_haul.engine.settlement import Settlement
from hf_haul.engine.source_choice import SourceChoice
from hf_haul.engine.transfer import Phase, Transfer
from hf_haul.errors import (
    ConnectionFailedError,
    RangeRefusedError,
    ServerBusyError,
    SourceChangedError,
    StopRequestedError,
)
from hf_haul.metrics import SourceHistory
from hf_haul.ranges import ByteRange
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim
from hf_haul.storage.staged_file import StagedFile, StagedLostError
from hf_haul.task import DownloadState
from hf_haul.transports.source_limits import SourceLimits

SIZE, PART = 256 * KiB, 64 * KiB
SOURCE = "http://source.test"


class Bench:
    """One queue of one file of four parts; the test is all of its threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        settings = Settings(part_size=PART, initial_connections=4)
        source = FakeSource(bytes(SIZE))
        history = SourceHistory()
        self.sources = SourceLimits(settings, history, clock=self.clock)
        choice = SourceChoice(self.sources, history, clock=self.clock)
        self.lock = threading.Lock()
        self.queues = Queues(self.lock, self.sources, EventBus(), clock=self.clock)
        self.held: dict[threading.Thread, Job] = {}
        self.woken = 0
        self.staged: StagedFile | None = None
        self.hashed: list[Transfer] = []
        chooser = Chooser(settings, self.sources, lambda _: source, self.clock, choice=choice)
        self.settlement = Settlement(
            self.queues, self.sources, chooser, choice, self.held, wake=self._wake, hash_soon=self.hashed.append, clock=self.clock,
        )  # fmt: skip
        wanted = [request(MemoryDestination(folder, "a.bin"), source)]
        plan = make_plan(
            wanted, model_id="m", policy=DefaultPolicy(), settings=settings, created_at=lambda: 0.0
        )
        queue = ModelDownloadQueue("m")
        self.run = QueueRun(queue, plan.files, None, clock=self.clock)
        (planned,) = plan.files
        self.task = planned.task
        queue.add(self.task)
        self.queues.add(self.run)

    def _wake(self) -> None:
        self.woken += 1

    def next(self) -> Job:
        job = self.settlement.next_job()
        assert job is not None
        return job

    def settle(self, job: Job, error: BaseException | None = None) -> tuple[Job | None, FollowUp]:
        then = FollowUp()
        return self.settlement.settle(job, error, then), then

    def opened(self) -> Job:
        """The first part of the file, which was opened."""
        job = self.next()
        assert job.kind is JobKind.OPEN
        job.transfer.staged = self.staged = claim(self.folder, "a.bin", SIZE)
        first, _ = self.settle(job)
        assert first is not None
        assert first.kind is JobKind.FETCH
        return first

    def write(self, job: Job) -> None:
        """Fetch the part of a job."""
        part, staged = job.part, job.transfer.staged
        assert part is not None
        assert staged is not None
        staged.add(part.position, memoryview(bytes(part.remaining)))
        part.received += part.remaining
        part.position = part.stop

    @property
    def active(self) -> int:
        found: dict[str, dict[str, int]] = self.sources.snapshot()
        return found[SOURCE]["active"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    if made.staged is not None:
        made.staged.close()


def test_a_file_goes_through_all_its_phases_on_one_thread(bench: Bench) -> None:
    job: Job | None = bench.opened()
    phases = [bench.run.transfers[bench.task.task_id].phase]
    while job is not None and job.kind is JobKind.FETCH:
        bench.write(job)
        last = job
        job, _ = bench.settle(job)
        job = job or bench.settlement.next_job()
    assert job is not None
    phases.append(job.transfer.phase)
    assert (job.kind, bench.task.state) == (JobKind.FINISH, DownloadState.VERIFYING)
    job.published = True
    following, then = bench.settle(job)
    assert (following, bench.task.state, bench.run.over) == (None, DownloadState.DONE, True)
    assert [*phases, last.transfer.phase] == [Phase.FETCHING, Phase.FINISHING, Phase.ENDED]
    assert not bench.run.done.is_set(), "its end is told without the lock"
    bench.queues.carry_out(then)
    assert bench.run.done.is_set()
    assert bench.held == {}
    assert bench.active == 0


def test_who_lied_of_one_file_is_not_believed_of_any_other(bench: Bench) -> None:
    def others() -> list[FileSource]:
        return [FileSource(name, lambda: FakeSource(b"")) for name in ("http://honest", "http://liar")]

    job: Job | None = bench.opened()
    assert job is not None
    under_way = Transfer(
        bench.task, job.transfer.request, FakeSource(b""), bench.run.metrics, others=others()
    )
    bench.run.transfers["under way"] = under_way
    while job is not None and job.kind is JobKind.FETCH:
        bench.write(job)
        job, _ = bench.settle(job)
        job = job or bench.settlement.next_job()
    assert job is not None
    honest, liar = others()
    job.transfer.sources.suspicions = tuple(Suspicion(each, ByteRange(0, 1), b"") for each in (honest, liar))
    job.transfer.sources.wrong = job.transfer.sources.suspicions[1:]
    job.published = True
    bench.settle(job)
    assert [(each.lies, each.lost) for each in under_way.sources.others] == [(False, False), (True, True)]


def test_a_connection_counts_while_somebody_uses_it(bench: Bench) -> None:
    first = bench.opened()
    second = bench.settlement.next_job()
    assert second is not None
    assert bench.active == 2
    bench.settle(second, StopRequestedError())
    assert bench.active == 1
    bench.write(first)
    bench.settle(first)
    assert bench.active == 0


@pytest.mark.parametrize(
    ("error", "state", "again_at"),
    [
        pytest.param(StopRequestedError(), DownloadState.QUEUED, None, id="stopped before it was opened"),
        pytest.param(StagedElsewhereError(Path("a.bin"), None), DownloadState.QUEUED, 0.25, id="another process fetches it"),
        pytest.param(OSError("disk"), DownloadState.FAILED, None, id="the disk refuses"),
    ],
)  # fmt: skip
def test_a_file_that_could_not_be_opened_waits_or_fails(
    bench: Bench, error: Exception, state: DownloadState, again_at: float | None
) -> None:
    job = bench.next()
    following, _ = bench.settle(job, error)
    assert (following, bench.task.state) == (None, state)
    assert job.transfer.phase is Phase.ENDED
    assert bench.run.transfers == {}
    assert list(bench.run.deferred.values()) == ([] if again_at is None else [bench.clock.now + again_at])
    if state is DownloadState.QUEUED and again_at is None:
        assert bench.next().transfer is not job.transfer, "it is back in its place, and begun anew"


def test_one_part_that_fails_stops_the_others_and_the_file_fails_after_the_last(bench: Bench) -> None:
    first = bench.opened()
    second = bench.settlement.next_job()
    assert second is not None
    _, then = bench.settle(first, ConnectionFailedError("gone"))
    assert then.stop == [second.part]
    assert bench.task.state is DownloadState.RUNNING
    bench.settle(second, StopRequestedError())
    assert bench.task.state is DownloadState.FAILED
    assert str(bench.task.error).endswith("gone")
    assert bench.run.kept_bytes == 0


def test_a_busy_source_gets_fewer_connections(bench: Bench) -> None:
    before = bench.sources.limit(SOURCE)
    bench.settle(bench.opened(), ServerBusyError("busy"))
    assert bench.sources.limit(SOURCE) == before // 2


def test_a_source_that_refuses_ranges_twice_is_asked_for_the_whole_file(bench: Bench) -> None:
    first = bench.opened()
    second = bench.settlement.next_job()
    third = bench.settlement.next_job()
    assert second is not None
    assert third is not None
    _, once = bench.settle(first, RangeRefusedError("no"))
    assert once.stop == []
    _, twice = bench.settle(second, RangeRefusedError("no"))
    assert twice.stop == [third.part]
    bench.settle(third, StopRequestedError())
    whole = bench.next()
    assert whole.transfer.mode == "whole"
    assert whole.part is not None
    assert (whole.part.start, whole.part.stop) == (0, SIZE)


def test_a_file_that_changed_is_dropped_once_all_its_parts_ended_and_fetched_anew(bench: Bench) -> None:
    first = bench.opened()
    second = bench.settlement.next_job()
    assert second is not None
    following, then = bench.settle(first, SourceChangedError("other"))
    assert (following, then.stop) == (None, [second.part])
    assert bench.settlement.next_job() is None, "nothing of it is begun meanwhile"
    renew, _ = bench.settle(second, StopRequestedError())
    assert renew is not None
    assert (renew.kind, renew.transfer.phase) == (JobKind.RENEW, Phase.RESTARTING)
    following, _ = bench.settle(renew)
    assert renew.transfer.phase is Phase.FETCHING
    assert (following or bench.next()).kind is JobKind.FETCH


def test_a_wrong_digest_has_the_file_fetched_once_more_and_in_order(bench: Bench) -> None:
    job: Job | None = bench.opened()
    while job is not None and job.kind is JobKind.FETCH:
        bench.write(job)
        job = bench.settle(job)[0] or bench.settlement.next_job()
    assert job is not None
    staged = job.transfer.staged
    assert staged is not None
    job.transfer.mismatches += 1  # as the step that checks it does
    staged.forget()
    following, _ = bench.settle(job)
    assert following is None
    assert (bench.task.state, job.transfer.mode) == (DownloadState.RUNNING, "ordered")
    first = bench.next()
    assert first.part is not None
    assert first.part.start == 0
    assert bench.settlement.next_job() is None, "one part at a time"


def test_a_file_whose_staged_file_was_taken_is_looked_for_there(bench: Bench) -> None:
    job = bench.opened()
    _, then = bench.settle(job, StagedLostError("taken"))
    assert (bench.task.state, job.transfer.staged) == (DownloadState.QUEUED, None)
    assert bench.run.losses == {bench.task.task_id: 1}
    assert list(bench.run.deferred.values()) == [bench.clock.now]
    bench.queues.carry_out(then)  # closes what it had


def test_a_source_that_has_stopped_to_send_is_not_taken_to_be_sending(bench: Bench) -> None:
    part = bench.opened().part
    assert part is not None
    assert not bench.settlement._is_sending(part)
    part.reading_since = bench.clock()
    part.begin_call(bench.clock())
    assert bench.settlement._is_sending(part)
    bench.clock.advance(1.0)
    assert not bench.settlement._is_sending(part)


def test_a_job_that_is_put_down_is_the_next_threads(bench: Bench) -> None:
    job = bench.opened()
    bench.settlement.put_down()
    assert (bench.held, bench.active) == ({}, 0)
    assert bench.settlement.next_job() is job
    assert bench.active == 1


def test_a_part_counts_once_as_backing_off_however_often_it_says_so(bench: Bench) -> None:
    job = bench.opened()
    assert job.part is not None
    for waits, active in ((True, 0), (True, 0), (False, 1), (False, 1)):
        job.part.backing_off = waits
        bench.settlement.note_backing_off(job.part)
        assert bench.active == active


@pytest.mark.parametrize("error", [None, ConnectionFailedError("no threads")], ids=["cancelled", "failed"])
def test_a_queue_that_is_stopped_ends_with_its_last_part(bench: Bench, error: Exception | None) -> None:
    job = bench.opened()
    bench.run.queue.cancelled = error is None
    then = FollowUp()
    bench.settlement.stop_run(bench.run, error, then)
    assert set(then.stop) == {job.part}
    assert not bench.run.over
    bench.settle(job, StopRequestedError())
    assert bench.run.over
    assert bench.task.state is (DownloadState.CANCELLED if error is None else DownloadState.FAILED)


def test_the_file_of_a_thread_that_died_fails_and_its_connection_is_free(bench: Bench) -> None:
    job = bench.opened()
    dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join()
    bench.held[dead] = bench.held.pop(threading.current_thread())
    bench.settlement.mend(FollowUp(), {})
    assert (bench.held, bench.active) == ({}, 0)
    assert job.transfer.parts == []
    assert bench.task.state is DownloadState.FAILED
    assert "thread" in str(bench.task.error)


def test_a_part_that_nobody_is_at_is_given_to_somebody_else(bench: Bench) -> None:
    job = bench.opened()
    bench.held.clear()
    bench.settlement.mend(FollowUp(), {})
    assert job.transfer.parts == []
    again = bench.next()
    assert again.part is not None
    assert again.part is not job.part
    assert again.part.start == 0


def test_what_a_dead_thread_had_to_carry_out_is_carried_out(bench: Bench) -> None:
    dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join()
    done: list[str] = []
    owed = {dead: FollowUp()}
    owed[dead].do.append(lambda: done.append("closed"))
    then = FollowUp()
    bench.settlement.mend(then, owed)
    assert (owed, done) == ({}, [])
    bench.queues.carry_out(then)
    assert done == ["closed"]
