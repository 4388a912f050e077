"""What the README says is so."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from hf_haul.cli import main
from hf_haul.config import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _command(name: str) -> str:
    found = re.findall(rf"^<!-- command: {name} -->\n```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_there_are_exactly_two_commands() -> None:
    assert re.findall(r"<!-- command: (\w+) -->", README) == ["main", "test"]


@pytest.mark.parametrize("name", ["main", "test"])
def test_a_command_is_a_whole_shell_program(name: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    checked = subprocess.run([bash, "-n", "-c", _command(name)], capture_output=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", ["main", "test"])
def test_ci_runs_the_commands_of_the_readme(name: str) -> None:
    assert f'$(command_of {name})"' in (ROOT / ".ci/run").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", _blocks("python"), ids=lambda block: block.splitlines()[0])
def test_a_snippet_is_python(block: str) -> None:
    ast.parse(block)


def _hf_haul_lines() -> list[str]:
    lines = [line for block in _blocks("bash") for line in block.splitlines() if line.startswith("hf-haul ")]
    assert len(lines) >= 3
    return lines


@pytest.mark.parametrize("line", _hf_haul_lines())
def test_the_command_knows_the_options_shown(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = set(re.findall(r" (--?[a-z][a-z0-9-]*)", line.partition("#")[0]))
    with pytest.raises(SystemExit) as over:
        main([line.split()[1], "--help"])
    assert over.value.code == 0
    assert shown <= set(re.findall(r"--?[a-z][a-z0-9-]*", capsys.readouterr().out))


def test_the_table_has_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(HF_HAUL_\w+)` \| ([^|]*) \|", README, re.MULTILINE))
    assert list(rows) == [f"HF_HAUL_{field.name.upper()}" for field in fields(Settings)]
    given = {name: value.strip() for name, value in rows.items() if value.strip() != "none"}
    assert Settings.from_environment(given) == Settings()
    unset = {name.removeprefix("HF_HAUL_").lower() for name in rows.keys() - given.keys()}
    assert unset == {field.name for field in fields(Settings) if getattr(Settings(), field.name) is None}


def test_the_table_names_the_short_forms() -> None:
    changed = Settings.from_environment({"HF_HAUL_MAX_BANDWIDTH": "1MB/s", "HF_HAUL_MAX_CONNECTIONS": "7"})
    assert (changed.max_bandwidth_bps, changed.max_concurrent_downloads) == (1_000_000, 7)
    assert "short: `HF_HAUL_MAX_BANDWIDTH`" in README
    assert "short: `HF_HAUL_MAX_CONNECTIONS`" in README


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)]+)\)", README))
def test_a_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
