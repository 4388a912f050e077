"""Bytes as a fluid: links with a capacity each, and flows that share them as connections do, in simulated time.

A flow crosses a few links (a node's way out, another's way in, the line between two racks, the uplink). Rates are max-min fair:
no flow can have more without one that has no more than it getting less. That is what connections of one kind come to who
share a bottleneck; slow start, losses and unequal round trips are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Network"]

_WIDTH: Final = 4  # links that one flow can cross
_EPSILON: Final = 1e-9


class Network:
    """Links and the flows over them; time is the caller's.

    Args:
        capacities: Bytes per second of each link, by number.
    """

    def __init__(self, capacities: Sequence[float]) -> None:
        # One link more, without a bound, fills the rows of flows that cross fewer than the width.
        self._capacity = np.array([*capacities, np.inf])
        self._links = np.full((64, _WIDTH), len(capacities), dtype=np.int32)
        self._left = np.zeros(64)
        self._rate = np.zeros(64)
        self._live = np.zeros(64, dtype=bool)
        self._free = list(range(63, -1, -1))
        self._flows: list[Any] = [None] * 64
        self._changed = False

    def __len__(self) -> int:
        return len(self._flows) - len(self._free)

    def set_capacity(self, link: int, capacity: float) -> None:
        """Change what a link carries."""
        self._capacity[link] = capacity
        self._changed = True

    def start(self, flow: Any, nbytes: float, links: Sequence[int]) -> int:
        """Begin to move ``nbytes`` over ``links``; returns the number by which it is known until it ends."""
        if not self._free:
            self._grow()
        number = self._free.pop()
        self._flows[number] = flow
        self._left[number] = nbytes
        self._links[number, : len(links)] = links
        self._links[number, len(links) :] = len(self._capacity) - 1
        self._live[number] = True
        self._changed = True
        return number

    def stop(self, number: int) -> float:
        """End a flow before its time; returns the bytes that it did not move."""
        self._live[number] = False
        self._flows[number] = None
        self._free.append(number)
        self._changed = True
        return float(self._left[number])

    def next_end(self) -> float:
        """Seconds until the first flow ends; infinite if nothing moves."""
        self._refresh()
        live = self._live & (self._rate > 0)
        return float((self._left[live] / self._rate[live]).min()) if live.any() else np.inf

    def advance(self, seconds: float) -> list[tuple[float, Any]]:
        """Move on; returns the flows that ended, each with the seconds after which it did, in that order."""
        self._refresh()
        before = self._left.copy() if seconds else self._left
        self._left = self._left - self._rate * seconds
        ended = np.flatnonzero(self._live & (self._left <= _EPSILON * np.maximum(self._rate, 1.0)))
        found = []
        for number in ended:
            after = float(before[number] / self._rate[number]) if self._rate[number] else 0.0
            found.append((min(after, seconds), self._flows[number]))
            self.stop(int(number))
        found.sort(key=lambda each: each[0])
        return found

    def rates(self) -> dict[int, float]:
        """Bytes per second of each flow."""
        self._refresh()
        return {int(number): float(self._rate[number]) for number in np.flatnonzero(self._live)}

    def _grow(self) -> None:
        old = len(self._flows)
        self._links = np.concatenate([self._links, np.full_like(self._links, len(self._capacity) - 1)])
        self._left, self._rate, self._live = (
            np.concatenate([each, np.zeros_like(each)]) for each in (self._left, self._rate, self._live)
        )
        self._flows += [None] * old
        self._free += range(2 * old - 1, old - 1, -1)

    def _refresh(self) -> None:
        """Share the links anew, if flows came or went."""
        if not self._changed:
            return
        self._changed = False
        self._rate[:] = 0.0
        flows = np.flatnonzero(self._live)
        if len(flows):
            self._rate[flows] = self._shared(self._links[flows])

    def _shared(self, links: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """Max-min fair rates, by filling all links that are the narrowest for each of their flows at once."""
        size = len(self._capacity)
        residual = self._capacity.copy()
        rate = np.zeros(len(links))
        waiting = np.arange(len(links))
        while len(waiting):  # each round fixes at least the flows of the narrowest link
            crossed = links[waiting]
            count = np.bincount(crossed.ravel(), minlength=size)
            share = residual / np.maximum(count, 1)
            fair = share[crossed].min(axis=1)
            lowest = np.full(size, np.inf)
            np.minimum.at(lowest, crossed.ravel(), np.repeat(fair, _WIDTH))
            narrow = lowest >= share * (1 - _EPSILON)
            narrow[-1] = False
            fixed = narrow[crossed].any(axis=1)
            rate[waiting[fixed]] = fair[fixed]
            taken = np.bincount(crossed[fixed].ravel(), np.repeat(fair[fixed], _WIDTH), size)
            residual = np.maximum(residual - taken, 0.0)
            waiting = waiting[~fixed]
        return rate
