"""One remote file read by ranges: answers checked, failures retried, refused ranges made up for."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from hf_haul.cancellation import CancelToken, SilenceLimits
from hf_haul.config import KiB, MiB, Settings
from hf_haul.digests import new_hash
from hf_haul.errors import (
    ConnectionFailedError,
    IntegrityError,
    RangeRefusedError,
    RetriesExhaustedError,
    SourceChangedError,
    StalledError,
    TransferError,
    add_note,
)
from hf_haul.finalizers import meanwhile, when_gone
from hf_haul.forks import renew_after_fork, renew_locks_of
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SMALL_FILE, SourceHistory
from hf_haul.ranges import ByteRange
from hf_haul.reading.disk_copy import DiskCopy
from hf_haul.reading.link import Link
from hf_haul.task import RemoteFile, bears_out
from hf_haul.transports.base import Body, Transport
from hf_haul.transports.file_facts import first_answer
from hf_haul.transports.retry import ChangeRetries, Trickle, is_retryable, retrying
from hf_haul.urls import source_of
from hf_haul.waits import Waits, unattended

__all__ = ["Checksum", "RangeSource", "learn_size"]

renew_locks_of("tempfile")  # held while a thread looks for the folder of temporary files

#: Refused ranges after which a source is taken to do none, and its file is fetched in one stream.
_REFUSALS: Final = 2
#: Bytes of a whole file that are kept in memory; a larger one goes to a temporary file.
_IN_MEMORY: Final = 1 * MiB
#: Seconds between two looks at a cancel token while another thread fetches the whole file.
_LOOK_SECONDS: Final = 0.1
#: Bytes at the beginning of a body that say nothing of a connection's speed, because they come at once, and
#: bytes after these that do.
_BURST: Final = 256 * KiB
_TELLING: Final = 128 * KiB


class Checksum:
    """The running digest of a whole file, compared with the announced one, if there is one."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        algorithms: tuple[str, ...] = () if remote.digest is None else (remote.digest.algorithm,)
        if algorithms and remote.digest_is_etag:
            algorithms = ("sha256", "git-sha1", "sha1")
        self._hashes = {each: new_hash(each, remote.size or 0) for each in algorithms}

    def update(self, data: bytes | memoryview) -> None:
        """Add the next bytes."""
        for each in self._hashes.values():
            each.update(data)

    def check(self) -> None:
        """Compare the digests.

        Raises:
            IntegrityError: The bytes are not the file's.
        """
        digest = self._remote.digest
        if digest is None:
            return
        actual = self._hashes[digest.algorithm].hexdigest()
        if actual != digest.value and not bears_out(
            self._remote, lambda algorithm: self._hashes[algorithm].hexdigest()
        ):
            raise IntegrityError(self._remote.path, digest.value, actual)


def learn_size(
    remote: RemoteFile,
    open_transport: Callable[[RemoteFile], Transport],
    settings: Settings,
    history: SourceHistory,
    waits: Waits = unattended,
) -> int:
    """Request the smallest range of a file to learn its size; return bytes.

    Raises:
        TransferError: It cannot be asked, or does not say.
    """
    body = first_answer(open_transport(remote).open, remote, settings, history, CancelToken(waits))
    size = body.total
    if size is None:
        raise TransferError(
            f"{remote.path}: {source_of(remote.url)} does not report its size, and so it cannot be read by ranges; download it instead."
        )
    return size


class _PendingFill:
    """A buffer that is being filled.

    Attributes:
        cancel_token: What its requests are made with; its own, because what it says of waits is of one
            thread.
        unanswered: Requests in a row that were given up before an answer came.
    """

    def __init__(self, start: int, view: memoryview, waits: Waits) -> None:
        self.start = start
        self.view = view
        self.done = 0
        self.cancel_token = CancelToken(waits)
        self.unanswered = 0
        self.change_retries = ChangeRetries()
        self.trickle = Trickle()

    @property
    def missing(self) -> ByteRange:
        return ByteRange(self.start + self.done, self.start + len(self.view))


def _bytes_of(fill: _PendingFill) -> str:
    return f"bytes {fill.start}-{fill.start + len(fill.view) - 1}"


