"""Every lock of ours that there is in this process, found by looking at the objects themselves."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

__all__ = ["holding", "our_locks"]

_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_CONTAINERS = (list, tuple, set, frozenset, dict)
#: Packages whose objects are looked into where one of ours holds them.
_HELPERS = ("urllib3", "requests", "queue", "threading", "concurrent", "functools", "weakref", "collections")
#: Not ours to hold: the hub that a test serves, which has to answer meanwhile.
_SPARED = "hf_haul.localhub"


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.startswith("hf_haul") and not module.startswith(_SPARED)


def our_locks() -> dict[str, Any]:
    """All locks that modules and objects of ours have, those of helpers inside them included, by where they are."""
    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = set()
    for name, module in list(sys.modules.items()):
        if _is_ours(name):
            for attribute, value in list(vars(module).items()):
                _look(value, f"{name}.{attribute}", found, seen)
    for thing in gc.get_objects():
        if _is_ours(getattr(type(thing), "__module__", None)):
            _look(thing, type(thing).__qualname__, found, seen)
    return {f"{where} #{number}": lock for number, (where, lock) in enumerate(found.values())}


def _look(value: Any, where: str, found: dict[int, tuple[str, Any]], seen: set[int], depth: int = 0) -> None:
    if type(value) in weakref.ProxyTypes:  # what it stands for may be gone, and is found by itself if not
        return
    if isinstance(value, _LOCKS):
        found.setdefault(id(value), (where, value))
    elif id(value) not in seen and depth < 8 and not isinstance(value, ModuleType | type | threading.Thread):
        seen.add(id(value))
        if _is_ours(type(value).__module__):
            where = type(value).__qualname__
        for name, inner in _inside(value):
            _look(inner, f"{where}{name}", found, seen, depth + 1)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if isinstance(value, Mapping) and isinstance(value, _CONTAINERS):
        yield from (("[]", each) for each in [*value.keys(), *value.values()])
    elif isinstance(value, _CONTAINERS):
        yield from (("[]", each) for each in list(value))
    elif isinstance(value, FunctionType) and _is_ours(value.__module__):
        yield from (("()", cell) for cell in value.__closure__ or ())
    elif isinstance(value, CellType):
        with contextlib.suppress(ValueError):
            yield "", value.cell_contents
    elif isinstance(value, MethodType):
        yield "", value.__self__
    elif (
        _is_ours(kind.__module__)
        or kind.__module__.partition(".")[0] in _HELPERS
        or isinstance(value, Future)
    ):
        yield from ((f".{name}", each) for name, each in list(getattr(value, "__dict__", {}).items()))
        for base in kind.__mro__:
            for name in getattr(base, "__slots__", ()):
                if hasattr(value, name):
                    yield f".{name}", getattr(value, name)


@contextlib.contextmanager
def holding(locks: Mapping[str, Any]) -> Iterator[list[str]]:
    """Hold locks, in a thread of its own, while the block runs; yields which ones.

    One that somebody else holds all the time, such as that of a thread that was started, is passed over.
    """
    held: list[str] = []
    ready, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for name, lock in locks.items():
                if lock.acquire(timeout=0.2):
                    stack.callback(lock.release)
                    held.append(name)
            ready.set()
            leave.wait()

    thread = threading.Thread(target=hold, name="holds-locks", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield held
    finally:
        leave.set()
        thread.join()
