"""Whether a program reads what the command writes: told before its arguments are read, which may be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

__all__ = ["wants_events", "wants_object"]

_VARIABLE: Final = "HF_HAUL_PROGRESS"
#: Commands that ask questions, or whose program has stderr to itself: only an option of their own counts.
_OF_PEOPLE: Final = frozenset({"clean", "serve", "run"})


def wants_events(words: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether every line on stderr is to be an event: ``--progress json``, or ``HF_HAUL_PROGRESS``.

    Args:
        words: The command line, as it was written.
        environ: The variables.
    """
    asked = list(_values(words, "--progress"))
    if asked:
        return asked[-1] == "json"
    command = next((word for word in words if not word.startswith("-")), "")
    return environ.get(_VARIABLE, "").strip().lower() == "json" and command not in _OF_PEOPLE


def wants_object(words: Sequence[str]) -> bool:
    """Return whether stdout is to get one JSON object, whatever happens: ``--json`` or ``--format json``."""
    return "--json" in _own(words) or "json" in _values(words, "--format")


def _own(words: Sequence[str]) -> list[str]:
    """Return the words that are the command's, and not those of a program that it runs."""
    if words[:1] == ["run"]:
        return []
    return list(words[: words.index("--")]) if "--" in words else list(words)


def _values(words: Sequence[str], option: str) -> Iterator[str]:
    """Yield the values that an option is given."""
    own = _own(words)
    for at, word in enumerate(own):
        if word == option:
            yield from own[at + 1 : at + 2]
        elif word.startswith(f"{option}="):
            yield word.partition("=")[2]
