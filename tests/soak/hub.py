"""A hub on which all goes wrong by turns: ``python -m tests.soak.hub FOLDER SEED``.

It serves each folder in FOLDER as ``org/<name>``, says where in the first line it prints, and lets things go wrong
until its standard input ends. Then it prints how often each of them has.

What is written by downloads is checked by digest, so there bytes may be wrong, too. A range that is read through
``haul://`` cannot be checked by anybody: the folder ``reads`` is spared what only a digest can find.
"""

from __future__ import annotations

import collections
import json
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.requestlog import RequestRecord
from hf_haul.localhub.testing.faults import (
    ChangedEtag,
    Corrupt,
    Cut,
    Delay,
    Fault,
    GzipBody,
    Html,
    IgnoreRange,
    Redirects,
    Reset,
    Stall,
    Status,
    TooLong,
    Trickle,
    WrongRange,
    WrongTotal,
)
from hf_haul.localhub.testing.rules import FaultRule

_EVERY: Final = 0.15  # seconds between two faults
_FORGET_EVERY: Final = 12.0  # seconds; a rule that nothing fits must not lie in wait for ever
_EXPIRE_EVERY: Final = 4.0  # seconds
_SERVED: Final = ("cdn", "resolve*")
_STORED: Final = ("cdn",)
_ALL: Final = ("*",)


def _faults(chance: random.Random) -> dict[str, tuple[Callable[[], Fault], tuple[str, ...], int]]:
    """What can go wrong: how it is made, which routes it is for, how many requests it hits."""
    some = lambda: chance.choice((0, 1, 1000, 70_000, 300_000, 1_500_000))  # noqa: E731
    return {
        "reset": (Reset, _ALL, 2),
        "reset in the body": (lambda: Reset(after=some()), _SERVED, 3),
        "cut": (lambda: Cut(after=some()), _SERVED, 3),
        "stall": (lambda: Stall(after=some()), _SERVED, 1),
        "slow first byte": (lambda: Delay(chance.uniform(0.2, 6.0)), _ALL, 3),
        "429": (lambda: Status(429, retry_after=1.0), _ALL, 2),
        "503": (lambda: Status(503, retry_after=1.0), _ALL, 1),
        "500": (lambda: Status(500), _ALL, 1),
        "trickle": (lambda: Trickle(chance.choice((30_000.0, 100_000.0, 500_000.0))), _SERVED, 1),
        "too long": (TooLong, _SERVED, 1),
        "range ignored": (IgnoreRange, _SERVED, 1),
        "web page": (lambda: Html(chance.choice((200, 502))), _SERVED, 1),
        "another size": (lambda: WrongTotal(chance.choice((0, 700, 10**7))), _SERVED, 1),
        # Only where the digest is known from elsewhere: an etag of the Hub's own is what a digest is taken from.
        "another etag": (ChangedEtag, _STORED, 1),
        "gzip": (GzipBody, _SERVED, 1),
        "redirects": (lambda: Redirects(302, 307), _SERVED, 2),
        "wrong bytes": (lambda: Corrupt(chance.randrange(3_000_000)), _SERVED, 1),
        "another range": (lambda: WrongRange(chance.choice((-100, 1, 5000)), admits=False), _SERVED, 1),
    }


#: What nobody can find out who reads a range only.
_NOT_FOR_READS: Final = frozenset({"wrong bytes", "another range"})


def _is_download(record: RequestRecord) -> bool:
    return record.repo_id != "org/reads"


class Mischief(threading.Thread):
    """Lets things go wrong at a hub, one after the other."""

    def __init__(self, hub: LocalHub, seed: str) -> None:
        super().__init__(name="mischief", daemon=True)
        self._hub = hub
        self._chance = random.Random(seed)
        self.over = threading.Event()
        self.rules: list[tuple[str, FaultRule]] = []
        self.hits: collections.Counter[str] = collections.Counter(dict.fromkeys(_faults(self._chance), 0))

    def run(self) -> None:
        faults = _faults(self._chance)
        turn = 0
        while not self.over.wait(_EVERY):
            turn += 1
            name = self._chance.choice(sorted(faults))
            make, kinds, times = faults[name]
            rule = self._hub.faults.add(
                make(),
                kind=self._chance.choice(kinds),
                nth=self._chance.randint(1, 6),
                times=times,
                when=_is_download if name in _NOT_FOR_READS else None,
            )
            self.rules.append((name, rule))
            if turn % round(_EXPIRE_EVERY / _EVERY) == 0:
                self._hub.expire_urls()
                self.hits["links expired"] += 1
            if turn % round(_FORGET_EVERY / _EVERY) == 0:
                self.forget()

    def forget(self) -> None:
        """Start afresh; stalled bodies go on."""
        self._hub.faults.clear()
        for name, rule in self.rules:
            self.hits[name] += rule.hits
        self.rules.clear()


def main() -> None:
    folder, seed = Path(sys.argv[1]), sys.argv[2]
    repos = [Repo.from_folder(each, f"org/{each.name}") for each in sorted(folder.iterdir())]
    with LocalHub(*repos, log_size=1000) as hub:
        mischief = Mischief(hub, seed)
        mischief.start()
        print(hub.url, flush=True)
        sys.stdin.read()
        mischief.over.set()
        mischief.join()
        mischief.forget()
        print(
            json.dumps({"faults": dict(sorted(mischief.hits.items())), "bytes": hub.body_bytes}), flush=True
        )


if __name__ == "__main__":
    main()
