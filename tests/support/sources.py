"""A file in memory that answers ranges as a transport would, and can be told to misbehave."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from hf_haul.cancellation import CancelToken, SilenceLimits
from hf_haul.config import Settings
from hf_haul.errors import ConnectionFailedError, RangeRefusedError
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SourceHistory
from hf_haul.ranges import ByteRange
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.reader import Reads
from hf_haul.task import Digest, RemoteFile

__all__ = ["FakeBody", "FakeTransport", "make_reads", "make_source", "remote_file"]

SETTINGS = Settings(first_retry_wait=0.0, max_retry_wait=0.0, max_retries=2, max_read_connections=16)


class _NoSpeeds(SourceHistory):
    """Knows nothing of speeds: what memory shows would make every request a large one."""

    def read(self, source: str, nbytes: int, seconds: float) -> None:
        del source, nbytes, seconds


class FakeBody:
    """The bytes of one answer."""

    def __init__(self, transport: FakeTransport, body_range: ByteRange, cut: int | None) -> None:
        self.range: ByteRange | None = body_range
        self.total: int | None = len(transport.data)
        self.whole = False
        self._transport = transport
        self._at = body_range.start
        self._stop = body_range.stop if cut is None else min(body_range.start + cut, body_range.stop)

    def readinto(self, buffer: memoryview) -> int:
        got = min(len(buffer), self._stop - self._at)
        if not got and self.range is not None and self._at < self.range.stop:
            raise ConnectionFailedError("cut short")
        buffer[:got] = self._transport.data[self._at : self._at + got]
        self._at += got
        self._transport.sent += got
        return got

    def close(self) -> None:
        self._transport.closed += 1


@dataclass
class FakeTransport:
    """Serves ``data``.

    Attributes:
        data: The file.
        no_ranges: Ranges that do not begin at 0 are refused.
        faults: Taken one by one: an exception is raised, a number cuts the body after so many bytes.
        gate: Waited for by every request, if set.
        asked: The ranges asked for, in order.
        limits: How long each request might bring nothing.
    """

    data: bytes
    no_ranges: bool = False
    faults: list[Exception | int | None] = field(default_factory=list)
    gate: threading.Event | None = None
    asked: list[tuple[int, int] | None] = field(default_factory=list)
    limits: list[SilenceLimits | None] = field(default_factory=list)
    sent: int = 0
    closed: int = 0
    opened: int = 0
    on_open: Callable[[], None] = lambda: None
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def open(self, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool = False) -> FakeBody:
        with self._changed:
            self.limits.append(cancel_token.silence_limits)
            self.asked.append(None if want is None else (want.start, want.stop))
            self._changed.notify_all()
        self.on_open()
        if self.gate is not None:
            while not self.gate.wait(0.01):
                cancel_token.check()
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        if want is not None and want.start and self.no_ranges:
            raise RangeRefusedError("the whole file instead")
        self.opened += 1
        whole = want is None or self.no_ranges
        return FakeBody(self, ByteRange(0, len(self.data)) if whole or want is None else want, fault)

    def wait_for_requests(self, count: int) -> bool:
        """Whether so many requests have been made, within ten seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.asked) >= count, 10)


def remote_file(data: bytes, path: str = "file.bin") -> RemoteFile:
    digest = Digest("sha256", hashlib.sha256(data).hexdigest())
    return RemoteFile(path, f"http://hub.example/{path}", size=len(data), digest=digest, etag=digest.value)


def make_reads(
    *transports: FakeTransport,
    settings: Settings = SETTINGS,
    suffix: str = ".bin",
    downloads: SourceHistory | None = None,
) -> tuple[Reads, list[RangeSource]]:
    """Reads over files in memory, and the files' sources."""
    remotes = [remote_file(each.data, f"file{i}{suffix}") for i, each in enumerate(transports)]
    by_path = {remote.path: each for remote, each in zip(remotes, transports, strict=True)}
    reads = Reads(lambda remote: by_path[remote.path], settings, BandwidthLimiter(None), downloads)
    reads._history = _NoSpeeds(downloads)
    return reads, [reads.source(remote) for remote in remotes]


def make_source(transport: FakeTransport, settings: Settings = SETTINGS) -> RangeSource:
    """One file, to be read without threads."""
    return RangeSource(
        remote_file(transport.data),
        lambda _: transport,
        settings,
        BandwidthLimiter(None),
        SourceHistory(),
    )
