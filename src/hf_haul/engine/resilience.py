"""What must be done although memory is short, and what may be kept of an error."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from hf_haul.errors import HaulError

__all__ = ["drop_frames", "insist"]

logger = logging.getLogger(__name__)

#: Seconds before what must be done is tried again: memory may be short for a moment.
_PAUSES: Final = (0.0, 0.02, 0.1, 0.3, 1.0, 2.0)


def insist(work: Callable[[], object], pauses: Sequence[float] = _PAUSES) -> None:
    """Do what must be done, and repeat it where it fails; raise an interrupt only afterwards.

    Args:
        work: What must be done.
        pauses: Seconds before each further attempt.
    """
    interrupt: BaseException | None = None
    for pause in (*pauses, None):
        try:
            work()
            break
        except BaseException as error:  # memory, mostly, which may be there again in a moment
            if pause is None:
                raise
            if isinstance(error, KeyboardInterrupt):
                interrupt = error
            logger.debug("trying again: %s", repr(error))
            time.sleep(pause)
    if interrupt is not None:
        raise interrupt


class _Traceback(Exception):  # noqa: N818  it only carries text
    """Where an error came from, in words: the cause of one that nobody expected."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def drop_frames(error: BaseException) -> None:
    """Let go of the frames of an error, and of those that it came from.

    Who keeps the error would keep all that they refer to: buffers, files, tokens, whole queues. Where an
    unexpected error came from is kept in words.
    """
    if (
        not isinstance(error, HaulError | OSError)
        and error.__cause__ is None
        and error.__traceback__ is not None
    ):
        with contextlib.suppress(Exception):  # no memory for it
            error.__cause__ = _Traceback("".join(traceback.format_tb(error.__traceback__)))
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            pending += [each.__cause__, each.__context__]
