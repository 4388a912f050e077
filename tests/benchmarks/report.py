"""Tables for people, JSON for programs, a plot for both."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Result
from tests.benchmarks.pairs import verdicts

__all__ = ["goals_table", "machine", "pairs_table", "plot", "reads_table", "save", "table", "verdict_lines"]


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def table(result: Result) -> str:
    """One row of the goals: every tool's median, its range, its ratio to ours, and what it cost."""
    ours = next((tool for tool in result.samples if tool.startswith("hf-haul")), None)
    rows = [
        [
            "tool", result.unit, "range", "x ours", "CPU s/GB", "user", "system", "server", "peak MiB", "+MiB", "clean",
        ]
    ]  # fmt: skip
    for tool, samples in result.samples.items():
        used = [result.value(each) for each in result.usable(tool)]
        ratio = result.ratio(tool, ours) if ours else None
        digits = 3 if result.unit in {"s", "ms"} else 1
        cells = [tool, _number(result.of(tool), digits)]
        cells.append(f"{_number(min(used), digits)}-{_number(max(used), digits)}" if used else "failed")
        cells.append(_number(ratio, 2))
        for get in (
            lambda s: s.cpu_per_gb,
            lambda s: s.user / (s.nbytes / 1e9) if s.nbytes else 0.0,
            lambda s: s.system / (s.nbytes / 1e9) if s.nbytes else 0.0,
            lambda s: s.server / (s.nbytes / 1e9) if s.nbytes else 0.0,
        ):
            cells.append(_number(result.of(tool, get), 2))
        cells.append(_number(result.of(tool, lambda s: s.peak_mib), 0))
        grown = result.of(tool, lambda s: s.peak_mib - s.base_mib if s.base_mib else float("nan"))
        cells.append("-" if grown is None or grown != grown else _number(grown, 0))  # NaN is not itself
        cells.append(f"{sum(each.clean for each in samples)}/{len(samples)}")
        rows.append(cells)
    lines = [f"{result.name}: {result.title}", _aligned(rows)]
    for tool, samples in result.samples.items():
        lines += [f"  ! {tool}: {each.error}" for each in samples if each.error][:1]
    lines += [f"  {note}" for note in result.notes]
    return "\n".join(lines)


def goals_table(results: Iterable[Result]) -> str:
    """Every goal, what was measured, and whether that reaches it."""
    rows = [["goal", "measured", "wanted", ""]]
    words = {True: "yes", False: "NO", None: "not measured"}
    for result in results:
        for goal in result.goals:
            bound = ("at least " if goal.at_least else "at most ") + _number(goal.wanted, 2)
            rows.append([f"{result.name}: {goal.text}", _number(goal.value, 2), bound, words[goal.reached]])
    return _aligned(rows)


def pairs_table(results: Iterable[Result]) -> str:
    """Every figure with a mechanism and without it, and how sure the ratio is; empty if there are none."""
    rows = [["without over with", "figure", "with", "without", "ratio", "interval", "sure", "pairs", "above"]]
    for result in results:
        for each in result.comparisons:
            ratio, medians = each.ratio, each.medians()
            if ratio is None or medians is None:
                rows.append([result.name, each.figure, *["-"] * 6, "all failed"])
                continue
            cells = [_number(value, 3) for value in medians]
            cells += [_number(value, 3) for value in (ratio.median,)]
            cells += [
                f"{_number(ratio.low, 3)} to {_number(ratio.high, 3)}",
                f"{100 * ratio.confidence:.0f} %",
            ]
            failed = f", failed {each.failed[0]}+{each.failed[1]}" if any(each.failed) else ""
            said = "yes" if each.pays else "no" if ratio.is_sure else "-"
            rows.append(
                [
                    result.name,
                    each.figure,
                    *cells,
                    f"{ratio.pairs}{failed}",
                    said if each.counts else "does nothing here",
                ]
            )
    return _aligned(rows) if len(rows) > 1 else ""


