"""The connections of a hub: no more than the process has descriptors for, and silent ones are closed.

asyncio's own accepting goes round in circles, and writes to the log each time, when the process has no
descriptor left. Here a hub knows how many connections it can serve, each with a file. When there are as many,
the one that has been idle for longest makes room for the next, or else one whose client lets it wait: for the
body of a request, or to take more of an answer. Only while all are busy does a new one wait, in the kernel's
queue.

A client that takes its time to say what it wants (slowloris) is cut off, too, and one that takes nothing of
its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

from hf_haul.localhub.sending import abort
from hf_haul.localhub.timings import DEFAULT_TIMINGS, HubTimings

__all__ = ["Connections", "listen", "most_connections"]

logger = logging.getLogger(__name__)
_requests = logging.getLogger(f"{__name__}.requests")

_BACKLOG: Final = 1024  # connections that the kernel keeps for us
_MOST: Final = 10_000
_LEAST: Final = 8
_RESERVED: Final = (
    64  # descriptors for all else: sockets that listen, files that are hashed, what Python holds
)
_PER_CONNECTION: Final = 2  # descriptors: itself, and the file that it is sent
_SHORTAGE_WAIT: Final = 0.5  # seconds
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Discreet(logging.Filter):
    """Logs a request that cannot be parsed at debug level, since any client could fill a log with them.

    What it holds is left out, which aiohttp quotes: a token, a signature.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
            record.exc_info = None
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            return _requests.isEnabledFor(logging.DEBUG)
        return True


_requests.addFilter(_Discreet())


