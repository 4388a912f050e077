"""What is shown while files are verified: each fault as soon as it is found, and how far it is."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.folders import count_of, format_size, shown
from hf_haul.cli.messages import say
from hf_haul.cli.streams import print_result

if TYPE_CHECKING:
    from typing_extensions import Self

    from hf_haul.hub.verify_report import CheckedFile, VerifyProgress

__all__ = ["VerifyDisplay", "line_of"]

#: Seconds between two lines where there is no terminal.
_LINE_SECONDS: Final = 15.0
_REPAIRS: Final = {
    "fetched": "fetched anew",
    "completed": "completed",
    "copied": "copied from the cache",
    "linked": "linked to its blob",
}


def line_of(file: CheckedFile) -> str:
    """Return what is printed of a file."""
    path, finding = shown(file.path), shown(file.finding)
    if file.repair is not None:
        kept = f", {format_size(file.bytes_kept)} of it kept" if file.repair == "completed" else ""
        return f"repaired  {path}: {finding}; it was {_REPAIRS[file.repair]}{kept}"
    if file.repair_error is not None:
        return f"{file.state:<8}  {path}: {finding}; not repaired: {shown(file.repair_error)}"
    return f"{file.state:<8}  {path}{': ' if finding else ''}{finding}"


class VerifyDisplay:
    """Prints faults to stdout as they come, and shows on stderr how far it is.

    Args:
        every: Whether files without a fault are printed, too.
        silent: Whether no file is.
        progress: Whether progress is shown.
    """

    def __init__(self, *, every: bool, silent: bool, progress: bool) -> None:
        self._every = every
        self._silent = silent
        self._progress = progress
        self._bar: Any = None
        self._phase = ""
        self._known = self._faults = 0
        self._next_line = time.monotonic() + _LINE_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def on_file(self, file: CheckedFile) -> None:
        """Print a file, unless it is right and only faults are printed."""
        self._known += 1
        self._faults += file.state in {"wrong", "missing"}
        if self._silent or not (self._every or file.fault is not None):
            return
        if self._bar is not None:
            self._bar.clear()
        print_result(line_of(file))
        if self._bar is not None:
            self._bar.refresh()

    def so_far(self) -> str:
        """Return what is to be said of an interrupt."""
        if self._phase == "repair":
            return "what was fetched is kept, and the same command goes on from there"
        faults = (
            f"{self._faults} of them wrong or missing" if self._faults else "none of them wrong or missing"
        )
        return f"{count_of(self._known, 'file')} {'was' if self._known == 1 else 'were'} checked, {faults}"

    def on_progress(self, progress: VerifyProgress) -> None:
        """Show how far it is: a bar in a terminal, elsewhere a line now and then."""
        phase, self._phase = self._phase, progress.phase
        if not self._progress:
            return
        if sys.stderr is not None and sys.stderr.isatty():
            self._move_bar(progress, new=progress.phase != phase)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            say(_line(progress))

    def _move_bar(self, progress: VerifyProgress, *, new: bool) -> None:
        from hf_haul.hub.bars import make_bar

        if new:
            self._close()
            self._bar = make_bar(
                None,
                "hf_haul.verify",
                desc="Verifying" if progress.phase == "check" else "Repairing",
                total=progress.bytes_total,
                unit="B",
                unit_scale=True,
                file=sys.stderr,
                leave=False,
            )
        self._bar.total = progress.bytes_total
        self._bar.update(progress.bytes_done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _line(progress: VerifyProgress) -> str:
    doing = "verifying" if progress.phase == "check" else "repairing"
    left = progress.bytes_total - progress.bytes_done
    time_left = f", {left / progress.speed_bps:.0f} s left" if progress.speed_bps > 0 else ""
    percent = 100 * progress.bytes_done / progress.bytes_total if progress.bytes_total else 100.0
    return (
        f"{doing}: {percent:.0f}% ({format_size(progress.bytes_done)} of {format_size(progress.bytes_total)}, "
        f"{progress.files_done} of {progress.files_total} files), {format_size(progress.speed_bps)}/s{time_left}"
    )
