"""Sharing folders and caches: what is found, and what happens when it changes."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub import HfApi, RepoFile, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from tests.support.hub import serve_repo
from tests.support.repos import contents, make_repo

import hf_haul
from hf_haul.localhub import Commit, LocalHub, Repo, serve, share
from hf_haul.localhub.discovery import find_repos
from hf_haul.localhub.folder_repo import FolderRepo


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


@pytest.fixture
def partial(tmp_path: Path) -> tuple[Path, dict[str, str], Commit]:
    """A cache with the JSON files of a repository, all of its files, and the commit."""
    with serve_repo(tmp_path / "src") as served:
        snapshot_download(
            "org/tiny", allow_patterns="*.json", endpoint=served.hub.url, cache_dir=tmp_path / "one"
        )
        return tmp_path / "one", served.contents, served.repo.head


def forget_listing(cache: Path, commit: str) -> None:
    (cache / f"models--org--tiny/trees/{commit}.json").unlink()


def test_a_partly_downloaded_snapshot_is_listed_as_the_hub_did(
    partial: tuple[Path, dict[str, str], Commit], tmp_path: Path
) -> None:
    cache, files, commit = partial
    some = {name: digest for name, digest in files.items() if name.endswith(".json")}
    with share(cache) as hub:
        api = HfApi(hub.url, token=False)
        info = api.model_info("org/tiny", files_metadata=True)
        assert info.sha == commit.id
        assert {row.rfilename for row in info.siblings or ()} == files.keys()
        for recursive in (True, False):
            ours = {row.path for row in api.list_repo_tree("org/tiny", recursive=recursive)}
            assert ours == {entry.path for entry in commit.tree.listing(recursive=recursive)}
        found = api.get_paths_info("org/tiny", ["config.json", "vocab.txt"])
        assert [(row.path, row.blob_id) for row in found if isinstance(row, RepoFile)] == [
            (name, commit.tree.files[name].git_oid) for name in ("config.json", "vocab.txt")
        ]
        assert fetch(hub, "org/tiny", tmp_path / "some", allow_patterns="*.json") == some
        for download in (snapshot_download, hf_haul.snapshot_download):
            with pytest.raises(OSError) as failed:
                download("org/tiny", endpoint=hub.url, cache_dir=tmp_path / download.__module__)
            assert not isinstance(failed.value, (RepositoryNotFoundError, EntryNotFoundError)) or isinstance(
                failed.value, LocalEntryNotFoundError
            )


@pytest.mark.parametrize("known", [True, False], ids=["listed", "not listed"])
@pytest.mark.parametrize("download", [hf_hub_download, hf_haul.hf_hub_download], ids=["theirs", "ours"])
def test_a_file_that_the_cache_lacks_is_not_noted_as_missing_for_good(
    partial: tuple[Path, dict[str, str], Commit], tmp_path: Path, known: bool, download: Any
) -> None:
    cache, _, commit = partial
    if not known:
        forget_listing(cache, commit.id)
    where = {"cache_dir": tmp_path / "two"}
    with share(cache) as hub:
        assert Path(download("org/tiny", "config.json", endpoint=hub.url, **where)).is_file()
        with pytest.raises((HfHubHTTPError, LocalEntryNotFoundError)) as failed:
            download("org/tiny", "vocab.txt", endpoint=hub.url, **where)
        assert not isinstance(failed.value, RemoteEntryNotFoundError)
        refused = failed.value if isinstance(failed.value, HfHubHTTPError) else failed.value.__cause__
        assert isinstance(refused, HfHubHTTPError)
        assert refused.response.headers["X-Error-Code"] == "EntryNotServed"
    assert try_to_load_from_cache("org/tiny", "vocab.txt", **where) is None


def test_what_a_whole_listing_lacks_is_missing_for_good(
    partial: tuple[Path, dict[str, str], Commit], tmp_path: Path
) -> None:
    with share(partial[0]) as hub, pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("org/tiny", "no.json", endpoint=hub.url, cache_dir=tmp_path / "two")


def test_without_the_hubs_listing_there_is_none_but_single_files_can_be_had(
    partial: tuple[Path, dict[str, str], Commit], tmp_path: Path, session: requests.Session
) -> None:
    cache, _, commit = partial
    forget_listing(cache, commit.id)
    with share(cache) as hub:
        api = HfApi(hub.url, token=False)
        info = api.model_info("org/tiny")
        assert (info.sha, info.siblings) == (commit.id, None)
        asks: list[Callable[[], object]] = [
            lambda: list(api.list_repo_tree("org/tiny", recursive=True)),
            lambda: list(api.list_repo_tree("org/tiny", "nested")),
            lambda: api.get_paths_info("org/tiny", ["vocab.txt"]),
            lambda: api.get_paths_info("org/tiny", ["nested"]),
            lambda: hf_haul.snapshot_download("org/tiny", endpoint=hub.url, cache_dir=tmp_path / "two"),
        ]
        for ask in asks:
            with pytest.raises(HfHubHTTPError, match="not the Hub's listing") as failed:
                ask()
            assert not isinstance(failed.value, RepositoryNotFoundError)
            assert failed.value.response.headers["X-Error-Code"] == "ListingUnknown"
        with pytest.raises(LocalEntryNotFoundError, match="not the Hub's listing") as upstream:
            fetch(hub, "org/tiny", tmp_path / "three")
        assert isinstance(upstream.value.__cause__, HfHubHTTPError)
        assert len(api.get_paths_info("org/tiny", ["config.json"])) == 1
        for download in (hf_hub_download, hf_haul.hf_hub_download):
            got = download("org/tiny", "config.json", endpoint=hub.url, cache_dir=tmp_path / "four")
            assert json.loads(Path(got).read_text())
    # As before it was there at all: with the Hub, everything.
    with serve_repo(tmp_path / "src") as served:
        got = hf_haul.snapshot_download("org/tiny", endpoint=served.hub.url, cache_dir=tmp_path / "two")
        assert contents(Path(got)) == served.contents


def test_single_files_can_be_read_where_nobody_knows_which_there_are(
    partial: tuple[Path, dict[str, str], Commit],
) -> None:
    cache, files, commit = partial
    forget_listing(cache, commit.id)
    with share(cache) as hub:
        fs = hf_haul.HaulFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
        data = fs.cat("org/tiny/config.json")
        assert hashlib.sha256(data).hexdigest() == files["config.json"]
        assert (
            fs.info("org/tiny/nested/one/also.json")["size"] == commit.tree.files["nested/one/also.json"].size
        )
        assert fs.exists("org/tiny/config.json")
        with pytest.raises(HfHubHTTPError, match="not the Hub's listing"):
            fs.info("org/tiny/vocab.txt")
        with pytest.raises(HfHubHTTPError, match="not the Hub's listing"):
            fs.find("org/tiny")


def test_somebody_can_vouch_for_a_cache(
    partial: tuple[Path, dict[str, str], Commit], tmp_path: Path, session: requests.Session
) -> None:
    cache, files, commit = partial
    forget_listing(cache, commit.id)
    some = {name: digest for name, digest in files.items() if name.endswith(".json")}
    with share(cache, complete=True) as hub:
        url = f"{hub.url}/api/models/org/tiny"
        for asked in (url, f"{url}/tree/main?recursive=true"):
            assert session.get(asked).headers["X-Haul-Listing"] == "partial"
        got = hf_haul.snapshot_download("org/tiny", endpoint=hub.url, cache_dir=tmp_path / "two")
        assert contents(Path(got)) == some
        with pytest.raises(RemoteEntryNotFoundError):
            hf_haul.hf_hub_download("org/tiny", "vocab.txt", endpoint=hub.url, cache_dir=tmp_path / "three")
    # What was vouched for is not the Hub's: it is asked for anew.
    with serve_repo(tmp_path / "src") as served:
        got = hf_haul.snapshot_download(
            "org/tiny", revision=commit.id, endpoint=served.hub.url, cache_dir=tmp_path / "two"
        )
        assert contents(Path(got)) == files


def test_what_a_cache_gets_while_it_is_shared_is_shared_too(tmp_path: Path) -> None:
    cache = tmp_path / "one"
    with serve_repo(tmp_path / "src") as served:
        other = make_repo(tmp_path / "other", seed=9)
        served.hub.add(Repo.from_folder(other, "org/other"))
        snapshot_download("org/tiny", endpoint=served.hub.url, cache_dir=cache)
        with share(cache) as hub:
            hub.catalog.follow(lambda: find_repos(cache), 0.0, time.monotonic)
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
    tmp_path: Path, session: requests.Session
) -> None:
    root = tmp_path / "org" / "slow"
    root.mkdir(parents=True)
    (root / "a.txt").write_bytes(b"one")
    hashed = threading.Event()

    class Slow(FolderRepo):
        scan_timeout = 0.05

        def load(self) -> None:
            hashed.wait(30)
            super().load()

    slow = Slow(root, "org/slow")
    with LocalHub(slow) as hub:
        url = f"{hub.url}/api/models/org/slow"
        early = session.get(url)
        assert (early.status_code, early.headers["Retry-After"]) == (503, "15")
        assert "hashed" in early.json()["error"]
        hashed.set()
        slow.scan_timeout = 30
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
