"""plan: what a download would do is what it then does, against a local Hub."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from tests.support.hub import ServedRepo, serve_repo
from tests.support.waits import until

import hf_haul
from hf_haul import DownloadPlan, FilePlan, Settings
from hf_haul.errors import DownloadCancelledError, UnsafePathError
from hf_haul.hub.planning import plan
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.localhub import LocalHub, Repo
from hf_haul.localhub.testing.faults import Stall
from hf_haul.localhub.trees import Tree
from hf_haul.manager import ParallelDownloadManager
from hf_haul.storage.ownership import current_owner

LARGE = "model-00001-of-00002.safetensors"
SHARD = 12 << 20
SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, durable=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path_factory.mktemp("source"), shard_bytes=SHARD) as served:
        yield served


@pytest.fixture(autouse=True)
def _fresh(served: ServedRepo) -> Iterator[None]:
    served.hub.requests.clear()
    yield
    served.hub.faults.clear()


@pytest.fixture(scope="module")
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield manager


@pytest.fixture(params=["cache_dir", "local_dir"])
def where(
    request: pytest.FixtureRequest, served: ServedRepo, tmp_path: Path, manager: ParallelDownloadManager
) -> dict[str, Any]:
    return _where(served, manager, **{request.param: tmp_path / "it"})


@pytest.fixture
def cached(served: ServedRepo, tmp_path: Path, manager: ParallelDownloadManager) -> dict[str, Any]:
    return _where(served, manager, cache_dir=tmp_path / "it")


def _where(served: ServedRepo, manager: ParallelDownloadManager, **there: Path) -> dict[str, Any]:
    return {"endpoint": served.hub.url, "token": False, "manager": manager, **there}


def _by_path(found: DownloadPlan) -> dict[str, FilePlan]:
    return {each.path: each for each in found.files}


def _total(served: ServedRepo) -> int:
    return sum((served.folder / name).stat().st_size for name in served.contents)


def test_a_first_download_is_planned_and_nothing_is_written(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    found = plan("org/tiny", **where)
    assert list(tmp_path.iterdir()) == []
    assert {each.kind for each in served.hub.requests} <= {"info", "tree"}
    assert _by_path(found).keys() == served.contents.keys()
    assert {each.state for each in found.files} == {"absent"}
    assert (found.bytes_total, found.bytes_here, found.bytes_to_fetch) == (_total(served), 0, _total(served))
    assert (found.repo_id, found.repo_type, found.revision) == ("org/tiny", "model", "main")
    assert found.commit == served.repo.head.id
    assert found.disk_needed <= _total(served)
    assert found.disk_free
    assert found.fits
    assert (found.rate, found.seconds, found.asked_hub, found.unknown_sizes) == (None, None, True, 0)
    assert found.path == snapshot_download("org/tiny", **where)


def test_the_order_is_that_of_the_download(served: ServedRepo, cached: dict[str, Any]) -> None:
    order = [each.path for each in plan("org/tiny", **cached).files]
    told: list[Any] = []
    with ParallelDownloadManager(1, settings=SETTINGS, on_event=told.append) as one:
        snapshot_download("org/tiny", **{**cached, "manager": one})
    begun = [event["path"] for event in told if event["ev"] == "file" and event["state"] == "started"]
    small = [name for name in order if (served.folder / name).stat().st_size < 1 << 20]
    assert [name for name in begun if name in small] == small
    assert order[-2:] == [LARGE, LARGE.replace("00001-of", "00002-of")]
    assert [each.priority for each in plan("org/tiny", **cached).files] == sorted(
        (each.priority for each in plan("org/tiny", **cached).files), key=["HIGH", "NORMAL", "LOW"].index
    )


def test_requests_are_counted_as_the_hub_will(served: ServedRepo, cached: dict[str, Any]) -> None:
    settings = Settings(part_size=4 << 20, initial_connections=1, max_concurrent_downloads=1, durable=False)
    with ParallelDownloadManager(settings=settings) as one:
        found = plan("org/tiny", **{**cached, "manager": one})
        served.hub.requests.clear()
        snapshot_download("org/tiny", **{**cached, "manager": one})
    asked = [each for each in served.hub.requests if each.kind != "agent-harnesses"]
    assert len(asked) == found.requests
    assert _by_path(found)[LARGE].requests == 4


def test_what_is_in_place_is_not_planned_again(served: ServedRepo, where: dict[str, Any]) -> None:
    snapshot_download("org/tiny", **where)
    served.hub.requests.clear()
    found = plan("org/tiny", **where)
    assert {each.state for each in found.files} == {"present"}
    assert (found.bytes_to_fetch, found.bytes_here, found.disk_needed) == (0, _total(served), 0)
    assert found.requests == len(served.hub.requests) == 1
    fresh = plan("org/tiny", force_download=True, **where)
    assert fresh.bytes_to_fetch == _total(served)


def test_what_an_earlier_run_left_is_counted_and_the_download_fetches_the_rest(
    served: ServedRepo, where: dict[str, Any]
) -> None:
    stall = served.hub.faults.add(Stall(after=1 << 20), kind="cdn", path=LARGE, times=None)
    with ParallelDownloadManager(1, settings=SETTINGS) as first:
        thread = threading.Thread(target=_download_until_cancelled, args=({**where, "manager": first},))
        thread.start()
        assert stall.wait(20)
        assert until(lambda: any(each.bytes_downloaded for each in _partial(first)))
        owned = _by_path(plan("org/tiny", **where))[LARGE]
        assert owned.fetched_by == f"process {os.getpid()} on {current_owner().host}"
        first.shutdown(wait=False)
        thread.join(20)
    served.hub.faults.clear()
    found = plan("org/tiny", **where)
    partial = _by_path(found)[LARGE]
    assert partial.state == "partial"
    assert partial.fetched_by is None
    assert 0 < partial.bytes_here < SHARD
    assert partial.bytes_to_fetch == (partial.size or 0) - partial.bytes_here
    served.hub.requests.clear()
    snapshot_download("org/tiny", **where)
    # Parts may be asked for twice, what is here is not: it lies at the start.
    starts = [int(each.range[6:].partition("-")[0]) for each in served.hub.requests.of("cdn", LARGE)]
    assert min(starts) == partial.bytes_here


def _download_until_cancelled(where: dict[str, Any]) -> None:
    with pytest.raises(DownloadCancelledError):
        snapshot_download("org/tiny", allow_patterns=LARGE, **where)


def _partial(manager: ParallelDownloadManager) -> list[Any]:
    return [
        run.progress_of(transfer)
        for run in manager._scheduler._queues.running
        for transfer in list(run.transfers.values())
    ]


def test_files_of_one_content_are_fetched_once(tmp_path: Path, manager: ParallelDownloadManager) -> None:
    repo = Repo("org/twins")
    repo.commit({"a.bin": b"x" * 5000, "b.bin": b"x" * 5000}, "twins")
    with LocalHub(repo) as hub:
        found = plan("org/twins", endpoint=hub.url, token=False, manager=manager, cache_dir=tmp_path)
    assert (found.bytes_total, found.bytes_to_fetch) == (10_000, 5000)
    assert [each.state for each in found.files] == ["absent", "present"]


def test_a_local_dir_needs_room_for_what_it_gets_from_the_cache(
    served: ServedRepo, tmp_path: Path, manager: ParallelDownloadManager
) -> None:
    where = _where(served, manager, cache_dir=tmp_path / "cache")
    snapshot_download("org/tiny", **where)
    found = plan("org/tiny", local_dir=tmp_path / "files", **where)
    assert (found.bytes_to_fetch, found.disk_needed) == (0, _total(served))


def test_patterns_and_presets_choose(cached: dict[str, Any]) -> None:
    assert [each.path for each in plan("org/tiny", allow_patterns="config.json", **cached).files] == [
        "config.json"
    ]
    assert LARGE not in _by_path(plan("org/tiny", presets="no-weights", **cached))


@pytest.mark.parametrize(
    ("rate", "limit", "expected"),
    [("10MB/s", None, 10e6), (5e6, "1MB/s", 5e6), (None, "2MB/s", 2e6)],
    ids=["as a text", "as a number", "the limit"],
)
def test_time_is_told_for_a_rate(
    cached: dict[str, Any], rate: Any, limit: str | None, expected: float
) -> None:
    options = {key: value for key, value in cached.items() if key != "manager"}
    found = plan("org/tiny", rate=rate, max_bandwidth=limit, **options)
    assert (found.rate, found.seconds) == (expected, found.bytes_to_fetch / expected)


def test_without_the_hub_a_kept_listing_has_to_do(
    served: ServedRepo, cached: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {**cached, "endpoint": "http://127.0.0.1:9"}
    with pytest.raises(LocalEntryNotFoundError):
        plan("org/tiny", **gone)
    snapshot_download("org/tiny", allow_patterns="config.json", **cached)
    found = plan("org/tiny", **gone)
    assert not found.asked_hub
    assert found.hub_error
    assert _by_path(found).keys() == served.contents.keys()
    assert _by_path(found)["config.json"].state == "present"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    served.hub.requests.clear()
    assert _by_path(plan("org/tiny", **cached)) == _by_path(found)
    assert len(served.hub.requests) == 0
    with pytest.raises(LocalEntryNotFoundError):
        plan("org/tiny", revision="v2", **cached)


def test_errors_are_the_hubs_own(
    cached: dict[str, Any], tmp_path: Path, manager: ParallelDownloadManager
) -> None:
    with pytest.raises(RepositoryNotFoundError):
        plan("org/nobody", **cached)
    repo = Repo("org/evil")
    repo.commit({"ok.txt": b"x"}, "it")
    repo.add_tree(_tree_with(repo, "../evil.txt"), "evil")
    with LocalHub(repo) as hub, pytest.raises(UnsafePathError):
        plan("org/evil", endpoint=hub.url, token=False, manager=manager, cache_dir=tmp_path)


def _tree_with(repo: Repo, path: str) -> Any:
    entry = repo.head.tree.files["ok.txt"]
    return Tree([entry, replace(entry, path=path)])


def test_it_can_be_told_as_json(cached: dict[str, Any]) -> None:
    told = json.loads(json.dumps(plan("org/tiny", rate=1e6, **cached).as_dict()))
    assert told["bytes_to_fetch"] == told["bytes_total"] > 0
    assert told["fits"] is True
    assert {
        "path",
        "size",
        "state",
        "priority",
        "bytes_here",
        "bytes_to_fetch",
        "requests",
        "fetched_by",
    } == set(told["files"][0])


def test_the_public_name_is_that_of_the_library() -> None:
    assert hf_haul.plan is plan
