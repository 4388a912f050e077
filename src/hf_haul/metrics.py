"""What was measured: totals of a queue, smoothed speeds, and what is known of each source."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from hf_haul.config import KiB, MiB, Settings
from hf_haul.forks import renew_after_fork

__all__ = [
    "MAX_SOURCES",
    "SMALL_FILE",
    "DownloadMetrics",
    "SourceHistory",
    "SpeedMeter",
    "Window",
]

#: Sources that are known at once; a mirror may name a new one with each redirect.
MAX_SOURCES: Final = 1000
#: A file of at most so many bytes is one request, for which a round trip costs more than its bytes; how soon
#: its source answers says nothing of larger files, some of which a server fetches or scans before it sends
#: the first byte.
SMALL_FILE: Final = 4 * MiB

_LN_2: Final = math.log(2)
#: Seconds over which a speed is told.
_WINDOW: Final = 5.0
#: Seconds over which the peak speed is averaged; a shorter look would measure the buffers of the system.
_PEAK_WINDOW: Final = 1.0
#: Seconds one read should take: progress, pause and limits act between reads.
_READ_SECONDS: Final = 0.1
#: Seconds of reading after which an old measurement counts half.
_HISTORY_HALF_LIFE: Final = 2.0
#: Read size in bytes while nothing is known of a source.
_FIRST_READ: Final = 256 * KiB
#: Weight of the latest time to first byte.
_FIRST_BYTE_WEIGHT: Final = 0.2
#: Share that an answer leaves of how slow the slowest is remembered to be: half after a dozen.
_SLOWEST_FADES: Final = 0.95
#: Shares of the seconds after which a file fails that a first request may wait for its answer, and any after
#: it.
_FIRST_ANSWER: Final = 0.75
_LATER_ANSWERS: Final = 0.25
#: Seconds to wait for the answer of a source that is known to be quick, and how many times as long as usual.
_QUICK_ANSWER: Final = 10.0
_LATE: Final = 4.0


class DownloadMetrics:
    """Totals of one queue. Measured, never guessed; safe for many threads.

    Attributes:
        files_total: Files in the queue.
        files_done: Files in place.
        files_failed: Files given up.
        bytes_total: Bytes of all files, as far as known.
        bytes_downloaded: Bytes received, repeated ones included, resumed ones not.
        retries: Attempts beyond the first.
        seconds_limited: Seconds that threads waited for the bandwidth limit, added up over them.
        connections: Connections in use.
        peak_connections: The most that were in use at once.
    """

    def __init__(
        self,
        files_total: int = 0,
        bytes_total: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.files_total = files_total
        self.files_done = 0
        self.files_failed = 0
        self.bytes_total = bytes_total
        self.bytes_downloaded = 0
        self.retries = 0
        self.seconds_limited = 0.0
        self.connections = 0
        self.peak_connections = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._finished: float | None = None
        self._meter = SpeedMeter(clock=clock)
        self._window_at = self._started
        self._window_bytes = 0
        self._peak = 0.0
        self._by_source: Counter[str] = Counter()

    def add_bytes(self, nbytes: int, source: str = "") -> None:
        """Count bytes received from a source."""
        now = self._clock()
        self._meter.add(nbytes)
        with self._lock:
            self.bytes_downloaded += nbytes
            self._by_source[source] += nbytes
            self._window_bytes += nbytes
            if now - self._window_at >= _PEAK_WINDOW:
                self._peak = max(self._peak, self._window_bytes / (now - self._window_at))
                self._window_at, self._window_bytes = now, 0

    @property
    def bytes_by_source(self) -> dict[str, int]:
        """Bytes received from each source (``scheme://host[:port]``), repeated ones included."""
        with self._lock:
            return dict(self._by_source)

    def add_expected(self, nbytes: int) -> None:
        """Count bytes that are still to come: of a file whose size was unknown."""
        with self._lock:
            self.bytes_total += nbytes

    def add_connections(self, by: int) -> None:
        """Count connections taken into use, or given up."""
        with self._lock:
            self.connections += by
            self.peak_connections = max(self.peak_connections, self.connections)

    def set_connections(self, number: int) -> None:
        """Set how many connections are in use, after they were counted anew."""
        self.add_connections(number - self.connections)

    def add_file(self, *, ok: bool, count: int = 1) -> None:
        """Count a file that ended, or some of them."""
        with self._lock:
            if ok:
                self.files_done += count
            else:
                self.files_failed += count

    def add_retry(self) -> None:
        """Count an attempt beyond the first."""
        with self._lock:
            self.retries += 1

    def add_limited(self, seconds: float) -> None:
        """Count seconds that a thread waited for the bandwidth limit."""
        with self._lock:
            self.seconds_limited += seconds

    def finish(self) -> None:
        """Stop the clock; the first call counts."""
        with self._lock:
            if self._finished is None:
                self._finished = self._clock()

    @property
    def is_finished(self) -> bool:
        """Whether the clock was stopped."""
        return self._finished is not None

    def duration(self) -> float:
        """Return the seconds since the start, up to the end once there is one."""
        return (self._clock() if self._finished is None else self._finished) - self._started

    def completion_rate(self) -> float:
        """Return the percentage of the files that are in place; 100.0 if there are none to fetch."""
        return 100.0 * self.files_done / self.files_total if self.files_total else 100.0

    @property
    def speed_bps(self) -> float:
        """Bytes per second now, smoothed; 0.0 after the end."""
        return self._meter.speed() if self._finished is None else 0.0

    @property
    def average_speed_bps(self) -> float:
        """Bytes per second over the whole duration; 0.0 before any time has passed."""
        seconds = self.duration()
        return self.bytes_downloaded / seconds if seconds > 0 else 0.0

    @property
    def peak_speed_bps(self) -> float:
        """Bytes per second in the best second; the average of a download that took less than that."""
        return max(self._peak, self.average_speed_bps)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "duration_seconds": self.duration(),
            "completion_rate": self.completion_rate(),
            "files_total": self.files_total,
            "files_done": self.files_done,
            "files_failed": self.files_failed,
            "bytes_total": self.bytes_total,
            "bytes_downloaded": self.bytes_downloaded,
            "retries": self.retries,
            "seconds_limited": self.seconds_limited,
            "peak_connections": self.peak_connections,
            "average_speed_bps": self.average_speed_bps,
            "peak_speed_bps": self.peak_speed_bps,
        }


