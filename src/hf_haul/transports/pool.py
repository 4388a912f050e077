"""Connections for any number of threads: sessions, interruptible requests, statistics.

From the ground: ``request`` is one request as its cancel token sees it, ``dialing`` makes connections that it
can wake, ``slots`` counts connections and shares the idle ones, ``network`` knows the way to each host,
``sending`` sends, ``plain`` is the short way over a connection that stands, ``response`` reads a body,
``translation`` translates what goes wrong, ``sessions`` is what users set, ``mounted`` the way through their
adapters; here is the public face.

We use ``requests``' adapter below ``Session.send``, where a connection has to be made or anything is unusual:
cookies, ``.netrc`` and redirects are no use to a download and cost a third of a small request. Until somebody
asks for a session there is none, and nothing to look at in it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import requests
from requests.models import DEFAULT_REDIRECT_LIMIT

from hf_haul.cancellation import CancelToken, SilenceLimits
from hf_haul.errors import StopRequestedError, TransferError
from hf_haul.finalizers import catch_up
from hf_haul.forks import renew_after_fork
from hf_haul.task import NetworkPaths
from hf_haul.transports.network import Adapter, ClientCertificate, Network, NetworkOptions, Verify
from hf_haul.transports.outgoing import Outgoing, merge_headers
from hf_haul.transports.request import InterruptibleRequest
from hf_haul.transports.response import PooledResponse
from hf_haul.transports.sending import Sender
from hf_haul.transports.sessions import (
    PoolSession,
    UsualHeaders,
    close_mounted,
    keeps_secrets,
    needs_requests,
    renew_in_child,
)
from hf_haul.transports.slots import ConnectionSlots
from hf_haul.urls import HttpUrl, parse_url

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["ConnectionPool", "PooledResponse"]

#: Seconds without a byte that any connection may take, however long somebody is willing to wait.
_LONGEST_SILENCE: Final = 86_400.0
#: Redirects of one file, where nobody says how many.
_MAX_REDIRECTS: Final = 20
#: Threads whose statistics are kept.
_MAX_STATS: Final = 256


class _Mark:
    """Lives as long as its thread, whichever code made that."""


@dataclass(eq=False)
class _ThreadSession:
    """One thread's session and its statistics."""

    thread: weakref.ref[_Mark]  # dead when the thread is
    session: requests.Session | None  # none before somebody asks for it
    created_at: float
    last_used: float
    active: int = 0
    closed: bool = False


@dataclass
class _ThreadStats:
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


