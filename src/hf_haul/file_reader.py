"""Reading one open file: what is in memory already, what is fetched for it, what is fetched ahead."""

from __future__ import annotations

import threading

from hf_haul.extents import Extents
from hf_haul.ranged import RangeSource
from hf_haul.readahead import Advice, ReadAhead

__all__ = ["FileReader"]


class FileReader:
    """Positional reads of one open file, with read-ahead; safe for many threads.

    A whole file read at once is checked against its digest.

    Locking: ``_lock`` guards the policy.

    Args:
        source: The file.
        extents: Where bytes are kept, and fetched.
        ahead: Whether more may be fetched than is read.
    """

    def __init__(self, source: RangeSource, extents: Extents, *, ahead: bool = True) -> None:
        self._source = source
        self._extents = extents
        self._policy = ReadAhead(source.size) if ahead else None
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Start with a fresh lock."""
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``, which lie inside the file.

        Raises:
            TransferError: They cannot be had.
            IntegrityError: It is the whole file, and not what its source announced.
        """
        source, extents = self._source, self._extents
        if start == 0 and stop == source.size and extents.covered_to(source, 0) < stop:
            data = extents.reads.read(source, 0, stop)
            extents.put(source, data, owner=self)
            return data
        advice = self._prepare(start, stop)
        return extents.read(source, start, stop, fetch=(advice.start, advice.stop), owner=self)

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
        """Ask the policy, and send for what comes next before waiting for what is wanted now."""
        if self._policy is None:
            return Advice(start, stop)
        source, extents = self._source, self._extents
        here = extents.covered_to(source, start)
        with self._lock:
            advice = self._policy.advise(start, stop, source.unit)
            begin = here if here >= stop else advice.stop
            refill = begin < advice.ahead and begin - stop < advice.refill
            if refill:
                self._policy.followed(advice)
        if advice.jumped:
            extents.release(self, running=False)
        if refill:
            parts = -(-(advice.ahead - begin) // advice.part)  # whole ones: a small rest is a request too
            extents.prefetch(source, [(begin, begin + parts * advice.part)], part=advice.part, owner=self)
        return advice

    def close(self) -> None:
        """Call off what was fetched ahead."""
        self._extents.release(self, running=True)
