"""Which way progress is shown, and the block that shows it."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal, TextIO, get_args

from hf_haul.cli import messages, streams
from hf_haul.cli.progress.display import Display, JsonView, Output, PlainView, TerminalView, View
from hf_haul.cli.progress.line_writer import LineWriter

__all__ = ["MODES", "Mode", "Showing", "chosen_mode", "showing"]

Mode = Literal["auto", "tty", "plain", "json", "none"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
_VARIABLE: Final = "HF_HAUL_PROGRESS"
_VIEWS: Final[Mapping[str, Callable[[Output, Callable[[], float]], View]]] = {
    "tty": TerminalView,
    "plain": PlainView,
    "json": JsonView,
}


def chosen_mode(
    asked: str | None, *, quiet: bool, stream: TextIO | None, environ: Mapping[str, str] | None = None
) -> Mode:
    """Return how to show progress; never ``auto``.

    What is asked for on the command line goes before ``HF_HAUL_PROGRESS``. ``auto`` is a live view on a
    terminal, and lines elsewhere and on a dumb one; nothing where ``HF_HUB_DISABLE_PROGRESS_BARS`` says so.

    Args:
        asked: The option's value; ``None`` if it was not given.
        quiet: Whether nothing is to be shown.
        stream: Where it would be shown; ``None`` if there is no such stream.
        environ: The variables; the process's own if ``None``.

    Raises:
        ValueError: ``HF_HAUL_PROGRESS`` is none of the modes.
    """
    variables = os.environ if environ is None else environ
    mode = asked or variables.get(_VARIABLE, "").strip().lower() or "auto"
    if mode not in MODES:
        raise ValueError(f"{_VARIABLE} is {mode!r}; it may be one of {', '.join(MODES)}")
    if stream is None or (quiet and mode != "json"):
        return "none"
    if mode != "auto":
        return mode
    if messages.is_on("HF_HUB_DISABLE_PROGRESS_BARS", variables):
        return "none"
    return "tty" if stream.isatty() and variables.get("TERM", "dumb") != "dumb" else "plain"


class Showing:
    """A block in which progress is shown.

    Attributes:
        mode: How.
        on_event: What to call with each event; ``None`` if nothing is shown.
    """

    def __init__(self, mode: Mode, display: Display | None) -> None:
        self.mode = mode
        self.on_event: Callable[[Mapping[str, Any]], None] | None = None
        if display is not None:
            self.on_event = display.on_event


class _DisplayHandler(logging.Handler):
    """Leaves log lines to a display, so that they and the view do not tear each other."""

    def __init__(self, display: Display, *, whole: bool) -> None:
        super().__init__()
        self._display = display
        if not whole:
            self.setFormatter(messages.LogFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  whoever logs has arguments that do not fit, and nothing is to fail for it
            self.handleError(record)
            return
        self._display.message(record.levelname.lower(), text, logger=record.name)


@contextmanager
def showing(
    mode: Mode, stream: TextIO | None = None, clock: Callable[[], float] = time.time
) -> Iterator[Showing]:
    """Show progress while the block runs, and what the command, the log and anybody else says meanwhile.

    What is written to ``sys.stderr``, as by libraries with handlers of their own, comes as messages, too.

    Args:
        mode: What :func:`chosen_mode` returned.
        stream: Where to; stderr if ``None``.
        clock: Unix seconds.
    """
    to = stream if stream is not None else sys.stderr
    if mode in {"none", "auto"} or to is None:
        yield Showing("none", None)
        return
    display = Display(_VIEWS[mode](Output(to), clock))
    handler = _DisplayHandler(display, whole=mode == "json")
    root, stderr = logging.getLogger(), sys.stderr
    others = _handlers_that_write_to(to)
    for logger, each in others:
        logger.removeHandler(each)
    root.addHandler(handler)
    writer = LineWriter(lambda line: display.message("warning", line, logger="stderr"), to)  # type: ignore[arg-type]  # any text stream
    if stderr is to:
        sys.stderr = writer
    try:
        with messages.shown_by(_shower(display, mode)), streams.printed_within(display.hidden):
            yield Showing(mode, display)
    finally:
        if sys.stderr is writer:
            sys.stderr = stderr
        writer.finish()
        root.removeHandler(handler)
        for logger, each in others:
            logger.addHandler(each)
        display.close()


def _handlers_that_write_to(stream: TextIO) -> list[tuple[logging.Logger, logging.Handler]]:
    """Return the log's handlers that would write into a view, and whose they are."""
    import huggingface_hub.utils.logging  # noqa: F401  gives its logger a handler, at its first import

    return [
        (logger, each)
        for logger in (logging.getLogger(), logging.getLogger("huggingface_hub"))
        for each in logger.handlers
        if isinstance(each, logging.StreamHandler) and each.stream is stream
    ]


def _shower(display: Display, mode: Mode) -> messages.Show:
    def show(level: messages.Level, text: str, error: BaseException | None = None) -> None:
        shown = text if mode == "json" else messages.as_lines(level, text)
        display.message(level, shown, error=error)

    return show
