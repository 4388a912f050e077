"""Listings of very many files in huggingface_hub's cache, in its format, with little memory.

Its own reader and writer make several objects of every file, which for a million files come to a gigabyte.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import tempfile
from collections.abc import Iterator
from itertools import islice
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from hf_haul.hub.file_listing import FileListing, kept_file, pack, require_credible
from hf_haul.storage.placing import discard

__all__ = ["FORMAT", "read_long", "write_long"]

logger = logging.getLogger(__name__)

#: The version of huggingface_hub's format that is known here.
FORMAT: Final = 1
#: What reading may raise of a file that is no listing.
_DAMAGED: Final = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
    struct.error,  # of a size that is no whole number
)
#: Files that are written at once.
_AT_ONCE: Final = 1000


def write_long(path: str, listing: FileListing) -> None:
    """Write a listing; a failure to do so is only logged, and a redacted one is skipped, as upstream does.

    Args:
        path: Where huggingface_hub looks for it.
        listing: The files.
    """
    if listing.has_redacted():
        return
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(f'{{\n "format_version": {FORMAT},\n "files": {{\n')
                entries = _entries(listing)
                written = 0
                while some := list(islice(entries, _AT_ONCE)):
                    file.write((",\n" if written else "") + ",\n".join(some))
                    written += len(some)
                file.write("\n }\n}")
            os.replace(temporary, path)
        except BaseException:
            discard(temporary)
            raise
    except OSError as error:
        logger.warning("Ignored error while writing tree cache file %s: %s", path, error)


def _entries(listing: FileListing) -> Iterator[str]:
    text = encode_basestring_ascii
    for name in sorted(listing):
        size, blob_id, lfs_sha256, lfs_size, xet_hash = listing.fields(name)
        entry = f'  {text(name)}: {{"size": {size}, "blob_id": {text(blob_id)}'
        if lfs_sha256 is not None:
            entry += (
                f', "lfs_sha256": {text(lfs_sha256)}, "lfs_size": {"null" if lfs_size is None else lfs_size}'
            )
        if xet_hash is not None:
            entry += f', "xet_hash": {text(xet_hash)}'
        yield entry + "}"


def read_long(path: str) -> FileListing | None:
    """Return a listing, whoever wrote it; ``None`` where there is none that can be used.

    Args:
        path: Where huggingface_hub keeps it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file, object_pairs_hook=_made)
        files = kept["files"] if kept.get("format_version") == FORMAT else None
        listing = None if files is None else FileListing.of_packed(files)
        require_credible(() if files is None else files)
        return None if listing is None or listing.has_redacted() else listing
    except FileNotFoundError:
        return None
    except _DAMAGED as error:
        logger.warning("Ignoring corrupted tree cache file %s: %s", path, error)
        return None


def _made(pairs: list[tuple[str, Any]]) -> Any:
    """Return what a JSON object stands for: a packed file, or what it says by name."""
    found = dict(pairs)
    # Not a file of this name, which would be packed by now.
    if isinstance(found.get("blob_id"), str):
        file = kept_file(
            found["size"],
            found["blob_id"],
            found.get("lfs_sha256"),
            found.get("lfs_size"),
            found.get("xet_hash"),
        )
        return pack(file)
    return found
