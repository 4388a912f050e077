"""The command ``hf-haul``, which is also ``hf haul`` where it is installed as an extension of ``hf``.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import unquote

from hf_haul import __version__
from hf_haul.config import Settings, parse_rate, serve_token
from hf_haul.errors import HaulError
from hf_haul.hub.presets import Preset
from hf_haul.urls import parse_url, redact

__all__ = ["main"]

_OK: Final = 0
_FAILED: Final = 1
_USAGE: Final = 2
_INTERRUPTED: Final = 130
_TICK: Final = 0.1  # seconds between two looks at a running download
_NAMED: Final = 5  # repositories that a line has room for
_MOST_GAPS: Final = 20  # lines about what is not there
_SHORT: Final = 7  # characters of a commit
_MOST_PORT: Final = 65_535
#: Whose versions matter in a report about a fault.
_PARTS: Final = ("huggingface_hub", "fsspec", "requests", "urllib3", "tenacity", "hf_xet", "aiohttp")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; the process's own if ``None``.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names are bytes, and go out as they are
    if arguments.verbose:
        level = logging.DEBUG if arguments.verbose > 1 else logging.INFO
        logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except KeyboardInterrupt:
        _say("interrupted; what was fetched is kept, and the same command goes on from there")
        return _INTERRUPTED
    except (HaulError, OSError, ValueError, ImportError) as error:
        _say(f"error: {error}" if str(error) else f"error: {type(error).__name__}")
        for note in getattr(error, "__notes__", ()):
            _say(note)
        return _FAILED


def _say(text: str) -> None:
    print(f"hf-haul: {text}", file=sys.stderr, flush=True)


# ---- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-haul", description="Resumable, verified, parallel downloads for the Hugging Face Hub."
    )
    parser.add_argument("--version", action="version", version=f"hf-haul {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_download(commands)
    _add_get(commands)
    _add_serve(commands)
    _add_env(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: much more")
    return parser


def _add_engine_options(parser: Any) -> None:
    parser.add_argument(
        "--max-bandwidth",
        type=_rate,
        metavar="RATE",
        help="over all connections, such as 50MB/s or 400Mbit/s",
    )
    parser.add_argument("--max-connections", type=_count, metavar="N", help="most connections at once")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def _add_download(commands: Any) -> None:
    parser = _command(commands, "download", _download, "Download a repository, or some of its files.")
    parser.add_argument(
        "repo_id", metavar="REPO", help="org/name, or hf://datasets/org/name@revision/folder/"
    )
    parser.add_argument(
        "filenames", metavar="FILE", nargs="*", help="files, or folders if they end with a slash"
    )
    parser.add_argument("--repo-type", "--type", choices=("model", "dataset", "space"), help="default: model")
    parser.add_argument("--revision", help="branch, tag, refs/pr/N or commit; default: main")
    parser.add_argument("--include", metavar="GLOB", action="append", help="only files like this; repeatable")
    parser.add_argument("--exclude", metavar="GLOB", action="append", help="no files like this; repeatable")
    parser.add_argument(
        "--preset", choices=get_args(Preset), action="append", help="pick among formats of the same weights"
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="the cache; default: the Hub's own")
    parser.add_argument("--local-dir", metavar="DIR", help="put plain files here and not into the cache")
    parser.add_argument("--force-download", action="store_true", help="fetch every file anew")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be downloaded, and write nothing"
    )
    parser.add_argument("--token", help="default: the stored one")
    parser.add_argument("--max-workers", type=_count, metavar="N", help="files in progress at once")
    _add_engine_options(parser)


def _add_get(commands: Any) -> None:
    parser = _command(commands, "get", _get, "Download one file from any http(s) URL.")
    parser.add_argument("url", metavar="URL")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="a file or a folder; default: the URL's last name"
    )
    parser.add_argument("--sha256", metavar="HEX", help="what the file must hash to")
    parser.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", type=_header, action="append", default=[],
        help="sent to the URL's own origin only; repeatable",
    )  # fmt: skip
    _add_engine_options(parser)


def _add_serve(commands: Any) -> None:
    parser = _command(
        commands,
        "serve",
        _serve,
        "Share a folder or a Hub cache, as a small read-only Hub for the machines around.",
    )
    parser.add_argument(
        "path", metavar="FOLDER", help="a Hub cache, a folder of <org>/<name>/, or one repository"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all; default: %(default)s"
    )
    parser.add_argument("--port", type=_port, default=8000, help="0 for any free one; default: %(default)s")
    tokens = parser.add_mutually_exclusive_group()
    tokens.add_argument(
        "--token-file",
        metavar="FILE",
        help="ask for the token in this file; HF_HAUL_SERVE_TOKEN may hold it, too. Needed beyond this machine",
    )
    tokens.add_argument(
        "--token", help="the same, but others on this machine can read it in the list of processes"
    )
    parser.add_argument(
        "--allow-anyone",
        action="store_true",
        help="ask for no token, although other machines can reach it: all that is served is public then",
    )
    parser.add_argument(
        "--allowed-host",
        metavar="NAME",
        type=_host,
        action="append",
        default=[],
        help="without a token: a further name under which it may be asked, besides this machine's own; repeatable",
    )
    parser.add_argument(
        "--complete",
        action="store_true",
        help="vouch that all files are there of each commit in the cache that the Hub's listing was not kept of",
    )
    parser.add_argument(
        "--hidden",
        action="store_true",
        help="in folders that are no cache, serve all files whose names begin with a dot, but never .git",
    )
    parser.add_argument(
        "--pace", type=_rate, metavar="RATE", help="limit over all connections, such as 50MB/s"
    )
    parser.add_argument("--certfile", metavar="PEM", help="a certificate, to serve https")
    parser.add_argument("--keyfile", metavar="PEM", help="its key")


def _add_env(commands: Any) -> None:
    _command(
        commands, "env", _env, "Show versions and the settings in force; add this to a report about a fault."
    )


def _rate(text: str) -> int:
    try:
        rate = parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not rate:
        raise argparse.ArgumentTypeError(f"not a limit: {text!r}; leave the option out for none")
    return rate


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _MOST_PORT:
        raise argparse.ArgumentTypeError(f"not a port, which is a number from 0 to {_MOST_PORT}: {text!r}")
    return int(text)


def _host(text: str) -> str:
    from hf_haul.localhub.hosts import host_name  # needs the extra "serve"

    try:
        return host_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number above 0: {text!r}")
    return int(text)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # Not quoted: it may be a token.
        raise argparse.ArgumentTypeError("not a header; write 'Name: value'")
    return name.strip(), value.strip()


# ---- download


@dataclass(frozen=True)
class _Wanted:
    repo_id: str
    repo_type: str
    revision: str | None
    filenames: list[str]


def _wanted(arguments: argparse.Namespace) -> _Wanted:
    repo_id, filenames = arguments.repo_id, list(arguments.filenames)
    if not repo_id.startswith("hf://"):
        return _Wanted(repo_id, arguments.repo_type or "model", arguments.revision, filenames)
    from huggingface_hub.utils import parse_hf_uri  # type: ignore[attr-defined]  # public, but without an __all__

    if arguments.repo_type or arguments.revision:
        raise ValueError(f"--repo-type and --revision cannot be used with an hf:// URI ({repo_id})")
    uri = parse_hf_uri(repo_id)
    if uri.is_bucket:
        raise ValueError("buckets are not repositories: hf-haul does not download them")
    if uri.path_in_repo:
        if filenames:
            raise ValueError(f"{repo_id} names a file already; do not name more")
        filenames = [uri.path_in_repo + ("/" if repo_id.endswith("/") else "")]
    return _Wanted(uri.id, uri.type, uri.revision, filenames)


def _download(arguments: argparse.Namespace) -> int:
    if arguments.local_dir is not None and arguments.cache_dir is not None:
        raise ValueError("--local-dir and --cache-dir cannot be used together")
    wanted = _wanted(arguments)
    folders = [name for name in wanted.filenames if name.endswith("/")]
    patterns = arguments.include or arguments.exclude
    if folders and patterns:
        raise ValueError(
            f"{folders[0]!r} cannot be combined with --include and --exclude; write --include '{folders[0]}*'"
        )
    if wanted.filenames and patterns:
        _say("warning: --include and --exclude are ignored, because files are named")
    result = _fetch(arguments, wanted)
    if isinstance(result, str):
        print(result)
    else:
        _print_plan(result if isinstance(result, list) else [result])
    return _OK


def _fetch(arguments: argparse.Namespace, wanted: _Wanted) -> Any:
    """A path, or the Hub's ``DryRunFileInfo`` of one file or of many."""
    from hf_haul.hub.snapshot import hf_hub_download, snapshot_download  # brings huggingface_hub along

    common: dict[str, Any] = {
        "repo_type": wanted.repo_type,
        "revision": wanted.revision,
        "cache_dir": arguments.cache_dir,
        "local_dir": arguments.local_dir,
        "force_download": arguments.force_download,
        "token": arguments.token,
        "dry_run": arguments.dry_run,
        "library_name": "hf-haul",
        "library_version": __version__,
        "max_bandwidth": arguments.max_bandwidth,
        "max_connections": arguments.max_connections,
        "tqdm_class": _silent() if arguments.quiet else None,
    }
    names = wanted.filenames
    if len(names) == 1 and not names[0].endswith("/") and not arguments.preset:
        return hf_hub_download(wanted.repo_id, names[0], **common)
    if arguments.max_workers is not None:
        common["max_workers"] = arguments.max_workers
    return snapshot_download(
        wanted.repo_id,
        allow_patterns=[f"{name}**" if name.endswith("/") else name for name in names] or arguments.include,
        ignore_patterns=None if names else arguments.exclude,
        presets=arguments.preset,
        **common,
    )


