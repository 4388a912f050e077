"""Reads of ranges into memory: one source for each file, parts over several connections, vectored reads."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.config import Settings
from hf_haul.errors import IntegrityError
from hf_haul.forks import renew_after_fork
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SourceHistory
from hf_haul.reading.batches import (
    PendingSpan,
    RangeRequest,
    ReadBatch,
    Span,
    call_off_all,
    merge_requests,
    split,
)
from hf_haul.reading.buffer import Buffer
from hf_haul.reading.disk_copy import DiskCopy
from hf_haul.reading.range_source import Checksum, RangeSource, learn_size
from hf_haul.reading.read_threads import READ_AHEAD, Job, ReadThreads
from hf_haul.storage.destinations import BlobDestination
from hf_haul.task import RemoteFile
from hf_haul.transports.base import Transport
from hf_haul.waits import Waits, unattended

__all__ = ["Reads"]

#: Connections of one process that send at once: as many as a long way needs, and not many more than the
#: downloads of others on the same way get. Those that wait for answers do not count.
_LANES: Final = 16
#: Sources that are remembered with their resolved URLs when nobody uses them any more.
_RECENT: Final = 64

#: URL, etag, token, and where the file is kept on disk.
_Key = tuple[str, str | None, str | None, str | None]


class Reads:
    """Reads of any number of files, over one set of threads and connections.

    Args:
        open_transport: Gives a transport for a file.
        settings: Connections, retries and timeouts.
        limiter: The bandwidth limit.
        downloads: What they measured, which says how quickly a source answers until reads have measured that.
        waits: Where it is reported what they wait for.
    """

    def __init__(
        self,
        open_transport: Callable[[RemoteFile], Transport],
        settings: Settings,
        limiter: BandwidthLimiter,
        downloads: SourceHistory | None = None,
        *,
        waits: Waits = unattended,
    ) -> None:
        self.lanes = min(_LANES, settings.max_read_connections)
        self.threads = ReadThreads(
            settings.max_read_connections, lanes=self.lanes, look_seconds=settings.timings.passed_over
        )
        self._open_transport = open_transport
        self._settings = settings
        self._limiter = limiter
        self._history = SourceHistory(downloads)
        self._waits = waits
        self._sources: weakref.WeakValueDictionary[_Key, RangeSource] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[RangeSource, None] = OrderedDict()
        self._reset()
        renew_after_fork(self, Reads._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()  # guards _sources and _recent

    def source(
        self,
        remote: RemoteFile,
        keep: BlobDestination | None = None,
        on_published: Callable[[], None] = lambda: None,
    ) -> RangeSource:
        """Return the one source of a file, so that all its readers share its resolved URL.

        Args:
            remote: The file.
            keep: Where it is on disk, and what is read of it is kept; its size and digest are known then.
            on_published: Called once all of it was read, and is there.

        Raises:
            TransferError: Its size is unknown, and its source does not tell.
        """
        key = (
            remote.url,
            remote.etag,
            remote.headers.get("authorization"),
            None if keep is None else str(keep.path),
        )
        with self._lock:
            source = self._sources.get(key)
        if source is None and not remote.size and not (remote.digest and remote.digest.is_of_nothing):
            # Nobody said how long it is, or somebody said 0, as some do who do not know.
            size = learn_size(remote, self._open_transport, self._settings, self._history, self._waits)
            remote = replace(remote, size=size)
        with self._lock:
            source = self._sources.get(key)
            if source is None:
                disk = None
                if keep is not None:
                    disk = DiskCopy(keep, remote, self._settings, self._do_later, on_published)
                source = RangeSource(
                    remote,
                    self._open_transport,
                    self._settings,
                    self._limiter,
                    self._history,
                    waits=self._waits,
                    disk=disk,
                )
                self._sources[key] = source
            self._recent[source] = None
            self._recent.move_to_end(source)
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            return source

    def _do_later(self, work: Callable[[], None]) -> bool:
        job = Job(work, sending=0.0)
        return self.threads.submit(READ_AHEAD, job) or not job.cancel()

    def read(self, source: RangeSource, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` up to ``stop``, over several connections if it pays.

        A whole file is checked against its digest, and fetched once more if it fails.

        Raises:
            TransferError: They cannot be had.
            IntegrityError: The whole file has another digest than announced.
        """
        result = self.read_many([RangeRequest(source, start, stop)])[0]
        if isinstance(result, BaseException):
            raise result
        return result

    def readinto(self, source: RangeSource, start: int, view: memoryview) -> None:
        """Fill ``view`` from offset ``start``.

        Raises:
            TransferError: The bytes cannot be had.
        """
        self.fill_many(source, [(start, view)])

    def fill_many(self, source: RangeSource, wanted: Sequence[tuple[int, memoryview]]) -> None:
        """Fill several buffers from their offsets, all at once, each in as many parts as pay.

        Raises:
            TransferError: The bytes cannot be had.
        """
        parts = [
            (a, view[a - start : b - start])
            for start, view in wanted
            for a, b in split(start, start + len(view), source.link.part, self.lanes)
        ]
        if len(parts) == 1:  # no use in another thread
            source.fill(*parts[0], CancelToken())
            return
        batch = ReadBatch(self.threads)
        try:
            for start, view in parts:
                batch.add(source, start, view)
            for index in range(len(parts)):
                batch.wait(index)
        except BaseException:
            batch.call_off()
            raise

    def read_many(
        self, wanted: Sequence[RangeRequest], *, max_gap: int | None = None, fail_fast: bool = True
    ) -> list[bytes | Exception]:
        """Return many ranges of many files, read at once: neighbours together, large ones in parts.

        Args:
            wanted: The ranges, in any order; they may overlap.
            max_gap: Bytes between two ranges of a file that are fetched rather than asked around; ``None``
                for what suits the connection.
            fail_fast: Whether the first failure calls off the rest and is raised.

        Returns:
            The bytes of each range, or what went wrong with it.

        Raises:
            Exception: The first failure in the order of ``wanted``, with ``fail_fast``.
        """
        results: list[bytes | Exception] = [b""] * len(wanted)
        pending = [
            PendingSpan(span, self._parts(span), self.threads) for span in merge_requests(wanted, max_gap)
        ]
        try:
            if len(pending) > 1 or (pending and len(pending[0].parts) > 1):  # else no use in another thread
                for reading in pending:
                    reading.start()
            for reading in pending:
                try:
                    self._collect(reading, wanted, results)
                except Exception as error:
                    if fail_fast:
                        raise
                    for index in reading.span.indexes:
                        results[index] = error
        except BaseException:
            call_off_all([reading.batch for reading in pending])
            raise
        return results

    def _collect(
        self, reading: PendingSpan, wanted: Sequence[RangeRequest], results: list[bytes | Exception]
    ) -> None:
        """Wait for one span, and return its ranges."""
        span = reading.span
        whole = any(wanted[index].whole for index in span.indexes) and self._settings.verify
        checksum = Checksum(span.source.remote) if whole else None
        for index in range(len(reading.parts)):
            part = reading.wait(index)
            if checksum is not None:
                checksum.update(part)  # while the next ones arrive
            part.release()
        data = reading.buffer.take()
        if checksum is not None:
            try:
                checksum.check()
            except IntegrityError:
                span.source.leave_disk()
                data = self._refetch(span.source)
        for index in span.indexes:
            start, stop = wanted[index].start - span.start, wanted[index].stop - span.start
            results[index] = data if stop - start == len(data) else data[start:stop]

    def is_intact(self, source: RangeSource, data: bytes) -> bool:
        """Return whether the bytes of a whole file have its digest, or none is to be checked."""
        if not self._settings.verify:
            return True
        checksum = Checksum(source.remote)
        checksum.update(data)
        try:
            checksum.check()
        except IntegrityError:
            source.leave_disk()
            return False
        return True

    def _refetch(self, source: RangeSource) -> bytes:
        """Fetch a whole file again whose digest was wrong; a second wrong digest is an error."""
        buffer = Buffer(source.size)
        self.readinto(source, 0, buffer.view)
        checksum = Checksum(source.remote)
        checksum.update(buffer.view)
        checksum.check()
        return buffer.take()

    def _parts(self, span: Span) -> list[tuple[int, int]]:
        return split(span.start, span.stop, span.source.link.part, self.lanes)
