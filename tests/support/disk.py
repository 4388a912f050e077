"""A disk that does not answer: calls about the files of one folder wait until the test lets them go."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["CALLS", "HungDisk"]

#: The system calls about files that we make.
CALLS: Final = (
    "close", "fsync", "ftruncate", "link", "lstat", "mkdir", "open", "preadv", "pwrite", "rename", "replace", "scandir", "stat",
    "symlink", "unlink", "utime",
)  # fmt: skip


class HungDisk:
    """The file system of a folder, for as long as it is healthy and from when it hangs.

    Args:
        folder: Calls about what is in it hang; those about anything else do not.
        patch: Takes the place of the calls in ``os`` for the time of the test.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._root = os.path.realpath(folder)
        self._hanging: frozenset[str] = frozenset()
        self._released = threading.Event()
        self._reached = {name: threading.Event() for name in CALLS}
        for name in CALLS:
            if hasattr(os, name):
                patch.setattr(os, name, self._slow(name, getattr(os, name)))

    def hang(self, *names: str) -> None:
        """From now on, have these calls hang; all of them if none is named."""
        self._hanging = frozenset(names or CALLS)

    def release(self) -> None:
        """Let go of every call, and have none hang any more."""
        self._hanging = frozenset()
        self._released.set()

    def reached(self, *names: str, seconds: float = 20.0) -> bool:
        """Wait until one of these calls hangs, for ``seconds`` at the most for each."""
        return any(self._reached[name].wait(seconds) for name in names)

    def is_reached(self) -> set[str]:
        """The calls that hang, or have hung."""
        return {name for name, event in self._reached.items() if event.is_set()}

    def _slow(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if name in self._hanging and any(map(self._is_ours, args[:2])):
                self._reached[name].set()
                self._released.wait()
            return real(*args, **more)

        return call

    def _is_ours(self, argument: Any) -> bool:
        path: Any = None
        with contextlib.suppress(OSError, TypeError, ValueError):
            path = os.readlink(f"/proc/self/fd/{argument}") if type(argument) is int else os.fspath(argument)
        return isinstance(path, str) and (path + "/").startswith(self._root + "/")
