"""Progress bars in an executed notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.hub import hub_environment, run_python, serve_repo
from tests.support.wants import want_modules

from hf_haul.localhub.testing.faults import Status

want_modules("ipykernel", "nbclient", "nbformat", extra="test")

#: Executes its cells one after the other in one kernel, and prints what each put out, as JSON.
NOTEBOOK = """
import json, sys
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

cells = [nbformat.v4.new_code_cell(source) for source in json.loads(sys.argv[1])]
notebook = nbformat.v4.new_notebook(cells=cells)
manager = AsyncKernelManager(kernel_name="python3", transport="ipc")
NotebookClient(notebook, km=manager, timeout=60).execute()
print(json.dumps([[dict(output) for output in cell.outputs] for cell in notebook.cells]))
"""
WITHOUT_WIDGETS = "import sys; sys.modules['ipywidgets'] = None"
SNAPSHOT = "import hf_haul; hf_haul.snapshot_download('org/tiny')"
ONE_FILE = "hf_haul.hf_hub_download('org/tiny', 'vocab.txt', force_download=True)"


@pytest.fixture
def environment(tmp_path: Path) -> Any:
    with serve_repo(tmp_path / "src") as served:
        yield hub_environment(served.hub, tmp_path / "home")


def _execute(environment: dict[str, str], *cells: str) -> list[list[dict[str, Any]]]:
    done = run_python(NOTEBOOK, environment, json.dumps(cells))
    assert done.returncode == 0, done.stderr
    found: list[list[dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _streams(outputs: list[dict[str, Any]]) -> dict[str, str]:
    """What a cell wrote to stdout and stderr."""
    found: dict[str, str] = {}
    for output in outputs:
        if output["output_type"] == "stream":
            found[output["name"]] = found.get(output["name"], "") + output["text"]
    return found


def test_without_ipywidgets_each_download_has_one_bar_of_text_and_no_warning(
    environment: dict[str, str],
) -> None:
    shown = {**environment, "HF_HUB_DISABLE_PROGRESS_BARS": "0"}
    _, snapshot, one_file = _execute(shown, WITHOUT_WIDGETS, SNAPSHOT, ONE_FILE)
    for outputs, title in ((snapshot, "Fetching 18 files"), (one_file, "vocab.txt")):
        streams = _streams(outputs)
        assert set(streams) == {"stdout"}, "no warning, and nothing that notebooks show in red"
        bars = [line for line in streams["stdout"].split("\r") if line.strip()]
        assert all(bar.startswith(f"{title}: ") for bar in bars)
        assert bars[-1].startswith(f"{title}: 100%")
        assert streams["stdout"].count("\n") == 1, "one bar, and what follows begins on a line of its own"


def test_where_bars_are_disabled_a_notebook_shows_none(environment: dict[str, str]) -> None:
    disabled = {**environment, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    _, outputs = _execute(disabled, WITHOUT_WIDGETS, SNAPSHOT)
    assert _streams(outputs) == {}


def test_a_notebook_shows_what_is_waited_for_and_until_when(tmp_path: Path) -> None:
    with serve_repo(tmp_path / "src") as served:
        served.hub.faults.add(Status(429, retry_after=2), kind="info", times=1)
        served.hub.faults.add(Status(429, retry_after=2), kind="cdn", times=1)
        shown = {**hub_environment(served.hub, tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "0"}
        _, snapshot = _execute(shown, WITHOUT_WIDGETS, SNAPSHOT)
    streams = _streams(snapshot)
    assert set(streams) == {"stdout"}, "no warning"
    lines = [line.strip() for line in streams["stdout"].split("\r") if line.strip()]
    waits = [line for line in lines if line.startswith("Waiting 0:0")]
    assert any("%" not in line for line in waits), "before there is anything to count"
    assert any("%" in line for line in waits), "while files are fetched"
    assert lines[-1].startswith("Fetching 18 files: 100%")
    assert streams["stdout"].count("\n") == 1
