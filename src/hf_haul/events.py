"""Telling users how a download goes, from threads of its own, so that no callback can hurt it."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from hf_haul.task import DownloadProgress, DownloadTask

__all__ = ["DownloadEvent", "EventBus", "Notifier", "ProgressCallback"]

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[DownloadProgress], None]

#: Seconds that closing waits for a callback that does not return.
_PATIENCE: Final = 2.0
#: Events that wait for a slow observer at the most.
_EVENTS_KEPT: Final = 10_000


class Notifier:
    """Calls one user's callback, on one thread, which lives only while there is something to tell.

    Of several messages about one file that wait, only the newest is delivered; a file's last message is
    always delivered. A callback that raises is logged and called again next time; one that blocks holds
    up nobody but itself.

    Locking: ``_cond`` guards the attributes below it; the callback runs outside it.
    """

    def __init__(self, callback: ProgressCallback, name: str) -> None:
        self._callback = callback
        self._name = name
        self._cond = threading.Condition()
        self._waiting: OrderedDict[str, DownloadProgress] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._complained = False

    def post(self, progress: DownloadProgress) -> None:
        """Have ``progress`` delivered soon; it replaces an older message about the same file."""
        with self._cond:
            known = self._waiting.get(progress.task_id)
            if known is not None and known.status.final:
                return
            self._waiting[progress.task_id] = progress
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver, name=self._name, daemon=True)
                self._thread.start()

    def flush(self, timeout: float = _PATIENCE) -> bool:
        """Wait until everything posted was delivered; ``False`` if the callback did not return in time."""
        if threading.current_thread() is self._thread:
            return False  # called from the callback itself
        with self._cond:
            return self._cond.wait_for(lambda: self._thread is None, timeout)

    def _deliver(self) -> None:
        while True:
            with self._cond:
                if not self._waiting:
                    self._thread = None
                    self._cond.notify_all()
                    return
                _, progress = self._waiting.popitem(last=False)
            try:
                self._callback(progress)
            except Exception:  # whatever it raises must not end the download
                if not self._complained:
                    self._complained = True
                    logger.warning("a progress callback raised; it will be called again", exc_info=True)


@dataclass(frozen=True, slots=True)
class DownloadEvent:
    """Something that happened, for tools that watch.

    Attributes:
        kind: ``queue_started``, ``queue_done``, ``file_retried``, ``file_done``, ``file_failed`` or ``file_cancelled``.
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

    def subscribe(self, observer: Callable[[DownloadEvent], None]) -> Callable[[], None]:
        """Have ``observer`` told of every event from now on.

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


class _Observer:
    """One observer, its waiting events, and the thread that exists while there are any."""

    def __init__(self, callback: Callable[[DownloadEvent], None]) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        self._waiting: deque[DownloadEvent] = deque(maxlen=_EVENTS_KEPT)
        self._busy = False

    def post(self, event: DownloadEvent) -> None:
        with self._lock:
            self._waiting.append(event)
            if self._busy:
                return
            self._busy = True
        threading.Thread(target=self._deliver, name="hf-haul-events", daemon=True).start()

    def _deliver(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._busy = False
                    return
                event = self._waiting.popleft()
            try:
                self._callback(event)
            except Exception:  # whatever it raises must not end the download
                logger.warning("an observer raised; it will be called again", exc_info=True)
