"""Reads a body from the socket into the reader's buffer without a copy."""

from __future__ import annotations

import http.client
import io
import os
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from urllib3.response import BaseHTTPResponse

from hf_haul.transports.translation import FOREIGN

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["DirectReader"]

#: A read that has something returns it after this many seconds, full or not: progress and limits act on it.
_READ_SECONDS: Final = 0.2
#: Speed of a body up to which the system is left to fill a buffer, in bytes per second. A faster one has much
#: for every receive, and the system would wake the thread more often than that.
_SLOW_BPS: Final = 100e6
#: Asked for this much or more, the reader below passes on what it has, which came with the headers, and keeps
#: nothing; asked for less than it can hold, it takes more from the socket than it gives.
_KEEPS_NOTHING: Final = io.DEFAULT_BUFFER_SIZE + 1
#: ``struct timeval``, the value of ``SO_RCVTIMEO``; see socket(7).
_RECEIVE_SECONDS: Final = struct.pack("@ll", 0, int(_READ_SECONDS * 1e6))
_NO_LIMIT: Final = bytes(len(_RECEIVE_SECONDS))


class DirectReader:
    """Reads a body that is neither encoded nor chunked, past urllib3; used by one thread.

    Two of Python's three layers above a socket are only there to keep what nobody asked for yet. Once the
    lowest keeps nothing any more, the socket itself is read: TLS gives 16 KiB at a time, and each layer costs
    some of that time.

    Python asks the system twice for each piece that arrives, and takes the interpreter's lock again after
    both: on slow connections several times per 100 KiB, in all threads. So there the system fills the buffer
    by itself (``MSG_WAITALL``), which takes one call and no lock.
    """

    __slots__ = (
        "_began",
        "_failure",
        "_read_sock",
        "_read_some",
        "_received",
        "_sock",
        "_timeout",
        "_waits_for_all",
    )

    def __init__(self, reader: io.BufferedReader) -> None:
        self._read_some = reader.readinto1
        sock = getattr(reader.raw, "_sock", None)
        self._read_sock = sock.recv_into if isinstance(sock, socket.socket) else None
        # Over TLS, what the socket has is not what the body has.
        self._sock = sock if sys.platform == "linux" and type(sock) is socket.socket else None
        self._timeout: float | None = None
        self._waits_for_all = False
        self._received = 0
        self._began = time.monotonic()
        self._failure: BaseException | None = None

    @classmethod
    def of(cls, raw: BaseHTTPResponse) -> Self | None:
        """Return a reader for ``raw``, if it holds the body and nothing else; ``None`` if it does not."""
        answer = getattr(raw, "_fp", None)
        if not isinstance(answer, http.client.HTTPResponse) or answer.chunked:
            return None
        reader = getattr(answer, "fp", None)  # none if the body was empty
        return cls(reader) if isinstance(reader, io.BufferedReader) else None

    def readinto(self, view: memoryview) -> int:
        """Fill ``view``, or as much of it as comes within a moment.

        Returns:
            Bytes read; 0 at the end of the connection.

        Raises:
            OSError: The connection broke, or nothing came for the socket's timeout. Bytes that were received
                before are returned first, but for what came with the headers if nothing came after it.
        """
        if self._failure is not None:
            raise self._failure
        if self._waits_for_all:
            return self._wait_for_all(view)
        got = count = self._read_some(view)
        asked, deadline = len(view), time.monotonic() + _READ_SECONDS
        # One receive at a time, so that an error in the middle does not lose the bytes before it.
        while count and got < len(view) and time.monotonic() <= deadline:
            asked = len(view) - got
            try:
                count = self._read_some(view[got:])
            except FOREIGN as error:
                self._failure = error
                return got
            got += count
        self._received += got
        if asked >= _KEEPS_NOTHING:
            if self._read_sock is not None:
                self._read_some = self._read_sock
            if self._is_slow():
                self._change()
        return got

    def close(self) -> None:
        """Leave the socket as it was found."""
        if self._waits_for_all and self._sock is not None:
            self._waits_for_all = False
            with suppress(OSError):  # closed meanwhile
                self._sock.settimeout(self._timeout)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _NO_LIMIT)

    def _is_slow(self) -> bool:
        return self._received < _SLOW_BPS * (time.monotonic() - self._began)

    def _change(self) -> None:
        """Let the system fill whole buffers from now on."""
        if self._sock is None:
            return
        self._timeout = self._sock.gettimeout()
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_SECONDS)
        except OSError:  # a sandbox that refuses it, or a system with another kind of timeval
            self._sock = None
            return
        self._sock.settimeout(None)
        self._waits_for_all = True
        if not os.get_blocking(self._sock.fileno()):  # it blocks in somebody else's way, as gevent's do
            self.close()
            self._sock = None

    def _wait_for_all(self, view: memoryview) -> int:
        assert self._sock is not None
        began = time.monotonic()
        while True:
            try:
                return self._sock.recv_into(view, len(view), socket.MSG_WAITALL)
            except BlockingIOError:  # nothing for _READ_SECONDS
                if self._timeout is not None and time.monotonic() - began >= self._timeout:
                    raise TimeoutError("timed out") from None
                # Forked children share this: one that let go of the socket changed ours.
                self._sock.settimeout(None)
