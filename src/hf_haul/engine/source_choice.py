"""Which source is asked for the next part, and which is left alone for a while; no I/O.

A part goes to a source that has the file, may have another connection, and is not left alone: those in the
own network go before others, which are not asked while the near ones bring as much, and then the one whose
connections are fastest. A source that nobody has heard of gets one part until it has answered, so that a dead
one costs no more than that.

What fails loses the part; after :data:`_FILE_FAILURES` in a row the file; and after :data:`_SOURCE_FAILURES`,
or at once where it does not answer, it is left alone, twice as long each time. A file's origin is always
there for what no other source has: then it is asked with all patience, as if there were no other.
"""

from __future__ import annotations

import functools
import ipaddress
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hf_haul.config import KiB, MiB
from hf_haul.engine.file_sources import FileSource
from hf_haul.engine.transfer import Part, Transfer
from hf_haul.errors import (
    CertificateError,
    ConnectionFailedError,
    HttpStatusError,
    InvalidUrlError,
    RangeRefusedError,
    ServerBusyError,
    SourceChangedError,
)
from hf_haul.metrics import MAX_SOURCES, SourceHistory
from hf_haul.transports.source_limits import SourceLimits
from hf_haul.urls import parse_url

__all__ = ["Fault", "SourceChoice", "fault_of", "is_near"]

#: Parts of a file in a row that a source may fail to bring before it is not asked for that file any more.
_FILE_FAILURES: Final = 2
#: Parts of any files in a row, after which it is left alone for a while.
_SOURCE_FAILURES: Final = 4
#: Files in a row that it does not have, after which it is not asked for others for a while either.
_MOST_MISSES: Final = 32
#: Seconds for which a source is left alone for the first time, and at the most.
_FIRST_REST: Final = 15.0
_LONGEST_REST: Final = 900.0
#: Seconds for which one is that sent wrong bytes, and one that may have until that is known.
_REST_OF_LIARS: Final = 3600.0
_REST_OF_SUSPECTS: Final = 60.0
#: Bytes that a source is asked for first which nobody has heard of, unless it is all that there is.
_PROBE: Final = MiB
#: Smallest part of a file that has several sources.
_LEAST_PART: Final = 256 * KiB
#: Seconds of a part that are too many if the part is short: a file is complete when its last part is.
_LONG_PART: Final = 1.0
#: Share of what is left that the parts under way may come to, so that all sources end together.
_SHARE_OF_REST: Final = 0.5
#: Seconds for which sources in the own network may bring too little before others are asked: while a limit of
#: connections changes, the number of connections and their speeds do not belong together.
_SHORT_OF_SPEED: Final = 1.0
#: Ends of names that are given out in one's own network only.
_LOCAL_NAMES: Final = (".local", ".lan", ".internal", ".home.arpa", ".localdomain", ".localhost")
_REFUSED: Final = 400
_FAILED: Final = 500


@dataclass(frozen=True, slots=True)
class Fault:
    """What an error says of the source that it came from.

    Attributes:
        lacks: Whether it does not have the file, or does not give it to us.
        useless: Whether it is of no use for the file.
        dead: Whether it is of no use for anything at the moment.
        rest: Seconds that it asked to be left alone for.
    """

    lacks: bool = False
    useless: bool = False
    dead: bool = False
    rest: float = 0.0


def fault_of(error: BaseException, *, alive: bool) -> Fault:
    """Return what an error says of a source.

    Args:
        error: The error, of one attempt.
        alive: Whether it had begun to send the part, or is sending another: then one failure is bad luck.
    """
    if isinstance(error, HttpStatusError):
        refused = _REFUSED <= (error.status or 0) < _FAILED
        return Fault(lacks=refused, useless=True)
    if isinstance(error, ServerBusyError):
        return Fault(dead=not alive, rest=error.retry_after or 0.0)
    if isinstance(error, SourceChangedError | RangeRefusedError):
        return Fault(useless=True)
    return Fault(
        dead=isinstance(error, CertificateError) or (isinstance(error, ConnectionFailedError) and not alive)
    )


@dataclass(slots=True)
class _Standing:
    """What is remembered of a source that has failed."""

    failures: int = 0
    misses: int = 0
    rests: int = 0
    struck_at: float = -math.inf
    until: float = -math.inf
    suspected_until: float = -math.inf
    on_probation: bool = False


