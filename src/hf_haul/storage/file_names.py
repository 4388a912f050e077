"""Names that fit into a folder, and names that tell which process made them.

File systems count the bytes of a name, not its letters, and take 255 of them; some keep a part for themselves
(eCryptfs takes 143). Windows counts UTF-16 units.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import secrets
from typing import Final

__all__ = [
    "PASSING",
    "STAGED_SUFFIX",
    "cut_name",
    "fit_key",
    "name_giver",
    "name_length",
    "name_limit",
    "passing_name",
    "process_digits",
    "temporary_name",
]

#: Stands for the key in the name of a file that is made to be renamed or removed at once.
PASSING: Final = ".probe"
#: Bytes behind the key in the longest name of a staged file: ``.01234567.sealed.incomplete``.
STAGED_SUFFIX: Final = 27

_MOST: Final = 255
#: What the file systems that we know take at least; a name no longer than this needs no look at them.
_LEAST: Final = 143
#: Hex digits of the digest that stands for what was cut off a key, and a dot.
_CUT: Final = 17
#: Those bits of a process's digits that are its id: 4,194,304 is the most that Linux gives (``proc(5)``).
_PID_BITS: Final = (1 << 22) - 1
_numbers: Final = itertools.count(secrets.randbits(32))


@functools.lru_cache(maxsize=1024)
def name_limit(folder: str) -> int:
    """Return the most bytes (on Windows: UTF-16 units) of a name in a folder, which need not exist yet."""
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        limit = os.statvfs(folder).f_namemax if hasattr(os, "statvfs") else _MOST
    except OSError:
        return _MOST
    return min(limit, _MOST) if limit > 0 else _MOST


def name_length(name: str) -> int:
    """Return the length of a name as a file system counts it."""
    if os.name == "nt":
        return len(name.encode("utf-16-le", "surrogatepass")) // 2
    try:
        return len(os.fsencode(name))
    except UnicodeEncodeError:  # no name at all; its letters tell how long it would be
        return len(name.encode("utf-8", "surrogatepass"))


def cut_name(name: str, room: int) -> str:
    """Return the beginning of a name that takes at most ``room``, in whole characters."""
    if name_length(name) <= room:
        return name
    length = 0
    for at, letter in enumerate(name):
        length += name_length(letter)
        if length > room:
            return name[:at]
    return name  # pragma: no cover - its letters are as long as the name


def fit_key(key: str, folder: str | os.PathLike[str]) -> str:
    """Return the key itself, or a shorter one if names of staged files would be too long for the folder."""
    if name_length(key) <= _LEAST - STAGED_SUFFIX:
        return key
    room = name_limit(os.fspath(folder)) - STAGED_SUFFIX
    if name_length(key) <= room:
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{cut_name(key, room - _CUT)}.{digest[: _CUT - 1]}"


def process_digits() -> str:
    """Return eight hex digits: the low bits are this process's id, the others count on from a random number.

    They are few: at random, two threads would soon meet.
    """
    number = next(_numbers) * (_PID_BITS + 1) & 0xFFFFFFFF
    return f"{number | os.getpid() & _PID_BITS:08x}"


def name_giver(digits: str) -> int:
    """Return the id of the process that made a name with these digits; 0 if unknown."""
    return int(digits, 16) & _PID_BITS


def passing_name(folder: str) -> str:
    """Return a path for a file that exists only for a moment; sweeping removes what a kill left of such."""
    return os.path.join(folder, f"{PASSING}.{process_digits()}.haul.incomplete")


def temporary_name(path: str, suffix: str, prefix: str = "") -> str:
    """Return a new path beside ``path``, with as much of its name as fits.

    Args:
        path: What the file will replace, or become.
        suffix: Its end.
        prefix: Its begin.
    """
    folder, name = os.path.split(path)
    tail = f".{process_digits()}{suffix}"
    if name_length(name) + len(prefix) + len(tail) > _LEAST:
        name = cut_name(name, name_limit(folder) - len(prefix) - len(tail))
    return os.path.join(folder, f"{prefix}{name}{tail}")
