"""What is said once about settings that have no effect, with the name that may have been meant."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable
from typing import Final

__all__ = ["nearest", "remind"]

logger = logging.getLogger(__name__)

#: What this process has said. Changed by single operations only, so that no lock is needed.
_said: Final[set[Hashable]] = set()
#: Beyond this nothing is remembered, nor said: whoever makes up names without end is a program.
_MOST: Final = 256
#: From 0 to 1: how alike two names have to be for one to be a slip of the other.
_LIKENESS: Final = 0.6


def remind(what: Hashable, message: str, *args: object) -> None:
    """Log a warning, once in this process.

    Args:
        what: What it is about.
        message: The message, with ``%s`` for each of ``args``.
        args: See ``message``.
    """
    if what in _said or len(_said) >= _MOST:
        return
    _said.add(what)
    logger.warning(message, *args)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that ``name`` is most like; ``None`` if it is like none."""
    import difflib  # needed only where something is wrong

    found = difflib.get_close_matches(name, known, n=1, cutoff=_LIKENESS)
    return found[0] if found else None
