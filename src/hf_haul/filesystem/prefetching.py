"""Bytes that a program fetches before it reads them, because it knows that it will."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final

from fsspec.core import has_magic

from hf_haul.config import KiB, MiB
from hf_haul.filesystem.slices import Slice, bound, is_sequence
from hf_haul.forks import renew_after_fork
from hf_haul.reading.extents import Extents
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.read_threads import Job
from hf_haul.task import DownloadPriority

__all__ = ["Prefetch", "prefetch", "wanted_slices"]

#: Bytes of one request, at the least and at the most.
_SMALLEST_PART: Final = 256 * KiB
_LARGEST_PART: Final = 4 * MiB
#: Entries of a range: its file, its start, its end.
_SLICE: Final = 3
#: Seconds of one wait: Windows hears Ctrl+C only between two.
_LOOK_SECONDS: Final = 1.0


class Prefetch:
    """Bytes on their way into memory, for reads to come; what ``HaulFileSystem.prefetch`` returns.

    It may be dropped: nothing ends then. In a forked child nothing is on its way.

    Locking: ``_lock`` guards ``_jobs``, and is never held while one is waited for.

    Attributes:
        nbytes: Bytes that are here or on their way.
        left_out: Bytes for which there was no memory.
    """

    def __init__(self, extents: Extents) -> None:
        self.nbytes = 0
        self.left_out = 0
        self._extents = extents
        self._start_empty()
        renew_after_fork(self, Prefetch._start_empty)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._jobs: list[Job] = []

    def add(self, source: RangeSource, start: int, stop: int, priority: int) -> None:
        """Begin to fetch a range, as far as memory allows."""
        extents = self._extents
        part = max(_SMALLEST_PART, min(source.link.unit, _LARGEST_PART))
        extents.note_read(self)
        extents.prefetch(source, [(start, stop)], part=part, owner=self, priority=priority)
        jobs, nbytes = extents.jobs(source, start, stop)
        self.nbytes += nbytes
        self.left_out += stop - start - nbytes
        with self._lock:
            self._jobs += jobs

    @property
    def done(self) -> bool:
        """Whether nothing of it is under way any more, however it ended."""
        with self._lock:
            return all(job.done() for job in self._jobs)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing of it is under way any more.

        What could not be fetched raises nothing: whoever reads it tries again, and gets the error.

        Args:
            timeout: Seconds to wait at the most.

        Returns:
            Whether that is so.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            while not job.done():
                left = _LOOK_SECONDS if end is None else min(_LOOK_SECONDS, end - time.monotonic())
                if left <= 0:
                    return False
                with contextlib.suppress(FutureTimeoutError, CancelledError):
                    job.exception(left)
        return True

    def cancel(self) -> None:
        """End what is still under way. What has come stays in memory until others need it."""
        self._extents.release(self, running=True)

    def __repr__(self) -> str:
        state = "done" if self.done else "under way"
        left_out = f", {self.left_out} left out" if self.left_out else ""
        return f"<Prefetch {state}: {self.nbytes} bytes{left_out}>"


def prefetch(fs: Any, wanted: Any, priority: Any, revision: str | None) -> Prefetch:
    """Begin to fetch files, or ranges of files, of a :class:`~hf_haul.filesystem.HaulFileSystem`.

    Raises:
        FileNotFoundError: One of them is not there.
        TypeError: It is neither files nor ranges.
        ValueError: There is no such priority, or a file is in no repository.
    """
    urgency = _priority(priority)
    slices = wanted_slices(fs, wanted, revision)
    found = [fs.source_of(path, revision) for path, _, _ in slices]
    handle = Prefetch(fs.extents)
    for (path, start, end), each in zip(slices, found, strict=True):
        if each is None:
            raise ValueError(f"{path} is in a bucket: nothing there can be fetched ahead")
        source = each[1]
        a, b, _ = slice(start, end).indices(source.size)
        if a < b:
            handle.add(source, a, b, urgency)
    return handle


def wanted_slices(fs: Any, wanted: Any, revision: str | None) -> list[Slice]:
    """Return files and ranges as ranges; patterns and folders are the files that they stand for.

    Raises:
        TypeError: It is neither.
    """
    items: Iterable[Any]
    if isinstance(wanted, str) or _is_slice(wanted):
        items = [wanted]
    elif is_sequence(wanted):
        items = wanted
    else:
        raise TypeError(f"prefetch takes files, or (file, start, end), not {type(wanted).__name__}")
    slices: list[Slice] = []
    for number, each in enumerate(items):
        if isinstance(each, str):
            slices += [(path, None, None) for path in _files(fs, each, revision)]
        elif _is_slice(each):
            path, start, end = each
            slices.append((str(path), bound(start, "start", number), bound(end, "end", number)))
        else:
            raise TypeError(f"prefetch takes files, or (file, start, end), not {each!r} (number {number})")
    return slices


def _is_slice(value: Any) -> bool:
    if isinstance(value, str) or not is_sequence(value) or len(value) != _SLICE:
        return False
    return isinstance(value[0], str) and not any(isinstance(each, str) for each in value[1:])


def _files(fs: Any, path: str, revision: str | None) -> Sequence[str]:
    options = {} if revision is None else {"revision": revision}
    if has_magic(path):
        return [each for each in fs.glob(path, **options) if fs.isfile(each)]
    if fs.info(path, **options)["type"] == "directory":
        found: list[str] = fs.find(path, **options)
        return found
    return [path]


def _priority(value: Any) -> int:
    """Return the urgency among reads; those that somebody waits for come before all of them."""
    return int(DownloadPriority(value))
