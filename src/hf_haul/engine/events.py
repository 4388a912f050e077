"""Telling users how a download goes, from threads of its own, so that no callback can hurt it."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from hf_haul.forks import renew_after_fork
from hf_haul.task import DownloadProgress, DownloadTask
from hf_haul.threads import ThreadGroup

__all__ = [
    "DownloadEvent",
    "Event",
    "EventBus",
    "EventCallback",
    "EventFeed",
    "Notifier",
    "ProgressCallback",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

ProgressCallback = Callable[[DownloadProgress], None]
#: What ``on_event`` is called with; ``events.schema.json`` in the package has every field.
Event = dict[str, Any]
EventCallback = Callable[[Event], object]

#: Seconds that closing waits for a callback that does not return.
_FLUSH_SECONDS: Final = 2.0
#: Seconds for which a thread without anything to tell waits for more.
_LINGER: Final = 0.5
#: The same for ``on_event``: longer than from one report of progress to the next, so that one thread makes
#: all calls.
_FEED_LINGER: Final = 10.0
#: Events that wait for a slow observer at the most.
_EVENTS_KEPT: Final = 10_000


class _CallbackThread(Generic[T]):
    """Calls one callback with messages, on one thread, which lives only while there is something to tell.

    Where no thread is to be had, messages wait for one, or for somebody who calls :meth:`flush`.

    Locking: ``_changed`` guards the attributes below it; the callback runs outside it.

    Args:
        callback: The user's.
        name: Of the thread.
        most: Messages that wait at the most; beyond that the oldest are lost. ``None`` for any number.
        linger: Seconds for which the thread waits for more.
    """

    def __init__(
        self,
        callback: Callable[[T], object],
        name: str,
        most: int | None = None,
        *,
        linger: float = _LINGER,
    ) -> None:
        self._callback = callback
        self._name = name
        self._most = most
        self._linger = linger
        self.start_empty()

    def start_empty(self) -> None:
        """Forget what waits, and the thread; for a forked child, where it does not exist."""
        self._changed = threading.Condition()
        self._waiting: OrderedDict[object, T] = OrderedDict()
        self._telling: int | None = None  # the thread that is in the callback
        self._complained = False
        self._threads = ThreadGroup(self._name, 1, self._next_work, idle_seconds=self._linger)

    def put(self, key: object, message: T) -> None:
        """Add a message, which replaces an older one with the same key.

        Call it with the lock held, and :meth:`start` afterwards without.
        """
        self._waiting[key] = message
        if self._most is not None and len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
        self._threads.wake()

    def start(self) -> bool:
        """Deliver soon what was put; return whether there is a thread to do so. Call it without a lock."""
        return self._threads.start()

    def flush(self, timeout: float = _FLUSH_SECONDS, *, here: bool = True, end: bool = True) -> bool:
        """Wait until everything was delivered and the thread has ended.

        Args:
            timeout: Seconds, of which no more than two count.
            here: Whether to call the callback on this thread where no other is to be had. How long it takes
                is then up to the callback.
            end: Whether the thread is to end; if not, it waits for more.

        Returns:
            ``False`` if the callback did not return in time, or is what calls this.
        """
        deadline = time.monotonic() + max(0.0, min(timeout, _FLUSH_SECONDS))
        if not end and not self._waiting and self._telling is None:  # the usual case costs nothing
            return True
        with self._changed:
            if self._telling == threading.get_ident():
                return False
            if self._waiting:
                self._threads.wake()
        if not self.start() and here:
            self.tell_here(deadline)
        with self._changed:
            told = self._changed.wait_for(
                lambda: not self._waiting and self._telling is None, max(0.0, deadline - time.monotonic())
            )
        if not end:
            return told
        return self._threads.retire(max(0.0, deadline - time.monotonic())) and told

    def tell_here(self, deadline: float = math.inf) -> None:
        """Deliver what waits on this thread, unless there is a thread for it.

        Args:
            deadline: When to stop, in seconds of ``time.monotonic``; one message is delivered in any case.
        """
        while not len(self._threads) and self._next_work() is not None:
            self._tell(here=True)
            if time.monotonic() >= deadline:
                break
        if self._waiting:
            self._threads.wake()
            self.start()

    def _next_work(self) -> Callable[[], None] | None:
        with self._changed:
            return self._tell if self._waiting and self._telling is None else None

    def _tell(self, *, here: bool = False) -> None:
        """Deliver one message."""
        with self._changed:
            if self._telling is not None or not self._waiting:
                return
            self._telling = threading.get_ident()
        try:
            with self._changed:
                message = self._waiting.popitem(last=False)[1]
            self._callback(message)
        except BaseException as error:  # whatever it raises, even SystemExit, must not end the download
            if here and isinstance(error, KeyboardInterrupt):
                raise
            if not self._complained:
                self._complained = True
                logger.warning("%s: the callback raised; it will be called again", self._name, exc_info=True)
        finally:
            with self._changed:
                self._telling = None
                self._changed.notify_all()


class Notifier(_CallbackThread[DownloadProgress]):
    """Calls a user's progress callback, on a thread of its own.

    Of several messages about one file that wait, only the newest is delivered; a file's last message is
    always delivered. A callback that raises, whatever it raises, is logged and called again next time; one
    that blocks holds up nobody but itself.
    """

    def post(self, progress: DownloadProgress) -> None:
        """Deliver ``progress`` soon; it replaces an older message about the same file."""
        with self._changed:
            known = self._waiting.get(progress.task_id)
            if known is None or not known.status.final:
                self.put(progress.task_id, progress)
        self.start()


@dataclass(frozen=True, slots=True)
class DownloadEvent:
    """Something that happened, for tools that watch.

    Attributes:
        kind: ``queue_started``, ``queue_done``, ``file_retried``, ``file_done``, ``file_failed`` or
            ``file_cancelled``.
        at: Seconds since the epoch.
        model_id: What it is about, where known.
        queue_id: The queue, where known.
        task_id: The file's task, for events about files.
        file_path: The file, for events about files.
        details: More plain values, such as ``error``.
    """

    kind: str
    at: float
    model_id: str | None = None
    queue_id: str | None = None
    task_id: str | None = None
    file_path: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)


class EventBus:
    """Hands events to observers, each on a thread of its own.

    An observer that is slow gets its events late, and loses the oldest beyond a bound; one that raises is
    logged and called again.

    Locking: ``_lock`` guards the list of observers.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._observers: list[_Observer] = []
        renew_after_fork(self, EventBus._after_fork)

    @property
    def is_observed(self) -> bool:
        """Whether anybody listens."""
        return bool(self._observers)

    def subscribe(self, observer: Callable[[DownloadEvent], None]) -> Callable[[], None]:
        """Tell ``observer`` of every event from now on.

        Returns:
            Call it to unsubscribe.
        """
        watching = _Observer(observer)
        with self._lock:
            self._observers.append(watching)

        def unsubscribe() -> None:
            with self._lock:
                if watching in self._observers:
                    self._observers.remove(watching)

        return unsubscribe

    def emit(
        self, kind: str, task: DownloadTask | None = None, *, model_id: str | None = None, queue_id: str | None = None,
        **details: object,
    ) -> None:  # fmt: skip
        """Tell everybody; costs nothing where nobody listens."""
        if not self._observers:
            return
        event = DownloadEvent(
            kind,
            time.time(),
            model_id=task.model_id if task else model_id,
            queue_id=queue_id,
            task_id=task.task_id if task else None,
            file_path=task.file_path if task else None,
            details={name: value for name, value in details.items() if value is not None},
        )
        with self._lock:
            observers = list(self._observers)
        for observer in observers:
            observer.post(event)

    def flush(self, timeout: float = _FLUSH_SECONDS, *, here: bool = True) -> bool:
        """Wait until every observer was told everything.

        Args:
            timeout: Seconds, of which no more than two count.
            here: Whether to call observers on this thread where no other is to be had.

        Returns:
            ``False`` if an observer did not return in time, or is what calls this.
        """
        with self._lock:
            observers = list(self._observers)
        deadline = time.monotonic() + timeout
        over = [observer.flush(deadline - time.monotonic(), here=here) for observer in observers]
        return all(over)

    def tell_here(self) -> None:
        """Tell observers what waits for them on this thread, where there is no other for it."""
        with self._lock:
            observers = list(self._observers)
        for observer in observers:
            observer.tell_here()

    def _after_fork(self) -> None:
        """Keep the observers, and drop their messages, in a forked child: the parent delivers those."""
        self._lock = threading.Lock()
        for observer in self._observers:
            observer.start_empty()


