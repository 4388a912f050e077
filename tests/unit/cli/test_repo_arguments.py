"""How repositories and their files are written."""

from __future__ import annotations

import argparse

import pytest

from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.repo_arguments import (
    RepoArgument,
    WantedFiles,
    add_repo_options,
    patterns_of,
    read_repo,
    read_wanted,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("org/name", RepoArgument("org/name", None, None)),
        ("gpt2", RepoArgument("gpt2", None, None)),
        ("datasets/org/name", RepoArgument("org/name", "dataset", None)),
        ("kernels/org/name", RepoArgument("org/name", "kernel", None)),
        ("datasets/squad", RepoArgument("datasets/squad", None, None)),
        ("./datasets/org/name", RepoArgument("./datasets/org/name", None, None)),
        ("hf://spaces/a/b@v1/x/y.txt", RepoArgument("a/b", "space", "v1", ("x/y.txt",))),
        ("hf://a/b@refs/pr/1/x/", RepoArgument("a/b", "model", "refs/pr/1", ("x/",))),
        ("hf://datasets/a/b", RepoArgument("a/b", "dataset", None)),
    ],
)
def test_a_repository_is_read_in_every_form(text: str, found: RepoArgument) -> None:
    assert read_repo(text, None, None) == found


def test_options_say_what_the_text_does_not() -> None:
    assert read_repo("org/name", "dataset", "v1") == RepoArgument("org/name", "dataset", "v1")
    assert read_repo("datasets/org/name", "dataset", "v1") == RepoArgument("org/name", "dataset", "v1")


@pytest.mark.parametrize(
    ("text", "repo_type", "revision", "message"),
    [
        ("datasets/org/name", "space", None, "is a dataset, and --repo-type says space"),
        ("hf://org/name", "model", None, "cannot be used with an hf:// URI"),
        ("hf://org/name", None, "v1", "cannot be used with an hf:// URI"),
        ("hf://buckets/a/b", None, None, "buckets are not repositories"),
        ("hf://one", None, None, "Invalid HF URI"),
    ],
)
def test_what_contradicts_itself_is_refused(
    text: str, repo_type: str | None, revision: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_repo(text, repo_type, revision)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("org/name@v1", RepoArgument("org/name", None, "v1")),
        ("gpt2@refs/pr/1", RepoArgument("gpt2", None, "refs/pr/1")),
        ("datasets/org/name@v1", RepoArgument("org/name", "dataset", "v1")),
        ("hf://org/name@v1", RepoArgument("org/name", "model", "v1")),
    ],
)
def test_a_revision_may_stand_behind_the_name(text: str, found: RepoArgument) -> None:
    assert read_repo(text, None, None, at_revision=True) == found


def test_where_folders_are_understood_an_at_sign_is_a_part_of_the_name() -> None:
    assert read_repo("org/name@v1", None, None) == RepoArgument("org/name@v1", None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [("org/name@", "ends without a revision"), ("org/name@v2", "names a revision, and --revision says v1")],
)
def test_a_revision_that_contradicts_itself_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_repo(text, None, "v1", at_revision=True)


def test_names_are_patterns_and_come_before_others(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_repo_options(parser)
    given = parser.parse_args(["--include", "*.json", "--exclude", "x*"])
    assert patterns_of(given, []) == (["*.json"], ["x*"])
    assert patterns_of(given, ["a.json", "b.txt"]) == (["a.json", "b.txt"], None)
    assert "--include and --exclude are ignored" in capsys.readouterr().err
    assert patterns_of(parser.parse_args([]), []) == (None, None)


def test_a_file_that_is_called_like_a_pattern_is_meant_itself_too() -> None:
    parser = argparse.ArgumentParser()
    add_repo_options(parser)
    assert patterns_of(parser.parse_args([]), ["a[1].txt", "b[1]/"]) == (
        ["a[1].txt", "b[[]1]/**", "a[[]1].txt"],
        None,
    )


def test_a_folder_beside_patterns_is_refused() -> None:
    parser = argparse.ArgumentParser()
    add_repo_options(parser)
    with pytest.raises(UsageError, match=r"'b/' cannot be combined .* write --include 'b/\*'"):
        patterns_of(parser.parse_args(["--include", "*.json"]), ["a.json", "b/"])


def wanted(*words: str) -> WantedFiles:
    parser = argparse.ArgumentParser()
    parser.add_argument("repo")
    parser.add_argument("filenames", nargs="*")
    parser.add_argument("--cache-dir")
    parser.add_argument("--local-dir")
    add_repo_options(parser)
    arguments = parser.parse_args(words)
    return read_wanted(arguments, arguments.repo, at_revision=True)


def test_files_named_in_the_address_come_before_those_behind_it() -> None:
    found = wanted("hf://org/name/a.txt", "b.txt", "c/", "--local-dir", "x")
    assert found.names == ["a.txt", "b.txt", "c/"]
    assert found.allow == ["a.txt", "b.txt", "c/**"]
    assert found.ignore is None
    assert wanted("org/name@v1", "--exclude", "*.bin") == WantedFiles(
        RepoArgument("org/name", None, "v1"), [], None, ["*.bin"]
    )


def test_a_folder_for_files_beside_a_cache_is_refused() -> None:
    with pytest.raises(UsageError, match="--local-dir and --cache-dir"):
        wanted("org/name", "--cache-dir", "a", "--local-dir", "b")
