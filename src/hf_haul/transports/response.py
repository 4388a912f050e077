"""The answer to one GET, and its body, read in order by one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, NoReturn

from urllib3.response import BaseHTTPResponse

from hf_haul.errors import ConnectionFailedError, TransferError
from hf_haul.finalizers import defer
from hf_haul.transports.mounted import GivenAnswer
from hf_haul.transports.network import NetworkOptions
from hf_haul.transports.plain import PlainAnswer
from hf_haul.transports.receiving import DirectReader
from hf_haul.transports.request import RECEIVING, InterruptibleRequest
from hf_haul.transports.translation import FOREIGN, FOREIGN_IN_BODY, raise_translated
from hf_haul.urls import HttpUrl

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["DECODABLE", "PooledResponse"]

#: What can be undone while a body is read.
DECODABLE: Final = frozenset({"gzip", "x-gzip", "deflate"})

#: Seconds that the words of a refusal may take to come.
_HEAD_SECONDS: Final = 5.0
#: A rest of a body up to this size is read to keep its connection; beyond it a new connection is cheaper.
_WORTH_DRAINING: Final = 64 << 10
#: Read at a time where the body has to be copied anyway.
_PLAIN_READ: Final = 64 << 10


class PooledResponse:
    """The answer to one GET, and its body, read in order by one thread.

    A context manager: leaving it releases the connection.

    Attributes:
        status: The HTTP status.
        headers: Names in any case.
        asked: What was asked for.
        length: Bytes of the body as announced, ``None`` if it was not.
        received: Bytes of the body so far.
        seconds_to_headers: From sending the request (and connecting, where that was needed) to the headers.
        reused: Whether the connection had served before.
    """

    __slots__ = (
        "_call", "_decode", "_direct", "_done", "_finish_with", "_options", "_raw", "asked", "headers", "length",
        "received", "reused", "seconds_to_headers", "status",
    )  # fmt: skip

    def __init__(
        self,
        raw: BaseHTTPResponse | PlainAnswer | GivenAnswer,
        url: HttpUrl,
        call: InterruptibleRequest,
        options: NetworkOptions,
        finish_with: Callable[[int, bool], None],
        *,
        decode: bool,
        seconds_to_headers: float,
    ) -> None:
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.asked = url
        self.received = 0
        self.seconds_to_headers = seconds_to_headers
        self.reused = call.reused
        self.length: int | None = getattr(raw, "length_remaining", None)
        self._raw = raw
        self._call = call
        self._options = options
        self._finish_with = finish_with
        self._done = False
        self._decode = (
            decode
            and not isinstance(raw, (PlainAnswer, GivenAnswer))
            and raw.headers.get("Content-Encoding", "").strip().lower() not in {"", "identity"}
        )
        self._direct = None if self._decode or self.length is None else DirectReader.of(raw)
        call.enter(RECEIVING)
        if self.length == 0:
            self._finish(failed=False)

    @property
    def url(self) -> str:
        """What was asked for, as text."""
        return str(self.asked)

    def leave_encoded(self) -> None:
        """Keep the bytes undecoded, whatever ``Content-Encoding`` says; only before the first is read."""
        if self._decode and not self._done:
            self._decode = False
            self._direct = None if self.length is None else DirectReader.of(self._raw)

    def readinto(self, buffer: memoryview) -> int:
        """Read into the start of ``buffer``: all of it, or what came within a moment.

        Returns:
            Bytes read; 0 at the clean end of the body, and only there.

        Raises:
            ConnectionFailedError: The connection broke, or the body is shorter than announced.
            StopRequestedError: The cancel token that opened this answer was set.
        """
        if self._done or not len(buffer):
            return 0
        try:
            count = self._read(buffer)
        except FOREIGN_IN_BODY as error:
            self._fail(error)
        if self._call.woken and not count:  # a shutdown looks like the end
            self._fail(None)
        self.received += count
        if count == 0:
            self._check_complete()
        if count == 0 or (self.received == self.length and self._direct is not None):
            self._finish(failed=False)
        return count

    def _read(self, buffer: memoryview) -> int:
        if self._direct is not None and self.length is not None:
            return self._direct.readinto(buffer[: self.length - self.received])
        assert not isinstance(self._raw, PlainAnswer)  # that has a length, and a direct reader
        data = self._raw.read1(min(len(buffer), _PLAIN_READ), decode_content=self._decode) or b""
        buffer[: len(data)] = data
        return len(data)

    def _check_complete(self) -> None:
        if self.length is None or self._decode or self.received == self.length:
            return
        error = ConnectionFailedError(
            f"{self._call.host}: cut short after {self.received} of {self.length} bytes"
        )
        self._finish(failed=True)
        raise error

    def _fail(self, error: BaseException | None) -> NoReturn:
        self._finish(failed=True)
        if error is None:
            self._call.raise_if_woken()
            raise AssertionError("only a woken call fails without an error")
        raise_translated(error, self._call, self._options)

    def head(self, nbytes: int = 16 << 10, *, seconds: float = _HEAD_SECONDS) -> bytes:
        """Return up to ``nbytes`` from the start of the body, for messages and not for files.

        Args:
            nbytes: How much.
            seconds: How long it may take to come; then it is cut short.

        Raises:
            StopRequestedError: The cancel token that opened this answer was set.
        """
        data = bytearray(nbytes)
        view, filled = memoryview(data), 0
        deadline = time.monotonic() + seconds
        with suppress(TransferError):
            while filled < nbytes and (count := self.readinto(view[filled:])):
                filled += count
                if time.monotonic() >= deadline:  # it drips
                    break
        return bytes(view[:filled])

    def drain(self) -> None:
        """Release the connection; read a short rest of the body first, so that it can serve again.

        Raises:
            StopRequestedError: The cancel token that opened this answer was set.
        """
        rest = None if self.length is None else self.length - self.received
        if isinstance(self._raw, PlainAnswer) and rest == len(self._raw.rest):
            self.received += rest  # it came with the head
        try:
            if not self._done and self.received != self.length and (rest is None or rest <= _WORTH_DRAINING):
                self.head(_WORTH_DRAINING + 1)
        finally:
            self.release()

    def release(self) -> None:
        """Release the connection, for reuse if the body was read to its end; else close it."""
        self._finish(failed=False)

    def close(self) -> None:
        """Do the same as :meth:`release`."""
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        # Dropped without a release: its connection and its slot would be lost for good.
        if not getattr(self, "_done", True):
            defer(self.release)

    def _finish(self, *, failed: bool) -> None:
        if self._done:
            return
        self._done = True
        self._call.end()
        raw = self._raw
        whole = self._direct is not None and self.received == self.length and not failed
        if isinstance(raw, PlainAnswer):
            if not whole:
                raw.close()
        else:
            with suppress(*FOREIGN):
                if whole:  # all bytes are in: close the reader, not the connection
                    raw._fp.close()  # type: ignore[union-attr]  # noqa: SLF001  tested for by DirectReader.of
                elif getattr(raw, "_connection", True) is not None:  # not put back by urllib3 at its end
                    raw.close()
        raw.release_conn()
        self._finish_with(self.received, failed)
