"""``hf-haul download``: a repository, or some of its files."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hf_haul import __version__
from hf_haul.cli.arguments import add_command, add_progress_option
from hf_haul.cli.download_results import (
    CallNotes,
    error_as_dict,
    print_dry_run,
    print_json,
    result_as_dict,
)
from hf_haul.cli.exit_codes import ExitCode, UsageError
from hf_haul.cli.peers import PeersDownload, add_peers_options, wants_peers
from hf_haul.cli.repo_arguments import RepoArgument, add_repo_options, patterns_of, require_one_folder
from hf_haul.cli.repo_lists import LIST_HELP, WantedRepo, add_repo_sources, wanted_repos
from hf_haul.cli.settings_options import add_settings_options, settings_of
from hf_haul.cli.several_downloads import download_several, local_dir_of, say_what_is_planned
from hf_haul.cli.signals import EndedBySignal
from hf_haul.cli.streams import print_result
from hf_haul.errors import add_note
from hf_haul.hub.named_files import names_hint

if TYPE_CHECKING:
    from hf_haul.hub.snapshot_call import SnapshotCall
    from hf_haul.manager import ParallelDownloadManager

__all__ = ["add_download"]

_FORMATS: Final = ("auto", "human", "agent", "json", "quiet")
_EXAMPLES: Final = (
    "hf-haul download org/model",
    "hf-haul download org/model config.json tokenizer.json --local-dir ./model",
    "hf-haul download org/model --include '*.safetensors' --max-bandwidth 50MB/s",
    "hf-haul download hf://datasets/org/data@v1.0/train/",
    "hf-haul download org/model --json --progress json",
    "hf-haul download -r org/model -r datasets/org/data@v1.0 -i more.txt",
)
#: The options fill a screen by themselves; --help has them.
_USAGE: Final = """\
hf-haul download [options] REPO [FILE ...]
       hf-haul download [options] [REPO] -r REPO ... -i LIST ..."""
#: Entries of a listing that the nearest name is looked for in.
_MOST_LISTED: Final = 10_000


def add_download(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "download",
        _download,
        "Download a repository, several of them, or some files.",
        examples=_EXAMPLES,
        notes=LIST_HELP,
    )
    parser.usage = _USAGE
    parser.add_argument(
        "repo_id",
        metavar="REPO",
        nargs="?",
        help="org/name, datasets/org/name, either with @revision, or hf://datasets/org/name@revision/folder/",
    )
    parser.add_argument(
        "filenames", metavar="FILE", nargs="*", help="files, or folders if they end with a slash"
    )
    add_repo_sources(parser)
    add_repo_options(parser)
    parser.add_argument("--cache-dir", metavar="DIR", help="the cache; default: the Hub's own")
    parser.add_argument("--local-dir", metavar="DIR", help="put plain files here and not into the cache")
    parser.add_argument(
        "--source",
        metavar="URL",
        action="append",
        dest="source_urls",
        help="of a mirror, or of 'hf-haul serve': bytes come from there, too; repeatable. Default: HF_HAUL_SOURCES",
    )
    _add_switch(parser, "--force-download", "fetch every file anew")
    _add_switch(parser, "--dry-run", "say what would be downloaded, and write nothing")
    add_settings_options(parser)
    add_peers_options(parser)
    _add_output_options(parser)


def _add_switch(parser: Any, name: str, text: str) -> None:
    """Add an option that can be turned off again, as all of huggingface_hub's can."""
    parser.add_argument(name, action=argparse.BooleanOptionalAction, default=False, help=text)


def _add_output_options(parser: Any) -> None:
    group = parser.add_argument_group("what it says")
    add_progress_option(group)
    group.add_argument(
        "--format",
        choices=_FORMATS,
        action=_FormatAction,
        default="auto",
        help="of stdout: human (the path, and what auto is), agent (path=...), json, or quiet",
    )
    group.add_argument(
        "--json",
        dest="format",
        action=_FormatAction,
        nargs=0,
        const="json",
        help="one object: path, commit, files and bytes (fetched, reused, wasted, by source), seconds, or error and exit_code",
    )
    group.add_argument(
        "-q",
        "--quiet",
        dest="format",
        action=_FormatAction,
        nargs=0,
        const="quiet",
        help="no progress, and the path alone",
    )
    group.add_argument("--no-truncate", action="store_true", help="as with hf: nothing is cut short anyway")
    parser.set_defaults(quiet=False)


