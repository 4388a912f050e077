"""Numbers and names as people read them, in terminals and logs."""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["count_of", "cut", "duration", "percent", "printable", "rate", "shorten_path", "size", "width"]

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_STEP: Final = 1000
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAYS_SHOWN: Final = 100 * 24 * _HOUR
#: A suffix that is left out of a long path, as it would take the place of what tells files apart.
_LONG_SUFFIX: Final = ".safetensors"
_WIDE: Final = frozenset("WF")


def count_of(number: int, what: str) -> str:
    """Return a number of things; several of them have an ``s``, or ``ies``."""
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("y") and what[-2:] != "ay" else f"{number} {what}s"


def size(nbytes: float | None) -> str:
    """Return bytes with a unit of a thousand, such as ``1.2 GB``."""
    if nbytes is None:
        return "?"
    value = float(nbytes)
    for unit in _UNITS:
        if value < _STEP or unit == _UNITS[-1]:
            break
        value /= _STEP
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def rate(bytes_per_second: float) -> str:
    """Return bytes per second with a unit, such as ``12.3 MB/s``."""
    return f"{size(bytes_per_second)}/s"


def duration(seconds: float) -> str:
    """Return seconds as a clock shows them: ``0:07``, ``12:34``, ``1:02:03``."""
    if not 0 <= seconds < _DAYS_SHOWN:
        return "?"
    whole = int(seconds)
    hours, rest = divmod(whole, _HOUR)
    minutes, left = divmod(rest, _MINUTE)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def percent(done: int, total: int | None) -> str:
    """Return a share in whole percent, 100 only when all is done; empty if the whole is not known."""
    if total is None:
        return ""
    if total <= 0 or done >= total:
        return "100 %"
    return f"{min(99, 100 * done // total)} %"


def printable(text: str) -> str:
    """Return a text of one line, in which nothing can move a terminal's cursor or change what it shows."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def width(text: str) -> int:
    """Return the columns that a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in _WIDE else 1
        for char in text
    )


def cut(text: str, columns: int) -> str:
    """Return what of a text fits into so many columns."""
    while width(text) > columns:
        text = text[: max(0, columns)] if len(text) > columns else text[:-1]
    return text


def shorten_path(path: str, columns: int) -> str:
    """Return a path that fits into so many columns: its end tells more than its beginning.

    Parts of a model differ in their numbers, and all end alike.
    """
    path = printable(path)
    if width(path) <= columns:
        return path
    end = path.removesuffix(_LONG_SUFFIX)
    while end and width(end) > columns - 3:
        end = end[1:]
    return cut(f"...{end}", columns)
