"""The manual of a command, made of its parser: what ``hf-haul help COMMAND`` prints."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hf_haul.cli.parser import CommandParser

__all__ = ["commands_of", "manual", "summaries_of"]

#: Variables, by the option of a command beside which they count; those of every command by an empty text.
_VARIABLES: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "--max-bandwidth": (("HF_HAUL_MAX_BANDWIDTH", "where --max-bandwidth is not given"),),
    "--max-connections": (("HF_HAUL_MAX_CONNECTIONS", "where --max-connections is not given"),),
    "--max-workers": (("HF_HAUL_MAX_CONCURRENT_FILES_PER_MODEL", "where --max-workers is not given"),),
    "--retries": (("HF_HAUL_MAX_RETRIES", "where --retries is not given"),),
    "--timeout": (
        ("HF_HAUL_STALL_TIMEOUT", "seconds between two bytes, where --timeout is not given"),
        ("HF_HAUL_FIRST_BYTE_TIMEOUT", "seconds to the first one, the same"),
    ),
    "--give-up-after": (("HF_HAUL_GIVE_UP_AFTER", "where --give-up-after is not given"),),
    "--no-verify": (("HF_HAUL_VERIFY", "0 is as --no-verify"),),
    "--progress": (
        ("HF_HAUL_PROGRESS", "where --progress is not given"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1: no progress unless it is asked for"),
        ("TERM", "dumb: lines, and no live view"),
    ),
    "--token": (
        ("HF_TOKEN", "the token, where --token is not given; else the one that is stored"),
        ("HF_ENDPOINT", "the Hub, or a mirror of it"),
        ("HF_HUB_OFFLINE", "1: offline; only what is cached is used"),
    ),
    "--token-file": (("HF_HAUL_SERVE_TOKEN", "the token to ask for, where --token-file is not given"),),
    "--peers": (("HF_HAUL_PEERS_TOKEN", "their token, where --peers-token-file is not given"),),
    "--upstream": (
        ("HF_HAUL_MAX_BANDWIDTH", "limit of what is fetched from the upstream"),
        ("HF_TOKEN", "with --private, the token for the upstream; else the one that is stored"),
        ("HF_HUB_OFFLINE", "1: offline; the upstream is not asked"),
    ),
    "--cache-dir": (("HF_HUB_CACHE", "the cache; else hub in HF_HOME, which is ~/.cache/huggingface"),),
    "": (
        ("HTTPS_PROXY", "a proxy; and HTTP_PROXY, ALL_PROXY, NO_PROXY"),
        ("REQUESTS_CA_BUNDLE", "certificates to trust"),
        ("HF_HAUL_CA_BUNDLE", "certificates to trust besides, as a lab's server's"),
        ("HF_HAUL_CONFIG", "the configuration file; empty for none"),
        ("HF_HAUL_...", "every other setting: hf-haul env"),
        ("HF_DEBUG", "1: tracebacks of errors"),
    ),
}
_FILES: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "--cache-dir": (("~/.cache/huggingface/hub", "the Hub's cache; blobs/*.incomplete is partial"),),
    "--local-dir": (
        ("DIR/.cache/huggingface", "in a --local-dir: which version each file is, and what is partial"),
    ),
    "": (("hf-haul.toml", "in the user's configuration folder: settings; hf-haul env says where"),),
}
#: Letters of "usage: ", which argparse puts before a usage, and indents its other lines by.
_USAGE: Final = 7
_INDENT: Final = " " * 4
_COLUMN: Final = 28
_WIDTH: Final = 78


def commands_of(parser: argparse.ArgumentParser) -> dict[str, CommandParser]:
    """Return the parsers of all commands, by name."""
    for action in parser._actions:  # noqa: SLF001  argparse has no public way to them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  the same
            return dict(action.choices)
    return {}


def summaries_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return one line about each command, by name."""
    return {
        choice.dest: choice.help or ""
        for action in parser._actions  # noqa: SLF001  the same
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001  the same
        for choice in action._choices_actions  # noqa: SLF001  the same
    }


def manual(name: str, parser: CommandParser, summary: str, others: Sequence[str]) -> str:
    """Return the manual of a command.

    Args:
        name: Its name.
        parser: Its parser.
        summary: One line about it.
        others: The names of all commands.
    """
    options = {option for action in parser._actions for option in action.option_strings}  # noqa: SLF001  the same
    if "--token-file" in options:  # there a token is what others are asked for
        options.discard("--token")
    sections = {
        "NAME": f"hf-haul {name} - {summary.rstrip('.')}",
        "SYNOPSIS": textwrap.dedent(f"{' ' * _USAGE}{parser.format_usage()[_USAGE:]}"),
        "DESCRIPTION": parser.description or "",
        "OPTIONS": parser.format_options(),
        **dict([_titled(parser.notes)] if parser.notes else []),
        "EXIT STATUS": _titled(parser.exit_codes)[1],
        "ENVIRONMENT": _table(_counting(_VARIABLES, options)),
        "FILES": _table([*parser.files, *_counting(_FILES, options)]),
        "EXAMPLES": "\n".join(parser.examples),
        "SEE ALSO": textwrap.fill(
            f"hf-haul help {', '.join(each for each in others if each != name)}", _WIDTH
        ),
    }
    return "\n\n".join(
        f"{title}\n{textwrap.indent(textwrap.dedent(text).strip(chr(10)), _INDENT)}"
        for title, text in sections.items()
        if text
    )


def _titled(text: str) -> tuple[str, str]:
    """Return the title and the rest of a text that begins with a line that ends with a colon."""
    title, _, rest = text.partition("\n")
    return title.rstrip(":").upper(), textwrap.dedent(rest)


def _counting(known: Mapping[str, Sequence[tuple[str, str]]], options: set[str]) -> Iterator[tuple[str, str]]:
    for option, found in known.items():
        if not option or option in options:
            yield from found


def _table(rows: Sequence[tuple[str, str]] | Iterator[tuple[str, str]]) -> str:
    return "\n".join(
        f"{name}\n{' ' * _COLUMN}{words}" if len(name) >= _COLUMN - 1 else f"{name:<{_COLUMN}}{words}"
        for name, words in rows
    )
