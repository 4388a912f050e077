"""The command ``hf-haul``, which is also ``hf haul`` where it is installed as an extension of ``hf``.

Results go to stdout, everything else to stderr. ``exit_codes`` says how it ends.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hf_haul import __version__
from hf_haul.cli.bench import add_bench
from hf_haul.cli.clean import add_clean
from hf_haul.cli.completion import add_completion
from hf_haul.cli.download import add_download
from hf_haul.cli.env import add_env
from hf_haul.cli.exit_codes import EXIT_CODES_HELP, ExitCode, exit_code_of
from hf_haul.cli.get import add_get
from hf_haul.cli.help_command import add_help
from hf_haul.cli.list_cached import add_list
from hf_haul.cli.messages import say, say_error, warn
from hf_haul.cli.parser import CommandParser, HelpFormatter
from hf_haul.cli.plan import add_plan
from hf_haul.cli.progress import chosen_mode, showing
from hf_haul.cli.run import add_run
from hf_haul.cli.serve import add_serve
from hf_haul.cli.signals import EndedBySignal, ended_by_signals
from hf_haul.cli.status import add_status
from hf_haul.cli.streams import flush_results, set_up_streams
from hf_haul.cli.verify import add_verify
from hf_haul.failures import FailureKind, describe

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; the process's own if ``None``.

    Returns:
        The exit code.
    """
    set_up_streams()
    try:
        with ended_by_signals():
            return _run(argv)
    except KeyboardInterrupt as interrupt:
        ended = interrupt.code if isinstance(interrupt, EndedBySignal) else None
        how = "interrupted" if ended is None else "ended by a signal"
        default = "what was fetched is kept, and the same command goes on from there"
        say(f"{how}; {getattr(interrupt, 'said', default)}")
        return ExitCode.INTERRUPTED if ended is None else ended


def _run(argv: Sequence[str] | None) -> int:
    try:
        try:
            arguments = _parser().parse_args(argv)
            _set_up_log(arguments.verbose)
            return _carry_out(arguments)
        finally:
            flush_results()
    except Exception as error:  # noqa: BLE001  raised again if it is a fault of ours
        return _say_what_failed(error)


def _carry_out(arguments: argparse.Namespace) -> int:
    """Run a command; what it says meanwhile is shown as its progress is."""
    run: Callable[[argparse.Namespace], int] = arguments.run
    if not hasattr(arguments, "progress"):
        with _warnings_in_words():
            return run(arguments)
    mode = chosen_mode(arguments.progress, quiet=getattr(arguments, "quiet", False), stream=sys.stderr)
    with showing(mode) as shown, _warnings_in_words():
        arguments.on_event = shown.on_event
        try:
            return run(arguments)
        except Exception as error:  # noqa: BLE001  the same
            return _say_what_failed(error)


def _say_what_failed(error: Exception) -> int:
    """Say what an error means; return the exit code."""
    if describe(error).kind is FailureKind.UNFORESEEN:
        raise error  # a fault of ours, to be seen whole
    say_error(error)
    return exit_code_of(error)


def _set_up_log(verbose: int) -> None:
    if verbose:
        level = logging.DEBUG if verbose > 1 else logging.INFO
        logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


@contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Show warnings as messages, without the line of code that they came from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        warn(str(message))

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-haul",
        description="Resumable, verified, parallel downloads for the Hugging Face Hub.",
        epilog=EXIT_CODES_HELP,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hf-haul {__version__}")
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    add_download(commands)
    add_get(commands)
    add_plan(commands)
    add_verify(commands)
    add_status(commands)
    add_list(commands)
    add_clean(commands)
    add_bench(commands)
    add_serve(commands)
    add_run(commands)
    add_env(commands)
    add_completion(commands)
    add_help(commands, parser)
    return parser
