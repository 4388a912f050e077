"""Bytes of remote files that are in memory, or on their way, kept for later reads.

An *extent* is a run of one file's bytes, in memory or being fetched. Extents of a file never overlap. A read
takes what is there, joins what is on its way, and fetches only the holes; several readers of one file, and
several opens of it, share its extents. They go with their file: of those that nobody has open any more, only
the latest few are kept for whoever opens them again. Nothing here decides what to fetch ahead; see
``readahead``.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.config import MiB
from hf_haul.forks import renew_after_fork
from hf_haul.reading.batches import split
from hf_haul.reading.buffer import Buffer
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.read_threads import DEMAND, READ_AHEAD, Job
from hf_haul.reading.reader import Reads
from hf_haul.reading.shares import Shares

__all__ = ["Extents"]

#: Bytes kept in memory by one process for reads to come.
_BUDGET: Final = 128 * MiB
#: Bytes of these that may have been read to their end already; somebody may open the file again.
_CONSUMED: Final = 32 * MiB
#: Files closed last that are kept, with what is in memory of them.
_CLOSED_FILES: Final = 64
#: A larger read is not kept: it goes straight to its reader.
_KEPT: Final = 4 * MiB


class _Extent:
    """A run of bytes of one file.

    ``data`` is set before ``job`` is done. ``waiters`` keep it from being dropped.
    """

    __slots__ = ("buffer", "cancel_token", "data", "job", "owner", "source", "start", "stop", "waiters")

    def __init__(
        self, source: RangeSource, start: int, stop: int, owner: object, data: bytes | bytearray = b""
    ) -> None:
        self.source = source
        self.start = start
        self.stop = stop
        self.owner = owner
        self.buffer = None if data else Buffer(stop - start)
        self.data = data
        self.job = Job(None if data else self._fetch, sending=source.link.sending(stop - start))
        self.cancel_token = CancelToken()
        self.waiters = 0

    def _fetch(self) -> None:
        buffer = self.buffer
        assert buffer is not None
        self.source.fill(self.start, buffer.view, self.cancel_token)
        self.data = buffer.take_array()
        self.buffer = None


class _File:
    """One file's extents, in order, of which there is one at the least once :class:`Extents` knows it."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.extents: list[_Extent] = []

    def overlapping(self, start: int, stop: int) -> list[_Extent]:
        i = bisect_right(self.starts, start) - 1
        if i < 0 or self.extents[i].stop <= start:
            i += 1
        found = []
        while i < len(self.extents) and self.extents[i].start < stop:
            found.append(self.extents[i])
            i += 1
        return found

    def holes(self, start: int, stop: int) -> list[tuple[int, int]]:
        found = []
        at = start
        for extent in self.overlapping(start, stop):
            if extent.start > at:
                found.append((at, extent.start))
            at = extent.stop
        if at < stop:
            found.append((at, stop))
        return found

    def add(self, extent: _Extent) -> None:
        i = bisect_right(self.starts, extent.start)
        self.starts.insert(i, extent.start)
        self.extents.insert(i, extent)

    def remove(self, extent: _Extent) -> None:
        i = bisect_right(self.starts, extent.start) - 1
        if i >= 0 and self.extents[i] is extent:
            del self.starts[i], self.extents[i]


