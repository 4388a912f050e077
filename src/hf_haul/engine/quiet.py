"""What a queue waits for while no byte comes and no file ends; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hf_haul.config import DEFAULT_TIMINGS
from hf_haul.engine.transfer import Part, Phase, Transfer
from hf_haul.urls import host_of
from hf_haul.waits import Wait, WaitReason, in_words

__all__ = ["QuietWatch"]


class QuietWatch:
    """Says why one queue makes no progress, where no other part reports it.

    Whoever waits for a server's permission, for its next attempt, for a limit or for another process says so
    itself. What is left is a connection that brings nothing, and a disk that takes its time. It has no lock;
    the scheduler's guards it.

    Args:
        worth_a_word: Seconds without a byte after which it says so.
    """

    def __init__(self, worth_a_word: float = DEFAULT_TIMINGS.worth_a_word) -> None:
        self._worth_a_word = worth_a_word
        self._seen: tuple[int, ...] = ()
        self._since = 0.0

    def look(
        self,
        now: float,
        moved: tuple[int, ...],
        transfers: Sequence[Transfer],
        most: Callable[[Part], float],
        *,
        limited: bool = False,
    ) -> Wait | None:
        """Return what the queue waits for; ``None`` if something moves, or somebody else says it.

        Args:
            now: Seconds, on the clock of the parts.
            moved: Numbers that change with each byte and each file.
            transfers: The queue's files in progress.
            most: Seconds of silence after which a part's connection is given up.
            limited: Whether a bandwidth limit is in force: then a worker that does nothing waits for it.
        """
        if moved != self._seen:
            self._seen, self._since = moved, now
        if now - self._since < self._worth_a_word:
            return None
        parts = [part for transfer in transfers for part in transfer.parts if part.needed]
        silent = [part for part in parts if (part.seconds_in_call(now) or 0.0) >= self._worth_a_word]
        if silent:
            return _stall(max(silent, key=lambda part: part.seconds_in_call(now) or 0.0), now, most)
        if any(part.busy_since is not None or part.cancel_token.queued or part.backing_off for part in parts):
            return None
        if parts and limited:
            return None
        if parts:
            return _disk(parts[0].transfer, now - self._since)
        return _last_step(transfers) or _assigner(transfers)


def _stall(part: Part, now: float, most: Callable[[Part], float]) -> Wait:
    waited, limit = part.seconds_in_call(now) or 0.0, most(part)
    host, path = host_of(part.source.name), part.transfer.task.file_path
    what = "has not answered" if part.reading_since is None else "sends nothing"
    message = (
        f"{path}: {host} {what} for {in_words(waited)}; its connection is given up after {in_words(limit)}"
    )
    return Wait(WaitReason.STALL, message, max(0.0, limit - waited), host, path=path)


def _disk(transfer: Transfer, seconds: float) -> Wait:
    folder, path = transfer.request.destination.staging_dir, transfer.task.file_path
    message = f"{path}: the disk of {folder} has taken no byte for {in_words(seconds)}"
    return Wait(WaitReason.DISK, message, path=path)


def _assigner(transfers: Sequence[Transfer]) -> Wait | None:
    for transfer in transfers:
        if transfer.assigner is not None and transfer.has_work:
            path = transfer.task.file_path
            message = f"{path}: waits for {transfer.assigner.waits_for()}"
            return Wait(WaitReason.ANOTHER_PROCESS, message, path=path)
    return None


def _last_step(transfers: Sequence[Transfer]) -> Wait | None:
    for phase, what in (
        (Phase.FINISHING, "its bytes are here, and are checked and written to the disk"),
        (Phase.OPENING, "looking at what the disk has of it"),
    ):
        for transfer in transfers:
            if transfer.phase is phase:
                path = transfer.task.file_path
                return Wait(WaitReason.DISK, f"{path}: {what}", path=path)
    return None
