"""``hf haul``: the command as an extension of huggingface_hub's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.hub import SRC

ROOT = Path(__file__).parents[2]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home in which the extension is installed, as ``hf extensions install`` leaves it."""
    folder = tmp_path / ".local/share/hf/extensions/hf-haul"
    folder.mkdir(parents=True)
    program = folder / "hf-haul"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={SRC} exec {sys.executable} -m hf_haul.cli "$@"\n', encoding="utf-8"
    )
    program.chmod(0o755)
    manifest = {
        "owner": "someone", "repo": "hf-haul", "repo_id": "someone/hf-haul", "short_name": "haul",
        "executable_path": str(program), "type": "python", "installed_at": "2026-01-01T00:00:00+00:00",
        "description": None, "commit_sha": None,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return {**os.environ, "HOME": str(tmp_path), "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HAUL_CONFIG": ""}


def _hf(env: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    code = "from huggingface_hub.cli.hf import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *argv], env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for the program")
def test_hf_haul_is_hf_haul(env: dict[str, str]) -> None:
    done = _hf(env, "haul", "help", "download")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("NAME\n    hf-haul download - ")


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for the program")
def test_its_exit_codes_are_ours(env: dict[str, str]) -> None:
    done = _hf(env, "haul", "get", "no url")
    assert (done.returncode, done.stdout) == (2, "")


def test_the_package_has_what_an_extension_needs() -> None:
    """A console script called hf- and the name of the extension, which hf installs a Python package by."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r"\[project\.scripts\]\nhf-haul = ", text)
