"""Reading into memory over several connections: threads, parts, vectored reads."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Final

from hf_haul.cancellation import CancelToken
from hf_haul.config import KiB, MiB, Settings
from hf_haul.errors import HaltedError, IntegrityError
from hf_haul.finalizers import attend, defer
from hf_haul.forks import renew_after_fork
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SourceHistory
from hf_haul.reading.range_source import Checksum, RangeSource, learn_size
from hf_haul.task import RemoteFile
from hf_haul.threads import ThreadGroup
from hf_haul.transports.base import Transport
from hf_haul.transports.stallguard import StallGuard

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = ["DEMAND", "READ_AHEAD", "Buffer", "Job", "RangeRequest", "ReadThreads", "Reads", "Stream", "split"]

logger = logging.getLogger(__name__)

#: Urgency of a read that somebody waits for, and of one that somebody may want soon.
DEMAND: Final = 0
READ_AHEAD: Final = 2

#: Connections that one process reads over at once, if its settings allow as many.
_CONNECTIONS: Final = 16
#: Sources that are remembered with their resolved URLs when nobody uses them any more.
_RECENT: Final = 64
#: Ranges are merged up to this many bytes, and parts of a read are not larger than twice that.
_MERGED: Final = 8 * MiB
#: Bytes that a stream keeps in flight.
_STREAM_WINDOW: Final = 64 * MiB
#: Parts are not smaller than this many bytes: below it, what a request costs this machine counts more than the link.
_SMALLEST_PART: Final = 256 * KiB
_IDLE_SECONDS: Final = 5.0
#: Seconds before what failed for want of memory is tried again.
_SHORTAGE_SECONDS: Final = 0.05
#: Seconds between two looks whether somebody does what is waited for.
_LOOK_SECONDS: Final = 1.0
#: Bytes between two ranges that are rather fetched than asked around, at the most.
_GAP: Final = 64 * KiB


class Job(Future[None]):
    """A future that knows how it comes true.

    Args:
        work: What is to be done, once; ``None`` if it is done already.
    """

    def __init__(self, work: Callable[[], None] | None) -> None:
        super().__init__()
        # Emptied by whoever does it, in a single operation: its reader and a thread may both be about to. It holds
        # buffers, too, that somebody may be done with before the future is.
        self._work = [] if work is None else [work]
        if work is None:
            self.set_result(None)

    @property
    def taken(self) -> bool:
        """Whether somebody does it, or it was done or cancelled."""
        return not self._work

    def run(self) -> None:
        """Do it in this thread, unless somebody else has begun to, or it was cancelled."""
        try:
            work = self._work.pop()
        except IndexError:
            return
        try:
            if not self.set_running_or_notify_cancel():
                return
            work()
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits
            self._end(error)
        except BaseException:
            # Ctrl+C reached this thread: it is this thread's to raise, and no other's.
            self._end(HaltedError("interrupted"))
            raise
        else:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        while not self.done():
            try:
                self.set_result(None) if error is None else self.set_exception(error)
            except Exception:  # who waits must learn of it all the same
                logger.warning("the end of a read could not be told", exc_info=True)
                time.sleep(_SHORTAGE_SECONDS)

    def cancel(self) -> bool:
        """Take it back, if nobody has begun; returns whether it will never be done."""
        cancelled = super().cancel()
        if cancelled:
            self._work.clear()
        return cancelled


class ReadThreads:
    """A few threads that work off reads, the most urgent first.

    Threads start when they are needed and end when idle. They are daemons: a reader that nobody waits for must not
    keep a program from ending. Where the system gives no thread, whoever waits for a job does it.

    Locking: ``_lock`` guards ``_heap``; it is a leaf.

    Args:
        limit: Threads at once, at the most.
        idle_seconds: Seconds without work after which a thread ends.
    """

    def __init__(self, limit: int, *, idle_seconds: float = _IDLE_SECONDS) -> None:
        self.limit = limit
        self._numbers = itertools.count()
        self._group = ThreadGroup("hf-haul-read", limit, self._take, idle_seconds=idle_seconds)
        self._start_empty()
        renew_after_fork(self, ReadThreads._start_empty)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._heap: list[tuple[int, int, Job]] = []

    def submit(self, priority: int, job: Job) -> bool:
        """Have a job done; the smaller ``priority``, the sooner. Its ``cancel`` takes it back in time.

        Returns:
            Whether there is a thread for it. If not, it is still to be done: :meth:`join` does it.
        """
        attend()
        with self._lock:
            heapq.heappush(self._heap, (priority, next(self._numbers), job))
        self._group.wake()
        if self._group.start():
            return True
        with self._lock:  # nobody else takes out what was done elsewhere
            self._heap = [each for each in self._heap if not each[2].taken]
            heapq.heapify(self._heap)
        return False

    def promote(self, job: Job, priority: int) -> None:
        """Do a submitted job sooner, if it has not begun."""
        if not job.taken:
            self.submit(priority, job)

    def join(self, job: Job) -> None:
        """Wait until a job is done or cancelled; one that no thread will do is done here."""
        if not len(self._group):
            job.run()
        while True:
            try:
                job.exception(_LOOK_SECONDS)
            except FutureTimeoutError:
                # Not while all threads are busy: their turn comes. One that is idle has been passed over.
                if not job.taken and (self._group.idle or not len(self._group)):
                    job.run()
                continue
            except CancelledError:
                pass
            return

    def _take(self) -> Callable[[], None] | None:
        with self._lock:
            while self._heap:
                job = heapq.heappop(self._heap)[2]
                if not job.taken:
                    return job.run
            return None


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


class Buffer:
    """Bytes to be filled in by several threads and then handed out, once.

    BytesIO would save the copy at the end. But when the collector finds a view of one in a cycle, as a failed read leaves
    it, Python 3.12.1 crashes (python/cpython#111049) and 3.13 complains aloud (python/cpython#111331).

    Attributes:
        view: Where to write; until :meth:`take`.
    """

    def __init__(self, nbytes: int) -> None:
        self._bytes = bytearray(nbytes)
        self.view = memoryview(self._bytes)

    def take(self) -> bytes:
        """The bytes."""
        self.view.release()
        taken, self._bytes = bytes(self._bytes), bytearray()
        return taken


@dataclass(slots=True)
class Span:
    """Neighbouring ranges of one file that are fetched together."""

    source: RangeSource
    start: int
    stop: int
    indexes: list[int]


class ReadBatch:
    """Parts that are fetched at once, and of which one's failure is all's."""

    def __init__(self, threads: ReadThreads) -> None:
        self.cancel_token = CancelToken()
        self._threads = threads
        self._jobs: list[Job] = []
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, source: RangeSource, start: int, view: memoryview) -> None:
        """Fill ``view``, which is released then."""

        def work() -> None:
            try:
                with view:
                    source.fill(start, view, self.cancel_token)
            except Exception as error:
                if self._error is None:
                    self._error = error
                self.cancel_token.set()
                raise

        job = Job(work)
        self._jobs.append(job)
        self._threads.submit(DEMAND, job)

    def wait(self, index: int) -> None:
        """Wait for one part; raises what failed first, whichever part that was."""
        job = self._jobs[index]
        self._threads.join(job)
        try:
            job.result()
        except Exception as error:
            if self._error is None or self._error is error:
                raise
            raise self._error from self._error.__cause__  # this part was only called off

    def stop(self) -> None:
        """Begin nothing more, and break off what is under way."""
        self.cancel_token.set()
        for job in self._jobs:
            job.cancel()

    def call_off(self) -> None:
        """Stop, and wait until no thread touches the buffers any more."""
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
        """Begin to fetch all parts."""
        for start, stop in self.parts:
            self.batch.add(self.span.source, start, self.view(start, stop))

    def wait(self, index: int) -> memoryview:
        """One part, when it has come; fetched in this thread if nothing was started."""
        start, stop = self.parts[index]
        if len(self.batch):
            self.batch.wait(index)
        else:
            self.span.source.fill(start, self.view(start, stop), self.batch.cancel_token)
        return self.view(start, stop)

    def view(self, start: int, stop: int) -> memoryview:
        """The part of the buffer for these bytes of the file."""
        return self.buffer.view[start - self.span.start : stop - self.span.start]


def split(start: int, stop: int, unit: int, connections: int) -> list[tuple[int, int]]:
    """Cut a read into parts to be fetched at once.

    A part is worth a request of its own (``unit`` bytes at the least), and there are about two for each connection,
    so that a slow one holds up little.
    """
    nbytes = stop - start
    unit = max(unit, _SMALLEST_PART)
    if nbytes < 2 * unit or connections < 2:
        return [(start, stop)]
    step = min(max(unit, -(-nbytes // (2 * connections))), 2 * _MERGED)
    return [(at, min(at + step, stop)) for at in range(start, stop, step)]


#: URL, etag and token.
_Key = tuple[str, str | None, str | None]


class Reads:
    """Reads of any number of files, over one set of threads and connections.

    Args:
        open_transport: Gives a transport for a file.
        settings: Connections, retries and timeouts.
        limiter: The bandwidth limit.
    """

    def __init__(
        self,
        open_transport: Callable[[RemoteFile], Transport],
        settings: Settings,
        limiter: BandwidthLimiter,
    ) -> None:
        self.connections = min(_CONNECTIONS, settings.max_concurrent_downloads)
        self.threads = ReadThreads(self.connections)
        self._open_transport = open_transport
        self._settings = settings
        self._limiter = limiter
        self._history = SourceHistory()
        self._guard = StallGuard(settings.stall_timeout)
        self._sources: weakref.WeakValueDictionary[_Key, RangeSource] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[RangeSource, None] = OrderedDict()
        self._reset()
        renew_after_fork(self, Reads._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()  # guards _sources and _recent

    def source(self, remote: RemoteFile) -> RangeSource:
        """The one source of a file: whoever reads it shares its resolved URL.

        Raises:
            TransferError: Its size is unknown, and its source does not tell.
        """
        key = (remote.url, remote.etag, remote.headers.get("authorization"))
        with self._lock:
            source = self._sources.get(key)
        if source is None and not remote.size and not (remote.digest and remote.digest.is_of_nothing):
            # Nobody said how long it is, or somebody said 0, as some do who do not know.
            size = learn_size(remote, self._open_transport, self._settings, self._history, self._guard)
            remote = replace(remote, size=size)
        with self._lock:
            source = self._sources.get(key)
            if source is None:
                source = RangeSource(
                    remote, self._open_transport, self._settings, self._limiter, self._history, self._guard
                )
                self._sources[key] = source
            self._recent[source] = None
            self._recent.move_to_end(source)
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            return source

    def read(self, source: RangeSource, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``, over several connections if it pays.

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
        """Fill several buffers from their offsets, all at once and each in parts that pay.

        Raises:
            TransferError: The bytes cannot be had.
        """
        parts = [
            (a, view[a - start : b - start])
            for start, view in wanted
            for a, b in split(start, start + len(view), source.unit, self.connections)
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
        """Many ranges of many files at once; neighbours are fetched together, large ones in parts.

        Args:
            wanted: The ranges, in any order; they may overlap.
            max_gap: Bytes between two ranges of a file that are fetched rather than asked around; ``None`` for what
                suits the connection.
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
        """Wait for one span, and hand its ranges out."""
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
                data = self._refetch(span.source)
        for index in span.indexes:
            start, stop = wanted[index].start - span.start, wanted[index].stop - span.start
            results[index] = data if stop - start == len(data) else data[start:stop]

    def _refetch(self, source: RangeSource) -> bytes:
        """A whole file whose digest was wrong; a second time is an error."""
        buffer = Buffer(source.size)
        self.readinto(source, 0, buffer.view)
        checksum = Checksum(source.remote)
        checksum.update(buffer.view)
        checksum.check()
        return buffer.take()

    def stream(self, source: RangeSource, start: int, stop: int) -> Stream:
        """The bytes from ``start`` up to ``stop`` in order, a block at a time, with the next ones under way."""
        step = max(source.unit, MiB)
        ahead = max(1, min(self.connections, _STREAM_WINDOW // step))
        return Stream(self.threads, source, range(start, stop, step), stop, ahead)

    def _parts(self, span: Span) -> list[tuple[int, int]]:
        return split(span.start, span.stop, span.source.unit, self.connections)


class Stream:
    """Bytes of one file in order, a block at a time, with the next blocks under way. For one thread at a time.

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
        """Call off what is under way, soon; waits for nothing, since finalizers call it."""
        pending, self._pending, self._closed = self._pending, [], True
        if pending:
            defer(lambda: stop_all([batch for _, batch in pending]))

    def forget(self) -> None:
        """Let go of what is under way as it is: in a forked child it is the parent's."""
        self._pending, self._closed = [], True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def stop_all(batches: Sequence[ReadBatch]) -> None:
    for batch in batches:
        batch.stop()


def call_off_all(batches: Sequence[ReadBatch]) -> None:
    """Stop several batches, and wait until no thread touches their buffers any more."""
    stop_all(batches)
    for batch in batches:
        batch.call_off()


def merge_requests(wanted: Sequence[RangeRequest], max_gap: int | None) -> list[Span]:
    """Group ranges by file, and join those that are close enough; empty ones need nothing."""
    by_source: dict[RangeSource, list[int]] = {}
    for index, each in enumerate(wanted):
        if each.stop > each.start:
            by_source.setdefault(each.source, []).append(index)
    spans: list[Span] = []
    for source, indexes in by_source.items():
        gap = min(source.unit // 4, _GAP) if max_gap is None else max_gap
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
