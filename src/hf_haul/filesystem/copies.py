"""Copying files from the Hub to disk: what goes where, and who is told of it."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fsspec.callbacks import DEFAULT_CALLBACK, Callback, NoOpCallback
from fsspec.core import has_magic
from fsspec.implementations.local import make_path_posix, trailing_sep
from fsspec.spec import AbstractFileSystem
from huggingface_hub import HfFileSystem

from hf_haul.engine.handle import DownloadHandle
from hf_haul.errors import HttpStatusError, UnsafePathError
from hf_haul.hub.repository import Repository
from hf_haul.task import DownloadProgress, DownloadState, RemoteFile

__all__ = ["Pairs", "Report", "Target", "Unfinished", "raise_first"]

#: In a folder that a ``get`` made and has not filled yet.
_MARK: Final = ".haul-get.incomplete"


@dataclass(frozen=True, slots=True)
class Target:
    """One file, pinned to a commit.

    Attributes:
        name: Its name in the filesystem.
        place: Where it is to be copied to.
        repository: Where it is.
        path: Its name in the repository.
        commit: At which commit.
        remote: How to fetch it.
        info: What the filesystem says of it.
    """

    name: str
    place: str
    repository: Repository
    path: str
    commit: str
    remote: RemoteFile
    info: dict[str, Any]

    def explain(self, error: Exception) -> Exception:
        """The error that huggingface_hub raises where a server refused the file."""
        explained = self.repository.explain(self.path, self.commit, error)
        return explained if isinstance(explained, Exception) else error

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise huggingface_hub's errors where a server refuses the file."""
        try:
            yield
        except HttpStatusError as error:
            raise self.explain(error) from error


class Report:
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
        self._over: set[str] = set()

    def __enter__(self) -> None:
        """Nothing to do yet."""

    def __exit__(self, *_error: object) -> None:
        for _, stack in self._open.values():
            stack.close()
        self._open.clear()

    def tell(self, news: deque[DownloadProgress]) -> None:
        """Pass on what has happened."""
        while news:
            progress = news.popleft()
            if progress.file_path not in self._over:
                self._advance(progress.file_path, progress.bytes_downloaded)
                if progress.status is DownloadState.DONE:
                    self._end(progress.file_path)

    def finish(self) -> None:
        """Everything is in place, whether it was told or not."""
        if not self.silent:
            for name in self._targets:
                if name not in self._over:
                    self._end(name)

    def _advance(self, name: str, nbytes: int) -> None:
        child = self._child(name)
        before = self._seen.get(name, 0)
        if nbytes != before:
            self._seen[name] = nbytes
            child.relative_update(nbytes - before)

    def _end(self, name: str) -> None:
        targets = self._targets[name]
        self._advance(name, targets[0].remote.size or 0)
        self._over.add(name)
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
                child = stack.enter_context(self._callback.branched(name, target.place))
                child.set_size(target.remote.size)
            self._open[name] = (child, stack)
        return self._open[name][0]


class Pairs:
    """Stands in for a filesystem while fsspec's own ``get`` decides which file goes where."""

    def __init__(self, fs: HfFileSystem) -> None:
        self._fs = fs
        self.pairs: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def collect(self, rpath: str | list[str], lpath: Any, **options: Any) -> None:
        """Have fsspec decide.

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
        """Note a file and its place."""
        self.pairs.append((rpath, lpath))


class Unfinished:
    """Remembers which folders a ``get`` has made and not filled yet, in a small file in each.

    By fsspec's rule a folder is copied *into* one that exists, and *as* one that does not: the same call, repeated
    after an interrupt, would find the folder it had made itself, and start from zero within it.

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
        """Whether it depends on what exists where ``rpath`` goes."""
        told = has_magic(rpath) or trailing_sep(rpath) or not isinstance(lpath, str) or trailing_sep(lpath)
        return not told

    def resumes(self) -> bool:
        """Whether the folder is what an earlier ``get`` of the same source has left."""
        try:
            return self._mark.read_text(encoding="utf-8", errors="surrogatepass") == self._source
        except (OSError, UnicodeError):
            return False

    def begin(self, places: Iterable[Any]) -> None:
        """Note that the folder is being filled, if it is not there yet.

        Args:
            places: Where the files go; one of them may have the mark's name.
        """
        taken = os.fspath(self._mark) in places
        if self.resumes() or (not taken and not self._folder.exists()):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._mark.write_text(self._source, encoding="utf-8", errors="surrogatepass")
            self._is_ours = True

    def end(self) -> None:
        """Everything is in place."""
        if self._is_ours:
            with contextlib.suppress(OSError):  # a folder that cannot be written to any more
                self._mark.unlink(missing_ok=True)


def raise_first(handle: DownloadHandle, targets: Iterable[Target]) -> None:
    """Raise the first failure of a download, if there is one, as huggingface_hub would."""
    for name, error in handle.errors():
        for target in targets:
            if target.name == name and isinstance(error, Exception):
                raise target.explain(error) from error
        raise error
