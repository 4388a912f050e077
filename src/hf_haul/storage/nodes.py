"""Devices and pipes as destinations: never replaced, the bytes are written into them, as ``cp`` does."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hf_haul.errors import StopRequestedError
from hf_haul.storage.regular_files import is_node_mode

__all__ = ["NodeDestination", "is_node"]

#: Seconds between two looks whether the download was cancelled, while nobody reads from a pipe.
_LOOK_SECONDS: Final = 0.1
#: Bytes written at a time.
_STEP: Final = 1 << 20


def is_node(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a device or a pipe, which is written into and not replaced."""
    try:
        return is_node_mode(os.stat(path).st_mode)
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class NodeDestination:
    """A device or a pipe. The file is staged elsewhere, and written into it in order once it is verified.

    Attributes:
        file: The node.
        version: What tells this content from another one: a URL, an etag.
    """

    file: Path
    version: str = field(default="", repr=False)  # it may be a URL, and signed

    def __post_init__(self) -> None:
        if stat.S_ISSOCK(os.stat(self.file).st_mode):  # nobody can open one to write into it
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), os.fspath(self.file))

    def __fspath__(self) -> str:
        """Return the node."""
        return os.fspath(self.file)

    @property
    def path(self) -> Path:
        """The node."""
        return self.file

    @property
    def staging_dir(self) -> Path:
        """A folder of this user's for temporary files."""
        user = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir(), f"hf-haul-{user}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(0o700)
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != user):
            raise PermissionError(errno.EACCES, "Somebody else made this folder", os.fspath(folder))
        return folder

    @property
    def staging_key(self) -> str:
        """A hash of the node's path and of the version."""
        content = f"{self.file}\0{self.version}".encode("utf-8", "surrogatepass")
        return f"node.{hashlib.sha256(content).hexdigest()[:16]}"

    @property
    def former_keys(self) -> tuple[str, ...]:
        """None."""
        return ()

    def replaces(self, key: str) -> bool:
        """Return ``False``: whatever else is staged belongs to others."""
        del key
        return False

    @property
    def upstream_lock(self) -> None:
        """None: huggingface_hub knows nothing of it."""
        return

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Return ``False``: a node is written to again each time."""
        del check
        return False

    def publish(self, staged: Path, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Write the verified file ``staged`` into the node, in order, and remove it.

        Args:
            staged: The file.
            is_cancelled: Asked now and then while nobody reads what is written.

        Raises:
            StopRequestedError: It was cancelled.
            OSError: The node cannot be opened, or refuses.
        """
        try:
            with contextlib.ExitStack() as stack:
                source = stack.enter_context(open(staged, "rb"))
                fd = self._open(is_cancelled)
                stack.callback(os.close, fd)
                while data := memoryview(source.read(_STEP)):
                    while data:
                        data = data[_write_some(fd, data, is_cancelled) :]
        finally:
            with contextlib.suppress(OSError):
                os.unlink(staged)

    def _open(self, is_cancelled: Callable[[], bool]) -> int:
        """Open the node; wait until a pipe has a reader, as ``open`` does."""
        if not stat.S_ISFIFO(os.stat(self.file).st_mode):
            return os.open(self.file, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))
        while True:
            try:
                return os.open(self.file, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            _pause(is_cancelled)


def _write_some(fd: int, data: memoryview, is_cancelled: Callable[[], bool]) -> int:
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            _pause(is_cancelled, fd)


def _pause(is_cancelled: Callable[[], bool], *writable: int) -> None:
    """Wait a moment, or until one of the descriptors can be written to.

    Raises:
        StopRequestedError: The download was cancelled.
    """
    if is_cancelled():
        raise StopRequestedError
    select.select([], writable, [], _LOOK_SECONDS)
