"""Files stored in Xet come over HTTP, whether hf_xet is installed, missing or turned off; the shared store stays as it is."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import leftovers
from tests.support.hub import fill_xet_store, hub_environment, run_python
from tests.support.repos import contents, random_bytes
from tests.support.wants import want_modules

from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.testing.faults import Headers

WEIGHTS = "dir/w.safetensors"
HASH = "cd" * 32

#: hf_xet cannot be imported, and nobody says that it is installed.
WITHOUT = """
import importlib.metadata, sys

sys.modules["hf_xet"] = None
installed = importlib.metadata.distribution

def distribution(name):
    if name.replace("-", "_") == "hf_xet":
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)

importlib.metadata.distribution = distribution
importlib.metadata.version = lambda name: distribution(name).version
"""

#: Every door once; says which files it got, and whether hf_xet was loaded.
PROGRAM = """
import hashlib, json, pathlib, sys
from hf_haul import HaulFileSystem, hf_hub_download, snapshot_download

home = pathlib.Path(sys.argv[1])
snapshot = pathlib.Path(snapshot_download("org/xet", cache_dir=home / "a"))
one = pathlib.Path(hf_hub_download("org/xet", "dir/w.safetensors", cache_dir=home / "b"))
local = pathlib.Path(snapshot_download("org/xet", local_dir=home / "c"))
fs = HaulFileSystem()
fs.get_file("org/xet/dir/w.safetensors", str(home / "d"))
with fs.open("org/xet/dir/w.safetensors", "rb") as file:
    file.seek(1000)
    some = file.read(500)
got = {
    "snapshot": (snapshot / "dir/w.safetensors").read_bytes(),
    "one file": one.read_bytes(),
    "local_dir": (local / "dir/w.safetensors").read_bytes(),
    "fs.get_file": (home / "d").read_bytes(),
    "fs.cat_file": fs.cat_file("org/xet/dir/w.safetensors"),
    "fs.open": some,
}
print(json.dumps({
    "digests": {what: hashlib.sha256(data).hexdigest() for what, data in got.items()},
    "loaded": sys.modules.get("hf_xet") is not None,
}))
"""

HOW = [
    pytest.param(WITHOUT, "0", id="without hf_xet"),
    pytest.param(
        "",
        "0",
        id="with hf_xet",
        marks=[
            pytest.mark.xet,
            pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="needs hf_xet"),
        ],
    ),
    pytest.param("", "1", id="with hf_xet turned off"),
]


@pytest.fixture
def content() -> bytes:
    return random_bytes(3_000_000, "xet")


@pytest.fixture
def folder(tmp_path: Path, content: bytes) -> Path:
    made = tmp_path / "src"
    (made / "dir").mkdir(parents=True)
    (made / WEIGHTS).write_bytes(content)
    (made / "config.json").write_bytes(b"{}")
    return made


@pytest.fixture
def hub(folder: Path) -> Iterator[LocalHub]:
    # Nothing can be had from there: who asks Xet's storage fails.
    repo = Repo.from_folder(folder, "org/xet", xet_hashes={WEIGHTS: HASH})
    with LocalHub(repo, cas_url="local:///nowhere") as hub:
        yield hub


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("before", "turned_off"), HOW)
def test_files_stored_in_xet_come_over_http_through_every_door(
    hub: LocalHub, content: bytes, tmp_path: Path, before: str, turned_off: str
) -> None:
    env = hub_environment(hub, tmp_path / "home", HF_HUB_DISABLE_XET=turned_off)
    done = run_python(before + PROGRAM, env, str(tmp_path), timeout=100)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    whole = {what for what in told["digests"] if what != "fs.open"}
    assert {told["digests"][what] for what in whole} == {digest(content)}
    assert told["digests"]["fs.open"] == digest(content[1000:1500])
    assert hub.requests.of("xet-read-token") == []
    assert len(hub.requests.of("cdn")) >= len(whole)
    assert not told["loaded"]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("before", "turned_off"), HOW)
def test_without_a_size_or_a_usable_hash_the_file_is_whole_all_the_same(
    hub: LocalHub, folder: Path, tmp_path: Path, before: str, turned_off: str
) -> None:
    hub.faults.add(
        Headers({"X-Linked-Size": None, "X-Xet-Hash": "*" * 64}), kind="resolve", path=WEIGHTS, times=None
    )
    program = """
