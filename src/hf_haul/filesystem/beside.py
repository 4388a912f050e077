"""The files beside a file, in the order in which people number them, from listings that are there already."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["FilesBeside", "natural_key"]

#: Entries of the largest folder that is sorted.
_LARGEST: Final = 50_000
#: Folders whose order is remembered.
_FOLDERS: Final = 256
_NUMBER: Final = re.compile("([0-9]+)")

Listings = Mapping[str, list[dict[str, Any]]]


def natural_key(name: str) -> list[Any]:
    """Return what sorts names as people do: ``part-2`` before ``part-10``."""
    return [(len(each), each) if i % 2 else each for i, each in enumerate(_NUMBER.split(name))]


class FilesBeside:
    """Tells which files follow one, in its folder and in the folders after that. Requests nothing."""

    def __init__(self) -> None:
        self._orders: dict[tuple[str, str], tuple[list[dict[str, Any]], int, list[str], dict[str, int]]] = {}

    def after(self, listings: Listings, name: str) -> Iterator[str]:
        """Yield the files after one that have the same suffix, in order.

        Args:
            listings: Entries by folder, as far as they are known; each with ``name`` and ``type``.
            name: The file.
        """
        folder, suffix = name.rpartition("/")[0], _suffix(name)
        names, places = self._order(listings, folder, suffix)
        if name not in places:
            return
        yield from names[places[name] + 1 :]
        parent = folder.rpartition("/")[0]
        folders, places = self._order(listings, parent, "/")
        if folder not in places:
            return
        for each in folders[places[folder] + 1 :]:
            if each not in listings:
                return
            yield from self._order(listings, each, suffix)[0]

    def _order(self, listings: Listings, folder: str, suffix: str) -> tuple[list[str], dict[str, int]]:
        """Return the files of a suffix (or the folders, for ``/``) of a folder in order, and their places."""
        listing = listings.get(folder)
        if listing is None or len(listing) > _LARGEST:
            return [], {}
        known = self._orders.get((folder, suffix))
        # Listings are replaced; where one is appended to, its length tells.
        if known is None or known[0] is not listing or known[1] != len(listing):
            names = [
                each["name"]
                for each in list(listing)
                if ("/" if each["type"] == "directory" else _suffix(each["name"])) == suffix
            ]
            names.sort(key=natural_key)
            if len(self._orders) >= _FOLDERS:
                self._orders.clear()
            known = (listing, len(listing), names, {each: i for i, each in enumerate(names)})
            self._orders[folder, suffix] = known
        return known[2], known[3]


def _suffix(name: str) -> str:
    last = name.rpartition("/")[2]
    return last.rpartition(".")[2] if "." in last else ""