class SpeedMeter:
    """A smoothed speed that follows changes, and fades while nothing comes. Safe for many threads.

    Bytes count for less the older they are. A young meter divides by its age, so that its first answers are
    not too low.

    Args:
        half_life: Seconds after which bytes count half.
        clock: Seconds, monotonic.
    """

    __slots__ = ("_at", "_clock", "_decay", "_level", "_lock", "_started")

    def __init__(self, half_life: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        if not half_life > 0:
            raise ValueError(f"half_life must be more than 0 seconds, not {half_life!r}")
        self._decay = _LN_2 / half_life
        self._clock = clock
        self._lock = threading.Lock()
        self._started = self._at = clock()
        self._level = 0.0

    def restart(self) -> None:
        """Forget what came in, and be young again."""
        with self._lock:
            self._started = self._at = self._clock()
            self._level = 0.0

    def add(self, nbytes: int) -> None:
        """Count bytes that came in now."""
        with self._lock:
            self._fade()
            self._level += nbytes

    def speed(self) -> float:
        """Return the bytes per second."""
        with self._lock:
            self._fade()
            # What a steady stream of one byte per second would have left by now.
            share = -math.expm1(-self._decay * (self._at - self._started)) / self._decay
            return self._level / share if share > 0 else 0.0

    def _fade(self) -> None:
        now = self._clock()
        if now > self._at:
            self._level *= math.exp(-self._decay * (now - self._at))
            self._at = now


class Window:
    """The speed of the last seconds, from totals that somebody looks at now and then.

    Unlike that of a :class:`SpeedMeter` it is 0.0, and not nearly, once nothing has come for that long.

    Args:
        seconds: How many.
    """

    __slots__ = ("_seconds", "_seen")

    def __init__(self, seconds: float = _WINDOW) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, total: int) -> float:
        """Note a total; return the bytes per second since the one of ``seconds`` ago, 0.0 for the first."""
        self._seen.append((now, total))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._seconds:
            self._seen.popleft()
        at, before = self._seen[0]
        return max(0, total - before) / (now - at) if now > at else 0.0


@dataclass
class _Answers:
    """Seconds that answers took."""

    usual: float | None = None
    slowest: float = 0.0

    def note(self, seconds: float) -> None:
        before = seconds if self.usual is None else self.usual
        self.usual = before + _FIRST_BYTE_WEIGHT * (seconds - before)
        self.slowest = max(seconds, _SLOWEST_FADES * self.slowest)


@dataclass
class _Source:
    bytes: float = 0.0
    seconds: float = 0.0
    answers: _Answers = field(default_factory=_Answers)
    large_answers: _Answers = field(default_factory=_Answers)
    total: int = 0
    reading: float = 0.0


