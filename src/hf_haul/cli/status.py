"""``hf-haul status``: what is partial, who is fetching it, and how to go on."""

from __future__ import annotations

import argparse
import itertools
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import add_command
from hf_haul.cli.exit_codes import ExitCode
from hf_haul.cli.folders import (
    add_folder_options,
    as_json,
    count_of,
    format_age,
    format_size,
    require_one_folder,
    shown,
    warn_of,
)
from hf_haul.cli.messages import say_error
from hf_haul.cli.streams import print_result

if TYPE_CHECKING:
    from hf_haul.hub.status import PartialFile, PartialStatus

__all__ = ["add_status", "describe_part", "title_of"]

_ABOUT: Final = """\
Show the files in a cache or a folder that were not fetched to their end: how
much of each is here, whether the process that fetches it is alive, and the
command that goes on with it. Changes nothing."""

#: Files that a command to go on with names at the most.
_MOST_NAMED: Final = 3
#: Which word of such a command is the file.
_FILE_AT: Final = 3
_DETAIL: Final = " " * 9


def add_status(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "status",
        _status,
        "Show what is partial, who is fetching it, and how to go on.",
        examples=("hf-haul status", "hf-haul status ./model --json"),
    )
    parser.description = _ABOUT
    add_folder_options(parser)


def _status(arguments: argparse.Namespace) -> int:
    from hf_haul.hub.status import status  # brings huggingface_hub along

    require_one_folder(arguments)
    try:
        found = status(arguments.folder, cache_dir=arguments.cache_dir)
    except (FileNotFoundError, NotADirectoryError) as error:
        say_error(error)
        return ExitCode.NOT_FOUND
    print_result(as_json(found) if arguments.json else "\n".join(_lines(found)))
    return ExitCode.DISK if warn_of(found.problems) else ExitCode.DONE


def _lines(found: PartialStatus) -> Iterator[str]:
    if not found.files:
        yield f"nothing is partial in {shown(found.folder)}"
        return
    yield (
        f"{count_of(len(found.files), 'partial file')} in {shown(found.folder)}: "
        f"{format_size(found.bytes_done)} of {format_size(found.bytes_total)}"
    )
    for title, group in itertools.groupby(found.files, key=title_of):
        files = list(group)
        yield ""
        yield title
        for file in files:
            yield f"  {describe_part(file)}"
            yield f"{_DETAIL}{_who(file)}"
        yield from _advice(files)


def title_of(file: PartialFile) -> str:
    """Return the line that the files of one repository, or of none, stand below."""
    if file.repo_id is None:
        return "files of no known repository"
    return shown(file.repo_id) if file.repo_type == "model" else f"{shown(file.repo_id)} ({file.repo_type})"


def describe_part(file: PartialFile) -> str:
    """Return how much of a file is here, and its name."""
    percent = "   ?" if file.percent is None else f"{file.percent:3.0f}%"
    size = format_size(file.bytes_done)
    if file.bytes_total is not None:
        size += f" of {format_size(file.bytes_total)}"
    return f"{percent}  {size:>20}  {shown(file.file or file.path.name)}"


def _who(file: PartialFile) -> str:
    changed = f"changed {format_age(file.age)}"
    owner = file.owner
    if file.kind == "huggingface_hub":
        doing = "is fetching it" if owner.state == "alive" else "left it, and never goes on from it"
        return f"huggingface_hub {doing}; {changed}"
    who = "its process" if owner.pid is None else f"process {owner.pid} on {shown(owner.host)}"
    if owner.state == "alive":
        program = f" ({shown(owner.program)})" if owner.program else ""
        return f"{who}{program} is fetching it; {changed}"
    return f"{who} {'is gone' if owner.state == 'dead' else 'cannot be seen from here'}; {changed}"


def _advice(files: Sequence[PartialFile]) -> Iterator[str]:
    """Yield how to go on with the files of one repository."""
    for named, whole in _commands([file for file in files if file.command and file.resumable]):
        yield f"  go on with: {shown(named or whole)}"
        if named and named != whole:
            yield f"  or, for the whole repository: {shown(whole)}"
    hints = [
        file.hint for file in files if not (file.command and file.resumable) and file.owner.state != "alive"
    ]
    for hint in dict.fromkeys(hints):
        yield f"  {hint}"


def _commands(files: Sequence[PartialFile]) -> Iterator[tuple[str | None, str]]:
    """Yield commands that go on: with these files alone, if they are few, and with their repository."""
    together: dict[tuple[str, ...], list[str]] = {}
    for file in files:
        words = shlex.split(file.command or "")
        names = [] if file.file is None else [words.pop(_FILE_AT)]
        together.setdefault(tuple(words), []).extend(names)
    for common, names in together.items():
        few = 0 < len(names) <= _MOST_NAMED
        named = shlex.join([*common[:_FILE_AT], *names, *common[_FILE_AT:]]) if few else None
        yield named, shlex.join(common)
