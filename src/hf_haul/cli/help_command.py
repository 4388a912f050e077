"""``hf-haul help``: the manual of a command."""

from __future__ import annotations

import argparse
from typing import Any

from hf_haul.cli.arguments import add_command
from hf_haul.cli.exit_codes import ExitCode, UsageError
from hf_haul.cli.manual import commands_of, manual, summaries_of
from hf_haul.cli.streams import print_result

__all__ = ["add_help"]


def add_help(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Add the command.

    Args:
        commands: Where to.
        whole: The parser of all commands.
    """

    def show(arguments: argparse.Namespace) -> int:
        known = commands_of(whole)
        if arguments.command is None:
            text = whole.format_help()
        elif arguments.command in known:
            name = arguments.command
            text = manual(name, known[name], summaries_of(whole)[name], list(known))
        else:
            import difflib

            near = difflib.get_close_matches(arguments.command, known, n=1)
            raise UsageError(
                f"there is no command {arguments.command!r}"
                + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}")
            )
        print_result(text)
        return ExitCode.DONE

    parser = add_command(
        commands,
        "help",
        show,
        "Show the manual of a command: options, exit codes, variables, files, examples.",
        examples=("hf-haul help download",),
    )
    parser.set_defaults(needs_settings=False)
    parser.add_argument("command", metavar="COMMAND", nargs="?", help="default: an overview of all")
