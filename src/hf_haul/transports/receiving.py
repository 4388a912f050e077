"""Reads a body from the socket into the reader's buffer without a copy."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from urllib3.response import BaseHTTPResponse
from urllib3.util import wait_for_read

from hf_haul.transports.mounted import GivenAnswer
from hf_haul.transports.plain import PlainAnswer
from hf_haul.transports.translation import FOREIGN

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["DirectReader"]

#: A read that has something returns it after this many seconds, full or not: progress and limits act on it.
_READ_SECONDS: Final = 0.2
#: Asked for this much or more, the reader below passes on what it has, which came with the headers, and keeps
#: nothing; asked for less than it can hold, it takes more from the socket than it gives.
_KEEPS_NOTHING: Final = io.DEFAULT_BUFFER_SIZE + 1


#: Bytes of a full record of TLS, which is what one receive gives there.
_RECORD: Final = 16 << 10


class DirectReader:
    """Reads a body that is neither encoded nor chunked, past urllib3; used by one thread.

    Two of Python's three layers above a socket are only there to keep what nobody asked for yet. Once the
    lowest keeps nothing any more, the socket itself is read: TLS gives 16 KiB at a time, and each layer costs
    some of that time.
    """

    __slots__ = ("_failure", "_first", "_most", "_plain", "_read_sock", "_read_some", "_sock")

    def __init__(
        self, read_some: Callable[[memoryview], int], sock: Any, plain: PlainAnswer | None = None
    ) -> None:
        self._read_some = read_some
        self._plain = plain  # whose head brought bytes of the body along
        self._sock = sock if isinstance(sock, socket.socket) else None
        self._read_sock = None if self._sock is None else self._sock.recv_into
        self._most = _RECORD if isinstance(sock, ssl.SSLSocket) else sys.maxsize  # of one receive
        self._failure: BaseException | None = None
        # The reader below is asked for what it can hold, until it keeps nothing. Asked for more it adds a
        # receive to what came with the headers, and loses this if nothing comes.
        self._first = io.DEFAULT_BUFFER_SIZE if plain is None else None

    @classmethod
    def of(cls, raw: BaseHTTPResponse | PlainAnswer | GivenAnswer) -> Self | None:
        """Return a reader for ``raw``, if it holds the body and nothing else; ``None`` if it does not."""
        if isinstance(raw, PlainAnswer):
            return cls(raw.read_some, raw.sock, raw)
        answer = getattr(raw, "_fp", None)
        if not isinstance(answer, http.client.HTTPResponse) or answer.chunked:
            return None
        reader = getattr(answer, "fp", None)  # none if the body was empty
        if not isinstance(reader, io.BufferedReader):
            return None
        return cls(reader.readinto1, getattr(reader.raw, "_sock", None))

    def readinto(self, view: memoryview) -> int:
        """Fill ``view``, or as much of it as comes within a moment.

        Returns:
            Bytes read; 0 at the end of the connection.

        Raises:
            OSError: The connection broke, or nothing came for the socket's timeout. Bytes that were received
                before are returned first.
        """
        if self._failure is not None:
            raise self._failure
        asked, deadline = 0, time.monotonic() + _READ_SECONDS
        first = view[: self._first]
        got = count = self._read_some(first)
        wanted = len(first)
        # One receive at a time, so that an error in the middle does not lose the bytes before it.
        while count and got < len(view) and self._comes_more(count, wanted, deadline - time.monotonic()):
            asked = wanted = len(view) - got
            try:
                count = self._read_some(view[got:])
            except FOREIGN as error:
                self._failure = error
                return got
            got += count
        if self._read_sock is not None and self._keeps_nothing(asked):
            self._read_some, self._read_sock, self._first = self._read_sock, None, None
        return got

    def _comes_more(self, count: int, asked: int, seconds: float) -> bool:
        """Return whether more comes within some seconds, after ``count`` bytes of those asked for.

        A receive of less than it could hold has emptied the connection, so that the next might wait until the
        source is given up, with what is here in nobody's hands meanwhile.
        """
        if seconds <= 0:
            return False
        if self._sock is None or self._sock.fileno() < 0 or count >= min(asked, self._most):
            return True
        return wait_for_read(self._sock, seconds)

    def _keeps_nothing(self, asked: int) -> bool:
        """Return whether what comes next comes from the socket, after ``asked`` bytes were wanted at once."""
        if self._plain is None:
            return asked >= _KEEPS_NOTHING
        if self._plain.rest:
            return False
        self._plain.allow_silence()
        return True
