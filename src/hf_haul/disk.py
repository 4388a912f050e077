"""Whether a download will fit, asked before its first byte."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from hf_haul.config import DiskCheck, MiB
from hf_haul.errors import DiskFullError
from hf_haul.task import FileRequest

__all__ = ["check_space", "space_needed"]

#: Below this size a file's staged bytes are not worth a look at the disk.
_WORTH_A_LOOK: Final = 8 * MiB


def _existing(folder: Path) -> Path:
    """The folder, or its nearest ancestor that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def space_needed(requests: Iterable[FileRequest]) -> dict[Path, int]:
    """Bytes still to be written, by staging folder; what is staged already is on the disk already."""
    needed: dict[Path, int] = {}
    for request in requests:
        size = request.remote.size or 0
        destination = request.destination
        folder = destination.staging_dir
        if size >= _WORTH_A_LOOK:
            try:
                stat = os.stat(folder / f"{destination.staging_key}.haul.incomplete")
            except OSError:
                pass
            else:
                size = max(0, size - getattr(stat, "st_blocks", 0) * 512)
        needed[folder] = needed.get(folder, 0) + size
    return needed


def check_space(
    needed: dict[Path, int], promised: int, count_reserved: Callable[[], int], mode: DiskCheck
) -> None:
    """Compare what is needed with what is free, per file system.

    Args:
        needed: Bytes by folder, see :func:`space_needed`.
        promised: Bytes that other downloads of this process will write at the most.
        count_reserved: Counts what they really will; asked only where the first number would not fit.
        mode: ``strict`` raises, ``warn`` warns, ``off`` does nothing.

    Raises:
        DiskFullError: It will not fit, and ``mode`` is ``strict``.
    """
    if mode == "off":
        return
    by_device: dict[int, tuple[Path, int]] = {}
    for folder, nbytes in needed.items():
        place = _existing(folder)
        try:
            device = os.stat(place).st_dev
        except OSError:
            continue
        known = by_device.get(device, (place, 0))
        by_device[device] = (known[0], known[1] + nbytes)
    for place, nbytes in by_device.values():
        try:
            free = shutil.disk_usage(place).free
        except OSError:
            continue  # some network file systems do not say
        if not nbytes or nbytes + promised <= free:
            continue
        reserved = count_reserved()
        if nbytes + reserved > free:
            also = f", and {reserved} bytes of running downloads," if reserved else ""
            message = (
                f"Not enough disk space in {place}: {nbytes} bytes are to be fetched{also} but {free} are free. "
                "Free some space, choose another folder, or set HF_HAUL_DISK_CHECK=warn to try anyway."
            )
            if mode == "strict":
                raise DiskFullError(message)
            warnings.warn(message, UserWarning, stacklevel=3)
