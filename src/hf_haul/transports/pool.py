"""Connections: limits that hold, sessions per thread, and calls that can be woken in every phase.

Three layers, from the ground:

* ``_Call`` is one request as its halt sees it. Whatever the thread blocks in (a place in the pool, a name, a
  connect, a handshake, headers, the body), the call knows how to end it from another thread.
* ``_Places`` counts connections, busy and idle ones alike, and hands idle ones to whoever needs them, so that
  a redirect from one host to another does not cost each thread a connection to both. Waiters are served in
  the order they came, and a freed place is handed over, not fought for.
* ``ConnectionPool`` is the public face: one ``requests.Session`` per thread over the shared places.

We chose ``requests``' adapter below ``Session.send``: cookies, ``.netrc`` and redirects are no use to a download and
cost a third of a small request. What to read first: ``ConnectionPool.open`` and ``PooledResponse.readinto``.
"""

from __future__ import annotations

import errno
import http.client
import logging
import os
import selectors
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from urllib.parse import SplitResult, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    HTTPError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)
from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout, create_urllib3_context

from hf_haul.errors import CertificateError, ConnectionFailedError, HaltedError, TransferError
from hf_haul.halt import Halt

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["ConnectionPool", "PooledResponse", "redact"]

logger = logging.getLogger(__name__)

#: Seconds after which the next address of a host is tried beside the last one (RFC 8305).
_NEXT_ADDRESS_AFTER: Final = 0.25
#: A read that has something returns it after this many seconds, full or not: progress and limits act on it.
_READ_SECONDS: Final = 0.2
#: A rest of a body up to this size is read to keep its connection; beyond it a new connection is cheaper.
_WORTH_DRAINING: Final = 64 << 10
#: Read at a time where the body has to be copied anyway.
_PLAIN_READ: Final = 64 << 10
_MAX_ROUTES: Final = 256
_IN_PROGRESS: Final = frozenset(
    {errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)}
)

Address = tuple[Any, ...]


def redact(url: str) -> str:
    """``url`` without what may be secret: no user, no password, no query, no fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<unreadable URL>"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class _DialTimeoutError(ConnectTimeoutError):
    """No connection in time; urllib3's own class is also the base of other failures to connect."""


class _WokenError(OSError):
    """The blocking call was ended from another thread."""


class _NoPlaceError(EmptyPoolError):
    """No place was taken: the wait for it was ended, or the pool is closed.

    urllib3 gives a place back after any other error, and must not after this one.
    """


# ---- one request, as its halt sees it


class _Call:
    """One request, from the wait for a place to the end of the body.

    Locking: ``_lock`` guards ``_interrupt`` and ``_over``. It is a leaf but for the interrupts called under it,
    which are short: a ``shutdown``, an ``Event.set``, a byte into a socket pair. Holding it makes sure that
    a late waker never meets a socket that was closed, or that serves somebody else by now.
    """

    __slots__ = (
        "_interrupt", "_lock", "_over", "_waking", "halt", "host", "new", "phase", "pool_closed", "reused",
        "route", "since", "woken",
    )  # fmt: skip

    def __init__(self, halt: Halt, host: str) -> None:
        self.halt = halt
        self.host = host
        self.route: _Route | None = None
        self.new = False  # whether an idle connection will not do
        self.reused = False  # whether the connection had served before
        self.woken = False
        self.pool_closed = False
        self.phase = "starting"
        self.since = time.monotonic()
        self._lock = threading.Lock()
        self._interrupt: Callable[[], object] | None = None
        self._over = False
        self._waking: AbstractContextManager[None] = halt.waking(self.wake)
        self._waking.__enter__()

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.since = time.monotonic()

    def wake(self) -> None:
        with self._lock:
            if self._over:
                return
            self.woken = True
            if self._interrupt is not None:
                self._interrupt()

    def interrupt_with(self, interrupt: Callable[[], object] | None) -> None:
        with self._lock:
            self._interrupt = interrupt
            if self.woken and interrupt is not None:
                interrupt()

    def attach(self, sock: Any) -> None:
        """From now on the thread blocks in ``sock``, if it blocks."""
        self.interrupt_with(partial(_shut_down, sock))

    @contextmanager
    def blocking(self, interrupt: Callable[[], object]) -> Iterator[None]:
        self.interrupt_with(interrupt)
        try:
            yield
        finally:
            self.interrupt_with(None)
        if self.woken:
            raise _WokenError("interrupted")

    def end(self) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
            self._interrupt = None
        self._waking.__exit__(None, None, None)

    def seconds(self) -> float:
        return time.monotonic() - self.since

    def raise_if_woken(self, cause: BaseException | None = None) -> None:
        """Raise what a wake means."""
        if not self.woken:
            return
        if self.halt.is_set():
            raise HaltedError from cause
        if self.pool_closed:
            raise TransferError("the connection pool was closed") from cause
        raise ConnectionFailedError(f"{self.host}: interrupted while {self.phase}") from cause


def _shut_down(sock: Any) -> None:
    """End whatever another thread does with ``sock``, without freeing its descriptor."""
    while not isinstance(sock, socket.socket):  # TLS inside TLS, to a proxy
        sock = sock.socket
    with suppress(OSError):
        # Not SSLSocket.shutdown: that drops the TLS layer, and what the kernel still holds would then be
        # read as if it were plain bytes of the body.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Active(threading.local):
    """The call a thread is opening; ``None`` when a session is used without a call."""

    call: _Call | None = None


