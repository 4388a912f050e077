"""Background disk work, such as closing files: one task at a time per file system."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Final

from hf_haul.threads import ThreadGroup

__all__ = ["Errands"]

logger = logging.getLogger(__name__)

#: Threads at the most, and so the disks that may hang at once before work for others has to wait.
_MOST: Final = 16

Work = Callable[[], object]


class Errands:
    """Runs work that may wait for a disk, so that who asks for it does not.

    What is to be done on one file system is done in order, by one thread at a time: a disk that does not
    answer so holds up its own files only, and one thread.

    Locking: ``_lock`` guards the attributes below it; work is done outside it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Hashable, OrderedDict[Hashable, Work]] = OrderedDict()
        self._busy: set[Hashable] = set()
        self._threads = ThreadGroup("hf-haul-errand", _MOST, self._next)

    def add(self, where: Hashable, what: Hashable, work: Work) -> None:
        """Queue work that is to be done soon. Call :meth:`start` afterwards, without a lock.

        Args:
            where: The file system, or whatever else has its work done in order.
            what: Names the work; what waits already under the same name is not added again.
            work: Does it. What it raises is logged.
        """
        with self._lock:
            self._waiting.setdefault(where, OrderedDict()).setdefault(what, work)
            self._threads.wake()

    def start(self) -> bool:
        """Start the threads that are missing; return whether there are threads to do the work."""
        return self._threads.start()

    def run_here(self) -> None:
        """Do what waits on the calling thread, where no other thread is to be had."""
        while not len(self._threads):
            work = self._next()
            if work is None:
                return
            work()

    def close(self, timeout: float | None = None) -> bool:
        """End the threads after all that waits.

        Args:
            timeout: Seconds to wait for them at the most.

        Returns:
            Whether they have ended.
        """
        return self._threads.close(timeout)

    def _next(self) -> Work | None:
        with self._lock:
            where = next((each for each in self._waiting if each not in self._busy), None)
            if where is None:
                return None
            self._busy.add(where)
            return partial(self._do, where)

    def _do(self, where: Hashable) -> None:
        try:
            with self._lock:
                _, work = self._waiting[where].popitem(last=False)
            work()
        except BaseException:
            logger.warning("unexpected error in disk work that nobody waits for", exc_info=True)
        finally:
            with self._lock:
                self._busy.discard(where)
                if not self._waiting[where]:
                    del self._waiting[where]
