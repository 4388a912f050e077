"""What the events of one or several calls add up to; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ActiveFile", "Overview", "Sums", "Waiting"]


@dataclass(frozen=True, slots=True)
class ActiveFile:
    """A file in progress, with bytes done and in all (``None`` if unknown)."""

    path: str
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that is waited for.

    Attributes:
        reason: As in the events.
        message: One line for people.
        until: Unix seconds at which it ends; ``None`` if that is not known.
    """

    reason: str
    message: str
    until: float | None


@dataclass(frozen=True, slots=True)
class Sums:
    """What calls that ended came to; bytes, seconds and files."""

    fetched: int = 0
    reused: int = 0
    wasted: int = 0
    retries: int = 0
    files_fetched: int = 0
    files_reused: int = 0
    files_failed: int = 0
    read: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass
class _Call:
    """One repository, or one queue.

    Attributes:
        done: Bytes there, never fewer than before.
        total: Bytes in all, never more than before; ``None`` if unknown.
    """

    files_total: int = 0
    files_done: int = 0
    done: int = 0
    total: int | None = None
    rate: float = 0.0
    eta: float | None = None
    connections: int = 0
    active_files: int = 0
    active: list[ActiveFile] = field(default_factory=list)
    waits: list[Waiting] = field(default_factory=list)
    announced: Waiting | None = None  # by itself, before there is any progress to tell of
    planned: bool = False
    ended: Sums | None = None
    failed: bool = False
    phase: str | None = None
    dry_run: bool = False


class Overview:
    """Adds up events, of one call or of several at once, told apart by their ``repo_id``.

    Totals never grow and what is done never gets less, whatever events say. For one thread.

    Attributes:
        started_at: Unix seconds of the beginning.
    """

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self._calls: dict[str, _Call] = {}

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in one event; unknown ones are passed over."""
        act = {
            "plan": self._note_plan,
            "progress": self._note_progress,
            "wait": self._note_wait,
            "done": self._note_end,
            "error": self._note_end,
        }.get(event["ev"])
        if act is None:  # of a file: where several calls are told as one, it has a name that they do not have
            return
        name = str(event.get("repo_id") or "")
        if event["ev"] == "wait" and name not in self._calls and "" in self._calls:
            name = ""  # the same
        call = self._calls.setdefault(name, _Call())
        if event.get("phase") != call.phase and event["ev"] != "wait":
            call = self._calls[name] = _Call(phase=event.get("phase"))
        act(call, event)

    @staticmethod
    def _note_plan(call: _Call, event: Mapping[str, Any]) -> None:
        if call.ended is not None or not call.planned:
            call.total = event["bytes"]
        call.planned, call.ended, call.announced, call.failed = True, None, None, False
        call.dry_run = bool(event.get("dry_run"))
        call.files_total, call.files_done = event["files"], event["files_reused"]
        call.done = max(call.done, event["reused"])

    @staticmethod
    def _note_progress(call: _Call, event: Mapping[str, Any]) -> None:
        total = event["total"]
        if total is not None and (call.total is None or total < call.total):
            call.total = total
        call.done = max(call.done, event["done"])
        if call.total is not None:
            call.done = min(call.done, call.total)
        call.files_done = max(call.files_done, event["files_done"])
        call.rate, call.eta = float(event["rate"]), event["eta"]
        call.connections, call.active_files = event["connections"], event["active_files"]
        call.active = [ActiveFile(each["path"], each["done"], each["total"]) for each in event["active"]]
        call.waits = [
            Waiting(each["reason"], each["message"], each["until"]) for each in event.get("waits", ())
        ]
        call.announced = None

    @staticmethod
    def _note_wait(call: _Call, event: Mapping[str, Any]) -> None:
        call.announced = Waiting(event["reason"], event["message"], event["until"])

    @staticmethod
    def _note_end(call: _Call, event: Mapping[str, Any]) -> None:
        call.ended = Sums(*(event.get(name) or 0 for name in Sums.__slots__))
        call.rate, call.eta, call.connections, call.active_files = 0.0, None, 0, 0
        call.active, call.waits, call.announced = [], [], None
        call.failed = event["ev"] == "error"
        if not call.failed:
            call.files_done = call.files_total
            if call.total is not None:
                call.done = call.total

    # ---- all together

    @property
    def planned(self) -> bool:
        """Whether it is known of every call what there is to do, or that it failed before."""
        calls = self._calls.values()
        return any(call.planned for call in calls) and all(
            call.planned or call.ended is not None for call in calls
        )

    @property
    def failed(self) -> bool:
        """Whether a call failed."""
        return any(call.failed for call in self._calls.values())

    @property
    def phase(self) -> str | None:
        """What is done with the files, if they are not just fetched: ``check``, ``repair``, ``measure``."""
        return next((call.phase for call in self._calls.values() if call.phase is not None), None)

    @property
    def dry_run(self) -> bool:
        """Whether nothing is done but to say what would be done."""
        return self.planned and all(call.dry_run for call in self._calls.values() if call.planned)

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return sum(call.done for call in self._calls.values())

    @property
    def total(self) -> int | None:
        """Bytes in all; ``None`` if that is not known."""
        totals = [call.total for call in self._calls.values() if call.planned]
        return None if not totals or None in totals else sum(each for each in totals if each is not None)

    @property
    def files_done(self) -> int:
        """Files that are there."""
        return sum(call.files_done for call in self._calls.values())

    @property
    def files_total(self) -> int:
        """Files in all."""
        return sum(call.files_total for call in self._calls.values())

    @property
    def rate(self) -> float:
        """Bytes per second of the last seconds."""
        return sum(call.rate for call in self._calls.values())

    @property
    def eta(self) -> float | None:
        """Seconds that are left at this rate; ``None`` if nothing moves, or the total is not known."""
        running = [call for call in self._calls.values() if call.ended is None and call.planned]
        if len(running) == 1:
            return running[0].eta
        total = self.total
        if total is None or self.rate <= 0:
            return None
        return math.ceil((total - self.done) / self.rate)

    @property
    def connections(self) -> int:
        """Connections in use."""
        return sum(call.connections for call in self._calls.values())

    @property
    def active_files(self) -> int:
        """Files in progress."""
        return sum(call.active_files for call in self._calls.values())

    @property
    def active(self) -> list[ActiveFile]:
        """Files in progress, or some of them."""
        return [each for call in self._calls.values() for each in call.active]

    @property
    def sums(self) -> Sums:
        """What the calls that have ended came to."""
        return sum((call.ended for call in self._calls.values() if call.ended is not None), Sums())

    @property
    def over(self) -> bool:
        """Whether every call has ended."""
        return bool(self._calls) and all(call.ended is not None for call in self._calls.values())

    def waits(self, now: float) -> list[Waiting]:
        """Return what is waited for now, each message once.

        Args:
            now: Unix seconds.
        """
        found: dict[str, Waiting] = {}
        for call in self._calls.values():
            for each in [*call.waits, *([call.announced] if call.announced else [])]:
                if each.until is None or each.until > now:
                    found.setdefault(each.message, each)
        return list(found.values())
