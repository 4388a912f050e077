"""Who may have a connection: limits in total and per host, idle connections shared, waiters in order.

Idle connections belong to no thread: a redirect from one host to another would otherwise cost each thread a
connection to both. A slot that becomes free is handed to the first who waits for it, not fought for.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import EmptyPoolError

from hf_haul.descriptors import descriptors
from hf_haul.transports.dialing import (
    WakeableConnection,
    WakeableTLSConnection,
    WatchedConnection,
)
from hf_haul.transports.request import InterruptibleRequest, WokenError, active

__all__ = ["ConnectionSlots", "NoSlotError", "PooledConnections", "with_slots"]


class NoSlotError(EmptyPoolError):
    """No slot was taken: the wait was ended, or the pool is closed.

    urllib3 gives a slot back after any other error, and must not after this one.
    """


@dataclass(eq=False)
class _Waiter:
    pool: PooledConnections
    new: bool
    ready: threading.Event = field(default_factory=threading.Event)
    granted: bool = False
    connection: Any = None


@dataclass(frozen=True)
class _Idle:
    pool: PooledConnections
    since: float


class ConnectionSlots:
    """Hands out the right to a connection, and the idle ones.

    Invariants: ``open`` counts busy and idle connections, never more than the limits; no waiter waits for a
    slot that is free, nor for one that an idle connection holds.

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
        self.attempts = 0  # connections that are tried again and again, because no socket can be opened
        descriptors.register(self, ConnectionSlots._busy)

    def _busy(self) -> int:
        return max(0, self._total - len(self._idle) - self.attempts)

    @contextmanager
    def attempting(self) -> Iterator[None]:
        """Do not count the connection that the block opens as held by anybody, before it is open."""
        with self._lock:
            self.attempts += 1
        try:
            yield
        finally:
            with self._lock:
                self.attempts -= 1

    @property
    def _limit(self) -> int:
        """The most connections for now: fewer than configured where the process may open few files."""
        return min(self.max_total, descriptors.downloads())

    def take_idle(self, pool: PooledConnections) -> Any:
        """Take an idle connection, and the slot that it has; ``None`` if there is none."""
        with self._lock:
            return self._pop_idle(pool)

    def _pop_idle(self, pool: PooledConnections) -> Any:
        for connection in reversed(self._idle):
            if self._idle[connection].pool is pool:
                del self._idle[connection]
                self.reused += 1
                return connection
        return None

    def acquire(self, pool: PooledConnections, call: InterruptibleRequest | None) -> Any:
        """Take a slot: return an idle connection, or ``None`` for a new one; wait for it if need be."""
        new = call is not None and call.new
        descriptors.measure()
        with self._lock:
            if self._closed:
                raise NoSlotError(pool, "the connection pool is closed")
            granted, connection, victim = self._take(pool, new=new)
            waiter = _Waiter(pool, new)
            if not granted:
                self._waiters.append(waiter)
        if victim is not None:
            victim.close()
        return connection if granted else self._wait(waiter, call)

    def _wait(self, waiter: _Waiter, call: InterruptibleRequest | None) -> Any:
        try:
            if call is None:
                waiter.ready.wait()
            else:
                call.enter("waiting for a connection slot")
                with call.cancel_token.queueing(), call.blocking(waiter.ready.set):
                    waiter.ready.wait()
        except BaseException as error:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
            if waiter.granted:  # in the very moment of the wake: pass it on
                self.release(waiter.pool, waiter.connection)
            if isinstance(error, WokenError):
                raise NoSlotError(waiter.pool, "interrupted") from error
            raise
        if not waiter.granted:
            raise NoSlotError(waiter.pool, "the connection pool was closed")
        return waiter.connection

    def _take(self, pool: PooledConnections, *, new: bool) -> tuple[bool, Any, Any]:
        """Return whether a slot is granted, an idle connection for it, and one to close for it."""
        if not new:
            connection = self._pop_idle(pool)
            if connection is not None:
                return True, connection, None
        host, victim = pool.authority, None
        full_host = self._open.get(host, 0) >= self.max_per_host
        if full_host or self._total >= self._limit:
            victim = next(
                (c for c, i in self._idle.items() if not full_host or i.pool.authority == host), None
            )
            if victim is None:
                return False, None, None
            self._forget(self._idle.pop(victim).pool.authority)
        self._open[host] = self._open.get(host, 0) + 1
        self._total += 1
        self.created += 1
        return True, None, victim

    def _forget(self, host: str) -> None:
        self._total -= 1
        self._open[host] -= 1
        if not self._open[host]:
            del self._open[host]

    def release(self, pool: PooledConnections, connection: Any) -> None:
        """Release a slot, with its connection if that may serve again."""
        victims = []
        with self._lock:
            if connection is None or connection.is_closed or self._closed or self._total > self._limit:
                self._forget(pool.authority)
                victims.append(connection)
            else:
                self._idle[connection] = _Idle(pool, self._clock())
            if self._waiters:
                victims += self._grant()
        for victim in victims:
            if victim is not None:
                victim.close()

    def _grant(self) -> list[Any]:
        """Grant free slots to waiters, first come, first served."""
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
        """Close connections unused for ``older_than`` seconds; return how many."""
        with self._lock:
            limit = self._clock() - older_than
            victims = [c for c, idle in self._idle.items() if idle.since <= limit]
            for victim in victims:
                self._forget(self._idle.pop(victim).pool.authority)
            more = self._grant()
        for victim in (*victims, *more):
            if victim is not None:
                victim.close()
        return len(victims)

    def close(self) -> None:
        """Close idle connections now and busy ones when they are released; waiters get an error."""
        with self._lock:
            self._closed = True
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.ready.set()
        self.close_idle(-1.0)

    def abandon(self) -> None:
        """Drop the parent's connections in a forked child, without a word to their servers."""
        self._lock = threading.Lock()
        self._closed = True  # busy ones are closed as they come back
        idle, self._idle = list(self._idle), {}
        for connection in idle:
            with suppress(OSError):
                connection.close()

    def counts(self) -> dict[str, Any]:
        """Return how many connections there are, by kind and by host."""
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


