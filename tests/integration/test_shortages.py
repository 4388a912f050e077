"""No memory, no threads, errors in our own lines: whatever happens, nobody waits for ever, and afterwards everything works."""

from __future__ import annotations

import functools
import hashlib
import inspect
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.support.transport import FakeSource, MemoryDestination, request
from tests.support.waits import our_threads

from hf_haul import (
    choice,
    concurrency,
    download_queue,
    errands,
    events,
    fetch,
    filework,
    halt,
    hashing,
    limiter,
    metrics,
    plan,
    run,
    scheduler,
    sources,
    staging,
    threads,
    transfer,
    verify,
    watchdog,
)
from hf_haul.config import KiB, MiB, Settings
from hf_haul.download_queue import ModelDownloadQueue
from hf_haul.errors import HaulError
from hf_haul.events import Notifier
from hf_haul.limiter import BandwidthLimiter
from hf_haul.plan import make_plan
from hf_haul.priority import DefaultPolicy
from hf_haul.run import QueueRun
from hf_haul.scheduler import Scheduler
from hf_haul.task import Digest, DownloadState, FileRequest

BOUND = 60.0  # seconds
LARGE = random.Random(3).randbytes(4 * MiB + 1)  # more than a small file: its digest has a thread of its own
SMALL = random.Random(4).randbytes(40 * KiB)


class World:
    """A scheduler with its threads, over sources in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.sources: dict[str, FakeSource] = {}
        self.destinations: dict[str, MemoryDestination] = {}
        settings = Settings(
            part_size=MiB, chunk_size=MiB, first_retry_wait=0.0, max_concurrent_downloads=3, durable=False
        )
        self.scheduler = Scheduler(
            settings, BandwidthLimiter(None), lambda wanted: self.sources[wanted.remote.path]
        )
        self.told: list[DownloadState] = []

    def file(self, name: str, content: bytes) -> FileRequest:
        self.sources.setdefault(name, FakeSource(content))
        self.destinations.setdefault(name, MemoryDestination(self.folder, name))
        digest = Digest("sha256", hashlib.sha256(content).hexdigest())
        return request(self.destinations[name], self.sources[name], digest=digest)

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
        return self.scheduler.submit(ModelDownloadQueue("org/m"), planned.files, notifier)

    def fetch(self, *names: str, case: str = "") -> QueueRun:
        run = self.submit(*names)
        assert self.scheduler.wait(run, BOUND), f"it hangs: {case}"
        run.flush()
        return run

    def is_whole(self, name: str) -> bool:
        return self.destinations[name].content == self.sources[name].content


@contextmanager
def world(folder: Path) -> Iterator[World]:
    made = World(folder)
    try:
        yield made
    finally:
        made.scheduler.shutdown(wait_for_work=False)


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
    choice, concurrency, download_queue, errands, events, fetch, filework, halt, hashing, limiter, metrics, plan, run,
    scheduler, sources, staging, threads, transfer, verify, watchdog,
)  # fmt: skip


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
            with world(tmp_path / f"{sprung}") as there, pytest.MonkeyPatch.context() as patch:
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
