"""The head of an answer, its status and headers, in bounded time; interim answers are skipped.

And whether there is anything behind the answer: the next one on its connection would be looked for there.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Answer"]

#: Interim answers before the one that counts.
_MAX_INTERIM: Final = 100
#: 100 is for the standard class; after 101 the connection would speak another protocol.
_NOT_INTERIM: Final = frozenset({100, 101})


class Answer(http.client.HTTPResponse):
    """An answer before which others may come (103 Early Hints, 102 Processing).

    All of its head has to come within the seconds that the socket allows for any byte, or twice that at the
    most: a peer that sends a header's letters one by one would otherwise be waited for all day.

    Attributes:
        on_more: Called at the end of the body if more has come than that: its connection cannot serve again.
            The reader would drop what it holds of it, and the rest be taken for the next answer.
    """

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.on_more: Callable[[], object] | None = None
        self._sock = sock
        self._seconds: float | None = getattr(sock, "gettimeout", lambda: None)()  # pyOpenSSL's have none

    def begin(self) -> None:
        """Wait for the head, and parse it."""
        reader: Any = self.fp
        if self._seconds is None or not isinstance(reader, io.BufferedReader):
            super().begin()
            return
        deadline = time.monotonic() + self._seconds
        head = reader.peek()
        if b"\r\n\r\n" in head and head[9:10] != b"1":  # the rule: it came at once, and is no interim answer
            super().begin()
            return
        lines: Any = _LinesInTime(reader, deadline)
        self.fp = lines
        try:
            super().begin()
        finally:
            if self.fp is lines:  # not closed
                self.fp = reader

    def _close_conn(self) -> None:
        """Let go of the reader, as the standard class does at the end of a body."""
        on_more, self.on_more = self.on_more, None
        more = on_more is not None and _holds_more(self.fp, self._sock)
        super()._close_conn()  # type: ignore[misc]  # what reading and closing call
        if on_more is not None and more:
            on_more()

    def _read_status(self) -> tuple[Any, int, str]:
        """Read the status line; skip interim answers, where the standard class skips 100 only."""
        read: Any = super()._read_status  # type: ignore[misc]  # what begin calls
        for _ in range(_MAX_INTERIM):
            version, status, reason = read()
            if status // 100 != 1 or status in _NOT_INTERIM:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {_MAX_INTERIM} interim answers")


def _holds_more(reader: Any, sock: Any) -> bool:
    """Return whether bytes are there that nobody has read; or that cannot be told."""
    try:
        seconds = sock.gettimeout()
        sock.settimeout(0.0)
        try:
            return bool(reader.peek())
        finally:
            sock.settimeout(seconds)
    except ssl.SSLWantReadError:
        return False
    except (OSError, ValueError, AttributeError):  # shut down, closed, or of another library
        return True


class _LinesInTime:
    """The lines of a reader, with one end for all of them."""

    def __init__(
        self, reader: io.BufferedReader, deadline: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader = reader
        self._deadline = deadline
        self._clock = clock

    def readline(self, limit: int = -1, /) -> bytes:
        """Return the next line, its end included, or its first ``limit`` bytes.

        Raises:
            TimeoutError: It is late.
        """
        line = b""
        while limit < 0 or len(line) < limit:
            if self._clock() > self._deadline:
                raise TimeoutError("timed out")
            here = self._reader.peek()  # one receive at the most
            end = here.find(b"\n") + 1
            take = end or len(here)
            line += self._reader.read(take if limit < 0 else min(take, limit - len(line)))
            if end or not here:
                break
        return line

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()