class _FormatAction(argparse.Action):
    """Sets the format; a quiet one is quiet on stderr, too, whatever format is asked for beside it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Set it."""
        del parser, option_string
        chosen = self.const or values
        if chosen == "quiet":
            namespace.quiet = True
            if namespace.format == "json":
                return
        namespace.format = chosen


def _download(arguments: argparse.Namespace) -> int:
    with _told_in_json(arguments) as notes:
        require_one_folder(arguments)
        together = wants_peers(arguments)
        wanted = wanted_repos(arguments)
        if together:
            return _download_together(arguments, _only(wanted, arguments), notes)
        with _manager(arguments) as manager:
            if arguments.sources:
                return _download_several(arguments, wanted, manager, notes)
            repo = _only(wanted, arguments)
            return _download_one(_Task(arguments, repo, manager, arguments.local_dir), notes)


def _only(wanted: Sequence[WantedRepo], arguments: argparse.Namespace) -> RepoArgument:
    """Return the only repository, with the files that are named beside it."""
    repo = wanted[0].repo
    if repo.filenames and arguments.filenames:
        raise UsageError(f"{arguments.repo_id} names a file already; do not name more")
    return replace(repo, filenames=(*repo.filenames, *arguments.filenames))


@contextmanager
def _told_in_json(arguments: argparse.Namespace) -> Iterator[CallNotes]:
    """Print an error of the block as an object, too, where that is what the caller reads."""
    notes = CallNotes(arguments.on_event)
    try:
        yield notes
    except (Exception, KeyboardInterrupt) as error:
        if arguments.format == "json":
            found = error_as_dict(error)
            if isinstance(error, KeyboardInterrupt):
                found["exit_code"] = int(
                    error.code if isinstance(error, EndedBySignal) else ExitCode.INTERRUPTED
                )
            several = bool(arguments.sources)
            print_json(
                {**({"results": []} if several else result_as_dict(None, notes.commit, notes.sums)), **found}
            )
        raise


@contextmanager
def _manager(arguments: argparse.Namespace) -> Iterator[ParallelDownloadManager | None]:
    """Yield a manager with the settings asked for; ``None`` where the process's own will do."""
    settings = settings_of(arguments)
    if settings is None:
        yield None
        return
    from hf_haul.manager import ParallelDownloadManager  # brings requests along

    with ParallelDownloadManager(settings=settings) as manager:
        yield manager


