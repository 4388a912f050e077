"""Threads that exist while there is work: one small pool for everything that runs beside its caller.

The rules that all of our threads share are kept here: they are daemons, so that a program can end; they end when there was
nothing to do for a while; they are started outside every lock, since starting one waits; a thread that the system refuses is
survived; and whatever a piece of work raises, its thread goes on to the next.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from hf_haul.forks import renew_after_fork

__all__ = ["ThreadGroup", "start_daemon"]

logger = logging.getLogger(__name__)

Work = Callable[[], object]

#: Seconds without work after which a thread ends.
_IDLE_SECONDS: Final = 5.0
#: What starting a thread raises where the system, or an interpreter that is ending, gives no more of them.
_REFUSED: Final = (RuntimeError, MemoryError)


def start_daemon(target: Callable[[], object], name: str) -> threading.Thread | None:
    """Start one daemon thread; call it without a lock, because starting waits.

    Returns:
        The thread; ``None`` where no more threads are to be had, or the interpreter is ending.
    """
    try:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
    except _REFUSED as error:
        logger.debug("no thread %s: %s", name, repr(error))
        return None
    return thread


class ThreadGroup:
    """A changing number of threads that take work from their owner until there is none.

    The owner keeps the work, in whatever order it likes, under a lock of its own. After adding some it calls :meth:`wake`,
    which is cheap and may be done under that lock, and then :meth:`start`, without any lock.

    In a forked child the group has no threads, and starts new ones.

    Locking: ``_changed`` guards the attributes below it. It is a leaf: nothing is called with it held.

    Args:
        name: Of the threads, with a number behind it.
        limit: Threads at once, at the most.
        take: Gives the next piece of work, or ``None``; called on the group's threads, without the group's lock.
        idle_seconds: Seconds without work after which a thread ends.
    """

    def __init__(
        self, name: str, limit: int, take: Callable[[], Work | None], *, idle_seconds: float = _IDLE_SECONDS
    ) -> None:
        self.name = name
        self.limit = limit
        self._take = take
        self._idle_seconds = idle_seconds
        self._renew()
        renew_after_fork(self, ThreadGroup._renew)

    def _renew(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._calls = 0  # of wake, that no thread has followed yet
        self._wanted = 0  # threads to be started
        self._starting = 0
        self._closing = False

    def __len__(self) -> int:
        """Threads there are."""
        return len(self._threads)

    @property
    def idle(self) -> int:
        """Threads that wait for work."""
        return self._idle

    def wake(self) -> None:
        """Have one thread look for work: one that is idle, or else one more, to be started by :meth:`start`."""
        with self._changed:
            if self._closing:
                return
            # Counted also where all are busy: one that has just found nothing looks once more.
            self._calls = min(self._calls + 1, self.limit)
            if self._calls <= self._idle:
                self._changed.notify()
            elif len(self._threads) + self._starting + self._wanted < self.limit:
                self._wanted += 1

    def start(self) -> bool:
        """Start the threads that :meth:`wake` found missing. Call it without a lock.

        Returns:
            Whether somebody will do the work. If not, the system gives no thread, and the caller has to do it, or to fail it.
        """
        while self._wanted:
            with self._changed:
                if not self._wanted:
                    break
                self._wanted -= 1
                self._starting += 1
                number = len(self._threads) + self._starting
            started = False
            try:
                started = start_daemon(self._run, f"{self.name}-{number}") is not None
            finally:
                with self._changed:
                    self._starting -= 1
                    if not started:
                        self._wanted = 0
            if not started:
                return bool(self._threads)
        return True

    def close(self) -> None:
        """Have the threads end after the work they are at, and wait for them; no more are started."""
        with self._changed:
            self._closing = True
            self._wanted = 0
            self._changed.notify_all()
        self.join()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the threads there are have ended; not for the calling one.

        Args:
            timeout: Seconds for each, at the most.
        """
        with self._changed:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout)

    def _run(self) -> None:
        me = threading.current_thread()
        with self._changed:
            # Not one too many: who counts threads cannot see one between its start and this line.
            if self._closing or len(self._threads) >= self.limit:
                return
            self._threads.add(me)
        try:
            while self._do_next() or self._wait(me):
                pass
        finally:
            with self._changed:
                self._threads.discard(me)

    def _do_next(self) -> bool:
        """Do a piece of work; returns whether there was one."""
        try:
            work = self._take()
        except BaseException:  # not tried again before the next call of wake: it would only fail again
            logger.warning("%s: no work to be had", self.name, exc_info=True)
            return False
        if work is None:
            return False
        try:
            work()
        except (
            BaseException
        ):  # the thread is everybody's; whoever waits for this work is told by the work itself
            logger.warning("%s: unexpected error", self.name, exc_info=True)
        return True

    def _wait(self, me: threading.Thread) -> bool:
        """Wait for a call of :meth:`wake`; returns whether to look for work again."""
        with self._changed:
            self._idle += 1
            try:
                self._changed.wait_for(lambda: self._calls or self._closing, self._idle_seconds)
            finally:
                self._idle -= 1
            if self._calls and not self._closing:
                self._calls -= 1
                return True
            # In the same breath: who calls wake next must not count on a thread that is about to end.
            self._threads.discard(me)
            return False
