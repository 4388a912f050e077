"""How far one part has come, as its worker writes it and others read it."""

from __future__ import annotations

import threading

from hf_haul.metrics import SpeedMeter
from hf_haul.ranges import RangeSet
from hf_haul.transports.retry import ChangeRetries, Trickle

__all__ = ["PartProgress"]


class PartProgress:
    """What only the worker of a part writes: its position, and what happened to it.

    Anybody may read it. ``_lock`` makes one of looking how far the worker is and moving ``stop``, so that
    what a read under way will bring is never given away. It is held for a moment, and is taken last.

    Attributes:
        position: Up to where bytes are written.
        calls: How many blocking calls were begun.
        opening: Which of them asked for the body under way.
        busy_since: When the blocking call under way began, or ``None`` between calls.
        reading_since: Since when the body under way is read, or ``None`` before its first byte.
        received: Bytes that came over the network for this part, repeated ones included.
        received_before: The same before the body under way.
        meter: Speed of the body under way.
        backing_off: Whether the worker waits before its next attempt.
        refusals: How often the source refused its range.
        change_retries: How often the source seemed to serve another file.
        trickle: Whether what comes is worth waiting for.
        written: What it wrote of the file, where that has several sources.
        gave_way: Whether nothing was tried again, as another source could be asked.
    """

    __slots__ = (
        "_forgiven", "_lock", "_reads_to", "backing_off", "busy_since", "calls", "change_retries", "gave_way", "meter",
        "opening", "position", "reading_since", "received", "received_before", "refusals", "trickle",
        "written",
    )  # fmt: skip

    stop: int  # the scheduler's
    unanswered_calls: int  # the scheduler's

    def __init__(self, start: int, *, notes_writes: bool = False) -> None:
        self._lock = threading.Lock()
        self.position = start
        self.written = RangeSet() if notes_writes else None
        self._reads_to = start  # where the read under way ends
        self._forgiven = 0  # calls given up without an answer, as of the last answer
        self.calls = self.opening = 0
        self.busy_since: float | None = None
        self.reading_since: float | None = None
        self.received = self.received_before = 0
        self.meter = SpeedMeter()
        self.backing_off = self.gave_way = False
        self.refusals = 0
        self.change_retries = ChangeRetries()
        self.trickle = Trickle()

    def next_read(self, most: int) -> int:
        """Return how many bytes to read next, which nobody else is given any more; 0 at the end.

        Args:
            most: Bytes of one read.
        """
        with self._lock:
            size = min(most, self.stop - self.position)
            self._reads_to = self.position + size
            return size

    def begin_call(self, now: float) -> None:
        """Note that the worker is about to wait for the network."""
        self.calls += 1
        if self.reading_since is None:
            self.opening = self.calls
        self.busy_since = now

    def note_answer(self) -> None:
        """Note that the source has answered."""
        self._forgiven = self.unanswered_calls

    @property
    def unanswered(self) -> int:
        """How often in a row the watchdog gave the connection up before an answer came."""
        return self.unanswered_calls - self._forgiven
