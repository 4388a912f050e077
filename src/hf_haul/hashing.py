"""A thread that hashes what arrived early, while the rest of its file downloads."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from typing import Final

from hf_haul.staging import StagedFile
from hf_haul.verify import Verifier

__all__ = ["Hasher"]

#: Seconds after which the thread ends if there is nothing to hash.
_IDLE_SECONDS: Final = 10.0


class Hasher:
    """Follows the contiguous prefix of staged files, on one thread that exists only while there is work.

    The worker at the front of a file hashes what it receives; this thread hashes what others brought before
    their turn, by reading it back from the system's memory.

    Locking: ``_waits`` guards the attributes below it; hashing happens outside it.
    """

    def __init__(self) -> None:
        self._waits = threading.Condition()
        self._files: OrderedDict[Verifier, StagedFile] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._closing = False

    def soon(self, verifier: Verifier, staged: StagedFile) -> None:
        """Have a file's digest follow its prefix."""
        with self._waits:
            if self._closing:
                return
            self._files[verifier] = staged
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hf-haul-hasher", daemon=True)
                self._thread.start()
            else:
                self._waits.notify()

    def close(self) -> None:
        """End the thread after the file it is at."""
        with self._waits:
            self._closing = True
            self._files.clear()
            self._waits.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._waits:
                idle = not self._files and not self._waits.wait_for(self._wanted, _IDLE_SECONDS)
                if idle or self._closing:
                    self._thread = None
                    return
                verifier, staged = self._files.popitem(last=False)
            with contextlib.suppress(OSError):  # closed meanwhile; whoever resumes it hashes it again
                verifier.catch_up(staged.frontier, staged.read_into, wait=False)

    def _wanted(self) -> bool:
        return bool(self._files) or self._closing
