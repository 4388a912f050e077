"""Without aiohttp the import says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hf_haul.localhub import faults as known
from hf_haul.localhub.testing import faults, rules

SRC = Path(__file__).parents[3] / "src"


def test_a_missing_extra_is_named() -> None:
    code = "import sys; sys.modules['aiohttp'] = None; import hf_haul.localhub"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert 'pip install "hf-haul[serve]"' in done.stderr.splitlines()[-1]


def test_nothing_of_the_client_is_imported() -> None:
    code = """
import sys, hf_haul.localhub
client = {"requests", "tenacity", "huggingface_hub", "fsspec"} & set(sys.modules)
own = {n for n in sys.modules if n.startswith("hf_haul.") and ".localhub" not in n}
print(sorted(client), sorted(own - {"hf_haul.errors", "hf_haul.config"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[] []\n"


def test_faults_keep_the_name_by_which_programs_import_them() -> None:
    homes = {name: home for home in (faults, rules) for name in home.__all__}
    assert set(known.__all__) == set(homes)
    assert all(getattr(known, name) is getattr(home, name) for name, home in homes.items())
