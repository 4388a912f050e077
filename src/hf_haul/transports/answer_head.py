"""The head of an answer, its status and headers, in bounded time; interim answers are skipped."""

from __future__ import annotations

import http.client
import io
import socket
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
    """

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
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

    def _read_status(self) -> tuple[Any, int, str]:
        """Read the status line; skip interim answers, where the standard class skips 100 only."""
        read: Any = super()._read_status  # type: ignore[misc]  # what begin calls
        for _ in range(_MAX_INTERIM):
            version, status, reason = read()
            if status // 100 != 1 or status in _NOT_INTERIM:
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException(f"more than {_MAX_INTERIM} interim answers")


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