@dataclass(frozen=True)
class _Task:
    """One repository to be downloaded."""

    arguments: argparse.Namespace
    repo: RepoArgument
    manager: ParallelDownloadManager | None
    local_dir: str | None

    def common(self) -> dict[str, Any]:
        """Return what huggingface_hub's functions and ours share."""
        return {
            "repo_type": self.repo.repo_type,
            "revision": self.repo.revision,
            "cache_dir": self.arguments.cache_dir,
            "local_dir": self.local_dir,
            "force_download": self.arguments.force_download,
            "token": self.arguments.token,
        }

    def choice(self) -> dict[str, Any]:
        """Return which files are meant."""
        allow, ignore = patterns_of(self.arguments, self.repo.filenames)
        return {
            "allow_patterns": allow,
            "ignore_patterns": ignore,
            "presets": self.arguments.preset,
            "named": self.repo.filenames,
        }

    def as_download(self) -> dict[str, Any]:
        """Return what only a download has."""
        return {
            "dry_run": self.arguments.dry_run,
            "library_name": "hf-haul",
            "library_version": __version__,
            "tqdm_class": _silent(),  # the command has a view of its own
        }

    def plan(self) -> dict[str, Any]:
        """Return what would be downloaded, as ``hf-haul plan --json`` prints it."""
        from hf_haul.hub.planning import plan  # brings huggingface_hub along

        return plan(self.repo.repo_id, **self.common(), **self.choice(), manager=self.manager).as_dict()

    def snapshot_call(self, notes: CallNotes | None = None) -> SnapshotCall:
        """Return the call that downloads the files."""
        from hf_haul.hub.call_options import CallOptions  # brings huggingface_hub along
        from hf_haul.hub.snapshot_call import make_snapshot_call  # the same
        from hf_haul.task import DownloadPriority  # the same

        options = CallOptions(
            priority=DownloadPriority(self.arguments.priority),
            manager=self.manager,
            on_event=None if notes is None else notes.on_event,
            sources=self.arguments.source_urls,
        )
        return make_snapshot_call(
            self.repo.repo_id, **self.common(), **self.choice(), **self.as_download(), options=options
        )

    def fetch_file(self, notes: CallNotes) -> Any:
        """Return the path of the only file that is named, or the Hub's ``DryRunFileInfo`` of it."""
        from huggingface_hub.errors import RemoteEntryNotFoundError  # brings much along

        from hf_haul.hub.single_file import hf_hub_download  # the same
        from hf_haul.task import DownloadPriority  # the same

        name = self.repo.filenames[0]
        patterns_of(self.arguments, self.repo.filenames)  # says that patterns are ignored
        try:
            return hf_hub_download(
                self.repo.repo_id,
                name,
                **self.common(),
                **self.as_download(),
                priority=DownloadPriority(self.arguments.priority),
                manager=self.manager,
                on_event=notes.on_event,
                sources=self.arguments.source_urls,
            )
        except RemoteEntryNotFoundError as error:
            hint = self._hint_about(name)
            if hint is not None:
                add_note(error, hint)
            raise

    def _hint_about(self, name: str) -> str | None:
        """Return what somebody may have meant by a file that is not there, if the Hub tells so soon."""
        if not {"*", "?"}.isdisjoint(name):
            return f"A pattern is written so: --include '{name}'"
        with contextlib.suppress(Exception):  # it is only a hint
            files = replace(self.snapshot_call().files, read_only=True, max_listing=_MOST_LISTED)
            return names_hint([name], files.ask(retry=False)[1].keys())
        return None


def _download_one(task: _Task, notes: CallNotes) -> int:
    how, names = task.arguments.format, task.repo.filenames
    if task.arguments.dry_run and how == "json":
        print_json(task.plan())
        return ExitCode.DONE
    if _is_one_file(names, task.arguments):
        result = task.fetch_file(notes)
    else:
        result = task.snapshot_call(notes).run()
    if not isinstance(result, str):
        print_dry_run(result if isinstance(result, list) else [result], how)
    else:
        _print_path(result, how, notes)
    return ExitCode.DONE


def _download_together(arguments: argparse.Namespace, repo: RepoArgument, notes: CallNotes) -> int:
    task = _Task(arguments, repo, None, arguments.local_dir)
    download = PeersDownload(arguments, repo.repo_id, task.common(), task.choice(), settings_of(arguments))
    path = download.run(notes.on_event)
    if _is_one_file(repo.filenames, arguments):
        path = os.path.join(path, *repo.filenames[0].split("/"))
    _print_path(path, arguments.format, notes)
    return ExitCode.DONE


def _is_one_file(names: Sequence[str], arguments: argparse.Namespace) -> bool:
    """Return whether the result is the path of a file, and not of a folder."""
    return len(names) == 1 and not names[0].endswith("/") and not arguments.preset


def _print_path(path: str, how: str, notes: CallNotes) -> None:
    """Print where the files are, in the format that was asked for."""
    if how == "json":
        print_json(result_as_dict(path, notes.commit, notes.sums))
    else:
        print_result(f"path={path}" if how == "agent" else path)


def _download_several(
    arguments: argparse.Namespace,
    wanted: Sequence[WantedRepo],
    manager: ParallelDownloadManager | None,
    notes: CallNotes,
) -> int:
    def task(repo: RepoArgument) -> _Task:
        return _Task(arguments, repo, manager, local_dir_of(arguments.local_dir, repo))

    if arguments.dry_run and arguments.format == "json":
        return say_what_is_planned(arguments, wanted, lambda repo: task(repo).plan())
    if arguments.dry_run:
        return say_what_is_planned(arguments, wanted, lambda repo: task(repo).snapshot_call().run())
    return download_several(arguments, wanted, manager, lambda repo: task(repo).snapshot_call(), notes)


def _silent() -> Callable[..., Any]:
    from tqdm import tqdm

    return partial(tqdm, disable=True)
