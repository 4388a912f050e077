"""Who owns a staged file, and whether that process is still alive.

By process id and start time where both processes see the same processes; by ``flock`` where both run under one
kernel and the lock was seen to tell the truth; else by the file's age. Locks that lie, as on some network file
systems, so cost time, never bytes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

__all__ = [
    "Life",
    "Owner",
    "current_owner",
    "erase",
    "is_running",
    "judge",
    "sign",
    "signature",
    "this_process",
    "try_lock",
]

logger = logging.getLogger(__name__)

#: Seconds without a sign of life after which an owner that we cannot see is taken for gone.
_STALE_AFTER: Final = 120.0

#: Characters of a host's name that are kept; the record has to fit its place.
_HOST_LENGTH: Final = 64

_ATTRIBUTE: Final = "user.hf_haul.owner"

#: Seconds after which a file that nobody signed and nobody locks was not just created, but cut off.
_UNSIGNED_AFTER: Final = 5.0

#: ``stale``: gone as far as we can see, without proof.
Life = Literal["alive", "dead", "stale"]


@dataclass(frozen=True, slots=True)
class Owner:
    """Which process writes a staged file.

    Attributes:
        host: Name of its host, for messages.
        boot: What tells one run of a kernel from all others.
        pid: Process id, inside ``namespace``.
        started: When the process started, in the kernel's ticks: tells reused ids apart. Empty where the
            system does not say.
        namespace: The process id namespace (a container has its own), empty where there is none.
    """

    host: str
    boot: str
    pid: int
    started: str
    namespace: str


def _read_text(path: str) -> str:
    """What a file of the system says; empty if there is none. Names in it are bytes of any encoding."""
    try:
        return os.fsdecode(Path(path).read_bytes()).strip()
    except OSError:
        return ""


def _host_name() -> str:
    """The name of this host, for messages, as text that every encoding can express in a few bytes."""
    name = os.fsencode(socket.gethostname())
    return name.decode("ascii", "backslashreplace")[:_HOST_LENGTH]


def _process_start(pid: int | str) -> str:
    """Start time of a living process in ticks since boot; empty if it is gone, a zombie, or unknown."""
    # Fields after the command name, which may itself hold blanks and parentheses.
    stat = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return "" if len(stat) < 20 or stat[0] in "ZX" else stat[19]


def is_running(pid: int) -> bool:
    """Whether there is such a process, as far as we can see."""
    return _process_start(pid) != ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def this_process() -> Owner:
    """The owner record of the calling process."""
    host = _host_name()
    return Owner(
        host=host,
        # Without /proc a host's name has to do: a stale lock would not survive its reboot anyway.
        boot=_read_text("/proc/sys/kernel/random/boot_id") or f"host:{host}",
        pid=os.getpid(),
        started=_process_start("self"),
        namespace=_namespace(),
    )


_me: Owner | None = None


def current_owner() -> Owner:
    """The owner record of the calling process; a forked child gets its own."""
    global _me
    me = _me
    if me is None or me.pid != os.getpid():
        _me = me = this_process()  # threads that meet here make the same record
    return me


def try_lock(fd: int) -> bool:
    """Take the advisory lock of an open file; ``True`` too where there are no such locks."""
    if (
        sys.platform == "win32"
    ):  # pragma: no cover - an open file cannot be renamed there, which is lock enough
        return True
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.debug("file locks are not supported here: %s", error)
    return True


def sign(fd: int) -> None:
    """Note the calling process as the owner of a file that has no room for it, where the file system can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setxattr(fd, _ATTRIBUTE, json.dumps(asdict(current_owner())).encode())


def signature(fd: int) -> Owner | None:
    """Who signed a file; ``None`` if nobody did, or nobody could."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Owner(**json.loads(os.getxattr(fd, _ATTRIBUTE)))
    return None


def erase(fd: int) -> None:
    """Remove the signature."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.removexattr(fd, _ATTRIBUTE)


def _locks_tell_the_truth(path: Path) -> bool:
    """Whether a lock that we hold on ``path`` is seen through a second open of it."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)


def judge(path: Path, fd: int, owner: Owner | None, *, released: bool) -> Life:
    """Judge the owner of a staged file.

    Args:
        path: The staged file.
        fd: It, open.
        owner: Who its header says it belongs to, if it says.
        released: Whether the header says that the owner let go of it.
    """
    me = current_owner()
    modified = os.fstat(fd).st_mtime
    if released or modified == 0:  # a sequential file has nowhere else to say so
        return "dead"
    same_kernel = owner is not None and owner.boot == me.boot
    if owner is not None and same_kernel and owner.namespace == me.namespace and me.started:
        return "alive" if _process_start(owner.pid) == owner.started else "dead"
    if not try_lock(fd):
        return "alive"
    age = time.time() - modified
    if (same_kernel or (owner is None and age > _UNSIGNED_AFTER)) and _locks_tell_the_truth(path):
        return "dead"
    return "stale" if age > _STALE_AFTER else "alive"
