"""Sharing folders and caches: what is found, and what happens when it changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from tests.support.hub import serve_repo
from tests.support.repos import contents, make_repo

from hf_haul.localhub import LocalHub, Repo, serve, share
from hf_haul.localhub.sources import FolderRepo


@pytest.fixture(autouse=True)
def own_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    return tmp_path / "xdg" / "hf-haul" / "digests.json"


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


def fetch(hub: LocalHub, repo_id: str, cache: Path, **more: object) -> dict[str, str]:
    got = snapshot_download(repo_id, endpoint=hub.url, cache_dir=cache, **more)  # type: ignore[arg-type]  keywords of a test
    return contents(Path(got))


def test_a_cache_is_shared_with_its_real_commits_and_without_hashing(
    tmp_path: Path, own_digests: Path
) -> None:
    with serve_repo(tmp_path / "src") as served:
        served.repo.tag("v1")
        served.repo.commit({"later.txt": b"later"})
        for revision in ("v1", "main"):
            snapshot_download(
                "org/tiny", revision=revision, endpoint=served.hub.url, cache_dir=tmp_path / "one"
            )
        commits = {revision: served.repo.resolve(revision) for revision in ("v1", "main")}
    with share(tmp_path / "one") as hub:
        for revision, commit in commits.items():
            assert commit is not None
            got = snapshot_download(
                "org/tiny", revision=revision, endpoint=hub.url, cache_dir=tmp_path / "two"
            )
            assert Path(got).name == commit.id
            assert contents(Path(got)).keys() == commit.tree.files.keys()
        trees = {repo.resolve("v1").tree.oid for repo in hub.catalog.all()}  # type: ignore[union-attr]  it is there
    assert commits["v1"] is not None
    assert trees == {commits["v1"].tree.oid}
    assert not own_digests.exists()
    blobs = [sorted(path.name for path in (tmp_path / part).glob("*/blobs/*")) for part in ("one", "two")]
    assert blobs[0] == blobs[1]


def test_a_partly_downloaded_snapshot_is_shared_as_what_is_there(tmp_path: Path) -> None:
    with serve_repo(tmp_path / "src") as served:
        snapshot_download(
            "org/tiny", allow_patterns="*.json", endpoint=served.hub.url, cache_dir=tmp_path / "one"
        )
    with share(tmp_path / "one") as hub:
        got = fetch(hub, "org/tiny", tmp_path / "two")
    assert got == {k: v for k, v in served.contents.items() if k.endswith(".json")}


def test_what_a_cache_gets_while_it_is_shared_is_shared_too(tmp_path: Path) -> None:
    cache = tmp_path / "one"
    with serve_repo(tmp_path / "src") as served:
        other = make_repo(tmp_path / "other", seed=9)
        served.hub.add(Repo.from_folder(other, "org/other"))
        snapshot_download("org/tiny", endpoint=served.hub.url, cache_dir=cache)
        with share(cache) as hub:
            hub.catalog.follow(lambda: Repo.from_cache(cache), 0.0, time.monotonic)
            with pytest.raises(RepositoryNotFoundError):
                fetch(hub, "org/other", tmp_path / "two")
            snapshot_download("org/other", endpoint=served.hub.url, cache_dir=cache)
            assert fetch(hub, "org/other", tmp_path / "two") == contents(other)


@pytest.mark.parametrize(
    ("layout", "repo_id", "repo_type"),
    [
        pytest.param("org/name", "org/name", "model", id="org and name"),
        pytest.param("models/org/name", "org/name", "model", id="below models"),
        pytest.param("datasets/org/name", "org/name", "dataset", id="below datasets"),
        pytest.param("", "top/shared", "model", id="one repository"),
    ],
)
def test_a_folder_is_shared_by_its_layout(tmp_path: Path, layout: str, repo_id: str, repo_type: str) -> None:
    root = tmp_path / "top" / "shared"
    make_repo(root / layout)
    with share(root) as hub:
        got = fetch(hub, repo_id, tmp_path / "cache", repo_type=repo_type)
    assert got == contents(root / layout)


def test_a_folder_that_was_downloaded_into_needs_no_hashing(tmp_path: Path, own_digests: Path) -> None:
    with serve_repo(tmp_path / "src") as served:
        snapshot_download("org/tiny", endpoint=served.hub.url, local_dir=tmp_path / "top" / "org" / "local")
    with share(tmp_path / "top") as hub:
        repo = hub.catalog.get("model", "org/local")
        assert repo is not None
        assert repo.head.tree.oid == served.repo.head.tree.oid
        assert fetch(hub, "org/local", tmp_path / "cache") == served.contents
    assert own_digests.read_text() == "{}"


def test_a_file_changed_after_its_download_is_hashed_after_all(tmp_path: Path) -> None:
    folder = tmp_path / "top" / "org" / "local"
    with serve_repo(tmp_path / "src") as served:
        snapshot_download("org/tiny", endpoint=served.hub.url, local_dir=folder)
    (folder / "config.json").write_bytes(b"{}")
    later = time.time() + 60
    import os

    os.utime(folder / "config.json", (later, later))
    with share(tmp_path / "top") as hub:
        assert fetch(hub, "org/local", tmp_path / "cache") == contents(folder)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_folder_that_changes_gets_a_new_commit_and_keeps_the_old_one(
    tmp_path: Path, session: requests.Session
) -> None:
    root = tmp_path / "org" / "live"
    root.mkdir(parents=True)
    (root / "a.txt").write_bytes(b"one")
    clock = Clock()
    repo = FolderRepo(root, "org/live", interval=5, clock=clock)
    with LocalHub(repo) as hub:
        url = f"{hub.url}/api/models/org/live"
        first = session.get(url).json()["sha"]
        (root / "b.txt").write_bytes(b"two")
        assert session.get(url).json()["sha"] == first  # not looked at yet
        clock.now = 5
        second = session.get(url).json()["sha"]
        assert second != first
        names = [row["path"] for row in session.get(f"{url}/tree/{first}").json()]
        assert names == ["a.txt"]
        assert session.get(f"{hub.url}/org/live/resolve/main/b.txt").content == b"two"
    again = FolderRepo(root, "org/live")
    assert again.head.id == second  # a restart changes nothing


def test_while_a_folder_is_hashed_for_the_first_time_the_hub_says_so(
    tmp_path: Path, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "org" / "slow"
    root.mkdir(parents=True)
    (root / "a.txt").write_bytes(b"one")
    hashed = threading.Event()

    class Slow(FolderRepo):
        def load(self) -> None:
            hashed.wait(30)
            super().load()

    monkeypatch.setattr("hf_haul.localhub.sources._PATIENCE", 0.05)
    with LocalHub(Slow(root, "org/slow")) as hub:
        url = f"{hub.url}/api/models/org/slow"
        early = session.get(url)
        assert (early.status_code, early.headers["Retry-After"]) == (503, "15")
        assert "hashed" in early.json()["error"]
        hashed.set()
        monkeypatch.setattr("hf_haul.localhub.sources._PATIENCE", 30)
        assert session.get(url).status_code == 200


def test_a_token_closes_everything_to_those_without_it(tmp_path: Path, session: requests.Session) -> None:
    make_repo(tmp_path / "top" / "org" / "name")
    with share(tmp_path / "top", token="hf_secret") as hub:
        with pytest.raises(RepositoryNotFoundError):
            fetch(hub, "org/name", tmp_path / "cache", token=False)
        assert session.get(f"{hub.url}/api/models").json() == []
        got = fetch(hub, "org/name", tmp_path / "cache", token="hf_secret")
        assert got == contents(tmp_path / "top" / "org" / "name")
        key = {"Authorization": "Bearer hf_secret"}
        assert "models/org/name" in session.get(hub.url, headers=key).text


def test_serving_blocks_until_it_is_told_to_stop(tmp_path: Path, own_digests: Path) -> None:
    make_repo(tmp_path / "top" / "org" / "name")
    hubs: list[LocalHub] = []
    ready = threading.Event()

    def on_ready(hub: LocalHub) -> None:
        hubs.append(hub)
        ready.set()

    server = threading.Thread(
        target=serve,
        args=(tmp_path / "top",),
        kwargs={"port": 0, "on_ready": on_ready, "max_bytes_per_s": 100e6},
    )
    server.start()
    assert ready.wait(30)
    assert fetch(hubs[0], "org/name", tmp_path / "cache") == contents(tmp_path / "top/org/name")
    assert hubs[0].requests.of("cdn") == []
    assert server.is_alive()
    hubs[0].close()
    server.join(30)
    assert not server.is_alive()
    assert own_digests.stat().st_size > 100  # hashed once, for the next start


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nope"):
        share(tmp_path / "nope")
