"""Arrays and tensors through haul://: zarr, xarray, h5py, safetensors and numpy, beside the same files on disk."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from tests.support.wants import want_modules

want_modules("h5netcdf", "h5py", "safetensors", "xarray", extra="loaders")

import h5py  # noqa: E402  if it is there
import safetensors.numpy  # noqa: E402  if it is there
import xarray as xr  # noqa: E402  if it is there

VALUES = np.random.default_rng(3).random((40, 50, 60), dtype="float32")


@pytest.fixture
def cube() -> Any:
    return xr.Dataset(
        {"heat": (("t", "y", "x"), VALUES), "mask": (("y", "x"), VALUES[0] > 0.5)},
        coords={"t": np.arange(40), "y": np.arange(50.0), "x": np.arange(60.0)},
        attrs={"title": "a cube"},
    )


# ---- zarr


@pytest.fixture
def zarr() -> Any:
    want_modules("zarr", extra="loaders")
    return pytest.importorskip("zarr")


def test_zarr_reads_arrays_and_slices(zarr: Any, serve: Any, tmp_path: Path) -> None:
    array = zarr.create_array(
        str(tmp_path / "made/a.zarr"), shape=VALUES.shape, chunks=(4, 25, 60), dtype="float32"
    )
    array[:] = VALUES
    here = serve(tmp_path / "made")
    store = zarr.storage.FsspecStore.from_url(here.url("a.zarr"), read_only=True)
    remote = zarr.open_array(store, mode="r")
    assert not here.answers("a.zarr/c/*")
    assert np.array_equal(remote[3, 10:20], VALUES[3, 10:20])
    assert len(here.answers("a.zarr/c/*")) == 1
    assert np.array_equal(remote[:], VALUES)
    files = sum(1 for path in (tmp_path / "made/a.zarr/c").rglob("*") if path.is_file())
    assert files == 20
    assert len(here.answers("a.zarr/c/*")) <= files + 1


def test_zarr_finds_its_chunks_without_listing_each_of_their_folders(
    zarr: Any, serve: Any, tmp_path: Path
) -> None:
    array = zarr.create_array(
        str(tmp_path / "made/a.zarr"), shape=VALUES.shape, chunks=(4, 25, 60), dtype="float32"
    )
    array[:] = VALUES
    here = serve(tmp_path / "made")
    store = zarr.storage.FsspecStore.from_url(here.url("a.zarr"), read_only=True)
    assert np.array_equal(zarr.open_array(store, mode="r")[:], VALUES)
    assert here.listings() <= 4


def test_zarr_knows_what_is_missing_without_asking(zarr: Any, serve: Any, tmp_path: Path) -> None:
    array = zarr.create_array(
        str(tmp_path / "made/a.zarr"), shape=(100, 10), chunks=(10, 10), dtype="int32", fill_value=7
    )
    array[:10] = 1
    here = serve(tmp_path / "made")
    store = zarr.storage.FsspecStore.from_url(here.url("a.zarr"), read_only=True)
    found = zarr.open_array(store, mode="r")[:]
    assert (found[:10] == 1).all()
    assert (found[10:] == 7).all()
    assert not [each for each in here.hub.requests if each.status == 404]


@pytest.mark.parametrize("consolidated", [True, False])
def test_xarray_reads_zarr_groups(
    zarr: Any, cube: Any, serve: Any, tmp_path: Path, consolidated: bool
) -> None:
    cube.chunk({"t": 10}).to_zarr(str(tmp_path / "made/g.zarr"), consolidated=consolidated, zarr_format=2)
    here = serve(tmp_path / "made")
    with xr.open_zarr(here.url("g.zarr"), consolidated=consolidated) as remote:
        xr.testing.assert_identical(remote.load(), cube)
    with xr.open_zarr(here.url("g.zarr"), consolidated=consolidated) as remote:
        xr.testing.assert_identical(remote.heat.sel(t=slice(3, 5)).load(), cube.heat.sel(t=slice(3, 5)))
    chunks = [each.path for each in here.answers("g.zarr/*/*") if "/.z" not in each.path]
    assert len(chunks) <= 2 * len(set(chunks))


def test_zarr_reads_a_zip(zarr: Any, serve: Any, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with zarr.storage.ZipStore(tmp_path / "made/a.zip", mode="w") as store:
        zarr.create_array(store, data=VALUES, chunks=(10, 50, 60))
    here = serve(tmp_path / "made")
    fs = fsspec.filesystem("zip", fo=here.url("a.zip"))
    store = zarr.storage.FsspecStore.from_mapper(fs.get_mapper(""), read_only=True)
    assert np.array_equal(zarr.open_array(store, mode="r")[:], VALUES)
    assert here.sent("a.zip") < 1.1 * here.size("a.zip")
    assert here.resolves("a.zip") == 1


# ---- HDF5


def test_xarray_reads_netcdf_by_h5netcdf(cube: Any, serve: Any, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    cube.to_netcdf(
        tmp_path / "made/cube.nc", engine="h5netcdf", encoding={"heat": {"chunksizes": (4, 50, 60)}}
    )
    here = serve(tmp_path / "made")
    with fsspec.open(here.url("cube.nc")) as file, xr.open_dataset(file, engine="h5netcdf") as remote:
        xr.testing.assert_identical(remote.load(), cube)
    assert here.sent("cube.nc") <= 1.1 * here.size("cube.nc")
    assert here.resolves("cube.nc") == 1


def test_h5py_reads_slices_of_an_open_file(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with h5py.File(tmp_path / "made/a.h5", "w") as file:
        file.create_dataset("values", data=VALUES, chunks=(2, 50, 60), compression="gzip")
    here = serve(tmp_path / "made")
    with fsspec.open(here.url("a.h5")) as raw, h5py.File(raw, "r") as file:
        for at in (39, 0, 21):
            assert np.array_equal(file["values"][at, 5:7], VALUES[at, 5:7])
    assert here.sent("a.h5") <= 1.1 * here.size("a.h5")


# ---- safetensors and numpy


@pytest.fixture
def tensors() -> dict[str, Any]:
    return {f"layer.{number}": VALUES[number].copy() for number in range(30)}


def _same(found: dict[str, Any], truth: dict[str, Any]) -> bool:
    return found.keys() == truth.keys() and all(np.array_equal(found[name], truth[name]) for name in truth)


def test_safetensors_loads_what_was_read_and_what_was_got(
    serve: Any, tmp_path: Path, tensors: dict[str, Any]
) -> None:
    (tmp_path / "made").mkdir()
    safetensors.numpy.save_file(tensors, tmp_path / "made/m.safetensors")
    here = serve(tmp_path / "made")
    with fsspec.open(here.url("m.safetensors")) as file:
        assert _same(safetensors.numpy.load(file.read()), tensors)
    local = fsspec.open_local(
        f"simplecache::{here.url('m.safetensors')}", simplecache={"cache_storage": str(tmp_path / "kept")}
    )
    with safetensors.safe_open(local, framework="numpy") as opened:
        assert {name: opened.get_tensor(name) for name in opened.keys()}.keys() == tensors.keys()  # noqa: SIM118  no mapping
        assert np.array_equal(opened.get_tensor("layer.7"), tensors["layer.7"])
    assert here.resolves("m.safetensors") <= 2
    assert here.sent("m.safetensors") <= 2 * here.size("m.safetensors")


def test_single_tensors_are_read_by_their_offsets(
    serve: Any, tmp_path: Path, tensors: dict[str, Any]
) -> None:
    (tmp_path / "made").mkdir()
    path = tmp_path / "made/m.safetensors"
    safetensors.numpy.save_file(tensors, path)
    here = serve(tmp_path / "made")
    with fsspec.open(here.url("m.safetensors")) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        for name in ("layer.29", "layer.3", "layer.17"):
            start, stop = header[name]["data_offsets"]
            file.seek(8 + length + start)
            found = np.frombuffer(file.read(stop - start), dtype="float32").reshape(header[name]["shape"])
            assert np.array_equal(found, tensors[name])
    assert here.resolves("m.safetensors") == 1
    assert here.sent("m.safetensors") <= here.size("m.safetensors")


def test_numpy_loads_arrays_and_archives_of_them(serve: Any, tmp_path: Path, tensors: dict[str, Any]) -> None:
    (tmp_path / "made").mkdir()
    np.save(tmp_path / "made/a.npy", VALUES)
    np.savez(tmp_path / "made/a.npz", **tensors)
    here = serve(tmp_path / "made")
    with fsspec.open(here.url("a.npy")) as file:
        assert np.array_equal(np.load(file), VALUES)
    with fsspec.open(here.url("a.npz")) as file, np.load(file) as archive:
        assert np.array_equal(archive["layer.11"], tensors["layer.11"])
        assert _same(dict(archive), tensors)
    with fsspec.open(here.url("a.npy")) as file:
        assert np.array_equal(np.load(io.BytesIO(file.read())), VALUES)
