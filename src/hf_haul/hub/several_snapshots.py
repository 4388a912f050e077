"""Several snapshots downloaded on one manager, told as one download."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from hf_haul.engine.event_stream import EventStream
from hf_haul.engine.events import EventCallback, EventFeed
from hf_haul.engine.handle import DownloadHandle
from hf_haul.errors import DownloadCancelledError
from hf_haul.hub.bars import TICK
from hf_haul.hub.call_events import CallEvents, commit_in
from hf_haul.hub.joined_events import JoinedEvents
from hf_haul.hub.snapshot_call import ReadySnapshot, SnapshotCall
from hf_haul.manager import ParallelDownloadManager, default_manager
from hf_haul.task import DownloadPriority, DownloadState
from hf_haul.threads import results_in_threads

__all__ = ["SnapshotResult", "download_snapshots"]

#: Repositories that are asked about at once.
_ASKED_AT_ONCE: Final = 4
#: Seconds for cancelled downloads to stop before an interrupt is raised.
_CANCEL_GRACE: Final = 0.4
#: Seconds for a callback that takes its time to be told the end, and after an interrupt.
_EVENTS_GRACE, _INTERRUPT_GRACE = 2.0, 0.1


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """What became of one of several snapshots.

    Attributes:
        path: Where its files are; ``None`` if it failed.
        commit: What was downloaded, where that is known.
        error: Why it failed.
        sums: What it came to, with the keys of a ``done`` event.
    """

    path: str | None
    commit: str | None
    error: Exception | None
    sums: Mapping[str, Any]


def download_snapshots(
    calls: Sequence[SnapshotCall],
    *,
    manager: ParallelDownloadManager | None = None,
    priority: DownloadPriority = DownloadPriority.NORMAL,
    on_event: EventCallback | None = None,
    on_failure: Callable[[int, Exception], object] | None = None,
) -> list[SnapshotResult]:
    """Download several snapshots together: their files share connections and limits.

    All are asked about first, a few at once, so that it is known what there is to do before anything is
    fetched. A snapshot that fails does not stop the others.

    Args:
        calls: The snapshots; their own options do not count.
        manager: The manager to use; a process-wide one by default.
        priority: Urgency among all downloads of the manager.
        on_event: Called with every event, on one thread; :class:`~hf_haul.hub.joined_events.JoinedEvents`
            says which there are.
        on_failure: Called on the caller's thread as soon as it is known that one of the snapshots fails, with
            its number and why.

    Returns:
        What became of each, in their order.
    """
    feed = None if on_event is None else EventFeed(JoinedEvents(len(calls), on_event).on_event)
    told = on_failure if on_failure is not None else _ignore
    parts = [_Part.begin(call, number, feed, told) for number, call in enumerate(calls)]
    with _told(parts, feed):
        _prepare(parts)
        for part in parts:
            part.tell()
        _fetch(parts, default_manager() if manager is None else manager, priority)
    return [part.result() for part in parts]


@dataclass(eq=False)
class _Part:
    """One snapshot of several."""

    number: int
    call: SnapshotCall
    on_failure: Callable[[int, Exception], object]
    stream: EventStream
    events: CallEvents
    ready: ReadySnapshot | None = None
    found: Any = None
    handle: DownloadHandle | None = field(default=None, repr=False)
    path: str | None = None
    error: Exception | None = None
    sums: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        call: SnapshotCall,
        number: int,
        feed: EventFeed | None,
        on_failure: Callable[[int, Exception], object],
    ) -> _Part:
        # The number tells apart what has one name: a repository at two revisions, a model and a dataset.
        feeds = [] if feed is None else [feed]
        stream = EventStream(feeds, call.files.repository.repo_id, str(number))
        events = CallEvents(stream)
        return cls(number, call.attended(events), on_failure, stream, events)

    def prepare(self) -> Exception | None:
        """Find out what there is to fetch, on a thread; return why that is not known."""
        try:
            with self.events.reviewing():
                self.found = self.call.prepare()
        except Exception as error:  # noqa: BLE001  the others go on
            return error
        return None

    def tell(self) -> None:
        """Tell the plan, if there is one."""
        if self.error is not None:
            return
        self.call.tell(self.found, self.events)
        if isinstance(self.found, ReadySnapshot):
            self.ready = self.found
        elif isinstance(self.found, str):
            self.succeed(self.found)

    def submit(self, manager: ParallelDownloadManager, priority: DownloadPriority) -> None:
        """Begin to fetch; there may be nothing to be fetched."""
        if self.ready is None:
            return
        try:
            if self.ready.requests:
                self.handle = manager.submit(
                    self.ready.requests,
                    model_id=self.call.files.repository.repo_id,
                    priority=priority,
                    events=self.stream,
                )
            else:
                self.succeed(self.call.finish(self.ready, [], self.events))
        except Exception as error:  # noqa: BLE001  the others go on
            self.fail(error)

    def end_if_over(self, seconds: float) -> bool:
        """Wait for a moment; return whether all was fetched, or given up."""
        assert self.handle is not None
        assert self.ready is not None
        if not self.handle.wait(seconds):
            return False
        errors = self.handle.errors()
        repo_id = self.call.files.repository.repo_id
        try:
            if not errors and self.handle.state is DownloadState.CANCELLED:
                raise DownloadCancelledError(f"{repo_id}: the download was cancelled")
            self.succeed(self.call.finish(self.ready, errors, self.events))
        except Exception as error:  # noqa: BLE001  the others go on
            self.fail(error)
        return True

    def succeed(self, path: str) -> None:
        self.path, self.sums = path, self.stream.sums()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.events.error(error)
        self.sums = self.stream.sums()
        self.on_failure(self.number, error)

    def result(self) -> SnapshotResult:
        commit = commit_in(self.path) if self.ready is None else self.ready.commit
        return SnapshotResult(self.path, commit, self.error, self.sums)


def _ignore(_number: int, _error: Exception) -> None:
    """Do nothing."""


@contextmanager
def _told(parts: Sequence[_Part], feed: EventFeed | None) -> Iterator[None]:
    """Tell of an interrupt of the block, and wait for the caller's callback at its end."""
    grace = _EVENTS_GRACE
    try:
        yield
    except BaseException as error:
        grace = _INTERRUPT_GRACE
        for part in parts:
            part.events.error(error)
        raise
    finally:
        if feed is not None:
            feed.flush(grace)


def _prepare(parts: Sequence[_Part]) -> None:
    with closing(
        results_in_threads("hf-haul-listing", _ASKED_AT_ONCE, _Part.prepare, parts, lambda: None)
    ) as results:
        for result in results:
            if result is not None and result[1] is not None:
                result[0].fail(result[1])


def _fetch(parts: Sequence[_Part], manager: ParallelDownloadManager, priority: DownloadPriority) -> None:
    """Fetch the files of all; an interrupt cancels what is under way, and what was fetched stays staged."""
    try:
        for part in parts:
            part.submit(manager, priority)
        running = [part for part in parts if part.handle is not None]
        while running:
            over = {part for number, part in enumerate(running) if part.end_if_over(0.0 if number else TICK)}
            running = [part for part in running if part not in over]
    except BaseException:
        handles = [part.handle for part in parts if part.handle is not None]
        for handle in handles:
            handle.cancel()
        deadline = time.monotonic() + _CANCEL_GRACE
        for handle in handles:
            handle.wait(max(0.0, deadline - time.monotonic()))
        raise
