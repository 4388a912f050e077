"""No memory, no threads, errors in our own lines: whatever happens, nobody waits for ever, and afterwards everything works."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.support.transport import FakeSource, MemoryDestination, request
from tests.support.waits import our_threads

from hf_haul import cancellation, limiter, metrics, threads, waits
from hf_haul.config import KiB, MiB, Settings, Timings
from hf_haul.engine import (
    download_queue,
    errands,
    event_stream,
    events,
    file_steps,
    hasher,
    job_choice,
    jobs,
    lanes,
    outcome,
    part_fetcher,
    plan,
    planned_files,
    queue_events,
    queue_run,
    queues,
    resilience,
    scheduler,
    settlement,
    ticker,
    transfer,
    verifier,
    watchdog,
    workers,
)
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.event_stream import EventStream
from hf_haul.engine.events import EventFeed, Notifier
from hf_haul.engine.plan import make_plan
from hf_haul.engine.priority import DefaultPolicy
from hf_haul.engine.queue_events import QueueEvents
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.queues import Queues
from hf_haul.engine.scheduler import Scheduler
from hf_haul.engine.settlement import Settlement
from hf_haul.engine.workers import Workers
from hf_haul.errors import HaulError
from hf_haul.limiter import BandwidthLimiter
from hf_haul.storage import adoption, claiming, journal, left_file, staged_file, staged_names, sweeping
from hf_haul.task import Digest, DownloadState, FileRequest
from hf_haul.transports import concurrency, source_limits

BOUND = 60.0  # seconds
LARGE = random.Random(3).randbytes(4 * MiB + 1)  # more than a small file: its digest has a thread of its own
SMALL = random.Random(4).randbytes(40 * KiB)
DIGESTS = {content: Digest("sha256", hashlib.sha256(content).hexdigest()) for content in (LARGE, SMALL)}


class World:
    """A scheduler with its threads, over sources in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.sources: dict[str, FakeSource] = {}
        self.destinations: dict[str, MemoryDestination] = {}
        settings = Settings(
            part_size=MiB, chunk_size=MiB, first_retry_wait=0.0, max_concurrent_downloads=3, durable=False,
            timings=Timings(unwritten=0.1, asleep=10 * BOUND),  # nobody is asleep: who waits for itself hangs
        )  # fmt: skip
        self.scheduler = Scheduler(
            settings, BandwidthLimiter(None), lambda wanted: self.sources[wanted.remote.path]
        )
        self.told: list[DownloadState] = []
        self.notifiers: list[Notifier] = []
        self.feed = EventFeed(lambda _event: None)

    def file(self, name: str, content: bytes) -> FileRequest:
        self.sources.setdefault(name, FakeSource(content))
        self.destinations.setdefault(name, MemoryDestination(self.folder, name))
        return request(self.destinations[name], self.sources[name], digest=DIGESTS[content])

    def submit(self, *names: str) -> QueueRun:
        files = [self.file(name, LARGE if name.startswith("large") else SMALL) for name in names]
        planned = make_plan(
            files,
            model_id="org/m",
            policy=DefaultPolicy(),
            settings=self.scheduler.settings,
            created_at=lambda: 0.0,
        )
        notifier = Notifier(lambda progress: self.told.append(progress.status), "hf-haul-progress")
        self.notifiers.append(notifier)
        told = QueueEvents(EventStream([self.feed], "org/m"), whole=True)
        return self.scheduler.submit(ModelDownloadQueue("org/m"), planned.files, notifier, told)

    def leave(self, name: str) -> None:
        """Leave what an earlier process had of a file."""
        content = LARGE if name.startswith("large") else SMALL
        staged = claiming.claim(self.folder, name, len(content))
        staged.write(0, memoryview(content)[:1])
        staged.record(0, 1)
        staged.close()

    def fetch(self, *names: str, case: str = "") -> QueueRun:
        run = self.submit(*names)
        assert self.scheduler.wait(run, BOUND), f"it hangs: {case}"
        run.flush()
        return run

    def is_whole(self, name: str) -> bool:
        return self.destinations[name].content == self.sources[name].content


@contextmanager
def world(folder: Path, left: Sequence[str] = ()) -> Iterator[World]:
    made = World(folder)
    for name in left:
        made.leave(name)
    try:
        yield made
    finally:
        made.scheduler.shutdown(wait_for_work=False)
        for notifier in made.notifiers:  # its thread would linger in the tests that follow
            notifier.flush()


