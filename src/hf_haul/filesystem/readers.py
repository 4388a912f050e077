"""How an open file is read: with bytes fetched ahead, of it and of the files after it, or without."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from hf_haul.filesystem.target import Target
from hf_haul.reading.file_reader import FileReader
from hf_haul.reading.lookahead import LookAhead
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.siblings import Visit

__all__ = ["checked_prefetch", "reader_for"]

logger = logging.getLogger(__name__)


def checked_prefetch(prefetch: str) -> str:
    """Return ``auto`` or ``none``.

    Raises:
        ValueError: It is neither.
    """
    if prefetch not in {"auto", "none"}:
        raise ValueError(f'prefetch must be "auto" or "none", not {prefetch!r}')
    return prefetch


def reader_for(
    fs: Any,  # a HaulFileSystem, whose module is above this one
    target: Target,
    source: RangeSource,
    prefetch: str,
    *,
    ahead: bool = True,
    stream: bool = False,
) -> FileReader:
    """Return a reader of a file; have the next ones looked at, if files are opened in order.

    Args:
        fs: The filesystem.
        target: The file.
        source: The same.
        prefetch: ``none`` if nothing may be fetched that is not asked for.
        ahead: Whether more of the file may be fetched, by what was read of it.
        stream: Whether it will be read in order to its end.
    """
    if prefetch == "none":
        return FileReader(source, fs.extents, ahead=False, plan=False)
    visit, near_end = _visit(fs, target, source)
    return FileReader(source, fs.extents, ahead=ahead, stream=stream, visit=visit, near_end=near_end)


def _visit(
    fs: Any, target: Target, source: RangeSource
) -> tuple[Visit, Callable[[], None]] | tuple[None, None]:
    """Note that a file is opened; return where to note reads, and what to call near the end."""
    repository = target.repository
    group = (fs.endpoint, repository.repo_type, repository.repo_id, target.commit)
    source_of = partial(
        _sibling, weakref.ref(fs), target.commit
    )  # weak: it is kept as long as files are followed
    try:
        look_ahead: LookAhead = fs.manager.look_ahead
        return look_ahead.visit(group, target.name, source, fs.files_after, source_of)
    except Exception:  # nobody asked for it
        logger.debug("%s: cannot look ahead", target.name, exc_info=True)
        return None, None


def _sibling(weak_fs: weakref.ref[Any], commit: str, name: str) -> RangeSource | None:
    """Find a file that may be opened next, without asking for anything."""
    fs = weak_fs()
    if fs is None or not (fs.known_info(name) or {}).get("blob_id"):
        return None
    found = fs.source_of(name)
    return None if found is None or found[0].commit != commit else found[1]
