"""The headers of an answer, whose names are the same in capital and small letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Headers"]


class Headers(Mapping[str, str]):
    """Headers of an answer, by names in any case; of those that came twice, the values joined by commas.

    Args:
        values: The values, by names in small letters.
    """

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return a value, or ``default``, without an error to be caught for each that is missing."""
        return self._values.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
