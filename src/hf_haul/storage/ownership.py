"""Who owns a staged file, and whether that process is still alive.

By process id and start time where both processes see the same processes; by ``flock`` where both run under
one kernel and the lock was seen to tell the truth; else by the file's age. Locks that lie, as on some network
file systems, so cost time, never bytes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import reprlib
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from hf_haul.config import DEFAULT_TIMINGS, Timings
from hf_haul.storage.regular_files import open_regular

__all__ = [
    "Owner",
    "OwnerStatus",
    "OwnerWatch",
    "current_owner",
    "is_running",
    "owner_from",
    "owner_status",
    "printable",
    "program_of",
    "read_owner_xattr",
    "read_uri_xattr",
    "remove_owner_xattr",
    "take_lock",
    "this_process",
    "try_lock",
    "write_owner_xattr",
]

logger = logging.getLogger(__name__)

#: The most that a process id can be: Windows' are of 32 bits.
_MOST_PID: Final = (1 << 32) - 1
#: Characters of any field of a record, more than any system gives.
_FIELD_LENGTH: Final = 256

#: Characters of a host's name that are kept; the record has to fit its place.
_HOST_LENGTH: Final = 64

_ATTRIBUTE: Final = "user.hf_haul.owner"

#: Seconds after which a file that nobody signed and nobody locks was not just created, but cut off.
_UNSIGNED_AFTER: Final = 5.0

#: Seconds for which another process may hold the lock of a file that it only looks at, and between two
#: attempts.
_LOCK_SECONDS: Final = 2.0
_LOCK_PAUSE: Final = 0.005

#: ``stale``: gone as far as we can see, without proof.
OwnerStatus = Literal["alive", "dead", "stale"]


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


def owner_from(record: object) -> Owner:
    """Read an owner's record, which anybody may have written.

    Args:
        record: What JSON gave; fields that are not known here are passed over.

    Raises:
        ValueError: It is no record: a field is missing, of another type, or more than any system gives.
    """
    if not isinstance(record, dict):
        raise ValueError("the owner is not a record")  # noqa: TRY004  one error for all that may be wrong
    fields: dict[str, Any] = {name: record.get(name) for name in Owner.__slots__}
    pid = fields["pid"]
    if type(pid) is not int or not 0 < pid <= _MOST_PID:
        raise ValueError(f"invalid process id {reprlib.repr(pid)}")
    for name, value in fields.items():
        if name != "pid" and (not isinstance(value, str) or len(value) > _FIELD_LENGTH):
            raise ValueError(f"{name} is {reprlib.repr(value)}")
    fields["host"] = printable(fields["host"])
    return Owner(**fields)


def _read_text(path: str) -> str:
    """Return the text of a system file, or an empty one; bytes of any encoding are kept."""
    try:
        return os.fsdecode(Path(path).read_bytes()).strip()
    except OSError:
        return ""


def _host_name() -> str:
    """Return the name of this host for messages, short and in ASCII."""
    name = os.fsencode(socket.gethostname())
    return name.decode("ascii", "backslashreplace")[:_HOST_LENGTH]


def _process_start(pid: int | Literal["self"]) -> str:
    """Return the start time of a process in ticks since boot; empty if it is gone, a zombie, or unknown."""
    # Fields after the command name, which may itself hold blanks and parentheses.
    stat = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return "" if len(stat) < 20 or stat[0] in "ZX" else stat[19]


def is_running(pid: int) -> bool:
    """Return whether there is such a process, as far as we can see."""
    return _process_start(pid) != "" or _is_hidden(pid)


def _is_hidden(pid: int) -> bool:
    """Return whether a process may exist that ``/proc`` hides: another user's, or any on macOS."""
    if sys.platform == "win32" or os.path.exists(f"/proc/{pid}"):  # there, a signal of 0 would end it
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return not os.path.exists("/proc/self")


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def this_process() -> Owner:
    """Return the owner record of the calling process."""
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
    """Return the owner record of the calling process; a forked child gets its own."""
    global _me
    me = _me
    if me is None or me.pid != os.getpid():
        _me = me = this_process()  # threads that meet here make the same record
    return me


def program_of(owner: Owner) -> str | None:
    """Return the program that a living owner runs, such as ``train.py``; ``None`` where it cannot be seen.

    Only the name is told: arguments may hold a token.
    """
    me = current_owner()
    if (owner.boot, owner.namespace) != (me.boot, me.namespace):
        return None
    words = [word for word in _read_text(f"/proc/{owner.pid}/cmdline").split("\0") if word]
    if not words:
        return None
    program = os.path.basename(words[0])
    if program.startswith("python"):
        if words[1:2] == ["-m"] and len(words) > 2:
            program = f"python -m {words[2]}"
        elif len(words) > 1 and not words[1].startswith("-"):
            program = os.path.basename(words[1])
    return printable(program)


