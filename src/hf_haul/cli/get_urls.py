"""Carries out ``hf-haul get``: what is wanted, and what is said of it at the end."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_haul.cli.download_results import error_as_dict, print_json
from hf_haul.cli.exit_codes import ExitCode, UsageError, exit_code_of
from hf_haul.cli.messages import say_error
from hf_haul.cli.settings_options import settings_of
from hf_haul.cli.streams import print_result
from hf_haul.cli.url_lists import WantedUrl, last_name, read_lists
from hf_haul.digests import Digest, read_digest
from hf_haul.failures import FailureKind, describe
from hf_haul.storage.nodes import is_node
from hf_haul.task import DownloadPriority
from hf_haul.urls import parse_url

if TYPE_CHECKING:
    from hf_haul.cli.url_fetch import FetchedUrl, UrlFetch

__all__ = ["get_urls"]


def get_urls(arguments: argparse.Namespace) -> int:
    """Get what the arguments of ``hf-haul get`` name; return the exit code."""
    wanted, folder = _wanted(arguments)
    from hf_haul.cli.url_fetch import UrlFetch  # brings requests along
    from hf_haul.manager import ParallelDownloadManager

    began = time.monotonic()
    headers = dict(arguments.header)
    with ParallelDownloadManager(
        settings=settings_of(arguments),
        headers=headers,
        on_event=arguments.on_event,
    ) as manager:
        fetch = UrlFetch(
            manager,
            headers=headers,
            folder=folder,
            priority=DownloadPriority[arguments.priority.upper()],
            names_from_servers=arguments.content_disposition,
            fresh=arguments.force_download,
        )
        files = fetch.run(wanted)
    if arguments.json:
        print_json(_summary(fetch, files, time.monotonic() - began))
    else:
        for file in files:
            if file.error is None and file.path is not None and not is_node(file.path):
                print_result(
                    str(file.path)
                )  # not of a pipe, nor of stdout: nothing may come behind the bytes there
    return _end(files)


def _wanted(arguments: argparse.Namespace) -> tuple[list[WantedUrl], Path]:
    """Return what is asked for, checked, and the folder that it goes to.

    Raises:
        UsageError: Something cannot be used; nothing was asked of any server yet.
    """
    wanted = [WantedUrl(url) for url in arguments.urls]
    for each in wanted:
        parse_url(each.url, userinfo=True)
    wanted = list(dict.fromkeys([*wanted, *read_lists(arguments.input)]))
    if not wanted:
        raise UsageError("nothing to get: name URLs, or with -i a list that has some")
    folder, name = _place(arguments)
    digest = _digest(arguments)
    for option, given in (("--checksum", digest), ("-o", name)):
        if given is not None and len(wanted) > 1:
            raise UsageError(
                f"{option} is for one URL, and there are {len(wanted)}; a list (-i) may say it of each"
            )
    if name is not None:
        wanted = [replace(wanted[0], name=name)]
    if digest is not None:
        wanted = [replace(wanted[0], digest=digest)]
    if not arguments.content_disposition:
        _require_names(wanted)
    return wanted, folder


def _place(arguments: argparse.Namespace) -> tuple[Path, str | None]:
    """Return the folder that files go to, and what the only one is to be called, if that was said.

    Raises:
        UsageError: There is a file where the folder should be.
    """
    folder, output = Path(arguments.dir or ""), arguments.output
    if output is not None and (output.endswith(("/", os.sep)) or (folder / output).is_dir()):
        folder, output = folder / output, None
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, and no folder to put files into")
    return folder, output


def _digest(arguments: argparse.Namespace) -> Digest | None:
    """Return what ``--checksum`` or ``--sha256`` says.

    Raises:
        UsageError: Both are given, or that is no digest.
    """
    if arguments.sha256 is None:
        digest: Digest | None = arguments.checksum
        return digest
    if arguments.checksum is not None:
        raise UsageError("--sha256 and --checksum cannot be used together")
    try:
        return read_digest(f"sha256:{arguments.sha256.removeprefix('sha256:')}")
    except ValueError as error:
        raise UsageError(f"--sha256: {error}") from None


def _require_names(wanted: Sequence[WantedUrl]) -> None:
    """Refuse URLs that do not say what their files are called, and files that would replace each other.

    Raises:
        UsageError: There are some; the message names each of them.
    """
    wrong: list[str] = []
    taken: dict[str, WantedUrl] = {}
    for each in wanted:
        name = each.name or last_name(each.url)
        where = f"{each.said_in}: " if each.said_in else ""
        if name is None:
            how = "with out= " if each.said_in else "with -o "
            wrong.append(f"{where}the URL does not end with a file's name; say {how}what to call it")
            continue
        first = taken.setdefault(os.path.normpath(name), each)
        if first is not each:
            before = f"that of {first.said_in}" if first.said_in else "an earlier URL's"
            wrong.append(
                f"{where}another file would be called {name}, too: {before}; in a list, out= renames it"
            )
    if len(wrong) > 1:
        wrong.insert(0, f"{len(wrong)} of {len(wanted)} URLs cannot be used")
    if wrong:
        raise UsageError("\n".join(wrong))


def _summary(fetch: UrlFetch, files: Sequence[FetchedUrl], seconds: float) -> dict[str, Any]:
    states = [file.state for file in files]
    only = files[0] if len(files) == 1 else None
    failed = next((file.error for file in files if file.error is not None), None)
    return {
        **({} if only is None else {"path": str(only.path) if only.error is None else None}),
        "files_fetched": states.count("fetched"),
        "files_reused": states.count("reused"),
        "files_failed": states.count("failed"),
        "bytes_fetched": fetch.bytes_fetched,
        "bytes_reused": fetch.bytes_reused,
        "bytes_wasted": fetch.bytes_wasted,
        "seconds": round(seconds, 3),
        "results": [file.as_dict() for file in files],
        **({} if failed is None else error_as_dict(failed)),
    }


def _end(files: Sequence[FetchedUrl]) -> int:
    """Say what went wrong; return the exit code, of several failures the first one's."""
    errors = [file.error for file in files if file.error is not None]
    for error in errors:
        if describe(error).kind is FailureKind.UNFORESEEN:
            raise error
        say_error(error)
    return exit_code_of(errors[0]) if errors else ExitCode.DONE
