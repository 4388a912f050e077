"""Threads that do reads, the most urgent first, and their jobs."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final

from hf_haul.errors import HaltedError
from hf_haul.finalizers import attend
from hf_haul.forks import renew_after_fork
from hf_haul.threads import ThreadGroup

__all__ = ["DEMAND", "READ_AHEAD", "Job", "ReadThreads"]

logger = logging.getLogger(__name__)


#: Urgency of a read that somebody waits for, and of one that somebody may want soon.
DEMAND: Final = 0
READ_AHEAD: Final = 2
_IDLE_SECONDS: Final = 5.0
#: Seconds before what failed for want of memory is tried again.
_SHORTAGE_SECONDS: Final = 0.05
#: Seconds between two looks whether somebody does what is waited for.
_LOOK_SECONDS: Final = 1.0


class Job(Future[None]):
    """A future with the work that completes it.

    Args:
        work: What is to be done, once; ``None`` if it is done already.
    """

    def __init__(self, work: Callable[[], None] | None) -> None:
        super().__init__()
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
            self._end(HaltedError("interrupted"))
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

    Threads start when they are needed and end when idle. They are daemons: a reader that nobody waits for
    must not keep a program from ending. Where the system gives no thread, whoever waits for a job does it.

    Locking: ``_lock`` guards ``_heap``; it is a leaf.

    Args:
        limit: Threads at once, at the most.
        idle_seconds: Seconds without work after which a thread ends.
    """

    def __init__(self, limit: int, *, idle_seconds: float = _IDLE_SECONDS) -> None:
        self.limit = limit
        self._numbers = itertools.count()
        self._group = ThreadGroup("hf-haul-read", limit, self._take, idle_seconds=idle_seconds)
        self._start_empty()
        renew_after_fork(self, ReadThreads._start_empty)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._heap: list[tuple[int, int, Job]] = []

    def submit(self, priority: int, job: Job) -> bool:
        """Queue a job; the smaller ``priority``, the sooner. Its ``cancel`` withdraws it in time.

        Returns:
            Whether there is a thread for it. If not, it is still to be done: :meth:`join` does it.
        """
        attend()
        with self._lock:
            heapq.heappush(self._heap, (priority, next(self._numbers), job))
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
                job.exception(_LOOK_SECONDS)
            except FutureTimeoutError:
                # Not while all threads are busy: their turn comes. One that is idle has been passed over.
                if not job.taken and (self._group.idle or not len(self._group)):
                    job.run()
                continue
            except CancelledError:
                pass
            return

    def _take(self) -> Callable[[], None] | None:
        with self._lock:
            while self._heap:
                job = heapq.heappop(self._heap)[2]
                if not job.taken:
                    return job.run
            return None
