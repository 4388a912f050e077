"""Mechanisms of hf_haul that a measured process can do without: each is taken out of the running program.

``client.py ... --without NAME`` takes one out before anything is measured; what is left is what the code would do if the
mechanism were deleted. Where modules are, stands in one table below.
"""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final, NoReturn

from urllib3.connection import HTTPConnection

__all__ = ["SWITCHES", "switch_off"]

#: Where each module is, or was: the first that exists is taken.
PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "concurrency": ("hf_haul.transports.concurrency", "hf_haul.concurrency"),
    "dialing": ("hf_haul.transports.dialing",),
    "fetching": ("hf_haul.engine.part_fetcher", "hf_haul.fetch"),
    "receiving": ("hf_haul.transports.receiving",),
}

#: Sets an attribute, as ``setattr`` does.
Put = Callable[[Any, str, Any], None]


def _module(name: str) -> ModuleType:
    for place in PLACES[name]:
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not place.startswith(error.name):
                raise  # it is there, and something that it needs is not
    raise LookupError(f"no module {' or '.join(PLACES[name])}: say in {__file__} where it is now")


def _replace(put: Put, owner: Any, name: str, new: Any) -> None:
    """Put something else in the place of an attribute that must be there."""
    if not hasattr(owner, name):
        raise LookupError(f"{owner.__name__} has no {name}: say in {__file__} what is to be taken out now")
    put(owner, name, new)


def _without_buffers(put: Put) -> None:
    """The digest takes nothing from the connections' buffers, and nobody waits so that it could."""
    fetcher = _module("fetching").PartFetcher
    _replace(put, fetcher, "_show", lambda *_: False)
    _replace(put, fetcher, "_could_be_in_touch", lambda *_: False)


def _without_thrift(put: Put) -> None:
    """Fewer connections are never tried because the processor is short."""
    controller = _module("concurrency").ConcurrencyController
    _replace(put, controller, "_can_be_thrifty", lambda *_: False)


def _without_waitall(put: Put) -> None:
    """Each receive is Python's own, on slow connections, too."""
    _replace(put, _module("receiving").DirectReader, "_is_slow", lambda _: False)


def _without_eyeballs(put: Put) -> None:
    """Connecting is urllib3's: one address after the other, each for as long as a connection may take."""
    _replace(put, _module("dialing").WakeableConnection, "_new_conn", HTTPConnection._new_conn)


def _without_attributes(put: Put) -> None:
    """Files have no extended attributes, as on many file systems."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    for name in ("setxattr", "getxattr", "removexattr"):
        _replace(put, os, name, refuse)


def _without_adaptation(put: Put) -> None:
    """The number of connections stays what it is at the start."""
    controller = _module("concurrency").ConcurrencyController
    _replace(put, controller, "sample", lambda *_: None)
    _replace(put, controller, "settled", property(lambda _: True))


SWITCHES: Final[Mapping[str, Callable[[Put], None]]] = {
    "buffers": _without_buffers,
    "thrift": _without_thrift,
    "waitall": _without_waitall,
    "eyeballs": _without_eyeballs,
    "attributes": _without_attributes,
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
