"""The queues that run, how their files and they themselves end, and what is known of those that are over."""

from __future__ import annotations

import logging
import threading
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from hf_haul.engine.events import EventBus
from hf_haul.engine.file_steps import close_file, flush_together, sweep_up
from hf_haul.engine.jobs import FollowUp
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.resilience import insist
from hf_haul.engine.results import QueueStatus, Results
from hf_haul.engine.transfer import Transfer
from hf_haul.errors import (
    DownloadCancelledError,
    HaulError,
    IntegrityError,
    RetriesExhaustedError,
    SourceChangedError,
    name_file,
)
from hf_haul.task import DownloadPriority, DownloadState, DownloadTask
from hf_haul.transports.source_limits import SourceLimits

__all__ = ["QueueTotals", "Queues"]

logger = logging.getLogger(__name__)

#: Files in a row that a source may fail, each for as long as is bearable, before its others are not even
#: tried.
_FAILED_FILES: Final = 8


@dataclass(frozen=True, slots=True)
class QueueTotals:
    """What some queues came to.

    Attributes:
        completed: Files in place.
        failed: Files that failed; cancelled ones do not count.
        nbytes: Bytes that came over the network, repeated ones included.
        wasted: Those of them that were thrown away.
        seconds: How long there was anything to do.
    """

    completed: int = 0
    failed: int = 0
    nbytes: int = 0
    wasted: int = 0
    seconds: float = 0.0

    def plus(self, run: QueueRun) -> QueueTotals:
        """Return the same with another queue."""
        failed = sum(task.state is DownloadState.FAILED for task in run.queue.failed)
        return replace(
            self,
            completed=self.completed + len(run.queue.completed),
            failed=self.failed + failed + run.unnamed_failed,
            nbytes=self.nbytes + run.metrics.bytes_downloaded,
            wasted=self.wasted + run.bytes_wasted(),
        )


