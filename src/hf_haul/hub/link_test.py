"""Measures a link: the rate by the number of connections, and the time to a first byte.

What comes is thrown away.
"""

from __future__ import annotations

import logging
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from huggingface_hub import constants

from hf_haul.cancellation import CancelToken
from hf_haul.config import MiB, Settings
from hf_haul.engine.event_stream import EventStream
from hf_haul.errors import RangeRefusedError, ServerBusyError, StopRequestedError, TransferError
from hf_haul.hub.asking import uncached_timeout
from hf_haul.hub.link_report import (
    Limit,
    LinkReport,
    LinkSample,
    best_sample,
    limit_of,
    next_connections,
)
from hf_haul.hub.repository import Repository
from hf_haul.manager import ParallelDownloadManager
from hf_haul.processors import usable_processors
from hf_haul.ranges import ByteRange
from hf_haul.task import RemoteFile
from hf_haul.threads import start_daemon
from hf_haul.transports.base import Transport
from hf_haul.urls import parse_url, redact

__all__ = ["largest_file", "measure_link", "remote_url"]

logger = logging.getLogger(__name__)

#: Bytes of one request, and of one read.
_PART: Final = 32 * MiB
_READ: Final = MiB
#: Seconds of one sample at the most; a quarter of them does not count, as connections take a while to get
#: going.
_SAMPLE_SECONDS: Final = 4.0
_RAMP: Final = 0.25
#: Seconds that each takes at the least, however much comes, and below which a sample says nothing.
_LEAST_SECONDS: Final = 0.2
_TOO_SHORT: Final = 0.05
#: Why nothing more is measured, where it is no fault.
_NO_TIME: Final = "the time limit was reached"
_NO_BYTES: Final = "the byte limit was reached"
#: Requests by which the time to a first byte is measured.
_PROBES: Final = 5
#: Failures in a row after which a connection is not tried again, and seconds between.
_FAILURES: Final = 3
_PAUSE: Final = 0.2
#: Seconds between two looks at how much has come.
_TICK: Final = 0.02
#: Seconds for threads to end that were told to.
_GRACE: Final = 1.0


def remote_url(url: str, headers: dict[str, str] | None = None) -> RemoteFile:
    """Return the file behind any http(s) URL."""
    name = parse_url(url, userinfo=True).path.rpartition("/")[2] or "file"
    return RemoteFile(name, url, headers=headers or {}, announced_by="the caller")


def largest_file(repository: Repository, revision: str | None, path: str | None = None) -> RemoteFile:
    """Return the largest file of a repository, or the one named.

    Raises:
        FileNotFoundError: The repository has no files.
        Exception: huggingface_hub's own errors.
    """
    commit = repository.resolve(
        revision or constants.DEFAULT_REVISION, timeout=uncached_timeout(), retry=True
    )
    if path is None:
        listing = repository.list_files(commit)
        if not listing:
            raise FileNotFoundError(f"{repository.repo_id} has no files")
        path = max(listing, key=lambda name: listing[name].bytes)
    metadata = repository.metadata(path, commit, timeout=uncached_timeout(), retry=True)
    return repository.remote_file(path, metadata)


def measure_link(
    remote: RemoteFile,
    *,
    most_connections: int | None = None,
    max_bytes: int = 2 * 10**9,
    max_seconds: float = 30.0,
    max_bandwidth: float | str | None = None,
    on_sample: Callable[[LinkSample], None] = lambda _: None,
    events: EventStream | None = None,
) -> LinkReport:
    """Read a file over more and more connections, as long as more bring more.

    Stops at once, and politely, when the server asks to wait.

    Args:
        remote: The file.
        most_connections: Connections at the most; ``None`` for as many as a download may use.
        max_bytes: Bytes to fetch at the most, but for what is under way; shared out evenly, so that a fast
            link needs more of them.
        max_seconds: Seconds at the most.
        max_bandwidth: Limit in bytes per second, or a text such as ``50MB/s``.
        on_sample: Told of each number of connections, on the caller's thread.
        events: Told how much has come.

    Raises:
        TransferError: Not even the first byte can be had.
    """
    began = time.monotonic()
    settings = Settings.from_environment()
    if most_connections is None:
        most_connections = settings.max_concurrent_downloads
    with ParallelDownloadManager(
        most_connections,
        settings=settings,
        max_bandwidth_bps=max_bandwidth,
        connection_pool_size=most_connections + 1,
    ) as manager:
        source = manager.open_source(remote)
        test = _LinkTest(manager, source, most_connections, max_bytes, max_seconds, events)
        if events is not None:
            events.enter("measure")
            events.plan(files=1, nbytes=None)
        try:
            first = test.first_byte()
            first_byte = test.usual_first_byte()
            samples = test.sample_all(on_sample)
        finally:
            test.stop()
        best = best_sample(samples)
        return LinkReport(
            url=redact(remote.url),
            size=test.size,
            first_request_seconds=first,
            first_byte_seconds=first_byte,
            samples=tuple(samples),
            limit=test.limit or limit_of(samples, usable_processors(), manager.max_bandwidth_bps),
            best_connections=None if best is None else best.connections,
            best_rate=None if best is None else best.rate,
            stopped=test.stopped,
            bytes=test.received,
            seconds=time.monotonic() - began,
        )


