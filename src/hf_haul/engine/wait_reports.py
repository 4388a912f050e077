"""Reports what a queue waits for that nobody else says: a pause, silence, a slow disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hf_haul.config import Settings
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.transfer import Part
from hf_haul.limiter import BandwidthLimiter
from hf_haul.waits import Wait, WaitReason

__all__ = ["WaitReports"]

#: The names of a pause, and of a time in which nothing moves, among a queue's waits.
_PAUSED: Final = "paused"
_QUIET: Final = "quiet"


class WaitReports:
    """Reports a queue's own waits to its :class:`~hf_haul.waits.Waits`.

    Args:
        settings: How long a body may be silent.
        limiter: Whether a bandwidth limit is in force.
        answer_timeout: Seconds that a part may wait for its answer.
    """

    def __init__(
        self, settings: Settings, limiter: BandwidthLimiter, answer_timeout: Callable[[Part], float]
    ) -> None:
        self._settings = settings
        self._limiter = limiter
        self._answer_timeout = answer_timeout

    @staticmethod
    def note_pause(run: QueueRun, *, paused: bool) -> None:
        """Report that a queue is paused, or no longer; call it without a lock."""
        if paused:
            run.waits.begin(_PAUSED, Wait(WaitReason.PAUSED, f"{run.queue.model_id} is paused"))
        else:
            run.waits.end(_PAUSED)

    def look(self, run: QueueRun, now: float, *, paused: bool) -> Wait | None:
        """Return what a queue waits for if nothing moves; call it with the scheduler's lock held."""
        if paused:
            return None
        metrics = run.metrics
        return run.quiet.look(
            now,
            (metrics.bytes_downloaded, metrics.files_done, metrics.files_failed),
            list(run.transfers.values()),
            self._most_silence,
            limited=self._limiter.max_bps is not None,
        )

    def _most_silence(self, part: Part) -> float:
        return self._answer_timeout(part) if part.reading_since is None else self._settings.stall_timeout

    @staticmethod
    def report(run: QueueRun, wait: Wait | None) -> None:
        """Report what :meth:`look` found, and what else is due; call it without a lock."""
        if wait is None:
            run.waits.end(_QUIET)
        else:
            run.waits.begin(_QUIET, wait)
        run.waits.review()
