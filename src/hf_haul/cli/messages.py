"""What goes to stderr, in one place: messages, warnings, and errors in words.

Nothing here raises: a closed pipe or a terminal that hung up must not end a download.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal, Protocol

from hf_haul.failures import describe
from hf_haul.redaction import redact_text

__all__ = [
    "Level",
    "LogFormatter",
    "Show",
    "as_lines",
    "ask",
    "is_debugging",
    "is_on",
    "say",
    "say_error",
    "shown_by",
    "warn",
]

Level = Literal["info", "warning", "error"]

_PREFIXES: Final = {"info": "", "warning": "warning: ", "error": "error: "}
_TRUE: Final = frozenset({"1", "on", "yes", "true"})


class Show(Protocol):
    """Shows one message, which may have several lines, and the error that it is about."""

    def __call__(self, level: Level, text: str, error: BaseException | None = None) -> None:
        """Show it; raises nothing."""


def as_lines(level: Level, text: str) -> str:
    """Return a message as stderr gets it: with the command's name before it, and further lines indented."""
    first, *below = text.splitlines() or [""]
    return "\n".join([f"hf-haul: {_PREFIXES[level]}{first}", *(f"  {line}" for line in below)])


class LogFormatter(logging.Formatter):
    """Warnings as messages of the command, and other lines with their level and who says it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line of the log, with what belongs to it below."""
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            return as_lines("error" if record.levelno >= logging.ERROR else "warning", text)
        return f"{record.levelname} {record.name}: {text}"


def _to_stderr(level: Level, text: str, error: BaseException | None = None) -> None:
    del error  # its text says all
    if sys.stderr is None:  # closed by whoever started the command; print would take stdout instead
        return
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        print(as_lines(level, text), file=sys.stderr, flush=True)


_show: Show = _to_stderr


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Leave all messages of a block to another function, such as one that draws a display around them."""
    global _show
    before, _show = _show, show
    try:
        yield
    finally:
        _show = before


def say(text: str) -> None:
    """Tell of something."""
    _show("info", text)


def warn(text: str) -> None:
    """Warn of something that goes on all the same."""
    _show("warning", text)


def say_error(error: BaseException, about: str = "") -> None:
    """Say what an error means: what happened, what to do, and what helps to look into it.

    With ``HF_DEBUG=1`` the traceback follows.

    Args:
        error: The error.
        about: What it is about, where that is one of several; said unless the error does.
    """
    failure = describe(error)
    text = failure.text if about in failure.text else f"{about}: {failure.text}"
    notes = [line for note in getattr(error, "__notes__", ()) for line in str(note).splitlines()]
    lines = [text, *([failure.hint] if failure.hint else []), *failure.details, *notes]
    _show("error", "\n".join(lines), error)
    if is_debugging():
        _show("info", redact_text("".join(traceback.format_exception(error))))


def ask(question: str) -> bool | None:
    """Ask a yes-or-no question at the terminal; the default is no.

    Returns:
        ``None`` where there is no terminal: nobody would see the question, or could answer it.
    """
    shown = next(
        (stream for stream in (sys.stderr, sys.stdout) if stream is not None and stream.isatty()), None
    )
    if shown is None or sys.stdin is None or not sys.stdin.isatty():
        return None
    print(f"{question} [y/N] ", end="", file=shown, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def is_debugging() -> bool:
    """Return whether tracebacks are wanted, by huggingface_hub's own variable."""
    return is_on("HF_DEBUG", os.environ)


def is_on(variable: str, environ: Mapping[str, str]) -> bool:
    """Return whether one of huggingface_hub's variables is set to yes, in a way that it takes for one.

    Args:
        variable: Its name.
        environ: The variables.
    """
    return environ.get(variable, "").strip().lower() in _TRUE
