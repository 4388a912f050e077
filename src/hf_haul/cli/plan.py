"""``hf-haul plan``: what a download would do, without doing it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import add_command, add_progress_option, read_count, read_limit, read_rate
from hf_haul.cli.exit_codes import ExitCode
from hf_haul.cli.folders import count_of, format_size, shown
from hf_haul.cli.messages import say, warn
from hf_haul.cli.repo_arguments import add_repo_options, read_wanted
from hf_haul.cli.streams import print_result

if TYPE_CHECKING:
    from hf_haul.hub.download_plan import DownloadPlan, FilePlan

__all__ = ["add_plan", "format_seconds"]

_ABOUT: Final = """\
Show what "hf-haul download" would do with the same arguments: which files, in
which order, how many bytes and requests, what is here already, whether there
is room on the disk, and how long it takes. Nothing is written."""
_WORDS: Final = {"absent": "fetch", "partial": "resume", "present": "present"}
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
#: Digits that tell commits apart.
_COMMIT_DIGITS: Final = 8


def add_plan(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "plan",
        _plan,
        "Show what a download would do, and write nothing.",
        examples=(
            "hf-haul plan org/model --at 100MB/s",
            "hf-haul plan org/model --include '*.safetensors' --json",
        ),
    )
    parser.description = _ABOUT
    parser.add_argument(
        "repo", metavar="REPO", help="org/name, datasets/org/name, either with @revision, or hf://..."
    )
    parser.add_argument(
        "filenames", metavar="FILE", nargs="*", help="files, or folders if they end with a slash"
    )
    add_repo_options(parser)
    parser.add_argument("--cache-dir", metavar="DIR", help="the cache; default: the Hub's own")
    parser.add_argument("--local-dir", metavar="DIR", help="plain files would go here and not into the cache")
    parser.add_argument("--force-download", action="store_true", help="every file would be fetched anew")
    parser.add_argument(
        "--at", type=read_rate, metavar="RATE", help="say how long it takes at this rate, such as 100MB/s"
    )
    parser.add_argument("--max-bandwidth", type=read_limit, metavar="RATE", help="as for the download")
    parser.add_argument("--max-connections", type=read_count, metavar="N", help="as for the download")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the result")
    add_progress_option(parser)


def _plan(arguments: argparse.Namespace) -> int:
    from hf_haul.hub.planning import plan  # brings huggingface_hub along

    wanted = read_wanted(arguments, arguments.repo, at_revision=True)
    found = plan(
        wanted.repo.repo_id,
        repo_type=wanted.repo.repo_type,
        revision=wanted.repo.revision,
        cache_dir=arguments.cache_dir,
        local_dir=arguments.local_dir,
        allow_patterns=wanted.allow,
        ignore_patterns=wanted.ignore,
        presets=arguments.preset,
        named=wanted.names,
        force_download=arguments.force_download,
        token=arguments.token,
        rate=arguments.at,
        max_bandwidth=arguments.max_bandwidth,
        max_connections=arguments.max_connections,
        on_event=arguments.on_event,
    )
    if arguments.json:
        print_result(json.dumps(found.as_dict()))
    else:
        print_result("\n".join(_lines(found, every=bool(arguments.verbose))))
    if not found.asked_hub:
        warn(f"this is by the listing that was kept, for the Hub could not be asked: {found.hub_error}")
    if not found.fits:
        warn(f"it does not fit: {format_size(found.disk_needed - (found.disk_free or 0))} are missing")
    if not found.files:
        say("no file matches")
    return ExitCode.DONE


def _lines(found: DownloadPlan, *, every: bool) -> Iterator[str]:
    """Yield one line for each file to be fetched, in order, and what it comes to."""
    for file in found.files:
        if every or file.state != "present":
            yield _line(file)
    yield (f"{shown(found.repo_id)} at {shown(found.commit[:_COMMIT_DIGITS])} into {shown(found.path)}:")
    to_fetch = sum(file.bytes_to_fetch != 0 for file in found.files)
    yield f"  {count_of(len(found.files), 'file')}, {format_size(found.bytes_total)}; {format_size(found.bytes_here)} are here"
    unknown = f", and {found.unknown_sizes} of unknown size" if found.unknown_sizes else ""
    yield (
        f"  to fetch: {count_of(to_fetch, 'file')}, {format_size(found.bytes_to_fetch)}{unknown}, in about "
        f"{count_of(found.requests, 'request')}"
    )
    free = "" if found.disk_free is None else f"; {format_size(found.disk_free)} are free"
    yield f"  disk: {format_size(found.disk_needed)} needed{free}"
    if found.seconds is not None and found.rate is not None:
        yield f"  at {format_size(found.rate)}/s: {format_seconds(found.seconds)}"


def _line(file: FilePlan) -> str:
    size = "?" if file.size is None else format_size(file.size)
    about = []
    if file.state == "partial":
        about.append(f"{format_size(file.bytes_here)} are here")
    if file.fetched_by is not None:
        about.append(f"{shown(file.fetched_by)} is fetching it")
    more = f"  ({'; '.join(about)})" if about else ""
    return f"{_WORDS[file.state]:<8}{file.priority:<7}{size:>9}  {shown(file.path)}{more}"


def format_seconds(seconds: float) -> str:
    """Return a time to wait, in its two largest units."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    for large, size, small, unit in (("min", _MINUTE, "s", 1), ("h", _HOUR, "min", _MINUTE)):
        if seconds < size * (_MINUTE if size == _MINUTE else 24):
            return f"{seconds // size:.0f} {large} {seconds % size // unit:.0f} {small}"
    return f"{seconds // _DAY:.0f} d {seconds % _DAY // _HOUR:.0f} h"
