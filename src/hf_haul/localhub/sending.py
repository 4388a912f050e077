"""Sends answers: with sendfile where possible, paced or broken on request."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol, cast
from urllib.parse import quote

from aiohttp import web
from multidict import CIMultiDict

from hf_haul.localhub.arriving import Arrival, ArrivingContent
from hf_haul.localhub.objects import FileContent
from hf_haul.localhub.pace import SLICE, Pace, slice_after, slice_for
from hf_haul.localhub.replies import Refusal, Reply
from hf_haul.localhub.requestlog import RequestRecord

__all__ = ["Delivery", "Sender", "abort", "open_content", "reset"]

logger = logging.getLogger(__name__)

_SMALL: Final = 64 << 10  # bytes; a body up to this size goes out in one write with its headers
_SO_MAX_PACING_RATE: Final = 47 if sys.platform == "linux" else None
_UNPACED: Final = 0xFFFFFFFF
_UNSAFE: Final = re.compile(r"[^ -~]")
_SIOCOUTQ: Final = 0x5411
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@dataclass
class Delivery:
    """The faults that occur while a body is sent; by default none.

    Attributes:
        cut_after: Body bytes after which the connection is closed as if all was well.
        reset_after: Body bytes after which it is reset.
        stall_after: Body bytes after which nothing is sent until ``released``.
        released: Ends a stall.
        trickle: Bytes per second for this answer.
        extra: Bytes sent after the announced end.
    """

    cut_after: int | None = None
    reset_after: int | None = None
    stall_after: int | None = None
    released: threading.Event | None = None
    trickle: float | None = None
    extra: bytes = b""

    @property
    def plain(self) -> bool:
        """Whether the body is sent without a fault."""
        return self == Delivery()

    def next_stop(self, sent: int) -> int | None:
        """Return the next number of body bytes at which a fault occurs."""
        stops = (self.cut_after, self.reset_after, self.stall_after)
        return min((stop for stop in stops if stop is not None and stop >= sent), default=None)


def open_content(content: FileContent) -> BinaryIO:
    """Open a file that is to be sent.

    Raises:
        Refusal: It is gone, or not what it was when its commit was made.
    """
    try:
        file = content.open()
    except PermissionError as error:
        raise Refusal(404, f"this file is not given out: {error.strerror}", "EntryNotServed") from error
    except FileNotFoundError as error:
        raise Refusal(404, "this file is no longer here", "EntryNotServed") from error
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise Refusal(503, "the server has too many files open", headers={"Retry-After": "1"}) from error
        raise Refusal(500, f"cannot read the file: {error.strerror}") from error
    stat = os.fstat(file.fileno())
    if (stat.st_size, stat.st_mtime_ns) != (content.size, content.mtime_ns):
        file.close()
        raise Refusal(500, "the file has changed on the server's disk")
    return file


def abort(transport: asyncio.WriteTransport) -> None:
    """End a connection at once, or do nothing if it is closed already.

    asyncio's own ``abort`` raises AttributeError for a transport that was closed with bytes still
    to send and has sent them since.
    """
    with contextlib.suppress(AttributeError):
        transport.abort()


def reset(transport: asyncio.Transport) -> None:
    """End a connection with RST, which discards what is not sent yet."""
    if not transport.is_closing():
        sock = transport.get_extra_info("socket")
        layout = "hh" if sys.platform == "win32" else "ii"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(layout, 1, 0))
    abort(transport)


class Sender:
    """Sends replies; belongs to the hub's event loop.

    Args:
        pace: The speed limits; they may change at any time.
        touch: Called when something was sent.
    """

    def __init__(self, pace: Pace, touch: Callable[[], None]) -> None:
        self._pace = pace
        self._touch = touch
        self.body_bytes = 0

    async def send(
        self, request: web.BaseRequest, reply: Reply, delivery: Delivery, record: RequestRecord
    ) -> web.StreamResponse:
        """Send a reply, and keep ``record`` up to date.

        A client that leaves ends it quietly; ``record.complete`` stays false.
        """
        record.status = reply.status
        record.length = reply.length
        response: web.StreamResponse = web.Response(status=reply.status)
        file: BinaryIO | None = None
        arrival: Arrival | None = None
        try:
            if isinstance(reply.content, ArrivingContent) and request.method != "HEAD":
                arrival, file = await _begin(reply, reply.content)
            elif isinstance(reply.content, FileContent) and request.method != "HEAD":
                file = open_content(reply.content)
            if arrival is not None:
                record.arrived = True
                file = await _first_bytes(arrival, reply)
            response = self._response(request, reply, file, delivery)
            with _taking(request):
                await response.prepare(request)
            record.first_byte = time.monotonic()
            self._touch()
            whole = await self._body(request, response, reply, file, delivery, record, arrival)
            if whole:
                with _taking(request):
                    await response.write_eof()
            record.complete = whole
        except ConnectionError:
            _abort(request)
        except Refusal as refusal:
            if record.first_byte is None:
                raise
            # A body that ends early is all that can be said of it now.
            logger.info("%s of %s: %s", record.path, record.repo_id, refusal.message)
            _abort(request)
        finally:
            if arrival is not None:
                arrival.close()
            elif file is not None:
                file.close()
        return response

    def _response(
        self, request: web.BaseRequest, reply: Reply, file: BinaryIO | None, delivery: Delivery
    ) -> web.StreamResponse:
        headers = _safe(reply.headers)
        length = reply.length if reply.declared is None else reply.declared
        simple = delivery.plain and self._pace_of(reply).unlimited and not reply.patches and not reply.chunked
        if simple and request.method != "HEAD" and length == reply.length <= _SMALL:
            body = _read(reply, file, reply.start, reply.length)
            return web.Response(status=reply.status, headers=headers, body=body)
        response = web.StreamResponse(status=reply.status, headers=headers)
        if reply.chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = length
        return response

    def _pace_of(self, reply: Reply) -> Pace:
        return self._pace if reply.paced else Pace()

    async def _body(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        reply: Reply,
        file: BinaryIO | None,
        delivery: Delivery,
        record: RequestRecord,
        arrival: Arrival | None,
    ) -> bool:
        """Send the body; return whether the answer ended as it should."""
        if request.method == "HEAD" or reply.status == 304:
            return True
        if isinstance(response, web.Response):
            self._count(record, reply.length)
            return True
        line = _Line(request, response, reply, file, self._pace_of(reply), delivery)
        sent = 0
        while True:
            stop = delivery.next_stop(sent)
            end = reply.length if stop is None else min(stop, reply.length)
            while sent < end:
                ready = end
                if arrival is not None:
                    ready = (await arrival.ready(reply.start + sent, reply.start + end))[1] - reply.start
                count = await line.send_slice(sent, ready - sent)
                self._count(record, count)
                sent += count
            if stop is None or stop > reply.length:
                break
            if not await line.stop_at(stop):
                return False
        if delivery.extra:
            line.transport.write(delivery.extra)
            line.transport.close()
            return False
        return True

    def _count(self, record: RequestRecord, nbytes: int) -> None:
        record.body_bytes += nbytes
        self.body_bytes += nbytes


async def _begin(reply: Reply, content: ArrivingContent) -> tuple[Arrival | None, BinaryIO | None]:
    """Open the body of a reply, and put it into the reply, if it is here; or else begin to fetch it.

    What goes between the look for it and the opening, to make room for something else, is looked for again.

    Raises:
        Refusal: It cannot be had.
    """
    for last in (False, True):
        found: FileContent | Arrival | None = content.at_once()
        if found is None:
            found = await asyncio.get_running_loop().run_in_executor(None, content.begin)
        if isinstance(found, Arrival):
            return found, None
        reply.content = found
        try:
            return None, open_content(found)
        except Refusal:
            if last:
                raise
    raise AssertionError


async def _first_bytes(arrival: Arrival, reply: Reply) -> BinaryIO:
    """Wait for the first bytes of a body, or for all of a small one, and return the file that holds them.

    Raises:
        Refusal: They will not come.
    """
    try:
        file, ready = await arrival.ready(reply.start, reply.stop)
        while ready < reply.stop and reply.length <= _SMALL:
            _, ready = await arrival.ready(ready, reply.stop)
    except BaseException:
        arrival.close()
        raise
    return file


class _Line:
    """One answer that is being sent over one connection."""

    def __init__(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        reply: Reply,
        file: BinaryIO | None,
        pace: Pace,
        delivery: Delivery,
    ) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        self.transport: asyncio.Transport = transport
        self._check_open()
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._response = response
        self._reply = reply
        self._file = file
        self._pace = pace
        self._delivery = delivery
        self._kernel_rate: float | None = None
        self._due = self._loop.time()
        self._slice = SLICE
        secure = transport.get_extra_info("sslcontext") is not None
        self._sendfile = file is not None and not (secure or reply.patches or reply.chunked)

    async def send_slice(self, sent: int, left: int) -> int:
        """Send some of the ``left`` bytes that follow the first ``sent``; return how many."""
        self._check_open()
        rate = self._pace.per_connection
        paced_by_kernel = self._pace_in_kernel(rate)
        trickle = self._delivery.trickle
        slow = trickle if trickle is not None else None if paced_by_kernel else rate
        most = self._slice if self._sendfile else SLICE  # else it is in memory meanwhile
        count = min(left, slice_for(rate, most), slice_for(slow, most), self._pace.turn)
        await self._wait_for_turn(count, slow)
        self._check_open()
        offset, began = self._reply.start + sent, self._loop.time()
        with _taking(self._request):
            count = await self._hand_over(offset, count)
        self._slice = slice_after(self._slice, self._loop.time() - began, sent + count)
        return count

    async def _hand_over(self, offset: int, count: int) -> int:
        if self._file is None or not self._sendfile:
            await self._response.write(_read(self._reply, self._file, offset, count))
            return count
        try:
            await self._loop.sendfile(self.transport, self._file, offset, count, fallback=False)
        except (NotImplementedError, asyncio.SendfileNotAvailableError):
            self._sendfile = False
            return 0
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.EBADF, errno.ESHUTDOWN, errno.ETIMEDOUT):
                raise ConnectionResetError("the client has gone") from error
            raise
        except RuntimeError as error:
            # asyncio's word for a transport that began to close meanwhile.
            raise ConnectionResetError("the client has gone") from error
        return count

    def _check_open(self) -> None:
        """Raise if the connection is closed: a TLS transport that was closed twice cannot be asked."""
        if self.transport.is_closing():
            raise ConnectionResetError("the client has gone")

    def _pace_in_kernel(self, rate: float | None) -> bool:
        """Let the kernel keep to ``rate``; return whether it does."""
        if rate == self._kernel_rate:
            return rate is not None
        sock = self.transport.get_extra_info("socket")
        if _SO_MAX_PACING_RATE is None or sock is None:
            return False
        value = struct.pack("=I", _UNPACED if rate is None else max(1, min(int(rate), _UNPACED)))
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, value)
        except OSError:
            return False
        if rate is not None:
            # A small buffer keeps the count of bytes sent close to what really left.
            nbytes = max(32 << 10, min(int(rate / 10), 1 << 20))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, nbytes)
        self._kernel_rate = rate
        return rate is not None

    async def _wait_for_turn(self, count: int, rate: float | None) -> None:
        now = self._loop.time()
        wait = self._pace.reserve_total(count, now)
        if rate is not None:
            wait = max(wait, self._due - now)
            self._due = max(self._due, now) + count / rate
        if wait > 0:
            await asyncio.sleep(wait)

    async def stop_at(self, stop: int) -> bool:
        """Apply the faults planned for this point; return whether to go on."""
        plan = self._delivery
        if plan.stall_after == stop:
            plan.stall_after = None
            await self._stall()
            return True
        if plan.reset_after == stop:
            await self._drain()
            reset(self.transport)
        else:
            self.transport.close()
        return False

    async def _stall(self) -> None:
        released = self._delivery.released
        while released is not None and not released.is_set():
            self._check_open()
            # Whoever releases it is another thread, and a client that leaves gives no signal.
            await asyncio.sleep(0.02)

    async def _drain(self) -> None:
        """Wait, two seconds at most, until the client's kernel has all that was sent."""
        self._check_open()
        sock = self.transport.get_extra_info("socket")
        for _attempt in range(1000):
            self._check_open()
            if not self.transport.get_write_buffer_size() and not _unacknowledged(sock):
                break
            await asyncio.sleep(0.002)


