"""The thread that shows a download, so that no terminal and no pipe holds it up."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO

from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.progress.overview import Overview
from hf_haul.cli.progress.plain import PlainLines
from hf_haul.cli.progress.screen import closing_line, render
from hf_haul.cli.progress.texts import width
from hf_haul.failures import Failure, FailureKind, describe
from hf_haul.threads import start_daemon

__all__ = ["Display", "JsonView", "Message", "Output", "PlainView", "TerminalView", "View"]

#: Seconds between two looks at the clock.
_TICK: Final = 1.0
#: Seconds that the end waits for an output that takes nothing.
_GRACE: Final = 1.0
#: Events that wait for a slow output at the most; beyond that the oldest are lost.
_MOST_WAITING: Final = 10_000
_FALLBACK_SIZE: Final = os.terminal_size((80, 24))
#: Of the vocabulary of events.
_VERSION: Final = 1


class Output:
    """Where a view is written: the descriptor itself, if there is one.

    A stream's lock would be held while a full pipe blocks, and the interpreter's end would wait for it.

    Args:
        stream: A text stream; without a descriptor, as in tests, it is written to as it is.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._fd: int | None = None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._fd = stream.fileno()
        self.closed = False

    def write(self, text: str) -> None:
        """Write all of a text, as long as anybody reads it."""
        if self.closed or not text:
            return
        try:
            if self._fd is None:
                self._stream.write(text)
                self._stream.flush()
                return
            left = memoryview(text.encode(self._encoding, errors="backslashreplace"))
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:  # somebody made it so, and it is full
                    time.sleep(_TICK / 10)
        except (OSError, ValueError):  # a closed pipe, or a terminal that hung up: nobody looks any more
            self.closed = True

    def size(self) -> os.terminal_size:
        """Return the columns and rows of the terminal."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                size = os.get_terminal_size(self._fd)
                if size.columns > 0 and size.lines > 0:
                    return size
        return _FALLBACK_SIZE


class Message(dict[str, Any]):
    """A message of the command, or a line of the log.

    Its keys: ``level``, ``text``, ``logger``, and the ``error`` it is about.
    """


class View(ABC):
    """A way to show events; used by one thread.

    Args:
        output: Where to.
        clock: Unix seconds.
    """

    def __init__(self, output: Output, clock: Callable[[], float]) -> None:
        self.output = output
        self.clock = clock

    @abstractmethod
    def event(self, event: Mapping[str, Any]) -> None:
        """Take in an event."""

    @abstractmethod
    def message(self, message: Message) -> None:
        """Show a message."""

    @abstractmethod
    def tick(self) -> None:
        """Show that time goes on; called once a second and after events."""

    @abstractmethod
    def close(self) -> None:
        """Show the summary."""

    def hide(self) -> None:  # noqa: B027  most views have nothing to take away
        """Take away what the next look would draw over."""


class JsonView(View):
    """One JSON object for each event and each message."""

    def __init__(self, output: Output, clock: Callable[[], float]) -> None:
        super().__init__(output, clock)
        self._told: set[str] = set()

    def event(self, event: Mapping[str, Any]) -> None:
        """Write it."""
        if event["ev"] == "error":
            self._told.add(event["message"])
        self.output.write(json.dumps(dict(event)) + "\n")

    def message(self, message: Message) -> None:
        """Write it as an event: ``log``, or the ``error`` that it is about, if that was not told yet."""
        error = message.get("error")
        if error is None:
            said = {"level": message["level"], "logger": message["logger"], "message": message["text"]}
            self.event({"v": _VERSION, "t": self.clock(), "ev": "log", **said})
            return
        failure = describe(error)
        if failure.text not in self._told:
            said = {
                "type": type(error).__name__, "kind": _kind_of(error, failure), "message": failure.text,
                "file": getattr(error, "named_file", None), "hint": failure.hint, "details":
                list(failure.details),
            }  # fmt: skip
            self.event({"v": _VERSION, "t": self.clock(), "ev": "error", **said})

    def tick(self) -> None:
        """Do nothing: events come once a second by themselves."""

    def close(self) -> None:
        """Do nothing: the last event says what it came to."""


def _kind_of(error: BaseException, failure: Failure) -> str:
    return FailureKind.USAGE.value if isinstance(error, UsageError) else failure.kind.value


class PlainView(View):
    """Lines, for a log."""

    def __init__(self, output: Output, clock: Callable[[], float]) -> None:
        super().__init__(output, clock)
        self._overview = Overview(clock())
        self._lines = PlainLines(self._overview)
        self._seen = False

    def event(self, event: Mapping[str, Any]) -> None:
        """Write the lines that it is worth."""
        self._seen = True
        self._overview.note(event)
        self._write(self._lines.about(event))

    def message(self, message: Message) -> None:
        """Write it."""
        self.output.write(message["text"] + "\n")

    def tick(self) -> None:
        """Write the line that is due."""
        self._write(self._lines.tick(self.clock()))

    def close(self) -> None:
        """Write what it came to."""
        if self._seen:
            self._write(self._lines.closing(self.clock()))

    def _write(self, lines: list[str]) -> None:
        self.output.write("".join(f"hf-haul: {line}\n" for line in lines))


class TerminalView(View):
    """A view of several lines at the end of a terminal, drawn anew each second.

    Uses what every terminal has had for decades: the cursor goes up over the view, and all below is cleared.
    The cursor stays visible and nothing is coloured, so there is nothing to be put right afterwards.
    """

    def __init__(self, output: Output, clock: Callable[[], float]) -> None:
        super().__init__(output, clock)
        self._overview = Overview(clock())
        self._drawn: list[str] = []
        self._seen = False

    def event(self, event: Mapping[str, Any]) -> None:
        """Take it in; drawn at the next tick."""
        self._seen = True
        self._overview.note(event)

    def message(self, message: Message) -> None:
        """Write it above the view."""
        self.output.write(self._erasing() + message["text"] + "\n")
        self._drawn = []

    def tick(self) -> None:
        """Draw."""
        columns, rows = self.output.size()
        lines = render(self._overview, self.clock(), columns, rows)
        self.output.write(self._erasing() + "".join(f"{line}\n" for line in lines))
        self._drawn = lines

    def close(self) -> None:
        """Leave one line in the place of the view, if there was anything to tell of."""
        closing = closing_line(self._overview, self.clock()) if self._seen else ""
        self.output.write(self._erasing() + (f"hf-haul: {closing}\n" if closing else ""))
        self._drawn = []

    def hide(self) -> None:
        """Clear the view; it is drawn anew below what is written meanwhile."""
        self.output.write(self._erasing())
        self._drawn = []

    def _erasing(self) -> str:
        """Return what clears the view, also where the terminal has become narrower and has wrapped it."""
        if not self._drawn:
            return ""
        columns = self.output.size().columns
        rows = sum(max(1, -(-width(line) // columns)) for line in self._drawn)
        return f"\x1b[{rows}A\r\x1b[J"


class Display:
    """Shows events and messages from a thread of its own, in order.

    Locking: ``_changed`` guards the attributes below it; nothing is written while it is held. ``_writing`` is
    held by whoever writes: the display's own thread, or one that writes results to the same terminal.

    Args:
        view: Shows them.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._changed = threading.Condition()
        self._waiting: deque[Mapping[str, Any]] = deque(maxlen=_MOST_WAITING)
        self._closing = False
        self._writing = threading.Lock()
        self._thread = start_daemon(self._run, "hf-haul-display")

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Show an event soon."""
        self._put(event)

    def message(
        self, level: str, text: str, *, logger: str = "hf_haul", error: BaseException | None = None
    ) -> None:
        """Show a message soon.

        Args:
            level: ``info``, ``warning``, ``error`` or ``debug``.
            text: It, with all that belongs to it.
            logger: Who says it.
            error: What it is about.
        """
        self._put(Message(level=level, text=text, logger=logger, error=error))

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Keep the view away while the block writes to the same terminal."""
        with self._writing:
            self._view.hide()
            yield

    def close(self, grace: float = _GRACE) -> None:
        """Show what is left and what it came to.

        Args:
            grace: Seconds to wait at the most for an output that takes nothing.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:  # the system gave none
            self._run()
        else:
            self._thread.join(grace)

    def _put(self, item: Mapping[str, Any]) -> None:
        with self._changed:
            self._waiting.append(item)
            self._changed.notify_all()

    def _run(self) -> None:
        due = time.monotonic() + _TICK
        while True:
            with self._changed:
                if not self._waiting and not self._closing:
                    self._changed.wait(max(0.0, due - time.monotonic()))
                items, closing = list(self._waiting), self._closing
                self._waiting.clear()
            with self._writing:
                self._show(items)
                if closing:
                    self._view.close()
                    return
                if items and any(item.get("ev") in {"plan", "progress", "wait"} for item in items):
                    due = 0.0
                if time.monotonic() >= due:
                    self._view.tick()
                    due = time.monotonic() + _TICK

    def _show(self, items: Sequence[Mapping[str, Any]]) -> None:
        for item in items:
            if isinstance(item, Message):
                self._view.message(item)
            else:
                self._view.event(item)
