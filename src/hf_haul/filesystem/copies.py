"""Copying files from the Hub to disk: what goes where, and who is told of it."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from fsspec.callbacks import DEFAULT_CALLBACK, Callback, NoOpCallback
from fsspec.core import has_magic
from fsspec.implementations.local import make_path_posix, trailing_sep
from fsspec.spec import AbstractFileSystem
from huggingface_hub import HfFileSystem

from hf_haul.config import MiB
from hf_haul.engine.handle import DownloadHandle
from hf_haul.errors import UnsafePathError
from hf_haul.filesystem.cache_copies import KeptAt, file_at, take_from_cache
from hf_haul.filesystem.target import Target
from hf_haul.manager import ParallelDownloadManager
from hf_haul.reading.extents import Extents
from hf_haul.reading.file_reader import FileReader
from hf_haul.reading.range_source import Checksum
from hf_haul.task import DownloadProgress, DownloadState, FileRequest

__all__ = ["CallbackReport", "PairCollector", "PartialCopyMarker", "download", "stream_into"]

#: Seconds between two looks at a running download: for its progress, and for its first failure.
_LOOK_SECONDS: Final = 0.1
#: Bytes that are written to an open file at a time.
_BLOCK: Final = 1 * MiB
#: In a folder that a ``get`` made and has not filled yet.
_MARK: Final = ".haul-get.incomplete"


class CallbackReport:
    """Tells a callback of a download, in the thread that asked for it.

    Args:
        targets: The files.
        callback: The user's.
        branch: Whether each file gets a branch of it, and the callback itself counts files.
    """

    def __init__(self, targets: Sequence[Target], callback: Callback, *, branch: bool) -> None:
        self.silent = isinstance(callback, NoOpCallback)
        self._callback = callback
        self._branch = branch
        self._targets: dict[str, list[Target]] = {}
        for target in targets:
            self._targets.setdefault(target.name, []).append(target)
        self._open: dict[str, tuple[Callback, ExitStack]] = {}
        self._seen: dict[str, int] = {}
        self._ended: set[str] = set()

    def __enter__(self) -> None:
        """Begin; branches are opened when there is something to tell."""

    def __exit__(self, *_error: object) -> None:
        for _, stack in self._open.values():
            stack.close()
        self._open.clear()

    def tell(self, news: deque[DownloadProgress]) -> None:
        """Deliver what has happened, in order."""
        while news:
            progress = news.popleft()
            if progress.file_path not in self._ended:
                self._advance(progress.file_path, progress.bytes_downloaded)
                if progress.status is DownloadState.DONE:
                    self._end(progress.file_path)

    def end(self, target: Target) -> None:
        """Finish a file of which no message comes: it is there."""
        if not self.silent and target.name not in self._ended:
            self._end(target.name)

    def finish(self) -> None:
        """Finish the files whose last message did not come: all of them are there."""
        for targets in self._targets.values():
            self.end(targets[0])

    def _advance(self, name: str, nbytes: int) -> None:
        child = self._child(name)
        before = self._seen.get(name, 0)
        if nbytes != before:
            self._seen[name] = nbytes
            child.relative_update(nbytes - before)

    def _end(self, name: str) -> None:
        targets = self._targets[name]
        self._advance(name, targets[0].remote.size or 0)
        self._ended.add(name)
        _, stack = self._open.pop(name)
        stack.close()
        if self._branch:
            self._callback.relative_update(len(targets))

    def _child(self, name: str) -> Callback:
        if name not in self._open:
            stack = ExitStack()
            child = self._callback
            if self._branch:
                target = self._targets[name][0]
                child = stack.enter_context(self._callback.branched(name, target.lpath))
                child.set_size(target.remote.size)
            self._open[name] = (child, stack)
        return self._open[name][0]


class PairCollector:
    """Stands in for a filesystem while fsspec's own ``get`` decides which file goes where."""

    def __init__(self, fs: HfFileSystem) -> None:
        self._fs = fs
        self.pairs: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def collect(self, rpath: str | list[str], lpath: Any, **options: Any) -> None:
        """Let fsspec decide, and return the pairs.

        Raises:
            UnsafePathError: A name would lead out of its folder.
        """
        try:
            AbstractFileSystem.get(self, rpath, lpath, callback=DEFAULT_CALLBACK, **options)
        except ValueError as error:
            if "outside the destination" not in str(error):
                raise
            raise UnsafePathError(str(error)) from None

    def get_file(self, rpath: str, lpath: Any, **_options: Any) -> None:
        """Note a file and its target."""
        self.pairs.append((rpath, lpath))


