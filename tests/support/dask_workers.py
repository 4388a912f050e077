"""What tests do to the workers of a Dask cluster; called on them, so it is of what is installed there only."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Final

from tests.support.full_disk import FullDisk

__all__ = ["NO_PROFILER", "fill_disk", "forget_hf_haul", "pid", "slow_down", "threads_of_nodes"]

#: Dask's profiler and a thread that begins can stop a process of Python 3.11 for good (gh-106883 of CPython).
NO_PROFILER: Final = {"distributed.worker.profile.enabled": False}


def pid() -> int:
    """The worker's process."""
    return os.getpid()


def fill_disk(room: int) -> None:
    """Leave this worker a disk with room for so many bytes."""
    from hf_haul.storage import staged_file

    staged_file.os = FullDisk(room)  # type: ignore[attr-defined, assignment]  # as tests do


def slow_down(bytes_per_s: int) -> None:
    """Give this worker a slow network, until it is started again."""
    from tests.support import slow_network

    slow_network.slow_down(bytes_per_s)


class _NotThere:
    """Says of a package, to whoever imports it, that it is not installed."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "hf_haul":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def forget_hf_haul() -> None:
    """Be as a worker without hf-haul, until it is started again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "hf_haul"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _NotThere())  # type: ignore[arg-type]  # it finds nothing


def threads_of_nodes() -> list[str]:
    """Names of the threads of nodes that run here."""
    return [each.name for each in threading.enumerate() if each.name.startswith("hf-haul-node")]