def printable(text: str) -> str:
    """Return a text that somebody else wrote, fit to be shown: a terminal obeys what it is shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def try_lock(fd: int) -> bool:
    """Take the advisory lock of an open file; return ``True`` also where there are no such locks."""
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


def take_lock(fd: int) -> bool:
    """Take the advisory lock of a file of ours; return whether it was to be had.

    Who looks whether we are alive holds it for a moment: without ours, the next who looks would take us for
    dead.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while not try_lock(fd):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOCK_PAUSE)
    return True


def write_owner_xattr(fd: int, uri: str = "") -> None:
    """Write the calling process as owner into extended attributes, for a file without a header.

    Where locks tell nothing, as on some network file systems, it is the only sign that an owner is dead: who
    goes on after a kill takes 1.7 s with it and 31.9 s without (18.7 times, 18.5 to 18.8; ``python -m
    tests.benchmarks --only mechanisms --row attributes-killed-no-locks-plain-1``). Where they do tell, it
    buys nothing.

    Args:
        fd: The file, open.
        uri: What people call it, noted beside the owner.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setxattr(fd, _ATTRIBUTE, json.dumps({**asdict(current_owner()), "uri": uri}).encode())


def read_owner_xattr(fd: int) -> Owner | None:
    """Return the owner in a file's extended attributes; ``None`` if there is none."""
    try:
        record = _read_xattr(fd)
        return None if record is None else owner_from(record)
    except (ValueError, RecursionError) as error:
        logger.debug("ignoring an extended attribute that names no owner: %s", error)
    return None


def read_uri_xattr(fd: int) -> str:
    """Return what people call a file, from its extended attributes; empty if that was not noted."""
    with contextlib.suppress(ValueError, RecursionError):
        record = _read_xattr(fd)
        uri = record.get("uri") if isinstance(record, dict) else None
        return uri if isinstance(uri, str) else ""
    return ""


def _read_xattr(fd: int) -> object:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return json.loads(os.getxattr(fd, _ATTRIBUTE))
    return None


def remove_owner_xattr(fd: int) -> None:
    """Remove the owner from the file's extended attributes."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.removexattr(fd, _ATTRIBUTE)


def _locks_tell_the_truth(path: Path) -> bool:
    """Return whether a lock that we hold on ``path`` is seen through a second open of it."""
    try:
        fd = open_regular(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY, own=1)
    except OSError:
        return False
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)


def owner_status(
    path: Path,
    fd: int,
    owner: Owner | None,
    *,
    released: bool,
    gone_after: float = DEFAULT_TIMINGS.unseen,
) -> OwnerStatus:
    """Judge the owner of a staged file.

    Args:
        path: The staged file.
        fd: It, open.
        owner: Who its header says it belongs to, if it says.
        released: Whether the header says that the owner let go of it.
        gone_after: Seconds without a sign of life after which an owner that we cannot see is taken for gone.
    """
    me = current_owner()
    status = os.fstat(fd)
    modified = status.st_mtime
    if released or modified == 0:  # a sequential file has nowhere else to say so
        return "dead"
    same_kernel = owner is not None and owner.boot == me.boot
    if owner is not None and same_kernel and owner.namespace == me.namespace and me.started:
        running = _process_start(owner.pid) == owner.started or _is_hidden(owner.pid)
        return "alive" if running else "dead"
    if not try_lock(fd):
        return "alive"
    age = time.time() - modified
    # Whoever writes has locked the file before its first byte.
    begun = status.st_size > 0 or age > _UNSIGNED_AFTER
    if (same_kernel or (owner is None and begun)) and _locks_tell_the_truth(path):
        return "dead"
    return "stale" if age > gone_after else "alive"


class OwnerWatch:
    """Remembers how long the owners of awaited files have given no sign of life.

    A process that was stopped (Ctrl+Z, a debugger, a frozen container) is there, and does nothing; and a
    record may name a process that never had the file. Who fetches a file changes it, or touches it every 15
    seconds where nothing comes. Time is told by our own clock, from our first look on: what a file says of it
    may come from another host's.

    Args:
        clock: Seconds, monotonic.
        timings: How long owners may give none.

    Attributes:
        timings: The same.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, timings: Timings = DEFAULT_TIMINGS
    ) -> None:
        self._clock = clock
        self.timings = timings
        # Each entry is about one file, which one thread at a time looks at.
        self._seen: dict[tuple[int, int], tuple[tuple[int, int], float]] = {}

    def is_asleep(self, status: os.stat_result) -> bool:
        """Look at another process's file; return whether it has not changed for long."""
        now = self._clock()
        file, state = (status.st_dev, status.st_ino), (status.st_mtime_ns, status.st_size)
        before, since = self._seen.get(file, (None, now))
        if before != state:
            since = now
            self._seen[file] = (state, now)
        return now - since >= self.timings.asleep