class _WholeFile:
    """A copy of a whole file, in memory or in a temporary file, read by any number of threads at once.

    Locking: ``_seeking`` is only held where the system cannot read at an offset.
    """

    def __init__(self, size: int) -> None:
        self._seeking = threading.Lock()
        self._bytes: memoryview | None = None
        self._file: IO[bytes] | None = None
        if size <= _IN_MEMORY:
            self._bytes = memoryview(bytearray(size))
        else:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  kept open for later reads
            when_gone(self, self._file.close)

    def write(self, at: int, data: memoryview) -> None:
        """Write the next bytes."""
        if self._bytes is not None:
            self._bytes[at : at + len(data)] = data
        while self._file is not None and len(data):
            data = data[self._file.write(data) :]

    def read_into(self, at: int, view: memoryview) -> None:
        """Fill ``view`` from offset ``at``."""
        if self._bytes is not None:
            view[:] = self._bytes[at : at + len(view)]
        while self._file is not None and len(view):
            got = self._read_some(self._file, at, view)
            if not got:
                raise OSError("a temporary file was cut short")
            at, view = at + got, view[got:]

    def _read_some(self, file: IO[bytes], at: int, view: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(file.fileno(), [view], at)
        with self._seeking:  # pragma: no cover - Windows
            file.seek(at)
            data = file.read(len(view))
        view[: len(data)] = data  # pragma: no cover - Windows
        return len(data)  # pragma: no cover - Windows

    def close(self) -> None:
        """Discard the copy, unless it is complete."""
        if self._file is not None:
            self._file.close()


class RangeSource:
    """Reads any range of one file, from any thread, and again in a forked child.

    A source that answers a range with something else is asked again; one that keeps doing so is fetched in
    one stream, checked against its digest, and served from there. Bytes are never taken for others than they
    are.

    Locking: ``_lock`` guards the attributes below it. It is never held during a request.

    Attributes:
        layout: What was learned of a parquet file, for those who open it again.

    Args:
        remote: The file; its size must be known.
        open_transport: Gives a transport for it. Called again in a forked child.
        settings: Retries and timeouts.
        limiter: The bandwidth limit.
        history: Measured speeds; filled and used.
        waits: Where it is reported what is waited for.
        disk: What of the file is on disk, if that is to be used and added to.
    """

    def __init__(
        self,
        remote: RemoteFile,
        open_transport: Callable[[RemoteFile], Transport],
        settings: Settings,
        limiter: BandwidthLimiter,
        history: SourceHistory,
        *,
        disk: DiskCopy | None = None,
        clock: Callable[[], float] = time.monotonic,
        waits: Waits = unattended,
    ) -> None:
        if remote.size is None:
            raise ValueError(f"{remote.path}: its size is unknown")
        self.remote = remote
        self.size = remote.size
        self.origin = source_of(remote.url)
        self._open_transport = open_transport
        self._settings = settings
        self._limiter = limiter
        self._history = history
        self._disk = disk
        self._clock = clock
        self._waits = waits
        self._large = remote.size > SMALL_FILE
        # Large files often come from another place, which may be as near as the Hub is far.
        self._speed_of = f"{self.origin} (large files)" if self._large else self.origin
        self.layout: Any = None
        self._whole: _WholeFile | None = None  # set once it is complete, so a child may go on with it
        self._reset()
        renew_after_fork(self, RangeSource._reset)

    def _reset(self) -> None:
        """Start with fresh locks and connections."""
        self._lock = threading.Lock()
        self._transport_: Transport | None = None
        self._refusals = 0
        self._fetching: threading.Event | None = None  # set when the whole file is here, or cannot be had

    @property
    def link(self) -> Link:
        """What files of this size have shown of the way to their source."""
        return Link(
            self._history.connection_speed(self._speed_of),
            self._history.first_byte_seconds(self.origin, large=self._large),
            self._settings.timings.slow_answer,
        )

    def fill(self, start: int, view: memoryview, cancel_token: CancelToken) -> None:
        """Read ``len(view)`` bytes from offset ``start`` into ``view``, all of them or raise.

        Raises:
            TransferError: They cannot be had.
            StopRequestedError: The read was called off.
        """
        if not len(view):
            return
        if self._disk is not None:
            self._disk.fill(start, view, lambda at, part: self._fetch(at, part, cancel_token))
        else:
            self._fetch(start, view, cancel_token)

    def leave_disk(self) -> None:
        """Read from the source from now on: what is on disk is not what it should be."""
        if self._disk is not None:
            self._disk.leave()

    def _fetch(self, start: int, view: memoryview, cancel_token: CancelToken) -> None:
        fill = _PendingFill(start, view, self._waits)
        with meanwhile(), cancel_token.waking(fill.cancel_token.set), self._naming_range(fill):
            try:
                self._attempt(fill, fresh=False)
            except TransferError as error:
                if not is_retryable(error):
                    raise
                self._retry(fill, error)

    @contextmanager
    def _naming_range(self, fill: _PendingFill) -> Iterator[None]:
        """Note on an error that does not say by itself which bytes were asked for."""
        try:
            yield
        except RetriesExhaustedError:
            raise
        except TransferError as error:
            add_note(error, f"{self.remote.path}: {_bytes_of(fill)} were asked for.")
            raise

    def _retry(self, fill: _PendingFill, first: TransferError) -> None:
        pending: TransferError | None = first
        del first  # or the error's traceback, whose frames hold this one, would be held by it in turn
        attempts = 0

        def attempt() -> None:
            nonlocal pending, attempts
            if pending is not None:
                error, pending = pending, None
                try:
                    raise error
                finally:
                    del error
            attempts += 1
            # A pooled connection that fails twice in a row may be what is broken: try outside the pool.
            self._attempt(fill, fresh=attempts % 2 == 0)

        retrying(
            cancel_token=fill.cancel_token,
            progress=lambda: fill.done,
            settings=self._settings,
            on_retry=lambda _error, _seconds: None,
            clock=self._clock,
            server_wait=lambda: fill.cancel_token.server_wait,
            subject=self.remote.path,
            part=_bytes_of(fill),
            source=self.origin,
        )(attempt)

    def _attempt(self, fill: _PendingFill, *, fresh: bool) -> None:
        fill.cancel_token.check()
        try:
            if self._refusals >= _REFUSALS:
                self._fill_from_whole(fill)
            else:
                self._fill_from_range(fill, fresh=fresh)
        except SourceChangedError as error:
            known = self.remote.etag is not None or self.remote.digest is not None
            error.retryable = fill.change_retries.allow(self._clock(), self._settings, known=known)
            raise

    def _fill_from_range(self, fill: _PendingFill, *, fresh: bool) -> None:
        want = fill.missing
        with self._opened(want, fill, fresh=fresh) as body:
            if body.range is None or body.range.start != want.start or body.range.stop < want.stop:
                raise self._refused(
                    RangeRefusedError(f"{self.remote.path}: asked for {want.header}, got {body.range}")
                )
            burst, began = self._burst(len(fill.view) - fill.done), 0.0
            while fill.done < len(fill.view):
                if burst:
                    got = self._read(body, fill.view[fill.done : fill.done + burst], fill)
                    burst, began = burst - got, self._clock()
                else:
                    got = self._read(body, fill.view[fill.done :], fill)
                fill.done += got
            self._note_speed(len(want), self._clock() - began)

    def _read(self, body: Body, view: memoryview, fill: _PendingFill) -> int:
        quantum = self._limiter.quantum
        began, got = self._clock(), 0
        try:
            got = body.readinto(view[: self._settings.chunk_size if quantum is None else quantum])
        finally:
            fill.trickle.note(self._clock() - began, got)
        fill.cancel_token.check()
        fill.trickle.check(self.remote.path, self.origin)
        if not got:
            raise ConnectionFailedError(f"{self.remote.path}: the body ended early")
        self._limiter.wait(got, fill.cancel_token)
        return got

    @staticmethod
    def _burst(nbytes: int) -> int:
        """Return the bytes of a body to be read before its speed is measured; 0 if it will not be."""
        return _BURST if nbytes >= _BURST + _TELLING else 0

    def _note_speed(self, nbytes: int, seconds: float) -> None:
        """Record how long a body took once its burst was read."""
        if self._burst(nbytes):
            self._history.read(self._speed_of, nbytes - _BURST, seconds)

    @contextmanager
    def _opened(self, want: ByteRange | None, fill: _PendingFill, *, fresh: bool) -> Iterator[Body]:
        cancel_token = fill.cancel_token
        cancel_token.silence_limits = SilenceLimits(
            self._history.answer_timeout(self.origin, self._settings, fill.unanswered, large=self._large),
            self._settings.stall_timeout,
        )
        began = self._clock()
        cancel_token.asks()
        try:
            body = self._transport.open(want, cancel_token, fresh=fresh)
        except RangeRefusedError as error:
            raise self._refused(error)  # noqa: B904  the same error
        except StalledError:
            fill.unanswered += 1
            raise
        fill.unanswered = 0
        seconds = self._clock() - max(began, cancel_token.dequeued_at)
        self._history.first_byte(self.origin, max(seconds, cancel_token.slowest_hop), large=self._large)
        try:
            yield body
        finally:
            body.close()

    def _refused(self, error: RangeRefusedError) -> RangeRefusedError:
        """Count a refused range. The next attempt asks again, or uses the whole file."""
        with self._lock:
            self._refusals += 1
        error.retryable = True
        return error

    @property
    def _transport(self) -> Transport:
        with self._lock:
            if self._transport_ is None:
                self._transport_ = self._open_transport(self.remote)
            return self._transport_

    # ---- sources that do no ranges

    def _fill_from_whole(self, fill: _PendingFill) -> None:
        self._whole_file(fill).read_into(fill.start, fill.view)
        fill.done = len(fill.view)

    def _whole_file(self, fill: _PendingFill) -> _WholeFile:
        """Return the whole file, fetched by one thread while the others wait."""
        while True:
            with self._lock:
                if self._whole is not None:
                    return self._whole
                others = self._fetching
                if others is None:
                    fetched = self._fetching = threading.Event()
                    break
            while not others.wait(_LOOK_SECONDS):
                fill.cancel_token.check()
        try:
            self._whole = self._fetch_whole(fill)
            return self._whole
        finally:
            with self._lock:
                self._fetching = None
            fetched.set()

    def _fetch_whole(self, fill: _PendingFill) -> _WholeFile:
        whole = _WholeFile(self.size)
        checksum = Checksum(self.remote)
        buffer = memoryview(bytearray(min(self._settings.chunk_size, max(1, self.size))))
        try:
            with self._opened(None, fill, fresh=False) as body:
                at = 0
                while at < self.size:
                    got = self._read(body, buffer[: self.size - at], fill)
                    whole.write(at, buffer[:got])
                    checksum.update(buffer[:got])
                    at += got
            checksum.check()
        except BaseException:
            whole.close()
            raise
        return whole
