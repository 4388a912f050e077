"""Who asks for what: requests under way, sums of those that are over, and the access log."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Final

from hf_haul.localhub.requestlog import RequestRecord

__all__ = ["Traffic", "access_line"]

_BUCKETS: Final = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)  # seconds
_UNSAFE: Final = re.compile(r"[^!-~]")
_MOST_TARGET: Final = 500  # characters of a URL in the log
_MOST_CLIENTS: Final = 1000  # whose bytes are counted
_MOST_SHOWN: Final = 20  # of them, those that got most
#: Half of what a rate is of is this old, in seconds.
_SMOOTH: Final = 2.0


def _shown(text: str) -> str:
    """Return a text from a client in which nothing can end a line, or look like another field."""
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", text[:_MOST_TARGET])


def access_line(record: RequestRecord, now: float) -> str:
    """Return the line of the access log about a request: without its query, which may be signed, or a token.

    Args:
        record: The request.
        now: Seconds since 1970.
    """
    when = datetime.fromtimestamp(now, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    seconds = (record.end or record.start) - record.start
    target = _shown(record.url.partition("?")[0])
    span = f" {_shown(record.range)}" if record.range else ""
    state = "ok" if record.complete else "cut"
    source = "fetched" if record.arrived else "here"
    return (
        f'{when} {record.client or "-"} "{_shown(record.method)} {target}{span}" {record.status}'
        f" {record.body_bytes} {seconds:.3f}s {state} {source}"
    )


class Traffic:
    """Sees every request; an `Observer`.

    ``_lock`` guards the tables: the hub's thread writes them, whoever shows them reads.

    Args:
        log: Gets the lines of the access log; ``None`` for none.
        clock: Seconds; only differences count.
    """

    def __init__(
        self, log: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._active: dict[int, RequestRecord] = {}
        self._rates: dict[int, _Rate] = {}
        self.requests: Counter[tuple[str, int]] = Counter()  # by kind and status
        self.bytes: Counter[str] = Counter()  # "here" or "fetched"
        self.by_client: Counter[str] = Counter()  # bytes
        self.cut = 0
        self.seconds: Counter[float] = Counter()  # requests up to each bucket
        self.seconds_sum = 0.0

    def begun(self, record: RequestRecord) -> None:
        """Note that a request has come."""
        with self._lock:
            self._active[id(record)] = record

    def ended(self, record: RequestRecord) -> None:
        """Note that it was answered, or that its client has gone."""
        seconds = (record.end or record.start) - record.start
        with self._lock:
            self._active.pop(id(record), None)
            self._rates.pop(id(record), None)
            self.requests[record.kind, record.status] += 1
            self.bytes["fetched" if record.arrived else "here"] += record.body_bytes
            self.cut += not record.complete
            self.seconds[next((most for most in _BUCKETS if seconds <= most), float("inf"))] += 1
            self.seconds_sum += seconds
            if record.client in self.by_client or len(self.by_client) < _MOST_CLIENTS:
                self.by_client[record.client] += record.body_bytes
        if self._log is not None:
            self._log(access_line(record, time.time()))

    def active(self) -> list[dict[str, Any]]:
        """Return what is being sent, in plain values."""
        now = self._clock()
        with self._lock:
            records = list(self._active.values())
            rates = [self._rates.setdefault(id(each), _Rate()) for each in records]
        return [
            {
                "client": each.client,
                "repo": each.repo_id,
                "path": each.path,
                "range": each.range,
                "sent": each.body_bytes,
                "length": each.length,
                "rate": rate.of(each.body_bytes, now),
                "seconds": now - each.start,
                "fetched": each.arrived,
            }
            for each, rate in zip(records, rates, strict=True)
            if each.path  # not who looks at this very page
        ]

    def totals(self) -> Mapping[str, Any]:
        """Return sums since the start, in plain values; what is being sent counts as far as it is."""
        with self._lock:
            sent, clients = self.bytes.copy(), self.by_client.copy()
            for each in self._active.values():
                sent["fetched" if each.arrived else "here"] += each.body_bytes
                clients[each.client] += each.body_bytes
            return {
                "requests": sum(self.requests.values()),
                "bytes_here": sent["here"],
                "bytes_fetched": sent["fetched"],
                "clients": dict(clients.most_common(_MOST_SHOWN)),
                "cut": self.cut,
            }

    def counts(self) -> tuple[dict[tuple[str, int], int], dict[str, int], int]:
        """Return the requests by kind and status, the bytes by source, and how many are under way."""
        with self._lock:
            return dict(self.requests), dict(self.bytes), len(self._active)

    def durations(self) -> tuple[list[tuple[float, int]], float]:
        """Return how many requests took up to so many seconds, and how long all took together."""
        with self._lock:
            return [(most, self.seconds[most]) for most in (*_BUCKETS, float("inf"))], self.seconds_sum


class _Rate:
    """Bytes per second of one answer, between the looks at it."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._sent = 0
        self._rate = 0.0

    def of(self, sent: int, now: float) -> float:
        """Return the rate, given what was sent by now."""
        if self._at is None:
            self._at, self._sent = now, sent
        elif now > self._at:
            seconds = now - self._at
            weight = 0.5 ** (seconds / _SMOOTH)
            self._rate = weight * self._rate + (1 - weight) * (sent - self._sent) / seconds
            self._at, self._sent = now, sent
        return self._rate
