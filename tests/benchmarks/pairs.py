"""What runs in pairs say: the ratio within each pair, its median, and an interval that surely holds it.

The runs of a pair follow each other, so that what changes slowly, as the load of a shared machine does, falls upon both. The
interval is that of the sign test: between two of the ratios in their order. It assumes nothing about how they are
distributed, a few wild ones cannot move it, and the same runs always give the same one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

__all__ = [
    "CONFIDENCE",
    "ENOUGH",
    "PAYS",
    "Comparison",
    "Ratio",
    "Verdict",
    "decide",
    "median_interval",
    "verdicts",
]

#: How often an interval has to hold the true median.
CONFIDENCE: Final = 0.95
#: Pairs below which there is no such interval, not even from the smallest ratio to the largest.
ENOUGH: Final = 6
#: What surely has to be left of a ratio for a mechanism to stay.
PAYS: Final = 1.10

Verdict = Literal["stays", "goes", "not enough pairs"]


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """The narrowest interval between two of ``values``, as far from both ends, that holds the median so often.

    Args:
        values: Independent measurements, at least one.
        confidence: How often it has to.

    Returns:
        Its ends, and how often it holds the median: less than asked for where even all values are too few.
    """
    ordered, count = sorted(values), len(values)
    inner, held = 0, _held(count, 0)
    while _held(count, inner + 1) >= confidence:
        inner += 1
        held = _held(count, inner)
    return ordered[inner], ordered[count - 1 - inner], held


def _held(count: int, inner: int) -> float:
    """How often the median of what ``count`` values come from lies between those that are ``inner`` from both ends."""
    return 1.0 - 2.0 * sum(math.comb(count, below) for below in range(inner + 1)) / 2.0**count


@dataclass(frozen=True)
class Ratio:
    """The ratios of some pairs.

    Attributes:
        median: In the middle.
        low: Lower end of the interval.
        high: Upper end.
        confidence: How often such an interval holds the true median.
        pairs: How many there are.
    """

    median: float
    low: float
    high: float
    confidence: float
    pairs: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Ratio | None:
        """Each second number by its first; ``None`` of nothing."""
        ratios = [second / first for first, second in pairs if first > 0]
        if not ratios:
            return None
        low, high, confidence = median_interval(ratios)
        return cls(median(ratios), low, high, confidence, len(ratios))

    @property
    def is_sure(self) -> bool:
        """Whether there are enough pairs for the interval to be one."""
        return self.confidence >= CONFIDENCE

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Comparison:
    """One figure of one work, with a mechanism and without it.

    Attributes:
        subject: The mechanism.
        work: What was done.
        figure: What was measured, with its unit: less of it is better.
        pairs: The figure with the mechanism, and without it, of each pair; infinite where a run did not succeed and the
            other did.
        failed: Runs that did not succeed, with it and without it.
        counts: Whether it says something about the mechanism. If not, nothing was switched off that acts here, and
            the interval shows how exact the others can be.
    """

    subject: str
    work: str
    figure: str
    pairs: Sequence[tuple[float, float]]
    failed: tuple[int, int] = (0, 0)
    counts: bool = True

    @property
    def ratio(self) -> Ratio | None:
        """How many times as much there is without it."""
        return Ratio.of(self.pairs)

    @property
    def pays(self) -> bool:
        """Whether the mechanism surely buys something here."""
        ratio = self.ratio
        return self.counts and ratio is not None and ratio.is_sure and ratio.low > PAYS

    def medians(self) -> tuple[float, float] | None:
        """The figure with it, and without it."""
        if not self.pairs:
            return None
        return median(first for first, _ in self.pairs), median(second for _, second in self.pairs)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        ratio = self.ratio
        return {
            "mechanism": self.subject,
            "work": self.work,
            "figure": self.figure,
            "pairs": [[_finite(value) for value in pair] for pair in self.pairs],
            "ratio": None if ratio is None else {name: _finite(value) for name, value in vars(ratio).items()},
            "failed": list(self.failed),
            "counts": self.counts,
            "above": self.pays,
        }


def _finite(value: float) -> float | None:
    """What JSON can hold."""
    return value if math.isfinite(value) else None


def decide(comparisons: Iterable[Comparison]) -> Verdict:
    """Whether a mechanism stays: where any of its intervals lies above :data:`PAYS`, all of it."""
    counted = [each for each in comparisons if each.counts]
    if any(each.pays for each in counted):
        return "stays"
    ratios = [each.ratio for each in counted]
    return (
        "goes"
        if ratios and all(ratio is not None and ratio.is_sure for ratio in ratios)
        else "not enough pairs"
    )


def verdicts(comparisons: Iterable[Comparison]) -> Mapping[str, tuple[Verdict, str]]:
    """The verdict on each mechanism, and a line that says why."""
    by_subject: dict[str, list[Comparison]] = {}
    for each in comparisons:
        by_subject.setdefault(each.subject, []).append(each)
    return {subject: _reasoned(found) for subject, found in by_subject.items()}


def _reasoned(comparisons: Sequence[Comparison]) -> tuple[Verdict, str]:
    verdict = decide(comparisons)
    told = [(each, ratio) for each in comparisons if each.counts and (ratio := each.ratio) is not None]
    told.sort(key=lambda found: found[1].low, reverse=True)
    best = [
        f"{each.figure} of {each.work}: {ratio}" for each, ratio in told if each.pays or verdict != "stays"
    ]
    if verdict == "stays":
        return (
            verdict,
            f"interval above {PAYS:.2f} in {len(best)} of {len(told)} figures: {'; '.join(best[:3])}",
        )
    highest = f"; the highest is {best[0]}" if best else ""
    if verdict == "goes":
        return verdict, f"interval above {PAYS:.2f} in none of {len(told)} figures{highest}"
    return verdict, f"a figure has fewer than {ENOUGH} pairs that succeeded{highest}"