_active = _Active()


# ---- connecting


def _look_up(host: str, port: int, seconds: float | None, call: _Call | None) -> list[Address]:
    """Addresses of ``host``. A resolver cannot be interrupted, so it runs beside us."""
    look_up = partial(socket.getaddrinfo, host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
    with suppress(socket.gaierror):
        return list(look_up(flags=socket.AI_NUMERICHOST))
    if call is None:
        return list(look_up())
    done = threading.Event()
    answer: list[list[Address] | OSError] = []

    def run() -> None:
        try:
            answer.append(list(look_up()))
        except (OSError, UnicodeError) as error:
            answer.append(error if isinstance(error, OSError) else socket.gaierror(str(error)))
        done.set()

    call.enter("resolving its name")
    threading.Thread(target=run, name="hf-haul-resolver", daemon=True).start()
    with call.blocking(done.set):
        done.wait(seconds)
    if not answer:
        raise TimeoutError("name resolution timed out")
    if isinstance(answer[0], OSError):
        raise answer[0]
    return answer[0]


def _interleaved(addresses: list[Address]) -> deque[Address]:
    """The addresses with their families taking turns, the resolver's first choice first (RFC 8305)."""
    first = [a for a in addresses if a[0] == addresses[0][0]]
    others = [a for a in addresses if a[0] != addresses[0][0]]
    mixed: deque[Address] = deque()
    for i in range(max(len(first), len(others))):
        mixed.extend(first[i : i + 1] + others[i : i + 1])
    return mixed


class _Dialer:
    """Connects to the first of several addresses that answers; can be interrupted."""

    def __init__(self, addresses: list[Address], options: Any, source: Any) -> None:
        self._waiting = _interleaved(addresses)
        self._options = options
        self._source = source
        self._selector = selectors.DefaultSelector()
        self._trying: set[socket.socket] = set()
        self._woken, self._waker = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._error: OSError = OSError("the name has no address")

    def interrupt(self) -> None:
        self._waker.send(b"\0")

    def dial(self, seconds: float | None) -> socket.socket:
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError("timed out")
            if self._waiting:
                winner = self._try(self._waiting.popleft())
                if winner is not None:
                    return winner
                pause = _NEXT_ADDRESS_AFTER if self._trying else 0.0
            elif self._trying:
                pause = None
            else:
                raise self._error
            if deadline is not None:
                pause = deadline - now if pause is None else min(pause, deadline - now)
            winner = self._select(pause)
            if winner is not None:
                return winner

    def _try(self, address: Address) -> socket.socket | None:
        family, kind, protocol, _, target = address
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, protocol)
            for option in self._options or ():
                sock.setsockopt(*option)
            sock.settimeout(0.0)
            if self._source:
                sock.bind(self._source)
            code = sock.connect_ex(target)
            if code not in _IN_PROGRESS and code != 0:
                raise OSError(code, os.strerror(code))
        except OSError as error:
            self._error = error
            if sock is not None:
                sock.close()
            return None
        if code == 0:
            return sock
        self._trying.add(sock)
        self._selector.register(sock, selectors.EVENT_WRITE)
        return None

    def _select(self, pause: float | None) -> socket.socket | None:
        """Wait for an attempt to end, well or not, for ``pause`` seconds at the most."""
        for key, _ in self._selector.select(pause):
            sock = cast("socket.socket", key.fileobj)
            if sock is self._woken:
                raise _WokenError("interrupted")
            self._selector.unregister(sock)
            self._trying.remove(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return sock
            sock.close()
            self._error = OSError(code, os.strerror(code))
        return None

    def close(self) -> None:
        for sock in (*self._trying, self._woken, self._waker):
            sock.close()
        self._selector.close()


def _dial(
    host: str, port: int, seconds: float | None, source: Any, options: Any, call: _Call | None
) -> socket.socket:
    started = time.monotonic()
    addresses = _look_up(host.strip("[]"), port, seconds, call)
    if call is not None:
        call.enter("connecting")
    left = None if seconds is None else max(0.001, seconds - (time.monotonic() - started))
    dialer = _Dialer(addresses, options, source)
    try:
        if call is None:
            sock = dialer.dial(left)
        else:
            with call.blocking(dialer.interrupt):
                sock = dialer.dial(left)
    finally:
        dialer.close()
    sock.settimeout(seconds)
    return sock


class _Watched(HTTPConnection):
    """A connection that tells its call what the thread blocks in."""

    call: _Call | None = None

    def connect(self) -> None:
        super().connect()
        if self.call is not None:
            self.call.attach(self.sock)

    def getresponse(self) -> Any:
        call, sock = self.call, self.sock
        if call is None:
            return super().getresponse()
        call.enter("waiting for its answer")
        answer = super().getresponse()
        if self.sock is None:  # closed after this answer, whose reader still holds the socket
            call.attach(sock)
        return answer

    def close(self) -> None:
        self.let_go()
        super().close()

    def let_go(self) -> None:
        """From now on no call may touch the socket: it will be closed, or serve somebody else."""
        if self.call is not None:
            self.call.interrupt_with(None)


class _Connection(_Watched):
    """The same, and connecting can be interrupted."""

    def _new_conn(self) -> socket.socket:
        call = self.call
        seconds = self.timeout if isinstance(self.timeout, (int, float)) else None
        try:
            return _dial(self._dns_host, self.port, seconds, self.source_address, self.socket_options, call)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise _DialTimeoutError(self, f"no connection within {seconds} s") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error


class _TLSConnection(_Connection, HTTPSConnection):
    """The same over TLS."""

    _handle: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        if self.call is not None:
            # The TLS layer takes the descriptor away from this object and gives us its own only after the
            # handshake; a second handle on the same connection can be shut down at any time between.
            self._handle = sock.dup()
            self.call.enter("in the TLS handshake")
            self.call.attach(self._handle)
        return sock

    def connect(self) -> None:
        try:
            super().connect()
        except BaseException:
            self.let_go()
            raise
        finally:
            handle, self._handle = self._handle, None
            if handle is not None:
                handle.close()


# ---- places


@dataclass(eq=False)
class _Waiter:
    pool: _PooledConnections
    new: bool
    ready: threading.Event = field(default_factory=threading.Event)
    granted: bool = False
    connection: Any = None


@dataclass(frozen=True)
class _Idle:
    pool: _PooledConnections
    since: float


class _Places:
    """Who may have a connection, and the idle ones.

    Invariants: ``open`` counts busy and idle connections, never more than the limits; no waiter waits for a place
    that is free, nor for one that an idle connection holds.

    Locking: ``_lock`` guards everything. Connections are closed, and calls woken, outside it.
    """

    def __init__(self, max_total: int, max_per_host: int, clock: Callable[[], float]) -> None:
        self.max_total = max_total
        self.max_per_host = max_per_host
        self.created = 0
        self.reused = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}
        self._total = 0
        self._idle: dict[Any, _Idle] = {}  # least recently used first
        self._waiters: list[_Waiter] = []
        self._closed = False
        self._abandoned = False

    def acquire(self, pool: _PooledConnections, call: _Call | None) -> Any:
        """A place: an idle connection, or ``None`` for a new one; waits for it if need be."""
        new = call is not None and call.new
        with self._lock:
            if self._closed:
                raise _NoPlaceError(pool, "the connection pool is closed")
            granted, connection, victim = self._take(pool, new=new)
            waiter = _Waiter(pool, new)
            if not granted:
                self._waiters.append(waiter)
        if victim is not None:
            victim.close()
        return connection if granted else self._wait(waiter, call)

    def _wait(self, waiter: _Waiter, call: _Call | None) -> Any:
        try:
            if call is None:
                waiter.ready.wait()
            else:
                call.enter("waiting for a place in the pool")
                with call.blocking(waiter.ready.set):
                    waiter.ready.wait()
        except BaseException as error:
            with self._lock:
                if not waiter.granted:
                    self._waiters.remove(waiter)
            if waiter.granted:  # in the very moment of the wake: pass it on
                self.release(waiter.pool, waiter.connection)
            if isinstance(error, _WokenError):
                raise _NoPlaceError(waiter.pool, "interrupted") from error
            raise
        if not waiter.granted:
            raise _NoPlaceError(waiter.pool, "the connection pool was closed")
        return waiter.connection

    def _take(self, pool: _PooledConnections, *, new: bool) -> tuple[bool, Any, Any]:
        """Whether a place is granted, an idle connection for it, and one to close for it."""
        if not new:
            for connection in reversed(self._idle):
                if self._idle[connection].pool is pool:
                    del self._idle[connection]
                    self.reused += 1
                    return True, connection, None
        host, victim = pool.place, None
        full_host = self._open.get(host, 0) >= self.max_per_host
        if full_host or self._total >= self.max_total:
            victim = next((c for c, i in self._idle.items() if not full_host or i.pool.place == host), None)
            if victim is None:
                return False, None, None
            self._forget(self._idle.pop(victim).pool.place)
        self._open[host] = self._open.get(host, 0) + 1
        self._total += 1
        self.created += 1
        return True, None, victim

    def _forget(self, host: str) -> None:
        self._total -= 1
        self._open[host] -= 1
        if not self._open[host]:
            del self._open[host]

    def release(self, pool: _PooledConnections, connection: Any) -> None:
        """Give a place back, with its connection if that may serve again."""
        victims = []
        with self._lock:
            if self._abandoned:  # inherited through a fork: not ours
                victims.append(connection)
            else:
                if connection is None or connection.is_closed or self._closed:
                    self._forget(pool.place)
                    victims.append(connection)
                else:
                    self._idle[connection] = _Idle(pool, self._clock())
                victims += self._grant()
        for victim in victims:
            if victim is not None:
                victim.close()

    def _grant(self) -> list[Any]:
        """Hand free places to those who wait, first come, first served."""
        victims = []
        for waiter in list(self._waiters):
            granted, connection, victim = self._take(waiter.pool, new=waiter.new)
            if granted:
                self._waiters.remove(waiter)
                waiter.granted, waiter.connection = True, connection
                victims.append(victim)
                waiter.ready.set()
        return victims

    def close_idle(self, older_than: float) -> int:
        """Close connections unused for ``older_than`` seconds; returns how many."""
        with self._lock:
            limit = self._clock() - older_than
            victims = [c for c, idle in self._idle.items() if idle.since <= limit]
            for victim in victims:
                self._forget(self._idle.pop(victim).pool.place)
            more = self._grant()
        for victim in (*victims, *more):
            if victim is not None:
                victim.close()
        return len(victims)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.ready.set()
        self.close_idle(-1.0)

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connections without a word to their servers."""
        self._lock = threading.Lock()
        self._abandoned = self._closed = True
        idle, self._idle = list(self._idle), {}
        for connection in idle:
            with suppress(OSError):
                connection.close()

    def counts(self) -> dict[str, Any]:
        with self._lock:
            return {
                "open_connections": self._total,
                "idle_connections": len(self._idle),
                "busy_connections": self._total - len(self._idle),
                "waiting": len(self._waiters),
                "connections_created": self.created,
                "connections_reused": self.reused,
                "open_by_host": dict(self._open),
            }


class _PooledConnections(HTTPConnectionPool):
    """urllib3's pool of one host, with its connections kept in the places of the whole pool."""

    ConnectionCls = _Connection

    def __init__(self, *args: Any, places: _Places | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places = places
        self.place = f"{self.host}:{self.port}"

    def _get_conn(self, timeout: float | None = None) -> Any:
        del timeout  # a wait ends by its call
        call = _active.call
        connection: Any = None if self.places is None else self.places.acquire(self, call)
        if connection is None:
            connection = self._new_conn()
        elif not connection.is_connected:  # closed by the server while idle; urllib3 connects it anew
            connection.close()
        connection.call = call
        if call is not None and not connection.is_closed:
            call.reused = True
            call.attach(connection.sock)
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None and conn.call is not None:
            conn.let_go()
            conn.call = None
        if self.places is not None:
            self.places.release(self, conn)
        elif conn is not None:
            conn.close()

    def close(self) -> None:
        """Nothing to do: the places own the connections."""


class _PooledTLSConnections(_PooledConnections, HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = _TLSConnection


def _placed(cls: type[HTTPConnectionPool]) -> type[_PooledConnections]:
    if cls is HTTPConnectionPool:
        return _PooledConnections
    if cls is HTTPSConnectionPool:
        return _PooledTLSConnections
    # SOCKS: connecting is PySocks' business and cannot be interrupted; everything after it can.
    watched = type("_WatchedConnection", (_Watched, cls.ConnectionCls), {})
    placed = type("_PooledConnections", (_PooledConnections, cls), {"ConnectionCls": watched})
    return cast("type[_PooledConnections]", placed)


# ---- the way to a host


@dataclass(frozen=True)
class _Route:
    """How to reach one origin.

    Attributes:
        connections: urllib3's pool for it, a proxy's where one is set.
        proxies: The proxies that apply.
    """

    connections: HTTPConnectionPool
    proxies: dict[str, str]


@dataclass(frozen=True)
class _Options:
    """What a pool was made with, its environment included."""

    verify: bool | str
    capath: str | None
    cert: str | tuple[str, str] | None
    proxies: Mapping[str, str]
    trust_env: bool
    headers: Mapping[str, str]
    timeout: Timeout
    connect_timeout: float
    read_timeout: float


def _ca_from_environment() -> tuple[str | None, str | None]:
    """File and folder of trusted certificates that the environment names."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(name)
        if path:
            return (None, path) if os.path.isdir(path) else (path, None)
    return os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None


class _Network:
    """All that the sessions of one pool share: places, TLS context, urllib3's managers.

    One TLS context for all: reading the trusted certificates takes 22 of the 24 ms that a new connection costs.

    Locking: ``_lock`` guards the attributes below it.
    """

    def __init__(self, options: _Options, places: _Places | None) -> None:
        self.options = options
        self.places = places
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._proxy_managers: dict[str, Any] = {}
        self._routes: dict[tuple[str, str], _Route] = {}
        self.manager = self._adopt(PoolManager(num_pools=_MAX_ROUTES, maxsize=1))

    def _adopt(self, manager: Any) -> Any:
        manager.pool_classes_by_scheme = {
            scheme: partial(_placed(cls), places=self.places)
            for scheme, cls in manager.pool_classes_by_scheme.items()
        }
        return manager

    def proxy_manager(self, proxy: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            if proxy not in self._proxy_managers:
                self._proxy_managers[proxy] = self._adopt(make())
            return self._proxy_managers[proxy]

    def tls_context(self) -> ssl.SSLContext:
        """The context shared by all connections.

        Raises:
            CertificateError: A file of certificates that was named cannot be read.
        """
        with self._lock:
            if self._context is None:
                self._context = self._make_context()
            return self._context

    def _make_context(self) -> ssl.SSLContext:
        options = self.options
        cafile = options.verify if isinstance(options.verify, str) else None
        if cafile is None and options.capath is None:
            cafile = DEFAULT_CA_BUNDLE_PATH
        context = create_urllib3_context()
        try:
            if cafile is not None and os.path.isdir(cafile):
                context.load_verify_locations(capath=cafile)
            else:
                context.load_verify_locations(cafile=cafile, capath=options.capath)
            if isinstance(options.cert, str):
                context.load_cert_chain(options.cert)
            elif options.cert is not None:
                context.load_cert_chain(*options.cert)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(
                f"cannot read the certificates {cafile or options.capath or options.cert}: {error}. "
                "They are named by REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE, SSL_CERT_DIR or by verify= "
                "and cert=."
            ) from error
        return context

    def is_own(self, verify: Any, cert: Any) -> bool:
        """Whether a session asks for the pool's own way to verify."""
        own = self.options
        return own.verify is not False and verify in {True, own.verify} and cert == own.cert

    def route(self, url: str, parts: SplitResult, adapter: _Adapter, request: Any) -> _Route:
        key = (parts.scheme, parts.netloc)
        route = self._routes.get(key)
        if route is None:
            proxies = dict(self.options.proxies)
            if self.options.trust_env:
                for scheme, proxy in get_environ_proxies(url).items():
                    proxies.setdefault(scheme, proxy)
            connections = adapter.connections_for(request, self.options.verify, proxies, self.options.cert)
            route = _Route(connections, proxies)
            with self._lock:
                if len(self._routes) >= _MAX_ROUTES:
                    self._routes.clear()
                self._routes[key] = route
        return route


class _Adapter(HTTPAdapter):
    """requests' adapter over the shared network; one per session, so that closing a session is harmless."""

    def __init__(self, network: _Network) -> None:
        self.network = network
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *_args: Any, **_kwargs: Any) -> None:
        self.poolmanager = self.network.manager

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        def make() -> Any:
            self.proxy_manager.pop(proxy, None)
            return super(_Adapter, self).proxy_manager_for(proxy, **kwargs)

        return self.network.proxy_manager(proxy, make)

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        tls: Any
        host, tls = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https" and self.network.is_own(verify, cert):
            tls = {"cert_reqs": "CERT_REQUIRED", "ssl_context": self.network.tls_context()}
        return host, tls

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        # requests would name the bundle here, and each connection would read it again.
        if "ssl_context" not in conn.conn_kw:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]  # so in the stubs

    def connections_for(self, request: Any, verify: Any, proxies: dict[str, str], cert: Any) -> Any:
        return super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        call = _active.call
        if call is not None and call.route is not None:
            return call.route.connections
        return super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)

    def request_url(self, request: Any, proxies: Any) -> str:
        return super().request_url(request, proxies) if proxies else str(request.path_url)

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        if _active.call is None:
            return super().build_response(req, resp)
        # Our own calls need the raw answer only; cookies and the rest cost more than the whole send.
        return cast("requests.Response", _RawAnswer(resp))

    def close(self) -> None:
        """Nothing to do: the places own the connections."""


