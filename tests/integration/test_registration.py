"""Programs that say hf://, unchanged but for one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.hub import hub_environment

from hf_haul.localhub import LocalHub, Repo

_PROGRAM = """
import multiprocessing, sys
import fsspec, pandas
import hf_haul

URL = "hf://datasets/org/data/train.csv"

def read(open_file=None, registers=False):
    if registers:
        hf_haul.register("hf")
    if open_file is not None:
        with open_file as file:
            assert type(file).__name__ in {"HaulFile", "HaulStreamFile"}, type(file)
            assert file.read() == b"a,b\\n1,2\\n3,4\\n"
    return type(fsspec.filesystem("hf")).__name__, pandas.read_csv(URL).to_dict("list")

if __name__ == "__main__":
    hf_haul.register("hf")
    print(*read())
    method, how = sys.argv[1:]
    with multiprocessing.get_context(method).Pool(1) as pool:
        print(*pool.apply(read, [fsspec.open(URL) if how == "pickled" else None, how == "registers"]))
    hf_haul.unregister("hf")
    print(*read())
"""


_NO_FORK = pytest.mark.skipif(sys.platform == "win32", reason="no fork there")


@pytest.mark.parametrize(
    ("method", "how"),
    [
        pytest.param("fork", "inherits", marks=_NO_FORK),
        ("spawn", "pickled"),
        ("spawn", "registers"),
        pytest.param("forkserver", "pickled", marks=_NO_FORK),
    ],
)
def test_what_is_registered_reads_hf_urls_in_worker_processes_too(
    method: str, how: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM, encoding="utf-8")
    repo = Repo("org/data", "dataset")
    repo.commit({"train.csv": b"a,b\n1,2\n3,4\n"}, "one file")
    with LocalHub(repo) as hub:
        done = subprocess.run(
            [sys.executable, str(program), method, how],
            env=hub_environment(hub, tmp_path / "home"), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    frame = "{'a': [1, 3], 'b': [2, 4]}"
    assert done.stdout.splitlines() == [f"HfUrlFileSystem {frame}"] * 2 + [f"HfFileSystem {frame}"], (
        done.stderr
    )
