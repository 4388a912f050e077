"""``hf-haul get``: one file from any http(s) URL."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from hf_haul.cli.arguments import add_command, add_engine_options, read_header
from hf_haul.cli.exit_codes import ExitCode, UsageError
from hf_haul.cli.streams import print_result
from hf_haul.urls import parse_url

__all__ = ["add_get"]

_TICK: Final = 0.1  # seconds between two looks at a running download


def add_get(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "get", _get, "Download one file from any http(s) URL.")
    parser.add_argument("url", metavar="URL")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="a file or a folder; default: the URL's last name"
    )
    parser.add_argument("--sha256", metavar="HEX", help="what the file must hash to")
    parser.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", type=read_header, action="append", default=[],
        help="sent to the URL's own origin only; repeatable",
    )  # fmt: skip
    add_engine_options(parser)


def _get(arguments: argparse.Namespace) -> int:
    import hf_haul.hub.bars  # noqa: F401  for the bar: Ctrl+C during a download must find no module half imported
    from hf_haul.manager import ParallelDownloadManager  # brings requests along

    target = _target(arguments.url, arguments.output)
    with ParallelDownloadManager(
        max_concurrent_downloads=arguments.max_connections,
        max_bandwidth_bps=arguments.max_bandwidth,
        headers=dict(arguments.header),
    ) as manager:
        handle = manager.submit_url(
            "hf-haul get", target.name, arguments.url, target, digest=arguments.sha256
        )
        _watch(handle, target.name, quiet=arguments.quiet)
    for _, error in handle.errors():
        raise error
    print_result(str(target))
    return ExitCode.DONE


def _target(url: str, output: str | None) -> Path:
    """Return the path for a URL's file."""
    if output is not None and not (output.endswith(("/", os.sep)) or Path(output).is_dir()):
        return Path(output)
    name = unquote(parse_url(url, userinfo=True).path.rpartition("/")[2])
    if name in {"", ".", ".."} or Path(name).name != name or "\\" in name:
        raise UsageError("the URL does not end with a file's name; say with -o what to call it")
    return Path(output or "", name)


def _watch(handle: Any, name: str, *, quiet: bool) -> None:
    from tqdm import tqdm

    from hf_haul.hub.bars import resumed_bytes, shift_bar_start

    found = 0
    with tqdm(
        desc=name, unit="B", unit_scale=True, file=sys.stderr, disable=True if quiet else None, leave=True
    ) as bar:
        over = False
        while not over:
            over = handle.wait(_TICK)
            now = handle.progress()
            bar.total = now.bytes_total or None
            if resumed_bytes(now) > found:
                found += shift_bar_start(bar, resumed_bytes(now) - found)
            bar.update(now.bytes_done - bar.n)
