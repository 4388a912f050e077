"""``hf-haul bench``: what this link brings, and how many connections that takes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.arguments import (
    add_command,
    add_progress_option,
    read_count,
    read_header,
    read_limit,
    read_size,
)
from hf_haul.cli.exit_codes import ExitCode, UsageError
from hf_haul.cli.folders import count_of, format_size, shown
from hf_haul.cli.messages import say
from hf_haul.cli.repo_arguments import read_repo
from hf_haul.cli.signals import said_when_interrupted
from hf_haul.cli.streams import print_result

if TYPE_CHECKING:
    from hf_haul.hub.call_events import CallEvents
    from hf_haul.hub.link_report import LinkReport, LinkSample
    from hf_haul.task import RemoteFile

__all__ = ["add_bench"]

_ABOUT: Final = """\
Read a large file over 1, 2, 4, ... connections as long as more bring more, and
say what limits: the line, the server, or this machine. What comes is thrown
away. A server that asks to wait is not asked again."""
#: Read where nothing is named: 548 MB that everybody may read.
_DEFAULT: Final = "openai-community/gpt2"
_LIMITS: Final = {
    "connection": "each connection brings about the same, and more bring more: the server or the distance limits each of them",
    "link": "more connections do not help: the line or the server is at its limit",
    "server": "the server asked to wait: it limits, and not the line",
    "processor": "the processors of this machine are busy: they limit, and not the line",
    "bandwidth": "the limit that is set is reached",
    "ranges": "the server sends whole files only: one connection for each file",
    "unknown": "there was too little to tell what limits",
}


def add_bench(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "bench",
        _bench,
        "Measure what this link brings, and how many connections that takes.",
        examples=("hf-haul bench", "hf-haul bench org/model", "hf-haul bench https://example.org/big.bin"),
    )
    parser.description = _ABOUT
    parser.add_argument(
        "target",
        metavar="REPO|URL",
        nargs="?",
        default=_DEFAULT,
        help=f"a repository, whose largest file is read, or any http(s) URL; default: {_DEFAULT}",
    )
    parser.add_argument("filename", metavar="FILE", nargs="?", help="another file of the repository")
    parser.add_argument("--repo-type", "--type", choices=("model", "dataset", "space", "kernel"))
    parser.add_argument("--revision", help="branch, tag, refs/pr/N or commit; default: main")
    parser.add_argument("--token", help="default: the stored one")
    parser.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", type=read_header, action="append", default=[],
        help="sent to the URL's own origin only; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--max-connections",
        type=read_count,
        metavar="N",
        help="at the most; default: as many as downloads may use (HF_HAUL_MAX_CONNECTIONS)",
    )
    parser.add_argument(
        "--max-bytes", type=read_size, metavar="SIZE", default="2GB", help="to fetch; default: %(default)s"
    )
    parser.add_argument(
        "--max-seconds", type=_read_seconds, metavar="S", default="30", help="default: %(default)s"
    )
    parser.add_argument("--max-bandwidth", type=read_limit, metavar="RATE", help="over all connections")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the result")
    add_progress_option(parser)


def _read_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"not a number of seconds above 0: {text!r}")
    return seconds


def _bench(arguments: argparse.Namespace) -> int:
    from hf_haul.hub.call_options import CallOptions  # brings huggingface_hub and requests along
    from hf_haul.hub.link_test import measure_link  # the same

    told = not (arguments.quiet or arguments.json)
    listening = CallOptions(on_event=arguments.on_event)
    with said_when_interrupted(lambda: "nothing was written"), listening.events(arguments.target) as events:
        remote = _remote(arguments, events)
        if told:
            say(f"reading {shown(remote.path)}; what comes is thrown away")
        report = measure_link(
            remote,
            most_connections=arguments.max_connections,
            max_bytes=arguments.max_bytes,
            max_seconds=arguments.max_seconds,
            max_bandwidth=arguments.max_bandwidth,
            on_sample=(lambda sample: say(_line(sample))) if told else (lambda _: None),
            events=events.stream,
        )
        if events.stream is not None:
            events.stream.done(fetched=report.bytes, wasted=report.bytes)
    print_result(json.dumps(report.as_dict()) if arguments.json else "\n".join(_lines(report)))
    if report.stopped is not None:
        say(f"it was not measured to its end: {report.stopped}")
    return ExitCode.DONE if report.samples else ExitCode.NETWORK


def _remote(arguments: argparse.Namespace, events: CallEvents) -> RemoteFile:
    from hf_haul.hub.link_test import largest_file, remote_url
    from hf_haul.hub.repository import Repository

    target = arguments.target
    if target.startswith(("http://", "https://")):
        if arguments.filename or arguments.repo_type or arguments.revision or arguments.token:
            raise UsageError("FILE, --repo-type, --revision and --token are for repositories, not for a URL")
        return remote_url(target, dict(arguments.header))
    if arguments.header:
        raise UsageError("--header is for a URL; a repository takes --token")
    repo = read_repo(target, arguments.repo_type, arguments.revision)
    repository = Repository(repo.repo_id, repo.repo_type or "model", token=arguments.token)
    repository = events.attended(repository)
    return largest_file(repository, repo.revision, arguments.filename or next(iter(repo.filenames), None))


def _line(sample: LinkSample) -> str:
    return f"{count_of(sample.connections, 'connection'):>15}  {format_size(sample.rate):>9}/s"


def _lines(report: LinkReport) -> Iterator[str]:
    yield f"{shown(report.url)}" + ("" if report.size is None else f", {format_size(report.size)}")
    if report.first_request_seconds is not None:
        usual = report.first_byte_seconds
        after = "" if usual is None else f", and {1000 * usual:.0f} ms over an open connection"
        yield f"first byte after {1000 * report.first_request_seconds:.0f} ms{after}"
    for sample in report.samples:
        yield _line(sample)
    if report.best_connections is not None and report.best_rate is not None:
        yield f"best: {count_of(report.best_connections, 'connection')}, {format_size(report.best_rate)}/s"
    yield _LIMITS[report.limit]
    yield from _setting(report)


def _setting(report: LinkReport) -> Iterator[str]:
    """Yield which setting would help, if one does."""
    best = report.best_connections
    if best is None or len(report.samples) < 2:
        return
    worse = [sample for sample in report.samples if sample.connections > best]
    if report.limit == "connection":
        yield f"HF_HAUL_INITIAL_CONNECTIONS={best} has downloads begin with so many; without it they find out"
    elif worse and min(sample.rate for sample in worse) < 0.8 * (report.best_rate or 0.0):
        yield f"HF_HAUL_MAX_CONNECTIONS={best} keeps downloads from using more, which is slower here"
    else:
        yield "no setting is needed: downloads find that number by themselves"