def _silent() -> Callable[..., Any]:
    from tqdm import tqdm

    return partial(tqdm, disable=True)


def _print_plan(files: Iterable[Any]) -> None:
    ordered = sorted(files, key=lambda info: str(info.filename))
    to_fetch = [info for info in ordered if info.will_download]
    total = sum(info.file_size or 0 for info in to_fetch)
    print(f"[dry-run] Will download {len(to_fetch)} files (out of {len(ordered)}) totalling {_size(total)}.")
    for info in ordered:
        print(f"{_size(info.file_size) if info.will_download else '-':>10}  {info.filename}")


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


# ---- get


def _get(arguments: argparse.Namespace) -> int:
    import hf_haul.hub.call_options  # noqa: F401  for the bar: Ctrl+C during a download must find no module half imported
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
            _say(f"error: {failure['error']}")
        return _FAILED
    print(target)
    return _OK


def _target(url: str, output: str | None) -> Path:
    """Where a URL's file goes."""
    if output is not None and not (output.endswith(("/", os.sep)) or Path(output).is_dir()):
        return Path(output)
    name = unquote(parse_url(url, userinfo=True).path.rpartition("/")[2])
    if name in {"", ".", ".."} or Path(name).name != name or "\\" in name:
        raise ValueError("the URL does not end with a file's name; say with -o what to call it")
    return Path(output or "", name)