class Queues:
    """All queues of one scheduler.

    A queue whose last file is settled is over; it ends, and who waits for it is woken, once all its files are
    closed and its user was told of them.

    Locking: the scheduler's lock guards the attributes, and is held by whoever calls a method, but for
    :meth:`carry_out` and what it calls.

    Args:
        lock: The scheduler's.
        sources: Told which sources are wanted, and which fail.
        events: Where to tell tools what happens.
        clock: Seconds, monotonic.

    Attributes:
        running: Queues that are not over, most urgent first.
        unended: Queues that are over, but not said to be.
        paused: Whether all are paused.
    """

    def __init__(
        self,
        lock: threading.Lock,
        sources: SourceLimits,
        events: EventBus,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = lock
        self._sources = sources
        self._events = events
        self.running: list[QueueRun] = []
        self.unended: set[QueueRun] = set()
        self.paused = False
        # Queues whose end was not said yet, also by the id of their only task.
        self._known: dict[str, QueueRun] = {}
        self._results = Results()
        self._clock = clock
        self._ended = QueueTotals()
        self._busy_since = 0.0  # while any queue is left

    @property
    def left(self) -> bool:
        """Whether there is a queue that has not ended."""
        return bool(self.running or self.unended)

    def add(self, run: QueueRun) -> None:
        """Add a queue to those that run."""
        if not self.left:
            self._busy_since = self._clock()
        self._known.update(dict.fromkeys(_ids(run), run))
        insort(self.running, run)
        self._sources.register(run.sources, 1)

    def move(self, run: QueueRun, priority: DownloadPriority) -> None:
        """Give a running queue another priority."""
        self.running.remove(run)
        run.queue.priority = priority
        insort(self.running, run)

    def is_paused(self, run: QueueRun) -> bool:
        """Return whether a queue is paused, alone or with all."""
        return self.paused or run.queue.paused

    def totals(self) -> QueueTotals:
        """Return what all queues came to so far, those that run included."""
        sums = self._ended
        for run in set(self._known.values()):
            sums = sums.plus(run)
        busy = self._clock() - self._busy_since if self.left else 0.0
        return replace(sums, seconds=sums.seconds + busy)

    def find(self, an_id: str) -> QueueRun | QueueStatus | None:
        """Return a running queue, or the result of one that is over; ``None`` if unknown or forgotten."""
        return self._known.get(an_id) or self._results.find(an_id)

    def note_told(self, queue_id: str) -> None:
        """Note that somebody was told how a queue ended: results that nobody has seen are kept longer."""
        self._results.note_told(queue_id)

    # ---- the end of a file

    def succeed(self, run: QueueRun, transfer: Transfer, then: FollowUp, *, transferred: bool) -> None:
        """End a file that is in place.

        Args:
            run: Its queue.
            transfer: The file.
            then: Takes what is to be done without the lock.
            transferred: Whether we put it there.
        """
        run.succeed(transfer, transferred=transferred)
        if run.tells or self._events.is_observed:
            then.tell(run, partial(self._tell_end, run, transfer))
        transfer.end()
        self.end_if_over(run, then)

    def give_up(self, run: QueueRun, transfer: Transfer, error: BaseException | None, then: FollowUp) -> None:
        """End a file without success; ``None`` means that it was cancelled."""
        state = DownloadState.CANCELLED if error is None else DownloadState.FAILED
        reason = error or DownloadCancelledError(f"{transfer.task.file_path}: cancelled")
        if not isinstance(reason, Exception):  # raised where the user waits, it would end the program
            reason = HaulError(f"{transfer.task.file_path}: {reason!r} in the thread that worked on it")
            reason.__cause__ = error
        name_file(reason, transfer.task.file_path)
        staged = transfer.staged
        # What is wrong was deleted.
        kept = staged.done if staged is not None and not isinstance(error, IntegrityError) else 0
        if staged is not None:
            then.tell(run, partial(insist, partial(close_file, transfer)))
            then.disk = staged.device
        run.fail(transfer.task, reason, state)
        run.drop(transfer, kept)
        transfer.end()
        self._drop_untried(run, transfer, error, then)
        then.tell(run, partial(self._tell_end, run, transfer))
        self.end_if_over(run, then)

    def drop_waiting(self, run: QueueRun, error: BaseException | None, then: FollowUp) -> None:
        """Give up the files of a queue that were not begun; ``None`` means that they were cancelled."""
        state = DownloadState.CANCELLED if error is None else DownloadState.FAILED
        for task in self._taken_out(run, None, state, then):
            run.fail(task, error or DownloadCancelledError(f"{task.file_path}: cancelled"), state)
            then.tell(run, partial(self._tell_unbegun, run, task))

    @staticmethod
    def _taken_out(
        run: QueueRun, sources: tuple[str, ...] | None, state: DownloadState, then: FollowUp
    ) -> list[DownloadTask]:
        """Take waiting files out of a queue; count those that are too many to be told of one by one."""
        before = run.queue.unnamed
        tasks = run.queue.drop_waiting(sources)
        unnamed = run.queue.unnamed - before
        if unnamed:
            run.fail_unnamed(unnamed, state)
            if run.events is not None and state is DownloadState.CANCELLED:
                then.tell(run, partial(run.events.note_cancelled, unnamed))
        return tasks

    def _drop_untried(
        self, run: QueueRun, transfer: Transfer, error: BaseException | None, then: FollowUp
    ) -> None:
        """Fail the waiting files of a source that has failed for one file after the other.

        Or has served other versions than listed, as mirrors do that lag behind.
        """
        source = transfer.source
        if not isinstance(error, RetriesExhaustedError | SourceChangedError):
            return
        if self._sources.note_failed_file(source, error) < _FAILED_FILES:
            return
        for task in self._taken_out(run, (source,), DownloadState.FAILED, then):
            run.deferred.pop(task.task_id, None)
            reason = RetriesExhaustedError(
                f"{task.file_path}: not tried, because {_FAILED_FILES} files in a row from {source} failed; the last: {error}"
            )
            run.fail(task, reason, DownloadState.FAILED)
            then.tell(run, partial(self._tell_unbegun, run, task))

    def _tell_end(self, run: QueueRun, transfer: Transfer) -> None:
        task = transfer.task
        run.post(transfer)
        if run.events is not None:
            run.events.ended(task, transfer.received_from)
        self.emit(f"file_{task.state.value}", run, task, error=str(task.error) if task.error else None)

    def _tell_unbegun(self, run: QueueRun, task: DownloadTask) -> None:
        run.post_task(task)
        if run.events is not None:
            run.events.ended(task)
        self.emit(f"file_{task.state.value}", run, task, error=str(task.error))

    # ---- the end of a queue

    def end_if_over(self, run: QueueRun, then: FollowUp) -> None:
        """End a queue without open files once all its files are written and its messages delivered."""
        if run.over or not run.queue.finished or run.queue.lost() or run.untold - {then}:
            return
        # What needs memory comes first: a queue that is over, and not ended, keeps its user waiting.
        then.do.append(partial(insist, partial(self._end, run)))
        self.unended.add(run)
        if run in self.running:
            self.running.remove(run)
            self._sources.register(run.sources, -1)
        run.over = True
        if run.queue.completed:
            then.disk = run if then.disk is None else then.disk

    def carry_out(self, then: FollowUp) -> None:
        """Do what was decided; call it without the lock."""
        interrupt: BaseException | None = None
        for part in then.stop:
            part.cancel_token.set()
        while then.do:
            try:
                then.do.popleft()()
            except BaseException as error:  # the others have to be done all the same
                logger.warning("unexpected error while files were closed or users told", exc_info=True)
                if isinstance(error, KeyboardInterrupt):
                    interrupt = error
        if then.runs:
            more = FollowUp()
            insist(partial(self._end_told, then, more))
            insist(partial(self.carry_out, more))
        if interrupt is not None:
            raise interrupt

    def _end_told(self, then: FollowUp, more: FollowUp) -> None:
        """End the queues that waited for what is done now."""
        with self._lock:
            for run in then.runs:
                run.untold.discard(then)
                self.end_if_over(run, more)

    def _end(self, run: QueueRun) -> None:
        """Say that a queue is over; once."""
        with self._lock:
            if run not in self.unended:
                return
            self.unended.discard(run)
        insist(partial(flush_together, run))
        try:
            sweep_up(run)
        except Exception as error:  # noqa: BLE001  what stays is litter, and no reason to fail
            logger.debug("could not remove what is left of finished files: %s", error)
        finally:
            insist(partial(self._keep_result, run))
        self.emit("queue_done", run, failed=len(run.queue.failed) + run.queue.unnamed)

    def _keep_result(self, run: QueueRun) -> None:
        """Keep what a queue came to in plain values, let go of the queue, and say that it is over."""
        status = run.finish()
        if run.events is not None:
            run.events.end(status, run.errors)
        ids = _ids(run)
        with self._lock:
            if run.queue.queue_id in self._known:
                busy = 0.0 if self.left else self._clock() - self._busy_since
                ended = replace(self._ended.plus(run), seconds=self._ended.seconds + busy)
                self._results.add(status, *ids[1:])
                self._ended = ended
            for each in ids:
                self._known.pop(each, None)
        run.outcome.settle(status)
        run.done.set()

    def emit(self, kind: str, run: QueueRun, task: DownloadTask | None = None, **details: object) -> None:
        """Emit an event; needs no lock."""
        queue = run.queue
        self._events.emit(kind, task, model_id=queue.model_id, queue_id=queue.queue_id, **details)


def _ids(run: QueueRun) -> list[str]:
    """Return the ids that name a queue: its own, and that of its task if it has only one."""
    tasks = run.queue.tasks
    return [run.queue.queue_id, tasks[0].task_id] if len(tasks) == 1 else [run.queue.queue_id]
