"""What follows the opening of a file, a part, and the last step of a file: pure decisions.

``settlement`` does what is decided here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from hf_haul.engine.transfer import Part, Phase, SupersededError, Transfer
from hf_haul.errors import (
    RangeRefusedError,
    RetriesExhaustedError,
    ServerBusyError,
    SourceChangedError,
    StopRequestedError,
    TransferError,
)
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.staged_file import StagedLostError
from hf_haul.task import DownloadState

__all__ = [
    "Outcome",
    "PartOutcome",
    "Verdict",
    "after_finish",
    "after_last_part",
    "after_opening",
    "after_part",
]

#: How often a staged file may be lost to another process before its file fails.
_LOSSES: Final = 5
#: How often a file may change at its source while it is fetched.
_CHANGES: Final = 2


class Verdict(enum.Enum):
    """What becomes of a file."""

    #: It is opened: its parts can be fetched.
    OPENED = enum.auto()
    #: What is missing of it is fetched; if nothing is, it is checked and published.
    GO_ON = enum.auto()
    #: What is staged is of an older version, and is dropped.
    RENEW = enum.auto()
    #: Its digest was wrong: it is fetched once more, in order unless an earlier session had left bytes of it.
    FETCH_AGAIN = enum.auto()
    #: It goes back to its place in the queue.
    PUT_BACK = enum.auto()
    #: Another process fetches it; look again later.
    LOOK_LATER = enum.auto()
    #: Somebody took its staged file, and has its bytes; look there, or start anew.
    LOOK_ELSEWHERE = enum.auto()
    #: It was in place without our doing.
    PRESENT = enum.auto()
    #: It is in place.
    PUBLISHED = enum.auto()
    #: It ends without success.
    GIVE_UP = enum.auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a file, and why.

    Attributes:
        verdict: What becomes of it.
        error: Why it is given up or looked at later; ``None`` if it is given up because it was cancelled.
    """

    verdict: Verdict
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """What follows from the end of a part for its file and its source.

    Attributes:
        slow_down: Whether the source gets fewer connections.
        refused: Whether the source refused the range for good.
        restart: Whether the file is started anew, as the source serves another version.
        failure: What makes the file fail, if anything does.
    """

    slow_down: bool
    refused: bool
    restart: bool
    failure: BaseException | None


def after_opening(transfer: Transfer, error: BaseException | None, *, cancelled: bool) -> Outcome:
    """Decide what follows when a worker has looked at what is on disk.

    Args:
        transfer: The file.
        error: What was raised.
        cancelled: Whether its queue was.
    """
    if isinstance(error, SupersededError):
        return Outcome(Verdict.PRESENT)
    if cancelled:
        return Outcome(Verdict.GIVE_UP)
    if isinstance(error, StopRequestedError) and transfer.failure is None:
        # A pause, or something more urgent, before anything was staged.
        return Outcome(Verdict.PUT_BACK)
    if isinstance(error, StagedElsewhereError):
        return Outcome(Verdict.LOOK_LATER, error)
    failure = transfer.failure or error
    return Outcome(Verdict.OPENED) if failure is None else Outcome(Verdict.GIVE_UP, failure)


def after_part(
    transfer: Transfer, hedge: Part | None, error: BaseException | None, *, elsewhere: bool = False
) -> PartOutcome:
    """Decide what follows a part, apart from what follows when it was the last.

    Args:
        transfer: The file.
        hedge: The part that fetches the same bytes, if there is one.
        error: What was raised.
        elsewhere: Whether another source can be asked for what the part did not bring.
    """
    if elsewhere and isinstance(error, TransferError):
        busy = isinstance(error, ServerBusyError | RetriesExhaustedError)
        return PartOutcome(slow_down=busy, refused=False, restart=False, failure=None)
    refused = isinstance(error, RangeRefusedError)
    restart = isinstance(error, SourceChangedError) and _can_start_anew(transfer)
    bearable = (refused and not transfer.refuses_for_good) or restart or isinstance(error, StopRequestedError)
    failure = None if bearable else error
    # A hedge that works may still bring the bytes; one that has brought none shares the fault, and may not
    # make it last longer than one part's time to retry.
    if transfer.failure is not None or (hedge is not None and hedge.received):
        failure = None
    return PartOutcome(
        slow_down=isinstance(error, ServerBusyError | RetriesExhaustedError),
        refused=refused,
        restart=restart,
        failure=failure,
    )


def after_last_part(transfer: Transfer, *, cancelled: bool, losses: int) -> Outcome:
    """Decide what follows when nobody is at a file.

    Args:
        transfer: The file.
        cancelled: Whether its queue was.
        losses: How often its staged file was taken by another process.
    """
    task = transfer.task
    if task.state is DownloadState.DONE:  # which was not noted everywhere
        return Outcome(Verdict.PUBLISHED)
    if cancelled:
        return Outcome(Verdict.GIVE_UP)
    if isinstance(transfer.failure, StagedLostError) and losses < _LOSSES:
        return Outcome(Verdict.LOOK_ELSEWHERE)
    if transfer.failure is not None or task.state.final:
        return Outcome(Verdict.GIVE_UP, transfer.failure or task.error)
    if transfer.staged is None:
        return Outcome(Verdict.PUT_BACK)
    return Outcome(Verdict.RENEW if transfer.phase is Phase.RESTARTING else Verdict.GO_ON)


def after_finish(
    transfer: Transfer, error: BaseException | None, *, published: bool, cancelled: bool, losses: int
) -> Outcome:
    """Decide what follows when a worker has checked a file, and published it or not.

    Args:
        transfer: The file.
        error: What was raised.
        published: Whether it is in place.
        cancelled: Whether its queue was.
        losses: How often its staged file was taken by another process.
    """
    if not published:
        error = transfer.failure or error
        if error is None:
            return Outcome(Verdict.FETCH_AGAIN)
    if error is None:
        return Outcome(Verdict.PUBLISHED)
    if isinstance(error, StagedLostError | StopRequestedError) and cancelled:
        return Outcome(Verdict.GIVE_UP)
    if isinstance(error, StagedLostError) and losses < _LOSSES:
        return Outcome(Verdict.LOOK_ELSEWHERE)
    return Outcome(Verdict.GIVE_UP, error)


def _can_start_anew(transfer: Transfer) -> bool:
    """Return whether a changed source is taken as it is now: nobody said beforehand what it should be."""
    if transfer.task.digest is not None or transfer.failure is not None:
        return False
    return transfer.phase is Phase.RESTARTING or transfer.changes < _CHANGES
