"""What requests to a source have shown of the link to it, and how large requests should therefore be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hf_haul.config import KiB, MiB, Timings

__all__ = ["Link"]

_SMALLEST_UNIT: Final = 64 * KiB
_LARGEST_UNIT: Final = 4 * MiB
_UNKNOWN_UNIT: Final = 1 * MiB
#: Bytes of the smallest part while nothing is known.
_UNKNOWN_PART: Final = 128 * KiB
#: Share of the time to an answer that sending a part should take at the least. With less of it another part
#: saves no time that anybody would notice.
_SENDING: Final = 0.25
#: The same in seconds: below it, what a request costs this machine counts more than the link.
_SENDING_SECONDS: Final = 0.01
#: Bytes of a request to a source that answers slowly, while its speed is unknown.
_SLOW_REQUEST: Final = 64 * MiB


@dataclass(frozen=True, slots=True)
class Link:
    """What requests to one source have shown so far.

    Attributes:
        speed: Bytes per second that one connection gets; ``None`` while unknown.
        answer: Seconds from a request to its answer; ``None`` while unknown.
        slow_answer: See :class:`hf_haul.config.Timings`.
    """

    speed: float | None = None
    answer: float | None = None
    slow_answer: float = Timings.slow_answer

    @property
    def unit(self) -> int:
        """Bytes that take as long to be sent as a request takes to be answered."""
        if self.speed is None or self.answer is None:
            return _UNKNOWN_UNIT
        return max(_SMALLEST_UNIT, min(int(self.speed * self.answer), _LARGEST_UNIT))

    @property
    def part(self) -> int:
        """Bytes of the smallest parts that a read is divided into; large if the source answers slowly."""
        if self.answer is not None and self.answer >= self.slow_answer:
            return _SLOW_REQUEST if self.speed is None else max(self.unit, int(self.speed * self.answer))
        if self.speed is None or self.answer is None:
            return _UNKNOWN_PART
        seconds = max(_SENDING * self.answer, _SENDING_SECONDS)
        return max(_SMALLEST_UNIT, min(int(self.speed * seconds), _LARGEST_UNIT))

    def sending(self, nbytes: int) -> float:
        """Return the share of its time for which a connection sends, if each request is for ``nbytes``."""
        return nbytes / (nbytes + self.unit)