class Trap:
    """Raises an error in one call of a function, on a thread of ours.

    Args:
        error: The error.
        nth: In which call.
        after: Whether the call has done its work by then.
    """

    def __init__(self, error: BaseException, nth: int, *, after: bool) -> None:
        self.error = error
        self.nth = nth
        self.after = after
        self.sprung = False
        self._calls = 0
        self._lock = threading.Lock()

    def _springs(self) -> bool:
        if not threading.current_thread().name.startswith("hf-haul"):
            return False
        with self._lock:
            self._calls += 1
            self.sprung = self.sprung or self._calls == self.nth
            return self._calls == self.nth

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **more: Any) -> Any:
            springs = self._springs()
            if springs and not self.after:
                raise self.error
            answer = function(*args, **more)
            if springs:
                raise self.error
            return answer

        return call


def places(module: ModuleType) -> Iterator[tuple[Any, str]]:
    """Where the functions and methods of a module are."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield module, name
        elif inspect.isclass(value):
            for attribute, member in vars(value).items():
                if inspect.isfunction(member) or isinstance(member, staticmethod | property):
                    yield value, attribute


def set_trap(patch: pytest.MonkeyPatch, where: Any, name: str, trap: Trap) -> None:
    member = inspect.getattr_static(where, name)
    if isinstance(member, property):
        assert member.fget is not None
        patch.setattr(where, name, property(trap.around(member.fget), member.fset))
    elif isinstance(member, staticmethod):
        patch.setattr(where, name, staticmethod(trap.around(member.__func__)))
    else:
        trapped = trap.around(member)
        for each in {where, *MODULES} if inspect.ismodule(where) else {where}:
            if vars(each).get(name) is member:  # also where it was imported to
                patch.setattr(each, name, trapped)


def gives_a_file(where: Any, name: str) -> bool:
    member = inspect.getattr_static(where, name)
    return "StagedFile" in str(getattr(member, "__annotations__", {}).get("return"))


#: Each has its own way out of what goes wrong in it, which is tested where it is.
LEFT_OUT = {(threads.ThreadGroup, "_run"), (threads._Daemon, "run"), (threads._Daemon, "_bootstrap")}
MODULES = (
    adoption, cancellation, claiming, concurrency, download_queue, errands, event_stream, events, file_steps, hasher,
    job_choice, jobs, journal, lanes, left_file, limiter, metrics, outcome, part_fetcher, plan, planned_files, queue_events, queue_run, queues, resilience,
    scheduler, settlement, source_limits, staged_file, staged_names, sweeping, threads, ticker, transfer, verifier, waits,
    watchdog, workers,
)  # fmt: skip


#: What is done to a file that an earlier process left.
TAKING_OVER = (adoption, claiming, left_file, staged_file)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_an_error_anywhere_in_our_own_lines_fails_its_file_at_the_most(
    module: ModuleType, tmp_path: Path
) -> None:
    errors = [MemoryError("out of memory"), SystemExit(3), ValueError("a bug")]
    sprung = 0
    for where, name in places(module):
        if (where, name) in LEFT_OUT:
            continue
        for nth, after in ((1, False), (2, True)):
            if after and gives_a_file(where, name):
                continue  # the trap itself would drop what is open
            trap = Trap(errors[(nth + after) % 3], nth, after=after)
            left = ["small1"] if module in TAKING_OVER else []
            with world(tmp_path / f"{sprung}", left) as there, pytest.MonkeyPatch.context() as patch:
                set_trap(patch, where, name, trap)
                case = f"{getattr(where, '__name__', where)}.{name}, call {nth}, {'after' if after else 'before'} it"
                first, second = there.submit("large1", "small1"), there.submit("small2")
                for queue in (first, second):
                    assert there.scheduler.wait(queue, BOUND), f"hangs after an error in {case}"
                for queue in (first, second):
                    queue.flush()
                    failed = {task.file_path for task, _ in queue.errors}
                    assert failed <= {task.file_path for task in queue.queue.tasks}
                    for task in queue.queue.tasks:
                        assert task.file_path in failed or there.is_whole(task.file_path), case
                    for _, error in queue.errors:
                        assert error is trap.error or isinstance(error, HaulError), (case, error)
                if not trap.sprung:
                    break
                sprung += 1
                patch.undo()
                again = there.fetch("large1", "small1", "small2", "small3", case=case)
                assert again.errors == [], (case, again.errors)
                assert all(map(there.is_whole, there.sources)), case
                assert there.scheduler.snapshot()["connections"] == 0
                active = there.scheduler.snapshot()["sources"]["http://source.test"]["active"]
                assert active == 0, (case, active)
            assert our_threads() == [], (case, our_threads())
    assert sprung


# ---- no memory


class Lack:
    """There is no memory for what a worker notes of its own, until something gives some back."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.holds = True
        patch.setattr(resilience.mmap, "mmap", lambda *_: SimpleNamespace(close=self.end))
        patch.setattr(workers, "drop_frames", self.around(workers.drop_frames))
        patch.setattr(workers, "FollowUp", self.around(workers.FollowUp))

    def end(self) -> None:
        self.holds = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if self.holds:
                raise MemoryError
            return function(*args)

        return call