class _Recipient(Protocol):
    """The connection of an answer: since when its client has to take more, in the loop's seconds."""

    taking_since: float | None


@contextlib.contextmanager
def _taking(request: web.BaseRequest) -> Iterator[None]:
    """Note that a client has to take what is sent, before more can be."""
    connection = cast("_Recipient", request.protocol)
    connection.taking_since = asyncio.get_running_loop().time()
    try:
        yield
    finally:
        connection.taking_since = None


def _unacknowledged(sock: socket.socket | None) -> int:
    if sys.platform != "linux" or sock is None:
        return 0
    import fcntl  # not on Windows
    import termios

    assert termios.TIOCOUTQ == _SIOCOUTQ
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), _SIOCOUTQ, b"\0\0\0\0"))[0])


def _safe(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """Return headers in which nothing from a client can end a line or break the encoding."""
    return CIMultiDict(
        (name, _UNSAFE.sub(lambda match: quote(match[0], errors="surrogateescape"), value))
        for name, value in headers.items()
    )


def _read(reply: Reply, file: BinaryIO | None, offset: int, count: int) -> bytes:
    if file is None:
        data = reply.content.read(offset, count)
    else:
        file.seek(offset)
        data = file.read(count)
    hits = [at for at in reply.patches if offset <= at < offset + len(data)]
    if hits:
        changed = bytearray(data)
        for at in hits:
            changed[at - offset] ^= reply.patches[at]
        data = bytes(changed)
    return data


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        abort(request.transport)