class ConnectionPool:
    """Connections to any number of hosts, never more than allowed, for any number of threads.

    One ``requests.Session`` per thread over connections that all threads share. Idle connections count: when
    a slot is needed, the one unused for longest is closed. A thread without a slot waits, in the order of
    asking.

    The sessions of all threads share their settings, which hold for every byte that comes through the pool,
    from the next request on: what is set on the session that :meth:`get_session` gives to one thread is set
    for all. ``verify``, ``cert``, ``proxies``, ``trust_env`` and ``headers`` do what they do in the
    constructor. Adapters that are mounted, cookies, ``auth``, hooks, ``params`` and ``max_redirects`` do what
    they do in ``requests``: ``auth``, and ``Authorization`` and ``Cookie`` among the headers, are not sent to
    another host that a redirect leads to, nor to another source of a file, and neither are cookies without a
    domain. ``.netrc`` is never read.
    Adapters, hooks and ``auth`` are called by many threads at once; connections of such adapters are their
    own, and the limits do not count them.

    In a forked child the pool starts empty, with the same settings; the parent's connections are never used
    there. (Adapters that are no ``requests.adapters.HTTPAdapter`` have to see to that themselves.)

    Locking: ``_lock`` guards the sessions and the tallies.

    Args:
        max_connections: Connections open at once, idle ones included.
        max_connections_per_host: The same for one host and port; ``None`` for as many as in all.
        connect_timeout: Seconds for one connection attempt, its name's resolution included.
        read_timeout: Seconds without a byte after which a connection is given up.
        trust_env: Whether proxies and trusted certificates are read from the environment.
        verify: Whether certificates are verified; a path names the ones to trust, and a context says all of
            it.
        cert: Client certificate: a path, or the paths of certificate and key.
        proxies: Proxies by scheme, as requests takes them; they go before those of the environment, and an
            empty text stands for none.
        headers: Sent with every request, unless a request says otherwise; see above for those that are
            secret.
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
        verify: Verify = True,
        cert: ClientCertificate = None,
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
        self.max_connections = max_connections
        self.max_connections_per_host = per_host
        self._options = NetworkOptions.of(
            verify=verify, cert=cert, proxies=proxies, trust_env=trust_env,
            headers={"Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})},
            connect_timeout=connect_timeout, read_timeout=min(read_timeout, _LONGEST_SILENCE),
        )  # fmt: skip
        self._clock = clock
        self._closed = False
        self._usual_headers = UsualHeaders(self._options.headers)
        self._shared: requests.Session | None = None  # whose settings are those of all sessions
        self._start_empty()
        self._adapter = Adapter(self._network)
        renew_after_fork(self, ConnectionPool.reset_after_fork)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._sessions: dict[int, _ThreadSession] = {}
        self._stats: dict[int, _ThreadStats] = {}
        self._total = _ThreadStats()
        self._calls: set[InterruptibleRequest] = set()
        self._slots = ConnectionSlots(self.max_connections, self.max_connections_per_host, self._clock)
        self._network = Network(self._options, self._slots)
        self._sender = Sender(self._options, self._slots)
        self._changed: Adapter | None = None  # over the network as it was last changed on a session

    def reset_after_fork(self) -> None:
        """Start empty in a forked child; called automatically there."""
        self._slots.abandon()
        self._start_empty()
        self._adapter.move_to(self._network)  # sessions have it
        if self._shared is not None:
            renew_in_child(self._shared)

    # ---- sessions

    def _create_session(self) -> requests.Session:
        """Return a session over this pool's connections, with the settings of all of them.

        A subclass may return one of its own for each thread, whose settings hold for that thread.
        """
        with self._lock:
            if self._shared is None:
                session = requests.Session()
                session.mount("https://", self._adapter)
                session.mount("http://", self._adapter)
                self._options.set_on(session)
                self._shared = PoolSession(vars(session))
            return PoolSession(vars(self._shared))

    def get_session(self) -> requests.Session:
        """Return this thread's session, whose settings are those of the pool: see above.

        Requests made with it directly count against the limits, too.

        Raises:
            TransferError: The pool is closed.
        """
        entry = self._thread_session()
        if entry.session is None:
            entry.session = self._create_session()
        return entry.session

    @property
    def max_redirects(self) -> int:
        """Redirects of one file that are followed at the most."""
        session = self._set_on(getattr(self._local, "entry", None))
        if session is None or session.max_redirects == DEFAULT_REDIRECT_LIMIT:
            return _MAX_REDIRECTS
        return session.max_redirects

    def _set_on(self, entry: _ThreadSession | None) -> requests.Session | None:
        """Return the session whose settings hold for a thread; ``None`` while nobody has had one."""
        return self._shared if entry is None or entry.session is None else entry.session

    def _thread_session(self) -> _ThreadSession:
        if self._closed:
            raise TransferError("the connection pool is closed")
        entry: _ThreadSession | None = getattr(self._local, "entry", None)
        now = self._clock()
        if entry is None or entry.closed:
            mark = self._local.mark = _Mark()
            entry = _ThreadSession(weakref.ref(mark), None, created_at=now, last_used=now)
            create = self._create_session
            if getattr(create, "__func__", None) is not ConnectionPool._create_session:  # overridden
                entry.session = create()
            self._local.entry = entry
            self._add_session(entry)
        entry.last_used = now
        return entry

    def _add_session(self, entry: _ThreadSession) -> None:
        """Store a new session; drop those of ended threads when there are more than connections."""
        ident = threading.get_ident()
        left: list[_ThreadSession] = []
        with self._lock:
            if ident in self._sessions:  # of a thread that had the same number
                left.append(self._sessions.pop(ident))
            if len(self._sessions) >= self.max_connections:
                ended = [i for i, s in self._sessions.items() if s.thread() is None and not s.active]
                left += [self._sessions.pop(i) for i in ended]
            self._sessions[ident] = entry
        for each in left:
            self._close_session(each)

    @staticmethod
    def _close_session(entry: _ThreadSession) -> None:
        entry.closed = True
        if entry.session is not None:
            entry.session.close()

    def cleanup_stale_sessions(self, max_age: float) -> int:
        """Close sessions and idle connections unused for ``max_age`` seconds.

        Returns:
            How many sessions were closed; a thread that comes back gets a new one.
        """
        with self._lock:
            limit = self._clock() - max_age
            stale = {i: s for i, s in self._sessions.items() if s.last_used <= limit and not s.active}
            for ident in stale:
                del self._sessions[ident]
        for entry in stale.values():
            self._close_session(entry)
        self._slots.close_idle(max_age)
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
        if thread_id not in self._stats and len(self._stats) >= _MAX_STATS:
            ended = (ident for ident in self._stats if ident not in self._sessions)
            del self._stats[next(ended, next(iter(self._stats)))]
        for stats in (self._stats.setdefault(thread_id, _ThreadStats()), self._total):
            stats.requests += 1
            stats.bytes += bytes_downloaded
            stats.errors += bool(failed)
        entry = self._sessions.get(thread_id)
        if entry is not None:
            entry.last_used = self._clock()

    def get_stats(self) -> dict[str, Any]:
        """Return connections, and requests, bytes and errors in total and per thread, as plain values.

        Of threads that have ended, only some are there.
        """
        counts = self._slots.counts()
        with self._lock:
            now = self._clock()
            threads = {}
            for ident, stats in self._stats.items():
                threads[ident] = stats.as_dict()
                entry = self._sessions.get(ident)
                if entry is not None:
                    threads[ident]["session_age_seconds"] = now - entry.created_at
                    threads[ident]["idle_seconds"] = now - entry.last_used
            total = self._total.as_dict()
            sessions = len(self._sessions)
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
        url: str | HttpUrl,
        headers: Mapping[str, str] | None,
        cancel_token: CancelToken,
        *,
        fresh: bool = False,
        decode: bool = False,
        network: NetworkPaths | None = None,
        home: HttpUrl | None = None,
    ) -> PooledResponse:
        """Send a GET for ``url``, without following a redirect or retrying, and return its answer.

        Args:
            url: Any http or https URL; one that was read already is not read again.
            headers: Go before the pool's own.
            cancel_token: Ends every wait and wakes every blocking call, here and while the body is read.
                Where it has limits of its own, they go before the pool's timeout.
            fresh: Use a new session and a new connection, outside the pool and its limits.
            decode: Whether a ``Content-Encoding`` is undone while reading.
            network: How hosts are reached, where the pool was not told itself.
            home: The URL of the file, where another is asked instead: because it redirected there, or as
                another source. Its host alone gets what is secret of the sessions' settings.

        Raises:
            StopRequestedError: The cancel token was set.
            ConnectionFailedError: No connection, or it broke, or it was interrupted (``cancel_token.wake``).
            CertificateError: the TLS handshake failed.
            TransferError: The address is unusable, or the pool is closed.
        """
        cancel_token.check()
        catch_up()
        entry = self._thread_session()
        if fresh:
            headers = {**(headers or {}), "Connection": "close"}
        parts = parse_url(url, userinfo=True) if isinstance(url, str) else url
        call = InterruptibleRequest(cancel_token, parts.host)
        if call.silence_limits is not None and max(call.silence_limits) > _LONGEST_SILENCE:
            call.silence_limits = SilenceLimits(
                *(min(each, _LONGEST_SILENCE) for each in call.silence_limits)
            )
        session = self._set_on(entry)
        request = (
            Outgoing(
                parts,
                merge_headers(parts, self._usual_headers.unchanged(home, parts), headers),
                self._adapter,
                call,
                network,
            )
            if session is None
            else self._as_set_on(session, parts, headers, call, network, home)
        )
        if fresh:
            request.adapter = Adapter(Network(request.adapter.network.options, None))
        thread_id = threading.get_ident()
        with self._lock:
            self._calls.add(call)
            entry.active += 1

        def finish(received: int, failed: bool) -> None:
            with self._lock:
                self._calls.discard(call)
                entry.active -= 1
                self._count(thread_id, received, failed)

        try:
            started = time.monotonic()
            raw = self._sender.send(request)
            return PooledResponse(
                raw, parts, call, self._options, finish,
                decode=decode, seconds_to_headers=time.monotonic() - started,
            )  # fmt: skip
        except BaseException as error:
            call.end()
            if call.raw is not None:  # woken or interrupted right after the answer
                call.raw.close()
                call.raw.release_conn()
            finish(0, not isinstance(error, StopRequestedError))
            raise

    def _as_set_on(
        self,
        session: requests.Session,
        url: HttpUrl,
        headers: Mapping[str, str] | None,
        call: InterruptibleRequest,
        network: NetworkPaths | None,
        home: HttpUrl | None,
    ) -> Outgoing:
        """Return a request as a session would have it."""
        secrets = keeps_secrets(session, home, url)
        usual = self._usual_headers.of(session, secrets=secrets)
        call.by_session = needs_requests(session)
        return Outgoing(
            url,
            merge_headers(url, usual, headers),
            self._adapter_for(session),
            call,
            network,
            session if call.by_session else None,
            first=home is None or home == url,
            secrets=secrets,
        )

    def _adapter_for(self, session: requests.Session) -> Adapter:
        """Return the adapter over the network as a session would have it."""
        if self._options.are_on(session):
            return self._adapter
        changed = self._changed
        if changed is None or not changed.network.options.are_on(session):
            options = self._options.changed_by(session)
            self._changed = changed = Adapter(Network(options, self._slots))
        return changed

    # ---- the end

    def close(self) -> None:
        """Close every connection; those in use, and those waiting for a slot, fail at once."""
        self._closed = True
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.pool_closed = True
            call.wake()
        self._slots.close()
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for entry in sessions:
            self._close_session(entry)
        if self._shared is not None:
            close_mounted(self._shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
