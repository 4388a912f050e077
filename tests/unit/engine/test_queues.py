"""How files and queues end, and what is known of them then."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.support.clock import FakeClock
from tests.support.transport import FakeSource, MemoryDestination, request

from hf_haul.config import Settings
from hf_haul.engine import planned_files
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.events import EventBus, Notifier
from hf_haul.engine.jobs import FollowUp
from hf_haul.engine.plan import make_plan
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.queues import Queues
from hf_haul.engine.results import QueueStatus
from hf_haul.engine.transfer import Phase, Transfer
from hf_haul.errors import (
    DownloadCancelledError,
    HaulError,
    RetriesExhaustedError,
    SourceChangedError,
)
from hf_haul.metrics import SourceHistory
from hf_haul.task import DownloadPriority, DownloadState
from hf_haul.transports.source_limits import SourceLimits

FILES = 12


class Bench:
    """Queues whose files the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.lock = threading.Lock()
        sources = SourceLimits(Settings(), SourceHistory(), clock=self.clock)
        self.queues = Queues(self.lock, sources, EventBus(), clock=self.clock)

    def add(
        self,
        files: int = 1,
        priority: DownloadPriority = DownloadPriority.NORMAL,
        notifier: Notifier | None = None,
    ) -> QueueRun:
        source = FakeSource(b"12345")
        plan = make_plan(
            [request(MemoryDestination(self.folder, f"{number}.bin"), source) for number in range(files)],
            model_id="m", policy=DefaultPolicy(), settings=Settings(), created_at=lambda: 0.0,
        )  # fmt: skip
        queue = ModelDownloadQueue("m", priority=priority)
        run = QueueRun(queue, plan.files, notifier, clock=self.clock)
        queue.add_planned(plan.files)
        self.queues.add(run)
        return run

    def begin(self, run: QueueRun) -> Transfer:
        task = run.queue.first_of_lanes(prefer_small=True, may_begin=lambda _: True)
        assert task is not None
        transfer = Transfer(task, run.planned.request_of(task), FakeSource(b"12345"), run.metrics)
        run.queue.start(task)
        run.transfers[task.task_id] = transfer
        task.move_to(DownloadState.RUNNING)
        return transfer

    def succeed(self, run: QueueRun) -> FollowUp:
        then, transfer = FollowUp(), self.begin(run)
        transfer.task.move_to(DownloadState.VERIFYING)
        self.queues.succeed(run, transfer, then, transferred=True)
        return then

    def give_up(self, run: QueueRun, error: BaseException | None) -> tuple[Transfer, FollowUp]:
        then, transfer = FollowUp(), self.begin(run)
        self.queues.give_up(run, transfer, error, then)
        return transfer, then


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_queue_ends_once_everybody_was_told_of_its_last_file(bench: Bench) -> None:
    told: list[DownloadState] = []
    run = bench.add(2, notifier=Notifier(lambda progress: told.append(progress.status), "hf-haul-progress"))
    first, last = bench.succeed(run), bench.succeed(run)
    assert not run.over, "the end of the first file is still to be told"
    bench.queues.carry_out(last)
    assert not run.done.is_set()
    bench.queues.carry_out(first)
    assert run.done.is_set()
    assert not bench.queues.left
    run.flush()
    assert told == [DownloadState.DONE] * 2


def test_where_nobody_is_told_a_files_end_leaves_nothing_to_do(bench: Bench) -> None:
    run = bench.add(2)
    assert bench.succeed(run).is_empty
    last = bench.succeed(run)
    assert run.over
    bench.queues.carry_out(last)
    assert run.done.is_set()


def test_a_queue_that_is_over_is_found_by_its_id_and_by_that_of_its_only_task(bench: Bench) -> None:
    one, two = bench.add(1), bench.add(2)
    (task,) = one.queue.tasks
    assert bench.queues.find(one.queue.queue_id) is bench.queues.find(task.task_id) is one
    bench.queues.carry_out(bench.succeed(one))
    found = bench.queues.find(task.task_id)
    assert isinstance(found, QueueStatus)
    assert (found.queue_id, found.state) == (one.queue.queue_id, DownloadState.DONE)
    assert bench.queues.find(two.queue.tasks[0].task_id) is None, "which of a queue's tasks would it be?"


