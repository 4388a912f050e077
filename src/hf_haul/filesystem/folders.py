"""Which folders have to be listed, and how: each once at a time, many small ones together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from huggingface_hub import RepoFile

from hf_haul.forks import renew_after_fork

__all__ = ["FolderListings", "group_by_folder"]

#: Folders whose listings are counted.
_COUNTED: Final = 10_000
#: Seconds between two looks whether another thread is done; an interrupt is seen within them.
_LOOK_SECONDS: Final = 0.5


class FolderListings:
    """Knows what is being asked for, and which folders were listed one by one. Safe for many threads.

    Locking: ``_lock`` guards all attributes. Nothing is asked for under it.
    """

    def __init__(self) -> None:
        self._start_empty()
        renew_after_fork(self, FolderListings._start_empty)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._now: dict[str, threading.Event] = {}
        self._inside: Counter[str] = Counter()  # folders listed, by the folder they are in
        self._large: set[str] = set()

    @contextmanager
    def alone(self, what: str, is_known: Callable[[], bool]) -> Iterator[bool]:
        """Let one thread ask for something, and others wait until it has.

        Args:
            what: What is asked for.
            is_known: Tells whether it has become known meanwhile.

        Yields:
            Whether it is to be asked for.
        """
        while True:
            with self._lock:
                other = self._now.get(what)
                if other is None:
                    mine = self._now[what] = threading.Event()
                    break
            while not other.wait(_LOOK_SECONDS):
                pass
        try:
            yield not is_known()
        finally:
            with self._lock:
                if self._now.get(what) is mine:
                    del self._now[what]
            mine.set()

    def whole_of(self, root: str, folder: str) -> str | None:
        """Return the folder that should be listed with all that is below it, instead of one inside it.

        It is the one nearest to the root in which another was listed before, and that may be small.

        Args:
            root: Name of the repository and revision.
            folder: What is to be listed. If there is nothing better, it counts as listed by itself.
        """
        inside = _above(root, folder)
        with self._lock:
            for each in inside:
                if self._inside[each] and each not in self._large:
                    return each
            if len(self._inside) >= _COUNTED:
                self._inside.clear()
                self._large.clear()
            self._inside.update(inside)
            return None

    def note_large(self, folder: str) -> None:
        """Note that there is more below a folder than one answer holds."""
        with self._lock:
            self._large.add(folder)


def _above(root: str, folder: str) -> list[str]:
    """Return the folders that a folder is in, from the root on."""
    parts = folder[len(root) + 1 :].split("/")
    return ["/".join([root, *parts[:count]]) for count in range(len(parts))]


def group_by_folder(root: str, folder: str, entries: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """Return listings by folder of what is below one, in the form that huggingface_hub's filesystem keeps.

    Args:
        root: Name of the repository and revision.
        folder: Name of the folder.
        entries: All that is below it.
    """
    listings: dict[str, list[dict[str, Any]]] = {folder: []}
    for entry in entries:
        name = f"{root}/{entry.path}"
        found: dict[str, Any]
        if isinstance(entry, RepoFile):
            found = {
                "name": name, "size": entry.size, "type": "file", "blob_id": entry.blob_id, "lfs": entry.lfs,
                "xet_hash": entry.xet_hash, "last_commit": entry.last_commit, "security": entry.security,
            }  # fmt: skip
        else:
            found = {
                "name": name, "size": 0, "type": "directory", "tree_id": entry.tree_id,
                "last_commit": entry.last_commit,
            }  # fmt: skip
            listings.setdefault(name, [])
        listings.setdefault(name.rpartition("/")[0], []).append(found)
    return listings
