"""Forks beside threads that use huggingface_hub: no child waits for a lock that another thread held."""

from __future__ import annotations

import importlib
import threading
from typing import Any, Final

from huggingface_hub.utils import tqdm as hf_tqdm  # type: ignore[attr-defined]  # the same

from hf_haul.forks import call_after_fork, call_before_fork, renew_locks_of

__all__ = []

_upstream_http: Final[Any] = importlib.import_module("huggingface_hub.utils._http")
#: Seconds that a fork waits for another thread to make huggingface_hub's client.
_FORK_SECONDS: Final = 1.0
#: For each thread that forks right now, huggingface_hub's client and the lock it holds meanwhile.
_forking: Final[list[tuple[Any, Any]]] = []


def _shield_client() -> None:
    """Keep a child from closing huggingface_hub's client, and other threads from making one during the fork.

    huggingface_hub closes the client in the child, and waits for ever for a lock of it that another thread
    held at the fork. The child makes its own client anyway. Making one takes locks of OpenSSL's, which cannot
    be renewed.
    """
    lock = getattr(_upstream_http, "_CLIENT_LOCK", None)
    held = lock is not None and lock.acquire(timeout=_FORK_SECONDS)
    client = getattr(_upstream_http, "_GLOBAL_CLIENT", None)
    _forking.append((client, lock if held else None))
    if client is not None:
        client.close = _do_nothing


def _release_client() -> None:
    client, lock = _forking.pop()
    if lock is not None:
        lock.release()
    if client is not None and all(client is not other for other, _ in _forking):
        vars(client).pop("close", None)


def _do_nothing() -> None:
    pass


def _renew_bar_locks() -> None:
    """Renew tqdm's locks for threads, which a thread that moves a bar holds; those for processes stay."""
    fresh = threading.RLock()
    for cls in hf_tqdm.__mro__:
        lock: Any = vars(cls).get("_lock")
        if isinstance(lock, type(fresh)):
            cls._lock = fresh  # type: ignore[attr-defined]  # tqdm's, as is th_lock
        elif hasattr(type(lock), "th_lock") and hasattr(lock, "locks"):
            type(lock).th_lock = fresh
            lock.locks = [fresh if isinstance(each, type(fresh)) else each for each in lock.locks]


call_before_fork(_shield_client, _release_client)
renew_locks_of("huggingface_hub")
renew_locks_of("_strptime")  # the standard library's, for dates
call_after_fork(_renew_bar_locks)