class _NoConnections(queue.LifoQueue[Any]):
    """An empty queue where urllib3 keeps connections, without a lock.

    Finalizers and forked children use it.
    """

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Keep nothing."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Raise ``queue.Empty``."""
        del block, timeout
        raise queue.Empty


class PooledConnections(HTTPConnectionPool):
    """urllib3's pool of one host, with its connections kept in the shared slots."""

    ConnectionCls = WakeableConnection
    QueueCls = _NoConnections

    def __init__(self, *args: Any, slots: ConnectionSlots | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = slots
        self.authority = f"{self.host}:{self.port}"

    def _get_conn(self, timeout: float | None = None) -> Any:
        del timeout  # a wait ends by its call
        call = active.call
        connection: Any = None if self.slots is None else self.slots.acquire(self, call)
        if connection is None:
            connection = self._new_conn()
        elif not connection.is_connected:  # closed by the server while idle; urllib3 connects it anew
            connection.close()
        connection.call = call
        if call is not None and not connection.is_closed:
            call.reused = True
            call.attach(connection.sock)
        return connection

    def take_idle(self, call: InterruptibleRequest) -> Any:
        """Return a connection that has served before and still stands; ``None`` without one."""
        connection = None if self.slots is None or call.new else self.slots.take_idle(self)
        if connection is None:
            return None
        connection.call = call
        if not isinstance(connection.sock, socket.socket):  # TLS inside TLS
            self.give_back(connection)
            return None
        if not connection.is_connected:  # closed by the server while idle
            connection.close()
            self.give_back(connection)
            return None
        call.reused = True
        call.attach(connection.sock)
        return connection

    def give_back(self, connection: Any) -> None:
        """Release a connection that :meth:`take_idle` gave."""
        self._put_conn(connection)

    def _put_conn(self, conn: Any) -> None:
        if conn is not None and conn.call is not None:
            conn.let_go()
            conn.call = None
        if self.slots is not None:
            self.slots.release(self, conn)
        elif conn is not None:
            conn.close()

    def close(self) -> None:
        """Do nothing: the slots own the connections."""


class _PooledTLSConnections(PooledConnections, HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = WakeableTLSConnection


def with_slots(cls: type[HTTPConnectionPool]) -> type[PooledConnections]:
    """Return a subclass of urllib3's pool ``cls`` that keeps its connections in our slots."""
    if cls is HTTPConnectionPool:
        return PooledConnections
    if cls is HTTPSConnectionPool:
        return _PooledTLSConnections
    # SOCKS: connecting is PySocks' business and cannot be interrupted; everything after it can.
    watched = type("_WatchedConnection", (WatchedConnection, cls.ConnectionCls), {})
    pooled = type("PooledConnections", (PooledConnections, cls), {"ConnectionCls": watched})
    return cast("type[PooledConnections]", pooled)
