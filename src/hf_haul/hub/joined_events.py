"""The events of several calls told as those of one; pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hf_haul.metrics import Window

__all__ = ["JoinedEvents"]

#: Seconds between two reports of progress, a little less than those of each call.
_INTERVAL: Final = 0.9
#: Files in progress that a report names.
_MOST_ACTIVE: Final = 16
#: Seconds by which the ends of two waits for the same may differ.
_SAME_END: Final = 1.0
_SUMS: Final = ("fetched", "reused", "wasted", "retries", "files_fetched", "files_reused", "files_failed")
#: Of an event about all together.
_HEAD: Final = ("v", "t", "ev")


@dataclass
class _Part:
    """One of the calls: the last that it told of each kind."""

    plan: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None
    end: Mapping[str, Any] | None = None


@dataclass
class JoinedEvents:
    """Tells the events of several calls as those of one.

    There is one plan, once all calls have told theirs or failed; one report of progress a second; and one
    end. Events about a file keep the ``repo_id`` of theirs, and so does the error of a call that fails while
    others go on; events about all together have none. For one thread.

    Args:
        count: How many calls there are. The ``queue_id`` of an event says whose it is: a number from 0.
        forward: Gets the events.
    """

    count: int
    forward: Callable[[dict[str, Any]], object]
    _parts: list[_Part] = field(init=False)
    _held: list[dict[str, Any]] = field(default_factory=list, init=False)
    _planned: bool = field(default=False, init=False)
    _told_at: float = field(default=-math.inf, init=False)
    _done: int = field(default=0, init=False)
    _window: Window = field(default_factory=Window, init=False)
    _waits: dict[Any, float | None] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._parts = [_Part() for _ in range(self.count)]

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Take in an event of one of the calls."""
        told = dict(event)
        part = self._parts[int(told.pop("queue_id"))]
        kind = told["ev"]
        if kind == "plan":
            part.plan = told
            self._tell_plan(told)
        elif kind == "progress":
            part.progress = told
            self._tell_progress(told, last=False)
        elif kind == "wait":
            self._tell_wait(told)
        elif kind in {"done", "error"}:
            part.end = told
            if kind == "error":
                self._tell(
                    {
                        name: value
                        for name, value in told.items()
                        if name not in {*_SUMS, "bytes_by_source", "seconds", "rate"}
                    }
                )
            self._tell_plan(told)
            self._tell_end(told)
        else:
            self._tell(told)

    def _tell(self, event: dict[str, Any]) -> None:
        """Pass an event on, but not before the plan."""
        if self._planned:
            self.forward(event)
        else:
            self._held.append(event)

    def _tell_wait(self, event: dict[str, Any]) -> None:
        """Tell of a wait, and not of the same one of several calls."""
        if not self._planned or event.get("path") is None:
            event.pop("repo_id", None)
        key, until = (event["reason"], event["host"], event.get("path")), event["until"]
        before = self._waits.get(key, math.nan)
        if before is None or until is None:
            same = key in self._waits and before is until
        else:
            same = abs(until - before) < _SAME_END
        if not same:
            self._waits[key] = until
            self.forward(event)

    def _tell_plan(self, event: Mapping[str, Any]) -> None:
        plans = [part.plan for part in self._parts if part.plan is not None]
        if self._planned or any(part.plan is None and part.end is None for part in self._parts):
            return
        self._planned = True
        if plans:
            free = [plan["free_disk"] for plan in plans if plan["free_disk"] is not None]
            self.forward(
                {
                    **_head(event, "plan"),
                    "files": _sum(plans, "files"),
                    "bytes": _sum_if_known(plans, "bytes"),
                    "files_reused": _sum(plans, "files_reused"),
                    "reused": _sum(plans, "reused"),
                    "free_disk": min(free, default=None),
                    **({"dry_run": True} if all(plan.get("dry_run") for plan in plans) else {}),
                }
            )
        for each in self._held:
            self.forward({**each, "t": event["t"]})  # in order
        self._held.clear()

    def _tell_progress(self, event: Mapping[str, Any], *, last: bool) -> None:
        reports = [part.progress for part in self._parts if part.progress is not None]
        if not self._planned or not reports or (not last and event["t"] - self._told_at < _INTERVAL):
            return
        self._told_at = event["t"]
        # What has told no progress yet is as far as its plan says.
        silent = [part.plan for part in self._parts if part.progress is None and part.plan is not None]
        total = _sum_if_known(reports, "total")
        more = _sum_if_known(silent, "bytes")
        total = None if total is None or more is None else total + more
        done = max(self._done, _sum(reports, "done") + _sum(silent, "reused"))
        self._done = done = done if total is None else min(done, total)
        fetched = _sum(reports, "fetched")
        # Not the sum of their rates: many small ones end before they have any.
        rate = self._window.add(event["t"], fetched)
        rate = 0.0 if last else rate
        waits: dict[str, Any] = {}
        for each in (each for report in reports for each in report["waits"]):
            waits.setdefault(each["message"], each)
        active = sorted(
            ({**each, "repo_id": report["repo_id"]} for report in reports for each in report["active"]),
            key=_bytes_left,
            reverse=True,
        )
        self.forward(
            {
                **_head(event, "progress"),
                "done": done,
                "total": total,
                "fetched": fetched,
                "rate": rate,
                "eta": 0.0 if done == total else None if total is None or not rate else (total - done) / rate,
                "files_done": _sum(reports, "files_done") + _sum(silent, "files_reused"),
                "files_total": _sum(reports, "files_total") + _sum(silent, "files"),
                "active": active[:_MOST_ACTIVE],
                "active_files": _sum(reports, "active_files"),
                "connections": _sum(reports, "connections"),
                "waits": list(waits.values()),
            }
        )

    def _tell_end(self, event: Mapping[str, Any]) -> None:
        ends = [part.end for part in self._parts if part.end is not None]
        if len(ends) < self.count:
            return
        self._tell_progress(event, last=True)
        failed = [end for end in ends if end["ev"] == "error"]
        seconds = max(end.get("seconds", 0.0) for end in ends)
        sums: dict[str, Any] = {name: _sum(ends, name) for name in _SUMS}
        sums |= {"seconds": seconds, "rate": sums["fetched"] / seconds if seconds > 0 else 0.0}
        sums["bytes_by_source"] = dict(
            sum((Counter(end.get("bytes_by_source", {})) for end in ends), Counter())
        )
        if not failed:
            self.forward({**_head(event, "done"), **sums, "path": None})
            return
        first = failed[0]
        message = first["message"]
        if self.count > 1:
            message = f"{len(failed)} of {self.count} repositories failed; the first: {message}"
        about = {name: first[name] for name in ("type", "kind", "file", "hint") if name in first}
        self.forward({**_head(event, "error"), **about, "message": message, "details": [], **sums})


def _head(event: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {**{name: event[name] for name in _HEAD}, "ev": kind}


def _sum(events: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(event.get(name, 0) for event in events)


def _sum_if_known(events: Iterable[Mapping[str, Any]], name: str) -> int | None:
    values = [event[name] for event in events]
    return None if None in values else sum(values)


def _bytes_left(file: Mapping[str, Any]) -> int:
    done: int = file["done"]
    total: int | None = file["total"]
    return -done if total is None else total - done
