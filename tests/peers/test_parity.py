"""The same calls through huggingface_hub and through hf_haul give the same results, errors and files.

Each door runs all scenarios in a process and a home of its own, see ``trial``; here the two reports are compared.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tests.peers import scenarios as _scenarios  # noqa: F401  registers them
from tests.peers.trial import SCENARIOS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="compares POSIX links and modes")

ROOT = Path(__file__).parents[2]
Report = dict[str, dict[str, Any]]
NEWER = int(huggingface_hub.__version__.partition(".")[0]) >= 2


def _start(door: str, home: Path) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment = {
        **kept,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HAUL_FIRST_RETRY_WAIT": "0.01",
        "HF_HAUL_MAX_RETRIES": "2",
        "HF_HAUL_DISK_CHECK": "warn",
        "NO_PROXY": "*",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.peers.trial", door, str(home)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    running = {door: _start(door, tmp_path_factory.mktemp(door)) for door in ("upstream", "ours")}
    found: dict[str, Report] = {}
    try:
        for door, process in running.items():
            out, err = process.communicate(timeout=110)
            assert process.returncode == 0, f"{door}:\n{err}"
            found[door] = json.loads(out)
    finally:
        for process in running.values():
            process.kill()
    return found


NAMES = [name for name, each in SCENARIOS.items() if NEWER or not each.newer]


@pytest.mark.parametrize("name", NAMES)
def test_both_doors_do_the_same(reports: dict[str, Report], name: str) -> None:
    upstream, ours = reports["upstream"][name], reports["ours"][name]
    assert upstream["failure"] is None, f"the scenario itself fails: {upstream['failure']}"
    assert ours["failure"] is None, ours["failure"]
    expected = SCENARIOS[name].differs
    assert list(upstream["steps"]) == list(ours["steps"])
    differing = {
        step: (upstream["steps"][step], ours["steps"][step])
        for step in upstream["steps"]
        if upstream["steps"][step] != ours["steps"][step]
    }
    unexpected = {step: _diff(*pair) for step, pair in differing.items() if step not in expected}
    assert unexpected == {}
    assert set(expected) == set(differing), "a difference on purpose is gone: update the scenario"


def _diff(upstream: Any, ours: Any) -> Any:
    if isinstance(upstream, list) and isinstance(ours, list):
        return {
            "only upstream": [each for each in upstream if each not in ours],
            "only ours": [each for each in ours if each not in upstream],
        }
    return {"upstream": upstream, "ours": ours}


@pytest.mark.parametrize("name", NAMES)
def test_we_ask_the_hub_no_more_than_upstream(reports: dict[str, Report], name: str) -> None:
    rule = SCENARIOS[name].requests
    for step, upstream in reports["upstream"][name]["asked"].items():
        ours = reports["ours"][name]["asked"][step]
        if rule == "equal":
            assert ours == upstream, step
        elif rule == "fewer":
            assert ours <= upstream, step


def test_the_table_names_every_scenario_and_every_behaviour() -> None:
    table = (Path(__file__).parent / "BEHAVIOURS.md").read_text(encoding="utf-8")
    rows = {int(n): row for n, row in re.findall(r"^\| *(\d+) *\|(.*)$", table, re.MULTILINE)}
    assert sorted(rows) == list(range(1, 46))
    for name, each in SCENARIOS.items():
        for behaviour in each.behaviours:
            assert f"`{name}`" in rows[behaviour], f"row {behaviour} lacks {name}"
    named = set(re.findall(r"`([a-z0-9_]+)`", "\n".join(rows.values())))
    for word in named:
        if word.count("_") > 2 and not word.startswith("test_"):
            assert word in SCENARIOS, f"{word} is named but does not exist"
