"""Open files of the Hub: positional, checked, safe for many threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from huggingface_hub import HfFileSystem, HfFileSystemFile
from huggingface_hub.hf_file_system import HfFileSystemStreamFile

from hf_haul.filesystem.lines import LineReader
from hf_haul.filesystem.target import Target
from hf_haul.finalizers import catch_up, defer
from hf_haul.forks import renew_after_fork
from hf_haul.reading.extents import Extents
from hf_haul.reading.file_reader import FileReader
from hf_haul.reading.range_source import RangeSource

__all__ = ["HaulFile", "HaulStreamFile"]

#: Bytes of a read that is worth a buffer of its own for pyarrow.
_LARGE: Final = 1024 * 1024
#: Names of caches that mean our own reading.
_OWN_CACHES: Final = frozenset({"haul", "none"})
#: Names of fsspec's caches that have threads of their own, which a forked child has not.
_THREADED_CACHES: Final = frozenset({"background", "adaptive"})
#: Caches that a forked child must not use, nor collect: they would wait for threads of the parent.
_lost_caches: Final[list[Any]] = []


class HaulFile(LineReader, HfFileSystemFile):
    """A file of the Hub opened for reading; safe for many threads.

    Each thread's ``seek`` is its own until its next read, so that threads that share the file and seek before
    each read get their own bytes; a thread that only reads goes on where the last read of any thread ended.

    Locking: ``_position`` guards ``loc`` and ``_shared_reads``; ``_caching`` is held while a foreign cache
    (fsspec's, which are not made for threads) works.
    """

    cache: Any  # ours, one of fsspec's, or whatever fsspec's ``blockcache`` put in its place

    def __init__(
        self,
        fs: HfFileSystem,
        target: Target,
        source: RangeSource,
        reader: Callable[[], FileReader],
        extents: Extents,
        *,
        cache_type: str = "haul",
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        catch_up()
        own = cache_type in _OWN_CACHES
        self._target = target
        self._source = source
        self._extents = extents
        self._position = threading.Lock()
        self._caching = threading.Lock()
        self._seeks = threading.local()
        self._shared_reads = 0
        self._start_lines()
        super().__init__(
            fs,
            target.name,
            mode="rb",
            size=source.size,
            cache_type="none" if own else cache_type,
            cache_options=None if own else cache_options,
            **kwargs,
        )
        # Of the commit that was opened, wherever the branch goes.
        self._details: Any = {**target.info, "size": source.size}
        self._reader = reader()
        if own:
            self.cache = _ReaderCache(self, cache_type)
        renew_after_fork(self, HaulFile._after_fork)

    def _after_fork(self) -> None:
        if self._caching.locked() or getattr(self.cache, "name", None) in _THREADED_CACHES:
            # What another thread was filling, or has threads that do not exist here, is of no use: ours is.
            _lost_caches.append(self.cache)
            self.cache = _ReaderCache(self, "haul")
        self._position = threading.Lock()
        self._caching = threading.Lock()

    # ---- position

    def tell(self) -> int:
        """Return the offset at which this thread's next read begins."""
        with self._position:
            return self._here()

    def _here(self) -> int:
        pending: tuple[int, int] | None = getattr(self._seeks, "pending", None)
        # Somebody has read on from the common position since: this thread's seek was meant for them.
        if pending is not None and pending[1] == self._shared_reads:
            return pending[0]
        return self._common_position()

    def seek(self, loc: int, whence: int = 0) -> int:
        """Set the offset of this thread's next read, from the start, the position (1) or the end (2)."""
        self._require_open()
        with self._position:
            self._end_lines()
            if whence not in {0, 1, 2}:
                raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
            at = int(loc) + (0, self._here(), self.size)[whence]
            if at < 0:
                raise ValueError("Seek before start of file")
            self._seeks.pending = (at, self._shared_reads)
            self.loc = at
            return at

    def _take(self, length: int) -> tuple[int, int]:
        """Move this thread's position past ``length`` bytes (all, if negative).

        Return their start and stop.
        """
        self._require_open()
        with self._position:
            self._end_lines()
            start = self._here()
            if getattr(self._seeks, "pending", None) is None:
                self._shared_reads += 1
            self._seeks.pending = None
            stop = self.size if length < 0 else min(start + length, self.size)
            stop = max(start, stop)
            self.loc = stop
            return start, stop

    def _give_back(self, start: int, stop: int) -> None:
        """Move the position back over what could not be read."""
        with self._position:
            self._end_lines()
            if self.loc == stop:
                self.loc = start

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")

    # ---- reading

    def pread(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` up to ``stop``, without moving the position."""
        self._require_open()
        start, stop, _ = slice(max(0, start), max(0, stop)).indices(self.size)
        if start >= stop:
            return b""
        if isinstance(self.cache, _ReaderCache):
            with self._target.explained():
                near = self._read_small(start, stop, self._reader)
                return self._reader.read(start, stop) if near is None else near
        with self._caching:
            return bytes(self.cache._fetch(start, stop))  # noqa: SLF001  fsspec's interface of caches

    def fetch(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` up to ``stop``, bypassing fsspec's caches."""
        with self._target.explained():
            return self._reader.read(start, stop)

    def fetch_into(self, start: int, view: memoryview) -> None:
        """Fill ``view`` from ``start``, bypassing fsspec's caches."""
        with self._target.explained():
            self._reader.read_into(start, view)

    def _fetch_range(self, start: int, end: int) -> bytes:
        # What fsspec's caches call; some of them past the end. They read ahead and keep bytes on their own.
        start, end, _ = slice(start, end).indices(self.size)
        with self._target.explained():
            return self._extents.reads.read(self._source, start, max(start, end))

    def read(self, length: int | None = -1) -> bytes:
        """Read from the position on.

        Args:
            length: Bytes; negative or ``None`` for all that is left.
        """
        start, stop = self._take(-1 if length is None else int(length))
        try:
            return self.pread(start, stop)
        except BaseException:
            self._give_back(start, stop)
            raise

    def read_buffer(self, nbytes: int = -1) -> memoryview:
        """Read like :meth:`read`; for pyarrow, which keeps the buffer without a copy."""
        nbytes = self.size if nbytes < 0 else nbytes
        if nbytes < _LARGE or nbytes >= self.size:  # a whole file is checked
            return memoryview(self.read(nbytes))
        view = memoryview(bytearray(nbytes))
        return view[: self.readinto(view)]

    def readinto(self, b: Any) -> int:
        """Fill a buffer from the position on; return how many bytes there were."""
        view = memoryview(b).cast("B")
        start, stop = self._take(len(view))
        try:
            if isinstance(self.cache, _ReaderCache):
                self.cache.readinto(start, view[: stop - start])
            else:
                view[: stop - start] = self.pread(start, stop)
        except BaseException:
            self._give_back(start, stop)
            raise
        return stop - start

    def close(self) -> None:
        """Cancel reads under way soon, without waiting: the garbage collector calls it, too."""
        if self.closed:
            return
        self._closed = True
        self._end_lines()
        cache, self.cache = self.cache, None
        if not isinstance(cache, _ReaderCache) and hasattr(cache, "close"):
            defer(cache.close)  # it may have threads, and wait for them
        self._reader.close_soon()

    def __del__(self) -> None:
        if hasattr(self, "_reader"):
            self.close()

    def url(self) -> str:
        """Return the HTTP URL of the file at its commit."""
        return self._target.remote.url

    def __reduce__(self) -> Any:
        name = getattr(self.cache, "name", "haul")
        where = (self._target.name, self._target.commit)
        return _reopen, (self.fs, where, self.mode, self.blocksize, self.tell(), name, self.kwargs)


class _ReaderCache:
    """Stands where fsspec expects a file's cache; the file's own reads do the work."""

    def __init__(self, file: HaulFile, name: str) -> None:
        self.name = name
        self.size = file.size
        self.blocksize = file.blocksize
        self._file = weakref.proxy(file)

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        a, b, _ = slice(start, stop).indices(self.size)
        return bytes(self._file.fetch(a, max(a, b)))

    def readinto(self, start: int, view: memoryview) -> None:
        self._file.fetch_into(start, view)

    def _log_stats(self) -> str:
        return ""

    def close(self) -> None:
        """Do nothing: this cache keeps nothing."""


class HaulStreamFile(LineReader, HfFileSystemStreamFile):
    """A file of the Hub opened to be read once from start to end, while the next bytes are being fetched."""

    loc: int

    def __init__(
        self,
        fs: HfFileSystem,
        target: Target,
        source: RangeSource,
        reader: Callable[[], FileReader],
        **kwargs: Any,
    ) -> None:
        catch_up()
        self._target = target
        self._source = source
        self._start_lines()
        super().__init__(fs, target.name, mode="rb", **kwargs)
        self.size = source.size
        self.details: Any = {**target.info, "size": source.size}
        self._reader = reader()

    def read(self, length: int | None = -1) -> bytes:
        """Read the next bytes.

        Args:
            length: Bytes; negative or ``None`` for all that is left.
        """
        start, stop = self._take(-1 if length is None else length)
        try:
            return self.pread(start, stop)
        except BaseException:
            self.loc = start
            raise

    def pread(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` up to ``stop``; ``start`` is the position, or after it."""
        if start >= stop:
            return b""
        with self._target.explained():
            near = self._read_small(start, stop, self._reader)
            return self._reader.read(start, stop) if near is None else near

    def _take(self, length: int) -> tuple[int, int]:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        self._end_lines()
        start = self.loc
        self.loc = self.size if length < 0 else min(start + length, self.size)
        return start, self.loc

    def tell(self) -> int:
        """Return the offset at which the next read begins."""
        return self._common_position()

    def seek(self, loc: int, whence: int = 0) -> Any:
        """Do nothing, if it leads to where the position is.

        Raises:
            ValueError: It leads elsewhere.
        """
        self._end_lines()
        return super().seek(loc, whence)

    def url(self) -> str:
        """Return the HTTP URL of the file at its commit."""
        return self._target.remote.url

    def close(self) -> None:
        """Cancel reads under way soon, without waiting, as :meth:`HaulFile.close` does."""
        if not self.closed:
            self._closed = True
            self._end_lines()
            self._reader.close_soon()

    def __del__(self) -> None:
        if hasattr(self, "_reader"):
            self.close()

    def __reduce__(self) -> Any:
        where = (self._target.name, self._target.commit)
        return _reopen, (self.fs, where, self.mode, 0, self.tell(), None, self.kwargs)


def _reopen(
    fs: Any,  # a HaulFileSystem, whose module is above this one
    where: tuple[str, str],
    mode: str,
    block_size: int,
    loc: int,
    cache_type: str | None,
    kwargs: dict[str, Any],
) -> Any:
    """Open a file at the commit that a pickled one had."""
    path, commit = where
    file = fs._open_at(path, commit, mode=mode, block_size=block_size, cache_type=cache_type, **kwargs)  # noqa: SLF001  of the same package
    if isinstance(file, HaulStreamFile):
        file.loc = loc
    elif loc:
        file.seek(loc)
    return file
