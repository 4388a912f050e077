"""A failure as people are told of it, and the phrases that several of them share."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "CHOOSE_A_FOLDER",
    "LOG_IN",
    "MORE_FILES",
    "RUN_AGAIN",
    "Failure",
    "FailureKind",
    "Reader",
    "says_itself",
    "sentences",
]


class FailureKind(str, enum.Enum):
    """What a failure is about; the command has an exit code for each."""

    USAGE = "usage"
    NOT_FOUND = "not_found"
    DENIED = "denied"
    NETWORK = "network"
    DISK = "disk"
    INTEGRITY = "integrity"
    OTHER = "other"
    UNFORESEEN = "unforeseen"  #: nobody wrote a sentence for it: most likely a fault of ours


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as people are told of it.

    Attributes:
        kind: What it is about.
        text: What happened, and where, in one line without a full stop.
        hint: What to do about it, if anything can be said.
        details: Lines for those who look into it: status, URL, request id, what the server said.
    """

    kind: FailureKind
    text: str
    hint: str | None = None
    details: tuple[str, ...] = ()


#: Reads one kind of error; ``None`` where it says nothing that the readers of its base classes do not say.
Reader = Callable[[Any], Failure | None]

LOG_IN: Final = "log in with 'hf auth login', or set HF_TOKEN"
RUN_AGAIN: Final = "Run it again a little later: it goes on from what is there"
CHOOSE_A_FOLDER: Final = (
    "Choose another folder (--local-dir, --cache-dir or HF_HOME), or change its permissions"
)
MORE_FILES: Final = "Raise the limit ('ulimit -n'), or use fewer connections"

_SENTENCE_END: Final = re.compile(r"(?<=[\w)'\"\]])\. (?=[A-Z])")


def sentences(error: BaseException) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the first sentence of an error's text, the rest of its first line, and the lines below."""
    first, *below = str(error).strip().splitlines() or [""]
    text, *rest = _SENTENCE_END.split(first, maxsplit=1)
    return (
        text.rstrip("."),
        rest[0].rstrip(".") if rest else None,
        tuple(line for line in below if line.strip()),
    )


def says_itself(kind: FailureKind, hint: str | None = None) -> Reader:
    """Return a reader of errors whose text is fit for people: what happened first, and then what to do.

    Args:
        kind: What such errors are about.
        hint: What to do, where their text does not say so.
    """

    def read(error: BaseException) -> Failure | None:
        text, own_hint, details = sentences(error)
        return Failure(kind, text, own_hint or hint, details) if text else None

    return read
