"""Telling users how a download goes, from threads of its own, so that no callback can hurt it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from hf_haul.task import DownloadProgress

__all__ = ["Notifier", "ProgressCallback"]

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[DownloadProgress], None]

#: Seconds that closing waits for a callback that does not return.
_PATIENCE: Final = 2.0


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
            except Exception:  # noqa: BLE001  whatever a user's callback raises must not end the download
                if not self._complained:
                    self._complained = True
                    logger.warning("a progress callback raised; it will be called again", exc_info=True)