class Extents:
    """The extents of all files of one process, within one memory budget.

    Locking: ``_lock`` guards all attributes and the extents' ``waiters``. No request is made under it.

    Attributes:
        reads: Threads and connections.

    Args:
        reads: The same.
        budget: Bytes in memory, those on their way included. Reads that somebody waits for may go beyond.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        reads: Reads,
        *,
        budget: int = _BUDGET,
        consumed: int = _CONSUMED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reads = reads
        self._clock = clock
        self._budget = budget
        self._consumed_budget = consumed
        self._open: dict[RangeSource, int] = {}  # how many have it open
        self._closed: OrderedDict[RangeSource, None] = OrderedDict()  # files nobody has open, the latest last
        self._start_empty()
        renew_after_fork(self, Extents._after_fork)

    def _start_empty(self) -> None:
        self._files: dict[RangeSource, _File] = {}
        self._fresh: OrderedDict[_Extent, None] = OrderedDict()  # not read to the end yet, oldest first
        self._consumed: OrderedDict[_Extent, None] = OrderedDict()  # read to the end, oldest first
        self._shares = Shares(self._budget - self._consumed_budget, self._clock)
        self._bytes = 0
        self._consumed_bytes = 0
        self._lock = threading.Lock()

    def _after_fork(self) -> None:
        """Keep the bytes that are here, and nothing that another thread may have been changing.

        An extent is in its file before it is in ``_fresh`` or ``_consumed``, and until it is in neither, so
        those in them do not overlap; its ``data`` comes whole. Everything else is made anew from that.
        """
        consumed, fresh = list(self._consumed), list(self._fresh)
        self._start_empty()
        for read, extents in ((True, consumed), (False, fresh)):
            for old in extents:
                file = self._file(old.source)
                # It may be in both, if it was just moved from one to the other.
                if old.data and not file.overlapping(old.start, old.stop):
                    kept = self._keep(file, _Extent(old.source, old.start, old.stop, old.owner, old.data))
                    if read:
                        self._consume(kept)

    # ---- open files

    def attach(self, source: RangeSource) -> None:
        """Note that a reader has a file open, until :meth:`detach`."""
        with self._lock:
            self._open[source] = self._open.get(source, 0) + 1
            self._closed.pop(source, None)

    def detach(self, source: RangeSource, owner: object) -> None:
        """Note that a reader closed a file, and cancel what was fetched ahead for it."""
        self.release(owner, running=True)
        with self._lock:
            self._shares.forget(owner)
            left = self._open.pop(source, 1) - 1
            if left > 0:
                self._open[source] = left
                return
            for extent in self._idle(self._file(source).extents):
                self._consume(extent)  # what was fetched ahead for whoever opened it goes first
            self._closed[source] = None
            self._closed.move_to_end(source)
            while len(self._closed) > _CLOSED_FILES:
                gone, _ = self._closed.popitem(last=False)
                for extent in self._idle(self._file(gone).extents):
                    self._forget(extent)

    # ---- reading

    def read(
        self, source: RangeSource, start: int, stop: int, *, fetch: tuple[int, int], owner: object
    ) -> bytes:
        """Return the bytes from ``start`` up to ``stop``.

        Args:
            source: The file.
            start: First byte.
            stop: One past the last.
            fetch: What to fetch if anything has to be: at least the same bytes.
            owner: Who reads; see :meth:`release`.

        Raises:
            TransferError: They cannot be had.
        """
        if stop - start > _KEPT:
            buffer = Buffer(stop - start)
            self.read_into(source, start, buffer.view, fetch=fetch, owner=owner)
            return buffer.take()
        with self._lock:
            self._shares.note_read(owner)
            file = self._file(source)
            made = []
            if file.holes(start, stop):
                made = [
                    self._make(file, source, *part, owner)
                    for hole in file.holes(*fetch)
                    for part in split(*hole, source.link.part, self.reads.lanes)
                ]
            held = file.overlapping(start, stop)
            for extent in {*held, *made}:
                extent.waiters += 1
            self._make_room()
        try:
            self._start(made)
            self._wait(held, made)
            if len(held) == 1:
                extent = held[0]
                if (extent.start, extent.stop) == (start, stop):
                    return bytes(extent.data)  # no copy where somebody put all of a file
                return bytes(memoryview(extent.data)[start - extent.start : stop - extent.start])
            return b"".join(
                memoryview(each.data)[max(start, each.start) - each.start : min(stop, each.stop) - each.start]
                for each in held
            )
        finally:
            self._let_go(held, made, stop)

    def read_into(
        self, source: RangeSource, start: int, view: memoryview, *, fetch: tuple[int, int], owner: object
    ) -> None:
        """Fill ``view`` from ``start``; what a large read has to fetch is not kept. See :meth:`read`.

        Raises:
            TransferError: They cannot be had.
        """
        stop = start + len(view)
        if stop - start <= _KEPT:
            view[:] = self.read(source, start, stop, fetch=fetch, owner=owner)
            return
        with self._lock:
            self._shares.note_read(owner)
            file = self._file(source)
            held = file.overlapping(start, stop)
            holes = file.holes(start, stop)
            for extent in held:
                extent.waiters += 1
        try:
            self.reads.fill_many(source, [(a, view[a - start : b - start]) for a, b in holes])
            self._wait(held, [])
            for extent in held:
                a, b = max(start, extent.start), min(stop, extent.stop)
                view[a - start : b - start] = memoryview(extent.data)[a - extent.start : b - extent.start]
        finally:
            self._let_go(held, [], stop)

    def read_held(self, source: RangeSource, start: int, stop: int) -> bytes | None:
        """Return the bytes from ``start`` up to ``stop`` if all are here or on their way, else ``None``.

        Raises:
            TransferError: They do not come.
        """
        if start >= stop or self.covered_to(source, start) < stop:
            return None
        data = self.read(source, start, stop, fetch=(start, stop), owner=None)
        whole = (start, stop) == (0, source.size)
        return data if not whole or self.reads.is_intact(source, data) else None

    def put(self, source: RangeSource, data: bytes, *, owner: object) -> None:
        """Keep a whole file that was read, if it is not too large."""
        if not 0 < len(data) <= _KEPT:
            return
        with self._lock:
            file = self._file(source)
            if file.extents:
                return
            self._consume(self._keep(file, _Extent(source, 0, len(data), owner, data)))
            self._make_room()

    def _wait(self, held: list[_Extent], mine: list[_Extent]) -> None:
        """Wait until extents are in memory, whichever thread fetches them."""
        threads = self.reads.threads
        for extent in held:
            if extent in mine:
                threads.join(extent.job)
                extent.job.result()
                continue
            threads.promote(extent.job, DEMAND)
            threads.join(extent.job)
            try:
                extent.job.result()
            except Exception:  # noqa: BLE001  whatever it was, it was not this reader's
                # It was fetched ahead for somebody else, or called off. This reader has its own tries, and
                # errors.
                buffer = Buffer(extent.stop - extent.start)
                self.reads.readinto(extent.source, extent.start, buffer.view)
                extent.data = buffer.take_array()

    def _start(self, made: list[_Extent]) -> None:
        """Fetch new extents for a reader; the first in the reader's own thread."""
        for extent in made[1:]:
            self.reads.threads.submit(DEMAND, extent.job)
        for extent in made[:1]:
            extent.job.run()

    def _let_go(self, held: list[_Extent], made: list[_Extent], stop: int) -> None:
        with self._lock:
            for extent in {*held, *made}:
                extent.waiters -= 1
                if extent.job.done() and not extent.data:
                    self._forget(extent)
                elif extent.stop <= stop:
                    self._consume(extent)
            self._make_room()

    # ---- fetching ahead

    def covered_to(self, source: RangeSource, start: int, *, arrived: bool = False) -> int:
        """Return the first byte from ``start`` on that is not here nor, unless ``arrived``, on its way."""
        with self._lock:
            for extent in self._file(source).overlapping(start, source.size):
                if extent.start > start or (arrived and not extent.data):
                    break
                start = extent.stop
            return start

    def prefetch(
        self,
        source: RangeSource,
        ranges: Sequence[tuple[int, int]],
        *,
        part: int,
        owner: object,
        priority: int = READ_AHEAD,
    ) -> int:
        """Fetch ranges that no read waits for yet, as far as memory allows.

        Args:
            source: The file.
            ranges: Starts and stops.
            part: Bytes of one request.
            owner: For whom; see :meth:`release`.
            priority: Of two prefetches, the smaller goes first.

        Returns:
            Where the last range ends, or the first byte for which there was no memory.
        """
        made = []
        with self._lock:
            file = self._file(source)
            parts = [
                (at, min(at + part, b))
                for start, stop in ranges
                for a, b in file.holes(start, min(stop, source.size))
                for at in range(a, b, part)
            ]
            reached = max((stop for _, stop in ranges), default=0)
            for start, stop in parts:
                if not self._has_room(stop - start):
                    reached = start
                    break
                made.append(self._make(file, source, start, stop, owner))
            self._make_room()
        refused = [extent for extent in made if not self.reads.threads.submit(priority, extent.job)]
        if refused:  # no thread is to be had, and nobody waits for it
            with self._lock:
                for extent in refused:
                    if not extent.waiters and extent.job.cancel():
                        self._forget(extent)
        return reached

    def jobs(self, source: RangeSource, start: int, stop: int) -> tuple[list[Job], int]:
        """Return what is under way between ``start`` and ``stop``, and how many bytes are, or are here."""
        with self._lock:
            held = self._file(source).overlapping(start, stop)
            nbytes = sum(min(stop, each.stop) - max(start, each.start) for each in held)
            return [each.job for each in held if not each.job.done()], nbytes

    def note_read(self, owner: object) -> None:
        """Note that somebody reads, for whom bytes are fetched ahead."""
        with self._lock:
            self._shares.note_read(owner)

    def room(self, owner: object) -> int:
        """Return the bytes that a reader may have ahead, beside all others that read now."""
        with self._lock:
            return self._shares.of(owner)

    def release(self, owner: object, *, running: bool) -> None:
        """Cancel what was fetched ahead for a reader.

        Args:
            owner: For whom.
            running: Whether requests under way are broken off too, not only those that wait.
        """
        stopped = []
        with self._lock:
            for extent in list(self._fresh):
                if extent.owner is not owner or extent.waiters:
                    continue
                if extent.job.cancel():
                    self._forget(extent)
                elif running:
                    if extent.job.done():
                        self._consume(extent)  # whoever opens the file next may want it; but it goes first
                    else:
                        stopped.append(extent)
                        self._forget(extent)
            self._make_room()
        for extent in stopped:
            extent.cancel_token.set()

    # ---- under the lock

    def _file(self, source: RangeSource) -> _File:
        """Return a file's extents; a file without any is not stored."""
        return self._files.get(source) or _File()

    def _make(self, file: _File, source: RangeSource, start: int, stop: int, owner: object) -> _Extent:
        return self._keep(file, _Extent(source, start, stop, owner))

    def _keep(self, file: _File, extent: _Extent) -> _Extent:
        file.add(extent)
        self._files[extent.source] = file
        self._fresh[extent] = None
        self._bytes += extent.stop - extent.start
        return extent

    def _consume(self, extent: _Extent) -> None:
        if extent in self._fresh:
            del self._fresh[extent]
            self._consumed[extent] = None
            self._consumed_bytes += extent.stop - extent.start
        elif extent in self._consumed:
            self._consumed.move_to_end(extent)

    def _has_room(self, nbytes: int) -> bool:
        """Return whether there is memory for more ahead, if need be in place of what idle readers have."""
        if self._bytes - self._consumed_bytes + nbytes > self._budget:
            for extent in self._idle(self._fresh):
                if self._shares.is_idle(extent.owner):
                    self._forget(extent)
        return self._bytes - self._consumed_bytes + nbytes <= self._budget

    def _make_room(self) -> None:
        """Drop the extents read longest ago, and then those of whoever read longest ago, the last first."""
        if self._consumed_bytes > self._consumed_budget or self._bytes > self._budget:
            for extent in self._idle(self._consumed):
                if self._consumed_bytes <= self._consumed_budget and self._bytes <= self._budget:
                    break
                self._forget(extent)
        if self._bytes > self._budget:
            shares = self._shares
            for extent in sorted(
                self._idle(self._fresh), key=lambda each: (shares.last_read(each.owner), -each.start)
            ):
                if self._bytes <= self._budget:
                    break
                self._forget(extent)

    @staticmethod
    def _idle(extents: Iterable[_Extent]) -> list[_Extent]:
        return [each for each in extents if not each.waiters and each.job.done()]

    def _forget(self, extent: _Extent) -> None:
        if extent in self._fresh:
            del self._fresh[extent]
        elif extent in self._consumed:
            del self._consumed[extent]
            self._consumed_bytes -= extent.stop - extent.start
        else:
            return
        self._bytes -= extent.stop - extent.start
        file = self._files[extent.source]
        file.remove(extent)
        if not file.extents:
            del self._files[extent.source]
