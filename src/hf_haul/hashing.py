"""Threads that hash files while they download."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import OrderedDict
from typing import Final

from hf_haul.processors import usable_processors
from hf_haul.staging import StagedFile
from hf_haul.verify import Verifier

__all__ = ["Hasher"]

#: Seconds after which a thread ends if there is nothing to hash.
_IDLE_SECONDS: Final = 10.0


class Hasher:
    """Follows the contiguous prefix of staged files, on threads that exist only while there is work.

    What the worker at the front of a file does not hand over is read back from the system's memory. Either costs less
    than having that worker hash what it receives: its connection would stand still meanwhile.

    Args:
        most: Threads at the most, each at one file; as many as there are processors to use by default.

    Locking: ``_waits`` guards the attributes below it; hashing happens outside it.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most or math.ceil(usable_processors())
        self._waits = threading.Condition()
        self._files: OrderedDict[Verifier, StagedFile] = OrderedDict()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closing = False

    def soon(self, verifier: Verifier, staged: StagedFile) -> None:
        """Have a file's digest follow its prefix."""
        with self._waits:
            if self._closing or verifier in self._files:
                return
            self._files[verifier] = staged
            if len(self._files) <= self._idle:
                self._waits.notify()
            elif len(self._threads) < self._most:
                thread = threading.Thread(target=self._run, name="hf-haul-hasher", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads to be had: it is hashed in the end
                    thread.start()
                    self._threads.add(thread)

    def close(self) -> None:
        """End the threads after the files they are at."""
        with self._waits:
            self._closing = True
            self._files.clear()
            self._waits.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            verifier, staged = work
            with contextlib.suppress(OSError):  # closed meanwhile; whoever resumes it hashes it again
                verifier.catch_up(staged.frontier, staged.read_into, wait=False)

    def _next(self) -> tuple[Verifier, StagedFile] | None:
        """The file that has waited longest; ``None`` if the calling thread is to end."""
        with self._waits:
            self._idle += 1
            try:
                self._waits.wait_for(lambda: self._files or self._closing, _IDLE_SECONDS)
            finally:
                self._idle -= 1
            if self._closing or not self._files:
                self._threads.discard(threading.current_thread())
                return None
            return self._files.popitem(last=False)
