"""Removes what dead processes left of files that are in place by now."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Final, Literal

from hf_haul.storage.adoption import Adopter, StagedElsewhereError
from hf_haul.storage.file_names import PASSING
from hf_haul.storage.mounts import keeps_writes
from hf_haul.storage.ownership import is_running, try_lock
from hf_haul.storage.regular_files import open_regular
from hf_haul.storage.staged_names import OFFSET_SUFFIX, STAGED_NAME, giver_of, scan_orphans
from hf_haul.task import Destination

__all__ = [
    "PARTIAL_OF_UPSTREAM",
    "UpstreamState",
    "hold_upstream_partial",
    "leftover_keys",
    "sweep",
    "sweep_partials_of_upstream",
]

logger = logging.getLogger(__name__)

#: Seconds for which a partial file of huggingface_hub's must not have changed to be nobody's.
_PARTIAL_AGE: Final = 86400.0
#: Seconds without a change after which nobody writes into a file that was made to be renamed at once.
_PASSING_AGE: Final = 120.0
#: Names of huggingface_hub's partial files, and of ours.
PARTIAL_OF_UPSTREAM: Final = re.compile(r"(.+?)(?:\.[0-9a-f]{8})?\.incomplete", re.DOTALL)


def leftover_keys(directory: Path) -> set[str]:
    """Return the keys of staged and of partial files in a folder, whoever's they are."""
    found: set[str] = set()
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            for pattern in (STAGED_NAME, PARTIAL_OF_UPSTREAM):
                match = pattern.fullmatch(entry.name)
                if match is not None:
                    found.add(match[1])
    return found


def sweep(
    directory: Path, sizes: Mapping[str, int], replaces: Callable[[str], bool] = lambda _: False
) -> None:
    """Remove what dead processes left of files that are in place by now.

    Args:
        directory: Where staged files live.
        sizes: Bytes of each file in place, by key.
        replaces: Whether a key is of another version of such a file.
    """
    for key, paths in scan_orphans(directory).items():
        if key == PASSING:
            for path in paths:
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    # A process that we cannot see may be writing into it.
                    old = not status.st_size or time.time() - status.st_mtime > _PASSING_AGE
                    if old and not is_running(giver_of(path.name) or 0):
                        os.unlink(path)
        elif key in sizes or replaces(key):
            adopter = Adopter(directory / (key + OFFSET_SUFFIX), key, sizes.get(key, -1))
            with contextlib.suppress(StagedElsewhereError):  # another thread takes it over
                adopter.remove(paths)


def sweep_partials_of_upstream(directory: Path, places: Mapping[str, Destination]) -> None:
    """Remove huggingface_hub's partial files of files that are in place, where no process uses them.

    Its partial files do not say whose they are. They go if nothing has changed about them for a day and the
    lock under which they are written can be had; and only from file systems of this host, where that means
    something.

    Args:
        directory: Where it keeps them, as ``<key>.incomplete`` or ``<key>.<eight hex digits>.incomplete``.
        places: Where the files are in place, by key; each knows what it locks meanwhile.
    """
    if not keeps_writes(directory):
        return
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            match = PARTIAL_OF_UPSTREAM.fullmatch(entry.name)
            if match is None or match[1] not in places or STAGED_NAME.fullmatch(entry.name):
                continue
            lock = places[match[1]].upstream_lock
            if lock is None:
                continue
            with contextlib.suppress(OSError), hold_upstream_partial(Path(entry.path), lock) as state:
                if state == "dead":
                    os.unlink(entry.path)
                    logger.info("removed %s, which nobody has touched for a day", entry.path)


#: ``unknown``: changed within a day, or other hosts may use the folder.
UpstreamState = Literal["alive", "dead", "unknown"]


@contextlib.contextmanager
def hold_upstream_partial(path: Path, lock: Path | None) -> Iterator[UpstreamState]:
    """Hold the lock of one of huggingface_hub's partial files, and say whether a process uses the file.

    Args:
        path: The file.
        lock: Under which it is written; ``None`` where nobody has ever locked it.

    Raises:
        FileNotFoundError: The file is gone.
        OSError: The lock cannot be opened.
    """
    with _locked_for_upstream(lock) as locked:
        status = os.lstat(path)
        if not locked:
            yield "alive"
        elif not S_ISREG(status.st_mode) or not keeps_writes(path.parent):
            yield "unknown"
        else:
            yield "dead" if time.time() - status.st_mtime > _PARTIAL_AGE else "unknown"


@contextlib.contextmanager
def _locked_for_upstream(path: Path | None) -> Iterator[bool]:
    """Hold a lock of huggingface_hub's, if it is free; without a lock file nobody holds it."""
    try:
        fd = -1 if path is None else open_regular(path, os.O_RDWR)
    except FileNotFoundError:
        fd = -1
    if fd < 0:
        yield True
        return
    try:
        # Where it has no real locks, it takes a file with something in it for one.
        yield os.fstat(fd).st_size == 0 and try_lock(fd)
    finally:
        os.close(fd)