def _watch(manager: Any, task: str, name: str, *, quiet: bool) -> dict[str, Any]:
    from tqdm import tqdm

    from hf_haul.hub.call_options import raise_start

    found = 0
    with tqdm(
        desc=name, unit="B", unit_scale=True, file=sys.stderr, disable=True if quiet else None, leave=True
    ) as bar:
        while True:
            outcome: dict[str, Any] = manager.wait_for_model_completion(task, _TICK)
            bar.total = outcome["total_bytes"] or None
            if outcome["bytes_resumed"] != found:
                found += raise_start(bar, outcome["bytes_resumed"] - found)
            bar.update(outcome["bytes_done"] - bar.n)
            if not outcome["timed_out"]:
                return outcome


# ---- serve


def _serve(arguments: argparse.Namespace) -> int:
    from hf_haul.localhub import LocalHub, serve  # needs the extra "serve"
    from hf_haul.localhub.hosts import urls_for_others
    from hf_haul.localhub.sharing import require_token

    try:
        token = _serve_token(arguments)
        require_token(arguments.host, token, allow_anyone=arguments.allow_anyone)
    except (OSError, ValueError) as error:
        _say(f"error: {error}")
        return _USAGE

    def ready(hub: LocalHub) -> None:
        print(hub.url, flush=True)
        served = sorted(repo.repo_id for repo in hub.catalog.all())
        if not served:
            _say(
                f"warning: {arguments.path} holds no repository: it is no Hub cache, and has neither files nor folders "
                "called <org>/<name>. Nothing is shared until there is one"
            )
        _say(f"sharing {_names(served)} of {arguments.path} until Ctrl+C; use it with HF_ENDPOINT={hub.url}")
        others = urls_for_others(hub.url, arguments.host)
        if others:
            _say(f"on other machines: HF_ENDPOINT={' or '.join(others)}")
        for line in _gaps(hub, complete=arguments.complete):
            _say(line)

    more = {
        "hidden": arguments.hidden,
        "complete": arguments.complete,
        "allow_anyone": arguments.allow_anyone,
        "allowed_hosts": arguments.allowed_host,
    }
    serve(
        arguments.path,
        host=arguments.host,
        port=arguments.port,
        token=token,
        max_bytes_per_s=arguments.pace,
        certfile=arguments.certfile,
        keyfile=arguments.keyfile,
        on_ready=ready,
        **{name: value for name, value in more.items() if value},
    )
    return _OK