def most_connections() -> int:
    """Return how many connections this process has descriptors for."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are no descriptors
        return _MOST
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _MOST
    return max(_LEAST, min((limit - _RESERVED) // _PER_CONNECTION, _MOST))


def listen(host: str, port: int, stalled: float = DEFAULT_TIMINGS.stalled) -> list[socket.socket]:
    """Open sockets that listen on all addresses of a host, on one port.

    Args:
        host: A name or an address; ``""`` for every address of this machine.
        port: The port; 0 for any free one.
        stalled: See `HubTimings`.

    Raises:
        OSError: The port is taken, or the host is none of ours.
    """
    made: list[socket.socket] = []
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            chosen = made[0].getsockname()[1] if made else port
            try:
                made.append(_bound(family, kind, protocol, (address[0], chosen, *address[2:]), stalled))
            except OSError as error:
                # A name such as localhost may have an address of a kind that this machine does not have.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or len(found) == 1:
                    message = f"cannot listen at address {address[0]}, port {chosen}: {error.strerror}"
                    raise OSError(error.errno, message) from error
                logger.debug("not listening on %s port %s: %s", address[0], chosen, error)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    if not made:
        raise OSError(errno.EADDRNOTAVAIL, f"cannot listen on {host}: it is no address of this machine")
    return made


def _bound(family: int, kind: int, protocol: int, address: Any, stalled: float) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        if hasattr(socket, "AF_UNIX"):  # on Windows it would let two programs have one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted connections inherit it; only Linux has it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stalled * 1000))
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.settimeout(0)
    except BaseException:
        sock.close()
        raise
    return sock


class _Connection(web.RequestHandler):
    """One connection, which reports when it answers a request and when it waits for one."""

    __slots__ = (
        "_handshake", "_keeper", "_loop_time", "_request", "_task", "header_since", "idle_since", "taking_since",
    )  # fmt: skip

    def __init__(self, keeper: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._keeper = keeper
        self._loop_time = options["loop"].time
        self._handshake = asyncio.current_task()
        self.idle_since: float | None = None  # None while it is busy
        self.header_since: float | None = None  # None unless a request has begun to come in
        self.taking_since: float | None = None  # None unless its client has to take more of an answer
        self._request: web.BaseRequest | None = None  # that is being answered
        self._task: asyncio.Task[Any] | None = None  # that answers it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._keeper.note_made(self._handshake)
        self._handshake = None
        self.rest()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._keeper.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.idle_since is not None and self.header_since is None:
            self.header_since = self._loop_time()
        super().data_received(data)

    def work(self, request: web.BaseRequest) -> None:
        """Note that a request has come and is being answered by the current task."""
        self.idle_since = self.header_since = None
        self._request, self._task = request, asyncio.current_task()
        self._keeper.note_busy(self)

    def rest(self) -> None:
        """Note that the connection waits for a request."""
        self.idle_since, self.header_since, self.taking_since = self._loop_time(), None, None
        self._request = self._task = None
        self._keeper.note_idle(self)

    def waits_for_client(self, now: float) -> bool:
        """Return whether its request is not whole yet, or its client takes no more of the answer."""
        if self._request is not None and not self._request.content.is_eof():
            return True
        return self.taking_since is not None and now - self.taking_since > self._keeper.timings.taking

    def end(self) -> None:
        """End it at once."""
        if self._task is None:
            _abort(self)
        else:  # it ends the connection: one that is lost under a running sendfile leaves that waiting for good
            self._task.cancel()

    def is_overdue(self, now: float) -> bool:
        """Return whether the client has sent nothing, or an unfinished request, for too long."""
        slow = self.header_since is not None and now - self.header_since > self._keeper.timings.header
        return slow or (
            self.idle_since is not None and now - self.idle_since > self._keeper.timings.keep_alive
        )


class Connections:
    """Accepts the connections of a hub. It lives in the hub's event loop.

    Args:
        most: How many there may be at once.
        tls: For https.
        timings: How long to wait for clients.
    """

    def __init__(
        self, most: int, tls: ssl.SSLContext | None = None, timings: HubTimings = DEFAULT_TIMINGS
    ) -> None:
        self.timings = timings
        self._most = most
        self._tls = tls
        self._idle: dict[_Connection, None] = {}  # the one that has been idle for longest first
        self._busy: dict[_Connection, None] = {}  # the one that has been busy for longest first
        self._ending: set[_Connection] = set()
        self._shaking_hands: dict[
            asyncio.Task[None], float
        ] = {}  # since when; the one that began first, first
        self._unbegun: set[socket.socket] = set()  # accepted; nobody else has them yet
        self._accepting: list[asyncio.Task[None]] = []
        self._servers: list[web.Server] = []
        self._sockets: list[socket.socket] = []
        self._changed = asyncio.Event()
        self._look: asyncio.TimerHandle | None = None

    def serve(self, sockets: list[socket.socket], handler: _Handler) -> None:
        """Accept connections on these sockets and answer them with ``handler``."""
        loop = asyncio.get_running_loop()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            connection = request.protocol
            assert isinstance(connection, _Connection)
            connection.work(request)
            try:
                return await handler(request)
            except asyncio.CancelledError:
                _abort(connection)
                raise
            finally:
                if connection.transport is not None:
                    connection.rest()

        server = web.Server(handle)
        self._servers.append(server)

        def make() -> _Connection:
            return _Connection(
                self,
                server,
                loop=loop,
                logger=_requests,
                access_log=None,
                keepalive_timeout=self.timings.keep_alive,
                auto_decompress=False,  # a gigabyte of nothing is a small request, and a second for all others
            )

        self._sockets += sockets
        self._accepting += [loop.create_task(self._accept(sock, make)) for sock in sockets]

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy) + len(self._ending)

    async def close(self) -> None:
        """Stop listening, and end every connection at once."""
        tasks = [*self._accepting, *self._shaking_hands]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        if self._look is not None:
            self._look.cancel()
        for connection in [*self._idle, *self._busy]:
            _abort(connection)
        for server in self._servers:
            await server.shutdown(0.2)

    # -- accepting

    async def _accept(self, listener: socket.socket, make: Callable[[], _Connection]) -> None:
        loop = asyncio.get_running_loop()
        told = 0.0
        while True:
            try:
                sock = await _next(listener)
            except OSError as error:
                if error.errno in _SHORTAGES:
                    if loop.time() > told:
                        logger.warning("no connection can be accepted: %s", error.strerror)
                        told = loop.time() + 60
                    self._end_longest_idle()
                # Else the client was gone again.
                await asyncio.sleep(_SHORTAGE_WAIT if error.errno in _SHORTAGES else 0.01)
                continue
            try:
                await self._room()
            except BaseException:
                sock.close()
                raise
            task = loop.create_task(self._begin(sock, make))
            self._shaking_hands[task] = loop.time()
            self._unbegun.add(sock)
            task.add_done_callback(functools.partial(self._end_of_handshake, sock))

    def _end_of_handshake(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        if sock in self._unbegun:  # a task that is cancelled before its first step does nothing at all
            self._unbegun.remove(sock)
            sock.close()
        self._shaking_hands.pop(task, None)
        self._changed.set()

    async def _room(self) -> None:
        """Wait until there is room for one more connection; close the longest silent one to make it."""
        while len(self) + len(self._shaking_hands) >= self._most:
            if not (
                self._ending
                or self._end_longest_idle()
                or self._end_slow_handshake()
                or self._end_longest_waiting()
            ):
                logger.debug("all %s connections are busy", self._most)
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self.timings.handshake_grace)

    def _end_slow_handshake(self) -> bool:
        slow = asyncio.get_running_loop().time() - self.timings.handshake_grace
        task = next((task for task, start in self._shaking_hands.items() if start < slow), None)
        return task is not None and task.cancel()

    def _end_longest_idle(self) -> bool:
        return self._end(next(iter(self._idle), None))

    def _end_longest_waiting(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._end(next((each for each in self._busy if each.waits_for_client(now)), None))

    def _end(self, connection: _Connection | None) -> bool:
        if connection is None:
            return False
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)
        self._ending.add(connection)  # it counts until it is gone
        connection.end()
        return True

    async def _begin(self, sock: socket.socket, make: Callable[[], _Connection]) -> None:
        self._unbegun.discard(sock)
        loop = asyncio.get_running_loop()
        seconds = None if self._tls is None else self.timings.handshake
        try:
            await loop.connect_accepted_socket(make, sock, ssl=self._tls, ssl_handshake_timeout=seconds)
        except OSError as error:  # those of TLS, too; the socket is the loop's to close
            logger.debug("a connection failed before its first request: %s", error)

    # -- what connections say

    def note_made(self, handshake: asyncio.Task[None] | None) -> None:
        """Note that a handshake has led to a connection, which counts from now on instead of it."""
        if handshake is not None:
            self._shaking_hands.pop(handshake, None)

    def note_idle(self, connection: _Connection) -> None:
        """Note that a connection waits for a request."""
        if connection in self._ending:
            return
        self._busy.pop(connection, None)
        self._idle.pop(connection, None)
        self._idle[connection] = None
        self._changed.set()
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(self.timings.look, self._end_overdue)

    def note_busy(self, connection: _Connection) -> None:
        """Note that a connection has a request to answer."""
        self._idle.pop(connection, None)
        if connection.transport is not None and connection not in self._ending:
            self._busy[connection] = None

    def forget(self, connection: _Connection) -> None:
        """Note that a connection has ended."""
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)
        self._ending.discard(connection)
        self._changed.set()

    def _end_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [each for each in self._idle if each.is_overdue(now)]:
            _abort(connection)
        self._look = loop.call_later(self.timings.look, self._end_overdue) if len(self) else None


async def _next(listener: socket.socket) -> socket.socket:
    """Accept a connection. If it is cancelled meanwhile, none is accepted: asyncio's own loses one then."""
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":  # pragma: no cover - its loop has no readers
        return (await loop.sock_accept(listener))[0]
    while True:
        ready = asyncio.Event()
        loop.add_reader(listener, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(listener)
        with contextlib.suppress(BlockingIOError, InterruptedError):  # it is gone again
            sock, _ = listener.accept()
            sock.settimeout(0)
            return sock


def _abort(connection: _Connection) -> None:
    if connection.transport is not None:
        with contextlib.suppress(AttributeError):
            abort(connection.transport)
