"""How repositories and their files are written."""

from __future__ import annotations

import argparse

import pytest
from huggingface_hub.errors import EntryNotFoundError

from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.repo_arguments import RepoArgument, add_repo_options, patterns_of, read_repo, require_named


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


def test_names_are_patterns_and_come_before_others(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_repo_options(parser)
    given = parser.parse_args(["--include", "*.json", "--exclude", "x*"])
    assert patterns_of(given, []) == (["*.json"], ["x*"])
    assert patterns_of(given, ["a.json", "b/"]) == (["a.json", "b/**"], None)
    assert "--include and --exclude are ignored" in capsys.readouterr().err
    assert patterns_of(parser.parse_args([]), []) == (None, None)


def test_every_name_has_to_stand_for_a_file() -> None:
    paths = {"a.json", "b/c.txt"}
    require_named([], paths, "org/m")
    require_named(["a.json", "b/", "*.txt"], paths, "org/m")
    for name in ("c.txt", "c/", "b", "*.bin"):
        with pytest.raises(EntryNotFoundError, match="in org/m"):
            require_named(["a.json", name], paths, "org/m")
