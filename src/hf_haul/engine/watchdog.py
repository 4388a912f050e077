"""Which connections to give up, and which slow range to share; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from hf_haul.config import KiB, MiB, Timings
from hf_haul.engine.transfer import Part

__all__ = ["part_to_share", "stalled_parts"]

#: Below this fraction of its peers' median speed a connection is given up.
_CRAWL: Final = 0.1
#: Peers in flight that are enough to tell the usual speed of a source; with fewer, what it did before tells.
_ENOUGH_PEERS: Final = 3
#: Times that a part's connection is given up without peers that show that another would be faster: it may
#: start over.
_MOST_GUESSES: Final = 2
#: Below this speed a connection is given up without peers, in bytes per second.
_FLOOR: Final = KiB
#: Smallest half worth a request of its own.
_MIN_HALF: Final = MiB
#: The same where another source brings it: that adds to what comes, however full the link to the first is.
_MIN_SHARE: Final = 128 * KiB
#: How many times as fast another source's connection has to be, so that bytes under way are requested there.
#: Where both are about as fast, both would be asked for all that is left: of 60 MB from three sources of
#: 5 MB/s each, 13 MB came twice.
_FASTER: Final = 2.0
#: Seconds that a part must still need before half of it is given away.
_WORTH_SPLITTING: Final = 0.5
#: The same as many times the seconds that a source takes to answer: a second request has to wait for its
#: answer, too.
_ANSWERS_WORTH_SPLITTING: Final = 2.0
_ANSWERS_WORTH_HEDGING: Final = 3.0
#: Below this share of its peers' median speed a part is worth a second request for the same bytes.
_LAGGING: Final = 0.5
#: Share of that time for which a body has to have come before its speed is worth another request.
_TELLING: Final = 0.25


def stalled_parts(
    parts: Sequence[Part],
    stall_timeout: float,
    now: float,
    *,
    usual_speed: Callable[[str], float],
    answer_timeout: Callable[[Part], float] = lambda _part: math.inf,
    gap_timeout: Callable[[Part], float] = lambda _part: math.inf,
    limited: bool = False,
    warm_up: float = Timings.warm_up,
) -> list[tuple[Part, str]]:
    """Return the parts whose connection should be abandoned, each with the reason.

    Args:
        parts: Everything in flight.
        stall_timeout: Seconds between two bytes of a body that are too many.
        now: Seconds, on the clock of the parts.
        usual_speed: Bytes per second that one connection to a source has had on average.
        answer_timeout: Seconds without an answer that are too many for a part.
        gap_timeout: Seconds between two bytes that are too many for a part, where that is less.
        limited: Whether a bandwidth limit is in force: then slowness is our own doing.
        warm_up: See :class:`hf_haul.config.Timings`.
    """
    found: list[tuple[Part, str]] = []
    speeds: dict[str, list[float]] = {}
    for part in parts:
        speeds.setdefault(part.source.name, []).append(part.meter.speed())
    for part in parts:
        waited = part.seconds_in_call(now)
        if waited is None:
            continue  # waiting for the limiter, for its turn (to try again, too), or for the disk
        most = answer_timeout(part) if part.reading_since is None else min(stall_timeout, gap_timeout(part))
        if waited >= most:
            since = " since the request" if part.reading_since is None else ""
            found.append((part, f"no byte for {waited:.0f} s{since}"))
        elif not limited and part.reading_since is not None and now - part.reading_since >= warm_up:
            speed, peers = part.meter.speed(), speeds[part.source.name]
            usual = 0.0
            if len(peers) >= _ENOUGH_PEERS:
                usual = median(peers)
            elif part.abandonments < _MOST_GUESSES:
                usual = usual_speed(part.source.name)
            if speed < max(_FLOOR, usual * _CRAWL):
                others = f", while {usual:.0f} are usual" if usual else ""
                found.append((part, f"only {speed:.0f} bytes/s{others}"))
    return found


def part_to_share(
    parts: Sequence[Part],
    now: float,
    *,
    usual_answer: Callable[[Part], float | None] = lambda _part: 0.0,
    gain_elsewhere: Callable[[Part], float] = lambda _part: 0.0,
    is_unheard: Callable[[Part], bool] = lambda _part: False,
    worth_hedging: float = Timings.worth_hedging,
) -> tuple[Part, bool] | None:
    """Return the part that would finish last, if an idle connection can speed it up.

    A source that has answered nobody yet is not asked for more: what takes one request long takes another as
    long.

    Args:
        parts: Parts of files that are fetched by ranges.
        now: Seconds, on the clock of the parts.
        usual_answer: Seconds in which the source that would be asked answers; ``None`` while it has not.
        gain_elsewhere: How many times as fast as the part's connection one to another source would be, if
            that would be asked; 0.0 if not.
        is_unheard: Whether the part's source has never answered: it may be dead, and is not waited for long
            where another source can be asked.
        worth_hedging: See :class:`hf_haul.config.Timings`.

    Returns:
        The part, and whether to split it (else to hedge it); ``None`` if there is nothing worth it.
    """
    slowest: Part | None = None
    longest, splits = 0.0, False
    for part in parts:
        if (
            part.preempted
            or part.hedge is not None
            or not part.remaining
            or part.cancel_token.queued
            or part.backing_off
        ):
            continue
        answer = usual_answer(part)
        if answer is None:
            continue
        gain = gain_elsewhere(part)
        patience = _WORTH_SPLITTING if gain and is_unheard(part) else worth_hedging
        bearable = max(patience, _ANSWERS_WORTH_HEDGING * answer)
        seconds = _seconds_left(part, now, answer, bearable)
        comes = not math.isinf(seconds)
        can_split = part.remaining >= 2 * (_MIN_SHARE if gain and comes else _MIN_HALF)
        since = part.reading_since
        faster = gain > _FASTER and since is not None and now - since >= _WORTH_SPLITTING
        soon = max(_WORTH_SPLITTING, _ANSWERS_WORTH_SPLITTING * answer)
        worth = soon if faster or can_split else bearable
        if seconds < worth or seconds <= longest:
            continue
        if not can_split and comes and not faster and not _lags(part, parts):
            continue
        slowest, longest, splits = part, seconds, can_split
    if slowest is None:
        return None
    return slowest, splits


def _lags(part: Part, parts: Sequence[Part]) -> bool:
    """Return whether a part comes much slower than others of its source, or alone.

    Where all are as slow the link is full, and a second request for the same bytes only takes from the rest:
    two downloads of 50 MB over one line of 2 MB/s fetched 15 and 26 MB in vain, and now none.
    """
    peers = [
        each.meter.speed()
        for each in parts
        if each is not part and each.source.name == part.source.name and each.reading_since is not None
    ]
    return not peers or part.meter.speed() < _LAGGING * median(peers)


def _seconds_left(part: Part, now: float, answer: float, bearable: float) -> float:
    if (part.seconds_in_call(now) or 0.0) >= bearable:
        return math.inf
    # What a long answer took says nothing about the speed of what follows.
    since = part.started_at if part.reading_since is None else part.reading_since
    age, received = now - since, part.received
    if part.reading_since is not None:
        received -= part.received_before
        if received and age < _TELLING * answer:
            return 0.0
    speed: float = max(part.meter.speed(), received / age if age > 0 else 0.0)
    if not speed:
        return 0.0 if now - since < bearable else math.inf  # too young to judge, or too old to bear
    return part.remaining / speed