class _RawAnswer:
    """As much of ``requests.Response`` as a call needs."""

    __slots__ = ("raw",)

    def __init__(self, raw: BaseHTTPResponse) -> None:
        self.raw = raw


# ---- errors, translated once


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and all that it was made from, the outermost first."""
    seen: set[int] = set()
    todo = deque([error])
    while todo:
        one = todo.popleft()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo.extend((getattr(one, "reason", None), *one.args, one.__cause__))


def _explain(error: BaseException, options: _Options) -> str:
    """What happened, in words without any URL (urllib3's own messages hold the query)."""
    causes = list(_causes(error))
    proxied = "its proxy: " if any(isinstance(cause, ProxyError) for cause in causes) else ""
    known: tuple[tuple[type[BaseException], str], ...] = (
        (socket.gaierror, "its name could not be resolved"),
        (_DialTimeoutError, f"no connection within {options.connect_timeout:g} s"),
        (TimeoutError, f"nothing received for {options.read_timeout:g} s"),
        (ReadTimeoutError, f"nothing received for {options.read_timeout:g} s"),
        (http.client.RemoteDisconnected, "closed by the server without an answer"),
        (http.client.IncompleteRead, "cut short"),
    )
    for kind, words in known:
        if any(isinstance(cause, kind) for cause in causes):
            return proxied + words
    for cause in reversed(causes):
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            return proxied + (cause.strerror or str(cause) or type(cause).__name__)
    return proxied + type(causes[-1]).__name__


def _is_certificate_fault(error: BaseException, *, handshake: bool) -> bool:
    """Whether TLS refused the server, rather than the network the handshake."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        passing = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, passing):
            return handshake and not isinstance(cause, TimeoutError)
    return False


def _raise_translated(error: BaseException, call: _Call, options: _Options) -> NoReturn:
    call.raise_if_woken(error)
    if isinstance(
        error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, LocationValueError)
    ):
        raise TransferError(f"{call.host}: not a usable address: {type(error).__name__}") from error
    if isinstance(error, _NoPlaceError):
        raise TransferError("the connection pool is closed") from error
    what = _explain(error, options)
    if _is_certificate_fault(error, handshake="TLS" in call.phase):
        raise CertificateError(
            f"{call.host}: TLS refused the server: {what}. Behind a proxy that opens TLS, name its certificate "
            "in REQUESTS_CA_BUNDLE."
        ) from error
    raise ConnectionFailedError(f"{call.host}: {what} ({call.phase}, {call.seconds():.1f} s)") from error


_FOREIGN: Final = (requests.RequestException, HTTPError, http.client.HTTPException, OSError)


# ---- one answer


class PooledResponse:
    """The answer to one GET, and its body, read in order by one thread.

    A context manager: leaving it releases the connection.

    Attributes:
        status: The HTTP status.
        headers: Names in any case.
        url: What was asked for.
        length: Bytes of the body as announced, ``None`` if it was not.
        received: Bytes of the body so far.
        seconds_to_headers: From sending the request (and connecting, where that was needed) to the headers.
        reused: Whether the connection had served before.
    """

    __slots__ = (
        "_call", "_decode", "_direct", "_done", "_failure", "_finish_with", "_options", "_raw", "headers", "length",
        "received", "reused", "seconds_to_headers", "status", "url",
    )  # fmt: skip

    def __init__(
        self,
        raw: BaseHTTPResponse,
        url: str,
        call: _Call,
        options: _Options,
        finish_with: Callable[[int, bool], None],
        *,
        decode: bool,
        seconds_to_headers: float,
    ) -> None:
        self.status: int = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.url = url
        self.received = 0
        self.seconds_to_headers = seconds_to_headers
        self.reused = call.reused
        self.length: int | None = getattr(raw, "length_remaining", None)
        self._raw = raw
        self._call = call
        self._options = options
        self._finish_with = finish_with
        self._done = False
        self._failure: BaseException | None = None
        self._decode = decode and "Content-Encoding" in raw.headers
        self._direct = None if self._decode or self.length is None else _direct_reader(raw)
        call.enter("receiving")
        if self.length == 0:
            self._finish(failed=False)

    def readinto(self, buffer: memoryview) -> int:
        """Read into the start of ``buffer``: all of it, or what came within a moment.

        Returns:
            Bytes read; 0 at the clean end of the body, and only there.

        Raises:
            ConnectionFailedError: The connection broke, or the body is shorter than announced.
            HaltedError: The halt that opened this answer was set.
        """
        if self._failure is not None:
            self._fail(self._failure)
        if self._done or not len(buffer):
            return 0
        try:
            count = self._read_plain(buffer) if self._direct is None else self._read_direct(buffer)
        except _FOREIGN as error:
            self._fail(error)
        if self._call.woken:  # what came in after a shutdown looks like an end, and may be anything
            self._fail(None)
        self.received += count
        if count == 0:
            self._check_complete()
        if count == 0 or (self.received == self.length and self._direct is not None):
            self._finish(failed=False)
        return count

    def _read_direct(self, buffer: memoryview) -> int:
        """From the socket into ``buffer`` without a copy.

        One receive at a time, so that an error in the middle does not lose the bytes before it.
        """
        assert self._direct is not None
        assert self.length is not None
        readinto1 = self._direct
        want = min(len(buffer), self.length - self.received)
        got = readinto1(buffer[:want])
        if got >= want or not got:
            return got
        deadline = time.monotonic() + _READ_SECONDS
        while got < want:
            try:
                count = readinto1(buffer[got:want])
            except _FOREIGN as error:
                self._failure = error
                return got
            got += count
            if not count or time.monotonic() > deadline:
                break
        return got

    def _read_plain(self, buffer: memoryview) -> int:
        data = self._raw.read(min(len(buffer), _PLAIN_READ), decode_content=self._decode)
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
        _raise_translated(error, self._call, self._options)

    def head(self, nbytes: int = 16 << 10) -> bytes:
        """The first ``nbytes`` of the body, or what can be had of them: for messages, not for files.

        Raises:
            HaltedError: The halt that opened this answer was set.
        """
        data = bytearray(nbytes)
        view, filled = memoryview(data), 0
        with suppress(TransferError):
            while filled < nbytes and (count := self.readinto(view[filled:])):
                filled += count
        return bytes(view[:filled])

    def drain(self) -> None:
        """Release the connection; a short rest of the body is read first, so that it can serve again.

        Raises:
            HaltedError: The halt that opened this answer was set.
        """
        rest = None if self.length is None else self.length - self.received
        try:
            if not self._done and (rest is None or rest <= _WORTH_DRAINING):
                self.head(_WORTH_DRAINING + 1)
        finally:
            self.release()

    def release(self) -> None:
        """Give the connection back, for reuse if the body was read to its end; closed otherwise."""
        self._finish(failed=False)

    def close(self) -> None:
        """The same as :meth:`release`."""
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

    def _finish(self, *, failed: bool) -> None:
        if self._done:
            return
        self._done = True
        self._call.end()
        raw = self._raw
        with suppress(*_FOREIGN):
            if self._direct is not None and self.received == self.length and not failed:
                # All bytes are in: close the reader, not the connection.
                raw._fp.close()  # type: ignore[attr-defined]  # noqa: SLF001  tested for by _direct_reader
            elif getattr(raw, "_connection", True) is not None:  # not put back by urllib3 at the body's end
                raw.close()
        raw.release_conn()
        self._finish_with(self.received, failed)


def _direct_reader(raw: BaseHTTPResponse) -> Callable[[memoryview], int] | None:
    """The buffered reader below ``raw``, if it holds the body and nothing else: no chunks, no encoding."""
    answer = getattr(raw, "_fp", None)
    if type(answer) is not http.client.HTTPResponse or answer.chunked:
        return None
    return getattr(answer.fp, "readinto1", None)


# ---- the pool


@dataclass(eq=False)
class _Seat:
    """One thread's session, and what it did."""

    session: requests.Session
    adapter: _Adapter
    created_at: float
    last_used: float
    active: int = 0
    closed: bool = False


@dataclass
class _Tally:
    requests: int = 0
    bytes: int = 0
    errors: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "bytes_downloaded": self.bytes,
            "errors": self.errors,
            "error_rate": self.errors / self.requests if self.requests else 0.0,
        }


_pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class ConnectionPool:
    """Connections to any number of hosts, never more than allowed, for any number of threads.

    One ``requests.Session`` per thread over connections that all threads share. Idle connections count: when a place
    is needed, the one unused for longest is closed. A thread without a place waits, in the order of asking.

    In a forked child the pool starts empty; the parent's connections are never used there.

    Locking: ``_lock`` guards the sessions and the tallies.

    Args:
        max_connections: Connections open at once, idle ones included.
        max_connections_per_host: The same for one host and port; ``None`` for as many as in all.
        connect_timeout: Seconds for one connection attempt, its name's resolution included.
        read_timeout: Seconds without a byte after which a connection is given up.
        trust_env: Whether proxies and trusted certificates are read from the environment.
        verify: Whether certificates are verified; a path names the ones to trust.
        cert: Client certificate: a path, or the paths of certificate and key.
        proxies: Proxies by scheme, as requests takes them; they go before those of the environment.
        headers: Sent with every request, unless a request says otherwise.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        max_connections: int = 32,
        max_connections_per_host: int | None = None,
        *,
        connect_timeout: float = 10.0,
        read_timeout: float = 30.0,
        trust_env: bool = True,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        per_host = max_connections if max_connections_per_host is None else max_connections_per_host
        for name, limit in (
            ("max_connections", max_connections),
            ("max_connections_per_host", per_host),
        ):
            if limit < 1:
                raise ValueError(f"{name} must be at least 1, not {limit!r}")
        capath = None
        if verify is True and trust_env:
            cafile, capath = _ca_from_environment()
            verify = cafile or True
        self.max_connections = max_connections
        self.max_connections_per_host = per_host
        self._options = _Options(
            verify=verify, capath=capath, cert=cert, proxies=dict(proxies or {}), trust_env=trust_env,
            headers={"Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})},
            timeout=Timeout(connect=connect_timeout, read=read_timeout),
            connect_timeout=connect_timeout, read_timeout=read_timeout,
        )  # fmt: skip
        self._clock = clock
        self._closed = False
        self._start_empty()
        _pools.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._seats: dict[int, _Seat] = {}
        self._tallies: dict[int, _Tally] = {}
        self._total = _Tally()
        self._calls: set[_Call] = set()
        self._places = _Places(self.max_connections, self.max_connections_per_host, self._clock)
        self._network = _Network(self._options, self._places)

    def reset_after_fork(self) -> None:
        """Start empty, in a forked child; called by itself there."""
        self._places.abandon()
        self._start_empty()

    # ---- sessions

    def _create_session(self) -> requests.Session:
        """A session over this pool's connections."""
        return self._session_over(_Adapter(self._network))

    def _session_over(self, adapter: _Adapter) -> requests.Session:
        session = requests.Session()
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        session.headers.update(self._options.headers)
        session.trust_env = self._options.trust_env
        session.proxies.update(self._options.proxies)
        session.verify = self._options.verify
        session.cert = self._options.cert
        return session

    def get_session(self) -> requests.Session:
        """This thread's session. Requests made with it directly count against the limits, too.

        Raises:
            TransferError: The pool is closed.
        """
        return self._seat().session

    def _seat(self) -> _Seat:
        if self._closed:
            raise TransferError("the connection pool is closed")
        seat: _Seat | None = getattr(self._local, "seat", None)
        now = self._clock()
        if seat is None or seat.closed:
            session = self._create_session()
            adapter = cast("_Adapter", session.get_adapter("https://"))
            seat = _Seat(session, adapter, created_at=now, last_used=now)
            self._local.seat = seat
            with self._lock:
                self._seats[threading.get_ident()] = seat
        seat.last_used = now
        return seat

    def cleanup_stale_sessions(self, max_age: float) -> int:
        """Close sessions and idle connections unused for ``max_age`` seconds.

        Returns:
            How many sessions were closed; a thread that comes back gets a new one.
        """
        with self._lock:
            limit = self._clock() - max_age
            stale = {i: s for i, s in self._seats.items() if s.last_used <= limit and not s.active}
            for ident, seat in stale.items():
                seat.closed = True
                del self._seats[ident]
        for seat in stale.values():
            seat.session.close()
        self._places.close_idle(max_age)
        return len(stale)

    # ---- statistics

    def update_stats(self, thread_id: int, bytes_downloaded: int = 0, error: bool = False) -> None:
        """Count one finished request of a thread.

        Args:
            thread_id: ``threading.get_ident()`` of the thread.
            bytes_downloaded: Bytes of its body.
            error: Whether it failed.
        """
        with self._lock:
            self._count(thread_id, bytes_downloaded, error)

    def _count(self, thread_id: int, bytes_downloaded: int, failed: bool) -> None:
        for tally in (self._tallies.setdefault(thread_id, _Tally()), self._total):
            tally.requests += 1
            tally.bytes += bytes_downloaded
            tally.errors += bool(failed)
        seat = self._seats.get(thread_id)
        if seat is not None:
            seat.last_used = self._clock()

    def get_stats(self) -> dict[str, Any]:
        """Connections, and requests, bytes and errors in total and per thread, as plain values."""
        counts = self._places.counts()
        with self._lock:
            now = self._clock()
            threads = {}
            for ident, tally in self._tallies.items():
                threads[ident] = tally.as_dict()
                seat = self._seats.get(ident)
                if seat is not None:
                    threads[ident]["session_age_seconds"] = now - seat.created_at
                    threads[ident]["idle_seconds"] = now - seat.last_used
            total = self._total.as_dict()
            sessions = len(self._seats)
        return {
            "max_connections": self.max_connections,
            "max_connections_per_host": self.max_connections_per_host,
            "active_sessions": sessions,
            **counts,
            "total_requests": total["requests"],
            "total_bytes": total["bytes_downloaded"],
            "total_errors": total["errors"],
            "error_rate": total["error_rate"],
            "threads": threads,
        }

    # ---- requests

    def open(
        self,
        url: str,
        headers: Mapping[str, str] | None,
        halt: Halt,
        *,
        fresh: bool = False,
        decode: bool = False,
    ) -> PooledResponse:
        """GET ``url``, without following a redirect and without a retry, and return its answer.

        Args:
            url: Any http or https URL.
            headers: Go before the pool's own.
            halt: Ends every wait and wakes every blocking call, here and while the body is read.
            fresh: Use a new session and a new connection, outside the pool and its limits.
            decode: Whether a ``Content-Encoding`` is undone while reading.

        Raises:
            HaltedError: The halt was set.
            ConnectionFailedError: No connection, or it broke, or it was interrupted (``halt.wake``).
            CertificateError: TLS refused the server.
            TransferError: The address is unusable, or the pool is closed.
        """
        halt.check()
        seat = self._seat()
        adapter = seat.adapter
        if fresh:
            adapter = _Adapter(_Network(self._options, None))
            headers = {**(headers or {}), "Connection": "close"}
        request, parts = self._prepare(url, headers)
        call = _Call(halt, parts.hostname or redact(url))
        thread_id = threading.get_ident()
        with self._lock:
            self._calls.add(call)
            seat.active += 1

        def finish(received: int, failed: bool) -> None:
            with self._lock:
                self._calls.discard(call)
                seat.active -= 1
                self._count(thread_id, received, failed)

        try:
            started = time.monotonic()
            raw = self._send(adapter, request, parts, call)
            return PooledResponse(
                raw, url, call, self._options, finish,
                decode=decode, seconds_to_headers=time.monotonic() - started,
            )  # fmt: skip
        except BaseException as error:
            call.end()
            finish(0, not isinstance(error, HaltedError))
            raise

    def _prepare(
        self, url: str, headers: Mapping[str, str] | None
    ) -> tuple[requests.PreparedRequest, SplitResult]:
        request = requests.PreparedRequest()
        merged: CaseInsensitiveDict[str] = CaseInsensitiveDict(self._options.headers)
        if headers:
            merged.update(headers)
        try:
            parts = urlsplit(url)
            if not url.isascii() or " " in url or "@" in parts.netloc or not parts.hostname:
                # Rare, so it may cost: quoting, IDNA, and a user's name and password in the URL.
                request.prepare(method="GET", url=url, headers=dict(merged.items()))
                return request, urlsplit(str(request.url))
        except (requests.RequestException, ValueError) as error:
            raise TransferError(f"not a usable address: {redact(url)}") from error
        request.method, request.url, request.headers = "GET", url, merged
        return request, parts

    def _send(
        self, adapter: _Adapter, request: requests.PreparedRequest, parts: SplitResult, call: _Call
    ) -> BaseHTTPResponse:
        try:
            return self._send_once(adapter, request, parts, call)
        except _FOREIGN as error:
            # The server may close an idle connection in the moment we choose it. Nothing was answered, and a
            # GET may be repeated: that is no failure, and no matter for the retry budget.
            if not call.reused or call.woken or not _is_stale(error):
                _raise_translated(error, call, self._options)
        call.reused, call.new = False, True
        try:
            return self._send_once(adapter, request, parts, call)
        except _FOREIGN as error:
            _raise_translated(error, call, self._options)

    def _send_once(
        self, adapter: _Adapter, request: requests.PreparedRequest, parts: SplitResult, call: _Call
    ) -> BaseHTTPResponse:
        network = adapter.network
        try:
            call.route = network.route(str(request.url), parts, adapter, request)
            _active.call = call
            answer = adapter.send(
                request,
                stream=True,
                timeout=self._options.timeout,  # type: ignore[arg-type]  # requests takes urllib3's, its stubs do not say so
                verify=self._options.verify,
                cert=self._options.cert,
                proxies=call.route.proxies,
            )
        finally:
            _active.call = None
        raw = cast("BaseHTTPResponse", answer.raw)
        if call.woken:
            raw.close()
            raw.release_conn()
            call.raise_if_woken()
        return raw

    # ---- the end

    def close(self) -> None:
        """Close every connection; those in use, and those waiting for a place, fail at once."""
        self._closed = True
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.pool_closed = True
            call.wake()
        self._places.close()
        with self._lock:
            seats, self._seats = list(self._seats.values()), {}
        for seat in seats:
            seat.closed = True
            seat.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _is_stale(error: BaseException) -> bool:
    """Whether a reused connection turned out to be closed before it answered."""
    gone = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
    return any(isinstance(cause, gone) for cause in _causes(error))
