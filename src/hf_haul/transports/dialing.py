"""Connections that can be interrupted while they resolve, connect, shake hands and wait."""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from hf_haul.threads import start_daemon
from hf_haul.transports.answer_head import Answer
from hf_haul.transports.request import WAITING, InterruptibleRequest, WokenError

__all__ = ["DialTimeoutError", "WakeableConnection", "WakeableTLSConnection", "WatchedConnection"]

#: Seconds after which the next address of a host is tried beside the last one (RFC 8305). With a first
#: address that is dead, 64 MiB come in 0.79 s; without this in 10.3 s, 13.1 times as long (11.4 to 14.1):
#: ``python -m tests.benchmarks --only mechanisms --row eyeballs``.
_NEXT_ADDRESS_AFTER: Final = 0.25
_IN_PROGRESS: Final = frozenset(
    {errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)}
)

Address = tuple[Any, ...]


class DialTimeoutError(ConnectTimeoutError):
    """No connection in time; urllib3's own class is also the base of other failures to connect."""


def _look_up(host: str, port: int, seconds: float | None, call: InterruptibleRequest | None) -> list[Address]:
    """Return the addresses of ``host``. A resolver cannot be interrupted, so it runs in another thread."""
    look_up = partial(socket.getaddrinfo, host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
    with suppress(socket.gaierror, UnicodeError):  # no address, but a name, or not even that
        return list(look_up(flags=socket.AI_NUMERICHOST))
    if call is None:
        return list(look_up())
    done = threading.Event()
    answer: list[list[Address] | BaseException] = []

    def run() -> None:
        try:
            answer.append(list(look_up()))
        except UnicodeError as error:  # no name at all, by the rules of IDNA
            answer.append(socket.gaierror(str(error)))
        except BaseException as error:  # noqa: BLE001  raised in the thread that asked
            answer.append(error)
        finally:
            done.set()

    call.enter("resolving its name")
    if start_daemon(run, "hf-haul-resolver") is None:
        run()  # no thread is to be had: here, then, and nothing can interrupt it
    with call.blocking(done.set):
        done.wait(seconds)
    if not answer:
        raise TimeoutError("name resolution timed out")
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


def _interleaved(addresses: list[Address]) -> deque[Address]:
    """Return the addresses with their families alternating, the resolver's first choice first (RFC 8305)."""
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
        """Wait for an attempt to end, successful or not, for ``pause`` seconds at most."""
        for key, _ in self._selector.select(pause):
            sock = cast("socket.socket", key.fileobj)
            if sock is self._woken:
                raise WokenError("interrupted")
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
    host: str, port: int, seconds: float | None, source: Any, options: Any, call: InterruptibleRequest | None
) -> socket.socket:
    started = time.monotonic()
    addresses = _look_up(host.strip("[]"), port, seconds, call)
    if call is not None:
        call.enter("connecting")
    left = None if seconds is None else max(0.001, seconds - (time.monotonic() - started))
    dialer = _Dialer(addresses, options, source)
    sock: socket.socket | None = None
    try:
        if call is None:
            sock = dialer.dial(left)
        else:
            with call.blocking(dialer.interrupt):
                sock = dialer.dial(left)
    except WokenError:
        if sock is not None:  # woken in the very moment of success
            sock.close()
        raise
    finally:
        dialer.close()
    sock.settimeout(seconds)
    return sock


class WatchedConnection(HTTPConnection):
    """A connection that tells its request what the thread blocks in."""

    response_class = Answer
    call: InterruptibleRequest | None = None
    _look: tuple[Any, Any] | None = None  # a socket, and what tells whether anything has come on it

    @property
    def is_connected(self) -> bool:
        """Whether it stands, and nothing has come that nobody asked for."""
        sock = self.sock
        # What TLS has taken from the socket is not seen there.
        pending = getattr(sock, "pending", None)
        if pending is not None and pending():
            return False
        if sock is None or not hasattr(select, "poll"):
            return super().is_connected
        if (
            self._look is None or self._look[0] is not sock
        ):  # made once, where urllib3 makes one for each look
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            self._look = sock, poll
        return not self._look[1].poll(0)

    def connect(self) -> None:
        """Connect, and tell the request which socket it is."""
        super().connect()
        if self.call is not None:
            self.call.attach(self.sock)

    def getresponse(self) -> Any:
        """Wait for the headers."""
        call, sock = self.call, self.sock
        if call is not None:
            call.enter(WAITING)
        answer = super().getresponse()
        read = answer._original_response  # noqa: SLF001  the one of http.client
        if self.sock is not None and isinstance(read, Answer):
            read.on_more = self.close
        if call is None:
            return answer
        if call.silence_limits is not None:
            with suppress(OSError):  # an answer without a body, and the connection is closed
                sock.settimeout(call.silence_limits.stall)
        if self.sock is None:  # closed after this answer, whose reader still holds the socket
            call.attach(sock)
        return answer

    def close(self) -> None:
        """Close, if no reader holds the socket; see ``http.client``."""
        self.let_go()
        super().close()

    def let_go(self) -> None:
        """Detach the socket from its request: it will be closed, or serve another one."""
        if self.call is not None:
            self.call.interrupt_with(None)


class WakeableConnection(WatchedConnection):
    """The same, and connecting can be interrupted."""

    def _new_conn(self) -> socket.socket:
        call = self.call
        seconds = self.timeout if isinstance(self.timeout, (int, float)) else None
        try:
            return _dial(self._dns_host, self.port, seconds, self.source_address, self.socket_options, call)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise DialTimeoutError(self, f"no connection within {seconds} s") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error


class WakeableTLSConnection(WakeableConnection, HTTPSConnection):
    """The same over TLS."""

    _handle: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        if self.call is not None:
            # The TLS layer takes the descriptor away from this object and gives us its own only after the
            # handshake; a second handle on the same connection can be shut down at any time between.
            try:
                self._handle = sock.dup()
            except OSError:
                sock.close()
                raise
            self.call.enter("in the TLS handshake")
            self.call.attach(self._handle)
        return sock

    def connect(self) -> None:
        """Connect and shake hands."""
        try:
            super().connect()
        except BaseException:
            self.let_go()
            raise
        finally:
            handle, self._handle = self._handle, None
            if handle is not None:
                handle.close()
