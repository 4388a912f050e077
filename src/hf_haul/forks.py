"""What a forked child renews: locks that other threads held, threads it does not have, changes half done.

A child of ``os.fork`` has one thread, and a copy of all memory as it was at that moment: a lock that another
thread of the parent held stays locked for ever, and what that thread was changing stays as it was in the
middle of the change. So whatever owns a lock or shared state says here how to start anew, and is started anew
in every child before any code of the child runs.

Nothing of ours is locked in the parent before the fork: that could wait for a thread which waits for the one
that forks. Nor is a registry of weak references with callbacks used (``WeakSet``): the collector may run such
callbacks at any moment, also in the middle of a change of the registry itself.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

__all__ = ["call_after_fork", "call_before_fork", "renew_after_fork", "renew_locks_of"]

T = TypeVar("T")

#: Owners, in the order of their registration, each with what renews it. Changed by single operations on a
#: dict, which are atomic; so is ``copy``, but not ``list(_owners.items())``, whose tuples may have the
#: collector run finalizers, and other threads.
_owners: Final[dict[int, tuple[weakref.ref[Any], Callable[[Any], None]]]] = {}
_numbers: Final = itertools.count()
_modules: Final[list[Callable[[], None]]] = []
_before: Final[list[Callable[[], None]]] = []
_behind: Final[list[Callable[[], None]]] = []

#: Packages of others, by name, whose modules' locks are made anew.
_packages: Final[set[str]] = set()
_LOCK: Final = type(threading.Lock())
_RLOCK: Final = type(threading.RLock())

#: Owners registered between two removals of those that are gone.
_SWEEP_EVERY: Final = 256


def renew_after_fork(owner: T, renew: Callable[[T], None]) -> None:
    """Call ``renew(owner)`` in every child that is forked while ``owner`` lives.

    Args:
        owner: Whatever has locks, threads or state that other threads change. It is not kept alive.
        renew: Makes its locks and its state new. It runs before any other thread exists; it must not wait,
            and must not rely on anything that another thread may have been changing. Give the function and
            not the bound method, which would keep the owner alive.
    """
    number = next(_numbers)
    _owners[number] = (weakref.ref(owner), renew)
    if number % _SWEEP_EVERY == _SWEEP_EVERY - 1:
        for each, (reference, _) in _owners.copy().items():
            if reference() is None:
                _owners.pop(each, None)


def call_after_fork(renew: Callable[[], None]) -> None:
    """Call ``renew()`` in every forked child, for the state of a module."""
    _modules.append(renew)


def renew_locks_of(package: str) -> None:
    """Renew, in every forked child, the module-level locks of a package that does not do so itself.

    Args:
        package: Its name. What the locks guard has to bear a change that is not finished.
    """
    _packages.add(package)


def call_before_fork(prepare: Callable[[], None], undo: Callable[[], None]) -> None:
    """Call ``prepare()`` before each fork and ``undo()`` after it, for what a child would do too late.

    Args:
        prepare: Called in the parent right before the fork, by the thread that forks; it must not wait.
        undo: Called in the parent right after it.
    """
    _before.append(prepare)
    _behind.append(undo)


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _drop_imports() -> None:
    """Make a child import anew the modules that other threads of its parent were importing.

    ``hf_haul``, as huggingface_hub, imports most of its modules when they are first used. CPython keeps the
    lock of a module that is being imported as it is in a child, where whoever needs the module waits for it
    for ever.
    """
    bootstrap = getattr(importlib, "_bootstrap", None)
    locks: dict[str, Callable[[], Any]] = getattr(bootstrap, "_module_locks", {})
    for name, reference in locks.copy().items():  # `list(locks.items())` lets finalizers in that change it
        if getattr(reference(), "owner", None) in {None, threading.get_ident()}:
            continue
        locks.pop(name, None)
        if getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False):
            del sys.modules[name]


def _renew_locks_of_others() -> None:
    fresh: dict[
        int, tuple[Any, Any]
    ] = {}  # with the old one, which keeps its number; several modules may share it
    for name, module in sys.modules.copy().items():
        if name.partition(".")[0] not in _packages:
            continue
        for variable, value in dict(getattr(module, "__dict__", {})).items():
            if isinstance(value, _LOCK | _RLOCK):
                new = threading.Lock() if isinstance(value, _LOCK) else threading.RLock()
                setattr(module, variable, fresh.setdefault(id(value), (value, new))[1])


def _renew_all() -> None:
    first: BaseException | None = None
    for renew_module in (_drop_imports, _renew_locks_of_others, *_modules):
        try:
            renew_module()
        except Exception as error:  # noqa: BLE001  the others have to be renewed all the same
            first = first or error
    for reference, renew in list(_owners.values()):
        owner = reference()
        if owner is None:
            continue
        try:
            renew(owner)
        except Exception as error:  # noqa: BLE001  the same
            first = first or error
    if first is not None:
        raise first  # the interpreter shows it, and goes on


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=partial(_call_all, _before),
        after_in_parent=partial(_call_all, _behind),
        after_in_child=_renew_all,
    )
