"""stdout, which carries results and nothing else, and what is done when nobody reads it any more."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

__all__ = ["flush_results", "has_printed", "print_result", "printed_within", "set_up_streams"]


_LAST_STANDARD_STREAM: Final = 2  # stdin, stdout, stderr


def set_up_streams() -> None:
    """Let names of files, which are bytes, go out as they are, and no file be taken for a standard stream.

    A process that is started with one of them closed would get its number for the next file it opens, and
    what a library writes to it would end in that file.
    """
    global _printed
    _printed = False
    with contextlib.suppress(OSError):
        while (opened := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_STREAM:
            pass
        os.close(opened)
    if sys.stderr is None:  # libraries write to it without a look
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


#: Whether anything was printed since :func:`set_up_streams`.
_printed = False
_around: Callable[[], AbstractContextManager[None]] | None = None


@contextmanager
def printed_within(around: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Print the results of a block within another one, such as one that takes a view off the terminal.

    It counts only where stdout is a terminal: a pipe is nobody's view.
    """
    global _around
    before, _around = _around, around
    try:
        yield
    finally:
        _around = before


def print_result(text: str, *, flush: bool = False) -> None:
    """Write a line to stdout.

    Args:
        text: The line.
        flush: Whether somebody waits for it, and for no more to come.

    Raises:
        OSError: It cannot be written, and not because nobody reads it.
    """
    global _printed
    _printed = True
    try:
        if _around is not None and sys.stdout is not None and sys.stdout.isatty():
            with _around():
                print(text, flush=True)
        else:
            print(text, flush=flush)
    except BrokenPipeError:
        _silence()


def has_printed() -> bool:
    """Return whether stdout has got a result."""
    return _printed


def flush_results() -> None:
    """Write out what is left; whoever closed the other end of the pipe wants no more.

    Raises:
        OSError: It cannot be written, and not because nobody reads it.
    """
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except BrokenPipeError:
        _silence()


def _silence() -> None:
    """Send what is still buffered nowhere, so that the interpreter's end does not complain about it."""
    with contextlib.suppress(OSError, ValueError):  # no descriptor of its own: it is a test's
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, sys.stdout.fileno())
        finally:
            os.close(nowhere)
