"""The benchmark of what a request costs works, from servers to figures, with a few files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.wants import want_program

if sys.platform != "linux":
    pytest.skip("the benchmarks read /proc", allow_module_level=True)

ROOT = Path(__file__).parents[2]
#: The benchmark as it is called, with twenty files instead of two thousand, and without what counts calls, which takes as long again.
CODE = """
import shutil, sys
from tests.benchmarks import rig
from tests.benchmarks.__main__ import main

rig.DATA = {"bench/small": {f"files/{n:02d}.json": 20 << 10 for n in range(20)}, "bench/quarter": {"model.safetensors": 1 << 20}}
which = shutil.which
shutil.which = lambda name, *more, **options: None if name in {"perf", "strace"} else which(name, *more, **options)
main(["--only", "request", "--rounds", "1", "--patience", "0", "--timeout", "60", "--as-is", *sys.argv[1:]])
"""


def test_every_tool_that_is_there_is_measured_in_both_rows(tmp_path: Path) -> None:
    path = f"{Path(want_program('nginx')).parent}{os.pathsep}{os.environ['PATH']}"
    folders = ["--folder", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *folders],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (tmp_path / "out/benchmarks.json").is_file(), done.stderr
    rows = json.loads((tmp_path / "out/benchmarks.json").read_text())["results"]
    tools = {(row["name"], name): tool["runs"] for row in rows for name, tool in row["tools"].items()}
    errors = {tool: run["error"] for tool, runs in tools.items() for run in runs if run["error"]}
    assert errors == {}, done.stderr
    measured = {row["name"]: set(row["tools"]) for row in rows}
    assert all(goal["value"] > 0 for row in rows for goal in row["goals"])
    bare = {"bare requests", "bare urllib3", "bare http.client"}
    commands = {"aria2c -x1 -j16": "aria2c", "curl": "curl"}
    present = {tool for tool, command in commands.items() if shutil.which(command)}
    assert measured == {
        "request-file": {"hf-haul", "hf-haul, 1 connection", "huggingface_hub", *bare, *present},
        "request-range": {"hf-haul cat_ranges", *bare},
    }
