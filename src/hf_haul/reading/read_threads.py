"""Threads that do reads, the most urgent first, and their jobs."""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final

from hf_haul.config import DEFAULT_TIMINGS
from hf_haul.errors import StopRequestedError
from hf_haul.finalizers import attend
from hf_haul.forks import renew_after_fork
from hf_haul.threads import ThreadGroup

__all__ = ["DEMAND", "READ_AHEAD", "Job", "ReadThreads"]

logger = logging.getLogger(__name__)


#: Urgency of a read that somebody waits for, and of one that somebody may want soon.
DEMAND: Final = 0
READ_AHEAD: Final = 2
_IDLE_SECONDS: Final = 5.0
#: What sums of shares may be off by.
_ROUNDING: Final = 1e-6
#: Seconds before what failed for want of memory is tried again.
_SHORTAGE_SECONDS: Final = 0.05


class Job(Future[None]):
    """A future with the work that completes it.

    Args:
        work: What is to be done, once; ``None`` if it is done already.
        sending: Share of the time of it for which its connection sends, and does not wait for an answer.
    """

    def __init__(self, work: Callable[[], None] | None, *, sending: float = 1.0) -> None:
        super().__init__()
        self.sending = sending
        self.priority = DEMAND
        # Emptied by whoever does it, in a single operation: its reader and a thread may both be about to. It
        # holds buffers, too, that somebody may be done with before the future is.
        self._work = [] if work is None else [work]
        if work is None:
            self.set_result(None)

    @property
    def taken(self) -> bool:
        """Whether a thread does it, or it was done or cancelled."""
        return not self._work

    def run(self) -> None:
        """Do it in this thread, unless another thread began, or it was cancelled."""
        try:
            work = self._work.pop()
        except IndexError:
            return
        try:
            if not self.set_running_or_notify_cancel():
                return
            work()
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits
            self._end(error)
        except BaseException:
            # Ctrl+C reached this thread: it is this thread's to raise, and no other's.
            self._end(StopRequestedError("interrupted"))
            raise
        else:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        while not self.done():
            try:
                self.set_result(None) if error is None else self.set_exception(error)
            except Exception:  # who waits must learn of it all the same
                logger.warning("could not report the end of a read; trying again", exc_info=True)
                time.sleep(_SHORTAGE_SECONDS)

    def cancel(self) -> bool:
        """Cancel it, if no thread has begun; return whether it will never be done."""
        cancelled = super().cancel()
        if cancelled:
            self._work.clear()
        return cancelled


class ReadThreads:
    """A few threads that do reads, the most urgent first.

    A job counts for the share of its time for which its connection sends: as many run as keep ``lanes``
    connections sending all the time, and so more of them the smaller their requests are. 200 files of 20 kB
    take 0.7 s instead of 1.6 s so, where an answer takes 50 ms (``bench_reads``, cat-small).

    Threads start when they are needed and end when idle. They are daemons: a reader that nobody waits for
    must not keep a program from ending. Where the system gives no thread, whoever waits for a job does it.

    Locking: ``_lock`` guards ``_heap`` and ``_running``; it is a leaf.

    Args:
        limit: Threads at once, at the most.
        lanes: Connections that send at once, at the most; as many as threads by default.
        idle_seconds: Seconds without work after which a thread ends.
        look_seconds: Seconds between two looks of who waits for a job whether any thread will do it.
    """

    def __init__(
        self,
        limit: int,
        *,
        lanes: int | None = None,
        idle_seconds: float = _IDLE_SECONDS,
        look_seconds: float = DEFAULT_TIMINGS.passed_over,
    ) -> None:
        self.limit = limit
        self._look_seconds = look_seconds
        self._lanes = limit if lanes is None else lanes
        self._numbers = itertools.count()
        self._group = ThreadGroup("hf-haul-read", limit, self._take, idle_seconds=idle_seconds)
        self._start_empty()
        renew_after_fork(self, ReadThreads._start_empty)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._heap: list[tuple[int, int, Job]] = []
        self._running: set[Job] = set()

    def submit(self, priority: int, job: Job) -> bool:
        """Queue a job; the smaller ``priority``, the sooner. Its ``cancel`` withdraws it in time.

        Returns:
            Whether there is a thread for it. If not, it is still to be done: :meth:`join` does it.
        """
        attend()
        with self._lock:
            job.priority = priority
            heapq.heappush(self._heap, (priority, next(self._numbers), job))
            fits = self._fits(job)
        if fits:  # if not, the thread that makes room for it takes it
            self._group.wake()
        if self._group.start():
            return True
        with self._lock:  # nobody else takes out what was done elsewhere
            self._heap = [each for each in self._heap if not each[2].taken]
            heapq.heapify(self._heap)
        return False

    def promote(self, job: Job, priority: int) -> None:
        """Raise the priority of a submitted job that has not begun."""
        if not job.taken:
            self.submit(priority, job)

    def join(self, job: Job) -> None:
        """Wait until a job is done or cancelled; do it here if no thread will."""
        if not len(self._group):
            job.run()
        while True:
            try:
                job.exception(self._look_seconds)
            except FutureTimeoutError:
                # Not while all lanes are busy: their turn comes. If not, the job has been passed over.
                if not job.taken and (self._has_room(job) or not len(self._group)):
                    job.run()
                continue
            except CancelledError:
                pass
            return

    def _has_room(self, job: Job) -> bool:
        with self._lock:
            return self._group.idle > 0 and self._fits(job)

    def _fits(self, job: Job) -> bool:
        """Return whether a job may run beside those that do; less urgent ones do not count."""
        if len(self._running) >= self.limit:
            return False
        sending = sum(each.sending for each in self._running if each.priority <= job.priority)
        return not sending or sending + job.sending <= self._lanes + _ROUNDING

    def _take(self) -> Callable[[], None] | None:
        with self._lock:
            # A thread that died on its way took its job with it; whoever waits has done that.
            self._running = {each for each in self._running if not each.done()}
            job = self._next()
            if job is None or not self._fits(job):
                return None
            heapq.heappop(self._heap)
            self._running.add(job)
            after = self._next()
            more = after is not None and self._fits(after)
        if more:
            self._group.wake()
            self._group.start()
        return functools.partial(self._run, job)

    def _next(self) -> Job | None:
        """Return the most urgent job; it stays where it is."""
        while self._heap:
            if not self._heap[0][2].taken:
                return self._heap[0][2]
            heapq.heappop(self._heap)
        return None

    def _run(self, job: Job) -> None:
        try:
            job.run()
        finally:
            with self._lock:
                self._running.discard(job)
