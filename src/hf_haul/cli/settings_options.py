"""Options that change settings for one command, and the settings that they make."""

from __future__ import annotations

import argparse
import math
from typing import Any, Final

from hf_haul.cli.arguments import read_count, read_limit
from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.messages import warn
from hf_haul.config import Settings

__all__ = ["add_settings_options", "settings_of"]

#: A file is tried for so many times as long as one answer may take.
_ATTEMPTS: Final = 2
_PRIORITIES: Final = ("high", "normal", "low")


def add_settings_options(parser: Any) -> None:
    """Add the options; :func:`settings_of` reads them."""
    group = parser.add_argument_group(
        "how it downloads",
        "Before variables (HF_HAUL_...) and the configuration file; 'hf-haul env' shows both.",
    )
    group.add_argument(
        "--max-bandwidth",
        type=read_limit,
        metavar="RATE",
        help="over all connections, such as 50MB/s or 400Mbit/s; 0 for none",
    )
    group.add_argument(
        "--max-connections", "--connections", type=read_count, metavar="N", help="most connections at once"
    )
    group.add_argument("--max-workers", type=read_count, metavar="N", help="files in progress at once")
    group.add_argument(
        "--priority",
        choices=_PRIORITIES,
        default="normal",
        help="urgency beside other downloads of the process",
    )
    group.add_argument(
        "--retries",
        type=_read_retries,
        metavar="N",
        help="failures in a row without a new byte; then a file fails",
    )
    group.add_argument(
        "--timeout",
        type=_read_seconds,
        metavar="SECONDS",
        help="without an answer, or another byte of it; then a connection is given up",
    )
    group.add_argument(
        "--give-up-after", type=_read_seconds, metavar="SECONDS", help="without a new byte; then a file fails"
    )
    group.add_argument(
        "--no-verify", action="store_true", help="do not check digests; sizes are checked all the same"
    )


def settings_of(arguments: argparse.Namespace) -> Settings | None:
    """Return the settings that the options make; ``None`` where none is given.

    Raises:
        UsageError: They contradict each other.
    """
    timeout, give_up_after = arguments.timeout, arguments.give_up_after
    if timeout is not None and give_up_after is not None and give_up_after < timeout:
        raise UsageError(
            f"--give-up-after {give_up_after:g} is less than --timeout {timeout:g}: no answer could be waited for"
        )
    if arguments.no_verify:
        warn("digests are not checked (--no-verify): only sizes tell whether files are right")
    changes = {
        "max_bandwidth_bps": arguments.max_bandwidth,
        "max_concurrent_downloads": arguments.max_connections,
        "max_concurrent_files_per_model": arguments.max_workers,
        "max_retries": arguments.retries,
        "stall_timeout": timeout,
        "first_byte_timeout": timeout,
        "give_up_after": give_up_after,
        "verify": False if arguments.no_verify else None,
    }
    if all(value is None for value in changes.values()):
        return None
    settings = Settings.from_environment(**changes)
    if timeout is not None and give_up_after is None:
        settings = settings.changed(give_up_after=max(settings.give_up_after, _ATTEMPTS * timeout))
    return settings


def _read_retries(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a number from 0 on: {text!r}")
    return int(text)


def _read_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"not a number of seconds above 0: {text!r}")
    return seconds
