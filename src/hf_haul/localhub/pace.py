"""How fast bodies are sent, and in pieces of which size."""

from __future__ import annotations

from typing import Final

__all__ = ["SLICE", "Pace", "slice_after", "slice_for"]

#: Bytes handed over between two looks at the pace and the counters.
SLICE: Final = 1 << 20
#: And as many where a client takes them within these seconds: 0.83 and not 0.73 of nginx's speed over
#: loopback (python -m tests.benchmarks.bench_serve --only large, medians of three and five runs in turn).
_LARGEST_SLICE, _AT_ONCE = 32 << 20, 0.02
_LEAST_TURN: Final = 16 << 10  # fewer cost more than they smooth


class Pace:
    """How fast bodies are sent, per connection and in total.

    Times are those of the event loop, the only thread that waits here.
    """

    def __init__(self) -> None:
        self.per_connection: float | None = None
        self.total: float | None = None
        self._free_at = 0.0

    @property
    def unlimited(self) -> bool:
        """Whether there is no limit."""
        return self.per_connection is None and self.total is None

    @property
    def turn(self) -> int:
        """Bytes that one connection sends of the total before it is another's turn.

        Each waits for all others: with longer turns, each of dozens would stop for seconds.
        """
        if self.total is None:
            return _LARGEST_SLICE
        return max(1, min(SLICE, max(_LEAST_TURN, int(self.total / 200)), int(self.total / 20)))

    def reserve_total(self, nbytes: int, now: float) -> float:
        """Take ``nbytes`` of the total rate; return the seconds to wait before sending them."""
        if self.total is None:
            return 0.0
        start = max(now, self._free_at)
        self._free_at = start + nbytes / self.total
        return start - now


def slice_for(rate: float | None, most: int = SLICE) -> int:
    """Return the bytes to hand over at once.

    Args:
        rate: Bytes per second; ``None`` for no limit.
        most: Bytes without a limit.
    """
    if rate is None:
        return most
    # Twenty steps a second look smooth, and let a new pace take hold soon.
    return max(1, min(SLICE, int(rate / 20)))


def slice_after(nbytes: int, seconds: float, sent: int) -> int:
    """Return the bytes to hand over next, after a client took as many as these in some seconds.

    They are no more than an eighth of what was sent before: who wanted but the beginning has gone by then.
    """
    return min(nbytes * 2, _LARGEST_SLICE, max(SLICE, sent // 8)) if seconds < _AT_ONCE else SLICE
