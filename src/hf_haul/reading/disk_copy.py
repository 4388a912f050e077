"""What the Hub's cache on disk has of a file that is read, and what reads add to it.

A blob is read from disk. Where there is none, what reads fetch goes into the file's staged file, as if a
download fetched it: a later download fetches only what is missing, and what is complete is checked against
its digest and becomes a blob.

Nobody waits for another process here. While one has the staged file, reads are kept in memory only; and
this process keeps it no longer than :data:`_LINGER` seconds after its last read, so that downloads get it.
What was staged before the machine started, or by another user, is left to a download, which checks it: a read
cannot. Whatever the disk refuses, the read goes on without it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hf_haul.config import MiB, Settings
from hf_haul.descriptors import descriptors
from hf_haul.digests import hash_of
from hf_haul.errors import HaulError
from hf_haul.finalizers import when_gone
from hf_haul.forks import call_after_fork, renew_after_fork
from hf_haul.ranges import ByteRange
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.claiming import claim
from hf_haul.storage.destinations import BlobDestination
from hf_haul.storage.journal import read_header
from hf_haul.storage.ownership import current_owner
from hf_haul.storage.regular_files import open_regular
from hf_haul.storage.staged_file import StagedFile
from hf_haul.storage.staged_names import OFFSET_SUFFIX, SEQUENTIAL_SUFFIX, scan_orphans
from hf_haul.task import RemoteFile, bears_out
from hf_haul.threads import start_daemon

__all__ = ["DiskCopy"]

logger = logging.getLogger(__name__)

#: Seconds after the last read for which the staged file is kept: taking it again costs a look at its journal.
_LINGER: Final = 0.5
#: Seconds before what another process has, or the disk refused, is tried again.
_ELSEWHERE: Final = 5.0
_REFUSED: Final = 60.0
#: Bytes of a file that is checked and published by whoever reads the last of it; a larger one by a thread.
_AT_ONCE: Final = 32 * MiB
#: Times that the bytes may have the wrong digest.
_MISMATCHES: Final = 2

Fetch = Callable[[int, memoryview], None]


class _Blob:
    """A complete file on disk. Its descriptor is closed with the object."""

    def __init__(self, path: str) -> None:
        self._file = descriptors.retry_on_shortage(lambda: open(path, "rb", buffering=0))  # noqa: SIM115  see above
        self._seeking = threading.Lock()
        when_gone(self, self._file.close)

    def missing(self, start: int, stop: int) -> list[ByteRange]:
        del start, stop
        return []

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [buffer], offset)
        with self._seeking:  # pragma: no cover - Windows
            self._file.seek(offset)
            return self._file.readinto(buffer)


class DiskCopy:
    """One file on disk, for all who read it in this process.

    Locking: ``_opening`` guards all attributes, and is held while the disk works; only those who read this
    file wait for it. It is taken before any lock of a :class:`StagedFile`.

    Args:
        destination: Where the file belongs in the cache.
        remote: The file; its size and its digest are known.
        settings: How to write.
        later: Does something in a thread; returns whether it will.
        on_published: Called when the file has become a blob.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        destination: BlobDestination,
        remote: RemoteFile,
        settings: Settings,
        later: Callable[[Callable[[], None]], bool],
        on_published: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if remote.digest is None or remote.size is None:
            raise ValueError(f"{remote.path}: its size or digest is unknown")
        self._destination = destination
        self._remote = remote
        self._size = remote.size
        self._digest = remote.digest
        self._settings = settings
        self._later = later
        self._on_published = on_published
        self._clock = clock
        self._left = False
        self._mismatches = 0
        self._start_anew()
        renew_after_fork(self, DiskCopy._start_anew)

    def _start_anew(self) -> None:
        """Forget what is open; the staged file of a forked child's parent is not the child's."""
        inherited: StagedFile | None = getattr(self, "_staged", None)
        if inherited is not None:
            inherited.let_go()  # else its lock would outlive the parent
        self._opening = threading.Lock()
        self._blob: _Blob | None = None
        self._staged: StagedFile | None = None
        self._users = 0
        self._idle_since = 0.0
        self._not_before = float("-inf")
        self._looked_for_orphans = False
        self._claimed = False
        self._checked = False  # the staged file is complete and right, and nobody has published it yet

    def leave(self) -> None:
        """Use the disk no more: it does not have what it should."""
        with self._opening:
            self._left = True

    def fill(self, start: int, view: memoryview, fetch: Fetch) -> None:
        """Fill ``view`` from ``start``: from disk as far as it is there, and by fetching, which is kept.

        Args:
            start: Offset in the file.
            view: Where to write.
            fetch: Fetches bytes from an offset; what it raises is raised here.
        """
        held = self._begin()
        if held is None:
            fetch(start, view)
            return
        try:
            at, stop = start, start + len(view)
            for gap in held.missing(start, stop):
                self._read_back(held, at, view[at - start : gap.start - start], fetch)
                part = view[gap.start - start : gap.stop - start]
                fetch(gap.start, part)
                self._keep(gap, part)
                at = gap.stop
            self._read_back(held, at, view[at - start :], fetch)
        finally:
            self._end()

    def _read_back(self, held: _Blob | StagedFile, at: int, view: memoryview, fetch: Fetch) -> None:
        done = 0
        try:
            while done < len(view) and (got := held.read_into(at + done, view[done:])):
                done += got
        except OSError as error:
            logger.warning("%s cannot be read from disk: %s", self._remote.path, error)
        if done < len(view):
            self.leave()
            fetch(at, view)

    def _keep(self, run: ByteRange, data: memoryview) -> None:
        staged = self._staged
        if staged is None or self._left:
            return
        try:
            staged.require_ours()
            staged.add(run.start, data)
            staged.record(run.start, run.stop)
        except (OSError, HaulError) as error:
            logger.warning("%s is kept in memory only: %s", self._remote.path, error)
            self.leave()

    # ---- opening and closing

    def _begin(self) -> _Blob | StagedFile | None:
        """Return what there is on disk, opened; ``None`` if nothing may be used."""
        with self._opening:
            if self._left or self._clock() < self._not_before:
                return None
            if self._blob is None and self._staged is None:
                self._open()
            held = self._blob or self._staged
            self._users += held is not None
            return held

    def _end(self) -> None:
        """Note the end of one use; after the last, publish what is complete, or let go of it soon."""
        with self._opening:
            self._users -= 1
            if self._users or self._staged is None:
                return
            self._idle_since = self._clock()
            complete = not (self._left or self._staged.missing())
            if complete and self._checked:
                self._publish()
                return
            self._users += complete  # it is used until it is checked
            close_now = self._left
            if close_now:
                self._close()
        if complete:
            if self._size <= _AT_ONCE or not self._later(self._check):
                self._check()
        elif not close_now:
            _lingering.add(self)

    @property
    def is_closed(self) -> bool:
        """Whether no staged file is open."""
        return self._staged is None

    def close_if_idle(self, seconds: float) -> bool:
        """Let go of the staged file if nobody has used it for a while; return whether it is let go."""
        with self._opening:
            if self._staged is None:
                return True
            if self._users or self._clock() - self._idle_since < seconds:
                return False
            self._close()
            return True

    def _close(self) -> None:
        staged, self._staged, self._checked = self._staged, None, False
        if staged is not None and staged.is_ours():
            staged.close()
        elif staged is not None:
            staged.let_go()

    def _open(self) -> None:
        """Open the blob, or else take the staged file, unless somebody else has it."""
        try:
            path = self._destination.found()
            if path is not None:
                self._blob = _Blob(path)
            elif self._settings.write_mode != "sequential":
                self._staged = self._claim()
        except StagedElsewhereError as error:
            logger.debug("%s is kept in memory only: %s", self._remote.path, error)
            self._not_before = self._clock() + _ELSEWHERE
        except (OSError, HaulError) as error:
            logger.warning("%s is kept in memory only: %s", self._remote.path, error)
            self._not_before = self._clock() + _REFUSED

    def _claim(self) -> StagedFile | None:
        destination = self._destination
        destination.folder.prepare()
        folder, key, former = destination.staging_dir, destination.staging_key, destination.former_keys
        orphans: list[Path] = []
        if not self._looked_for_orphans:
            found = scan_orphans(folder)
            orphans = [path for each in (key, *former) for path in found.get(each, ())]
            self._looked_for_orphans = True
        for path in {folder / (key + OFFSET_SUFFIX), *orphans}:
            if path.name.endswith(SEQUENTIAL_SUFFIX) or not self._is_of_this_boot(path):
                self._not_before = self._clock() + _REFUSED
                return None
        staged = claim(
            folder,
            key,
            self._size,
            orphans=orphans,
            former_keys=former,
            uri=self._remote.uri,
            again=self._claimed,
        )
        self._claimed = True
        if staged.unproven and staged.done:  # it came in between; nothing of it may be read
            staged.forget()
        return staged

    def _is_of_this_boot(self, path: Path) -> bool:
        """Return whether all that counts in a staged file was written since the machine started."""
        try:
            fd = open_regular(path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            header = read_header(
                fd, self._size, (self._destination.staging_key, *self._destination.former_keys)
            )
        finally:
            os.close(fd)
        return header is None or (header.owner is not None and header.owner.boot == current_owner().boot)

    # ---- what is complete

    def _check(self) -> None:
        """Check the digest of the complete file; whoever ends its use last publishes it."""
        staged = self._staged
        assert staged is not None, "it is in use"
        try:
            if self._is_right(staged):
                self._checked = True
            else:
                logger.warning("%s: what was read has another digest than announced", self._remote.path)
                staged.forget()
                with self._opening:
                    self._mismatches += 1
                    self._left = self._left or self._mismatches >= _MISMATCHES
        except (OSError, HaulError) as error:
            logger.warning("%s is not published: %s", self._remote.path, error)
            self.leave()
        finally:
            self._end()

    def _is_right(self, staged: StagedFile) -> bool:
        def beat() -> None:
            if staged.needs_beat():
                staged.beat()

        def hex_digest(algorithm: str) -> str:
            return hash_of(staged.read_into, self._size, algorithm, beat)

        return hex_digest(self._digest.algorithm) == self._digest.value or bears_out(self._remote, hex_digest)

    def _publish(self) -> None:
        """Move the checked file into place; under the lock, and used by nobody."""
        staged, self._staged, self._checked = self._staged, None, False
        assert staged is not None
        try:
            sealed = staged.seal(durable=self._settings.durable)
        except (OSError, HaulError) as error:
            logger.warning("%s is not published: %s", self._remote.path, error)
            staged.close()
            self._not_before = self._clock() + _REFUSED
            return
        try:
            self._destination.publish(sealed)
            self._on_published()
        except OSError as error:
            logger.warning("%s is not published: %s", self._remote.path, error)
            staged.unseal()
            self._not_before = self._clock() + _REFUSED


class _Lingering:
    """Closes staged files that nobody has used for a moment, in a thread that lives as long as there are any.

    Locking: ``_lock`` guards both attributes.
    """

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        self._lock = threading.Lock()
        self._copies: set[DiskCopy] = set()
        self._has_thread = False

    def add(self, copy: DiskCopy) -> None:
        with self._lock:
            self._copies.add(copy)
            start, self._has_thread = not self._has_thread, True
        if start and start_daemon(self._work, "hf-haul-disk") is None:
            with self._lock:
                self._has_thread = False
                self._copies.discard(copy)
            copy.close_if_idle(0.0)

    def _work(self) -> None:
        while True:
            time.sleep(_LINGER / 2)
            with self._lock:
                copies = list(self._copies)
            closed = {copy for copy in copies if copy.close_if_idle(_LINGER)}
            with self._lock:
                self._copies -= {copy for copy in closed if copy.is_closed}  # somebody may be back already
                if not self._copies:
                    self._has_thread = False
                    return


_lingering: Final = _Lingering()
call_after_fork(_lingering.start_anew)
