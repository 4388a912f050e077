"""``hf-haul get``: one file from any http(s) URL."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from hf_haul.cli.arguments import add_command, add_engine_options, read_header
from hf_haul.cli.messages import FAILED, OK, say
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
        task = manager.add_download_task(
            "hf-haul get", target.name, arguments.url, target, digest=arguments.sha256
        )
        outcome = _watch(manager, task, target.name, quiet=arguments.quiet)
    if not outcome["success"]:
        for failure in outcome["failed_files"]:
            say(f"error: {failure['error']}")
        return FAILED
    print(target)
    return OK


def _target(url: str, output: str | None) -> Path:
    """Return the path for a URL's file."""
    if output is not None and not (output.endswith(("/", os.sep)) or Path(output).is_dir()):
        return Path(output)
    name = unquote(parse_url(url, userinfo=True).path.rpartition("/")[2])
    if name in {"", ".", ".."} or Path(name).name != name or "\\" in name:
        raise ValueError("the URL does not end with a file's name; say with -o what to call it")
    return Path(output or "", name)


def _watch(manager: Any, task: str, name: str, *, quiet: bool) -> dict[str, Any]:
    from tqdm import tqdm

    from hf_haul.hub.bars import shift_bar_start

    found = 0
    with tqdm(
        desc=name, unit="B", unit_scale=True, file=sys.stderr, disable=True if quiet else None, leave=True
    ) as bar:
        while True:
            outcome: dict[str, Any] = manager.wait_for_model_completion(task, _TICK)
            bar.total = outcome["total_bytes"] or None
            if outcome["bytes_resumed"] != found:
                found += shift_bar_start(bar, outcome["bytes_resumed"] - found)
            bar.update(outcome["bytes_done"] - bar.n)
            if not outcome["timed_out"]:
                return outcome