def test_where_memory_lacks_for_every_repair_what_runs_fails_and_later_what_is_asked_for_is_done(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.scheduler._workers.standstill = resilience.Standstill(0.0)
    with monkeypatch.context() as patch:
        lack = Lack(patch)
        run = there.fetch("large1", "large2", "small1", "small2", "small3")
        assert not lack.holds
    assert run.errors
    for _, error in run.errors:
        assert isinstance(error, MemoryError)
        assert "no memory left" in str(error)
    assert there.fetch("large1", "small1").errors == []
    assert there.is_whole("large1")


@pytest.mark.parametrize("lack", [MemoryError(), ValueError("a bug")])
def test_a_file_fails_with_what_kept_its_thread_from_going_on(
    there: World, monkeypatch: pytest.MonkeyPatch, lack: Exception
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(workers, "FollowUp", Trap(lack, 1, after=False).around(workers.FollowUp))
        run = there.fetch("small1", "small2")
    ((_, error),) = run.errors
    assert type(error) is type(lack)
    assert str(error) in {"there was no memory left to go on with it", "a bug"}


# ---- no threads


class Refusal:
    """The system gives no threads to us, until it does again."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.holds = True
        self.refused = 0
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if self.holds and thread.name.startswith("hf-haul"):
                self.refused += 1
                raise RuntimeError("can't start new thread")
            start(thread)

        patch.setattr(threading.Thread, "start", refuse)


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> Refusal:
    return Refusal(monkeypatch)


@pytest.fixture(name="there")
def _there(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def test_where_no_thread_is_to_be_had_who_waits_does_the_work(there: World, refusal: Refusal) -> None:
    observed: list[str] = []
    there.scheduler.events.subscribe(lambda event: observed.append(event.kind))
    first, second = there.submit("large1", "small1", "small2"), there.submit("large2")
    for queue in (second, first):
        assert there.scheduler.wait(queue, BOUND)
        queue.flush()
        assert queue.errors == []
    assert all(map(there.is_whole, there.sources))
    assert there.told.count(DownloadState.DONE) == 4
    assert there.scheduler.events.flush()
    assert observed.count("file_done") == 4
    assert observed.count("queue_done") == 2
    assert refusal.refused
    assert our_threads() == []


def test_after_a_shortage_threads_do_the_work_again(there: World, refusal: Refusal) -> None:
    assert there.fetch("small1").errors == []
    refusal.holds = False
    by: set[str] = set()
    queue = there.submit("large1", "small2")
    there.sources["large1"].on_read = lambda _at: by.add(threading.current_thread().name)
    assert there.scheduler.wait(queue, BOUND)
    assert queue.errors == []
    assert by
    assert all(name.startswith("hf-haul-worker") for name in by)


@pytest.mark.parametrize("lost", ["all threads", "the ticker"])
def test_a_shortage_that_comes_while_somebody_waits_has_them_help(
    there: World, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The threads there were have ended meanwhile, since the queue was paused; then nobody comes to go on with it."""
    refusal = Refusal(monkeypatch)
    refusal.holds = False
    queue = there.submit("large1", "small1")
    there.scheduler.pause()
    over: list[bool] = []
    waiting = threading.Thread(target=lambda: over.append(there.scheduler.wait(queue, BOUND)))
    waiting.start()
    refusal.holds = True
    there.scheduler._workers._group.retire(BOUND)
    if lost == "the ticker":
        refusal.holds = False
    there.scheduler.resume()
    waiting.join(BOUND)
    assert over == [True]
    assert queue.errors == []
    assert there.is_whole("large1")


def test_a_wait_ends_in_time_where_it_has_to_do_the_work_and_the_next_goes_on(
    there: World, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) * 0.01, sleep=time.sleep)
    monkeypatch.setattr(workers, "time", clock)
    there.scheduler._workers._timings = Timings(helping=0.0)
    queue = there.submit("large1")
    there.sources["large1"].step = 64 * KiB
    waits = 0
    while not there.scheduler.wait(queue, 0.1):
        waits += 1
        assert waits < 1000
    assert waits > 2
    assert queue.errors == []
    assert there.is_whole("large1")
    assert queue.metrics.bytes_downloaded == len(LARGE)


def test_a_callback_may_wait_for_another_queue_where_there_is_only_one_thread(
    there: World, refusal: Refusal
) -> None:
    other = there.submit("small2")
    over: list[bool] = []
    queue = there.submit("small1")

    def wait_for_other(_message: Any) -> None:
        over.append(there.scheduler.wait(other, BOUND))

    assert queue._notifier is not None
    queue._notifier._callback = wait_for_other
    assert there.scheduler.wait(queue, BOUND)
    queue.flush()
    assert over
    assert all(over)


def test_an_interrupt_of_who_does_the_work_fails_no_file(there: World, refusal: Refusal) -> None:
    queue = there.submit("large1", "small1")
    interrupts = iter([True, False])

    def interrupt(_at: int) -> None:
        if next(interrupts, False):
            raise KeyboardInterrupt

    there.sources["large1"].on_read = interrupt
    with pytest.raises(KeyboardInterrupt):
        there.scheduler.wait(queue, BOUND)
    assert not queue.done.is_set()
    assert queue.errors == []
    assert there.scheduler.wait(queue, BOUND)
    assert queue.errors == []
    assert there.is_whole("large1")


@pytest.mark.parametrize("nth", range(1, 60, 3))
def test_an_interrupt_anywhere_in_what_follows_loses_nothing(
    there: World, refusal: Refusal, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Where the thread that waits does the work, Ctrl+C may come between any two lines of ours."""
    queue = there.submit("large1", "small1")
    left = nth

    def interrupt(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return function(*args, **more)

        return call

    for where, name in (
        each for module in (scheduler, settlement, queues, workers) for each in places(module)
    ):
        if where in {Scheduler, Settlement, Queues, Workers} and name.strip("_").startswith(
            ("settle", "next", "end", "carry", "perform", "follow", "let_go", "succeed", "tell")
        ):
            monkeypatch.setattr(where, name, interrupt(getattr(where, name)))
    for _ in range(3):
        try:
            assert there.scheduler.wait(queue, BOUND)
        except KeyboardInterrupt:
            continue
        break
    assert queue.done.is_set()
    assert queue.errors == []
    assert there.is_whole("large1")
    assert there.is_whole("small1")


def test_a_cancel_from_elsewhere_reaches_who_does_the_work(there: World, refusal: Refusal) -> None:
    queue = there.submit("large1", "small1")
    there.sources["large1"].on_read = lambda _at: there.scheduler.cancel(queue)
    assert there.scheduler.wait(queue, BOUND)
    assert {task.state for task in queue.queue.failed} <= {DownloadState.CANCELLED}
    assert queue.queue.failed
    assert there.scheduler.snapshot()["queues"] == 0


def test_work_that_takes_longer_than_threads_are_waited_for_ends_well_where_somebody_does_it(
    there: World, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)), sleep=time.sleep)
    monkeypatch.setattr(workers, "time", clock)
    queue = there.submit("large1", "large2", "small1", "small2")
    assert there.scheduler.wait(queue)
    assert clock.monotonic() > there.scheduler._workers._timings.no_threads
    assert queue.errors == []


def test_where_nobody_waits_and_no_thread_comes_a_queue_fails_and_says_why(
    there: World, refusal: Refusal
) -> None:
    there.scheduler._workers._timings = Timings(no_threads=0.0)
    queue = there.submit("large1", "small1")
    for _ in range(3):
        there.scheduler.keep_going()  # what asking for its state does
    assert queue.done.is_set()
    assert len(queue.errors) == 2
    for _, error in queue.errors:
        assert isinstance(error, HaulError)
        assert "no thread could be started" in str(error)
    refusal.holds = False
    assert there.fetch("large1", "small1").errors == []
