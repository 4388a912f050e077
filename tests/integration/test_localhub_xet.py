"""Xet files on the local hub, downloaded by huggingface_hub through hf_xet."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.hub import fill_xet_store, hub_environment, run_python
from tests.support.repos import contents, random_bytes
from tests.support.wants import want_modules

from hf_haul.localhub import LocalHub, Repo

pytestmark = [pytest.mark.xet]
want_modules("hf_xet", extra="test")

DOWNLOAD = "from huggingface_hub import snapshot_download; print(snapshot_download('org/xet'))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "src"
    made.mkdir()
    (made / "w.safetensors").write_bytes(random_bytes(3_000_000, "xet"))
    (made / "config.json").write_bytes(b"{}")
    return made


def test_a_xet_file_comes_from_the_store_and_not_from_the_hub(folder: Path, tmp_path: Path) -> None:
    url, hashes = fill_xet_store(tmp_path / "store", folder / "w.safetensors")
    told = {path.name: value for path, value in hashes.items()}
    with LocalHub(Repo.from_folder(folder, "org/xet", xet_hashes=told), cas_url=url) as hub:
        env = hub_environment(hub, tmp_path / "home", HF_HUB_DISABLE_XET="0")
        done = run_python(DOWNLOAD, env)
        assert done.returncode == 0, done.stderr
        assert contents(Path(done.stdout.strip())) == contents(folder)
        assert hub.requests.of("cdn") == []
        assert [request.status for request in hub.requests.of("xet-read-token")] == [200]


def test_without_hf_xet_the_same_file_comes_over_http(folder: Path, tmp_path: Path) -> None:
    repo = Repo.from_folder(folder, "org/xet", xet_hashes={"w.safetensors": "cd" * 32})
    with LocalHub(repo, cas_url="local:///nowhere") as hub:
        done = run_python(DOWNLOAD, hub_environment(hub, tmp_path / "home"))
        assert done.returncode == 0, done.stderr
        assert contents(Path(done.stdout.strip())) == contents(folder)
        assert len(hub.requests.of("cdn")) == 1
        assert hub.requests.of("xet-read-token") == []