class _Observer(_CallbackThread[DownloadEvent]):
    """One observer, its waiting events, and the thread that exists while there are any."""

    def __init__(self, callback: Callable[[DownloadEvent], None]) -> None:
        super().__init__(callback, "hf-haul-events", _EVENTS_KEPT)
        self._numbers = itertools.count()

    def post(self, event: DownloadEvent) -> None:
        with self._changed:
            self.put(next(self._numbers), event)
        self.start()


class EventFeed(_CallbackThread[Event]):
    """Calls a user's ``on_event``, on a thread of its own.

    Of several reports of progress that wait, only the newest is delivered; of other events the oldest are
    lost beyond a bound. A callback that raises, whatever it raises, is logged and called again; one that
    blocks holds up nobody but itself. In a forked child what waited is forgotten: the parent delivers it.
    """

    def __init__(self, callback: EventCallback) -> None:
        if not callable(callback):
            raise TypeError(f"on_event must be a function that takes a dict, not {callback!r}")
        super().__init__(callback, "hf-haul-on-event", _EVENTS_KEPT, linger=_FEED_LINGER)
        self._numbers = itertools.count()
        renew_after_fork(self, EventFeed.start_empty)

    def post(self, event: Event, sender: object) -> None:
        """Queue an event; call :meth:`start` afterwards, without any lock.

        Args:
            event: The event.
            sender: Whose it is: a report of progress takes the place of an older one of the same sender.
        """
        key: object = ("progress", sender) if event["ev"] == "progress" else next(self._numbers)
        with self._changed:
            self._waiting.pop(key, None)  # the newer one goes to the end: nothing is told out of order
            self.put(key, event)
