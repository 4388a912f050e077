"""Options that several commands have, and how the values of options are read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.progress import MODES
from hf_haul.config import parse_rate, parse_size
from hf_haul.failures import describe

__all__ = [
    "add_command",
    "add_progress_option",
    "read_count",
    "read_header",
    "read_limit",
    "read_port",
    "read_rate",
    "read_seconds",
    "read_size",
    "read_token_file",
]

_MAX_PORT: Final = 65_535


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, **options: Any
) -> Any:
    """Add a command that ``run`` carries out; return its parser.

    Args:
        commands: Where to.
        name: Its name.
        run: Returns its exit code.
        text: One line about it.
        options: See :class:`~hf_haul.cli.parser.CommandParser`.
    """
    parser = commands.add_parser(name, help=text, description=text, **options)
    parser.set_defaults(run=run)
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: much more")
    return parser


def add_progress_option(parser: Any) -> None:
    """Add the option of commands whose events are shown; ``on_event`` of the arguments takes them."""
    parser.add_argument(
        "--progress",
        choices=MODES,
        help="tty: a live view; plain: lines for a log; json: an object for each event; default: what fits stderr",
    )


def read_rate(text: str) -> int | None:
    """Return the bytes per second that an option means; ``None`` for no limit."""
    try:
        return parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def read_limit(text: str) -> int | str:
    """Return a rate, or a text for none: it lifts a limit of the settings, as an option left out does not."""
    return read_rate(text) or ("unlimited" if text.strip() else "")


def read_size(text: str) -> int:
    """Return the bytes that an option means, such as ``2TB``, which must be above 0."""
    try:
        size = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if size <= 0:
        raise argparse.ArgumentTypeError(f"not a size above 0: {text!r}")
    return size


def read_count(text: str) -> int:
    """Return an option's number, which must be above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number above 0: {text!r}")
    return int(text)


def read_port(text: str) -> int:
    """Return an option's port; 0 for any free one."""
    if not text.isdecimal() or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"not a port, which is a number from 0 to {_MAX_PORT}: {text!r}")
    return int(text)


def read_header(text: str) -> tuple[str, str]:
    """Return the name and value of an option's header."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # Not quoted: it may be a token.
        raise argparse.ArgumentTypeError("not a header; write 'Name: value'")
    return name.strip(), value.strip()


def read_seconds(text: str) -> float:
    """Return an option's seconds, which must be 0 or more, and finite."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}")
    return seconds


def read_token_file(name: str, option: str) -> str:
    """Return the token in a file, without blanks around it.

    Args:
        name: The file.
        option: What named it.

    Raises:
        UsageError: It cannot be read, or is empty.
    """
    wanted = f"{option} needs a readable file that holds the token"
    if not name:  # as of a variable that is not set; Python would read the current folder
        raise UsageError(f"{wanted}: its name is empty")
    try:
        token = Path(name).read_text("utf-8-sig", "replace").strip()
    except OSError as error:
        reason = OSError(error.errno, error.strerror, name)  # one that reading raises does not name it
        raise UsageError(f"{wanted}: {describe(reason).text}") from error
    if not token:
        raise UsageError(f"{wanted}: {name} is empty")
    return token
