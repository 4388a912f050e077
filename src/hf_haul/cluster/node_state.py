"""What a node announces of itself, and how it crosses from one machine to another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from hf_haul.cluster.bitmaps import decode_bits, encode_bits
from hf_haul.storage.ownership import printable

__all__ = ["NodeState", "as_shown"]

#: Characters that are shown of what another node says.
_SHOWN: Final = 300


def as_shown(said: object) -> str:
    """Return what another node says as it may be shown: in one line that is not long."""
    return printable(str(said)[:_SHOWN])


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node announces.

    Attributes:
        name: Its name.
        version: Grows with each change; a node that starts anew counts anew.
        have: Bitmap of the stripes that it has.
        claims: Stripes that it is fetching from the origin.
        done: Whether it has ended, be it with an error.
        error: Why it cannot get all files, if so.
    """

    name: str
    version: int = 0
    have: int = field(default=0, repr=False)
    claims: frozenset[int] = frozenset()
    done: bool = False
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "have": encode_bits(self.have),
            "claims": sorted(self.claims),
            "done": self.done,
            "error": self.error,
        }

    @classmethod
    def from_json(cls, value: object, count: int) -> NodeState:
        """Return the state that :meth:`to_json` described.

        Args:
            value: Plain values.
            count: How many stripes the job has.

        Raises:
            ValueError: It is none, or not of such a job.
        """
        known: dict[str, Any] = value if isinstance(value, dict) else {}
        name, version, have, claims, done, error = (
            known.get(key) for key in ("name", "version", "have", "claims", "done", "error")
        )
        if not (
            isinstance(name, str)
            and type(version) is int
            and isinstance(have, str)
            and isinstance(claims, list)
            and all(type(each) is int and 0 <= each < count for each in claims)
            and isinstance(done, bool)
            and isinstance(error, str | None)
        ):
            raise ValueError(f"not the state of a node in a job of {count} stripes")
        why = None if error is None else as_shown(error)
        return cls(name, version, decode_bits(have, count), frozenset(claims), done, why)
