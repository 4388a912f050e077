"""What a source delivers, and what that takes: one look at it, and all looks of a while."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

__all__ = ["LoadSample", "LoadTick"]

#: Share of the limit that has to be in use on average for a tick to say anything about it.
_IN_USE: Final = 0.75


@dataclass(frozen=True, slots=True)
class LoadSample:
    """What a source has delivered, and what that took.

    Attributes:
        goodput_total: Goodput so far: bytes, and something for each finished request where round trips and
            not bytes are what takes time.
        bytes_total: Bytes alone.
        active: Connections in use now.
        peak: The most in use since the last look.
        cpu_busy: Share of all processors that this process used since the last look, 0.0 to 1.0.
        reading_total: Seconds that connections spent in reads and waits for answers so far, summed over all;
            ``None`` if not known.
        is_requests: Whether requests for small files are what takes the time. Then ``cpu_busy`` is a share of
            one processor: the interpreter runs one thread at a time.
    """

    goodput_total: float
    bytes_total: float
    active: int
    peak: int = 0
    cpu_busy: float = 0.0
    reading_total: float | None = None
    is_requests: bool = False


@dataclass(slots=True)
class LoadTick:
    """A while at one limit, from the look that it begins with to the last one.

    Attributes:
        began: When it began; seconds, monotonic.
        before: What there was by then.
        looks: What was seen since, one at least for what follows from them to be known.
        until: When that was last.
    """

    began: float
    before: LoadSample
    looks: list[LoadSample] = field(default_factory=list)
    until: float = 0.0

    def add(self, now: float, load: LoadSample) -> None:
        """Note one more look."""
        self.looks.append(load)
        self.until = now

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return self.until - self.began

    @property
    def rate(self) -> float:
        """Goodput per second."""
        return (self.looks[-1].goodput_total - self.before.goodput_total) / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """Bytes alone."""
        return (self.looks[-1].bytes_total - self.before.bytes_total) / self.seconds

    @property
    def cpu_busy(self) -> float:
        """Share of the processors that was used, 0.0 to 1.0."""
        return fmean(look.cpu_busy for look in self.looks)

    @property
    def is_requests(self) -> bool:
        """Whether requests for small files are what takes the time."""
        return self.looks[-1].is_requests

    def share_of_reading(self, limit: int) -> float:
        """Return the share of the connections' time that reads took; 1.0 if unknown."""
        read, before = self.looks[-1].reading_total, self.before.reading_total
        return 1.0 if read is None or before is None else (read - before) / (self.seconds * limit)

    def is_conclusive(self, limit: int) -> bool:
        """Return whether it says something about the limit: it was in use, and bytes came."""
        in_use = [look.active for look in self.looks]
        peak = max(max(look.active, look.peak) for look in self.looks)
        return self.rate > 0.0 and peak == limit and sum(in_use) >= _IN_USE * limit * len(in_use)
