"""The events of one call, or of one queue: what is told, in which order, with which numbers.

The vocabulary is that of ``events.schema.json`` in the package: plain dicts, versioned, the same for
``on_event`` and for ``hf-haul --progress json``.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, ParamSpec

from hf_haul.digests import Digest
from hf_haul.engine.events import Event, EventFeed
from hf_haul.engine.results import QueueStatus
from hf_haul.failures import describe
from hf_haul.forks import renew_after_fork
from hf_haul.metrics import Window
from hf_haul.task import FileRequest
from hf_haul.waits import Waits

__all__ = ["EVENT_VERSION", "ActiveFile", "EventStream", "harmless", "sum_of_sizes", "tells_waits"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")

#: Version of the vocabulary: raised when a field goes or changes its meaning, not when one comes.
EVENT_VERSION: Final = 1
#: Seconds between two reports of progress.
_INTERVAL: Final = 1.0
#: Files in progress that a report names.
_MOST_ACTIVE: Final = 16

#: A file in progress: its path, bytes on disk, bytes in all or ``None``.
ActiveFile = tuple[str, int, int | None]


def harmless(tell: Callable[P, None]) -> Callable[P, None]:
    """Log what goes wrong while something is told, so that no download suffers from it."""

    @functools.wraps(tell)
    def try_to_tell(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except Exception:
            logger.warning("an event is lost", exc_info=True)

    return try_to_tell


class EventStream:
    """Tells listeners what happens in one call, or in one queue.

    Totals never grow, and what is done never goes back: bytes that turn out to be wrong and come again do not
    count twice. After :meth:`done` or :meth:`error` nothing more is told.

    Locking: ``_lock`` guards the attributes below it, and keeps events in order. Nobody who holds it calls a
    listener or starts a thread.

    Args:
        feeds: Who listens.
        repo_id: The repository, or the label of the queue.
        queue_id: The queue, where it is one of a manager's.
        clock: Seconds, monotonic.
        wall: Unix seconds.

    Attributes:
        waits: What is waited for; it tells of each wait.
    """

    def __init__(
        self,
        feeds: Sequence[EventFeed],
        repo_id: str,
        queue_id: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._feeds = tuple(feeds)
        self._labels: dict[str, Any] = (
            {"repo_id": repo_id} if queue_id is None else {"repo_id": repo_id, "queue_id": queue_id}
        )
        self._clock = clock
        self._wall = wall
        self._began = clock()
        self._renew()
        self._over = False
        self._files = self._base_files = self._base_bytes = self._base_failed = 0
        self._total: int | None = None
        self._done = self._fetched = 0
        self._next_at = self._began
        self._window = Window()
        self._status: QueueStatus | None = None
        self._cancelled = 0  # files, which have not failed
        self.waits = Waits(clock=clock, wall=wall)
        self.waits.listener = self._tell_wait
        renew_after_fork(self, EventStream._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    # ---- the beginning

    def enter(self, phase: str) -> None:
        """Begin a phase of a call that does more than fetch: what is told from now on is of it.

        Args:
            phase: ``check``, ``repair`` or ``measure``.
        """
        with self._lock:
            self._labels = {**self._labels, "phase": phase}
            self._total, self._done, self._next_at = None, 0, self._clock()

    def plan(
        self,
        *,
        files: int,
        nbytes: int | None,
        files_reused: int = 0,
        reused: int = 0,
        files_here: int | None = None,
        bytes_here: int | None = None,
        files_failed: int = 0,
        free_disk: int | None = None,
        revision: str | None = None,
        commit: str | None = None,
        path: str | Path | None = None,
        dry_run: bool = False,
    ) -> None:
        """Tell what is to be done.

        Args:
            files: All files.
            nbytes: Their bytes; ``None`` while the size of one is unknown.
            files_reused: How many are in place.
            reused: Their bytes.
            files_here: How many of those the engine need not look at; by default all. Others it finds in
                place.
            bytes_here: Their bytes; by default all that are reused.
            files_failed: How many cannot be had, as is known already; their bytes are none of the total.
            free_disk: Bytes that are free where they go.
            revision: What was asked for.
            commit: What that stands for.
            path: Where they go.
            dry_run: Whether it is only told what would be done.
        """
        self._files, self._total = files, nbytes
        self._base_files = files_reused if files_here is None else files_here
        self._base_bytes = reused if bytes_here is None else bytes_here
        self._base_failed = files_failed
        self._done = self._base_bytes
        self._tell(
            "plan",
            files=files,
            bytes=nbytes,
            files_reused=files_reused,
            reused=reused,
            free_disk=free_disk,
            revision=None if revision is None else str(revision),  # it may be a text of a class of its own
            commit=commit,
            path=None if path is None else str(path),
            **({"dry_run": True} if dry_run else {}),
        )

    # ---- one file

    def file(
        self,
        state: str,
        path: str,
        size: int | None,
        reason: BaseException | str | None = None,
        bytes_by_source: Mapping[str, int] | None = None,
    ) -> None:
        """Tell that a file begins or ends: ``started``, ``done``, ``failed`` or ``cancelled``.

        Args:
            state: Which of them.
            path: The file.
            size: Its bytes.
            reason: Why it ended so.
            bytes_by_source: At its end, what came from where.
        """
        if isinstance(reason, BaseException):
            reason = describe(reason).text
        if state == "cancelled":
            with self._lock:
                self._cancelled += 1
        told: dict[str, Any] = {"state": state, "path": path, "bytes": size, "reason": reason}
        if bytes_by_source is not None:
            told["bytes_by_source"] = dict(bytes_by_source)
        self._tell("file", **told)

    def verified(self, path: str, size: int, digest: Digest) -> None:
        """Tell that a file has the digest that its source announced."""
        self._tell("verified", path=path, bytes=size, algorithm=digest.algorithm, digest=digest.value)

    def note_cancelled(self, count: int) -> None:
        """Count files that were cancelled and are not told of one by one."""
        with self._lock:
            self._cancelled += count

    # ---- how far it is

    def is_due(self) -> bool:
        """Return whether a report of progress is due: the first at once, then one a second."""
        now = self._clock()
        with self._lock:
            if self._over or now < self._next_at:
                return False
            # In step with the clock, and no two at once after a pause.
            self._next_at = max(self._next_at + _INTERVAL, now + _INTERVAL / 2)
            return True

    def progress(self, status: QueueStatus, active: Iterable[ActiveFile], *, sizes_known: bool) -> None:
        """Tell how far a queue is.

        Args:
            status: Its numbers.
            active: Its files in progress.
            sizes_known: Whether the size of each of its files is known.
        """
        files = sorted(active, key=_bytes_left, reverse=True)
        with self._lock:
            if self._total is None and sizes_known:
                self._total = self._base_bytes + status.bytes_total
            self._done = max(self._done, self._base_bytes + status.bytes_done)
            if self._total is not None:
                self._done = min(self._done, self._total)
            self._fetched = status.bytes_transferred
            rate = self._window.add(self._clock(), self._fetched)
        self._report(
            rate=rate,
            files_done=self._base_files + status.files_done,
            active=files,
            connections=status.connections,
        )

    def amount(
        self,
        done: int,
        *,
        rate: float,
        files_done: int,
        active: Sequence[ActiveFile] = (),
        connections: int = 0,
    ) -> None:
        """Tell how far it is where no queue says so.

        Args:
            done: Bytes.
            rate: Bytes per second.
            files_done: Files.
            active: Those in progress.
            connections: Connections in use.
        """
        with self._lock:
            self._done = max(self._done, done if self._total is None else min(done, self._total))
        self._report(rate=rate, files_done=files_done, active=active, connections=connections)

    def _report(
        self, *, rate: float, files_done: int, active: Sequence[ActiveFile] = (), connections: int = 0
    ) -> None:
        total, done = self._total, self._done
        if total is not None and done >= total:
            eta: float | None = 0.0
        else:
            eta = None if total is None or not rate else (total - done) / rate
        self._tell(
            "progress",
            done=done,
            total=total,
            fetched=self._fetched,
            rate=rate,
            eta=eta,
            files_done=files_done,
            files_total=self._files,
            active=[
                {"path": path, "done": done, "total": total} for path, done, total in active[:_MOST_ACTIVE]
            ],
            active_files=len(active),
            connections=connections,
            waits=self.waits.current(),
        )

    @harmless
    def _tell_wait(self, wait: dict[str, Any]) -> None:
        self._tell("wait", **wait)

    # ---- the end

    def note_end(self, status: QueueStatus) -> None:
        """Note what the queue came to; :meth:`done` and :meth:`error` tell it."""
        self._status, self._fetched = status, status.bytes_transferred

    def done(self, path: str | Path | None = None, *, complete: bool = True, **sums: int) -> None:
        """Tell that everything is in place, or that all is done that there was to do.

        Args:
            path: Where it is.
            complete: Whether all bytes are there.
            sums: What it came to, where no queue says so.
        """
        if self._total is None:
            self._total = self._base_bytes + (self._status.bytes_total if self._status else 0)
        if complete:
            self._done = self._total
        self._report(rate=0.0, files_done=self._files - sums.get("files_failed", 0))
        came_to = {**self.sums(), **sums}
        came_to["rate"] = came_to["fetched"] / came_to["seconds"] if came_to["seconds"] > 0 else 0.0
        self._tell("done", last=True, path=None if path is None else str(path), **came_to)

    def error(self, error: BaseException, file: str | None = None) -> None:
        """Tell that it failed.

        Args:
            error: Why.
            file: The file that it is about.
        """
        status, failure = self._status, describe(error)
        if status is not None:
            self._done = max(self._done, self._base_bytes + status.bytes_done)
            if self._total is not None:
                self._done = min(self._done, self._total)
            files_done = self._base_files + status.files_done
            self._report(rate=0.0, files_done=files_done)
        self._tell(
            "error",
            last=True,
            type=type(error).__name__,
            kind=failure.kind.value,
            message=failure.text,
            file=file if file is not None else getattr(error, "named_file", None),
            hint=failure.hint,
            details=list(failure.details),
            **self.sums(),
        )

    def sums(self) -> dict[str, Any]:
        """Return what it came to, with the keys of a ``done`` event."""
        status, seconds = self._status, self._clock() - self._began
        fetched = status.bytes_transferred if status else 0
        wasted = status.bytes_wasted if status else 0
        present = status.files_present if status else 0
        return {
            "fetched": fetched,
            "reused": max(0, self._done - (fetched - wasted)),
            "wasted": wasted,
            "bytes_by_source": dict(status.bytes_by_source) if status else {},
            "seconds": seconds,
            "rate": fetched / seconds if seconds > 0 else 0.0,
            "retries": self.waits.asked_again + (status.retries if status else 0),
            "files_fetched": status.files_done - present if status else 0,
            "files_reused": self._base_files + present,
            "files_failed": self._base_failed + (status.files_failed - self._cancelled if status else 0),
        }

    def flush(self, timeout: float = math.inf) -> None:
        """Wait, at most ``timeout`` seconds and never long, until all was delivered."""
        deadline = self._clock() + timeout
        for feed in self._feeds:
            feed.flush(deadline - self._clock(), end=False)

    def _tell(self, ev: str, *, last: bool = False, **fields: Any) -> None:
        with self._lock:
            if self._over:
                return
            self._over = last
            event: Event = {
                "v": EVENT_VERSION,
                "t": self._wall(),
                "ev": ev,
                **self._labels,
                **fields,
            }
            for feed in self._feeds:  # each may change what it is given
                feed.post(copy.deepcopy(event) if len(self._feeds) > 1 else event, self)
        for feed in self._feeds:
            feed.start()


def _bytes_left(file: ActiveFile) -> int:
    _, done, total = file
    return -done if total is None else total - done


def tells_waits(feed: EventFeed) -> Callable[[dict[str, Any]], None]:
    """Return a listener of :class:`~hf_haul.waits.Waits` that belong to no call and no queue, as reads do.

    Args:
        feed: Who is told.
    """

    @harmless
    def tell(wait: dict[str, Any]) -> None:
        feed.post({"v": EVENT_VERSION, "t": time.time(), "ev": "wait", **wait}, tell)
        feed.start()

    return tell


def sum_of_sizes(requests: Iterable[FileRequest]) -> int | None:
    """Return the bytes of some files; ``None`` where the size of one is unknown."""
    sizes = [request.remote.size for request in requests]
    return None if None in sizes else sum(size for size in sizes if size is not None)
