"""Which file systems are this machine's own, so that its locks and clocks tell who writes to them.

On others, mostly those that stand for something else (FUSE, network shares, drives of a host), a lock may be
granted to several machines at once, and a process of another machine may write.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Final

__all__ = ["keeps_writes"]

#: The kernel's own file systems: what is written is in its memory, and is what everybody reads, until it is
#: on disk.
_TRUSTED: Final = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


@functools.lru_cache(maxsize=256)
def keeps_writes(folder: Path) -> bool:
    """Return whether ``folder`` is on a file system known to keep what was written."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    return _kind_of(os.path.realpath(folder), mounts) in _TRUSTED


def _kind_of(path: str, mounts: str) -> str:
    """Return the type of the file system of ``path``, from the mounts in ``proc_pid_mountinfo(5)``."""
    kind, longest = "", -1
    for line in mounts.splitlines():
        place, _, filesystem = line.partition(" - ")
        mount = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), place.split()[4])
        below = path == mount or path.startswith(mount.rstrip("/") + "/")
        if below and len(mount) >= longest:  # of two on one place, the later covers the earlier
            kind, longest = filesystem.split()[0], len(mount)
    return kind
