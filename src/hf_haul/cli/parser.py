"""How a command line is read: options may stand anywhere, and a misspelt one is told with its nearest."""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from hf_haul.cli.exit_codes import EXIT_CODES_HELP, ExitCode, UsageError

__all__ = ["CommandParser", "HelpFormatter", "MainParser", "errors_raised"]

_MAX_WIDTH: Final = 110  # columns of help that can still be read


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, within reason; examples and exit codes keep their lines."""

    def __init__(self, prog: str, **options: Any) -> None:
        width = min(shutil.get_terminal_size().columns - 2, _MAX_WIDTH)
        super().__init__(prog, **{"max_help_position": 28, "width": width, **options})


_errors_are_raised = False


@contextmanager
def errors_raised(*, when: bool) -> Iterator[None]:
    """Raise what is wrong with a command line, and print nothing, while the block reads it.

    Args:
        when: Whether; otherwise the block is as any other.
    """
    global _errors_are_raised
    before, _errors_are_raised = _errors_are_raised, when
    try:
        yield
    finally:
        _errors_are_raised = before


class MainParser(argparse.ArgumentParser):
    """The parser of the whole line, up to the command's name."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how the command is used, and exit.

        Raises:
            UsageError: A program reads what is said.
        """
        if _errors_are_raised:
            raise UsageError(message)
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"hf-haul: error: {message}\n")


class CommandParser(MainParser):
    """The parser of one command: options may stand before, between and behind the names.

    Args:
        examples: Lines of a shell, shown below the help.
        notes: What else is to be known, shown below the examples; its first line is a title with a colon.
        exit_codes: The same of how it ends.
        files: Files that the command keeps, each with a few words, for ``hf-haul help``.
        takes_program: Whether a program with its own arguments follows the options: ``program`` of what is
            read.
        options: As argparse's.

    Attributes:
        examples: As given.
        notes: As given.
        exit_codes: As given.
        files: As given.
    """

    def __init__(
        self,
        *,
        examples: Sequence[str] = (),
        notes: str = "",
        exit_codes: str = EXIT_CODES_HELP,
        files: Sequence[tuple[str, str]] = (),
        takes_program: bool = False,
        **options: Any,
    ) -> None:
        self.examples, self.notes, self.exit_codes, self.files = (
            tuple(examples),
            notes,
            exit_codes,
            tuple(files),
        )
        shown = ["\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else "", notes]
        super().__init__(
            **{
                "formatter_class": HelpFormatter,
                "allow_abbrev": False,
                "epilog": "\n\n".join(each for each in (*shown, exit_codes) if each),
                **options,
            }
        )
        self._between_passes = False
        self._takes_program = takes_program

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read what is known, options wherever they stand; refuse what is not."""
        if self._between_passes:  # of the two that intermixed arguments take: options, then names
            return super().parse_known_args(args, namespace)
        program: list[str] = []
        if self._takes_program:
            args, program = self._split(list(args or ()))
        self._between_passes = True
        try:
            namespace, extras = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._between_passes = False
        if extras:
            self.error(self._unknown(extras))
        if self._takes_program:
            namespace.program = program
        return namespace, extras

    def format_options(self) -> str:
        """Return the help of all arguments and options, without usage and description."""
        formatter = self._get_formatter()
        for group in self._action_groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(group._group_actions)  # noqa: SLF001  as format_help does
            formatter.end_section()
        return formatter.format_help()

    def _split(self, args: list[str]) -> tuple[list[str], list[str]]:
        """Return the options of the command, and the program with its arguments."""
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != "--":
            action = self._option_string_actions.get(args[at])
            at += 1 if action is None or action.nargs == 0 else 2
        return args[:at], args[at + 1 :] if args[at : at + 1] == ["--"] else args[at:]

    def _unknown(self, extras: Sequence[str]) -> str:
        """Return what to say of arguments that nobody knows."""
        option = next((extra for extra in extras if extra.startswith("-")), None)
        if option is None:
            return f"unexpected: {' '.join(extras)}"
        name = option.partition("=")[0]
        near = difflib.get_close_matches(name, self._option_string_actions, n=1)
        return f"no such option: {name}" + (f"; did you mean {near[0]}?" if near else "")
