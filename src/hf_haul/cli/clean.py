"""``hf-haul clean``: removes what interrupted downloads left, after it has said what and has asked."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import add_command
from hf_haul.cli.exit_codes import ExitCode, UsageError
from hf_haul.cli.folders import (
    add_folder_options,
    as_json,
    count_of,
    format_age,
    format_size,
    read_age,
    require_one_folder,
    shown,
    warn_of,
)
from hf_haul.cli.messages import ask, say, say_error
from hf_haul.cli.status import describe_part
from hf_haul.cli.streams import print_result

if TYPE_CHECKING:
    from hf_haul.hub.cleaning import CleaningPlan, CleanResult
    from hf_haul.hub.status import PartialFile

__all__ = ["add_clean"]

#: Files that are named one by one; --json names all.
_MOST_NAMED: Final = 50

_ABOUT: Final = """\
Remove what interrupted downloads left in a cache or a folder: staged files of
processes that are gone, huggingface_hub's own *.incomplete files, and
temporary files. Says what and how much, and asks.

A staged file of a process that is alive stays, and so does one whose process
may be alive on another host, until it has been silent for a day.
huggingface_hub's own go if nobody has locked or changed them for a day, on
file systems of this host. What a download could go on from is removed, too;
--keep-resumable keeps it."""


def add_clean(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "clean",
        _clean,
        "Remove what interrupted downloads left, and nothing in use.",
        examples=("hf-haul clean", "hf-haul clean ./model --yes"),
    )
    parser.description = _ABOUT
    add_folder_options(parser)
    parser.add_argument(
        "-y", "--yes", action="store_true", help="do not ask; needed where there is no terminal"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, and remove nothing"
    )
    parser.add_argument(
        "--keep-resumable", action="store_true", help="keep partial files that a download goes on from"
    )
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        type=read_age,
        default=0.0,
        help="keep what has changed since: 30m, 12h or 7d; default: remove it, however new",
    )


def _clean(arguments: argparse.Namespace) -> int:
    from hf_haul.hub.cleaning import CleaningPlan  # brings huggingface_hub along
    from hf_haul.hub.status import folder_to_search

    require_one_folder(arguments)
    try:
        folder = folder_to_search(arguments.folder, arguments.cache_dir)
    except (FileNotFoundError, NotADirectoryError) as error:
        say_error(error)
        return ExitCode.NOT_FOUND
    plan = CleaningPlan(folder, keep_resumable=arguments.keep_resumable, older_than=arguments.older_than)
    tell = say if arguments.json else print_result
    tell("\n".join(_lines(plan.as_result())))
    if arguments.dry_run or not plan.to_remove:
        result = plan.as_result() if arguments.dry_run else plan.carry_out()
    else:
        refused = None if arguments.yes else _ask(plan)
        if refused is not None:
            return refused
        result = plan.carry_out()
        tell(
            f"removed {count_of(len(result.removed), 'file')}; {format_size(result.bytes_freed)} are free now"
        )
        for kept in result.kept[len(plan.kept) :]:
            tell(f"kept {_name(kept.file)}: {shown(kept.reason)}")
    if arguments.json:
        print_result(as_json(result))
    return ExitCode.DISK if warn_of(result.problems) else ExitCode.DONE


def _ask(plan: CleaningPlan) -> ExitCode | None:
    """Ask whether to remove; return how the command ends if not.

    Raises:
        UsageError: There is nobody to ask.
    """
    what = f"{count_of(len(plan.to_remove), 'file')} ({format_size(plan.bytes_to_free)})"
    answer = ask(f"Remove {what}?")
    if answer is None:
        raise UsageError(f"nothing was removed: there is no terminal to ask at; add --yes to remove {what}")
    if answer:
        return None
    say("nothing was removed")
    return ExitCode.FAILED


def _lines(plan: CleanResult) -> Iterator[str]:
    if not plan.removed:
        yield f"nothing to remove in {shown(plan.folder)}"
    else:
        count = count_of(len(plan.removed), "file")
        yield f"to be removed in {shown(plan.folder)}: {count}, {format_size(plan.bytes_freed)}"
        yield from _groups(plan.removed)
    if plan.kept:
        yield f"kept: {count_of(len(plan.kept), 'file')}"
        yield from _first(f"  {_name(kept.file)}: {shown(kept.reason)}" for kept in plan.kept)


def _groups(files: Sequence[PartialFile]) -> Iterator[str]:
    resumable = [file for file in files if file.resumable]
    useless = [file for file in files if file.kind == "staged" and not file.resumable]
    theirs = [file for file in files if file.kind == "huggingface_hub"]
    temporary = [file for file in files if file.kind == "temporary"]
    for title, group in (
        ("a download could go on from these (--keep-resumable keeps them)", resumable),
        ("of no use: in place already, or without a record of what is here", useless),
        ("huggingface_hub's own, which it never goes on from", theirs),
    ):
        if group:
            yield f"  {title}: {count_of(len(group), 'file')}, {_size(group)}"
            yield from _first(f"    {describe_part(file)}  {_where(file)}" for file in group)
    if temporary:
        yield f"  temporary: {count_of(len(temporary), 'file')}, {_size(temporary)}"


def _first(lines: Iterator[str]) -> Iterator[str]:
    """Yield as many lines as people read, and how many there are besides."""
    left_out = 0
    for number, line in enumerate(lines):
        if number < _MOST_NAMED:
            yield line
        else:
            left_out += 1
    if left_out:
        yield f"    ... and {left_out} more; --json names them all"


def _size(files: Sequence[PartialFile]) -> str:
    return format_size(sum(file.bytes_on_disk for file in files))


def _where(file: PartialFile) -> str:
    place = f"of {shown(file.repo_id)}" if file.repo_id else f"in {shown(file.path.parent)}"
    return f"{place}, changed {format_age(file.age)}"


def _name(file: PartialFile) -> str:
    name = shown(file.file or file.path.name)
    return f"{shown(file.repo_id)} {name}" if file.repo_id else name
