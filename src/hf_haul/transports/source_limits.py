"""Connections in use per source, and how many connections each source should have."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from hf_haul.config import Settings
from hf_haul.errors import LinkExpiredError, RetriesExhaustedError, SourceChangedError
from hf_haul.metrics import MAX_SOURCES, SourceHistory
from hf_haul.processors import usable_processors
from hf_haul.transports.concurrency import ConcurrencyController
from hf_haul.transports.load import LoadSample

__all__ = ["SourceLimits", "WorkloadType"]

#: Seconds that one part should take one connection. A digest follows the contiguous prefix, and that grows no
#: faster than the parts at its end: long parts leave most of the hashing for after the last byte.
_PART_SECONDS: Final = 0.4
#: The same while the limit is looked for: connections follow a smaller limit when their parts end.
_FIRST_PART_SECONDS: Final = 0.1
#: And as many times the seconds to a first byte, so that a connection spends little of its time between
#: parts.
_FIRST_BYTES_PER_PART: Final = 20.0

#: Bytes that a request counts for.
_REQUEST_BYTES: Final = 64 << 10
#: Seconds to an answer that no thread of ours can be to blame for, and seconds of the interpreter that a
#: request for a small file takes: the rest of its time it only waits.
_LONG_ANSWER: Final = 0.02
_REQUEST_SECONDS: Final = 0.0025
#: Looks in a row that have to agree that a source's work is of another kind now.
_LOOKS: Final = 2
#: How many times as much there has to be of the other kind.
_OTHER: Final = 2
_NOBODY: Final[Mapping[str, int]] = {}


class WorkloadType:
    """What limits a source's connections: bytes, or requests for small files.

    How many connections are best for one says nothing about the other.
    """

    def __init__(self) -> None:
        self._requests: bool | None = None
        self._nbytes = 0
        self._credit = 0
        self._looks = 0

    @property
    def is_requests(self) -> bool:
        """Whether requests are what takes the time; not while nothing is known."""
        return bool(self._requests)

    def changes(self, nbytes: int, credit: int) -> bool:
        """Look at the totals; return whether the type of the work has changed."""
        got, self._nbytes = nbytes - self._nbytes, nbytes
        earned, self._credit = credit - self._credit, credit
        if not got and not earned:
            return False
        if self._requests is None:
            self._requests = earned > got
        # Where there is about as much of both, nothing changes.
        requests = earned >= _OTHER * got if not self._requests else got < _OTHER * earned
        self._looks = self._looks + 1 if requests is not self._requests else 0
        if self._looks < _LOOKS:
            return False
        self._requests, self._looks = requests, 0
        return True


class SourceLimits:
    """The adaptive limit of each source (``scheme://host:port``). It has no lock; the scheduler's guards it.

    Args:
        settings: Where limits start, and what they never exceed.
        history: Speeds and bytes measured per source.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, settings: Settings, history: SourceHistory, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        bounds = (
            settings.max_concurrent_downloads,
            settings.connection_pool_size,
            settings.max_connections_per_host,
        )
        self._most = min(bound for bound in bounds if bound is not None)
        self._initial = min(settings.initial_connections, self._most)
        self._history = history
        self._slow_answer = settings.timings.slow_answer
        self._clock = clock
        self._controllers: dict[str, ConcurrencyController] = {}
        self._active: dict[str, int] = {}
        self._peaks: dict[str, int] = {}  # since the last look
        self._backing_off: dict[str, int] = {}
        self._unanswered: Mapping[str, int] = _NOBODY
        self._wanted: Counter[str] = Counter()
        self._requests: dict[str, int] = {}
        # Files in a row, the bytes received by then, and the kind of the last error.
        self._failed: dict[str, tuple[int, int, type[BaseException] | None]] = {}
        self._workloads: dict[str, WorkloadType] = {}
        self._processors = usable_processors()
        self._used = (clock(), time.process_time())

    @property
    def initial(self) -> int:
        """Connections that are allowed to a source at first."""
        return self._initial

    def limit(self, source: str) -> int:
        """Return the connections allowed to a source."""
        return self._controller(source).limit

    def most_per_part(self, source: str) -> float:
        """Return the bytes that one connection brings in the time a part should take; 0.0 while unknown."""
        speed = self._history.connection_speed(source) or 0.0
        first_byte = self._history.first_byte_seconds(source) or 0.0
        seconds = _PART_SECONDS if self._controller(source).settled else _FIRST_PART_SECONDS
        return speed * max(seconds, _FIRST_BYTES_PER_PART * first_byte)

    def usual_answer(self, source: str, *, large: bool = False) -> float | None:
        """Return the usual seconds to an answer, or to one for a large file; ``None`` while unknown."""
        return self._history.first_byte_seconds(source, large=large)

    def answers_slowly(self, source: str) -> bool | None:
        """Return whether a source is slow to answer requests for large files; ``None`` while unknown."""
        answer = self.usual_answer(source, large=True)
        return None if answer is None else answer >= self._slow_answer

    def seconds(self, source: str, files: int, nbytes: int) -> float | None:
        """Return the seconds that one connection would need for so much work; ``None`` while unknown."""
        speed = self._history.connection_speed(source)
        first_byte = self._history.first_byte_seconds(source)
        return None if not speed or first_byte is None else files * first_byte + nbytes / speed

    @property
    def settled(self) -> bool:
        """Whether the limits of all sources of a queue's files are near their best."""
        return all(self._controllers[source].settled for source in self._looked_after())

    def highest_limit(self, sources: Iterable[str]) -> int:
        """Return the highest limit of some sources."""
        known = (self._controllers[source].limit for source in sources if source in self._controllers)
        return max(known, default=self._initial)

    def free(self, source: str) -> int:
        """Return how many more connections a source may have.

        None while half of all workers wait to try it again: the other half is for sources that answer. Where
        answers take long, or none has come yet, connections that wait for one burden no link, and do not
        count.
        """
        if self._backing_off.get(source, 0) >= max(1, self._most // 2):
            return 0
        active = self._active.get(source, 0)
        waiting = 0 if self.answers_slowly(source) is False else self._unanswered.get(source, 0)
        return max(0, min(self.limit(source) + waiting, self._most) - active)

    def active(self, source: str) -> int:
        """Return how many connections a source has."""
        return self._active.get(source, 0)

    def drops_excess(self, source: str) -> bool:
        """Return whether connections beyond the limit are useless and should stop within their parts."""
        return self._controller(source).drops_excess

    def note_backing_off(self, source: str, by: int) -> None:
        """Note that a worker began or ended a wait for its next attempt."""
        self._backing_off[source] = self._backing_off.get(source, 0) + by
        self.count(source, -by)

    def register(self, sources: Iterable[str], by: int) -> None:
        """Note that queues with files of these sources were added, or ended."""
        for source in sources:
            self._wanted[source] += by
            if not self._wanted[source]:
                del self._wanted[source]

    def any_free(self) -> bool:
        """Return whether any source of a queue's files may have another connection."""
        return any(self.free(source) for source in self._wanted)

    def count(self, source: str, by: int) -> None:
        """Note that connections to a source were taken into use, or given up."""
        if source not in self._active:
            history = self._history
            self._controller(source).begin(
                self._clock(), history.bytes_total(source), history.reading_total(source)
            )
        active = self._active[source] = self._active.get(source, 0) + by
        if active > self._peaks.get(source, 0):
            self._peaks[source] = active

    def recount(
        self, *, active: Mapping[str, int], backing_off: Mapping[str, int], wanted: Iterable[str]
    ) -> None:
        """Set what was counted anew, after an error that may have come between two counts.

        Args:
            active: Connections in use, by source.
            backing_off: Workers that wait for their next attempt, by source.
            wanted: The sources of each queue, so that one may be there several times.
        """
        for source in {*self._active, *active}:
            self.count(source, active.get(source, 0) - self._active.get(source, 0))
        self._backing_off = dict(backing_off)
        self._wanted = Counter(wanted)

    def count_request(self, source: str) -> None:
        """Count a finished request: with small files, requests take the time."""
        self._requests[source] = self._requests.get(source, 0) + 1

    def backoff(self, source: str, error: BaseException) -> None:
        """Note a failure that may come from too many connections."""
        self._controller(source).backoff(self._clock(), type(error).__name__)

    def note_failed_file(self, source: str, error: BaseException) -> int:
        """Note that a file was given up because its source failed for too long.

        Args:
            source: The source.
            error: Why it was given up.

        Returns:
            How many in a row, without a byte from the source in between.
        """
        lost, _ = self._failed_files(source)
        reason = (error.__cause__ or error) if isinstance(error, RetriesExhaustedError) else error
        self._failed[source] = (lost + 1, self._history.bytes_total(source), type(reason))
        return lost + 1

    def is_failing(self, source: str, error: BaseException | None) -> bool:
        """Return whether the last file failed with the same kind of error, and no byte has come since.

        A link that has expired is no such thing: the next one may well be good. Nor does a file of another
        version say anything about connections that break, or the other way round.
        """
        lost, reason = self._failed_files(source)
        if not lost or reason is LinkExpiredError or isinstance(error, LinkExpiredError):
            return False
        return isinstance(error, SourceChangedError) == (reason is SourceChangedError)

    def _failed_files(self, source: str) -> tuple[int, type[BaseException] | None]:
        """Return how many files in a row failed without a byte since, and the kind of the last error."""
        lost, received, reason = self._failed.get(source, (0, 0, None))
        return (lost, reason) if self._history.bytes_total(source) == received else (0, None)

    def sample(self, now: float, unanswered: Mapping[str, int] = _NOBODY) -> bool:
        """Measure bytes, requests and processor load; call it every 0.1 s, twice as often until settled.

        Args:
            now: Seconds, monotonic.
            unanswered: Connections that have waited for an answer for a while, by source.

        Returns:
            Whether a limit grew.
        """
        self._unanswered = unanswered
        at, used = self._used
        self._used = (now, time.process_time())
        cores = (self._used[1] - used) / (now - at) if now > at else 0.0
        grew = False
        for source in self._looked_after():
            controller = self._controllers[source]
            before = controller.limit
            latency = self._history.first_byte_seconds(source)
            if latency is not None:
                controller.first_byte(latency)
            nbytes = self._history.bytes_total(source)
            # A small file is a round trip more than it is bytes.
            credit = self._requests.get(source, 0) * _REQUEST_BYTES
            workload = self._workloads.setdefault(source, WorkloadType())
            if workload.changes(nbytes, credit):
                controller.note_other_work(now)
            if workload.is_requests and latency is not None and latency >= _LONG_ANSWER:
                # They burden no link: 200 of 20 kB take 1.05 s instead of 1.3 s (bench_reads, get-small).
                controller.leap(int(self._initial * latency / _REQUEST_SECONDS))
            # Bytes move outside the interpreter's lock; what a request costs, one thread at a time can do.
            usable = 1 if workload.is_requests else self._processors
            load = LoadSample(
                nbytes + credit,
                nbytes,
                self._active.get(source, 0),
                self._peaks.pop(source, 0),
                min(cores / usable, 1.0),
                self._history.reading_total(source),
                workload.is_requests,
            )
            controller.sample(now, load)
            grew = grew or controller.limit > before
        return grew

    def retune(self) -> dict[str, Any]:
        """Restart the search for the best number of connections; return what changed, by source."""
        changed = {}
        for source, controller in self._controllers.items():
            before = controller.snapshot()
            controller.retune(self._clock())
            after = controller.snapshot()
            changed[source] = {
                "connections_before": before["limit"], "connections": after["limit"],
                "phase_before": before["phase"], "phase": after["phase"],
            }  # fmt: skip
        return changed

    def snapshot(self) -> dict[str, Any]:
        """Return plain values, by source."""
        return {
            source: {**controller.snapshot(), "active": self._active.get(source, 0)}
            for source, controller in self._controllers.items()
        }

    def _looked_after(self) -> list[str]:
        """Return the sources in use that a queue has files of, not all there ever were."""
        return [source for source in self._wanted if source in self._controllers]

    def _controller(self, source: str) -> ConcurrencyController:
        controller = self._controllers.get(source)
        if controller is None:
            self._make_room()
            controller = ConcurrencyController(self._initial, self._most)
            self._controllers[source] = controller
        return controller

    def _make_room(self) -> None:
        """Drop half of the sources once there are very many: those unused for longest."""
        if len(self._controllers) < MAX_SOURCES:
            return
        used = (self._wanted, self._active, self._backing_off)
        unused = [source for source in self._controllers if not any(counts.get(source) for counts in used)]
        tables: tuple[dict[str, Any], ...] = (
            self._controllers, self._active, self._peaks, self._backing_off, self._requests, self._failed, self._workloads,
        )  # fmt: skip
        for source in unused[: MAX_SOURCES // 2]:
            for table in tables:
                table.pop(source, None)
