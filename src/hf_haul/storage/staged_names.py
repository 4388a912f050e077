"""Names of staged files: content, kind, and the process that gave the name."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

from hf_haul.descriptors import descriptors
from hf_haul.storage.file_names import PASSING, name_giver, process_digits

__all__ = [
    "OFFSET_SUFFIX",
    "SEALED_SUFFIX",
    "SEQUENTIAL_SUFFIX",
    "STAGED_NAME",
    "giver_of",
    "kind_of",
    "move_back",
    "private_name",
    "private_place",
    "scan_orphans",
]

_SUFFIX: Final = ".incomplete"
#: Names of staged files: ``<key>[.<eight hex digits>]<kind>``; the digits tell which process gave the name.
OFFSET_SUFFIX: Final = ".haul" + _SUFFIX
SEQUENTIAL_SUFFIX: Final = ".seq" + _SUFFIX
SEALED_SUFFIX: Final = ".sealed" + _SUFFIX
STAGED_NAME: Final = re.compile(r"(.+?)(?:\.([0-9a-f]{8}))?\.(?:haul|seq|sealed)\.incomplete", re.DOTALL)


def scan_orphans(directory: Path) -> dict[str, list[Path]]:
    """Return the staged files in a folder that earlier processes left, by key.

    One listing serves a whole queue; ``claiming.claim`` takes each key's share. Symbolic links are passed
    over, because no process of ours stages through one, but for those that were about to be renamed.
    """
    found: dict[str, list[Path]] = {}
    with (
        contextlib.suppress(OSError),
        descriptors.retry_on_shortage(lambda: os.scandir(directory)) as entries,
    ):
        for entry in entries:
            match = STAGED_NAME.fullmatch(entry.name)  # huggingface_hub's own end in .incomplete, too
            if match is not None and (match[1] == PASSING or not entry.is_symlink()):
                found.setdefault(match[1], []).append(Path(entry.path))
    return found


def private_name(directory: Path, key: str, kind: str) -> Path:
    """Return a name that only this process gives."""
    return Path(private_place(os.fspath(directory), key, kind))


def private_place(directory: str, key: str, kind: str) -> str:
    """Return the same as text."""
    while True:
        place = f"{directory or os.curdir}{os.sep}{key}.{process_digits()}{kind}"
        if not os.path.lexists(place):  # those bits are few, and a rename would replace what is there
            return place


def giver_of(name: str) -> int | None:
    """Return the id of the process that gave a staged file a private name; 0 if unknown."""
    match = STAGED_NAME.fullmatch(name)
    return name_giver(match[2]) if match is not None and match[2] else None


def kind_of(name: str) -> str:
    """Return the end of a staged file's name, which says what kind it is."""
    return next(kind for kind in (SEQUENTIAL_SUFFIX, SEALED_SUFFIX, OFFSET_SUFFIX) if name.endswith(kind))


def move_back(private: str | Path, path: str | Path) -> None:
    """Give a file its name back, unless another process claimed the name meanwhile."""
    if private == path:
        return
    with contextlib.suppress(OSError):
        os.link(private, path)
        os.unlink(private)
