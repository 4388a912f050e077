"""Who is told what was learned of other nodes."""

from __future__ import annotations

from typing import Any

__all__ = ["Hearsay"]


class Hearsay:
    """Notes what is told of other nodes; their states are for its subclasses.

    Attributes:
        told: What it was told, in order.
    """

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def note_gone(self, name: str, why: str) -> None:
        self.told.append(("gone", name, why))

    def note_useless(self, name: str, why: str) -> None:
        self.told.append(("useless", name, why))

    def note_silent(self, name: str) -> None:
        self.told.append(("silent", name))