def _serve_token(arguments: argparse.Namespace) -> str | None:
    """The token to ask for.

    Raises:
        ValueError: It is empty, or the file holds no text.
        OSError: The file cannot be read.
    """
    if arguments.token is not None:
        _say("warning: others on this machine can read --token in the list of processes; use --token-file")
        source, token = "--token", arguments.token
    elif arguments.token_file is not None:
        source, token = arguments.token_file, Path(arguments.token_file).read_text("utf-8-sig", "replace")
    else:
        source, token = "HF_HAUL_SERVE_TOKEN", serve_token()
    if token is not None and not token.strip():
        raise ValueError(f"the token in {source} is empty")
    return None if token is None else token.strip()


def _gaps(hub: Any, *, complete: bool) -> Iterator[str]:
    """What of the commits that are served is not here, or may not be."""
    lines = [
        line
        for repo in sorted(hub.catalog.all(), key=lambda repo: repo.repo_id)
        for holding in (repo.holdings() if hasattr(repo, "holdings") else ())
        if not (complete and holding.listed is None) and (line := _gap(repo.repo_id, holding))
    ]
    yield from lines[:_MOST_GAPS]
    if len(lines) > _MOST_GAPS:
        yield f"... and {len(lines) - _MOST_GAPS} more"


def _gap(repo_id: str, holding: Any) -> str | None:
    where = f"{repo_id} at {', '.join(holding.names) or holding.commit[:_SHORT]}"
    if holding.listed is None:
        return (
            f"{where}: {_count_of(holding.files, 'file')}, and no listing that says whether these are all; a whole "
            "snapshot can be had only with --complete"
        )
    if holding.files < holding.listed:
        return f"{where}: {holding.files} of {_count_of(holding.listed, 'file')}"
    return None


def _count_of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _names(served: Sequence[str]) -> str:
    """How many repositories there are, and which."""
    if not served:
        return "0 repositories"
    shown = ", ".join(served[:_NAMED]) + (", ..." if len(served) > _NAMED else "")
    return f"{len(served)} {'repository' if len(served) == 1 else 'repositories'} ({shown})"


# ---- env


def _env(_: argparse.Namespace) -> int:
    from huggingface_hub import constants, get_token

    print(f"hf-haul {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in _PARTS:
        print(f"  {name:<16} {_version(name)}")
    print("Hub")
    print(f"  {'endpoint':<16} {redact(constants.ENDPOINT)}")
    print(f"  {'cache':<16} {constants.HF_HUB_CACHE}")
    print(f"  {'token':<16} {'yes' if get_token() else 'no'}")
    print("Settings (* changed by a variable)")
    defaults, settings = Settings(), Settings.from_environment()
    for field in fields(Settings):
        value = getattr(settings, field.name)
        mark = "*" if value != getattr(defaults, field.name) else " "
        print(f"{mark} {'HF_HAUL_' + field.name.upper():<40} {value}")
    return _OK


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
