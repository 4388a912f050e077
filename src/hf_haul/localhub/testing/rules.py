"""Rules: which requests have a fault, and how often."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from hf_haul.localhub.requestlog import RequestRecord
from hf_haul.localhub.testing.faults import Effects, Fault

__all__ = ["FaultRule", "Faults"]

_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")


def _covers(header: str, offset: int) -> bool:
    match = _RANGE.fullmatch(header)
    if match is None:
        return not header  # no range is the whole file; a suffix cannot be told without the size
    first, last = match.groups()
    return int(first) <= offset and (not last or offset <= int(last))


@dataclass
class FaultRule:
    """Which requests have a fault. Made by `Faults.add`.

    Attributes:
        fault: What goes wrong.
        kind: The route's kind, a glob: ``"cdn"``, ``"resolve*"``, ``"*"``.
        path: The path in the repository, a glob; ``*`` crosses ``/``.
        method: ``"GET"``, ``"HEAD"`` or ``None`` for any.
        range: The ``Range`` header, a glob; ``""`` for requests without one, ``None`` for any.
        covers: A byte offset that the request asks for, or ``None`` for any.
        when: A further test.
        nth: The first request it hits, counted from 1 among those it fits.
        times: How many it hits from there on; ``None`` for all.
        seen: Requests so far that it fits.
        hits: Requests so far that it hit.
    """

    fault: Fault
    kind: str = "*"
    path: str = "*"
    method: str | None = None
    range: str | None = None
    covers: int | None = None
    when: Callable[[RequestRecord], bool] | None = None
    nth: int = 1
    times: int | None = 1
    seen: int = 0
    hits: int = 0
    _hit: threading.Event = field(default_factory=threading.Event, repr=False)

    def wait(self, timeout: float = 10.0) -> bool:
        """Wait until a request had the fault; return whether one did within ``timeout`` seconds."""
        return self._hit.wait(timeout)

    def fits(self, record: RequestRecord) -> bool:
        """Return whether the rule matches this request, whichever its number is."""
        return (
            fnmatchcase(record.kind, self.kind)
            and fnmatchcase(record.path, self.path)
            and self.method in (None, record.method)
            and (self.range is None or fnmatchcase(record.range, self.range))
            and (self.covers is None or _covers(record.range, self.covers))
            and (self.when is None or self.when(record))
        )

    def count(self) -> bool:
        """Count a request that matches; return whether it has the fault."""
        self.seen += 1
        hit = self.nth <= self.seen and (self.times is None or self.seen < self.nth + self.times)
        if hit:
            self.hits += 1
            self._hit.set()
        return hit


class Faults:
    """The rules of a hub.

    Safe for threads: ``_lock`` guards the rules and their counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[FaultRule] = []
        self._released = threading.Event()
        self._chains: dict[str, tuple[int, ...]] = {}
        self._names = itertools.count(1)

    def add(
        self,
        fault: Fault,
        *,
        kind: str = "*",
        path: str = "*",
        method: str | None = None,
        range: str | None = None,  # noqa: A002  it is the header's name
        covers: int | None = None,
        when: Callable[[RequestRecord], bool] | None = None,
        nth: int = 1,
        times: int | None = 1,
    ) -> FaultRule:
        """Add a rule for requests from now on; see `FaultRule` for the arguments.

        Several rules may hit the same request. Without further arguments it is the next request,
        and only that one.
        """
        rule = FaultRule(fault, kind, path, method, range, covers, when, nth, times)
        with self._lock:
            self._rules.append(rule)
        return rule

    def remove(self, rule: FaultRule) -> None:
        """Forget one rule."""
        with self._lock:
            self._rules = [kept for kept in self._rules if kept is not rule]

    def clear(self) -> None:
        """Forget all rules, and end all stalls."""
        with self._lock:
            self._rules.clear()
        self.release()

    def release(self) -> None:
        """End all stalls, so that their bodies go on."""
        with self._lock:
            ended, self._released = self._released, threading.Event()
        ended.set()

    def effects(self, record: RequestRecord) -> Effects:
        """Count a request, and return the effects on it; called by the hub."""
        with self._lock:
            effects = Effects(self._released)
            hit = [rule for rule in self._rules if rule.fits(record) and rule.count()]
        for rule in hit:
            rule.fault.apply(effects)
            record.faults.append(type(rule.fault).__name__)
        return effects

    def start_chain(self, codes: tuple[int, ...]) -> str:
        """Store the statuses of a chain of redirects under a new name; called by the hub."""
        name = str(next(self._names))
        self._chains[name] = codes
        return name

    def chain(self, name: str) -> tuple[int, ...]:
        """Return the statuses of a chain of redirects; called by the hub."""
        return self._chains.get(name, ())
