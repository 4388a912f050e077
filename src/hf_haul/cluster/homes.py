"""How far the homes of a job have come with their stripes, and which of them lag."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["ENOUGH", "SLACK", "Home", "laggards"]

#: A home lags whose end comes later than that of half of the homes by this factor, and by these seconds.
_LAGGING, SLACK = 1.5, 1.0
#: Stripes that half of the homes have by then, unless they have all of theirs.
ENOUGH: Final = 2


@dataclass(slots=True)
class Home:
    """How far a home has come with its stripes.

    Attributes:
        since: When it began, and with how many.
        total: How many it has to fetch.
        count: How many of them it has.
        under_way: How many it is fetching.
        ended_at: When it had all of them.
    """

    since: float
    total: int
    first_count: int = 0
    count: int = 0
    under_way: int = 0
    ended_at: float | None = None

    def note(self, count: int, under_way: int, now: float) -> None:
        """Note how many it has, and how many it is fetching."""
        self.count, self.under_way = count, under_way
        if count >= self.total and self.ended_at is None:
            self.ended_at = now
        elif count < self.total:
            self.ended_at = None

    def end(self, now: float, *, hopeful: bool) -> float:
        """Return the seconds from its begin in which it has all, by its pace so far.

        Args:
            now: The time.
            hopeful: Whether what it is fetching comes at this moment.
        """
        if self.ended_at is not None:
            return self.ended_at - self.since
        fetched = self.count - self.first_count + (self.under_way if hopeful else 0)
        elapsed = now - self.since
        to_fetch = self.total - self.first_count
        return elapsed * to_fetch / fetched if fetched > 0 else float("inf")


def laggards(homes: Mapping[str, Home], now: float) -> frozenset[str]:
    """Return the homes whose stripes would all be there much later than those of half of the homes.

    Args:
        homes: The homes that are alive, by node.
        now: The time.
    """
    if len(homes) < 2:
        return frozenset()
    far = statistics.median_high([home.count - home.first_count for home in homes.values()])
    half_ended = sum(home.ended_at is not None for home in homes.values()) * 2 >= len(homes)
    if far < ENOUGH and not half_ended:
        return frozenset()
    usual = statistics.median_low([home.end(now, hopeful=False) for home in homes.values()])
    latest = max(usual * _LAGGING, usual + SLACK)
    return frozenset(
        name for name, home in homes.items() if home.ended_at is None and home.end(now, hopeful=True) > latest
    )
