"""The view of a terminal, as lines; pure.

What matters most comes first in each line, so that 40 columns show it: the speed and the time left, then how
much is there. What is waited for follows, and the files in progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hf_haul.cli.progress.overview import ActiveFile, Overview, Sums, Waiting
from hf_haul.cli.progress.texts import (
    count_of,
    cut,
    duration,
    percent,
    printable,
    rate,
    shorten_path,
    size,
    width,
)

__all__ = ["CHECKING", "DOING", "closing_line", "render"]

#: What is done in each phase; files are fetched in none.
DOING: Final[Mapping[str, str]] = {"check": "checking", "repair": "repairing", "measure": "measuring"}
#: The phases of a verification.
CHECKING: Final = frozenset({"check", "repair"})
_MOST_FILES: Final = 8
_MOST_WAITS: Final = 3
#: Lines of a terminal that are left to what was there before.
_ROWS_LEFT: Final = 3
#: Columns of a file's share and bytes, before its name.
_NUMBERS: Final = 21


def render(overview: Overview, now: float, columns: int, rows: int) -> list[str]:
    """Return the lines of a view.

    Args:
        overview: What is so far.
        now: Unix seconds.
        columns: Of the terminal; no line takes the last one, where some terminals wrap.
        rows: Of the terminal.
    """
    room = max(1, columns - 1)
    waits = overview.waits(now)
    lines = [_head(overview, now)]
    lines += [_wait(each, now, room) for each in waits[:_MOST_WAITS]]
    most = max(0, min(_MOST_FILES, rows - _ROWS_LEFT - len(lines)))
    active = overview.active[:most]
    lines += [_file(each, room) for each in active]
    hidden = overview.active_files - len(active)
    if hidden > 0 and active:
        lines.append(f"  and {hidden} more")
    return [cut(line, room) for line in lines]


def closing_line(overview: Overview, now: float) -> str:
    """Return what it came to, in one line; empty where there was nothing to do but to say what would be done.

    Args:
        overview: What was.
        now: Unix seconds of the end.
    """
    sums, seconds = overview.sums, max(0.0, now - overview.started_at)
    if overview.phase in CHECKING:
        return _closing_of_checks(overview, sums, seconds)
    if _is_said(overview):
        return ""
    if not overview.planned:
        return f"stopped after {duration(seconds)}, before anything was fetched"
    complete = overview.over and not sums.files_failed and overview.files_done >= overview.files_total
    parts = []
    if sums.files_fetched or not sums.files_reused:
        speed = f", {rate(sums.fetched / seconds)}" if sums.fetched and seconds > 0 else ""
        fetched = f"{count_of(sums.files_fetched, 'file')} fetched, {size(sums.fetched)}"
        parts.append(f"{fetched} in {duration(seconds)}{speed}")
    if sums.files_reused:
        parts.append(f"{count_of(sums.files_reused, 'file')} there already, {size(sums.reused)}")
    if sums.files_failed:
        parts.append(f"{count_of(sums.files_failed, 'file')} failed")
    if sums.retries:
        parts.append(count_of(sums.retries, "retry"))
    if sums.wasted:
        parts.append(f"{size(sums.wasted)} fetched in vain")
    if complete:
        return f"{'not complete' if overview.failed else 'done'}: {'; '.join(parts)}"
    there = f"{size(overview.done)} of {size(overview.total)}"
    return f"stopped with {there} there after {duration(seconds)}" + (
        f"; {'; '.join(parts)}" if sums.files_fetched else ""
    )


def _is_said(overview: Overview) -> bool:
    """Return whether the result, or an error before anything was known, says all there is to say."""
    failed_early = overview.over and not overview.planned
    return failed_early or overview.dry_run or overview.phase == "measure"


def _closing_of_checks(overview: Overview, sums: Sums, seconds: float) -> str:
    """Return what a verification came to."""
    if not overview.over:
        doing = "repaired" if overview.phase == "repair" else "checked"
        return (
            f"stopped after {duration(seconds)}, with {size(overview.done)} of {size(overview.total)} {doing}"
        )
    checked = sums.files_fetched + sums.files_reused + sums.files_failed
    parts = [f"{count_of(checked, 'file')} checked, {size(sums.read)} read in {duration(seconds)}"]
    if sums.files_fetched:
        parts.append(f"{count_of(sums.files_fetched, 'file')} repaired, {size(sums.fetched)} fetched")
    if sums.files_failed:
        parts.append(f"{count_of(sums.files_failed, 'file')} wrong or missing")
    return f"done: {'; '.join(parts)}"


def _head(overview: Overview, now: float) -> str:
    clock = duration(max(0.0, now - overview.started_at))
    if not overview.planned:
        return f"{clock}  finding out what there is to do"
    left = "" if overview.eta is None else f"{duration(overview.eta)} left"
    share = percent(overview.done, overview.total)
    amount = size(overview.done) + ("" if overview.total is None else f" of {size(overview.total)}")
    files = (
        ""
        if overview.phase == "measure"
        else f"{overview.files_done} of {count_of(overview.files_total, 'file')}"
    )
    count = overview.connections
    connections = count_of(count, "connection") if count else ""
    doing = DOING.get(overview.phase or "", "")
    shown = [doing, rate(overview.rate), left, share, amount, files, connections, f"{clock} so far"]
    return "  ".join(text for text in shown if text)


def _wait(wait: Waiting, now: float, room: int) -> str:
    """Return a line about a wait; where it does not fit, the reason stands before the file or the host."""
    left = "" if wait.until is None else f"{duration(wait.until - now)} "
    line = f"  waiting {left}- {printable(wait.message)}"
    if width(line) <= room:
        return line
    return f"  waiting {left}- {wait.reason.replace('_', ' ')}: {printable(wait.message)}"


def _file(file: ActiveFile, room: int) -> str:
    numbers = f"  {percent(file.done, file.total):>5}  {size(file.done):>9}"
    return f"{numbers:<{_NUMBERS}}{shorten_path(file.path, max(0, room - _NUMBERS))}"