@dataclass
class _LinkTest:
    """One measurement.

    Locking: none. Each thread counts in a place of its own, and what is noted is noted by one assignment.

    Attributes:
        size: Bytes of the file, once known.
        limit: What limits, where the server has said so.
        stopped: Why no more is measured.
    """

    manager: ParallelDownloadManager
    source: Transport
    most: int
    max_bytes: int
    max_seconds: float
    events: EventStream | None = None
    size: int | None = None
    limit: Limit | None = None
    stopped: str | None = None
    _counts: list[list[int]] = field(default_factory=list)
    _tokens: list[CancelToken] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _wake: threading.Event = field(default_factory=threading.Event)
    _error: TransferError | None = None
    _probed: int = 0
    _next: int = 0

    def __post_init__(self) -> None:
        self._told = time.monotonic(), 0  # when it was told how much had come, and how much
        self._deadline = self._told[0] + self.max_seconds
        self._steps = self.most.bit_length() + (self.most & (self.most - 1) > 0)

    @property
    def received(self) -> int:
        """Bytes that came so far."""
        return self._probed + sum(count[0] for count in self._counts)

    # ---- the first byte

    def first_byte(self) -> float | None:
        """Return the seconds to the first byte of the first request; learn how long the file is."""
        began = time.monotonic()
        token = self._token()
        buffer = memoryview(bytearray(1))
        try:
            try:
                body = self.source.open(ByteRange(0, 1), token)
            except RangeRefusedError:
                self.limit = "ranges"
                body = self.source.open(None, token)
        except ServerBusyError as error:
            self._note(error)
            return None
        try:
            self._probed += body.readinto(buffer)
            seconds = time.monotonic() - began
            self.size = body.total
            if body.whole and self.size != 1:
                self.limit = "ranges"
        finally:
            body.close()
        return seconds

    def usual_first_byte(self) -> float | None:
        """Return the median seconds to a first byte over an open connection."""
        if self.stopped is not None or not self.size or self.limit == "ranges":
            return None
        buffer = memoryview(bytearray(1))
        seconds = []
        for probe in range(_PROBES):
            began = time.monotonic()
            try:
                at = probe * self.size // _PROBES
                body = self.source.open(ByteRange(at, at + 1), self._token())
                self._probed += body.readinto(buffer)
                body.close()
            except TransferError as error:
                self._note(error)
                break
            seconds.append(time.monotonic() - began)
            if time.monotonic() >= self._deadline:
                break
        return statistics.median(seconds) if seconds else None

    # ---- the rate

    def sample_all(self, on_sample: Callable[[LinkSample], None]) -> list[LinkSample]:
        """Measure more and more connections; return what each number brought."""
        samples: list[LinkSample] = []
        if not self.size:
            self.stopped = self.stopped or "the server does not say how long the file is"
        most = 1 if self.limit == "ranges" else self.most
        while self.stopped is None and (number := next_connections(samples, most)) is not None:
            sample = self._sample(number)
            if sample is None:
                break
            samples.append(sample)
            on_sample(sample)
        if not samples and self._error is not None and self.limit != "server":
            raise self._error
        if self.stopped in {_NO_TIME, _NO_BYTES} and samples and next_connections(samples, most) is None:
            self.stopped = None  # there was nothing more to do
        return samples

    def _sample(self, number: int) -> LinkSample | None:
        """Measure a number of connections; ``None`` if they were not under way long enough."""
        while len(self._threads) < number and self._start_thread():
            pass
        seconds = min(_SAMPLE_SECONDS, self.max_seconds / self._steps)
        nbytes = self.max_bytes // self._steps
        self._wait(_RAMP * seconds, int(_RAMP * nbytes), least=0.0)
        before, used, began = self.received, _processor_seconds(), time.monotonic()
        self._wait((1 - _RAMP) * seconds, int((1 - _RAMP) * nbytes))
        seconds = time.monotonic() - began
        nbytes = self.received - before
        if seconds < _TOO_SHORT or not nbytes:
            return None
        return LinkSample(
            len(self._threads), nbytes / seconds, nbytes, seconds, (_processor_seconds() - used) / seconds
        )

    def _wait(self, seconds: float, nbytes: int, *, least: float = _LEAST_SECONDS) -> None:
        """Wait for so much time, or for so many bytes, as long as nothing ends the measurement.

        Args:
            seconds: The time.
            nbytes: The bytes; if they come sooner than in ``least`` seconds, more are waited for.
            least: Seconds.
        """
        began = time.monotonic()
        until = min(began + seconds, self._deadline)
        stop_at = self.received + nbytes
        while self.stopped is None and (now := time.monotonic()) < until:
            received = self.received
            if received >= self.max_bytes or (received >= stop_at and now >= began + least):
                break
            self._tell(now)
            self._wake.wait(min(until - now, _TICK))
        if self.stopped is None and time.monotonic() >= self._deadline:
            self.stopped = _NO_TIME
        elif self.stopped is None and self.received >= self.max_bytes:
            self.stopped = _NO_BYTES

    def _tell(self, now: float) -> None:
        """Tell how much has come, once a second."""
        if self.events is None or not self.events.is_due():
            return
        (at, before), self._told = self._told, (now, self.received)
        rate = (self._told[1] - before) / (now - at) if now > at else 0.0
        self.events.amount(self._told[1], rate=rate, files_done=0, connections=len(self._threads))

    # ---- the threads

    def _start_thread(self) -> bool:
        count, token = [0], self._token()
        self._counts.append(count)
        thread = start_daemon(lambda: self._read(count, token), f"hf-haul-bench-{len(self._threads) + 1}")
        if thread is None:
            self.stopped = "the system gives no more threads"
            return False
        self._threads.append(thread)
        return True

    def _read(self, count: list[int], token: CancelToken) -> None:
        """Read parts of the file, one after the other, until told to stop."""
        buffer = memoryview(bytearray(_READ))
        failures = 0
        while not token.is_set():
            try:
                self._read_part(count, token, buffer)
                failures = 0
            except StopRequestedError:
                return
            except TransferError as error:
                if token.is_set():
                    return
                failures += 1
                self._note(error)
                if failures >= _FAILURES or not error.retryable:
                    self._end(str(error))
                token.wait(_PAUSE)

    def _read_part(self, count: list[int], token: CancelToken, buffer: memoryview) -> None:
        assert self.size is not None
        # Two threads that take the same part read the same bytes: nothing is lost by it.
        start = self._next % self.size
        want = ByteRange(start, min(start + _PART, self.size))
        self._next += _PART if want.stop < self.size else self.size - start
        body = self.source.open(None if self.limit == "ranges" else want, token)
        try:
            while got := body.readinto(buffer):
                count[0] += got
                self.manager.limiter.wait(got, token)
                token.check()
        finally:
            body.close()

    def _note(self, error: TransferError) -> None:
        """Note what went wrong; a server that asks to wait is not asked again."""
        logger.info("%s", error)
        self._error = self._error or error
        if isinstance(error, ServerBusyError):
            self.limit = "server"
            self._end(str(error))

    def _end(self, why: str) -> None:
        self.stopped = self.stopped or why
        for token in list(self._tokens):
            token.set()
        self._wake.set()

    def _token(self) -> CancelToken:
        token = CancelToken()
        self._tokens.append(token)
        return token

    def stop(self) -> None:
        """End all threads, and wait for them a moment."""
        for token in list(self._tokens):
            token.set()
        until = time.monotonic() + _GRACE
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


def _processor_seconds() -> float:
    used = os.times()
    return used.user + used.system
