"""CancelToken: a request to stop that also wakes a worker blocked in I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from hf_haul.errors import StopRequestedError
from hf_haul.waits import Waits, unattended

__all__ = ["CancelToken", "SilenceLimits"]

#: Seconds of the longest wait of the main thread in one call: a signal that comes just before the system's
#: call is seen only after it.
_LONGEST_SECONDS: Final = 0.5


class SilenceLimits(NamedTuple):
    """How long a request may bring nothing, in seconds.

    Attributes:
        answer: From a request that was sent to the end of its answer's headers; for each redirect anew.
        stall: Between two bytes of a body.
    """

    answer: float
    stall: float


class CancelToken:
    """Pause, cancel or close, as one worker sees it.

    Every wait of a worker (limiter, backoff, pace, a slot in the pool) is a wait on its cancel token, and
    every blocking call registers a waker for as long as it blocks. So one call to :meth:`set` ends them all.

    Locking: ``_lock`` guards ``_wakers``. Wakers run outside it; they may be called twice, and after the
    blocking call has ended, and must bear it.

    Attributes:
        queued: Whether the worker waits for its turn (a slot in the pool, the pace a server asked for,
            another thread's answer, its file's digest) and not for the network: nothing is wrong with its
            connection then.
        server_wait: Seconds it has waited because a server asked for it.
        holds: Files that the worker has open meanwhile; see `hf_haul.descriptors`.
        waits: Where the worker reports what it waits for.
        dequeued_at: When it last stopped waiting so, or got an answer that sends it on to the next request,
            in seconds of ``time.monotonic``.
        slowest_hop: Seconds of the longest wait since :meth:`asks` for an answer that sent it on.
        silence_limits: How long the worker's requests may bring nothing; ``None`` if somebody else looks
            after that.
    """

    def __init__(self, waits: Waits = unattended) -> None:
        self.waits = waits
        self.queued = False
        self.server_wait = 0.0
        self.holds = 0
        self.dequeued_at = float("-inf")
        self.slowest_hop = 0.0
        self.silence_limits: SilenceLimits | None = None
        self._asked_at = float("-inf")
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []

    def set(self) -> None:
        """Ask the worker to stop, and wake it if it is blocked."""
        self._event.set()
        self.wake()

    def is_set(self) -> bool:
        """Return whether the worker was asked to stop."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for at most ``seconds``.

        Returns:
            Whether the worker was asked to stop meanwhile.
        """
        if threading.current_thread() is threading.main_thread():
            while seconds > _LONGEST_SECONDS:
                if self._event.wait(_LONGEST_SECONDS):
                    return True
                seconds -= _LONGEST_SECONDS
        return self._event.wait(seconds)

    def check(self) -> None:
        """Raise if the worker was asked to stop.

        Raises:
            StopRequestedError: It was.
        """
        if self._event.is_set():
            raise StopRequestedError

    def wake(self) -> None:
        """Interrupt the blocking call under way, if any, without asking the worker to stop.

        The call fails as a lost connection would, and the worker's retry goes on from there.
        """
        with self._lock:
            wakers = list(self._wakers)
        for waker in wakers:
            waker()

    @contextmanager
    def queueing(self) -> Iterator[None]:
        """Note that the worker waits for its turn while the block runs."""
        self.queued = True
        try:
            yield
        finally:
            self.dequeued_at = time.monotonic()
            self.queued = False

    def asks(self) -> None:
        """Note that the worker is about to send a request."""
        self.slowest_hop = 0.0
        self._asked_at = time.monotonic()

    def answered(self) -> None:
        """Note that the network answered, and that the worker waits for another answer, as in a redirect."""
        now = time.monotonic()
        self.slowest_hop = max(self.slowest_hop, now - max(self._asked_at, self.dequeued_at))
        self.dequeued_at = now

    @contextmanager
    def waking(self, waker: Callable[[], None]) -> Iterator[None]:
        """Call ``waker`` whenever the token is set or woken while the block runs.

        Args:
            waker: Ends the block's blocking call from another thread, for instance by shutting its
                socket down. Called at once if the token is set already.
        """
        self.add_waker(waker)
        try:
            yield
        finally:
            self.remove_waker(waker)

    def add_waker(self, waker: Callable[[], None]) -> None:
        """Call ``waker`` whenever the token is set or woken, until :meth:`remove_waker`."""
        with self._lock:
            self._wakers.append(waker)
        try:
            if self._event.is_set():
                waker()
        except BaseException:
            self.remove_waker(waker)
            raise

    def remove_waker(self, waker: Callable[[], None]) -> None:
        """Undo :meth:`add_waker`."""
        with self._lock:
            self._wakers.remove(waker)
