"""Reads one open file: from memory, by fetching, and with bytes fetched ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from hf_haul.config import KiB, MiB
from hf_haul.finalizers import defer
from hf_haul.forks import renew_after_fork
from hf_haul.reading.extents import Extents
from hf_haul.reading.parquet import TAIL, ParquetPlan, footer_start, parse_layout
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.readahead import Advice, ReadAhead
from hf_haul.reading.siblings import Visit

__all__ = ["FileReader"]

#: Bytes of one request for what a parquet file's reader will want: at the least, and at the most.
_SMALLEST_PART: Final = 256 * KiB
_LARGEST_PART: Final = 4 * MiB
#: Bytes of a parquet file with an empty footer between two marks.
_NO_FOOTER: Final = 12


class FileReader:
    """Positional reads of one open file, with read-ahead; safe for many threads.

    A whole file read at once is checked against its digest.

    Locking: ``_lock`` guards the policy and the plan.

    Args:
        source: The file.
        extents: Where bytes are kept, and fetched.
        ahead: Whether more may be fetched than is read, by what was read so far.
        plan: Whether more may be fetched by the layout of a parquet file.
        stream: Whether it will be read in order to its end.
        visit: Where to note what is read, for those who look ahead at other files.
        near_end: Called once all that is left of the file is on its way to a reader in order.
    """

    def __init__(
        self,
        source: RangeSource,
        extents: Extents,
        *,
        ahead: bool = True,
        plan: bool = True,
        stream: bool = False,
        visit: Visit | None = None,
        near_end: Callable[[], None] | None = None,
    ) -> None:
        self._source = source
        self._extents = extents
        self._ahead = ahead
        self._may_plan = plan and not stream
        self._stream = stream
        self._visit = visit or Visit(source.size)
        self._near_end = near_end
        self._closed = False
        self._start_anew()
        renew_after_fork(self, FileReader._start_anew)
        extents.attach(source)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._policy = ReadAhead(self._source.size, stream=self._stream) if self._ahead else None
        self._parquet = self._may_plan and self._source.remote.path.lower().endswith(".parquet")
        layout = self._source.layout
        self._plan = None
        if self._parquet and layout is not None:
            self._plan = ParquetPlan(layout, self._visit.columns)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` up to ``stop``, which lie inside the file.

        Raises:
            TransferError: They cannot be had.
            IntegrityError: It is the whole file, and not what its source announced.
        """
        source, extents = self._source, self._extents
        if start == 0 and stop == source.size:
            return self._read_whole()
        advice = self._prepare(start, stop)
        data = extents.read(source, start, stop, fetch=(advice.start, advice.stop), owner=self)
        if self._parquet and self._plan is None and stop > source.size - TAIL:
            self._look_at_footer()
        return data

    def held_to(self, start: int) -> int:
        """Return the first byte from ``start`` on that is not in memory."""
        return self._extents.covered_to(self._source, start, arrived=True)

    def read_held(self, start: int, stop: int) -> bytes | None:
        """Return bytes that are in memory, ``None`` if not all are; :meth:`note` tells of them afterwards.

        Raises:
            TransferError: They do not come.
        """
        return self._extents.read_held(self._source, start, stop)

    def note(self, start: int, stop: int) -> None:
        """Note that bytes were read which :meth:`read_held` gave, and fetch what comes next."""
        self._prepare(start, stop)

    def _read_whole(self) -> bytes:
        """Return the whole file, checked against its digest."""
        source, extents = self._source, self._extents
        size = source.size
        self._visit.read += size
        if size and extents.covered_to(source, 0) >= size:
            data = extents.read(source, 0, size, fetch=(0, size), owner=self)
            if extents.reads.is_intact(source, data):
                return data
        data = extents.reads.read(source, 0, size)
        extents.put(source, data, owner=self)
        return data

    def read_footer(self) -> None:
        """Fetch the footer of a parquet file, so that its layout is known if this process reads parquet.

        Raises:
            TransferError: It cannot be had.
        """
        size = self._source.size
        if self._plan is None and size >= _NO_FOOTER:
            self.read(size - 8, size)

    def read_into(self, start: int, view: memoryview) -> None:
        """Fill ``view`` from ``start``.

        Raises:
            TransferError: The bytes cannot be had.
        """
        stop = start + len(view)
        if start == 0 and stop == self._source.size:
            view[:] = self.read(start, stop)
            return
        advice = self._prepare(start, stop)
        self._extents.read_into(self._source, start, view, fetch=(advice.start, advice.stop), owner=self)

    def _prepare(self, start: int, stop: int) -> Advice:
        """Ask the policy, and start to fetch what comes next before waiting for what is wanted now."""
        size = self._source.size
        self._visit.read += stop - start
        if self._parquet and start >= size - TAIL:
            return Advice(max(0, size - TAIL), size)
        return self._planned(start, stop) or self._guessed(start, stop)

    def _planned(self, start: int, stop: int) -> Advice | None:
        """Return advice from a parquet file's layout."""
        source = self._source
        if self._plan is None:
            return None
        with self._lock:
            advice = self._plan.advise(start, stop)
        if advice is None:
            return None
        part = max(_SMALLEST_PART, min(source.link.unit, _LARGEST_PART))
        self._extents.prefetch(source, advice.ahead, part=part, owner=self)
        return Advice(advice.start, advice.stop)

    def _guessed(self, start: int, stop: int) -> Advice:
        """Return advice from the reads so far."""
        if self._policy is None:
            return Advice(start, stop)
        source, extents = self._source, self._extents
        with self._lock:
            advice = self._policy.advise(start, stop, lambda: source.link, lambda: extents.room(self))
        if advice.jumped:
            extents.release(self, running=False)
        begin, end = advice.ahead
        if begin < end:
            reached = extents.prefetch(source, [advice.ahead], part=advice.part, owner=self)
            if reached < end:
                with self._lock:
                    self._policy.came_short(advice.ahead, reached)
            elif end == source.size and self._policy.in_order:
                self._look_past_the_end()
        return advice

    def _look_past_the_end(self) -> None:
        """Note once that all that is left of the file is on its way, so that the next is looked at."""
        near_end, self._near_end = self._near_end, None
        if near_end is not None:
            near_end()

    def _look_at_footer(self) -> None:
        """Parse a parquet file's footer once it is in memory; requests nothing."""
        source, extents = self._source, self._extents
        size = source.size
        if size < _NO_FOOTER or extents.covered_to(source, size - 8) < size:
            return
        begin = footer_start(extents.read(source, size - 8, size, fetch=(size - 8, size), owner=self), size)
        if begin is None:
            self._parquet = False
            return
        if extents.covered_to(source, begin) < size:
            return
        layout = parse_layout(extents.read(source, begin, size, fetch=(begin, size), owner=self))
        if layout is None:
            self._parquet = False
            return
        source.layout = layout
        with self._lock:
            self._plan = ParquetPlan(layout, self._visit.columns)

    def close(self) -> None:
        """Cancel what was fetched ahead."""
        if not self._closed:
            self._closed = True
            self._extents.detach(self._source, self)

    def close_soon(self) -> None:
        """Close without waiting for a lock, for finalizers."""
        defer(self.close)