class SourceChoice:
    """Owns what is known of sources beside their speed. It has no lock; the scheduler's guards it.

    Args:
        limits: How many connections each may have.
        history: How fast each is.
        clock: Seconds, monotonic.
    """

    def __init__(self, limits: SourceLimits, history: SourceHistory, *, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._history = history
        self._clock = clock
        self._standings: dict[str, _Standing] = {}

    # ---- who is asked

    def next_for(self, transfer: Transfer) -> FileSource | None:
        """Return the source to ask for the next part of a file; ``None`` while none may be asked."""
        sources = transfer.sources
        if not sources.has_others:  # the usual case costs nothing
            return sources.origin if self._limits.free(sources.origin.name) else None
        return self._best(transfer, self._asked(transfer))

    def next_beside(self, part: Part) -> FileSource | None:
        """Return the source to ask for some of what another connection is fetching; ``None`` for none."""
        sources = part.transfer.sources
        if not sources.has_others:
            return self.next_for(part.transfer)
        found = self._asked(part.transfer)
        elsewhere = self._best(part.transfer, [each for each in found if each is not part.source])
        return elsewhere or self._best(part.transfer, [each for each in found if each is part.source])

    def may_ask(self, name: str) -> bool:
        """Return whether a source that is no file's last one may have another connection."""
        return not self.is_resting(name) and bool(self._limits.free(name)) and self._is_trusted(name)

    def has_alternative(self, part: Part) -> bool:
        """Return whether another source can be asked for a part, so that this one is not waited for."""
        if not part.transfer.sources.has_others:
            return False
        return any(each is not part.source for each in self._open_to(part.transfer))

    def longest_part(self, transfer: Transfer, source: FileSource) -> int:
        """Return how many bytes a source is asked for at once, so that all sources of a file end together.

        That is its share of a part of what is left, by the speed of one connection: the less is left, the
        shorter parts become.
        """
        speed = self._history.connection_speed(source.name)
        if not speed:
            return _PROBE
        all_speeds = sum(
            (self._history.connection_speed(each.name) or 0.0) * max(1, self._limits.active(each.name))
            for each in transfer.sources.in_use()
        )
        metrics = transfer.metrics
        left = max(sum(map(len, transfer.pending)), metrics.bytes_total - metrics.bytes_downloaded)
        share = _SHARE_OF_REST * left * speed / all_speeds
        usual = max(min(_PROBE, _LONG_PART * speed), self._limits.most_per_part(source.name))
        return max(_LEAST_PART, int(min(share, usual)))

    def gain(self, source: FileSource, part: Part) -> float:
        """Return how many times as fast as a part's connection another one to a source would be.

        On a full link a new connection takes its share from those that there are. 1.0 while nothing is known.
        """
        speed, own = self._history.connection_speed(source.name), part.meter.speed()
        if speed is None:
            return 1.0
        active = self._limits.active(source.name)
        share = active / (active + 1) if active else 1.0
        return share * speed / own if own else math.inf

    def is_resting(self, name: str) -> bool:
        """Return whether a source is left alone."""
        standing = self._standings.get(name)
        return standing is not None and self._clock() < max(standing.until, standing.suspected_until)

    def _asked(self, transfer: Transfer) -> list[FileSource]:
        """Return the sources that are asked for a file now: of all that may be, the first, or the near ones.

        The uplink is everybody's: it is left alone while what is in the own network brings as much, apart
        from finding out what it brings.
        """
        found = self._open_to(transfer)
        if transfer.sources.one_by_one:
            return found[:1]
        near = [each for each in found if is_near(each.name)]
        far = [each for each in found if not is_near(each.name)]
        if not near or not far:
            return found
        brings, would_bring = (sum(self._speed(each.name) for each in group) for group in (near, far))
        if brings and brings >= would_bring:
            transfer.sources.near_did_at = self._clock()
        elif self._clock() >= transfer.sources.near_did_at + _SHORT_OF_SPEED:
            return found
        return [*near, *(each for each in far if not self._speed(each.name))]

    def _speed(self, name: str) -> float:
        """Return what the connections to a source bring, or would at first; 0.0 while that is unknown."""
        standing = self._standings.get(name)
        if standing is not None and standing.on_probation:
            return 0.0
        connections = max(self._limits.active(name), self._limits.initial)
        return (self._history.connection_speed(name) or 0.0) * connections

    def _open_to(self, transfer: Transfer) -> list[FileSource]:
        """Return the sources that may be asked for a file, whether or not they have a connection free.

        Who is suspected may show in that very file, alone, whether that is right.
        """
        sources = transfer.sources
        rests = self._has_failed if sources.one_by_one else self.is_resting
        return [each for each in sources.in_use() if not rests(each.name)] or [sources.origin]

    def _has_failed(self, name: str) -> bool:
        standing = self._standings.get(name)
        return standing is not None and self._clock() < standing.until

    def _best(self, transfer: Transfer, sources: list[FileSource]) -> FileSource | None:
        free = [each for each in sources if self._limits.free(each.name)]
        trusted = [each for each in free if each.is_origin or self._may_bring(transfer, each)]
        return min(trusted, key=self._rank, default=None)

    def _may_bring(self, transfer: Transfer, source: FileSource) -> bool:
        """Return whether one more part may be asked for: one until it is known that a source has the file."""
        if not self._is_trusted(source.name):
            return False
        under_way = [part for part in transfer.parts if part.source is source]
        return source.has_it or not under_way or any(part.received for part in under_way)

    def _rank(self, source: FileSource) -> tuple[bool, float]:
        speed = self._history.connection_speed(source.name)
        return not is_near(source.name), -(math.inf if speed is None else speed)

    def _is_trusted(self, name: str) -> bool:
        """Return whether a source may have more than one connection, or has none so far."""
        standing = self._standings.get(name)
        answers = self._history.first_byte_seconds(name) is not None
        return (answers and not (standing and standing.on_probation)) or not self._limits.active(name)

    # ---- what became of it

    def note_success(self, source: FileSource) -> None:
        """Note that a source brought a part."""
        source.failures, source.has_it = 0, True
        standing = self._standings.get(source.name)
        if standing is not None and not self.is_resting(source.name):
            del self._standings[source.name]

    def note_failure(self, source: FileSource, fault: Fault, began: float) -> bool:
        """Note that a source did not bring a part; return whether it is left alone from now on.

        Args:
            source: The source.
            fault: What went wrong.
            began: When the part was begun: what began before the last failure failed for the same reason.
        """
        standing = self._standing_of(source.name)
        if fault.useless:
            source.lost = True
        if fault.lacks:
            standing.misses += 1
        else:
            if began >= source.struck_at:
                source.struck_at = self._clock()
                source.failures += 1
                source.lost = source.lost or (source.failures >= _FILE_FAILURES and not source.is_origin)
            if began >= standing.struck_at:
                standing.struck_at = self._clock()
                standing.failures += 1
        if (
            fault.dead
            or fault.rest
            or standing.failures >= _SOURCE_FAILURES
            or standing.misses >= _MOST_MISSES
        ):
            return self._rest(standing, fault.rest)
        return False

    def suspect(self, transfer: Transfer) -> None:
        """Leave everybody alone who may have sent wrong bytes of a file, until that is known."""
        for each in {suspicion.source.name for suspicion in transfer.sources.suspicions}:
            self._standing_of(each).suspected_until = self._clock() + _REST_OF_SUSPECTS

    def judge(self, transfer: Transfer, liars: set[str]) -> None:
        """Leave alone for long who sent wrong bytes of a file, and nobody else that was suspected."""
        for each in {suspicion.source.name for suspicion in transfer.sources.suspicions}:
            if each in liars:
                standing = self._standing_of(each)
                standing.on_probation = True
                standing.until = self._clock() + _REST_OF_LIARS
            else:
                self._standings.pop(each, None)

    def _standing_of(self, name: str) -> _Standing:
        """Return what is remembered of a source; of very many, half are forgotten."""
        found = self._standings.get(name)
        if found is None:
            if len(self._standings) >= MAX_SOURCES:
                soonest = sorted(self._standings, key=lambda each: self._standings[each].until)
                for each in soonest[: MAX_SOURCES // 2]:
                    del self._standings[each]
            found = self._standings[name] = _Standing()
        return found

    def _rest(self, standing: _Standing, asked: float) -> bool:
        """Leave a source alone for a while, unless it is; return whether that begins now."""
        standing.failures = standing.misses = 0
        standing.on_probation = True
        if self._clock() < standing.until:  # several parts may end for one reason
            return False
        seconds = min(_FIRST_REST * 2.0 ** min(standing.rests, 10), _LONGEST_REST)
        standing.until = self._clock() + max(seconds, min(asked, _LONGEST_REST))
        standing.rests += 1
        return True


@functools.lru_cache(maxsize=MAX_SOURCES)
def is_near(source: str) -> bool:
    """Return whether a source is in the own network, as far as its name tells: no uplink is needed for it."""
    try:
        host = parse_url(source).host.strip("[]")
    except InvalidUrlError:
        return False
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(_LOCAL_NAMES)
