"""What is printed while files are verified: each fault as soon as it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hf_haul.cli.folders import count_of, format_size, shown
from hf_haul.cli.streams import print_result

if TYPE_CHECKING:
    from hf_haul.hub.verify_report import CheckedFile, VerifyProgress

__all__ = ["VerifyDisplay", "line_of"]

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
    """Prints faults to stdout as they come, and counts them.

    Args:
        every: Whether files without a fault are printed, too.
        silent: Whether no file is.
    """

    def __init__(self, *, every: bool, silent: bool) -> None:
        self._every = every
        self._silent = silent
        self._phase = ""
        self._known = self._faults = 0

    def on_file(self, file: CheckedFile) -> None:
        """Print a file, unless it is right and only faults are printed."""
        self._known += 1
        self._faults += file.state in {"wrong", "missing"}
        if not self._silent and (self._every or file.fault is not None):
            print_result(line_of(file))

    def on_progress(self, progress: VerifyProgress) -> None:
        """Note what is done."""
        self._phase = progress.phase

    def so_far(self) -> str:
        """Return what is to be said of an interrupt."""
        if self._phase == "repair":
            return "what was fetched is kept, and the same command goes on from there"
        faults = (
            f"{self._faults} of them wrong or missing" if self._faults else "none of them wrong or missing"
        )
        return f"{count_of(self._known, 'file')} {'was' if self._known == 1 else 'were'} checked, {faults}"
