"""Threads that exist while there is work: one small pool for everything that runs beside its caller.

The rules that all of our threads share are kept here: they are daemons, so that a program can end; they end
when there was nothing to do for a while; they are started outside every lock, since starting one waits; a
thread that the system refuses is survived; and whatever a piece of work raises, its thread goes on to the
next.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

from hf_haul.forks import renew_after_fork

__all__ = ["ThreadGroup", "in_threads", "results_in_threads", "start_daemon"]

logger = logging.getLogger(__name__)

Work = Callable[[], object]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Seconds without work after which a thread ends.
_IDLE_SECONDS: Final = 5.0
#: What starting a thread raises where the system, or an interpreter that is ending, gives no more of them.
_REFUSED: Final = (RuntimeError, MemoryError)
#: Seconds between two looks whether a thread that should begin is still there.
_LOOK_SECONDS: Final = 0.05
#: Seconds before a thread looks for work again after it found no memory to do so.
_SHORTAGE_SECONDS: Final = 0.05
#: Seconds that what is under way gets to come to rest when who waits for it is interrupted.
_GRACE_SECONDS: Final = 0.4


def start_daemon(target: Callable[[], object], name: str) -> threading.Thread | None:
    """Start one daemon thread; call it without a lock, because starting waits.

    Returns:
        The thread; ``None`` where no more threads are to be had, or the interpreter is ending.
    """

    def work(begun: Callable[[], None]) -> None:
        begun()
        target()

    return _start(work, name)


def _start(work: Callable[[Callable[[], None]], object], name: str) -> threading.Thread | None:
    """Start a thread that calls ``work`` with a function to say that it has begun, and wait until it does."""
    try:
        thread = _Daemon(work, name)
        thread.start()
    except _REFUSED as error:
        logger.debug("no thread %s: %s", name, repr(error))
        return None
    if not thread.wait_until_begun():
        logger.debug("no thread %s: it ended before it began", name)
        return None
    return thread


class _Unwaited(threading.Event):
    """An event for callers that do not wait."""

    def wait(self, timeout: float | None = None) -> bool:
        del timeout
        return self.is_set()


class _Daemon(threading.Thread):
    """A daemon thread whose early death is also reported to its starter.

    ``Thread.start`` waits for an event that the new thread sets. One that finds no memory on its way there
    never does, and ``start`` waits for ever (https://github.com/python/cpython/issues/140746). So that event
    is not waited for, but a lock that the new thread releases, or the end of the method that it runs, which
    nobody else refers to.
    """

    def __init__(self, work: Callable[[Callable[[], None]], object], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._begun = threading.Lock()
        self._begun.acquire()
        self._started = _Unwaited()
        self._running: weakref.ref[Any] | None = None

    @property
    def _bootstrap(self) -> Callable[[], None]:
        """Run as ``Thread.start`` has the new thread do."""
        method: Callable[[], None] = super()._bootstrap  # type: ignore[misc]  # CPython's, not in the stubs
        self._running = weakref.ref(method)
        return method

    def run(self) -> None:
        work = self._work
        del self._work
        work(self._begun.release)

    def wait_until_begun(self) -> bool:
        """Wait until the thread says that it has begun; return whether it did."""
        while not self._begun.acquire(timeout=_LOOK_SECONDS):
            gone = self._running is not None and self._running() is None
            if gone and not self._begun.acquire(blocking=False):
                getattr(threading, "_limbo", {}).pop(self, None)  # or it would be enumerated for ever
                return False
        return True


class ThreadGroup:
    """A changing number of threads that do their owner's work until there is none.

    The owner keeps the work, in whatever order it likes, under a lock of its own. After adding some it calls
    :meth:`wake`, which is cheap and may be done under that lock, and then :meth:`start`, without any lock.

    In a forked child the group has no threads, and starts new ones.

    Locking: ``_changed`` guards the attributes below it. It is a leaf: nothing is called with it held.

    Args:
        name: Of the threads, with a number behind it.
        limit: Threads at once, at the most.
        take: Gives the next piece of work, or ``None``; called on the group's threads, without the group's
            lock.
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
        self._retiring = 0  # calls of retire that wait
        self._closing = False

    def __len__(self) -> int:
        """Return the threads there are."""
        return len(self._threads)

    @property
    def idle(self) -> int:
        """Threads that wait for work."""
        return self._idle

    def wake(self) -> None:
        """Wake an idle thread, or mark one to be started by :meth:`start`."""
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
        """Start the threads that :meth:`wake` marked. Call it without a lock.

        Returns:
            Whether somebody will do the work. If not, the system gives no thread, and the caller has to do
            it, or to fail it.
        """
        while self._wanted and self._start_one():
            pass
        # The usual cases cost no lock: the threads are there, or nothing is to be done.
        if not self._starting and (self._threads or not (self._calls or self._closing)):
            return True
        with self._changed:
            # One that somebody else is starting may yet be refused.
            self._changed.wait_for(lambda: self._threads or not self._starting)
            return bool(self._threads) or not (self._calls or self._closing)

    def _start_one(self) -> bool:
        """Start a thread, if one is missing; return whether to go on."""
        with self._changed:
            if not self._wanted:
                return False
            self._wanted -= 1
            self._starting += 1
            number = len(self._threads) + self._starting
        started = False
        try:
            started = _start(self._run, f"{self.name}-{number}") is not None
        finally:
            with self._changed:
                self._starting -= 1
                if not started:
                    self._wanted = 0
                self._changed.notify_all()
        return started

    def retire(self, timeout: float | None = None) -> bool:
        """End the threads once they find no work, and wait for them; later work gets new ones.

        Args:
            timeout: Seconds to wait at the most.

        Returns:
            Whether they have ended; the calling one does not count.
        """
        with self._changed:
            self._retiring += 1
            self._changed.notify_all()
        try:
            return self.join(timeout)
        finally:
            with self._changed:
                self._retiring -= 1

    def close(self, timeout: float | None = None) -> bool:
        """End the threads after their current work, and wait for them; no more are started.

        Args:
            timeout: Seconds to wait at the most.

        Returns:
            Whether they have ended; the calling one does not count.
        """
        with self._changed:
            self._closing = True
            self._wanted = 0
            self._changed.notify_all()
        return self.join(timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all threads but the calling one have ended.

        Args:
            timeout: Seconds to wait at the most, for all of them together.

        Returns:
            Whether they have ended.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _run(self, begun: Callable[[], None]) -> None:
        me = threading.current_thread()
        with self._changed:
            # Not one too many: who counts threads cannot see one between its start and this line.
            if not self._closing and len(self._threads) < self.limit:
                self._threads.add(me)
                self._changed.notify_all()
        begun()
        try:
            while me in self._threads:
                self._do_all(me)
        finally:
            with self._changed:
                self._threads.discard(me)

    def _do_all(self, me: threading.Thread) -> None:
        """Do work until there was none for a while; then the thread leaves the group."""
        try:
            while self._do_next() or self._wait(me):
                pass
        except BaseException as error:  # noqa: BLE001  no memory left, in the lines of the group itself
            logger.debug("%s: %s", self.name, repr(error))
            time.sleep(_SHORTAGE_SECONDS)

    def _do_next(self) -> bool:
        """Do a piece of work; return whether there was one."""
        try:
            work = self._take()
        except BaseException:  # not tried again before the next call of wake: it would only fail again
            logger.warning("%s: could not get the next work", self.name, exc_info=True)
            return False
        if work is None:
            return False
        try:
            work()
        except BaseException:  # the thread does others' work, too; this work tells whoever waits for it
            logger.warning("%s: unexpected error", self.name, exc_info=True)
        return True

    def _wait(self, me: threading.Thread) -> bool:
        """Wait for a call of :meth:`wake`; return whether to look for work again."""
        with self._changed:
            self._idle += 1
            try:
                self._changed.wait_for(
                    lambda: self._calls or self._closing or self._retiring, self._idle_seconds
                )
            finally:
                self._idle -= 1
            if self._calls and not self._closing:
                self._calls -= 1
                return True
            # In the same breath: who calls wake next must not count on a thread that is about to end.
            self._threads.discard(me)
            return False


def in_threads(
    name: str, limit: int, work: Callable[[K], V], items: Iterable[K], stop: Callable[[], object]
) -> dict[K, V]:
    """Do some work for each of several items on a few threads, and wait for all of it.

    Args:
        name: Of the threads, with a number behind it.
        limit: Threads at the most.
        work: Does it; for one of the things it may be called twice, if memory is short.
        items: The things; each counts once.
        stop: Called before the end by an interrupt or an error: has ``work`` end soon, wherever it is under
            way.

    Returns:
        What ``work`` returned, by thing, in their order.

    Raises:
        BaseException: What ``work`` raised, or the interrupt.
    """
    found: dict[K, Any] = dict.fromkeys(items)
    with closing(results_in_threads(name, limit, work, found, stop)) as results:
        for result in results:
            if result is not None:
                found[result[0]] = result[1]
    return found


def results_in_threads(
    name: str, limit: int, work: Callable[[K], V], items: Iterable[K], stop: Callable[[], object]
) -> Generator[tuple[K, V] | None, None, None]:
    """Do some work for each of several items on a few threads, and yield each result as it comes.

    Unlike an executor it lets the caller go at an interrupt, and at the first error: what was not begun never
    is, and what is under way is told to stop, and waited for no longer than a moment. Where no thread is to
    be had, the caller does the work. Close it (``contextlib.closing``) if it is not read to its end.

    Args:
        name: Of the threads, with a number behind it.
        limit: Threads at the most.
        work: Does it; for one of the things it may be called twice, if memory is short.
        items: The things; each counts once.
        stop: Called before the end by an interrupt, an error, or closing: has ``work`` end soon, wherever it
            is under way.

    Yields:
        A thing and what ``work`` returned; ``None`` several times a second while there is no result, so that
        the caller can look at something else.

    Raises:
        BaseException: What ``work`` raised, or the interrupt.
    """
    batch = _Batch(work, items)
    threads = ThreadGroup(name, min(limit, max(1, len(batch.waiting))), batch.take)
    try:
        yield from batch.results(threads)
    except BaseException:
        batch.left.clear()
        stop()
        raise
    finally:
        threads.close(_GRACE_SECONDS)


class _Batch(Generic[K, V]):
    """Work for several items, done by whatever threads come."""

    def __init__(self, work: Callable[[K], V], items: Iterable[K]) -> None:
        self._work = work
        self.waiting = dict.fromkeys(items)  # without a result yet; of the caller alone
        self.left = deque(self.waiting)
        self._ended: queue.SimpleQueue[tuple[K, V | None, BaseException | None]] = queue.SimpleQueue()

    def take(self) -> Work | None:
        return partial(self._do, self.left.popleft()) if self.left else None

    def _do(self, item: K) -> None:
        try:
            self._ended.put((item, self._work(item), None))
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            self._ended.put((item, None, error))

    def results(self, threads: ThreadGroup) -> Iterator[tuple[K, V] | None]:
        for _ in self.waiting:
            threads.wake()
        while self.waiting:
            if not threads.start():
                self._do(next(iter(self.waiting)))
            try:
                item, value, error = self._ended.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if not len(threads):  # they ended on their way to it
                    self._do(next(iter(self.waiting)))
                yield None
                continue
            if error is not None:
                raise error
            if item in self.waiting:
                del self.waiting[item]
                yield item, cast("V", value)
