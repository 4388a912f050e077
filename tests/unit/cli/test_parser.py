"""Options may stand anywhere."""

from __future__ import annotations

import argparse

import pytest

from hf_haul.cli.parser import CommandParser


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="hf-haul")
    command = top.add_subparsers(parser_class=CommandParser).add_parser("fetch", examples=["hf-haul fetch a"])
    command.add_argument("repo")
    command.add_argument("files", nargs="*")
    command.add_argument("--type")
    command.add_argument("--include", action="append")
    command.add_argument("-v", action="count", default=0)
    return top


@pytest.mark.parametrize(
    "line",
    [
        "fetch r a b --type t --include x --include y -v",
        "fetch --type t --include x -v --include y r a b",
        "fetch r --type t a --include x b --include y -v",
        "fetch r --type=t --include=x a -v --include=y b",
        "fetch -v r --type t --include x --include y -- a b",
    ],
)
def test_the_place_of_an_option_means_nothing(line: str, parser: argparse.ArgumentParser) -> None:
    assert vars(parser.parse_args(line.split())) == {
        "repo": "r", "files": ["a", "b"], "type": "t", "include": ["x", "y"], "v": 1,
    }  # fmt: skip


def test_behind_two_dashes_everything_is_a_name(parser: argparse.ArgumentParser) -> None:
    assert parser.parse_args(["fetch", "r", "--", "-odd", "--type"]).files == ["-odd", "--type"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fetch r --typ t", "no such option: --typ; did you mean --type?"),
        ("fetch r --inclde=x", "no such option: --inclde; did you mean --include?"),
        ("fetch r --zzz", "no such option: --zzz\n"),
        ("fetch", "the following arguments are required: repo"),
    ],
)
def test_what_is_misspelt_is_told_with_what_was_meant(
    line: str, said: str, parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(line.split())
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: hf-haul fetch ")
    assert said in err


def test_the_help_has_examples_and_exit_codes(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["fetch", "--help"])
    out = capsys.readouterr().out
    assert "examples:\n  hf-haul fetch a\n" in out
    assert "exit codes:\n  0 done" in out
