"""How far the homes of a job have come with their stripes, and which of them lag."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from hf_haul.cluster.stripes import Stripes

__all__ = ["ENOUGH", "SLACK", "Home", "Homes", "laggards"]

#: A home lags whose end comes later than that of half of the homes by this factor, and by these seconds.
_LAGGING, SLACK = 1.5, 1.0
#: Stripes that half of the homes have by then, unless they have all of theirs.
ENOUGH: Final = 2
#: Seconds after which nothing heard of a home does not mean any more that nothing has changed.
_NEWS: Final = 2.0


@dataclass(slots=True)
class Home:
    """How far a home has come with its stripes.

    Attributes:
        since: When it began, and with how many.
        total: How many it has to fetch.
        count: How many of them it has.
        under_way: How many it is fetching.
        ended_at: When it had all of them.
        heard_at: When that was so.
    """

    since: float
    total: int
    first_count: int = 0
    count: int = 0
    under_way: int = 0
    ended_at: float | None = None
    heard_at: float = 0.0

    def note(self, count: int, under_way: int, now: float) -> None:
        """Note how many it has, and how many it is fetching."""
        self.count, self.under_way, self.heard_at = count, under_way, now
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
        # Nobody knows what it has done since: of many nodes, each is asked seldom.
        elapsed = min(now, self.heard_at + _NEWS) - self.since
        to_fetch = self.total - self.first_count
        return elapsed * to_fetch / fetched if fetched > 0 else float("inf")


class Homes:
    """The homes of a job that were heard of. Nodes without stripes are none.

    Args:
        stripes: The job's stripes.
        now: When the job began.
    """

    def __init__(self, stripes: Stripes, now: float) -> None:
        self._stripes = stripes
        self._began = now
        self._homes: dict[str, Home] = {}

    def __len__(self) -> int:
        return len(self._homes)

    def items(self) -> Collection[tuple[str, Home]]:
        """Return the homes by name."""
        return self._homes.items()

    def of(self, name: str) -> Home | None:
        """Return how far a node has come; ``None`` if it is no home."""
        home, place = self._homes.get(name), self._stripes.place(name)
        if home is None and place is not None and place < self._stripes.count:
            size = len(self._stripes.nodes)
            total = (self._stripes.count - place + size - 1) // size
            home = self._homes[name] = Home(self._began, total)
        return home

    def note(self, name: str, have: int, claims: Collection[int], now: float, *, first: bool) -> None:
        """Note what a node announced; ``first`` if it is the first time."""
        home, place = self.of(name), self._stripes.place(name)
        if home is None or place is None:
            return
        count = (have & self._stripes.homes(place)).bit_count()
        if first:  # what it took to start is no sign of how fast it is
            home.first_count, home.since = count, now
        home.note(count, sum(each % len(self._stripes.nodes) == place for each in claims), now)


def laggards(homes: Mapping[str, Home], now: float) -> frozenset[str]:
    """Return the homes whose stripes would all be there much later than those of half of the homes.

    Args:
        homes: The homes that are alive, as far as they were heard of, by node.
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
        name
        for name, home in homes.items()
        # Of who has just begun, and has nothing yet, nobody knows how fast it is.
        if home.ended_at is None and now - home.since > SLACK and home.end(now, hopeful=True) > latest
    )
