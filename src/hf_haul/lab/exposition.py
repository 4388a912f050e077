"""Metrics in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["CONTENT_TYPE", "Metric", "expose", "histogram"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4"
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@dataclass(frozen=True)
class Metric:
    """One metric, and its values by their labels.

    Attributes:
        name: Its name; that of a counter ends in ``_total``.
        kind: What it does.
        about: What it counts, and in which unit.
        values: By the labels' values; a plain number where there are none.
        labels: The labels' names.
        lines: The lines of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    values: Mapping[Sequence[str], float] | float
    labels: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def histogram(name: str, about: str, counts: Iterable[tuple[float, int]], total: float) -> Metric:
    """Return a histogram.

    Args:
        name: Its name.
        about: What it measures, and in which unit.
        counts: Upper ends of its buckets, the last of them infinite, with how many fell into each alone.
        total: The sum of all that was measured.
    """
    below, lines = 0, []
    for most, count in counts:
        below += count
        lines.append(f'{name}_bucket{{le="{_number(most)}"}} {below}')
    lines += [f"{name}_sum {_number(total)}", f"{name}_count {below}"]
    return Metric(name, "histogram", about, {}, lines=tuple(lines))


def expose(metrics: Iterable[Metric]) -> str:
    """Return metrics as Prometheus reads them."""
    lines: list[str] = []
    for metric in metrics:
        if not _NAME.fullmatch(metric.name):
            raise ValueError(f"not the name of a metric: {metric.name!r}")
        about = metric.about.replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {metric.name} {about}", f"# TYPE {metric.name} {metric.kind}"]
        if isinstance(metric.values, Mapping):
            for given, value in sorted(metric.values.items()):
                pairs = zip(metric.labels, given, strict=True)
                labels = ",".join(f'{name}="{_escaped(str(text))}"' for name, text in pairs)
                lines.append(f"{metric.name}{{{labels}}} {_number(value)}")
            lines += metric.lines
        else:
            lines.append(f"{metric.name} {_number(metric.values)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
