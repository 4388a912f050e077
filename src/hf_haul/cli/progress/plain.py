"""Lines for logs, which can be searched: each begins with what it is about; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hf_haul.cli.progress.overview import Overview
from hf_haul.cli.progress.screen import CHECKING, DOING, closing_line
from hf_haul.cli.progress.texts import count_of, duration, percent, printable, rate, size

__all__ = ["PlainLines"]

#: Seconds between two lines about progress.
_EVERY: Final = 15.0
_QUARTERS: Final = 4


class PlainLines:
    """Decides which lines a log gets; for one thread.

    A line every 15 seconds and at each quarter, one for each wait that begins and each file that fails, and
    one at the end.

    Args:
        overview: What events add up to; noted by the caller before :meth:`about`.
    """

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._said_at = overview.started_at
        self._quarter = 0
        self._repos: set[str] = set()

    def about(self, event: Mapping[str, Any]) -> list[str]:
        """Return the lines that an event is worth."""
        repo_id = str(event.get("repo_id") or "")
        self._repos.add(repo_id)
        about = f" {printable(repo_id)}" if repo_id and len(self._repos) > 1 else ""
        if event["ev"] == "plan":
            self._quarter = self._reached()
            if event.get("phase") in CHECKING:
                what = "check" if event["phase"] == "check" else "repair"
                return [f"plan{about}: {what} {count_of(event['files'], 'file')}, {size(event['bytes'])}"]
            there = f", {event['files_reused']} of them there ({size(event['reused'])})"
            return [f"plan{about}: {count_of(event['files'], 'file')}, {size(event['bytes'])}{there}"]
        if event["ev"] == "wait":
            return [f"wait{about}: {printable(event['message'])}"]
        if event["ev"] == "file" and event["state"] == "failed":
            reason = str(event["reason"]).removeprefix(
                f"{event['path']}: "
            )  # which many an error begins with
            return [f"failed{about}: {printable(event['path'])}: {printable(reason)}"]
        if event["ev"] == "progress":
            reached, before = self._reached(), self._quarter
            self._quarter = max(reached, before)
            if before < reached < _QUARTERS:
                return [self._line(event["t"])]
        return []

    def tick(self, now: float) -> list[str]:
        """Return the line that is due, if one is.

        Args:
            now: Unix seconds.
        """
        if self._overview.over or now - self._said_at < _EVERY:
            return []
        return [self._line(now)]

    def closing(self, now: float) -> list[str]:
        """Return the last lines.

        Args:
            now: Unix seconds.
        """
        line = closing_line(self._overview, now)
        return [line] if line else []

    def _line(self, now: float) -> str:
        self._said_at = now
        overview = self._overview
        clock = duration(max(0.0, now - overview.started_at))
        if not overview.planned:
            return f"progress: {clock} so far, finding out what there is to do"
        shown = [
            DOING.get(overview.phase or "", ""),
            percent(overview.done, overview.total),
            f"{size(overview.done)} of {size(overview.total)}",
            f"{overview.files_done} of {overview.files_total} files",
            rate(overview.rate),
            "" if overview.eta is None else f"{duration(overview.eta)} left",
            f"{clock} so far",
        ]
        waits = "".join(f"; waiting: {printable(each.message)}" for each in overview.waits(now)[:1])
        return f"progress: {', '.join(text for text in shown if text)}{waits}"

    def _reached(self) -> int:
        """Return how many quarters are there."""
        total = self._overview.total
        return 0 if not total else _QUARTERS * self._overview.done // total
