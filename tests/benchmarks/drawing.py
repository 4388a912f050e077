"""What ``bench_drawing`` runs in a process of its own: a download that is shown in a terminal, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import termios
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

Work = Callable[[], dict[str, Any] | None]

_COLUMNS: Final = 120
_ROWS: Final = 40
#: The threads that exist for what is shown: the one that draws, and the one that tells of events.
_THREADS: Final = ("hf-haul-display", "hf-haul-on-event")


def haul_shown(repo_id: str, cache_dir: str, mode: str) -> Work:
    """hf-haul's ``snapshot_download``, shown as ``--progress`` does.

    Reports ``drawing``, the processor seconds of the threads that only showing needs.

    Args:
        repo_id: What to download.
        cache_dir: An empty folder.
        mode: ``tty``, ``plain``, ``json`` or ``none``.
    """
    import hf_haul
    from hf_haul.cli.progress import showing

    download = hf_haul.snapshot_download
    terminal = _terminal()

    def work() -> dict[str, Any]:
        clocks = _ThreadClocks()
        with showing(mode, stream=terminal) as shown:
            download(repo_id, cache_dir=cache_dir, on_event=shown.on_event)
            clocks.look()
        clocks.stop()
        return {"drawing": clocks.seconds}

    return work


def _terminal() -> TextIO:
    """Return a terminal that somebody reads."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 1 << 16):
                pass

    threading.Thread(target=read, daemon=True, name="reader").start()
    return open(theirs, "w", encoding="utf-8")


class _ThreadClocks(threading.Thread):
    """Adds up the processor time of the threads of a name, also of those that end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._seen: dict[int, float] = {}
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            self.look()

    def look(self) -> None:
        for thread in threading.enumerate():
            if thread.name.startswith(_THREADS) and thread.ident is not None:
                with contextlib.suppress(OSError):  # it has just ended
                    clock = time.pthread_getcpuclockid(thread.ident)
                    self._seen[thread.ident] = time.clock_gettime(clock)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    @property
    def seconds(self) -> float:
        """Processor seconds of them all."""
        return sum(self._seen.values())
