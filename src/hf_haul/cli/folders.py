"""What the commands about folders share: which folder is meant, and how sizes, ages and results are shown."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.messages import warn
from hf_haul.cli.progress.texts import count_of

if TYPE_CHECKING:
    from hf_haul.hub.status import FileProblem

__all__ = [
    "add_folder_options",
    "as_json",
    "count_of",
    "format_age",
    "format_size",
    "read_age",
    "require_one_folder",
    "shown",
    "warn_of",
]

#: Units of an age, in seconds, the largest first.
_UNITS: Final = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_SECONDS: Final = {unit[0]: seconds for seconds, unit in _UNITS}
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


def add_folder_options(parser: Any) -> None:
    """Add the options of commands that look at a cache, or a folder."""
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        help="a local_dir, a cache, or any folder that files were downloaded to; default: the Hub's cache",
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="a Hub cache other than the default one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def require_one_folder(arguments: argparse.Namespace) -> None:
    """Refuse a folder beside a cache.

    Raises:
        UsageError: Both are given.
    """
    if arguments.folder is not None and arguments.cache_dir is not None:
        raise UsageError("FOLDER and --cache-dir cannot be used together")


def read_age(text: str) -> float:
    """Return the seconds that an option's age means."""
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"not an age: {text!r}; write 30m, 12h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def format_size(nbytes: float) -> str:
    """Return bytes in decimal units, as the Hub counts them."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def format_age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit."""
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    return f"{count_of(int(seconds // size), unit)} ago"


def shown(text: object) -> str:
    """Return an untrusted name with control characters replaced, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def as_json(result: Any) -> str:
    """Return a result of the library as one JSON object; paths are texts."""
    return json.dumps(dataclasses.asdict(result), default=str)


def warn_of(problems: Iterable[FileProblem]) -> bool:
    """Warn of what could not be read or done; return whether there was anything."""
    found = False
    for problem in problems:
        warn(f"{shown(problem.path)}: {shown(problem.message)}")
        found = True
    return found