class SourceHistory:
    """What is known of each source (``scheme://host[:port]``). Safe for many threads.

    Of very many sources, those heard of last are known.

    Args:
        elsewhere: Another history, which says how quickly a source answers while this one does not know.
    """

    def __init__(self, elsewhere: SourceHistory | None = None) -> None:
        self._elsewhere = elsewhere
        self._new_lock()
        self._sources: OrderedDict[str, _Source] = OrderedDict()  # the one heard of last at the end
        renew_after_fork(self, SourceHistory._new_lock)

    def _new_lock(self) -> None:
        # A child goes on with what is known; at the worst, one read of another thread is counted by half.
        self._lock = threading.Lock()

    def read(self, source: str, nbytes: int, seconds: float) -> None:
        """Record one read: its bytes, and the seconds one connection took for them."""
        with self._lock:
            known = self._heard_of(source)
            known.total += nbytes
            known.reading += seconds
            fade = 0.5 ** (seconds / _HISTORY_HALF_LIFE)
            known.bytes = known.bytes * fade + nbytes
            known.seconds = known.seconds * fade + seconds

    def first_byte(self, source: str, seconds: float, *, large: bool = False) -> None:
        """Record the seconds from a request to its answer, with redirects to the slowest of the answers.

        Args:
            source: Who was asked.
            seconds: How long.
            large: Whether for a large file. Those often come from another place, and have to be scanned or
                fetched first.
        """
        with self._lock:
            known = self._heard_of(source)
            known.reading += seconds
            known.answers.note(seconds)
            if large:
                known.large_answers.note(seconds)

    def _heard_of(self, source: str) -> _Source:
        known = self._sources.setdefault(source, _Source())
        self._sources.move_to_end(source)
        while len(self._sources) > MAX_SOURCES:
            self._sources.popitem(last=False)
        return known

    def bytes_total(self, source: str) -> int:
        """Return the bytes received from it so far."""
        with self._lock:
            known = self._sources.get(source)
            return 0 if known is None else known.total

    def reading_total(self, source: str) -> float:
        """Return the seconds that all connections together spent waiting for answers and reading them."""
        with self._lock:
            known = self._sources.get(source)
            return 0.0 if known is None else known.reading

    def connection_speed(self, source: str) -> float | None:
        """Return the bytes per second that one connection gets, ``None`` while unknown."""
        with self._lock:
            known = self._sources.get(source)
            return known.bytes / known.seconds if known is not None and known.seconds > 0 else None

    def average_speed(self, source: str) -> float:
        """Return the mean bytes per second of one connection, waits for answers included; 0 while unknown."""
        with self._lock:
            known = self._sources.get(source)
            return known.total / known.reading if known is not None and known.reading > 0 else 0.0

    def first_byte_seconds(self, source: str, *, large: bool = False) -> float | None:
        """Return the seconds from a request (``large``: for a large file) to its answer.

        The result is ``None`` while unknown.
        """
        with self._lock:
            known = self._sources.get(source)
            answers = _Answers() if known is None else known.large_answers if large else known.answers
            usual = answers.usual
        if usual is None and self._elsewhere is not None:
            return self._elsewhere.first_byte_seconds(source, large=large)
        return usual

    def answer_timeout(
        self, source: str, settings: Settings, unanswered: int = 0, *, large: bool = False
    ) -> float:
        """Return the seconds to wait for the first byte of an answer.

        Some sources scan or fetch a file before they send its first byte, and take a minute for it. Another
        request would take as long, so one is waited for as long as is bearable. Only where others have been
        answered sooner by far, something is wrong with this one (a source may be slow for some requests only,
        so the slowest of late count); each further attempt then gets twice the time, in case the others were
        easier.

        Args:
            source: Who is asked.
            settings: What was set goes; else ``give_up_after`` bounds it.
            unanswered: Requests in a row for the same bytes that were given up without an answer.
            large: Whether for a large file.
        """
        if settings.first_byte_timeout is not None:
            return min(settings.first_byte_timeout, settings.give_up_after)
        share = _LATER_ANSWERS if unanswered else _FIRST_ANSWER
        most = share * settings.give_up_after
        with self._lock:
            known = self._sources.get(source)
            answers = None if known is None else known.large_answers if large else known.answers
            if answers is None or answers.usual is None:
                return most
            late = _LATE * answers.slowest
        return min(most, max(_QUICK_ANSWER, late) * 2.0 ** min(unanswered, 10))

    def read_size(self, source: str, settings: Settings, file_size: int | None) -> int:
        """Return the bytes to read at a time, so that one read takes about a tenth of a second.

        Args:
            source: Where the bytes come from.
            settings: The smallest and the largest read.
            file_size: Bytes of the file, ``None`` if unknown; a smaller file is read at once.
        """
        speed = self.connection_speed(source)
        wanted = _FIRST_READ if speed is None else int(speed * _READ_SECONDS)
        smallest = min(settings.min_chunk_size, settings.chunk_size)
        size = min(max(_power_of_two(wanted), smallest), settings.chunk_size)
        return size if file_size is None or file_size >= size else max(file_size, 1)

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """Return all of it as plain values, by source."""
        with self._lock:
            return {
                name: {
                    "connection_speed_bps": known.bytes / known.seconds if known.seconds > 0 else None,
                    "first_byte_seconds": known.answers.usual,
                }
                for name, known in self._sources.items()
            }


def _power_of_two(number: int) -> int:
    """Return the largest power of two that is not above ``number``; 1 at the least."""
    return 1 << max(0, number.bit_length() - 1)
