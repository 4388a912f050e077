"""The unit for systemd among the examples."""

from __future__ import annotations

import shlex
from configparser import ConfigParser
from pathlib import Path

from hf_haul.cli.command import _parser

UNIT = Path(__file__).parents[3] / "examples" / "hf-haul-serve.service"


def test_what_systemd_starts_is_a_command_that_exists() -> None:
    unit = ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # as configparser's own documentation has it
    unit.read_string(UNIT.read_text("utf-8"))
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "hf-haul"
    arguments = _parser().parse_args(words)
    assert arguments.upstream == "https://huggingface.co"
    state = f"/var/lib/{unit['Service']['StateDirectory']}/"
    assert arguments.path.startswith(state)  # the only places it may write to
    assert arguments.access_log.startswith(f"/var/log/{unit['Service']['LogsDirectory']}/")
