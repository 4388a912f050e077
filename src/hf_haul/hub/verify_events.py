"""What ``verify`` tells ``on_event``: files and bytes of its two phases, the check and the repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_haul.digests import Digest
from hf_haul.engine.event_stream import EventStream, harmless
from hf_haul.hub.verify_report import CheckedFile, VerifyProgress, VerifyReport

__all__ = ["VerifyEvents"]


class VerifyEvents:
    """Tells callbacks, and a stream where there is one, of files and of progress; for one thread.

    What becomes known before the plan of a phase is told after it.

    Args:
        stream: Where to tell it as events.
        on_file: Told of each file.
        on_progress: Told how far it is.
    """

    def __init__(
        self,
        stream: EventStream | None,
        on_file: Callable[[CheckedFile], None],
        on_progress: Callable[[VerifyProgress], None],
    ) -> None:
        self._stream = stream
        self._on_file = on_file
        self._on_progress = on_progress
        self._phase: str | None = None
        self._early: list[CheckedFile] = []
        self._files = 0

    def file(self, file: CheckedFile) -> None:
        """Tell of a file that is known, or repaired, or could not be."""
        self._on_file(file)
        self._files += 1
        if self._phase is None:
            self._early.append(file)
        else:
            self._tell_file(file)

    def progress(self, progress: VerifyProgress) -> None:
        """Tell how far it is."""
        self._on_progress(progress)
        self._tell_progress(progress)

    @harmless
    def done(self, report: VerifyReport) -> None:
        """Tell what it came to; ``done`` also where files are wrong, which is no failure of the call."""
        if self._stream is None:
            return
        if self._phase is None:
            self._begin("check", self._files, 0)
        counts = report.counts
        failed = counts["wrong"] + counts["missing"]
        self._stream.done(
            report.path,
            complete=not failed,
            fetched=report.bytes_fetched,
            reused=sum(file.size or 0 for file in report.files if file.state == "ok" and not file.repair),
            read=report.bytes_read,
            files_fetched=report.repaired,
            files_reused=len(report.files) - failed - report.repaired,
            files_failed=failed,
        )

    @harmless
    def _tell_progress(self, progress: VerifyProgress) -> None:
        if self._stream is None:
            return
        if progress.phase != self._phase:
            self._begin(progress.phase, progress.files_total, progress.bytes_total)
        if self._stream.is_due():
            self._stream.amount(
                progress.bytes_done,
                rate=progress.speed_bps,
                files_done=progress.files_done,
                active=progress.active,
            )

    def _begin(self, phase: str, files: int, nbytes: int) -> None:
        assert self._stream is not None
        self._phase = phase
        self._stream.enter(phase)
        self._stream.plan(files=files, nbytes=nbytes)
        for file in self._early:
            self._tell_file(file)
        self._early.clear()

    @harmless
    def _tell_file(self, file: CheckedFile) -> None:
        if self._stream is None or file.repair_error is not None:  # of that the repair tells
            return
        if file.state in {"wrong", "missing"}:
            self._stream.file("failed", file.path, file.expected_size, file.finding)
        elif file.state == "ok" and file.repair is None and file.expected is not None:
            algorithm: Any = file.algorithm
            self._stream.verified(file.path, file.size or 0, Digest(algorithm, file.expected))
