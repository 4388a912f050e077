"""One request as its cancel token sees it: another thread can end it, whatever its thread blocks in."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from hf_haul.cancellation import CancelToken, SilenceLimits
from hf_haul.errors import StalledError, StopRequestedError, TransferError

if TYPE_CHECKING:
    from hf_haul.transports.route import Route

__all__ = ["RECEIVING", "WAITING", "InterruptibleRequest", "WokenError", "active"]

#: The phases of a request that was sent.
WAITING: Final = "waiting for its answer"
RECEIVING: Final = "receiving"


class WokenError(OSError):
    """The blocking call was ended from another thread."""


class _Answer(Protocol):
    """What holds a connection."""

    def close(self) -> None: ...

    def release_conn(self) -> None: ...


class InterruptibleRequest:
    """One request, from the wait for a slot to the end of the body.

    Locking: ``_lock`` guards ``_interrupt`` and ``_over``. It is a leaf but for the interrupts called under
    it, which are short: a ``shutdown``, an ``Event.set``, a byte into a socket pair. Holding it makes sure
    that a late waker never meets a socket that was closed, or that serves somebody else by now.

    Attributes:
        by_session: Whether its session has more to do with the answer than to read it.
        silence_limits: How long it may bring nothing; ``None`` for what its pool was made with.
        raw: The answer. Kept here, and the call in its pool, until somebody has let go of it: urllib3's
            finalizer would close the connection, and take this lock, where the collector happens to run.
    """

    __slots__ = (
        "_interrupt", "_lock", "_over", "by_session", "cancel_token", "host", "new", "phase", "pool_closed", "raw", "reused", "route",
        "silence_limits", "since", "woken",
    )  # fmt: skip

    def __init__(self, cancel_token: CancelToken, host: str) -> None:
        self.cancel_token = cancel_token
        self.host = host
        self.silence_limits: SilenceLimits | None = cancel_token.silence_limits
        self.route: Route | None = None
        self.by_session = False
        self.new = False  # whether an idle connection will not do
        self.reused = False  # whether the connection had served before
        self.woken = False
        self.pool_closed = False
        self.phase = "starting"
        self.since = time.monotonic()
        self._lock = threading.Lock()
        self._interrupt: Callable[[], object] | None = None
        self._over = False
        self.raw: _Answer | None = None
        cancel_token.add_waker(self.wake)

    def enter(self, phase: str) -> None:
        """Begin a phase, whose name stands in messages."""
        self.phase = phase
        self.since = time.monotonic()

    def wake(self) -> None:
        """End what the thread blocks in; may be called from any thread, at any time."""
        with self._lock:
            if self._over:
                return
            self.woken = True
            if self._interrupt is not None:
                self._interrupt()

    def interrupt_with(self, interrupt: Callable[[], object] | None) -> None:
        """Make a wake call ``interrupt``, at once if it came already; ``None`` for nothing."""
        with self._lock:
            self._interrupt = interrupt
            if self.woken and interrupt is not None:
                interrupt()

    def attach(self, sock: Any) -> None:
        """Set the socket that the thread blocks in from now on."""
        self.interrupt_with(partial(_shut_down, sock))

    @contextmanager
    def blocking(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Make a wake call ``interrupt`` while the block runs; then raise :class:`WokenError`."""
        self.interrupt_with(interrupt)
        try:
            yield
        finally:
            self.interrupt_with(None)
        if self.woken:
            raise WokenError("interrupted")

    def end(self) -> None:
        """End the request: a wake does nothing from now on."""
        with self._lock:
            if self._over:
                return
            self._over = True
            self._interrupt = None
        self.cancel_token.remove_waker(self.wake)

    def seconds(self) -> float:
        """Return the seconds since the phase began."""
        return time.monotonic() - self.since

    def raise_if_woken(self, cause: BaseException | None = None) -> None:
        """Raise the error that a wake stands for."""
        if not self.woken:
            return
        if self.cancel_token.is_set():
            raise StopRequestedError from cause
        if self.pool_closed:
            raise TransferError("the connection pool was closed") from cause
        raise StalledError(f"{self.host}: interrupted while {self.phase}") from cause


def _shut_down(sock: Any) -> None:
    """End all calls of other threads on ``sock``, without freeing its descriptor."""
    while not isinstance(sock, socket.socket):  # TLS inside TLS, to a proxy
        sock = sock.socket
    with suppress(OSError):
        # Not SSLSocket.shutdown: that drops the TLS layer, and what the kernel still holds would then be
        # read as if it were plain bytes of the body.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Active(threading.local):
    """The request a thread is opening; ``None`` when a session is used without one."""

    call: InterruptibleRequest | None = None


active = _Active()
