"""fsspec's chains over haul://, and universal_pathlib, beside the same files on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from fsspec.generic import rsync
from fsspec.parquet import open_parquet_file
from pandas.testing import assert_frame_equal
from tests.support.loader_files import COLUMNS, SAMPLES
from tests.support.wants import want_modules

import hf_haul

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PART = "tables/part-0.parquet"
SRC = Path(hf_haul.__file__).parents[1]
ROOT = Path(__file__).parents[3]


# ---- caches on disk


@pytest.mark.parametrize("kind", ["simplecache", "filecache"])
def test_a_file_is_copied_once_and_then_read_from_disk(here: Any, tmp_path: Path, kind: str) -> None:
    options = {kind: {"cache_storage": str(tmp_path / "kept")}}
    for _ in range(2):
        with fsspec.open(f"{kind}::{here.url('blob.bin')}", **options) as file:
            file.seek(1_000_000)
            assert file.read(5) == (here.folder / "blob.bin").read_bytes()[1_000_000:1_000_005]
    assert here.sent("blob.bin") == here.size("blob.bin")
    assert here.resolves("blob.bin") == 1


def test_filecache_sees_by_its_key_that_a_file_is_the_same(here: Any, tmp_path: Path) -> None:
    options = {"cache_storage": str(tmp_path / "kept"), "check_files": True}
    for _ in range(2):
        with fsspec.open(f"filecache::{here.url('rows.csv')}", filecache=options) as file:
            assert file.read(2) == b"id"
    assert here.sent("rows.csv") == here.size("rows.csv")


def test_many_files_are_copied_into_a_cache_at_once(here: Any, tmp_path: Path) -> None:
    files = fsspec.open_files(
        f"filecache::{here.url('texts/*.txt')}", filecache={"cache_storage": str(tmp_path / "kept")}
    )
    with files as opened:
        found = [file.read() for file in opened]
    assert found == [path.read_bytes() for path in sorted((here.folder / "texts").iterdir())]
    assert len(here.answers("texts/*")) == len(found)


def test_open_local_gives_paths(here: Any, tmp_path: Path) -> None:
    paths = fsspec.open_local(
        f"simplecache::{here.url('shards/*.tar')}", simplecache={"cache_storage": str(tmp_path / "kept")}
    )
    assert [Path(path).read_bytes() for path in paths] == [
        path.read_bytes() for path in sorted((here.folder / "shards").iterdir())
    ]


def test_blockcache_keeps_the_blocks_that_were_read(here: Any, tmp_path: Path) -> None:
    truth = (here.folder / "blob.bin").read_bytes()
    options = {"cache_storage": str(tmp_path / "kept"), "check_files": False}
    fs = fsspec.filesystem("blockcache", target_protocol="haul", **options)
    with fs.open(here.path("blob.bin"), block_size=200_000) as file:
        file.seek(1_234_567)
        assert file.read(100_000) == truth[1_234_567:1_334_567]
        first = here.sent("blob.bin")
        assert first <= 400_000
        file.seek(1_234_567)
        assert file.read(100_000) == truth[1_234_567:1_334_567]
    assert here.sent("blob.bin") == first
    with fs.open(here.path("blob.bin"), block_size=200_000) as file:
        assert file.read() == truth
    assert here.sent("blob.bin") == len(truth)


# ---- files in files


def test_members_of_a_zip(here: Any) -> None:
    with zipfile.ZipFile(here.local("many.zip")) as archive:
        truth = {name: archive.read(name) for name in archive.namelist()}
    with fsspec.open(f"zip://in/33.bin::{here.url('many.zip')}") as file:
        assert file.read() == truth["in/33.bin"]
    assert here.sent("many.zip") < 0.5 * here.size("many.zip")
    fs = fsspec.filesystem("zip", fo=here.url("many.zip"))
    assert fs.cat("in/*") == truth
    assert here.resolves("many.zip") == 1


def test_members_of_a_tar(here: Any) -> None:
    with tarfile.open(here.local("shards/01.tar")) as archive:
        truth = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    with fsspec.open(f"tar://010003.bin::{here.url('shards/01.tar')}") as file:
        assert file.read() == truth["010003.bin"]
    fs = fsspec.filesystem("tar", fo=here.url("shards/01.tar"))
    assert {name: fs.cat_file(name) for name in fs.find("")} == truth
    assert len(truth) == 2 * SAMPLES
    assert here.sent("shards/01.tar") <= 1.1 * here.size("shards/01.tar")


def test_files_made_of_ranges_by_reference(here: Any) -> None:
    truth = (here.folder / "blob.bin").read_bytes()
    ranges = {f"r/{number:02d}": [here.url("blob.bin"), 90_000 * number, 4_000] for number in range(30)}
    references = {**ranges, "whole": [here.url("rows.csv")], "inline": "hello"}
    fs = fsspec.filesystem("reference", fo=references, remote_protocol="haul")
    assert fs.cat_file("inline") == b"hello"
    assert fs.cat_file("whole") == (here.folder / "rows.csv").read_bytes()
    assert fs.cat(sorted(ranges)) == {
        f"r/{number:02d}": truth[90_000 * number : 90_000 * number + 4_000] for number in range(30)
    }
    assert fs.find("r") == sorted(ranges)
    assert here.sent("blob.bin") <= len(truth)


def test_compressed_files_are_opened_by_their_name(here: Any) -> None:
    with fsspec.open(here.url("rows.jsonl.gz"), "rt", compression="infer") as file:
        lines = list(file)
    assert lines == (here.folder / "rows.jsonl").read_text().splitlines(keepends=True)
    assert here.sent("rows.jsonl.gz") == here.size("rows.jsonl.gz")


def test_fsspecs_own_parquet_reader(here: Any) -> None:
    with open_parquet_file(here.url(PART), columns=COLUMNS, engine="pyarrow") as file:
        frame = pd.read_parquet(file, columns=COLUMNS)
    assert_frame_equal(frame, pd.read_parquet(here.local(PART), columns=COLUMNS))
    assert here.sent(PART) < 0.7 * here.size(PART)  # fsspec asks for the last million bytes


def test_a_mapping_of_files(here: Any) -> None:
    mapping = fsspec.get_mapper(here.url("texts"))
    truth = {path.name: path.read_bytes() for path in (here.folder / "texts").iterdir()}
    assert set(mapping) == set(truth)
    assert mapping.getitems(list(truth)) == truth
    assert len(here.answers("texts/*")) == len(truth)
    with pytest.raises(KeyError):
        mapping["nope"]


def test_a_folder_is_copied_between_filesystems(here: Any, tmp_path: Path) -> None:
    rsync(here.url("texts"), f"file://{tmp_path}/texts")
    assert sorted(path.read_bytes() for path in (tmp_path / "texts").iterdir()) == sorted(
        path.read_bytes() for path in (here.folder / "texts").iterdir()
    )


# ---- universal_pathlib


@pytest.fixture
def root(here: Any) -> Any:
    want_modules("upath", extra="loaders")
    from upath import UPath
    from upath.registry import register_implementation

    register_implementation(
        "haul", "hf_haul.filesystem.upaths.HaulPath", clobber=True
    )  # as the next test sees
    return UPath(here.url())


def test_upath_knows_the_protocol_by_the_entry_point_of_the_package(here: Any, tmp_path: Path) -> None:
    want_modules("upath", extra="loaders")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    metadata = tmp_path / "hf_haul-0.dist-info"  # as an installer writes it, whatever is installed here
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hf_haul\nVersion: 0\n")
    lines = [
        f"[{group}]\n{name} = {where}\n" for group, names in declared.items() for name, where in names.items()
    ]
    (metadata / "entry_points.txt").write_text("".join(lines))
    program = (
        "import sys, pickle, upath; path = upath.UPath(sys.argv[1]);"
        "assert pickle.loads(pickle.dumps(path)) == path;"
        "assert (path / 'x' / '..' / 'rows.csv').name == 'rows.csv';"
        "print(type(path).__name__, len((path.parent / 'rows.csv').read_bytes()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, here.url("blob.bin")],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(SRC)]), "HF_ENDPOINT": here.hub.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["HaulPath", str(here.size("rows.csv"))], done.stderr


def test_upath_walks_and_reads(here: Any, root: Any) -> None:
    assert (root / "rows.csv").read_text() == Path(here.local("rows.csv")).read_text()
    assert (root / "blob.bin").read_bytes() == Path(here.local("blob.bin")).read_bytes()
    for name in ("rows.csv", "blob.bin"):
        assert here.sent(name) == here.size(name)
        assert here.resolves(name) == 1
    assert sorted(path.name for path in root.iterdir()) == sorted(path.name for path in here.folder.iterdir())
    assert sorted(path.name for path in root.glob("texts/*.txt")) == sorted(
        path.name for path in here.folder.glob("texts/*.txt")
    )
    assert (root / PART).is_file()
    assert not (root / "nope").exists()
    assert (root / "tables").is_dir()
    assert (root / PART).stat().st_size == here.size(PART)
    assert (root / PART).suffix == ".parquet"
    with (root / PART).open("rb") as file:
        assert file.read(4) == b"PAR1"


def test_libraries_that_take_paths_take_upaths(root: Any, here: Any) -> None:
    path = root / PART
    frame = pd.read_parquet(path.path, filesystem=path.fs, columns=COLUMNS)
    assert_frame_equal(frame, pd.read_parquet(here.local(PART), columns=COLUMNS))
