"""The command ``hf-haul``, which is also ``hf haul`` where it is installed as an extension of ``hf``.

Results go to stdout, everything else to stderr. ``exit_codes`` says how it ends.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from hf_haul import __version__
from hf_haul.cli.bench import add_bench
from hf_haul.cli.clean import add_clean
from hf_haul.cli.completion import add_completion
from hf_haul.cli.distribute import add_distribute
from hf_haul.cli.download import add_download
from hf_haul.cli.download_results import error_as_dict, print_json
from hf_haul.cli.env import add_env
from hf_haul.cli.exit_codes import EXIT_CODES_HELP, ExitCode, exit_code_of, wrong_settings_are_usage
from hf_haul.cli.for_programs import wants_events, wants_object
from hf_haul.cli.get import add_get
from hf_haul.cli.help_command import add_help
from hf_haul.cli.list_cached import add_list
from hf_haul.cli.messages import LogFormatter, say, say_error, warn
from hf_haul.cli.parser import CommandParser, HelpFormatter, MainParser, errors_raised
from hf_haul.cli.plan import add_plan
from hf_haul.cli.progress import Showing, chosen_mode, showing
from hf_haul.cli.run import add_run
from hf_haul.cli.serve import add_serve
from hf_haul.cli.signals import EndedBySignal, ended_by_signals
from hf_haul.cli.status import add_status
from hf_haul.cli.streams import flush_results, has_printed, set_up_streams
from hf_haul.cli.verify import add_verify
from hf_haul.config import Settings
from hf_haul.failures import FailureKind, describe

__all__ = ["main"]

#: They tell of each byte that they move, which no reader of a log wants to know.
_TALKATIVE: Final = ("httpcore", "httpcore2", "filelock", "asyncio")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; the process's own if ``None``.

    Returns:
        The exit code.
    """
    set_up_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    with showing("json" if wants_events(words, os.environ) else "none") as shown:
        try:
            with ended_by_signals():
                return _run(words, shown)
        except KeyboardInterrupt as interrupt:
            return _say_interrupt(interrupt, words)
        except Exception as error:
            if shown.on_event is None:
                raise  # a fault of ours, to be seen whole
            say_error(error)
            say("".join(traceback.format_exception(error)))
            return ExitCode.FAILED


def _run(words: Sequence[str], shown: Showing) -> int:
    as_object = wants_object(words)
    try:
        try:
            with errors_raised(when=as_object or shown.on_event is not None):
                arguments = _parser().parse_args(words)
                with _log_shown(arguments.verbose):
                    return _carry_out(arguments, shown, as_object=as_object)
        finally:
            flush_results()
    except Exception as error:  # noqa: BLE001  raised again if it is a fault of ours
        return _say_what_failed(error, as_object=as_object)


def _carry_out(arguments: argparse.Namespace, shown: Showing, *, as_object: bool) -> int:
    """Run a command; what it says meanwhile is shown as its progress is."""
    run: Callable[[argparse.Namespace], int] = arguments.run
    if getattr(arguments, "needs_settings", True):
        with wrong_settings_are_usage():
            Settings.from_environment()  # a slip is told whatever the command comes to need of it
    if not hasattr(arguments, "progress"):
        with _warnings_in_words():
            return run(arguments)
    mode = chosen_mode(arguments.progress, quiet=getattr(arguments, "quiet", False), stream=sys.stderr)
    with nullcontext(shown) if shown.on_event is not None else showing(mode) as shown, _warnings_in_words():
        arguments.on_event, arguments.shown_as = shown.on_event, shown.mode
        try:
            return run(arguments)
        except Exception as error:  # noqa: BLE001  the same
            return _say_what_failed(error, as_object=as_object)


def _say_what_failed(error: Exception, *, as_object: bool) -> int:
    """Say what an error means, also on stdout if a program waits for an object; return the exit code."""
    if as_object and not has_printed():
        print_json(error_as_dict(error))
        flush_results()
    if describe(error).kind is FailureKind.UNFORESEEN:
        raise error
    say_error(error)
    return exit_code_of(error)


def _say_interrupt(interrupt: KeyboardInterrupt, words: Sequence[str]) -> int:
    ended = interrupt.code if isinstance(interrupt, EndedBySignal) else None
    how = "interrupted" if ended is None else "ended by a signal"
    default = "what was fetched is kept, and the same command goes on from there"
    if wants_object(words) and not has_printed():
        print_json({**error_as_dict(interrupt), "exit_code": int(ended or ExitCode.INTERRUPTED)})
        flush_results()
    say(f"{how}; {getattr(interrupt, 'said', default)}")
    return ExitCode.INTERRUPTED if ended is None else ended


@contextmanager
def _log_shown(verbose: int) -> Iterator[None]:
    """Show lines of the log on stderr: warnings, with ``-v`` those of hf-haul, with ``-vv`` requests."""
    root, ours = logging.getLogger(), logging.getLogger("hf_haul")
    before = root.level, ours.level
    root.setLevel(logging.DEBUG if verbose > 1 else logging.WARNING)
    if verbose:
        ours.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    if verbose > 1:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.INFO)
    handler: logging.Handler | None = None
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(LogFormatter())
        handler.addFilter(_is_not_shown_already)
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before[0])
        ours.setLevel(before[1])
        if handler is not None:
            root.removeHandler(handler)


def _is_not_shown_already(record: logging.LogRecord) -> bool:
    """Return whether a line is still to be shown: huggingface_hub's logger shows its own itself."""
    name = record.name.partition(".")[0]
    return name != "huggingface_hub" or not logging.getLogger(name).handlers


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
    parser = MainParser(
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
    add_distribute(commands)
    add_run(commands)
    add_env(commands)
    add_completion(commands)
    add_help(commands, parser)
    return parser
