"""How several repositories are named."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import pytest

from hf_haul.cli import command as cli
from hf_haul.cli.exit_codes import UsageError
from hf_haul.cli.repo_arguments import RepoArgument
from hf_haul.cli.repo_lists import add_repo_sources, read_repo_list, wanted_repos
from hf_haul.cli.several_downloads import local_dir_of

NOTHING = argparse.Namespace(repo_type=None, revision=None)


@pytest.mark.parametrize(
    ("line", "repo"),
    [
        ("org/name", RepoArgument("org/name", "model", None)),
        ("  org/name\t\r\n", RepoArgument("org/name", "model", None)),
        ("org/name@v1  # pinned", RepoArgument("org/name", "model", "v1")),
        ("datasets/org/name@refs/pr/1", RepoArgument("org/name", "dataset", "refs/pr/1")),
        ("hf://spaces/org/name@v1/app/", RepoArgument("org/name", "space", "v1", ("app/",))),
        ("hf://org/name/a#b.txt", RepoArgument("org/name", "model", None, ("a#b.txt",))),
    ],
)
def test_a_line_names_a_repository_in_any_form(line: str, repo: RepoArgument) -> None:
    (found,) = read_repo_list([line], "list", NOTHING)
    assert found.repo == repo


def test_comments_and_blank_lines_are_passed_over() -> None:
    found = read_repo_list(["# mine", "", "   ", "org/a", "\t# more", "org/b"], "list", NOTHING)
    assert [each.repo.repo_id for each in found] == ["org/a", "org/b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("org/a org/b", "'org/a org/b' is no repository: write one, without spaces"),
        ("org/a/b/c", "'org/a/b/c' is no repository; write org/name"),
        ("https://example.org/org/a", "is no repository"),
        ("org/a@", "ends without a revision"),
        ("hf://buckets/org/a", "buckets are not repositories"),
        ("hf://nothing", "Invalid HF URI"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(line: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_repo_list(["org/good", "# x", line], "models.txt", NOTHING)
    assert str(raised.value).startswith("models.txt:3: ")
    assert message in str(raised.value)


def test_all_wrong_lines_are_named_up_to_twenty() -> None:
    with pytest.raises(UsageError) as raised:
        read_repo_list(["a b"] * 30, "list", NOTHING)
    lines = str(raised.value).splitlines()
    assert (lines[0], lines[1][:7], lines[-1]) == (
        "30 lines of list cannot be used",
        "list:1:",
        "and 10 more",
    )
    assert len(lines) == 22


def _wanted(*args: str, repo_id: str | None = None, filenames: tuple[str, ...] = ()) -> list[str]:
    parser = argparse.ArgumentParser()
    add_repo_sources(parser)
    given = parser.parse_args(args)
    given.repo_id, given.filenames, given.repo_type, given.revision = repo_id, list(filenames), None, None
    return [each.spelling for each in wanted_repos(given)]


def test_repositories_and_lists_keep_the_order_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_text("\ufefforg/2\norg/3\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"org/5\n")))
    options = ["-r", "org/1", "-i", str(tmp_path / "list"), "--repo", "org/4", "-i", "-"]
    assert _wanted(*options, repo_id="org/0") == [f"org/{number}" for number in range(6)]


def test_files_beside_several_repositories_are_refused() -> None:
    with pytest.raises(UsageError, match=r"a\.json is taken for a file, .* one repository only"):
        _wanted("-r", "org/b", repo_id="org/a", filenames=("a.json",))


def test_a_list_without_repositories_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# nothing\n")
    with pytest.raises(UsageError, match="there is no repository in"):
        _wanted("-i", str(tmp_path / "list"))


def test_a_list_that_cannot_be_read_is_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"the list .*none cannot be read"):
        _wanted("-i", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"the list .* cannot be read"):
        _wanted("-i", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="stdin cannot be read: it is closed"):
        _wanted("-i", "-")


def test_without_any_repository_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as over:
        cli.main(["download"])
    assert over.value.code == 2
    assert "name a repository: REPO, -r or -i" in capsys.readouterr().err


def test_without_any_repository_a_program_gets_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["download", "--json"]) == 2
    assert "name a repository: REPO, -r or -i" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(
    ("repo", "folder"),
    [
        (RepoArgument("org/a", "model", None), "d/org/a"),
        (RepoArgument("gpt2", None, "v1"), "d/gpt2"),
        (RepoArgument("org/a", "dataset", None), "d/datasets/org/a"),
    ],
)
def test_each_of_several_repositories_has_a_folder_of_its_own(repo: RepoArgument, folder: str) -> None:
    assert Path(str(local_dir_of("d", repo))) == Path(folder)
    assert local_dir_of(None, repo) is None
