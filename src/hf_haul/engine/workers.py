"""The threads that fetch, and whoever does their work where the system gives no threads.

A worker takes a job, does it without any lock, settles it, and carries out what follows; often that is the
next job. Workers exist while there is work. Where no thread is to be had, a thread that waits for a queue
does the work itself (:meth:`Workers.wait`); where nobody waits either, the queues fail after a while and say
why.

Whatever a worker meets, a lack of memory in these very lines included, its file ends or goes on, and who
waits for it is woken. What a thread is at is noted (``held``), and what it has still to carry out (``owed``):
both outlive the thread. Where errors keep everything from going on, all downloads fail after a while
(:class:`~hf_haul.engine.resilience.Standstill`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from functools import partial
from typing import Protocol

from hf_haul.config import DEFAULT_TIMINGS, Timings
from hf_haul.engine.jobs import Action, FollowUp, Job
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.resilience import Standstill, drop_frames, insist
from hf_haul.engine.ticker import TICK, Ticker, TickTarget
from hf_haul.engine.transfer import Part
from hf_haul.errors import HaulError, StopRequestedError
from hf_haul.threads import ThreadGroup

__all__ = ["JobSource", "Workers"]

logger = logging.getLogger(__name__)


class JobSource(TickTarget, Protocol):
    """Where jobs come from, and where it is decided what follows them: the scheduler."""

    def next_job(self) -> Job | None:
        """Return what the calling thread is at from now on; ``None`` if there is nothing to do now."""

    def do(self, job: Job) -> None:
        """Do a job; called without the lock."""

    def settle(self, job: Job, error: BaseException | None, then: FollowUp) -> Job | None:
        """Decide what follows a job; return what the calling thread does next."""

    def carry_out(self, then: FollowUp) -> None:
        """Do what was decided; called without the lock."""

    def recover(self, error: BaseException, then: FollowUp, job: Job | None = None) -> None:
        """Fail a file because of an unexpected error, and repair everything else."""

    def put_down(self) -> None:
        """Release the calling thread's job to other threads."""

    def call_workers(self) -> bool:
        """Wake workers if there is work; return whether there is."""

    def run_errands_here(self, run: QueueRun) -> None:
        """Do what other threads would do beside the workers: for all, and the callbacks of one queue."""

    def fail_all(self, error: BaseException) -> None:
        """Fail every queue that is not paused."""


