"""Mechanisms of hf_haul that a measured process can do without: each is taken out of the running program.

``client.py ... --without NAME`` takes one out before anything is measured; what is left is what the code would do if the
mechanism were deleted.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from urllib3.connection import HTTPConnection

from hf_haul.transports.concurrency import ConcurrencyController
from hf_haul.transports.dialing import WakeableConnection

__all__ = ["SWITCHES", "switch_off"]

#: Sets an attribute, as ``setattr`` does.
Put = Callable[[Any, str, Any], None]


def _replace(put: Put, owner: Any, name: str, new: Any) -> None:
    """Put something else in the place of an attribute that must be there."""
    if not hasattr(owner, name):
        raise LookupError(f"{owner.__name__} has no {name}: say in {__file__} what is to be taken out now")
    put(owner, name, new)


def _without_thrift(put: Put) -> None:
    """Fewer connections are never tried because the processor is short."""
    _replace(put, ConcurrencyController, "_can_be_thrifty", lambda *_: False)


def _without_eyeballs(put: Put) -> None:
    """Connecting is urllib3's: one address after the other, each for as long as a connection may take."""
    _replace(put, WakeableConnection, "_new_conn", HTTPConnection._new_conn)


def _without_attributes(put: Put) -> None:
    """Files have no extended attributes, as on many file systems."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    for name in ("setxattr", "getxattr", "removexattr"):
        _replace(put, os, name, refuse)


def _without_locks(put: Put) -> None:
    """Every lock can be taken at any time, as on some network file systems: those tell nothing."""
    _replace(put, fcntl, "flock", lambda *_: None)


def _without_adaptation(put: Put) -> None:
    """The number of connections stays what it is at the start."""
    _replace(put, ConcurrencyController, "sample", lambda *_: None)
    _replace(put, ConcurrencyController, "settled", property(lambda _: True))


SWITCHES: Final[Mapping[str, Callable[[Put], None]]] = {
    "thrift": _without_thrift,
    "eyeballs": _without_eyeballs,
    "attributes": _without_attributes,
    "locks": _without_locks,
    "adaptation": _without_adaptation,
}


def switch_off(name: str, put: Put = setattr) -> None:
    """Take a mechanism out of this process.

    Args:
        name: One of :data:`SWITCHES`.
        put: Sets an attribute; a test's own can be undone.

    Raises:
        LookupError: There is no such mechanism, or it is not where it was.
    """
    if name not in SWITCHES:
        raise LookupError(f"no mechanism {name!r}; there are {', '.join(SWITCHES)}")
    SWITCHES[name](put)
