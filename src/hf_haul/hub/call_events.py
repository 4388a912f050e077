"""What one call of a public function tells ``on_event``, from its plan to its end."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from huggingface_hub import DryRunFileInfo

from hf_haul.engine.event_stream import EventStream, harmless
from hf_haul.hub.repository import Repository
from hf_haul.hub.wait_bars import WaitBar
from hf_haul.storage.free_space import free_bytes
from hf_haul.threads import start_daemon
from hf_haul.waits import Waits

__all__ = ["CallEvents", "commit_in"]

#: Seconds between two looks at what is waited for.
_LOOK_SECONDS: Final = 0.5
#: The commit in a path of a cache.
_IN_SNAPSHOT: Final = re.compile(r"[/\\]snapshots[/\\]([0-9a-f]{40,64})(?![^/\\])")


class CallEvents:
    """Tells of one call, as far as somebody listens, and what it waits for in any case.

    Args:
        stream: Where to tell.
        bar: Shows what it waits for until there are bars of files.

    Attributes:
        stream: Where to tell.
        waits: What the call waits for.
    """

    def __init__(self, stream: EventStream | None, bar: WaitBar | None = None) -> None:
        self.stream = stream
        self.waits = Waits() if stream is None else stream.waits
        self._bar = bar
        self._ended = threading.Event()

    def attended(self, repository: Repository) -> Repository:
        """Return the repository, with what it waits for told, too."""
        return replace(repository, waits=self.waits)

    def note_fetching(self) -> None:
        """Note that bars of files show what is waited for from now on."""
        if self._bar is not None:
            self._bar.retire()

    @contextmanager
    def reviewing(self) -> Iterator[None]:
        """Check periodically, during the block, whether a wait should be reported.

        While files are fetched the engine looks, too; before that nobody else does.
        """
        self.waits.on_begin = self._start_looking  # a call that asks for nothing needs no thread
        try:
            yield
        finally:
            self.waits.on_begin = None
            self._ended.set()
            if self._bar is not None:
                self._bar.retire()

    def _start_looking(self) -> None:
        self.waits.on_begin = None
        start_daemon(self._look, "hf-haul-waits")

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if self._bar is not None and self._bar.show(self.waits.current()):
                self.waits.shown = True
            self.waits.review()

    @harmless
    def plan(
        self,
        files: Iterable[tuple[int | None, bool, bool]],
        *,
        folder: str,
        revision: str | None = None,
        commit: str | None = None,
        path: str | None = None,
        dry_run: bool = False,
    ) -> None:
        """Tell what is to be done.

        Args:
            files: Of each file its bytes (``None`` if unknown), whether it is in place, and whether the
                engine need not look at it.
            folder: Where the bytes go.
            revision: What was asked for.
            commit: What that stands for.
            path: Where the caller finds it.
            dry_run: Whether it is only told what would be done.
        """
        if self.stream is None:
            return
        counts: Counter[str] = Counter()
        for size, is_reused, is_here in files:  # of which there may be a million
            nbytes = size or 0
            counts["files"] += 1
            counts["unknown"] += size is None
            counts["bytes"] += nbytes
            if is_reused:
                counts["files_reused"] += 1
                counts["reused"] += nbytes
            if is_here:
                counts["files_here"] += 1
                counts["bytes_here"] += nbytes
        self.stream.plan(
            files=counts["files"],
            nbytes=None if counts["unknown"] else counts["bytes"],
            files_reused=counts["files_reused"],
            reused=counts["reused"],
            files_here=counts["files_here"],
            bytes_here=counts["bytes_here"],
            free_disk=free_bytes(Path(folder)),
            revision=revision,
            commit=commit,
            path=path,
            dry_run=dry_run,
        )

    @harmless
    def plan_dry_run(
        self, infos: Sequence[DryRunFileInfo], *, folder: str, revision: str, path: str | None = None
    ) -> None:
        """Tell what would be done."""
        self.plan(
            ((info.file_size, not info.will_download, True) for info in infos),
            folder=folder,
            revision=revision,
            commit=infos[0].commit_hash if infos else None,
            path=path,
            dry_run=True,
        )

    @harmless
    def found(self, files: Iterable[str], *, folder: str, revision: str, path: str) -> None:
        """Tell that everything is in place, without the Hub's help.

        Args:
            files: Their paths on disk.
            folder: Where bytes would go.
            revision: What was asked for.
            path: Where the caller finds it.
        """
        if self.stream is None:
            return
        sizes = [os.path.getsize(file) for file in files]
        self.plan(
            ((size, True, True) for size in sizes),
            folder=folder,
            revision=revision,
            commit=commit_in(path),
            path=path,
        )
        self.done(path)

    @harmless
    def failed(self, path: str, size: int | None, error: BaseException) -> None:
        """Tell of a file that never came to the engine."""
        if self.stream is not None:
            self.stream.file("failed", path, size, error)

    @harmless
    def done(self, path: str) -> None:
        """Tell that everything is in place."""
        if self.stream is not None:
            self.stream.done(path)

    @harmless
    def error(self, error: BaseException) -> None:
        """Tell that the call fails."""
        if self.stream is not None:
            self.stream.error(error)

    def flush(self, timeout: float) -> None:
        """Wait, at most ``timeout`` seconds, until all was delivered."""
        if self.stream is not None:
            self.stream.flush(timeout)


def commit_in(path: str | None) -> str | None:
    """Return the commit of a snapshot in a cache, by its path or by that of a file in it."""
    match = None if path is None else _IN_SNAPSHOT.search(path)
    return None if match is None else match[1]
