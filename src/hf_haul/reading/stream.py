"""Bytes of one file in order, with the next blocks being fetched."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from hf_haul.finalizers import defer
from hf_haul.reading.batches import Buffer, ReadBatch, stop_all
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.read_threads import ReadThreads

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["Stream"]


class Stream:
    """Bytes of one file in order, a block at a time, the next ones being fetched. For one thread at a time.

    No generator: the collector would run its ``finally`` wherever it finds it.

    Args:
        threads: Fetch the blocks.
        source: The file.
        starts: Where blocks begin.
        stop: Where the last one ends.
        ahead: Blocks under way at once.
    """

    def __init__(
        self, threads: ReadThreads, source: RangeSource, starts: range, stop: int, ahead: int
    ) -> None:
        self._threads = threads
        self._source = source
        self._blocks = iter([(at, min(at + starts.step, stop)) for at in starts])
        self._ahead = ahead
        self._pending: list[tuple[Buffer, ReadBatch]] = []
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._closed:
            raise StopIteration
        try:
            return self._next()
        except BaseException:
            self.close()
            raise

    def _next(self) -> bytes:
        for a, b in itertools.islice(self._blocks, self._ahead - len(self._pending)):
            buffer, batch = Buffer(b - a), ReadBatch(self._threads)
            self._pending.append((buffer, batch))
            batch.add(self._source, a, buffer.view)
        if not self._pending:
            raise StopIteration
        buffer, batch = self._pending[0]
        batch.wait(0)
        del self._pending[0]
        return buffer.take()

    def close(self) -> None:
        """Cancel what is under way, soon; waits for nothing, since finalizers call it."""
        pending, self._pending, self._closed = self._pending, [], True
        if pending:
            defer(lambda: stop_all([batch for _, batch in pending]))

    def forget(self) -> None:
        """Drop what is under way untouched: in a forked child it is the parent's."""
        self._pending, self._closed = [], True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
