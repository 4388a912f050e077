"""``hf-haul download``: a repository, or some of its files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from hf_haul import __version__
from hf_haul.cli.arguments import add_command, add_engine_options, add_progress_option, read_count
from hf_haul.cli.exit_codes import ExitCode
from hf_haul.cli.folders import format_size
from hf_haul.cli.messages import say
from hf_haul.cli.streams import print_result
from hf_haul.hub.presets import Preset

__all__ = ["add_download"]


def add_download(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "download", _download, "Download a repository, or some of its files.")
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
    parser.add_argument("--max-workers", type=read_count, metavar="N", help="files in progress at once")
    add_engine_options(parser)
    add_progress_option(parser)


@dataclass(frozen=True)
class _Request:
    repo_id: str
    repo_type: str
    revision: str | None
    filenames: list[str]


def _download(arguments: argparse.Namespace) -> int:
    if arguments.local_dir is not None and arguments.cache_dir is not None:
        raise ValueError("--local-dir and --cache-dir cannot be used together")
    request = _read_request(arguments)
    folders = [name for name in request.filenames if name.endswith("/")]
    patterns = arguments.include or arguments.exclude
    if folders and patterns:
        raise ValueError(
            f"{folders[0]!r} cannot be combined with --include and --exclude; write --include '{folders[0]}*'"
        )
    if request.filenames and patterns:
        say("warning: --include and --exclude are ignored, because files are named")
    result = _fetch(arguments, request)
    if isinstance(result, str):
        print_result(result)
    else:
        _print_plan(result if isinstance(result, list) else [result])
    return ExitCode.DONE


def _read_request(arguments: argparse.Namespace) -> _Request:
    repo_id, filenames = arguments.repo_id, list(arguments.filenames)
    if not repo_id.startswith("hf://"):
        return _Request(repo_id, arguments.repo_type or "model", arguments.revision, filenames)
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
    return _Request(uri.id, uri.type, uri.revision, filenames)


def _fetch(arguments: argparse.Namespace, request: _Request) -> Any:
    """Return a path, or the Hub's ``DryRunFileInfo`` of one file or of many."""
    from hf_haul.hub.single_file import hf_hub_download  # brings huggingface_hub along
    from hf_haul.hub.snapshot import snapshot_download  # the same

    common: dict[str, Any] = {
        "repo_type": request.repo_type,
        "revision": request.revision,
        "cache_dir": arguments.cache_dir,
        "local_dir": arguments.local_dir,
        "force_download": arguments.force_download,
        "token": arguments.token,
        "dry_run": arguments.dry_run,
        "library_name": "hf-haul",
        "library_version": __version__,
        "max_bandwidth": arguments.max_bandwidth,
        "max_connections": arguments.max_connections,
        "tqdm_class": None if arguments.on_event is None and not arguments.quiet else _silent(),
        "on_event": arguments.on_event,
    }
    names = request.filenames
    if len(names) == 1 and not names[0].endswith("/") and not arguments.preset:
        return hf_hub_download(request.repo_id, names[0], **common)
    if arguments.max_workers is not None:
        common["max_workers"] = arguments.max_workers
    return snapshot_download(
        request.repo_id,
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
    print_result(
        f"[dry-run] Will download {len(to_fetch)} files (out of {len(ordered)}) totalling {format_size(total)}."
    )
    for info in ordered:
        print_result(f"{format_size(info.file_size) if info.will_download else '-':>10}  {info.filename}")
