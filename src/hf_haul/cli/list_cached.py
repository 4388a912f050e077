"""``hf-haul list``: what a cache holds."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import add_command
from hf_haul.cli.exit_codes import ExitCode
from hf_haul.cli.folders import as_json, count_of, format_age, format_size, shown, warn_of
from hf_haul.cli.messages import say_error
from hf_haul.cli.streams import print_result

if TYPE_CHECKING:
    from hf_haul.hub.cached import CachedRepositories, CachedRepository, CachedRevision

__all__ = ["add_list"]

_TITLES: Final = ("REPOSITORY", "TYPE", "STATE", "FILES", "SIZE", "LAST USED", "REVISIONS")
#: Columns with numbers, which end at the right.
_NUMBERS: Final = frozenset({"FILES", "SIZE"})
#: Digits that tell commits apart.
_COMMIT_DIGITS: Final = 8
#: Names of revisions that a line has room for.
_MOST_NAMES: Final = 4


def add_list(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "list",
        _list,
        "List the repositories in a cache, and whether they are complete.",
        examples=("hf-haul list", "hf-haul list --json"),
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="a Hub cache other than the default one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _list(arguments: argparse.Namespace) -> int:
    from hf_haul.hub.cached import list_cached  # brings huggingface_hub along

    try:
        found = list_cached(arguments.cache_dir)
    except (FileNotFoundError, NotADirectoryError) as error:
        say_error(error)
        return ExitCode.NOT_FOUND
    print_result(as_json(found) if arguments.json else "\n".join(_lines(found)))
    warn_of(problem for repository in found.repositories for problem in repository.problems)
    return ExitCode.DISK if warn_of(found.problems) else ExitCode.DONE


def _lines(found: CachedRepositories) -> Iterator[str]:
    if found.repositories:
        rows = [_TITLES, *(_row(repository, time.time()) for repository in found.repositories)]
        yield from _table(rows)
        yield ""
    count = count_of(len(found.repositories), "repository")
    yield f"{count} in {shown(found.cache_dir)}: {format_size(found.bytes)}"


def _row(repository: CachedRepository, now: float) -> tuple[str, ...]:
    size = format_size(repository.bytes)
    if repository.partial_bytes:
        size += f" + {format_size(repository.partial_bytes)} partial"
    used = "never" if repository.last_used is None else format_age(max(0.0, now - repository.last_used))
    return (
        shown(repository.repo_id),
        repository.repo_type,
        repository.state,
        _files(repository),
        size,
        used,
        _revisions(repository.revisions),
    )


def _files(repository: CachedRepository) -> str:
    """Return how many files there are, and of how many, where the commit that counts lacks some."""
    first = repository.revisions[0] if repository.revisions else None
    if first is not None and first.state == "partial" and first.files_listed is not None:
        return f"{first.files} of {first.files_listed}"
    return str(repository.files)


def _revisions(revisions: Sequence[CachedRevision]) -> str:
    names = [
        shown(name)
        for revision in revisions
        for name in (revision.refs or (revision.commit[:_COMMIT_DIGITS],))
    ]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if title in _NUMBERS else cell.ljust(width)
            for cell, width, title in zip(row, widths, _TITLES, strict=True)
        ]
        yield "  ".join(cells).rstrip()
