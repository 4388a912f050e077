"""``hf-haul verify``: whether downloaded files are what the Hub has, and their repair."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import add_command, add_progress_option, read_count, read_limit
from hf_haul.cli.exit_codes import ExitCode, UsageError
from hf_haul.cli.folders import count_of, format_size, shown
from hf_haul.cli.messages import say, warn
from hf_haul.cli.repo_arguments import add_repo_options, read_wanted
from hf_haul.cli.signals import said_when_interrupted
from hf_haul.cli.streams import print_result
from hf_haul.cli.verify_display import VerifyDisplay
from hf_haul.errors import HaulError
from hf_haul.hub.named_files import require_named

if TYPE_CHECKING:
    from hf_haul.hub.verify_report import VerifyReport

__all__ = ["add_verify"]

_ABOUT: Final = """\
Check that downloaded files are what the Hub has: all sizes first, then digests
on all processors. No request is made unless --hub or --repair asks for it, or
nothing on the disk tells a single digest. Exits with 7 if a file is wrong or
missing; a file whose digest nobody knows is counted, and no error."""
#: Digits that tell commits apart.
_COMMIT_DIGITS: Final = 8


def add_verify(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "verify",
        _verify,
        "Check that downloaded files are what the Hub has, and repair them.",
        examples=("hf-haul verify org/model --repair", "hf-haul verify ./model --repair"),
    )
    parser.description = _ABOUT
    parser.add_argument(
        "target",
        metavar="REPO|FOLDER",
        help="org/name, datasets/org/name or hf://...; or a local_dir, a snapshot, or the folder of a repository in a cache",
    )
    parser.add_argument("filenames", metavar="FILE", nargs="*", help="only these; folders end with a slash")
    add_repo_options(parser)
    parser.add_argument("--cache-dir", metavar="DIR", help="the cache; default: the Hub's own")
    parser.add_argument("--local-dir", metavar="DIR", help="the folder with the files of REPO")
    parser.add_argument("--hub", action="store_true", help="ask the Hub what the files should be")
    parser.add_argument(
        "--partial", action="store_true", help="do not report files that were never downloaded"
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="fetch what is wrong or missing, and of a file that is too short, too long or has lost pages no more than that",
    )
    parser.add_argument("--max-workers", type=read_count, metavar="N", help="files hashed at once")
    parser.add_argument(
        "--max-bandwidth", type=read_limit, metavar="RATE", help="of a repair, such as 50MB/s"
    )
    parser.add_argument("--max-connections", type=read_count, metavar="N", help="of a repair")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    add_progress_option(parser)


def _verify(arguments: argparse.Namespace) -> int:
    from hf_haul.hub.verification import verify  # brings huggingface_hub along

    wanted = read_wanted(arguments, arguments.target)
    every, silent = bool(arguments.verbose), bool(arguments.json)
    display = VerifyDisplay(every=every, silent=silent)
    with _misuse_told(), said_when_interrupted(display.so_far):
        report = verify(
            wanted.repo.repo_id,
            repo_type=wanted.repo.repo_type,
            revision=wanted.repo.revision,
            cache_dir=arguments.cache_dir,
            local_dir=arguments.local_dir,
            allow_patterns=wanted.allow,
            ignore_patterns=wanted.ignore,
            presets=arguments.preset,
            ask_hub=arguments.hub,
            partial=arguments.partial,
            repair=arguments.repair,
            token=arguments.token,
            max_workers=arguments.max_workers,
            max_bandwidth=arguments.max_bandwidth,
            max_connections=arguments.max_connections,
            on_file=display.on_file,
            on_progress=display.on_progress,
            on_event=arguments.on_event,
        )
    require_named(wanted.names, {file.path for file in report.files}, report.repo_id or report.path)
    print_result(json.dumps(report.as_dict()) if arguments.json else _summary(report))
    _advise(report, arguments)
    return ExitCode.DONE if report.is_ok else ExitCode.INTEGRITY


@contextmanager
def _misuse_told() -> Iterator[None]:
    """Take what the library says of its arguments for what is wrong with the command line."""
    try:
        yield
    except HaulError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _summary(report: VerifyReport) -> str:
    counts = ", ".join(f"{number} {state}" for state, number in report.counts.items() if number) or "nothing"
    repaired = f" ({report.repaired} repaired, {format_size(report.bytes_fetched)} fetched)"
    speed = report.bytes_read / report.read_seconds if report.read_seconds else 0.0
    return (
        f"{count_of(len(report.files), 'file')} {_of_what(report)}: {counts}{repaired if report.repaired else ''}; "
        f"read {format_size(report.bytes_read)} in {report.read_seconds:.1f} s ({format_size(speed)}/s), {_by(report)}"
    )


def _of_what(report: VerifyReport) -> str:
    where = f"in {shown(report.path)}" if report.repo_id is None else f"of {shown(report.repo_id)}"
    if len(report.commits) == 1:
        return f"{where} at {shown(report.commits[0][:_COMMIT_DIGITS])}"
    return f"{where} at {count_of(len(report.commits), 'commit')}" if report.commits else where


def _by(report: VerifyReport) -> str:
    told = {file.known_from for file in report.files} - {None}
    if "hub" in told:
        return "by the Hub's listing"
    if "listing" in told:
        return "by the listing that was kept"
    return "by what was noted at the download" if told else "unverified: no digest is known"


def _advise(report: VerifyReport, arguments: argparse.Namespace) -> None:
    """Say on stderr what could be done about it."""
    for line in _advice(report, arguments):
        say(line)
    if report.hub_error is not None:
        warn(f"the Hub could not be asked what the files should be: {report.hub_error}")


def _advice(report: VerifyReport, arguments: argparse.Namespace) -> Iterator[str]:
    absent = sum(file.state == "missing" and file.fault == "absent" for file in report.files)
    if not report.is_ok and not arguments.repair:
        if report.repo_id is None:
            yield f"to repair them, name the repository: hf-haul verify REPO --local-dir {shlex.quote(report.path)} --repair"
        else:
            yield "the same command with --repair fetches what is wrong or missing"
    if absent and not arguments.partial:
        yield "with --partial, files that were never downloaded are not reported"
    unknown = report.counts["unknown"]
    if unknown and not report.asked_hub and report.repo_id is not None:
        files = "a file" if unknown == 1 else f"{unknown} files"
        yield f"nothing here tells the digest of {files}; with --hub the Hub is asked"
