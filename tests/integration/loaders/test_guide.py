"""What examples/loaders.md shows, run as it stands."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.loader_files import PARTS, ROWS, make_loader_files
from tests.support.wants import want_modules

GUIDE = (Path(__file__).parents[3] / "examples/loaders.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def _imported(block: str) -> list[str]:
    found = re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)
    return [name for name in dict.fromkeys(found) if name != "sys"]


def _name_of(block: str) -> str:
    return "+".join(name for name in _imported(block) if name not in {"fsspec", "pyarrow"}) or "fsspec"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that the guide names."""
    want_modules("PIL", "h5netcdf", "safetensors", "soundfile", "xarray", "zarr", extra="loaders")
    import safetensors.numpy
    import soundfile
    import xarray as xr
    import zarr
    from PIL import Image

    folder = make_loader_files(tmp_path_factory.mktemp("guide"))
    values = np.random.default_rng(1).random((20, 30), dtype="float32")
    zarr.create_array(str(folder / "a.zarr"), data=values, chunks=(10, 30))
    xr.Dataset({"heat": (("y", "x"), values)}).to_netcdf(folder / "cube.nc", engine="h5netcdf")
    safetensors.numpy.save_file({"weight": values}, folder / "m.safetensors")
    Image.fromarray((values * 255).astype("uint8")).save(folder / "a.png")
    soundfile.write(folder / "a.wav", values[0], 8_000)
    return folder


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)  # it asks a server outside
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "datasets/downloads")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where fsspec's caches go if nobody says


def test_there_are_as_many_blocks_as_the_guide_has_fences() -> None:
    assert len(BLOCKS) == GUIDE.count("```python") == 15


@pytest.mark.parametrize("block", BLOCKS, ids=_name_of)
def test_what_the_guide_shows_works(block: str, folder: Path, serve: Any) -> None:
    want_modules(*_imported(block), extra="loaders")
    here = serve(folder)
    names: dict[str, Any] = {}
    exec(compile(block.replace("org/data", here.repo_id), "examples/loaders.md", "exec"), names)
    checks = {
        "table": lambda found: found.num_rows == PARTS * ROWS,
        "frame": lambda found: len(found) > 0,
        "total": lambda found: found[0][0] > 0,
        "head": lambda found: len(found) in {3, 100},
        "samples": lambda found: len(found) == 80,
        "group": lambda found: len(found) == 5_000,
        "values": lambda found: found.shape == (10, 30),
        "weight": lambda found: found.shape == (20, 30),
        "size": lambda found: found == (30, 20),
        "rate": lambda found: found == 8_000,
        "data": lambda found: len(found) in {2, 20_000},
        "part": lambda found: found == (folder / "blob.bin").read_bytes()[1000:1500],
        "text": lambda found: found == min((folder / "texts").iterdir()).read_text(),
    }
    seen = [name for name, check in checks.items() if name in names and check(names[name])]
    assert seen == [name for name in checks if name in names]
    assert seen
