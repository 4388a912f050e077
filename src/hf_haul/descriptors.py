"""How many files this process may still open, and what is done when there are none left.

A process may have so many files and sockets open at once (``ulimit -n``: 256 on macOS, 1,024 elsewhere), and
what it does besides may hold most of them. So downloads and reads ask here how many connections and files
they may use at once, which is measured again and again; and whatever opens something waits where nothing can
be opened, as long as others of ours, who will close theirs, hold some. If nobody does, an error says what is
missing.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from hf_haul.errors import TooManyOpenFilesError
from hf_haul.forks import call_after_fork

__all__ = ["Descriptors", "descriptors", "is_shortage"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Descriptors per download: its file, its socket, and, while it connects, up to four more, but not all do so
#: at once.
_PER_DOWNLOAD: Final = 4
#: Descriptors left for what takes a moment: metadata requests, metadata files, listings of folders.
_RESERVE: Final = 8
#: Seconds after which it is measured again, where there are few and where there are many.
_FEW, _MANY = 0.25, 5.0
#: So many are many.
_PLENTY: Final = 400
#: So many downloads at once are so few that it is a warning.
_TOO_FEW: Final = 6

#: Seconds between two attempts to open something.
_PAUSE: Final = 0.05
#: Seconds to wait where nobody of ours will close anything.
_ALONE_TIMEOUT: Final = 5.0
#: Seconds to wait in all where nobody can end the wait.
_TIMEOUT: Final = 30.0

_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE})


def is_shortage(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, says that no file can be opened any more."""
    seen: set[int] = set()
    todo = deque([error])
    while todo:
        one = todo.popleft()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        if isinstance(one, OSError) and one.errno in _SHORTAGES:
            return True
        seen.add(id(one))
        # Not what it was raised in the middle of, which may be another one that was dealt with; urllib3 has
        # reasons.
        todo.extend((one.__cause__, getattr(one, "reason", None), *one.args))
    return False


def _limit() -> int | None:
    """Return the descriptors that this process may have; ``None`` where there is no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _count() -> int | None:
    """Return the descriptors that are open now; ``None`` where the system does not say."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # but for the one that this takes
        except OSError as error:
            if error.errno in _SHORTAGES:
                return _limit()
    return None


class Descriptors:
    """What the limit of open files leaves for downloads and reads.

    Locking: none. Who waits and who holds something is noted by single operations on a dict; the numbers may
    be a moment old.

    Args:
        limit: Descriptors that the process may have; ``None`` for no limit.
        count: Descriptors that are open.
        clock: Seconds, monotonic.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        limit: Callable[[], int | None] = _limit,
        count: Callable[[], int | None] = _count,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._limit = limit
        self._count = count
        self._clock = clock
        self._sleep = sleep
        self._next = 0.0
        self._room: int | None = None
        self._told = 1 << 30
        self._waiting: dict[int, int] = {}
        self._alone_since: dict[str, float] = {}
        self._holders: dict[int, tuple[weakref.ref[Any], Callable[[Any], int]]] = {}

    def register(self, holder: T, held: Callable[[T], int]) -> None:
        """Count what ``holder`` holds as this library's, for as long as the holder lives.

        Args:
            holder: Whoever opens files or sockets. It is not kept alive.
            held: How many it holds that it will close by itself in time. It takes no lock that is held while
                something is opened.
        """
        self._holders[id(holder)] = (weakref.ref(holder), held)

    def measure(self) -> None:
        """Measure how many descriptors are free, if it is time to.

        Call it without a lock: it asks the system.
        """
        now = self._clock()
        if now < self._next:
            return
        self._next = now + _FEW
        limit = self._limit()
        count = None if limit is None else self._count()
        if limit is None or count is None:
            self._room, self._next = None, now + _MANY
            return
        free = max(0, limit - count)
        self._room = free + self._held()
        if free > _PLENTY:
            self._next = now + _MANY
        self._tell(free, limit)

    def downloads(self, settled: int = 0) -> int:
        """Return the most connections, and the most files, that may be in use at once, as last measured.

        Args:
            settled: How many of those that we hold will not be closed soon.
        """
        if self._room is None:
            return 1 << 30
        return max(1, (self._room - settled - _RESERVE) // _PER_DOWNLOAD)

    def retry_on_shortage(
        self,
        work: Callable[[], T],
        check: Callable[[], None] | None = None,
        own: int = 0,
        what: str = "a file",
    ) -> T:
        """Call ``work``, and call it again while the process has too few file descriptors.

        Args:
            work: Opens a file or a connection, or does nothing. Call it without a lock held.
            check: Called between attempts; raises to end the wait. Without it a wait ends after half a
                minute.
            own: How many descriptors the caller holds meanwhile.
            what: What it opens, for messages. Where nobody will close anything, all callers with the same
                ``what`` share one time limit.

        Raises:
            TooManyOpenFilesError: Nothing can be opened, and nobody of ours will close anything.
            BaseException: What ``work`` raises, and ``check``.
        """
        try:
            return self._opened(what, work())
        except Exception as error:
            if not is_shortage(error) or isinstance(error, TooManyOpenFilesError):
                raise
        began = self._clock()
        thread = threading.get_ident()
        self._waiting[thread] = own
        try:
            while True:
                self._sleep(_PAUSE)
                if check is not None:
                    check()
                try:
                    return self._opened(what, work())
                except Exception as error:
                    if not is_shortage(error) or isinstance(error, TooManyOpenFilesError):
                        raise
                    now = self._clock()
                    if self._others_hold():
                        self._alone_since.pop(what, None)
                    alone = now - self._alone_since.setdefault(what, now)
                    if alone > _ALONE_TIMEOUT or (check is None and now - began > _TIMEOUT):
                        raise self._error(what) from error
        finally:
            self._waiting.pop(thread, None)
            self._next = 0.0

    def _opened(self, what: str, result: T) -> T:
        if self._alone_since:
            self._alone_since.pop(what, None)
        return result

    def forget_others(self) -> None:
        """Forget, in a forked child, the threads that wait in the parent."""
        self._waiting.clear()
        self._alone_since.clear()
        self._next = 0.0

    def _held(self) -> int:
        total = 0
        for key, (reference, held) in self._holders.copy().items():
            holder = reference()
            if holder is None:
                self._holders.pop(key, None)
            else:
                total += held(holder)
        return total

    def _others_hold(self) -> bool:
        """Return whether a download or read that waits for no descriptor holds one, and so will close it."""
        return self._held() > sum(list(self._waiting.values()))

    def _tell(self, free: int, limit: int) -> None:
        most = self.downloads()
        if most > self._told // 2 or most > 32:
            return
        self._told = most
        logger.log(
            logging.WARNING if most <= _TOO_FEW else logging.INFO,
            "%d file descriptors are free of the %d that this process may have: no more than %d connections and files "
            "at once. `ulimit -n` raises the limit.",
            free,
            limit,
            most,
        )

    def _error(self, what: str) -> TooManyOpenFilesError:
        limit, count = self._limit(), self._count()
        used = f"{count} of {limit} are open" if limit is not None and count is not None else "all are in use"
        return TooManyOpenFilesError(
            f"There is no file descriptor for {what}: {used}, {self._held()} of them by downloads. Raise the limit "
            "(`ulimit -n 4096`), or close files."
        )


#: Those of this process.
descriptors: Final = Descriptors()
call_after_fork(descriptors.forget_others)
