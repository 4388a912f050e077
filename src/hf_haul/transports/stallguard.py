"""Ends requests that have waited too long for a byte, so that they are repeated."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.finalizers import attend
from hf_haul.forks import renew_after_fork
from hf_haul.threads import ThreadGroup

__all__ = ["StallGuard", "Watched"]

logger = logging.getLogger(__name__)

#: Seconds between two looks, at the most.
_LOOK_SECONDS: Final = 1.0


class Watched:
    """One reader's requests, one after another.

    Attributes:
        cancel_token: What its requests are made with.
        busy_since: When its present wait for the network began, ``None`` between two.
        stalled: Seconds it had waited when it was given up, ``None`` if it was not.
        timeout: Seconds that this wait may take; ``None`` for what the guard says.
        unanswered: Waits in a row that were given up before an answer came.
    """

    __slots__ = ("busy_since", "cancel_token", "stalled", "timeout", "unanswered")

    def __init__(self, cancel_token: CancelToken) -> None:
        self.cancel_token = cancel_token
        self.busy_since: float | None = None
        self.stalled: float | None = None
        self.timeout: float | None = None
        self.unanswered = 0

    def begin(self, now: float, timeout: float | None = None) -> None:
        """Note that the reader waits for the network, for at most ``timeout`` seconds if given."""
        self.stalled = None
        self.timeout = timeout
        self.busy_since = now

    def end(self) -> None:
        """Note that the reader no longer waits."""
        self.busy_since = None

    def seconds(self, now: float) -> float:
        """Return the seconds it has waited for the network, without waits for a connection slot."""
        began = self.busy_since
        if began is None or self.cancel_token.queued:
            return 0.0
        return now - max(began, self.cancel_token.dequeued_at)


class StallGuard:
    """Watches readers, on a thread that lives while there are any.

    Locking: ``_lock`` guards ``_readers``. Readers are woken outside it.

    Args:
        timeout: Seconds between two bytes after which a request is ended.
        clock: Seconds, on ``time.monotonic``'s scale.
    """

    def __init__(self, timeout: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._pause = min(_LOOK_SECONDS, timeout / 4)
        self._thread = ThreadGroup("hf-haul-stalls", 1, self._next)
        self._reset()
        renew_after_fork(self, StallGuard._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._readers: set[Watched] = set()

    @contextmanager
    def watching(self, cancel_token: CancelToken) -> Iterator[Watched]:
        """Watch a reader while the block runs; setting ``cancel_token`` sets the reader's own."""
        watched = Watched(CancelToken())
        with self._lock:
            self._readers.add(watched)
        try:
            self._thread.wake()
            self._thread.start()  # where no thread is to be had, sockets have a time limit of their own
            with cancel_token.waking(watched.cancel_token.set):
                yield watched
        finally:
            with self._lock:
                self._readers.discard(watched)

    def check(self) -> None:
        """End the requests that have stalled."""
        now = self._clock()
        with self._lock:
            readers = list(self._readers)
        for reader in readers:
            waited = reader.seconds(now)
            if waited >= (self._timeout if reader.timeout is None else reader.timeout):
                reader.stalled = waited
                try:
                    reader.cancel_token.wake()
                except Exception:  # the others have to be woken all the same
                    logger.warning("a stalled request could not be ended", exc_info=True)

    def _next(self) -> Callable[[], None] | None:
        return self._look if self._readers else None

    def _look(self) -> None:
        time.sleep(self._pause)
        attend()
        self.check()
