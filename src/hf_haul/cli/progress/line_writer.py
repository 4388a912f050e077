"""Stands in for stderr while a display has it, so that what others write there comes as messages."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

__all__ = ["LineWriter"]


class LineWriter(io.TextIOBase):
    """Hands on each line that is written to it.

    It is no terminal: whoever asks writes lines then. A child process gets the descriptor itself.

    Locking: ``_lock`` guards ``_begun``; nothing is handed on while it is held.

    Args:
        put: Takes a line.
        stream: What it stands for.
    """

    def __init__(self, put: Callable[[str], object], stream: io.TextIOBase) -> None:
        self._put = put
        self._stream = stream
        self._lock = threading.Lock()
        self._begun = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a plain attribute
        """How what it stands for writes text."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def fileno(self) -> int:
        """Return the descriptor of what it stands for."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Take some text; what has no end of its line waits for it."""
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._hand_on(line)
        return len(text)

    def finish(self) -> None:
        """Hand on what has no end of its line."""
        with self._lock:
            line, self._begun = self._begun, ""
        self._hand_on(line)

    def _hand_on(self, line: str) -> None:
        line = line.rpartition("\r")[2].rstrip()
        if line:
            self._put(line)
