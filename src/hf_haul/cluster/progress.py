"""What is told of a whole distribution: each node's events, and those of all nodes together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cluster.results import NodeResult
from hf_haul.engine.event_stream import EventStream
from hf_haul.engine.events import EventCallback, EventFeed
from hf_haul.engine.results import QueueStatus
from hf_haul.hub.bar_making import are_bars_disabled, make_bar
from hf_haul.hub.call_events import CallEvents
from hf_haul.hub.wait_bars import WaitBar, WaitNote
from hf_haul.task import DownloadPriority, DownloadState
from hf_haul.waits import Wait, WaitReason, Waits

if TYPE_CHECKING:
    from hf_haul.cluster.plan import JobPlan

__all__ = ["JobProgress"]

logger = logging.getLogger(__name__)

#: The name by which huggingface_hub's bars are disabled.
_BAR_NAME: Final = "hf_haul.distribute"
#: Seconds for a callback that takes its time to be told the end, and after an interrupt.
_GRACE, _INTERRUPT_GRACE = 2.0, 0.1
#: Seconds for which a wait that a node reports counts, unless the next report has it, too.
_WAIT_LASTS: Final = 3.0


@dataclass
class _Node:
    """The last that a node told of each kind."""

    progress: Mapping[str, Any] | None = None
    end: Mapping[str, Any] | None = None
    done: int = 0  # bytes, never fewer than before


class JobProgress:
    """Tells of a distribution; for one thread.

    Totals are those of the nodes that it began with. What nodes wait for is told of all together, where
    several of them wait for the same.

    Args:
        repo_id: The repository.
        on_event: The caller's function; ``None`` for none.
        tqdm_class: The caller's class of bars; ``None`` for huggingface_hub's.
    """

    def __init__(self, repo_id: str, on_event: EventCallback | None, tqdm_class: Any = None) -> None:
        self._repo_id = repo_id
        self._feed = None if on_event is None else EventFeed(on_event)
        self._stream = None if self._feed is None else EventStream([self._feed], repo_id)
        self._events = CallEvents(self._stream, WaitBar(tqdm_class, _BAR_NAME))
        self._tqdm_class = tqdm_class
        self._bar: Any = None
        self._bar_waits: WaitNote | None = None
        self._nodes: dict[str, _Node] = {}
        self._plan: JobPlan | None = None
        self._each = 0  # bytes of one node
        self._shown = 0  # bytes that the bar shows

    @property
    def waits(self) -> Waits:
        """What is waited for."""
        return self._events.waits

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell how the block fails, if it does, and wait for the caller's function at its end."""
        grace = _GRACE
        try:
            with self._events.reviewing():
                yield
        except BaseException as error:
            self._events.error(error)
            if not isinstance(error, Exception):
                grace = _INTERRUPT_GRACE
            raise
        finally:
            self._draw(close=True)
            if self._feed is not None:
                self._feed.flush(grace)

    def begin(self, plan: JobPlan) -> None:
        """Tell what is to be done."""
        self._plan = plan
        self._each = sum(plan.files[path].bytes for path in plan.selection)
        self._nodes = {name: _Node() for name in plan.nodes}
        if self._stream is not None:
            self._stream.plan(
                files=len(plan.selection) * len(plan.nodes),
                nbytes=self._each * len(plan.nodes),
                revision=plan.revision,
                commit=plan.commit,
            )
        self._events.note_fetching()
        if not are_bars_disabled(self._tqdm_class, _BAR_NAME):
            self._bar = make_bar(
                self._tqdm_class,
                _BAR_NAME,
                total=self._each * len(plan.nodes),
                unit="B",
                unit_scale=True,
                desc=f"{plan.repo_id} onto {len(plan.nodes)} nodes",
            )
            self._bar_waits = WaitNote(self._bar)
            self.waits.shown = self._bar_waits.is_shown

    def note(self, name: str, event: Mapping[str, Any]) -> None:
        """Take in an event of a node, and pass it on."""
        node = self._nodes.setdefault(name, _Node())
        if event["ev"] == "progress":
            node.progress = event
            node.done = max(node.done, min(event["done"], self._each))
            for wait in event["waits"]:
                self._note_wait(name, wait, event["t"])
        elif event["ev"] in {"done", "error"}:
            node.end = event
        if self._feed is not None:
            self._feed.post({**event, "node": name}, name)
            self._feed.start()

    def _note_wait(self, name: str, wait: Mapping[str, Any], now: float) -> None:
        until = wait["until"]
        self.waits.begin(
            (name, wait["reason"], wait["host"]),
            Wait(
                WaitReason(wait["reason"]),
                f"{name}: {wait['message']}",
                seconds=None if until is None else max(0.0, until - now),
                host=wait["host"],
            ),
            lasting=_WAIT_LASTS,
        )

    def tick(self) -> None:
        """Tell how far it is, where that is due."""
        if self._plan is None:
            return
        self.waits.review()
        self._draw()
        if self._stream is not None and self._stream.is_due():
            self._stream.progress(self._status(), self._active(), sizes_known=True)

    def end(self, results: Mapping[str, NodeResult], error: Exception | None) -> None:
        """Tell what it came to.

        Args:
            results: What became of each node.
            error: Names the nodes that failed, if there are any.
        """
        for name, result in results.items():
            if result.error is None:
                self._nodes.setdefault(name, _Node()).done = self._each
        self._draw()
        if self._stream is not None:
            self._stream.note_end(self._status(results))
            if error is None:
                self._stream.done()
            else:
                self._stream.error(error)

    def _began_with(self) -> list[_Node]:
        """Return the nodes whose bytes are the total."""
        return [] if self._plan is None else [self._nodes[name] for name in self._plan.nodes]

    def _active(self) -> list[tuple[str, int, int | None]]:
        return [
            (name, node.done, self._each)
            for name, node in self._nodes.items()
            if node.end is None and node.progress is not None
        ]

    def _status(self, results: Mapping[str, NodeResult] | None = None) -> QueueStatus:
        """Return how far all nodes together are, as a queue of files would be."""
        nodes = self._nodes.values()
        reports = [each.progress for each in nodes if each.progress is not None]
        ends = [each.end for each in nodes if each.end is not None]
        began_with = self._began_with()
        files = 0 if self._plan is None else len(self._plan.selection)
        by_source: Counter[str] = Counter()
        for end in ends:
            by_source.update(end.get("bytes_by_source", {}))
        transferred = sum(report["fetched"] for report in reports)
        if results is not None:
            transferred = sum(each.origin_bytes + each.peer_bytes for each in results.values())
        return QueueStatus(
            queue_id="",
            model_id=self._repo_id,
            state=DownloadState.RUNNING if results is None else DownloadState.DONE,
            priority=DownloadPriority.NORMAL.name,
            files_total=files * len(began_with),
            files_done=sum(
                files if each.done >= self._each and each.end is not None else each.progress["files_done"]
                for each in began_with
                if each.progress is not None
            ),
            files_failed=sum(end.get("files_failed", 0) for end in ends),
            files_active=sum(report["active_files"] for report in reports),
            files_present=sum(end.get("files_reused", 0) for end in ends),
            bytes_total=self._each * len(began_with),
            bytes_done=sum(each.done for each in began_with),
            bytes_transferred=transferred,
            bytes_resumed=0,
            bytes_wasted=sum(end.get("wasted", 0) for end in ends),
            duration=0.0,
            speed_bps=0.0,
            average_speed_bps=0.0,
            peak_speed_bps=0.0,
            completion_rate=0.0,
            connections=sum(each.progress["connections"] for each in nodes if each.progress and not each.end),
            peak_connections=0,
            retries=sum(end.get("retries", 0) for end in ends),
            seconds_limited=0.0,
            waiting_for=None,
            failures=(),
            bytes_by_source=by_source,
        )

    def _draw(self, *, close: bool = False) -> None:
        """Move the bar; a terminal that is gone is no reason to end."""
        if self._bar is None:
            return
        moved = sum(each.done for each in self._began_with()) - self._shown
        self._shown += moved
        try:
            if moved:
                self._bar.update(moved)
            if self._bar_waits is not None:
                self._bar_waits.show([] if close else self.waits.current(), moved=bool(moved))
            if close:
                self._bar.close()
        except (OSError, ValueError) as error:
            logger.debug("no more bars: %s", error)
            close = True
        if close:
            self._bar = None