import sys
from hf_haul import hf_hub_download, snapshot_download
hf_hub_download("org/xet", "dir/w.safetensors", cache_dir=sys.argv[1])
print(snapshot_download("org/xet", cache_dir=sys.argv[1]))
"""
    env = hub_environment(hub, tmp_path / "home", HF_HUB_DISABLE_XET=turned_off)
    done = run_python(before + program, env, str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert contents(Path(done.stdout.strip())) == contents(folder)
    assert hub.requests.of("xet-read-token") == []


# -- the store that repositories share


def _state(store: Path) -> dict[str, Any]:
    """All there is to know of the files in a store; who uses them is huggingface_hub's to note."""
    files = [path for path in store.rglob("*") if path.is_file() and path.suffix not in {".refs", ".lock"}]
    facts = {path: path.lstat() for path in files}
    return {
        path.name: (fact.st_mode, fact.st_ino, fact.st_mtime_ns, digest(path.read_bytes()))
        for path, fact in facts.items()
    }


_FILL = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("org/xet", cache_dir=sys.argv[1]))
"""
_ONCE_MORE = """
import sys
from hf_haul import hf_hub_download, snapshot_download
snapshot_download("org/xet", cache_dir=sys.argv[1])
hf_hub_download("org/xet", "dir/w.safetensors", cache_dir=sys.argv[1])
print(snapshot_download(sys.argv[2], cache_dir=sys.argv[1], force_download=len(sys.argv) > 3))
"""


@pytest.mark.xet
@pytest.mark.skipif(os.name == "nt", reason="needs symlinks")
@pytest.mark.parametrize("forced", [False, True], ids=["taken", "forced"])
def test_what_huggingface_hub_put_into_the_shared_store_is_read_and_never_written_through(
    folder: Path, tmp_path: Path, forced: bool
) -> None:
    want_modules("hf_xet", extra="test")
    pytest.importorskip("huggingface_hub.utils._shared_blobs", reason="huggingface_hub 2.x has it")
    url, hashes = fill_xet_store(tmp_path / "store", folder / WEIGHTS)
    told = {WEIGHTS: hashes[folder / WEIGHTS]}
    cache = tmp_path / "cache"
    shared = cache / "blobs"
    repos = [Repo.from_folder(folder, name, xet_hashes=told) for name in ("org/xet", "org/other")]
    with LocalHub(*repos, cas_url=url) as hub:
        env = hub_environment(hub, tmp_path / "home", HF_HUB_DISABLE_XET="0")
        done = run_python(_FILL, env, str(cache))
        assert done.returncode == 0, done.stderr
        blob = (Path(done.stdout.strip()) / WEIGHTS).resolve()
        assert blob.is_relative_to(shared), (
            "huggingface_hub shares nothing here: the test would prove nothing"
        )
        before = _state(shared)
        hub.requests.clear()

        for repo_id in ("org/other", "org/xet"):
            more = ["forced"] if forced else []
            done = run_python(_ONCE_MORE, env, str(cache), repo_id, *more)
            assert done.returncode == 0, done.stderr
            found = Path(done.stdout.strip()) / WEIGHTS
            assert contents(found.parents[1]) == contents(folder)
            # A forced download is a file of its own; otherwise the bytes are there already.
            assert found.resolve().is_relative_to(shared) is not forced
        assert bool(hub.requests.of("cdn")) is forced
    assert any(name.endswith(told[WEIGHTS]) for name in before)
    assert _state(shared) == before
    assert leftovers(cache) == []
