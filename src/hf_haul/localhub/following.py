"""Repositories that scan the disk again when they are asked for."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from hf_haul.localhub.replies import Refusal
from hf_haul.localhub.repository import Repo

__all__ = ["FollowingRepo", "Holding"]

logger = logging.getLogger(__name__)

_RETRY_AFTER: Final = 15  # seconds


@dataclass(frozen=True)
class Holding:
    """How much of a commit is here.

    Attributes:
        commit: Its id.
        names: The branches, tags and other refs that are at it.
        files: How many of its files are here.
        listed: How many it has; ``None`` where nobody knows.
    """

    commit: str
    names: list[str]
    files: int
    listed: int | None


class FollowingRepo(Repo, ABC):
    """A repository that scans the disk again when it is asked for, and serves what it finds.

    Hashing large files may take minutes. It is done by one thread at a time, and who asks
    meanwhile waits for a few seconds, and then gets the state before, or 503 if there is none.

    ``_scan_lock`` guards the attributes named ``_scan...``.

    Args:
        repo_id: See `Repo`.
        repo_type: See `Repo`.
        private: See `Repo`.
        interval: Seconds between two looks at the disk.
        clock: Seconds; only differences count.

    Attributes:
        scan_timeout: Seconds for which who asks waits for a scan; a client gives up after ten.
    """

    blocking = True
    scan_timeout = 8.0

    def __init__(
        self,
        repo_id: str,
        repo_type: str = "model",
        *,
        private: bool = False,
        interval: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(repo_id, repo_type, private=private)
        self._interval = interval
        self._clock = clock
        self._scan_lock = threading.Lock()
        self._scan_due = clock()
        self._scan_result: Future[None] | None = None

    @abstractmethod
    def load(self) -> None:
        """Scan the disk, and add or replace commits and refs; only one thread does."""

    def holdings(self) -> list[Holding]:
        """Return how much is here of what was downloaded, where that is known; reads the disk."""
        return []

    def refresh(self) -> None:
        """Make sure that the newest state is loaded; after a while serve the state before.

        Raises:
            Refusal: Nothing is known yet, and it takes too long.
        """
        running = self._start_scan()
        if running is None:
            return
        try:
            running.result(self.scan_timeout)
        except FutureTimeoutError as error:
            if not self.has_commits:
                message = f"{self.repo_id} is being hashed for the first time; try again soon."
                headers = {"Retry-After": str(_RETRY_AFTER)}
                raise Refusal(503, message, headers=headers) from error

    def rescan(self) -> None:
        """Load what is on the disk now, however short ago it was scanned; see `refresh`."""
        with self._scan_lock:
            running = self._scan_result
        if running is not None:  # it may have begun too early
            with suppress(FutureTimeoutError):
                running.result(self.scan_timeout)
        with self._scan_lock:
            self._scan_due = self._clock()
        self.refresh()

    def wait_until_loaded(self) -> None:
        """Make sure that the newest state is loaded, however long it takes."""
        running = self._start_scan()
        if running is not None:
            running.result()

    def _start_scan(self) -> Future[None] | None:
        with self._scan_lock:
            if self._scan_result is None and self._clock() >= self._scan_due:
                self._scan_result = Future()
                thread = threading.Thread(
                    target=self._scan, args=(self._scan_result,), name="localhub-scan", daemon=True
                )
                thread.start()
            return self._scan_result

    def _scan(self, result: Future[None]) -> None:
        error: Exception | None = None
        try:
            self.load()
        except OSError as caught:
            logger.warning("cannot read %s: %s", self, caught)
        except Exception as caught:  # noqa: BLE001  whoever waits for the result gets it
            error = caught
        with self._scan_lock:
            self._scan_result = None
            self._scan_due = self._clock() + self._interval
        if error is None:
            result.set_result(None)
        else:
            result.set_exception(error)
