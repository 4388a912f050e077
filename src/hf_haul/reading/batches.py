"""Ranges that are read together: neighbours that are joined, parts they are cut into, and parts under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.config import KiB, MiB
from hf_haul.reading.buffer import Buffer
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.read_threads import DEMAND, Job, ReadThreads

__all__ = [
    "PendingSpan",
    "RangeRequest",
    "ReadBatch",
    "Span",
    "call_off_all",
    "merge_requests",
    "split",
    "stop_all",
]

#: Ranges are merged up to this many bytes, and parts of a read are not larger than twice that, unless their
#: source is slow.
_MERGED: Final = 8 * MiB
#: Parts below which a read is not divided. Two or three save a fraction of the time to an answer, and cost as
#: many requests more: an array of 256 chunks of 256 KiB takes 5.9 s in one request each, 7.4 s in two
#: (bench_reads, zarr-all).
_WORTH_DIVIDING: Final = 4
#: Bytes between two ranges that are rather fetched than asked around, at the most.
_GAP: Final = 64 * KiB


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """A range of a file to be read, from ``start`` up to ``stop``, inside the file."""

    source: RangeSource
    start: int
    stop: int

    @property
    def whole(self) -> bool:
        """Whether it is the whole file, whose digest can be checked."""
        return self.start == 0 and self.stop == self.source.size


@dataclass(slots=True)
class Span:
    """Neighbouring ranges of one file that are fetched together."""

    source: RangeSource
    start: int
    stop: int
    indexes: list[int]


class ReadBatch:
    """Parts that are fetched at once; if one fails, all have failed."""

    def __init__(self, threads: ReadThreads) -> None:
        self.cancel_token = CancelToken()
        self._threads = threads
        self._jobs: list[Job] = []
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, source: RangeSource, start: int, view: memoryview) -> None:
        """Add a part that fills ``view``, which is released then."""

        def work() -> None:
            try:
                with view:
                    source.fill(start, view, self.cancel_token)
            except Exception as error:
                if self._error is None:
                    self._error = error
                self.cancel_token.set()
                raise

        job = Job(work, sending=source.link.sending(len(view)))
        self._jobs.append(job)
        self._threads.submit(DEMAND, job)

    def wait(self, index: int) -> None:
        """Wait for one part; raise the first failure of any part."""
        job = self._jobs[index]
        self._threads.join(job)
        try:
            job.result()
        except Exception as error:
            if self._error is None or self._error is error:
                raise
            raise self._error from self._error.__cause__  # this part was only called off

    def stop(self) -> None:
        """Start no more parts, and cancel those under way."""
        self.cancel_token.set()
        for job in self._jobs:
            job.cancel()

    def call_off(self) -> None:
        """Stop, and wait until no thread uses the buffers any more."""
        self.stop()
        for job in self._jobs:
            self._threads.join(job)


class PendingSpan:
    """A span, and the parts in which it is fetched."""

    def __init__(self, span: Span, parts: list[tuple[int, int]], threads: ReadThreads) -> None:
        self.span = span
        self.parts = parts
        self.buffer = Buffer(span.stop - span.start)
        self.batch = ReadBatch(threads)

    def start(self) -> None:
        """Start to fetch all parts."""
        for start, stop in self.parts:
            self.batch.add(self.span.source, start, self.view(start, stop))

    def wait(self, index: int) -> memoryview:
        """Return one part once it has come; fetch it in this thread if nothing was started."""
        start, stop = self.parts[index]
        if len(self.batch):
            self.batch.wait(index)
        else:
            self.span.source.fill(start, self.view(start, stop), self.batch.cancel_token)
        return self.view(start, stop)

    def view(self, start: int, stop: int) -> memoryview:
        """Return the part of the buffer for these bytes of the file."""
        return self.buffer.view[start - self.span.start : stop - self.span.start]


def split(start: int, stop: int, part: int, lanes: int) -> list[tuple[int, int]]:
    """Cut a read into parts to be fetched at once.

    A part is worth a request of its own (``part`` bytes at the least), and there are about two for each
    connection that sends, so that a slow one holds up little. Where a request is worth more than that, there
    are fewer.
    """
    nbytes = stop - start
    if nbytes < _WORTH_DIVIDING * part or lanes < 2:
        return [(start, stop)]
    step = max(part, min(-(-nbytes // (2 * lanes)), 2 * _MERGED))
    return [(at, min(at + step, stop)) for at in range(start, stop, step)]


def stop_all(batches: Sequence[ReadBatch]) -> None:
    """Stop several batches, without waiting."""
    for batch in batches:
        batch.stop()


def call_off_all(batches: Sequence[ReadBatch]) -> None:
    """Stop several batches, and wait until no thread uses their buffers any more."""
    stop_all(batches)
    for batch in batches:
        batch.call_off()


def merge_requests(wanted: Sequence[RangeRequest], max_gap: int | None) -> list[Span]:
    """Group ranges by file, and join those that are close together; empty ones are left out."""
    by_source: dict[RangeSource, list[int]] = {}
    for index, each in enumerate(wanted):
        if each.stop > each.start:
            by_source.setdefault(each.source, []).append(index)
    spans: list[Span] = []
    for source, indexes in by_source.items():
        gap = min(source.link.unit // 4, _GAP) if max_gap is None else max_gap
        last: Span | None = None
        for index in sorted(indexes, key=lambda i: (wanted[i].start, wanted[i].stop)):
            each = wanted[index]
            if last is not None and _joins(last, each, gap):
                last.stop = max(last.stop, each.stop)
                last.indexes.append(index)
            else:
                last = Span(source, each.start, each.stop, [index])
                spans.append(last)
    return spans


def _joins(span: Span, each: RangeRequest, gap: int) -> bool:
    if each.stop <= span.stop:
        return True
    return each.start <= span.stop + gap and each.stop - span.start <= _MERGED