class PartialCopyMarker:
    """Remembers which folders a ``get`` has made and not filled yet, in a small file in each.

    By fsspec's rule a folder is copied *into* one that exists, and *as* one that does not: the same call,
    repeated after an interrupt, would find the folder it had made itself, and start from zero within it.

    Args:
        source: Which folder is copied, as it is told from any other.
        folder: Where to.
    """

    def __init__(self, source: str, folder: str) -> None:
        self._source = source
        self._folder = Path(make_path_posix(folder))
        self._mark = self._folder / _MARK
        self._is_ours = False

    @staticmethod
    def depends(rpath: str, lpath: Any) -> bool:
        """Return whether fsspec decides by what exists at ``lpath``."""
        given = has_magic(rpath) or trailing_sep(rpath) or not isinstance(lpath, str) or trailing_sep(lpath)
        return not given

    def resumes(self) -> bool:
        """Return whether the folder is what an earlier, unfinished ``get`` of the same source left."""
        try:
            return self._mark.read_text(encoding="utf-8", errors="surrogatepass") == self._source
        except (OSError, UnicodeError):
            return False

    def begin(self, lpaths: Iterable[Any]) -> None:
        """Mark the folder as being filled, if it is not there yet.

        Args:
            lpaths: Where the files go; one of them may have the mark's name.
        """
        taken = os.fspath(self._mark) in lpaths
        if self.resumes() or (not taken and not self._folder.exists()):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._mark.write_text(self._source, encoding="utf-8", errors="surrogatepass")
            self._is_ours = True

    def end(self) -> None:
        """Remove the mark: every file is there."""
        if self._is_ours:
            with contextlib.suppress(OSError):  # a folder that cannot be written to any more
                self._mark.unlink(missing_ok=True)


def download(
    manager: ParallelDownloadManager,
    targets: list[Target],
    report: CallbackReport,
    kept_at: KeptAt = lambda _target: None,
) -> None:
    """Fetch files to their targets, by way of the Hub's cache where they are kept; report in this thread."""
    if not targets:
        return
    wanted: dict[str, Target] = {}
    for target in targets:
        # The last one wins, as if copied one by one.
        wanted[os.path.abspath(target.lpath)] = target.with_sources(manager.settings)
    for path in wanted:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    fetch = partial(_fetch, manager, targets, report)
    with report:
        left = take_from_cache(wanted, kept_at, fetch, report.end, durable=manager.settings.durable)
        fetch([FileRequest(target.remote, file_at(path, target.remote)) for path, target in left.items()])
        report.finish()


def _fetch(
    manager: ParallelDownloadManager,
    targets: list[Target],
    report: CallbackReport,
    requests: list[FileRequest],
) -> None:
    """Fetch files to their places, and tell of it; the first that fails calls off the others."""
    if not requests:
        return
    news: deque[DownloadProgress] = deque()
    handle = manager.submit(
        requests,
        model_id=targets[0].repository.repo_id,
        progress_callback=None if report.silent else news.append,
    )
    try:
        while not handle.wait(_LOOK_SECONDS) and not handle.errors():
            report.tell(news)
        report.tell(news)
        _raise_first(handle, targets)
    except BaseException:
        handle.cancel()
        handle.wait()
        raise


def _raise_first(handle: DownloadHandle, targets: Iterable[Target]) -> None:
    """Raise the first failure of a download, if there is one, as huggingface_hub would."""
    for name, error in handle.errors():
        for target in targets:
            if target.name == name and isinstance(error, Exception):
                raise target.explain(error) from error
        raise error


def stream_into(outfile: IO[bytes], target: Target, extents: Extents, callback: Callback) -> None:
    """Read a file and write it into an open one, which is left at the position it had, if it can seek."""
    source = extents.reads.source(target.remote)
    position = outfile.tell() if _can_seek(outfile) else None
    checksum = Checksum(source.remote)  # with its size, where nobody said it before
    callback.set_size(source.size)
    with target.explained(), closing(FileReader(source, extents, stream=True)) as reader:
        for at in range(0, source.size, _BLOCK):
            block = reader.read(at, min(at + _BLOCK, source.size))
            outfile.write(block)
            checksum.update(block)
            callback.relative_update(len(block))
    checksum.check()
    if position is not None:
        outfile.seek(position)


def _can_seek(file: IO[bytes]) -> bool:
    seekable = getattr(file, "seekable", None)
    return bool(seekable and seekable())
