"""Fetching one part: bytes from a transport, through the limiter, to their offset on disk.

No decision about which part or how many is taken here; see ``scheduler``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, NoReturn, TypeVar

from hf_haul.config import KiB, MiB, Settings
from hf_haul.descriptors import descriptors
from hf_haul.engine.transfer import Part
from hf_haul.engine.verifier import Verifier
from hf_haul.errors import (
    ConnectionFailedError,
    LinkExpiredError,
    RangeRefusedError,
    SourceChangedError,
    StalledError,
    StopRequestedError,
    TransferError,
    WrongBytesError,
)
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SMALL_FILE, SourceHistory
from hf_haul.ranges import ByteRange
from hf_haul.storage.staged_file import StagedFile
from hf_haul.transports.base import Body
from hf_haul.transports.retry import is_retryable, retrying, stall_hint

__all__ = ["PartFetcher"]

T = TypeVar("T")

#: Bytes that may be on disk without a record in the journal; a kill costs at most these and one read.
_UNRECORDED_BYTES: Final = 512 * KiB
#: Seconds for which they may be.
_UNRECORDED_SECONDS: Final = 1.0
#: Times a range is asked for again after a refusal: one broken node of a CDN is no reason to fetch all of a
#: file in a single stream.
_REFUSALS: Final = 2


#: Bytes at the front of a file that may be on disk without being hashed: a sixth of a second of hashing, so
#: that connections seldom wait for what the digest catches up by itself.
_MOST_UNHASHED: Final = 256 * MiB
#: Bytes that a core hashes in a second, and the seconds that are worth waiting for it.
_HASHED_BPS: Final = 1.5e9
_LEAST_WAIT: Final = 0.002


class PartFetcher:
    """Fetches parts, one at a time per thread; shared by all workers.

    Args:
        settings: Read sizes, retries and timeouts.
        limiter: The bandwidth limit.
        history: Measured speeds per source.
        on_bytes: Told of every read: the part, and the number of bytes.
        on_retry: Told of every attempt that failed and will be repeated.
        on_backing_off: Told when a part begins or ends to wait for its next attempt; ``part.backing_off``
            says which.
        on_whole_file: Asked when a source answers a range with the whole file: the part now covers it all.
        on_limited: Told of seconds spent in the limiter.
        is_failing: Whether a source has just failed in the same way for another file as long as is bearable:
            then one attempt must do.
        has_alternative: Whether another source may be asked for a part: then nothing is tried again here.
    """

    def __init__(
        self,
        settings: Settings,
        limiter: BandwidthLimiter,
        history: SourceHistory,
        *,
        on_bytes: Callable[[Part, int], None],
        on_retry: Callable[[Part, BaseException], None],
        on_backing_off: Callable[[Part], None],
        on_whole_file: Callable[[Part], None],
        on_limited: Callable[[Part, float], None],
        is_failing: Callable[[str, BaseException | None], bool] = lambda _source, _error: False,
        has_alternative: Callable[[Part], bool] = lambda _part: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._once = replace(settings, max_retries=0)
        self._limiter = limiter
        self._history = history
        self._on_bytes = on_bytes
        self._on_retry = on_retry
        self._on_backing_off = on_backing_off
        self._on_whole_file = on_whole_file
        self._on_limited = on_limited
        self._is_failing = is_failing
        self._has_alternative = has_alternative
        self._clock = clock
        self._local = threading.local()

    def fetch(self, part: Part) -> None:
        """Fetch a part to its end, trying again what can be tried again.

        Returns when the part is done, or was preempted; ``part.position`` says how far it came, and
        every byte before it is on disk and in the journal.

        Raises:
            StopRequestedError: The part was stopped.
            TransferError: It cannot be fetched.
            StagedLostError: Another process has the staged file.
            OSError: The disk refuses.
        """
        descriptors.measure()
        part.cancel_token.holds = 1
        began, received = self._clock(), part.received
        try:
            self._attempt(part, fresh=False)
        except TransferError as error:
            if not is_retryable(error):
                raise
            part.gave_way = not isinstance(error, LinkExpiredError) and self._has_alternative(part)
            if part.gave_way:
                raise
            # A part may take longer than is bearable without a byte; what counts is when the bytes stopped.
            self._retry(part, error, began if part.received == received else None)

    def learn_size(self, part: Part) -> int | None:
        """Ask a source how long its file is, with the smallest of requests.

        Returns:
            Bytes; ``None`` if it does not say.

        Raises:
            StopRequestedError: The part was stopped.
            TransferError: The file cannot be had.
        """

        def ask() -> int | None:
            open_range = part.source.transport.open
            try:
                body = self._call(part, partial(open_range, ByteRange(0, 1), part.cancel_token))
            except RangeRefusedError:  # an empty file has no first byte
                body = self._call(part, partial(open_range, None, part.cancel_token))
            except SourceChangedError as error:
                self._raise_source_changed(part, error)
            body.close()
            return body.total

        return self._with_retries(part, ask)

    def fetch_unsized(self, part: Part, staged: StagedFile) -> int:
        """Fetch a file whose length its source does not say, in one stream; return its length in bytes.

        Raises:
            StopRequestedError: The part was stopped.
            TransferError: It cannot be fetched.
            OSError: The disk refuses.
        """
        buffer = self._buffer()

        def stream() -> int:
            staged.forget()
            part.position = 0
            body = self._call(part, partial(part.source.transport.open, None, part.cancel_token))
            part.note_answer()
            part.reading_since = self._clock()
            try:
                while True:
                    began = self._clock()
                    got = self._call(part, partial(body.readinto, buffer[: self._read_size(part)]))
                    self._note_trickle(part, self._clock() - began, got)
                    if not got:
                        return part.position
                    part.cancel_token.check()
                    staged.write(part.position, buffer[:got])
                    staged.record(part.position, part.position + got)
                    part.position += got
                    part.received += got
                    self._on_bytes(part, got)
                    self._limiter.wait(got, part.cancel_token)
            finally:
                part.reading_since = None
                body.close()

        return self._with_retries(part, stream)

    def _with_retries(
        self,
        part: Part,
        work: Callable[[], T],
        began: float | None = None,
        settings: Settings | None = None,
    ) -> T:
        furthest = 0

        def progress() -> int:
            # Not the bytes received: a stream that starts over and breaks at the same place gets nowhere.
            nonlocal furthest
            furthest = max(furthest, part.position)
            return furthest

        def back_off(error: BaseException, seconds: float) -> None:
            del seconds
            self._on_retry(part, error)
            part.backing_off = True
            self._on_backing_off(part)

        def wake() -> None:
            if part.backing_off:
                part.backing_off = False
                self._on_backing_off(part)

        def attempt() -> T:
            wake()
            return work()

        try:
            return retrying(
                cancel_token=part.cancel_token,
                progress=progress,
                settings=settings or self._budget(part, None),
                on_retry=back_off,
                clock=self._clock,
                server_wait=lambda: part.cancel_token.server_wait,
                subject=part.transfer.task.file_path,
                source=part.source.name,
                began=began,
            )(attempt)
        finally:
            wake()

    def _retry(self, part: Part, first: TransferError, began: float | None) -> None:
        """Go on after a first failure; only then are retries set up, as they cost time."""
        pending: TransferError | None = first
        settings = self._budget(part, first)
        del first  # or the error's traceback, whose frames hold this one, would be held by it in turn
        failures = 0

        def attempt() -> None:
            nonlocal pending, failures
            if pending is not None:
                error, pending = pending, None
                try:
                    raise error
                finally:
                    del error
            failures += 1
            # A pooled connection that fails twice in a row may be what is broken: try outside the pool.
            self._attempt(part, fresh=failures % 2 == 0)

        self._with_retries(part, attempt, began, settings)

    def _budget(self, part: Part, first: TransferError | None) -> Settings:
        """Return how often to try: once where the last file of the source failed for the same reason."""
        return self._once if self._is_failing(part.source.name, first) else self._settings

    def _attempt(self, part: Part, *, fresh: bool) -> None:
        part.cancel_token.check()
        transfer = part.transfer
        # What may be divided later is asked for as a range, to see whether the source does ranges.
        every = part.position == 0 and part.stop == transfer.size
        whole = transfer.mode == "whole" or (every and not part.oversized)
        if not whole and part.position >= part.stop:
            return  # what was left was given to another part
        want = None if whole else ByteRange(part.position, part.stop)
        if whole:
            part.position = 0
        began = self._clock()
        part.cancel_token.asks()
        try:
            open_range = part.source.transport.open
            body = self._call(part, partial(open_range, want, part.cancel_token, fresh=fresh))
        except RangeRefusedError as error:
            part.refusals += 1
            error.retryable = want is None or part.refusals <= _REFUSALS
            raise
        except SourceChangedError as error:
            self._raise_source_changed(part, error)
        seconds = self._clock() - max(began, part.cancel_token.dequeued_at)
        slowest = max(seconds, part.cancel_token.slowest_hop)
        self._history.first_byte(part.source.name, slowest, large=transfer.size > SMALL_FILE)
        part.note_answer()
        part.meter.restart()  # the wait for the answer says nothing about the speed of what follows
        try:
            if want is None and transfer.mode == "whole":
                self._forget(part, 0)
            self._check_version(part)
            longer = want is not None and body.range is not None and body.range.stop > want.stop
            if body.whole and want is not None and not part.source.is_origin:
                # All of the file from one that may not be believed, and nobody else asked for any of it.
                raise RangeRefusedError(f"{part.source.name} sent the whole file instead of {want.header}")
            if longer or (part.oversized and body.whole):
                self._on_whole_file(part)
            part.received_before, part.reading_since = part.received, self._clock()
            began_at = part.position
            try:
                self._read(part, body)
            except WrongBytesError:
                self._take_back(part, began_at)
                raise
        finally:
            part.reading_since = None
            body.close()

    @staticmethod
    def _forget(part: Part, start: int) -> None:
        """Move the part back to ``start``, and drop what came after it, on disk and in the digest."""
        part.position = start
        transfer = part.transfer
        if transfer.staged is None or transfer.staged.missing(start, part.stop) == [
            ByteRange(start, part.stop)
        ]:
            return
        transfer.staged.forget(None if start == 0 else [ByteRange(start, part.stop)])
        if transfer.verifier is not None:
            transfer.verifier.restart()

    @staticmethod
    def _take_back(part: Part, start: int) -> None:
        """Drop what a part has written from ``start`` on, on disk and in the digest."""
        span = ByteRange(start, max(start, part.position))
        part.position = start
        transfer = part.transfer
        if part.written is not None:
            part.written.discard(span.start, span.stop)
        if transfer.staged is not None and len(span):
            transfer.staged.forget([span])
        if transfer.verifier is not None:
            transfer.verifier.restart()

    def _check_version(self, part: Part) -> None:
        """Compare the source's version with the staged bytes', where no digest is checked at the end."""
        transfer = part.transfer
        if transfer.task.digest is not None or transfer.staged is None:
            return
        version = part.source.transport.version
        if version is not None and not transfer.staged.is_of_version(version):
            error = SourceChangedError(
                f"{transfer.task.file_path}: {part.source.name} serves another version ({version})"
            )
            self._raise_source_changed(part, error)

    def _raise_source_changed(self, part: Part, error: SourceChangedError) -> NoReturn:
        """Raise the error, either to be tried again or to be final."""
        known = part.transfer.task.digest is not None
        error.retryable = part.change_retries.allow(self._clock(), self._settings, known=known)
        raise error

    def _read(self, part: Part, body: Body) -> None:
        staged = part.transfer.staged
        verifier = part.transfer.verifier
        assert staged is not None
        buffer = self._buffer()
        recorded, recorded_at = part.position, self._clock()
        try:
            while not part.preempted and (want := part.next_read(self._read_size(part))):
                began = self._clock()
                got = self._call(part, partial(body.readinto, buffer[:want]))
                part.cancel_token.check()
                if not got:
                    raise ConnectionFailedError(
                        f"{part.transfer.task.file_path}: the body ended {part.remaining} bytes early"
                    )
                now = self._clock()
                self._history.read(part.source.name, got, now - began)
                self._note_trickle(part, now - began, got)
                added = staged.add(part.position, buffer[:got])
                if part.written is not None:
                    for each in added:
                        part.written.add(each.start, each.stop)
                part.position += got
                part.received += got
                self._on_bytes(part, got)
                if part.position - recorded >= _UNRECORDED_BYTES or now - recorded_at >= _UNRECORDED_SECONDS:
                    staged.record(recorded, part.position)
                    recorded, recorded_at = part.position, now
                    staged.require_ours(self._settings.timings.ownership)
                if part.source.is_limited:
                    self._keep_to_limit(part, got)
                if verifier is not None and verifier.catching_up:
                    self._let_digest_follow(part, staged, verifier)
        finally:
            if part.position > recorded:
                staged.record(recorded, part.position, last=part.position == part.transfer.size)
        if (
            body.total is None
            and part.stop == part.transfer.size
            and not part.preempted
            and self._goes_on(part, body, buffer)
        ):
            self._forget(part, part.start)  # what came is of another file
            error = SourceChangedError(
                f"{part.transfer.task.file_path}: the body is longer than {part.stop} bytes"
            )
            self._raise_source_changed(part, error)

    def _keep_to_limit(self, part: Part, nbytes: int) -> None:
        limited = self._limiter.wait(nbytes, part.cancel_token)
        if limited:
            self._on_limited(part, limited)

    def _goes_on(self, part: Part, body: Body, buffer: memoryview) -> bool:
        """Return whether a body of unknown length has more bytes.

        At its end, its connection can serve again.
        """
        try:
            return self._call(part, partial(body.readinto, buffer[:1])) > 0
        except ConnectionFailedError:  # it never ended properly; all that was to come is here
            return False

    def _let_digest_follow(self, part: Part, staged: StagedFile, verifier: Verifier) -> None:
        """Wait while the digest is far behind what could be hashed.

        It takes one core, and gets less of it where many connections share few cores. What they gain is lost
        after the last byte, when the digest is alone; and their speed would say that there should be so many
        of them.
        """
        while verifier.catching_up and not part.preempted:
            behind = staged.frontier() - verifier.position
            if behind <= _MOST_UNHASHED:
                break
            with part.cancel_token.queueing():  # nobody helps by fetching half of it
                stopped = part.cancel_token.wait(_LEAST_WAIT + (behind - _MOST_UNHASHED) / _HASHED_BPS)
            if stopped:
                raise StopRequestedError

    def _call(self, part: Part, work: Callable[[], T]) -> T:
        """Let the watchdog watch a call; if it broke the connection, the error says so."""
        part.begin_call(self._clock())
        try:
            return work()
        except ConnectionFailedError as error:
            if part.cancel_token.is_set():
                raise
            if part.reading_since is not None and part.busy_since is not None:
                self._note_trickle(part, self._clock() - part.busy_since, 0)
            why = part.abandoned_body
            if why is None:
                raise
            hint = stall_hint(answered=part.reading_since is not None) if "no byte" in why else ""
            stalled = StalledError(f"{error.host or part.source.name}: {why}{hint}")
            stalled.host = error.host
            raise stalled from error
        finally:
            part.busy_since = None

    @staticmethod
    def _note_trickle(part: Part, seconds: float, nbytes: int) -> None:
        part.trickle.note(seconds, nbytes)
        part.trickle.check(part.transfer.task.file_path, part.source.name)

    def _read_size(self, part: Part) -> int:
        size = self._settings.chunk_size
        if self._settings.enable_adaptive_chunking:
            size = self._history.read_size(part.source.name, self._settings, part.transfer.task.size)
        quantum = self._limiter.quantum if part.source.is_limited else None
        return size if quantum is None else min(size, quantum)

    @property
    def _buffer_size(self) -> int:
        return max(self._settings.chunk_size, MiB)

    def _buffer(self) -> memoryview:
        """Return this thread's buffer, used for all its parts."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(self._buffer_size))
        return buffer
