"""How a repository, and a choice of its files, is written on a command line."""

from __future__ import annotations

import argparse
import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.messages import warn
from hf_haul.hub.presets import Preset

__all__ = [
    "RepoArgument",
    "WantedFiles",
    "add_repo_options",
    "patterns_of",
    "read_repo",
    "read_wanted",
    "require_one_folder",
]

_TYPES: Final = ("model", "dataset", "space", "kernel")
#: ``datasets/org/name``, as huggingface_hub's command and the Hub's own addresses have it.
_WITH_TYPE: Final = re.compile(r"(model|dataset|space|kernel)s/([\w.\-]+/[\w.\-]+)")


@dataclass(frozen=True)
class RepoArgument:
    """What somebody calls a repository.

    Attributes:
        repo_id: ``org/name``, or a folder where one was allowed.
        repo_type: Its kind, where that was said.
        revision: The revision, where that was said.
        filenames: A file or folder of it, where that was said.
    """

    repo_id: str
    repo_type: str | None
    revision: str | None
    filenames: tuple[str, ...] = ()


@dataclass(frozen=True)
class WantedFiles:
    """Which files of which repository a command is about.

    Attributes:
        repo: The repository.
        names: Files that are named; folders end with a slash.
        allow: Patterns that files have to match; ``None`` for all.
        ignore: Patterns that they must not match.
    """

    repo: RepoArgument
    names: list[str]
    allow: list[str] | None
    ignore: list[str] | None


def add_repo_options(parser: Any) -> None:
    """Add the options that say which revision of a repository is meant, and which of its files."""
    parser.add_argument("--repo-type", "--type", choices=_TYPES, help="default: model")
    parser.add_argument("--revision", help="branch, tag, refs/pr/N or commit; default: main")
    parser.add_argument("--include", metavar="GLOB", action="append", help="only files like this; repeatable")
    parser.add_argument("--exclude", metavar="GLOB", action="append", help="no files like this; repeatable")
    parser.add_argument(
        "--preset", choices=get_args(Preset), action="append", help="pick among formats of the same weights"
    )
    parser.add_argument("--token", help="default: the stored one")


def read_repo(
    text: str, repo_type: str | None, revision: str | None, *, at_revision: bool = False
) -> RepoArgument:
    """Return what is meant by ``org/name``, ``datasets/org/name`` or ``hf://datasets/org/name@revision/file``.

    Anything else is returned as it is.

    Args:
        text: The argument.
        repo_type: What ``--repo-type`` says.
        revision: What ``--revision`` says.
        at_revision: Whether ``org/name@revision`` is understood, too, which may also be the name of a folder.

    Raises:
        UsageError: The options contradict it, or it is no repository.
    """
    if at_revision and "@" in text and not text.startswith("hf://"):
        text, _, at = text.partition("@")
        if not at:
            raise UsageError(f"{text}@ ends without a revision; write {text}@main, or {text}")
        if revision not in {None, at}:
            raise UsageError(f"{text}@{at} names a revision, and --revision says {revision}")
        revision = at
    match = _WITH_TYPE.fullmatch(text)
    if match is not None:
        if repo_type not in {None, match[1]}:
            raise UsageError(f"{text} is a {match[1]}, and --repo-type says {repo_type}")
        return RepoArgument(match[2], match[1], revision)
    if not text.startswith("hf://"):
        return RepoArgument(text, repo_type, revision)
    from huggingface_hub.errors import HfUriError
    from huggingface_hub.utils import parse_hf_uri  # type: ignore[attr-defined]  # public, but without an __all__

    if repo_type or revision:
        raise UsageError(f"--repo-type and --revision cannot be used with an hf:// URI ({text})")
    try:
        uri = parse_hf_uri(text)
    except HfUriError as error:
        raise UsageError(str(error)) from None
    if uri.is_bucket:
        raise UsageError("buckets are not repositories: hf-haul does not download them")
    name = uri.path_in_repo + ("/" if uri.path_in_repo and text.endswith("/") else "")
    return RepoArgument(uri.id, uri.type, uri.revision, (name,) if name else ())


def read_wanted(arguments: argparse.Namespace, text: str, *, at_revision: bool = False) -> WantedFiles:
    """Return what is meant by a repository and the files that are named behind it.

    Args:
        arguments: What ``filenames`` and the options of :func:`add_repo_options` say, and where files go.
        text: The repository.
        at_revision: See :func:`read_repo`.

    Raises:
        UsageError: They contradict each other, or it is no repository.
    """
    require_one_folder(arguments)
    repo = read_repo(text, arguments.repo_type, arguments.revision, at_revision=at_revision)
    names = [*repo.filenames, *arguments.filenames]
    return WantedFiles(repo, names, *patterns_of(arguments, names))


def require_one_folder(arguments: argparse.Namespace) -> None:
    """Refuse a folder for plain files beside a cache.

    Raises:
        UsageError: Both are given.
    """
    if arguments.local_dir is not None and arguments.cache_dir is not None:
        raise UsageError("--local-dir and --cache-dir cannot be used together")


def patterns_of(
    arguments: argparse.Namespace, filenames: Sequence[str]
) -> tuple[list[str] | None, list[str] | None]:
    """Return the patterns that files have to match, and those that they must not.

    Args:
        arguments: What ``--include`` and ``--exclude`` say.
        filenames: Files that are named; folders end with a slash.

    Raises:
        UsageError: A folder is named beside patterns.
    """
    if not filenames:
        return arguments.include, arguments.exclude
    patterns = arguments.include or arguments.exclude
    folder = next((name for name in filenames if name.endswith("/")), None)
    if folder is not None and patterns:
        raise UsageError(
            f"{folder!r} cannot be combined with --include and --exclude; write --include '{folder}*'"
        )
    if patterns:
        warn("--include and --exclude are ignored, because files are named")
    patterns = [f"{glob.escape(name)}**" if name.endswith("/") else name for name in filenames]
    # A file may be called like a pattern.
    return list(
        dict.fromkeys([*patterns, *(glob.escape(name) for name in filenames if name[-1:] != "/")])
    ), None
