"""The repositories that ``hf-haul download`` is asked for: on its command line, and in lists."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hf_haul.cli.exit_codes import UsageError, refuse_lines
from hf_haul.cli.repo_arguments import RepoArgument, read_repo

__all__ = ["LIST_HELP", "WantedRepo", "add_repo_sources", "read_repo_list", "wanted_repos"]

#: How a list is written; shown in the help.
LIST_HELP: Final = """\
several repositories (-r REPO, -i FILE):
  they share connections and limits, and one view of the progress. All are
  looked up before anything is fetched; one that fails does not stop the others.
  A list has a REPO on each line, in any of its forms; empty lines, and what
  follows a # at the beginning of a word, are passed over. With --local-dir DIR
  each has a folder of its own: DIR/org/name, DIR/datasets/org/name."""

_COMMENT: Final = re.compile(r"(^|\s)#.*")


@dataclass(frozen=True, slots=True)
class WantedRepo:
    """A repository that is asked for.

    Attributes:
        spelling: As it was written.
        repo: What that means.
    """

    spelling: str
    repo: RepoArgument


def add_repo_sources(parser: Any) -> None:
    """Add the options that name further repositories; :func:`wanted_repos` reads them."""
    parser.set_defaults(refuse=parser.error)
    for short, name, metavar, kind, text in (
        ("-r", "--repo", "REPO", "repo", "one more repository; repeatable"),
        ("-i", "--input", "FILE", "list", "a list of repositories, see below; - is stdin; repeatable"),
    ):
        parser.add_argument(
            short,
            name,
            dest="sources",
            metavar=metavar,
            action="append",
            default=[],
            type=lambda value, kind=kind: (kind, value),
            help=text,
        )


def wanted_repos(arguments: argparse.Namespace) -> list[WantedRepo]:
    """Return all repositories that are asked for, in their order, and all of them checked.

    Raises:
        UsageError: One is no repository; of a list, the message names each wrong line. Or a list cannot be
            read.
    """
    found: list[WantedRepo] = []
    if arguments.repo_id is not None:
        found.append(_read(arguments.repo_id, arguments))
    elif not arguments.sources:
        arguments.refuse("name a repository: REPO, -r or -i")
    for kind, value in arguments.sources:
        if kind == "repo":
            found.append(_read(value, arguments))
            continue
        found += read_repo_list(_lines_of(value), "stdin" if value == "-" else value, arguments)
    if not found:
        raise UsageError(f"there is no repository in {', '.join(value for _, value in arguments.sources)}")
    if arguments.filenames and arguments.sources:
        raise UsageError(
            f"{arguments.filenames[0]} is taken for a file, and files can be named for one repository only; "
            "with -r and -i write hf://org/name/file, or --include for all of them"
        )
    return found


def _lines_of(name: str) -> list[str]:
    try:
        if name != "-":
            text = Path(name).read_bytes()
        elif sys.stdin is not None:
            text = sys.stdin.buffer.read()
        else:
            raise OSError("it is closed")
    except OSError as error:
        what = "stdin" if name == "-" else f"the list {name}"
        raise UsageError(f"{what} cannot be read: {error.strerror or error}") from None
    return text.decode("utf-8-sig", "surrogateescape").splitlines()


def read_repo_list(lines: Iterable[str], name: str, arguments: argparse.Namespace) -> list[WantedRepo]:
    """Return the repositories that stand in a list.

    Args:
        lines: Its lines.
        name: Of the list, for messages.
        arguments: What ``--repo-type`` and ``--revision`` say.

    Raises:
        UsageError: A line is wrong; the message names each of them.
    """
    found: list[WantedRepo] = []
    wrong: list[str] = []
    for number, line in enumerate(lines, 1):
        text = _COMMENT.sub("", line).strip()
        if not text:
            continue
        try:
            found.append(_read(text, arguments))
        except UsageError as error:
            wrong.append(f"{name}:{number}: {error}")
    refuse_lines(name, wrong)
    return found


def _read(text: str, arguments: argparse.Namespace) -> WantedRepo:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but without an __all__

    if len(text.split()) != 1:
        raise UsageError(
            f"{text!r} is no repository: write one, without spaces, such as org/name (in a list: one on each line)"
        )
    repo = read_repo(text, arguments.repo_type, arguments.revision, at_revision=True)
    try:
        validate_repo_id(repo.repo_id)
    except HFValidationError:
        raise UsageError(
            f"{text!r} is no repository; write org/name, datasets/org/name or hf://..."
        ) from None
    return WantedRepo(text, replace(repo, repo_type=repo.repo_type or "model"))