def reads_table(results: Iterable[Result]) -> str:
    """What reads took through each filesystem: seconds, requests, megabytes moved, memory; empty if there are none."""
    rows = [
        ["read", "hf:// s", "requests", "MB", "haul:// s", "range", "CPU s", "requests", "MB", "+MiB", "limit", "reach", ""]
    ]  # fmt: skip
    words = {True: "yes", False: "NO", None: "-"}
    for result in results:
        if not result.name.startswith("reads-"):
            continue
        cells = [result.name.removeprefix("reads-")]
        for tool in ("huggingface_hub", "hf-haul"):
            samples = result.samples.get(tool, [])
            if samples and not result.usable(tool):
                cells.append(f"> {_number(max(each.seconds for each in samples))}")
            else:
                cells.append(_number(result.of(tool, lambda s: s.seconds), 2))
            if tool == "hf-haul":
                used = [each.seconds for each in result.usable(tool)]
                cells.append(f"{_number(min(used), 2)}-{_number(max(used), 2)}" if used else "failed")
                cells.append(_number(result.of(tool, lambda s: s.user + s.system), 2))
            cells.append(_number(result.of(tool, lambda s: s.extra["requests"]), 0))
            cells.append(_number(result.of(tool, lambda s: s.extra["moved"] / 1e6)))
        cells.append(_number(result.of("hf-haul", lambda s: s.peak_mib - s.base_mib), 0))
        first, *more = result.goals
        reached = [goal.reached for goal in result.goals]
        wanted = "".join(
            [
                f"{_number(first.wanted, 2)} {result.unit}",
                *(f", {_number(each.wanted, 0)} MB" for each in more),
            ]
        )
        cells += [str(result.limit or "-"), wanted, words[None if None in reached else all(reached)]]
        rows.append(cells)
    return _aligned(rows) if len(rows) > 1 else ""


def verdict_lines(results: Iterable[Result]) -> list[str]:
    """For each mechanism, whether it stays, and why."""
    found = verdicts(each for result in results for each in result.comparisons)
    return [f"{mechanism}: {verdict}: {reason}" for mechanism, (verdict, reason) in found.items()]


def machine() -> dict[str, Any]:
    """What it ran on."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        **{
            name: installed(name)
            for name in (
                *("huggingface_hub", "requests", "urllib3", "hf_transfer"),
                *("fsspec", "pandas", "pyarrow", "dask", "datasets", "duckdb", "zarr"),
            )
        },
    }


def save(results: Sequence[Result], missing: Mapping[str, str], folder: Path) -> Path:
    """Write ``benchmarks.json``; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "benchmarks.json"
    document = {
        "machine": machine(),
        "missing": dict(missing),
        "results": [result.as_dict() for result in results],
        "verdicts": verdict_lines(results),
    }
    target.write_text(json.dumps(document, indent=1))
    return target


def plot(results: Sequence[Result], folder: Path) -> Path | None:
    """Write ``benchmarks.png``: a panel of bars for each row. ``None`` without matplotlib."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return None
    shown = [each for each in results if each.unit in {"MB/s", "files/s"} and len(each.samples) > 1]
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(6 * columns, 3.2 * lines), squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for result, axis in zip(shown, axes.flat, strict=False):
        tools = [tool for tool in result.samples if result.of(tool) is not None][::-1]
        medians = [result.of(tool) or 0.0 for tool in tools]
        ranges = [[result.value(each) for each in result.usable(tool)] for tool in tools]
        spread = [
            [middle - min(values) for middle, values in zip(medians, ranges, strict=True)],
            [max(values) - middle for middle, values in zip(medians, ranges, strict=True)],
        ]
        colours = ["#d9480f" if tool.startswith("hf-haul") else "#868e96" for tool in tools]
        bars = axis.barh(tools, medians, xerr=spread, color=colours, ecolor="#495057")
        axis.bar_label(bars, [_number(value, 0) for value in medians], padding=4, fontsize=8)
        axis.set_title(result.title, fontsize=9)
        axis.set_xlabel(result.unit, fontsize=8)
        axis.margins(x=0.15)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    target = folder / "benchmarks.png"
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return target