class Workers:
    """A changing number of threads that do a scheduler's jobs, and the ticker that looks after them.

    Args:
        source: Where jobs come from.
        most: Threads at the most.
        allowed: Whether to start threads at all.
        timings: How long to go without threads.

    Attributes:
        held: What each thread is at. The scheduler's lock guards it.
        owed: What each thread has to carry out. Each thread changes its own entry only, and its successor
            that of a dead one.
        standstill: For how long nothing has gone on.
    """

    def __init__(
        self, source: JobSource, most: int, *, allowed: bool = True, timings: Timings = DEFAULT_TIMINGS
    ) -> None:
        self.held: dict[threading.Thread, Job] = {}
        self.owed: dict[threading.Thread, FollowUp] = {}
        self._source = source
        self._allowed = allowed
        self._timings = timings
        self._group = ThreadGroup("hf-haul-worker", most, self._next_work, idle_seconds=timings.idle_workers)
        self._ticker = Ticker(source, idle_seconds=timings.idle_workers)
        self._helping = threading.local()  # until when a thread that waits does the work
        self.standstill = Standstill(timings.standstill)
        self._helpless_since: float | None = None  # no thread to be had since

    def __len__(self) -> int:
        """Return the number of workers, without the ticker."""
        return len(self._group)

    @property
    def available(self) -> int:
        """Workers that are idle or could still be started."""
        return self._group.limit - len(self._group) + self._group.idle

    def wake(self) -> None:
        """Wake an idle worker, or mark one for :meth:`start`; the scheduler's lock may be held."""
        if self._allowed:
            self._ticker.wake()
            self._group.wake()

    def start(self) -> bool:
        """Start the workers that :meth:`wake` marked, without a lock; return whether there are any."""
        started = self._group.start()
        return self._ticker.start() and started

    def close(self, timeout: float) -> bool:
        """End the threads after what they are at.

        Args:
            timeout: Seconds to wait for them at the most.

        Returns:
            Whether they have ended.
        """
        deadline = time.monotonic() + timeout
        ended = [
            close(max(0.0, deadline - time.monotonic())) for close in (self._group.close, self._ticker.close)
        ]
        return all(ended)

    # ---- the way of a job

    def _next_work(self) -> Action | None:
        """Take the next job, with all that follows from it; ``None`` if there is nothing to do."""
        try:
            if threading.current_thread() in self.owed:
                self._carry_out_owed()
            held = self.held.get(threading.current_thread())
            if held is not None:
                raise _kept_from_going_on(held.broken_by)
            job = self._source.next_job()
        except BaseException as error:
            # Noted first: what follows may find no memory either.
            self._repair(error, give_up=self.standstill.note(error))
            if isinstance(error, KeyboardInterrupt):
                raise
            return None
        return None if job is None else partial(self.perform, job)

    def _repair(self, error: BaseException, *, give_up: bool) -> None:
        """Repair what an error left; the ticker makes workers try again.

        Args:
            error: Why the calling thread could not go on.
            give_up: Whether to fail all downloads: nothing has gone on for too long.
        """
        is_new = self.standstill.is_new
        try:
            if give_up:
                self._source.fail_all(self.standstill.reason(error))
        finally:
            try:
                self.owed[threading.current_thread()] = then = FollowUp()
                self._source.recover(error, then)
                self._carry_out_owed()
            except MemoryError as lack:
                self.standstill.note(lack)
                raise
        # Said once: without memory there are many a second.
        level = logging.WARNING if is_new else logging.DEBUG
        logger.log(level, "could not choose the next job; trying again", exc_info=error)

    def perform(self, first: Job) -> None:
        """Do a job, and those that follow from it."""
        try:
            self._perform(first)
        except Exception as error:
            held = self.held.get(threading.current_thread())
            if held is not None:  # its file fails with this, once there is memory to say so
                held.broken_by = error
            raise

    def _perform(self, first: Job) -> None:
        job: Job | None = first
        while job is not None:
            error = self.attempt(job)
            interrupt = None if error is None else self.interrupt_of(error)
            self.owed[threading.current_thread()] = then = FollowUp()
            try:
                job = self._source.settle(job, error if interrupt is None else StopRequestedError(), then)
                if error is None:
                    self.standstill.end()
            except BaseException as unexpected:  # noqa: BLE001  the file ends, and the worker goes on
                self._source.recover(unexpected, then, job)
                job, interrupt = None, interrupt or self.interrupt_of(unexpected)
            try:
                self._carry_out_owed()
            except KeyboardInterrupt as late:
                interrupt = interrupt or late
            if interrupt is not None:
                if job is not None:
                    self._source.put_down()
                raise interrupt

    def attempt(self, job: Job) -> BaseException | None:
        """Do a job; return the error that it raised, if any."""
        try:
            self._source.do(job)
        except BaseException as error:  # noqa: BLE001  a worker outlives every job; the file it was about fails
            drop_frames(error)
            return error
        return None

    def interrupt_of(self, error: BaseException | None) -> BaseException | None:
        """Return ``error`` if it is an interrupt of the calling thread, and not the file's."""
        helps = self._helping_until is not None
        return error if helps and isinstance(error, KeyboardInterrupt) else None

    def _carry_out_owed(self) -> None:
        """Carry out what was decided for the calling thread."""
        me = threading.current_thread()
        then = self.owed[me]
        if not then.is_empty:
            insist(partial(self._source.carry_out, then))
        del self.owed[me]

    # ---- where there are no threads

    def wait(self, run: QueueRun, timeout: float | None = None) -> bool:
        """Wait for a queue; where the system gives no thread, do its work and that of others meanwhile.

        Args:
            run: The queue.
            timeout: Seconds; ``None`` for as long as it takes. Who has to do the work may take a little
                longer.

        Returns:
            Whether the queue is over.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while not run.done.is_set():
            left = deadline - time.monotonic()
            if not self.keep_going() and left > 0:
                self._help(run, deadline)
            elif len(self._ticker):  # which nudges us if there are no workers any more
                run.done.wait(None if timeout is None else max(0.0, left))
            else:
                run.done.wait(max(0.0, min(left, TICK)))
            if time.monotonic() >= deadline:
                break
        return run.done.is_set()

    def keep_going(self) -> bool:
        """Make sure that there are threads for the work, as far as the system gives any.

        Returns:
            ``False`` if nobody does it; then the caller has to, or it fails after a while.
        """
        if len(self._group) and len(self._ticker):
            self._helpless_since = None
            return True
        waits = self._source.call_workers()
        if len(self._group) or not waits:
            self._helpless_since = None
            if waits and self._allowed:
                self._ticker.tick_here()
            return True
        now = time.monotonic()
        if self._helpless_since is None:
            self._helpless_since = now
        if now - self._helpless_since > self._timings.no_threads and not self.held and self._allowed:
            error = HaulError(
                f"no thread could be started for {self._timings.no_threads:.0f} s, and nobody waits for the download: the system, or a"
                " limit on threads, processes or memory, gives none"
            )
            self._source.fail_all(error)
        return False

    def _help(self, run: QueueRun, deadline: float) -> None:
        """Do a piece of the work on the thread that waits for it."""
        self._helpless_since = None  # somebody does it
        before = self._helping_until
        self._helping.until = max(deadline, time.monotonic() + self._timings.helping)
        try:
            self._ticker.tick_here()
            work = self._next_work()
            if work is not None:
                work()
            self._source.run_errands_here(
                run
            )  # a callback may wait for another queue, and so come here again
            if work is None:
                run.done.wait(max(0.0, min(TICK, deadline - time.monotonic())))
        finally:
            self._helping.until = before
            if threading.current_thread() in self.held:  # an interrupt came just then
                self._source.put_down()

    @property
    def _helping_until(self) -> float | None:
        """When the calling thread stops doing the work that it waits for; ``None`` if it does none."""
        until: float | None = getattr(self._helping, "until", None)
        return until

    def help_along(self, part: Part, now: float) -> None:
        """Do, after each read, what other threads would do, if the reading thread is the only one.

        Args:
            part: What it reads.
            now: Seconds on the scheduler's clock.
        """
        until = self._helping_until
        if until is None:
            return
        if time.monotonic() >= until and part.transfer.mode != "whole":  # that would have to come again
            part.preempt(now)
        self._ticker.tick_here()


def _kept_from_going_on(error: Exception | None) -> Exception:
    """Return what a file fails with whose thread met an error of our own."""
    if isinstance(error, MemoryError) and not error.args:  # it says nothing
        return MemoryError("there was no memory left to go on with it")
    return error or HaulError("the thread that worked on it was kept from going on")
