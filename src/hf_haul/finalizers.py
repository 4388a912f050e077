"""Work that finalizers leave for ordinary code to do.

A finalizer (``__del__``, a weak reference's callback, the ``finally`` of a generator that nobody reads to its
end) runs where the last reference goes, or where the garbage collector happens to run: in any thread, at any
allocation, also in the middle of code that holds a lock. If it takes that lock, its thread waits for itself
for ever; if it waits for anything else, so do all who wait for that lock. And the collector closes open files
through whatever is wrapped around them, so ``close`` of a file is such code, too.

So a finalizer takes no lock and waits for nothing. What is to be done it hands to :func:`defer`, and a thread
does it. A finalizer cannot start that thread either; so ordinary code calls :func:`attend` as long as
something is under way that a finalizer may have to end, and :func:`catch_up` where it begins something new.
What goes with an object that may live for long, and go when nothing else happens any more, is left to
:func:`when_gone`; :func:`meanwhile` takes care of what may go while something takes long.
"""

from __future__ import annotations

import itertools
import logging
import queue
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hf_haul.forks import call_after_fork
from hf_haul.threads import start_daemon

__all__ = ["attend", "catch_up", "defer", "meanwhile", "when_gone"]

logger = logging.getLogger(__name__)

Work = Callable[[], object]

#: Seconds after the last call of :func:`attend` at which the thread ends, if nothing is left to do or
#: expected.
_IDLE_SECONDS: Final = 5.0

#: What :func:`when_gone` has still to do. Changed by single operations on a set, which are atomic.
_expected: Final[set[int]] = set()
#: What is under way in :func:`meanwhile`, likewise.
_under_way: Final[set[int]] = set()
_numbers: Final = itertools.count()


class _Deferred:
    """The deferred work, and the thread that does it.

    No lock: ``SimpleQueue.put`` is made to be called from finalizers, and everything else is a single
    assignment. At the worst there are two threads for a while. Not a
    :class:`~hf_haul.threads.ThreadGroup`, which has a lock.

    Args:
        idle_seconds: Seconds without work after which the thread ends.
    """

    def __init__(self, idle_seconds: float = _IDLE_SECONDS) -> None:
        self.idle_seconds = idle_seconds
        self.work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.attended_at = time.monotonic()
        self.has_thread = False

    def attend(self) -> None:
        self.attended_at = time.monotonic()
        if self.has_thread:
            return
        self.has_thread = True
        if start_daemon(self.run, "hf-haul-finalizers") is None:
            self.has_thread = False
            while not self.work.empty():  # no thread is to be had: here, then
                self.do_next(0.0)

    def run(self) -> None:
        try:
            while self.do_next(self.idle_seconds) or self.is_wanted():
                pass
        finally:
            self.has_thread = False
        if self.is_wanted():  # since the last look
            self.attend()

    def is_wanted(self) -> bool:
        return bool(_expected or _under_way) or time.monotonic() - self.attended_at < self.idle_seconds

    def do_next(self, seconds: float) -> bool:
        try:
            work = self.work.get(timeout=seconds)
        except queue.Empty:
            return False
        try:
            work()
        except Exception:
            logger.warning("unexpected error in work that a finalizer deferred", exc_info=True)
        return True


_deferred = _Deferred()


def defer(work: Work) -> None:
    """Queue ``work()`` to be called soon in ordinary code; return at once. A finalizer may call it."""
    _deferred.work.put(work)


def attend() -> None:
    """Make sure that what finalizers defer in the next seconds is done at once.

    Call it without a lock, because it may start a thread; where none is to be had, it does what is left.
    """
    _deferred.attend()


def catch_up() -> None:
    """Make sure that what finalizers have deferred is done; call it without a lock."""
    if not _deferred.work.empty():
        _deferred.attend()


@contextmanager
def meanwhile() -> Iterator[None]:
    """Do at once, in another thread, what finalizers defer while the block runs.

    Enter it without a lock, as :func:`attend`.
    """
    number = next(_numbers)
    _under_way.add(number)
    try:
        attend()
        yield
    finally:
        _under_way.discard(number)


def when_gone(owner: object, work: Work) -> None:
    """Call ``work()`` in ordinary code soon after ``owner`` is collected, on a thread kept until then.

    Call it without a lock, as :func:`attend`. ``work`` must not keep ``owner`` alive.
    """
    number = next(_numbers)

    def do_it() -> None:
        _expected.discard(number)
        work()

    _expected.add(number)
    weakref.finalize(owner, defer, do_it).atexit = False
    attend()


def _after_fork() -> None:
    global _deferred
    _deferred = _Deferred()  # the parent sees to its own
    _under_way.clear()


call_after_fork(_after_fork)
