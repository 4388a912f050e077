"""Pages for a program to take that were in use a moment ago, however fast it takes them."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks.harness import MIB

__all__ = ["pages_in_use"]

#: Of Linux 5.14; ``mmap`` has no name for it.
_MADV_POPULATE_WRITE: Final = 23
#: Bytes that are free before the program asks for them.
_AHEAD: Final = 512 * MIB
_LOOK_EVERY: Final = 0.02


@contextlib.contextmanager
def pages_in_use(nbytes: int) -> Iterator[None]:
    """Hold memory, and give it back within the block as fast as it is taken.

    The host of a virtual machine may take free pages back, and then the first touch of a new page costs up to seconds
    per GB. It does so two seconds after they were freed, or at once beyond a GiB of them: giving them back all before
    the run would leave fast programs all and slow ones few. No machine that has its memory knows such costs.

    Args:
        nbytes: What the program takes in all.

    Raises:
        RuntimeError: There is not that much memory, or the system is older than Linux 5.14.
    """
    size = -(-(nbytes + _AHEAD) // MIB) * MIB
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        try:
            held.madvise(_MADV_POPULATE_WRITE)
        except OSError as error:
            raise RuntimeError(f"cannot hold {size // MIB} MiB of memory ({error}); try --as-is") from error
        over = threading.Event()
        follower = threading.Thread(target=_give_back, args=(held, size, over), daemon=True)
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()


def _give_back(held: mmap.mmap, size: int, over: threading.Event) -> None:
    free_before, given = _free(), 0
    while True:
        taken = free_before + given - _free()
        wanted = min(max(given, (taken + _AHEAD) // MIB * MIB), size)
        if wanted > given:
            held.madvise(mmap.MADV_DONTNEED, given, wanted - given)
            given = wanted
        if over.wait(_LOOK_EVERY):
            return


def _free() -> int:
    """Bytes that nobody uses, not even as a cache."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemFree:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemFree")
