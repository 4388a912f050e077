"""Sizes, rates and other numbers that people write, and how they are read."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real
from typing import Final

__all__ = ["GiB", "KiB", "MiB", "parse_rate", "parse_size", "require_number"]

KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30

_UNITS: Final = {
    "": 1,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40,
}  # fmt: skip
#: The prefixes as they are written: the second letter tells those of two from those of ten.
_PREFIXES: Final = {
    "": "",
    "k": "k",
    "m": "M",
    "g": "G",
    "t": "T",
    "ki": "Ki",
    "mi": "Mi",
    "gi": "Gi",
    "ti": "Ti",
}
#: A smaller number without a unit is no rate that anybody wants: what is meant is megabytes.
_FEWEST_WITHOUT_UNIT: Final = 1000
_QUANTITY: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?(b|bit)?\s*(/s|ps)?\s*", re.IGNORECASE)


def _parse_quantity(text: str, *, what: str, per_second: bool) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None or (match[4] and not per_second):
        example = "50MB/s" if per_second else "16MiB"
        raise ValueError(f"not a {what}: {text!r}; write for instance {example!r}")
    number, prefix, unit = match[1], match[2] or "", match[3] or ""
    if per_second:
        _require_clear(text, what, number, prefix, unit)
    # Nobody measures a file in bits, unless saying so.
    is_bits = unit.lower() == "bit"
    amount = int(float(number) * _UNITS[prefix.lower()] / (8 if is_bits else 1))
    return amount or int(float(number) > 0)  # 0 has a meaning of its own, which a little is not to get


def _require_clear(text: str, what: str, number: str, prefix: str, unit: str) -> None:
    """Refuse a rate that people mean in two ways, a factor of eight or of a million apart.

    Raises:
        ValueError: It is one; the message names both.
    """
    if unit == "b":
        # Links are sold in "Mbps" and downloads are shown in "mb/s": who writes either may mean both.
        short = _PREFIXES.get(prefix.lower(), "")
        raise ValueError(
            f"{what} {text!r} is ambiguous: write {number + short}bit/s for bits, or {number + short}B/s for bytes"
        )
    if not prefix and not unit and 0 < float(number) < _FEWEST_WITHOUT_UNIT:
        raise ValueError(
            f"{what} {text!r} has no unit, and would be {number} bytes per second: write {number}MB/s or "
            f"{number}Mbit/s, or {number}B/s if it is meant"
        )


def parse_size(text: str | int) -> int:
    """Return the bytes that a number or a text such as ``16MiB`` or ``1.5GB`` means.

    Raises:
        ValueError: The text is no size.
    """
    return text if isinstance(text, int) else _parse_quantity(text, what="size", per_second=False)


def parse_rate(text: str | float | None, name: str | None = None) -> int | None:
    """Return the bytes per second that a number or a text such as ``50MB/s`` or ``400Mbit/s`` means.

    A number is what it is. A text has to be clear: ``10Mbps`` and ``10mb/s``, which may be bits or bytes, are
    refused, and so is a number below 1000 without a unit.

    Args:
        text: The number or the text.
        name: What it was given as, for the messages.

    Returns:
        The rate; ``None`` (no limit) for ``None``, ``""``, ``"0"``, ``"none"`` and ``"unlimited"``.

    Raises:
        TypeError: It is neither a number nor a text.
        ValueError: The text is no rate, or not a clear one.
    """
    what = "rate" if name is None else f"rate for {name}"
    if isinstance(text, str):
        if text.strip().lower() in {"", "none", "unlimited"}:
            return None
        return _parse_quantity(text, what=what, per_second=True) or None
    if text is None:
        return None
    if not _is_number(text):
        raise TypeError(
            f"not a {what}: {text!r}; write a number of bytes per second, or for instance '50MB/s'"
        )
    if not math.isfinite(text):
        raise ValueError(f"not a {what}: {text!r}; None stands for no limit")
    return int(text)


def _is_number(value: object, *, whole: bool = False) -> bool:
    """Return whether a value counts or measures something; ``True`` and ``False`` do not."""
    return isinstance(value, Integral if whole else Real) and not isinstance(value, bool)


def require_number(name: str, value: object, *, whole: bool = False, optional: bool = False) -> None:
    """Refuse a value that is no number, by the name of its argument.

    Args:
        name: What it was given as.
        value: The value.
        whole: Whether it must be a whole number.
        optional: Whether ``None`` will do, too.

    Raises:
        TypeError: It is no number.
    """
    if not (_is_number(value, whole=whole) or (optional and value is None)):
        wanted = ("a whole number" if whole else "a number") + (" or None" if optional else "")
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
