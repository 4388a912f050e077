"""``hf-haul help``: the manual of each command says all that its parser knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hf_haul.cli import command as cli
from hf_haul.cli.manual import commands_of, manual, summaries_of

WHOLE = cli._parser()
COMMANDS = commands_of(WHOLE)
SETTINGS = (Path(__file__).parents[3] / "examples/settings.md").read_text(encoding="utf-8")


def _manual(name: str) -> str:
    return manual(name, COMMANDS[name], summaries_of(WHOLE)[name], list(COMMANDS))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_manual_has_every_section_and_every_option(name: str) -> None:
    text = _manual(name)
    sections = re.findall(r"^[A-Z].*$", text, re.MULTILINE)
    assert [each for each in sections if each in {"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"}] == sections[
        :4
    ]
    assert sections[-5:] == ["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"]
    for action in COMMANDS[name]._actions:
        assert all(option in text for option in action.option_strings)
    assert f"hf-haul {name} - {summaries_of(WHOLE)[name].rstrip('.')}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_command_lines_that_the_parser_takes(name: str) -> None:
    import shlex

    for example in COMMANDS[name].examples:
        line = example.partition("<(")[2].rstrip(")") or example.partition(" | ")[0]
        program, *argv = shlex.split(line)
        assert program == "hf-haul"
        assert WHOLE.parse_args(argv).run is not None


def test_variables_that_are_named_exist() -> None:
    named = {
        each for name in COMMANDS for each in re.findall(r"^ +(HF_HAUL_\w+)", _manual(name), re.MULTILINE)
    }
    assert named - set(re.findall(r"HF_HAUL_\w+", SETTINGS)) <= {"HF_HAUL_", "HF_HAUL_PROGRESS"}


def test_help_of_a_command_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help", "get"]) == 0
    assert capsys.readouterr().out == f"{_manual('get')}\n"


def test_help_alone_is_an_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^ +{name}\b", out, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize(
    ("word", "said"), [("verfy", "did you mean verify?"), ("q", "there are download, get")]
)
def test_an_unknown_command_is_told_with_the_nearest(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["help", word]) == 2
    assert said in capsys.readouterr().err
