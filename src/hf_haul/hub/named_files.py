"""Files that were named: each has to be there, and the nearest name is told of one that is not."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final

__all__ = ["names_hint", "require_named"]

#: Names that an error tells, and paths that a name is compared with, of which there may be a million.
_MOST_TOLD: Final = 5
_MOST_COMPARED: Final = 20_000
_PATTERN: Final = frozenset("*?[")


def require_named(names: Sequence[str], paths: Collection[str], where: str) -> None:
    """Refuse names that stand for no file.

    Args:
        names: Files, folders (with a slash at the end), and patterns.
        paths: The files that there are.
        where: Of what, for the message.

    Raises:
        huggingface_hub.errors.EntryNotFoundError: Some stand for none.
    """
    known = paths if isinstance(paths, AbstractSet | Mapping) else frozenset(paths)
    missing = [name for name in names if not _is_there(name, known)]
    if not missing:
        return
    from huggingface_hub.errors import EntryNotFoundError  # brings much along

    told = ", no ".join(missing[:_MOST_TOLD])
    more = f" and {len(missing) - _MOST_TOLD} more" if len(missing) > _MOST_TOLD else ""
    hint = names_hint(missing[:_MOST_TOLD], known)
    error = EntryNotFoundError(f"There is no {told}{more} in {where}" + (f". {hint}" if hint else ""))
    error.named_file = missing[0]  # type: ignore[attr-defined]  # any error takes attributes
    raise error


def _is_there(name: str, paths: Collection[str]) -> bool:
    if name.endswith("/"):
        return any(path.startswith(name) for path in paths)
    return name in paths or (not _PATTERN.isdisjoint(name) and any(fnmatchcase(path, name) for path in paths))


def names_hint(missing: Iterable[str], paths: Collection[str]) -> str | None:
    """Return what somebody may have meant by names that stand for no file, as a sentence.

    Args:
        missing: The names.
        paths: The files that there are.
    """
    near = {found: None for name in missing if (found := _nearest(name, paths)) is not None}
    return f"Did you mean {', '.join(near)}?" if near else None


def _nearest(name: str, paths: Collection[str]) -> str | None:
    """Return the file, or the folder, whose name is like this one."""
    plain = name.strip("/")
    if not name.endswith("/") and any(path.startswith(f"{plain}/") for path in paths):
        return f"{plain}/"
    some = list(islice(paths, _MOST_COMPARED))
    if name.endswith("/"):
        some = list({f"{path.rpartition('/')[0]}/" for path in some if "/" in path})
    by_case = {path.lower(): path for path in some}
    if name.lower() in by_case:
        return by_case[name.lower()]
    last = plain.rpartition("/")[2].lower()
    elsewhere = [path for path in some if path.strip("/").rpartition("/")[2].lower() == last]
    if len(elsewhere) == 1:
        return elsewhere[0]
    near = difflib.get_close_matches(name.lower(), by_case, n=1)
    return by_case[near[0]] if near else None
