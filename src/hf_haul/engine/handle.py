"""What a caller holds of a queue: its handle, and how far it has come."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from hf_haul.engine.queue_run import QueueOutcome, QueueRun
from hf_haul.engine.results import QueueStatus
from hf_haul.engine.scheduler import Scheduler
from hf_haul.storage.staged_file import StagedFile
from hf_haul.task import DownloadPriority, DownloadState
from hf_haul.waits import Waits

__all__ = ["DownloadHandle", "QueueProgress"]


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """How far a queue has come, at one moment.

    Attributes:
        files_total: Files of the queue.
        files_done: Files in place.
        files_failed: Files given up or cancelled.
        bytes_total: Bytes of all files whose size is known.
        bytes_done: Bytes on disk, those of earlier sessions included.
        bytes_transferred: Bytes that came over the network in this run, repeated ones included.
        speed_bps: Smoothed speed in bytes per second.
        retries: Attempts beyond the first.
        connections: Connections in use.
        state: State of the whole queue.
        waiting_for: Which other process is being waited for, if one is.
        bytes_wasted: Bytes that came over the network and were thrown away.
        bytes_by_source: The bytes that came over the network, by source (``scheme://host[:port]``).
    """

    files_total: int
    files_done: int
    files_failed: int
    bytes_total: int
    bytes_done: int
    bytes_transferred: int
    speed_bps: float
    retries: int
    connections: int
    state: DownloadState
    waiting_for: str | None
    bytes_wasted: int = 0
    bytes_by_source: Mapping[str, int] = field(default_factory=dict)


class DownloadHandle:
    """One submitted queue. Of use in the process that submitted it, and not in its forked children."""

    def __init__(self, scheduler: Scheduler, outcome: QueueOutcome) -> None:
        self._engine = scheduler
        self._outcome_here = outcome
        self._pid = os.getpid()

    @property
    def _scheduler(self) -> Scheduler:
        self._require_own_process()
        return self._engine

    @property
    def _outcome(self) -> QueueOutcome:
        self._require_own_process()
        return self._outcome_here

    @property
    def _run(self) -> QueueRun | None:
        """The queue, until it is over."""
        return self._outcome.run

    def _require_own_process(self) -> None:
        if self._pid != os.getpid():  # its threads do not exist here, and its locks may be held for ever
            raise RuntimeError(
                "this download belongs to the parent process; ask there, or submit it here anew"
            )

    @property
    def queue_id(self) -> str:
        """Unique id of the queue."""
        return self._outcome_here.queue_id

    @property
    def task_ids(self) -> list[str]:
        """Unique ids of its files, in the order in which they are fetched."""
        run = self._outcome_here.run
        return list(self._outcome_here.task_ids if run is None else run.queue.task_ids)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every file is in place or given up.

        Args:
            timeout: Seconds; ``None`` for as long as it takes.

        Returns:
            Whether the queue is over. ``False`` leaves it running.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        outcome, run = self._outcome, self._run
        if run is not None and not self._scheduler.wait(run, timeout):
            return False
        outcome.flush(deadline - time.monotonic())
        self._scheduler.note_told(outcome.queue_id)
        return True

    @property
    def waits(self) -> Waits | None:
        """What it waits for; ``None`` once it is over."""
        run = self._run
        return None if run is None else run.waits

    def cancel(self) -> bool:
        """Stop; what was fetched stays staged. Returns whether there was anything to stop."""
        run = self._run
        return run is not None and self._scheduler.cancel(run)

    def pause(self) -> None:
        """Stop fetching, and keep the place in the queue."""
        run = self._run
        if run is not None:
            self._scheduler.pause(run)

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        run = self._run
        if run is not None:
            self._scheduler.resume(run)

    @property
    def is_over(self) -> bool:
        """Whether every file is in place or given up; asking waits for nothing."""
        return self._outcome.done.is_set()

    def staged_files(self) -> dict[str, StagedFile]:
        """Return what is on disk of the files in progress, by their paths; nothing of it is verified yet."""
        run = self._run
        transfers = [] if run is None else list(run.transfers.values())
        return {each.task.file_path: each.staged for each in transfers if each.staged is not None}

    def set_priority(self, priority: DownloadPriority) -> None:
        """Move the queue before or behind others."""
        priority = DownloadPriority(priority)
        run = self._run
        if run is not None:
            self._scheduler.set_priority(run, priority)

    def errors(self) -> list[tuple[str, BaseException]]:
        """Return the failed files and why, the first failure first."""
        run = self._run
        if run is None:
            return list(self._outcome.errors)
        return [(task.file_path, error) for task, error in list(run.errors)]

    def progress(self) -> QueueProgress:
        """Return how far it has come."""
        now = self._status()
        return QueueProgress(
            files_total=now.files_total,
            files_done=now.files_done,
            files_failed=now.files_failed,
            bytes_total=now.bytes_total,
            bytes_done=now.bytes_done,
            bytes_transferred=now.bytes_transferred,
            speed_bps=now.speed_bps,
            retries=now.retries,
            connections=now.connections,
            state=now.state,
            waiting_for=now.waiting_for,
            bytes_wasted=now.bytes_wasted,
            bytes_by_source=now.bytes_by_source,
        )

    @property
    def state(self) -> DownloadState:
        """State of the whole queue."""
        return self._status().state

    def _status(self) -> QueueStatus:
        outcome, run = self._outcome, self._run
        if run is not None:
            return self._scheduler.status(run)
        assert outcome.status is not None  # it was there before the queue went
        return outcome.status
