"""What a measurement of a link found, and what follows from it; decides, and does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

__all__ = ["Limit", "LinkReport", "LinkSample", "best_sample", "limit_of", "next_connections"]

#: What keeps it from being faster. ``connection``: each connection brings the same, and more bring more: the
#: server, or the distance; ``link``: more connections bring no more; ``server``: it asked to wait;
#: ``processor``: this machine's; ``bandwidth``: the limit that was set; ``ranges``: the server sends whole
#: files only; ``unknown``: there was too little to measure.
Limit = Literal["connection", "link", "server", "processor", "bandwidth", "ranges", "unknown"]

#: A step pays if it brings this much more: measured twice, the same rarely differs by more.
_PAYS: Final = 1.10
#: Steps in a row that do not pay before no more are tried.
_MOST_IDLE: Final = 2
#: A rate counts as the best if it is this part of it.
_AS_GOOD: Final = 0.95
#: How much more twice as many connections bring where nothing but the connection limits.
_RISING: Final = 1.5
#: Share of the processors in use above which they may be what limits.
_BUSY: Final = 0.9


@dataclass(frozen=True, slots=True)
class LinkSample:
    """What a number of connections brought.

    Attributes:
        connections: How many there were.
        rate: Bytes per second over all of them, once they were under way.
        bytes: Bytes that came.
        seconds: How long it was measured.
        processors: Processors that this process used meanwhile.
    """

    connections: int
    rate: float
    bytes: int
    seconds: float
    processors: float = 0.0


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What was measured of a link.

    Attributes:
        url: The file that was read, without what may be secret.
        size: Its bytes; ``None`` if the server does not tell.
        first_request_seconds: From the first request to its first byte: connections, TLS and redirects
            included; ``None`` if none came.
        first_byte_seconds: The same over a connection that is open; ``None`` if it was not measured.
        samples: What each number of connections brought, in the order in which they were tried.
        limit: What keeps it from being faster.
        best_connections: The fewest connections that bring as much as any; ``None`` without a sample.
        best_rate: What they bring, in bytes per second.
        stopped: Why it was stopped early, if it was.
        bytes: Bytes that came in all.
        seconds: How long all of it took.
    """

    url: str
    size: int | None
    first_request_seconds: float | None
    first_byte_seconds: float | None
    samples: tuple[LinkSample, ...]
    limit: Limit
    best_connections: int | None
    best_rate: float | None
    stopped: str | None
    bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return all of it in plain values, as ``hf-haul bench --json`` prints it."""
        return asdict(self)


def next_connections(samples: Sequence[LinkSample], most: int) -> int | None:
    """Return how many connections to try next: twice as many as before, as long as that pays.

    Args:
        samples: What was measured so far, each with more connections than the one before.
        most: Connections at the most.

    Returns:
        ``None`` if nothing more is to be learned.
    """
    if not samples:
        return 1
    peak = 0.0
    idle = 0  # steps in a row that did not pay
    for sample in samples:
        idle = 0 if sample.rate > peak * _PAYS else idle + 1
        peak = max(peak, sample.rate)
    wanted = samples[-1].connections * 2
    if samples[-1].connections >= most or idle >= _MOST_IDLE:
        return None
    return min(wanted, most)


def best_sample(samples: Sequence[LinkSample]) -> LinkSample | None:
    """Return the sample with the fewest connections that brought as much as any."""
    peak = max((sample.rate for sample in samples), default=0.0)
    good = [sample for sample in samples if sample.rate >= peak * _AS_GOOD and sample.rate > 0]
    return min(good, key=lambda sample: sample.connections, default=None)


def limit_of(samples: Sequence[LinkSample], processors: float, max_bandwidth: float | None = None) -> Limit:
    """Return what keeps it from being faster.

    Args:
        samples: What was measured, each with more connections than the one before.
        processors: How many processors the process may use.
        max_bandwidth: The limit that is set, in bytes per second.
    """
    best = best_sample(samples)
    if best is None or len(samples) < 2:
        return "unknown"
    if max_bandwidth is not None and best.rate >= max_bandwidth * _AS_GOOD:
        return "bandwidth"
    if best.processors >= processors * _BUSY:
        return "processor"
    before, last = samples[-2], samples[-1]
    doublings = last.connections / before.connections / 2
    return "connection" if last.rate >= before.rate * _RISING * doublings else "link"
