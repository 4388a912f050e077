"""The exit codes of every command, and which error ends with which."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from hf_haul.failures import FailureKind, describe

__all__ = [
    "EXIT_CODES_HELP",
    "ExitCode",
    "UsageError",
    "exit_code_of",
    "refuse_lines",
    "wrong_settings_are_usage",
]

#: Wrong lines of a list that are named at the most.
_MOST_NAMED: Final = 20


class ExitCode(enum.IntEnum):
    """How a command ended; of several failures the first one's counts."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    NETWORK = 5
    DISK = 6
    INTEGRITY = 7
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


#: Shown below the help of every command.
EXIT_CODES_HELP: Final = """\
exit codes:
  0 done, 1 another failure, 2 wrong usage, 3 not found, 4 access denied,
  5 network or server, 6 disk, 7 wrong bytes, 130 Ctrl+C, 143 SIGTERM;
  of several failures, the first one's"""

_OF_KIND: Final[Mapping[FailureKind, ExitCode]] = {
    FailureKind.USAGE: ExitCode.USAGE,
    FailureKind.NOT_FOUND: ExitCode.NOT_FOUND,
    FailureKind.DENIED: ExitCode.DENIED,
    FailureKind.NETWORK: ExitCode.NETWORK,
    FailureKind.DISK: ExitCode.DISK,
    FailureKind.INTEGRITY: ExitCode.INTEGRITY,
    FailureKind.OTHER: ExitCode.FAILED,
    FailureKind.UNFORESEEN: ExitCode.FAILED,
}


class UsageError(ValueError):
    """Arguments or settings that contradict each other, or that mean nothing."""


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code of a command that ends in an error."""
    if isinstance(error, UsageError):
        return ExitCode.USAGE
    return _OF_KIND[describe(error).kind]


@contextmanager
def wrong_settings_are_usage() -> Iterator[None]:
    """Tell of a wrong setting, which the block reads, as of a wrong argument.

    Raises:
        UsageError: A variable or the configuration file holds what makes no sense.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def refuse_lines(name: str, wrong: Sequence[str]) -> None:
    """Refuse a list for its wrong lines, if there are any; they are named, the first of many.

    Raises:
        UsageError: There are.
    """
    if wrong:
        head = [f"{len(wrong)} lines of {name} cannot be used"] if len(wrong) > 1 else []
        more = [f"and {len(wrong) - _MOST_NAMED} more"] if len(wrong) > _MOST_NAMED else []
        raise UsageError("\n".join([*head, *wrong[:_MOST_NAMED], *more]))
