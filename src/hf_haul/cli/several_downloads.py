"""``hf-haul download`` of several repositories: together, and each with a result of its own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cli.download_results import CallNotes, error_as_dict, print_dry_run, print_json, result_as_dict
from hf_haul.cli.exit_codes import ExitCode, UsageError, exit_code_of
from hf_haul.cli.folders import shown
from hf_haul.cli.messages import say, say_error
from hf_haul.cli.repo_arguments import RepoArgument
from hf_haul.cli.repo_lists import WantedRepo
from hf_haul.cli.streams import print_result
from hf_haul.failures import FailureKind, describe
from hf_haul.threads import in_threads

if TYPE_CHECKING:
    from hf_haul.hub.several_snapshots import SnapshotResult
    from hf_haul.hub.snapshot_call import SnapshotCall
    from hf_haul.manager import ParallelDownloadManager

__all__ = ["download_several", "local_dir_of", "say_what_is_planned"]

#: Repositories that are asked about at once in a dry run.
_ASKED_AT_ONCE: Final = 4
#: Repositories that failed and are named in the last line.
_MOST_NAMED: Final = 5


def local_dir_of(folder: str | None, repo: RepoArgument) -> str | None:
    """Return the folder of one of several repositories below a common one.

    Args:
        folder: What ``--local-dir`` says.
        repo: The repository.
    """
    if folder is None:
        return None
    kind = [] if repo.repo_type in {None, "model"} else [f"{repo.repo_type}s"]
    return os.path.join(folder, *kind, *repo.repo_id.split("/"))


def _require_own_folders(wanted: Sequence[WantedRepo], folder: str | None) -> None:
    """Refuse two revisions of one repository in one folder.

    Raises:
        UsageError: There are some.
    """
    taken: dict[str | None, WantedRepo] = {}
    for each in wanted if folder is not None else ():
        first = taken.setdefault(local_dir_of(folder, each.repo), each)
        if first.repo.revision != each.repo.revision:
            raise UsageError(
                f"{first.spelling} and {each.spelling} would both go to {local_dir_of(folder, each.repo)}: "
                "download one revision into a --local-dir, or both into the cache"
            )


def download_several(
    arguments: argparse.Namespace,
    wanted: Sequence[WantedRepo],
    manager: ParallelDownloadManager | None,
    make_call: Callable[[RepoArgument], SnapshotCall],
    notes: CallNotes,
) -> int:
    """Download repositories; print what became of each.

    Args:
        arguments: The command's.
        wanted: The repositories.
        manager: The manager to use.
        make_call: Makes a call that downloads one.
        notes: Get the events.

    Returns:
        The exit code, of several failures the first one's.
    """
    from hf_haul.hub.several_snapshots import download_snapshots  # brings huggingface_hub along
    from hf_haul.task import DownloadPriority  # the same

    _require_own_folders(wanted, arguments.local_dir)
    spellings = {each.repo: each.spelling for each in reversed(wanted)}
    repos = list(dict.fromkeys(each.repo for each in wanted))  # what is named twice is fetched once
    failures = _Failures([spellings[repo] for repo in repos], by_events=arguments.shown_as == "json")
    found = download_snapshots(
        [make_call(repo) for repo in repos],
        manager=manager,
        priority=DownloadPriority(arguments.priority),
        on_event=notes.on_event,
        on_failure=failures.say,
    )
    results = dict(zip(repos, found, strict=True))
    if arguments.format == "json":
        told = [{"repo": each.spelling, **_as_dict(each.repo, results[each.repo])} for each in wanted]
        code = _first_code([result.error for result in found])
        print_json({"results": told, **({"exit_code": code} if code else {})})
    else:
        for each in wanted:
            path = _path(each.repo, results[each.repo])
            if path is not None:
                print_result(f"path={path}" if arguments.format == "agent" else path)
    return failures.end([result.error for result in found])


def _path(repo: RepoArgument, result: SnapshotResult) -> str | None:
    """Return where a repository is; or its file, if one is named, as for a single repository."""
    if result.path is None or not repo.filenames or repo.filenames[0].endswith("/"):
        return result.path
    return os.path.join(result.path, repo.filenames[0])


def _as_dict(repo: RepoArgument, result: SnapshotResult) -> dict[str, Any]:
    return result_as_dict(_path(repo, result), result.commit, result.sums, result.error)


@dataclass(frozen=True, slots=True)
class _Planned:
    """What would be downloaded of a repository, or why that is not known."""

    found: Any = None
    error: Exception | None = None


def say_what_is_planned(
    arguments: argparse.Namespace, wanted: Sequence[WantedRepo], plan: Callable[[RepoArgument], Any]
) -> int:
    """Print what would be downloaded of several repositories.

    Args:
        arguments: The command's.
        wanted: The repositories.
        plan: Returns a plan as a dict, or the Hub's ``DryRunFileInfo`` of each file.

    Returns:
        The exit code, of several failures the first one's.
    """
    _require_own_folders(wanted, arguments.local_dir)

    def try_to_plan(repo: RepoArgument) -> _Planned:
        try:
            return _Planned(plan(repo))
        except Exception as error:  # noqa: BLE001  the others go on
            return _Planned(error=error)

    plans = in_threads(
        "hf-haul-plan", _ASKED_AT_ONCE, try_to_plan, [each.repo for each in wanted], lambda: None
    )
    if arguments.format == "json":
        told = [
            {
                "repo": each.spelling,
                **(plans[each.repo].found if error is None else error_as_dict(error)),
            }
            for each in wanted
            for error in (plans[each.repo].error,)
        ]
        code = _first_code([plan.error for plan in plans.values()])
        print_json({"results": told, **({"exit_code": code} if code else {})})
    else:
        for each in wanted:
            if plans[each.repo].error is None:
                print_result(f"{each.spelling}:")
                print_dry_run(plans[each.repo].found, arguments.format)
    failures = _Failures([each.spelling for each in wanted], by_events=arguments.shown_as == "json")
    return failures.end([plans[each.repo].error for each in wanted])


def _first_code(errors: Sequence[Exception | None]) -> int:
    return next((int(exit_code_of(error)) for error in errors if error is not None), 0)


class _Failures:
    """Says why repositories failed, each once.

    Args:
        spellings: What they are called, in their order.
        by_events: Whether events tell of failures, too, and of how many there are.
    """

    def __init__(self, spellings: Sequence[str], *, by_events: bool) -> None:
        self._spellings = spellings
        self._by_events = by_events
        self._said: set[int] = set()

    def say(self, number: int, error: Exception) -> None:
        """Say why one fails, as soon as that is known, unless it is a fault of ours, to be seen whole."""
        if not self._by_events and describe(error).kind is not FailureKind.UNFORESEEN:
            self._said.add(number)
            say_error(error, about=shown(self._spellings[number]))

    def end(self, errors: Sequence[Exception | None]) -> int:
        """Say what is not said yet, and how many failed.

        Args:
            errors: Why each failed.

        Returns:
            The exit code, of several failures the first one's.
        """
        failed = {number: error for number, error in enumerate(errors) if error is not None}
        for number, error in failed.items():
            if describe(error).kind is FailureKind.UNFORESEEN:
                raise error
            if number not in self._said:
                say_error(error, about=shown(self._spellings[number]))
        if failed and len(errors) > 1 and not self._by_events:
            names = ", ".join(shown(self._spellings[number]) for number in list(failed)[:_MOST_NAMED])
            more = f" and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
            say(f"{len(failed)} of {len(errors)} repositories failed: {names}{more}")
        return _first_code(errors) or ExitCode.DONE
