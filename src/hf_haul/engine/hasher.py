"""Threads that hash files while they download."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

from hf_haul.engine.verifier import Verifier
from hf_haul.processors import usable_processors
from hf_haul.storage.staged_file import StagedFile
from hf_haul.threads import ThreadGroup

__all__ = ["Hasher"]

#: Seconds after which a thread ends if there is nothing to hash.
_IDLE_SECONDS: Final = 10.0


class Hasher:
    """Follows the contiguous prefix of staged files, on threads that exist only while there is work.

    What they hash is read back from the system's memory. That costs less than having a worker hash what it
    receives: its connection would stand still meanwhile.

    Nothing depends on these threads: what they have not hashed, whoever finishes the file hashes.

    Args:
        most: Threads at the most, each at one file; as many as there are processors to use by default.

    Locking: ``_lock`` guards ``_files``; hashing happens outside it.
    """

    def __init__(self, most: int | None = None) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[Verifier, StagedFile] = OrderedDict()
        self._threads = ThreadGroup(
            "hf-haul-hasher", most or math.ceil(usable_processors()), self._next, idle_seconds=_IDLE_SECONDS
        )
        self._closed = False

    def soon(self, verifier: Verifier, staged: StagedFile) -> None:
        """Queue a file whose digest is to follow its prefix.

        Call :meth:`start` afterwards, without a lock.
        """
        with self._lock:
            if not self._closed and verifier not in self._files:
                self._files[verifier] = staged
                self._threads.wake()

    def start(self) -> None:
        """Start the threads that are missing. Where the system gives none, files are hashed at their end."""
        self._threads.start()

    def close(self, timeout: float | None = None) -> bool:
        """End the threads after the files they are at.

        Args:
            timeout: Seconds to wait for them at the most.

        Returns:
            Whether they have ended.
        """
        with self._lock:
            self._closed = True
            self._files.clear()
        return self._threads.close(timeout)

    def _next(self) -> Callable[[], None] | None:
        """Hash the file that has waited longest; ``None`` if there is none."""
        with self._lock:
            return partial(_hash, *self._files.popitem(last=False)) if self._files else None


def _hash(verifier: Verifier, staged: StagedFile) -> None:
    with contextlib.suppress(OSError):  # closed meanwhile; whoever resumes it hashes it again
        verifier.catch_up(staged.frontier, staged.read_into, wait=False)
