"""What :mod:`tests.benchmarks.sim_swarm` compares with: four ways to bring a repository to many nodes, as formulas and as policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.benchmarks.swarm_model import Setting

from hf_haul.cluster.bitmaps import lowest

__all__ = ["SCHEMES", "Follower", "Scheme"]


@dataclass(frozen=True)
class _State:
    have: int
    version: int


@dataclass(frozen=True)
class _Choice:
    stripe: int
    node: str | None


class Follower:
    """Fetches everything from one source, in order, as soon as it is there; the Hub has all.

    Args:
        source: A node's name, or ``None`` for the Hub.
    """

    def __init__(self, source: str | None) -> None:
        self._source, self._theirs, self._have, self._version = source, 0, 0, 0

    def note_state(self, name: str, state: _State) -> None:
        if name == self._source:
            self._theirs = state.have

    def note_gone(self, name: str) -> None:
        """Nobody takes its place: these schemes have no answer to that."""

    note_silent = note_gone

    def next(self, wanted: int, busy: Mapping[str | None, int], *, under_way: int) -> _Choice | None:
        if self._source is None:
            there = wanted
        else:  # two at once, so that one comes while another is asked for; more would end later each
            there = wanted & self._theirs if busy.get(self._source, 0) < 2 else 0
        return _Choice(lowest(there), self._source) if there else None

    def note_begun(self, stripe: int, node: str | None) -> None: ...
    def note_failed(self, stripe: int, node: str | None, error_kind: str) -> None: ...
    def note_dropped(self, stripe: int, node: str | None) -> None: ...
    def note_ended(self) -> None: ...

    def note_done(self, stripe: int, node: str | None, seconds: float) -> None:
        self._have |= 1 << stripe
        self._version += 1

    @property
    def version(self) -> int:
        return self._version

    def state(self) -> _State:
        return _State(self._have, self._version)


@dataclass(frozen=True)
class Scheme:
    """A way to bring all to all.

    Args:
        name: As in the table.
        seconds: By formula.
        uplink_bytes: By formula.
        source: Whom a node with a number fetches from when it is simulated; ``None`` for the Hub.
    """

    name: str
    seconds: Callable[[Setting], float]
    uplink_bytes: Callable[[Setting], float]
    source: Callable[[int], int | None] | None


SCHEMES = (
    Scheme(
        "each from the Hub",
        lambda s: max(s.nodes * s.size / s.uplink, s.size / s.nic),
        lambda s: s.nodes * s.size,
        lambda number: None,
    ),
    Scheme(
        "one, then a binary tree",
        lambda s: s.size / s.uplink + math.ceil(math.log2(s.nodes)) * s.size / s.nic,
        lambda s: s.size,
        None,
    ),
    Scheme(
        "chain",
        lambda s: s.size / s.uplink + (s.nodes - 1) * max(s.stripes) / s.nic,
        lambda s: s.size,
        lambda number: number - 1 if number else None,
    ),
    Scheme("stripes, at best", lambda s: s.bound, lambda s: s.size, None),
)