def test_queues_run_in_the_order_of_their_priorities(bench: Bench) -> None:
    low, high = bench.add(priority=DownloadPriority.LOW), bench.add(priority=DownloadPriority.HIGH)
    assert bench.queues.running == [high, low]
    bench.queues.move(high, DownloadPriority.LOW)
    assert set(bench.queues.running) == {low, high}
    bench.queues.move(low, DownloadPriority.NORMAL)
    assert bench.queues.running == [low, high]


@pytest.mark.parametrize(
    ("error", "state", "kind", "words"),
    [
        pytest.param(None, DownloadState.CANCELLED, DownloadCancelledError, "0.bin: cancelled", id="cancelled"),
        pytest.param(OSError("disk"), DownloadState.FAILED, OSError, "disk", id="failed"),
        pytest.param(SystemExit(3), DownloadState.FAILED, HaulError, "0.bin: SystemExit(3) in the thread", id="exit"),
        pytest.param(KeyboardInterrupt(), DownloadState.FAILED, HaulError, "KeyboardInterrupt", id="interrupt"),
    ],
)  # fmt: skip
def test_a_file_that_is_given_up_says_why_and_never_ends_the_program_of_who_waits(
    bench: Bench, error: BaseException | None, state: DownloadState, kind: type[Exception], words: str
) -> None:
    run = bench.add()
    transfer, then = bench.give_up(run, error)
    bench.queues.carry_out(then)
    assert (transfer.phase, transfer.task.state) == (Phase.ENDED, state)
    assert type(transfer.task.error) is kind
    assert words in str(transfer.task.error)


@pytest.mark.parametrize(
    ("error", "given_up"),
    [
        pytest.param(RetriesExhaustedError("silent"), True, id="a source that fails"),
        pytest.param(SourceChangedError("other"), True, id="a mirror that lags behind"),
        pytest.param(OSError("disk"), False, id="a fault of this machine"),
    ],
)
def test_after_eight_files_in_a_row_the_others_of_a_source_are_not_tried(
    bench: Bench, error: Exception, given_up: bool
) -> None:
    run = bench.add(FILES)
    for failed in range(1, 9):
        assert len(run.queue) == FILES - failed + 1
        bench.give_up(run, error)
    assert len(run.queue) == (0 if given_up else FILES - 8)
    untried = [task for task in run.queue.failed if "not tried" in str(task.error)]
    assert len(untried) == (FILES - 8 if given_up else 0)


def test_an_action_that_fails_keeps_no_other_from_being_done(bench: Bench) -> None:
    done: list[int] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    def fail() -> None:
        raise OSError("disk")

    then = FollowUp()
    then.do.extend([interrupt, fail, lambda: done.append(1)])
    with pytest.raises(KeyboardInterrupt):
        bench.queues.carry_out(then)
    assert done == [1]
    bench.queues.carry_out(then)  # nothing is done twice
    assert done == [1]


@pytest.mark.parametrize(
    ("error", "failed"),
    [pytest.param(None, 0, id="cancelled"), pytest.param(OSError("disk"), FILES, id="failed")],
)
def test_of_very_many_files_that_never_began_some_are_named_and_all_are_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception | None, failed: int
) -> None:
    for name in ("LONG", "NAMED"):
        monkeypatch.setattr(planned_files, name, 10)
    run, then = bench.add(FILES), FollowUp()
    bench.queues.drop_waiting(run, error, then)
    bench.queues.end_if_over(run, then)
    assert bench.queues.totals().failed == failed
    bench.queues.carry_out(then)
    status = bench.queues.find(run.queue.queue_id)
    assert isinstance(status, QueueStatus)
    assert (status.files_total, status.files_failed, len(status.failures)) == (FILES, FILES, 10)
    assert run.metrics.files_failed == FILES
    assert bench.queues.totals().failed == failed


def test_totals_count_while_there_is_work_and_keep_what_ended(bench: Bench) -> None:
    bench.clock.advance(5.0)  # nothing to do
    run = bench.add(2)
    bench.clock.advance(2.0)
    bench.queues.carry_out(bench.succeed(run))
    assert (bench.queues.totals().completed, bench.queues.totals().seconds) == (1, 2.0)
    _, then = bench.give_up(run, OSError("disk"))
    bench.queues.carry_out(then)
    bench.clock.advance(3.0)
    totals = bench.queues.totals()
    assert (totals.completed, totals.failed, totals.seconds) == (1, 1, 2.0)


def test_a_cancelled_file_is_no_failure_in_the_totals(bench: Bench) -> None:
    _, then = bench.give_up(bench.add(), None)
    bench.queues.carry_out(then)
    assert bench.queues.totals().failed == 0
