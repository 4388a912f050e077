"""Removes one partial file that nobody uses any more, and never one that somebody does.

What was seen a moment ago may have changed: everything is looked at again here, and held while it is removed.
A staged file is taken over as for a resume, so that no process adopts it meanwhile; a partial file of
huggingface_hub's goes while its lock is held.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import Final

from hf_haul.errors import HaulError
from hf_haul.storage.adoption import Adopter, StagedElsewhereError
from hf_haul.storage.left_file import LeftFile
from hf_haul.storage.ownership import is_running
from hf_haul.storage.partial_files import (
    IN_LINK_PROBE,
    MODE_PROBE_AGE,
    PartialOnDisk,
    is_mode_probe,
    owner_state,
)
from hf_haul.storage.regular_files import bytes_on_disk
from hf_haul.storage.staged_names import OFFSET_SUFFIX, giver_of
from hf_haul.storage.sweeping import hold_upstream_partial

__all__ = ["StillInUseError", "remove_partial"]

#: Bytes of a file whose size is not known.
_ANY_SIZE: Final = -1


class StillInUseError(HaulError):
    """A process uses the file, or may."""


def remove_partial(found: PartialOnDisk, *, seen_for: float = 0.0) -> int:
    """Remove a partial file, or a temporary one.

    Args:
        found: The file as it was found.
        seen_for: Seconds since then.

    Returns:
        Bytes on the disk that are free now; none if it is gone already.

    Raises:
        StillInUseError: A process uses it, or may.
        OSError: It may not be removed.
    """
    try:
        if found.kind == "staged":
            return _remove_staged(found)
        if found.kind == "huggingface_hub":
            return _remove_upstreams(found)
        return _remove_temporary(found, seen_for)
    except FileNotFoundError:
        return 0


def _remove_staged(found: PartialOnDisk) -> int:
    def may_go(left: LeftFile) -> bool:
        # A sealed file was old enough; to take it over has changed its age.
        return left.sealed or owner_state(left) == "dead"

    if found.state != "dead":
        raise StillInUseError(f"{found.path.name} may be in use")
    adopter = Adopter(found.place.folder / (found.key + OFFSET_SUFFIX), found.key, _ANY_SIZE)
    try:
        return adopter.remove_one(found.path, may_go)
    except StagedElsewhereError as error:
        raise StillInUseError(str(error)) from error


def _remove_upstreams(found: PartialOnDisk) -> int:
    with hold_upstream_partial(found.path, found.place.upstream_lock(found.key)) as state:
        status = _same(found)
        if state != "dead":
            raise StillInUseError(f"huggingface_hub may be using {found.path.name}")
        os.unlink(found.path)
        return bytes_on_disk(status)


def _remove_temporary(found: PartialOnDisk, seen_for: float) -> int:
    status = _same(found)
    old = found.state == "dead" or (is_mode_probe(found) and seen_for >= MODE_PROBE_AGE)
    if not old or is_running(giver_of(found.path.name) or 0):
        raise StillInUseError(f"{found.path.name} was made {time.time() - status.st_mtime:.0f} s ago")
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(found.path)
        return bytes_on_disk(status)
    for name in IN_LINK_PROBE:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(found.path / name)
    os.rmdir(found.path)  # refuses where there is anything else in it
    return bytes_on_disk(status)


def _same(found: PartialOnDisk) -> os.stat_result:
    """Return what the file is like now.

    Raises:
        FileNotFoundError: It is gone, or another one has its name.
        StillInUseError: Somebody has written to it.
    """
    status = os.lstat(found.path)
    if status.st_ino != found.ino:
        raise FileNotFoundError(f"{found.path} is gone")
    if (status.st_mtime or status.st_ctime) != found.modified:
        raise StillInUseError(f"{found.path.name} has changed")
    return status
