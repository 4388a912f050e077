"""snapshot_download and hf_hub_download against a local Hub."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
from huggingface_hub import DryRunFileInfo, ResolvedRevision, scan_cache_dir
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tests.support.hub import ServedRepo, hub_environment, serve_repo
from tests.support.repos import make_sparse_file, random_bytes

from hf_haul.config import Settings
from hf_haul.errors import DownloadCancelledError, IntegrityError, UnsafePathError
from hf_haul.hub import asking, metadata, repository
from hf_haul.hub.single_file import hf_hub_download
from hf_haul.hub.snapshot import snapshot_download
from hf_haul.localhub import Account, LocalHub, Repo
from hf_haul.localhub.requestlog import RequestRecord
from hf_haul.localhub.testing.faults import Corrupt, Stall, Status
from hf_haul.manager import DownloadHandle, ParallelDownloadManager
from hf_haul.ranges import ByteRange
from hf_haul.storage.resumable import find_resumable
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.task import DownloadPriority, DownloadProgress

SETTINGS = Settings(first_retry_wait=0.01, max_retry_wait=0.05, max_retries=3)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRepo]:
    with serve_repo(tmp_path_factory.mktemp("source"), lfs="direct") as served:
        yield served


@pytest.fixture(autouse=True)
def fresh_hub(served: ServedRepo) -> Iterator[None]:
    served.hub.requests.clear()
    yield
    served.hub.faults.clear()


@pytest.fixture(scope="module")
def manager() -> Iterator[ParallelDownloadManager]:
    with ParallelDownloadManager(settings=SETTINGS) as manager:
        yield manager


@pytest.fixture
def where(served: ServedRepo, tmp_path: Path, manager: ParallelDownloadManager) -> dict[str, Any]:
    """What every call needs to talk to the local Hub and write below ``tmp_path``."""
    return {
        "endpoint": served.hub.url,
        "cache_dir": tmp_path / "cache",
        "token": False,
        "manager": manager,
    }


def digests(folder: Path | str) -> dict[str, str]:
    root = Path(folder)
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file() and ".cache" not in p.relative_to(root).parts
    }


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if ".incomplete" in p.name or p.name.endswith(".tmp")]


def kinds(hub: LocalHub) -> list[str]:
    return [f"{record.method} {record.kind}" for record in hub.requests if record.kind != "agent-harnesses"]


def test_a_snapshot_is_complete_and_huggingface_hub_finds_it(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    folder = snapshot_download("org/tiny", **where)
    assert digests(folder) == served.contents
    assert not leftovers(tmp_path)
    found = huggingface_hub.snapshot_download("org/tiny", cache_dir=where["cache_dir"], local_files_only=True)
    assert found == folder
    scan = scan_cache_dir(where["cache_dir"])
    assert scan.warnings == []
    (repo,) = scan.repos
    assert repo.nb_files == len(set(served.contents.values()))


def test_a_cold_snapshot_costs_one_request_per_file_and_two_more(
    served: ServedRepo, where: dict[str, Any]
) -> None:
    snapshot_download("org/tiny", **where)
    asked = [kind for kind in kinds(served.hub) if kind not in {"GET resolve-cache", "GET cdn"}]
    assert len(asked) <= len(served.contents) + 2
    assert not [kind for kind in asked if kind.startswith("HEAD")]


def test_a_known_revision_costs_one_request_and_a_commit_none(
    served: ServedRepo, where: dict[str, Any]
) -> None:
    folder = snapshot_download("org/tiny", **where)
    served.hub.requests.clear()
    assert snapshot_download("org/tiny", **where) == folder
    assert kinds(served.hub) == ["GET info"]
    served.hub.requests.clear()
    commit = served.repo.head.id
    assert snapshot_download("org/tiny", revision=commit, **where) == folder
    assert hf_hub_download("org/tiny", "config.json", revision=commit, **where).startswith(folder)
    assert kinds(served.hub) == []


def test_a_pinned_file_of_a_listed_snapshot_needs_no_head(served: ServedRepo, where: dict[str, Any]) -> None:
    commit = served.repo.head.id
    snapshot_download("org/tiny", revision=commit, allow_patterns="README.md", **where)
    served.hub.requests.clear()
    hf_hub_download("org/tiny", "config.json", revision=commit, **where)
    assert not [kind for kind in kinds(served.hub) if kind.startswith("HEAD")]


@pytest.mark.parametrize("way", ["cache", "local_dir"])
def test_one_file_that_fails_does_not_stop_the_others(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path, way: str
) -> None:
    served.hub.faults.add(Corrupt(3), path="config.json", times=None)
    served.hub.faults.add(Status(410), path="README.md", times=None)
    if way == "local_dir":
        where["local_dir"] = tmp_path / "local"
    with pytest.raises(OSError) as caught:
        snapshot_download("org/tiny", **where)
    notes = "\n".join(getattr(caught.value, "__notes__", []))
    both = f"{caught.value}\n{notes}"
    assert "config.json" in both
    assert "README.md" in both
    root = tmp_path / "local" if way == "local_dir" else next(
        (where["cache_dir"] / "models--org--tiny" / "snapshots").iterdir()
    )  # fmt: skip
    expected = {k: v for k, v in served.contents.items() if k not in {"config.json", "README.md"}}
    assert digests(root) == expected

    served.hub.faults.clear()
    snapshot_download("org/tiny", **where)
    assert digests(root) == served.contents


def test_a_damaged_byte_never_reaches_the_cache(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    served.hub.faults.add(Corrupt(1000), path="*00001*", times=None)
    with pytest.raises(IntegrityError, match="digest does not match"):
        hf_hub_download("org/tiny", "model-00001-of-00002.safetensors", **where)
    blobs = tmp_path / "cache" / "models--org--tiny" / "blobs"
    assert [p for p in blobs.iterdir() if "incomplete" not in p.name] == []


def test_a_busy_hub_is_asked_again_only_when_the_cache_does_not_help(
    served: ServedRepo, where: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(asking.time, "sleep", waits.append)
    served.hub.faults.add(Status(503), kind="info", times=2)
    folder = snapshot_download("org/tiny", **where)
    assert digests(folder) == served.contents
    assert waits == [1.0, 1.0]
    served.hub.requests.clear()
    served.hub.faults.add(Status(503), kind="info", times=None)
    assert snapshot_download("org/tiny", **where) == folder
    assert kinds(served.hub) == ["GET info"]
    assert waits == [1.0, 1.0]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_one_file_in_the_cache_is_no_snapshot_where_the_hub_is_only_busy(
    served: ServedRepo, where: dict[str, Any], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(asking.time, "sleep", lambda _: None)
    hf_hub_download("org/tiny", "config.json", **where)
    served.hub.faults.add(Status(status), kind="info", times=1)
    assert digests(snapshot_download("org/tiny", **where)) == served.contents


def test_what_is_in_the_cache_is_taken_where_the_hub_stays_busy(
    served: ServedRepo, where: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking.time, "sleep", lambda _: None)
    hf_hub_download("org/tiny", "config.json", **where)
    served.hub.faults.add(Status(503), kind="info", times=None)
    assert set(digests(snapshot_download("org/tiny", **where))) == {"config.json"}


def test_a_dry_run_tells_the_truth_and_writes_nothing(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    infos = snapshot_download("org/tiny", dry_run=True, **where)
    assert {(i.filename, i.file_size, i.is_cached, i.will_download) for i in infos} == {
        (path, (served.folder / path).stat().st_size, False, True) for path in served.contents
    }
    assert not (tmp_path / "cache").exists()
    assert "GET resolve" not in kinds(served.hub)
    folder = snapshot_download("org/tiny", allow_patterns="*.json", **where)
    infos = snapshot_download("org/tiny", dry_run=True, **where)
    assert {i.filename for i in infos if i.is_cached} == set(digests(folder))
    assert all(i.local_path == os.path.join(folder, *i.filename.split("/")) for i in infos)
    forced = snapshot_download("org/tiny", dry_run=True, force_download=True, **where)
    assert all(i.will_download for i in forced)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "config.json").write_text("mine")
    local = snapshot_download("org/tiny", dry_run=True, local_dir=tmp_path / "local", **where)
    assert isinstance(local[0], DryRunFileInfo)
    by_name = {i.filename: i for i in local}
    assert by_name["README.md"].will_download
    assert not by_name["README.md"].is_cached
    assert by_name["config.json"].is_cached
    assert sorted(p.name for p in (tmp_path / "local").iterdir()) == ["config.json"]


def test_two_names_for_one_content_are_one_blob_and_one_transfer(tmp_path: Path) -> None:
    data = random_bytes(300_000, "twin")
    repo = Repo("org/twins")
    repo.commit({"a.bin": data, "b/copy.bin": data, "c.txt": b"x", "d.txt": b"x"}, "first")
    with LocalHub(repo, lfs="direct") as hub, ParallelDownloadManager(settings=SETTINGS) as manager:
        where: dict[str, Any] = {"endpoint": hub.url, "token": False, "manager": manager}
        folder = snapshot_download("org/twins", cache_dir=tmp_path / "cache", **where)
        assert digests(folder)["a.bin"] == digests(folder)["b/copy.bin"]
        assert len(list((tmp_path / "cache" / "models--org--twins" / "blobs").iterdir())) == 2
        assert hub.requests.body_bytes < 2 * len(data)
        local = snapshot_download("org/twins", local_dir=tmp_path / "local", **where)
        assert digests(local) == digests(folder)


def test_no_file_is_written_where_one_name_would_leave_the_folder(
    where: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = metadata.ListedFile(1, "a" * 40)
    monkeypatch.setattr(
        repository.Repository,
        "list_files",
        lambda self, commit, **_: {"config.json": entry, "..\\evil": entry},
    )
    for place in ({}, {"local_dir": tmp_path / "local"}):
        with pytest.raises(UnsafePathError, match="evil"):
            snapshot_download("org/tiny", **where, **place)
    assert not (tmp_path / "local").exists() or not digests(tmp_path / "local")
    assert not list((tmp_path / "cache").rglob("snapshots"))
    with pytest.raises(ValueError, match="path segment"):
        hf_hub_download("org/tiny", "../evil", **where)


def test_listing_pages_are_asked_of_the_endpoint_even_if_links_lead_elsewhere(
    served: ServedRepo, where: dict[str, Any]
) -> None:
    served.hub.options.page_size = 5
    served.hub.options.link_origin = "http://elsewhere.invalid:1"
    try:
        folder = snapshot_download("org/tiny", **where)
    finally:
        served.hub.options.page_size = 1000
        served.hub.options.link_origin = None
    assert digests(folder) == served.contents
    assert kinds(served.hub).count("GET tree") > 3


def test_a_preset_leaves_files_out_and_says_so_in_a_dry_run(tmp_path: Path) -> None:
    repo = Repo("org/formats")
    files = {"config.json": b"{}", "model.safetensors": b"s", "pytorch_model.bin": b"p"}
    repo.commit(files, "first")
    with LocalHub(repo, lfs="direct") as hub:
        where: dict[str, Any] = {
            "endpoint": hub.url,
            "token": False,
            "cache_dir": tmp_path / "cache",
            "presets": "safetensors",
        }
        would = snapshot_download("org/formats", dry_run=True, **where)
        assert {i.filename for i in would} == {"config.json", "model.safetensors"}
        folder = snapshot_download("org/formats", **where)
        assert set(digests(folder)) == {"config.json", "model.safetensors"}
    where["presets"] = ["safetensors"]
    assert snapshot_download("org/formats", local_files_only=True, **where) == folder
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download("org/formats", local_files_only=True, **{**where, "presets": None})


# ---- refusals


def test_refusals_are_the_hubs_own_errors(tmp_path: Path, manager: ParallelDownloadManager) -> None:
    gated = Repo("org/gated", gated="manual")
    gated.commit({"a.txt": b"a", "b.txt": b"b"}, "first")
    private = Repo("org/private", private=True)
    private.commit({"a.txt": b"a"}, "first")
    account = Account("me", "hf_me", repos=("org/private",))
    with LocalHub(gated, private, accounts=[account], lfs="direct") as hub:
        where: dict[str, Any] = {
            "endpoint": hub.url,
            "cache_dir": tmp_path,
            "token": "hf_me",
            "manager": manager,
        }
        with pytest.raises(GatedRepoError):
            snapshot_download("org/gated", **where)
        with pytest.raises(GatedRepoError):
            hf_hub_download("org/gated", "a.txt", **where)
        with pytest.raises(RepositoryNotFoundError):
            snapshot_download("org/nothing", **where)
        with pytest.raises(RevisionNotFoundError):
            snapshot_download("org/private", revision="nope", **where)
        with pytest.raises(RemoteEntryNotFoundError):
            hf_hub_download("org/private", "nope", **where)
        with pytest.raises(RepositoryNotFoundError):
            snapshot_download("org/private", **{**where, "token": False})
        assert Path(hf_hub_download("org/private", "a.txt", **where)).read_bytes() == b"a"
        # What was fetched with a token is still there without one.
        assert hf_hub_download("org/private", "a.txt", **{**where, "token": False})


def test_the_token_goes_to_the_hub_and_not_to_its_storage(tmp_path: Path) -> None:
    repo = Repo("org/private", private=True)
    repo.commit({"a.bin": random_bytes(1000, 1), "b.txt": b"b"}, "first")
    account = Account("me", "hf_me", repos=("org/private",))
    with LocalHub(repo, accounts=[account], lfs="redirect", cdn_refuses_tokens=True) as hub:
        folder = snapshot_download("org/private", endpoint=hub.url, cache_dir=tmp_path, token="hf_me")
        assert set(digests(folder)) == {"a.bin", "b.txt"}
        assert {r.token for r in hub.requests if r.kind == "cdn"} == {None}
        assert {r.token for r in hub.requests if r.kind == "resolve"} == {"Bearer hf_me"}


# ---- what hf-haul adds


def test_progress_and_priority_reach_the_engine(served: ServedRepo, where: dict[str, Any]) -> None:
    seen: list[DownloadProgress] = []
    snapshot_download("org/tiny", progress_callback=seen.append, priority=DownloadPriority.HIGH, **where)
    last = {p.file_path: p for p in seen}
    assert set(last) == set(served.contents)
    assert all(p.status.value == "done" for p in last.values())


@pytest.mark.parametrize("extra", [{"max_bandwidth": "1MB/s"}, {"max_connections": 2}, {"verify": True}])
def test_settings_of_a_manager_of_ones_own_are_set_on_it(
    where: dict[str, Any], extra: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="on that manager"):
        snapshot_download("org/tiny", **where, **extra)


@pytest.mark.parametrize("extra", [{"max_workers": 0}, {"max_connections": 0}, {"max_bandwidth": 0}])
def test_a_limit_that_cannot_work_is_refused_before_anything_is_written(
    where: dict[str, Any], tmp_path: Path, extra: dict[str, Any]
) -> None:
    where["manager"] = None
    (name,) = extra
    with pytest.raises(ValueError, match=f"^{name} must be greater than 0"):
        snapshot_download("org/tiny", **where, **extra)
    assert not list(tmp_path.rglob("CACHEDIR.TAG"))
    assert not list(tmp_path.rglob("blobs"))


@pytest.mark.parametrize("revision", ["main", "commit"])
def test_a_name_with_a_dot_gives_the_path_that_upstream_gives(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path, revision: str
) -> None:
    where["revision"] = served.repo.head.id if revision == "commit" else revision
    for _ in range(2):
        path = hf_hub_download("org/tiny", "./config.json", local_dir=tmp_path / "out", **where)
        assert path == str(tmp_path / "out" / "config.json")
    del where["manager"]
    assert path == huggingface_hub.hf_hub_download(
        "org/tiny", "./config.json", local_dir=tmp_path / "out", **where
    )


def test_a_files_name_with_a_slash_behind_it_leaves_no_note(
    where: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("org/tiny", "config.json/", **where)
    assert not caplog.messages
    assert not list(tmp_path.glob("cache/*/.no_exist"))
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("org/tiny", "nothing.json", **where)
    assert list(tmp_path.glob("cache/*/.no_exist/*/nothing.json"))


def test_a_call_may_have_limits_of_its_own(served: ServedRepo, where: dict[str, Any]) -> None:
    where["manager"] = None
    served.hub.set_latency(0.01)
    try:
        folder = snapshot_download("org/tiny", max_connections=1, **where)
    finally:
        served.hub.set_latency(0)
    assert digests(folder) == served.contents
    assert served.hub.requests.peak("resolve") == 1


def test_a_bandwidth_limit_holds_for_its_call(served: ServedRepo, where: dict[str, Any]) -> None:
    where["manager"] = None
    begin = time.monotonic()
    name = "model-00001-of-00002.safetensors"
    hf_hub_download("org/tiny", name, max_bandwidth="500kB/s", **where)
    size = (served.folder / name).stat().st_size
    # A bucket's worth goes at once; the rest takes its time.
    assert time.monotonic() - begin > 0.2 * size / 500_000


class Bar:
    made: ClassVar[list[Bar]]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.total = options.get("total")
        self.n = options.get("initial", 0)
        self.closed = False
        type(self).made.append(self)

    def update(self, n: float) -> None:
        self.n += n

    def close(self) -> None:
        self.closed = True


def test_bars_of_any_class_know_the_total_from_the_start(served: ServedRepo, where: dict[str, Any]) -> None:
    class Mine(Bar):
        made: ClassVar[list[Bar]] = []

    snapshot_download("org/tiny", tqdm_class=Mine, **where)
    size = sum((served.folder / path).stat().st_size for path in served.contents)
    files, transferred = Mine.made
    assert files.options["desc"] == f"Fetching {len(served.contents)} files"
    assert files.n == files.total == len(served.contents)
    assert transferred.options["total"] == transferred.n == size
    assert transferred.options["unit"] == "B"
    assert files.closed
    assert transferred.closed
    Mine.made.clear()
    hf_hub_download("org/tiny", "vocab.txt", force_download=True, tqdm_class=Mine, **where)
    (bar,) = Mine.made
    assert bar.n == bar.total == (served.folder / "vocab.txt").stat().st_size


def test_a_bar_may_be_any_callable(where: dict[str, Any]) -> None:
    class Mine(Bar):
        made: ClassVar[list[Bar]] = []

    snapshot_download("org/tiny", tqdm_class=lambda **options: Mine(**options), **where)
    assert len(Mine.made) == 2


def test_a_bar_that_raises_ends_the_download(served: ServedRepo, where: dict[str, Any]) -> None:
    class StopHere(Exception):
        pass

    rule = served.hub.faults.add(Stall(100), path="*00002*", times=None)

    class Mine(Bar):
        made: ClassVar[list[Bar]] = []

        def update(self, n: float) -> None:
            rule.wait(10)  # so that there is something to end
            raise StopHere

    with pytest.raises(StopHere):
        snapshot_download("org/tiny", tqdm_class=Mine, **where)
    assert rule.hits >= 1


def test_a_bar_that_blocks_does_not_hold_the_download(served: ServedRepo, where: dict[str, Any]) -> None:
    release = threading.Event()

    class Mine(Bar):
        made: ClassVar[list[Bar]] = []

        def update(self, n: float) -> None:
            release.wait(60)

    try:
        folder = snapshot_download("org/tiny", tqdm_class=Mine, **where)
        assert digests(folder) == served.contents
    finally:
        release.set()


def test_a_resolved_revision_needs_no_request_about_itself_and_leaves_refs_alone(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    revision = ResolvedRevision(resolved=served.repo.head.id, initial="main")
    snapshot_download("org/tiny", revision=revision, **where)
    assert "GET info" not in kinds(served.hub)
    assert not (tmp_path / "cache" / "models--org--tiny" / "refs").exists()


# ---- interrupts

PROGRAM = """
import sys
from hf_haul.hub.snapshot import snapshot_download
print("ready", flush=True)
try:
    snapshot_download("org/tiny", token=False)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise SystemExit(130)
print("done", flush=True)
"""


def missing_of(served: ServedRepo, blobs: Path) -> dict[str, tuple[ByteRange, ...]]:
    """What a download would still have to fetch of each large file."""
    left = scan_orphans(blobs)
    return {
        path: find_resumable(left.get(digest, ()), [digest], (served.folder / path).stat().st_size).missing
        for path, digest in served.contents.items()
        if path.endswith(".safetensors")
    }


def asked_for(record: RequestRecord) -> ByteRange:
    first, last = record.range.removeprefix("bytes=").split("-") if record.range else (0, record.length - 1)
    return ByteRange(int(first), int(last) + 1)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_ends_within_two_seconds_and_the_next_call_goes_on(tmp_path: Path) -> None:
    blobs = tmp_path / "home" / "hub" / "models--org--tiny" / "blobs"
    with serve_repo(tmp_path / "source", shard_bytes=8 << 20, lfs="direct") as served:
        served.hub.set_pace(None, total=2 << 20)
        size = sum((served.folder / path).stat().st_size for path in served.contents)
        environment = hub_environment(served.hub, tmp_path / "home")
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            # What was sent may not have come: the kernel takes megabytes of each body before the other end reads.
            assert served.hub.requests.wait_for(
                lambda _: sum(map(len, chain(*missing_of(served, blobs).values()))) < size - (2 << 20), 30
            )
            begin = time.monotonic()
            child.send_signal(signal.SIGINT)
            assert child.stdout is not None
            out = child.stdout.readline() + child.stdout.readline()  # its second comes when all is over
            took = time.monotonic() - begin
            child.communicate(timeout=20)  # the interpreter's own end takes its time on a busy machine
        finally:
            child.kill()
        assert child.returncode == 130
        assert out == "ready\ninterrupted\n"
        assert took < 2.0
        missing = missing_of(served, blobs)
        assert sum(map(len, chain(*missing.values()))) < size - (1 << 20)

        served.hub.set_pace(None)
        served.hub.requests.clear()
        again = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "done" in again.stdout
        asked = {
            path: [asked_for(record) for record in served.hub.requests.of("resolve", path, "GET")]
            for path in missing
        }
        assert any(asked.values())
        for path, spans in asked.items():
            for span in spans:
                assert any(run.start <= span.start and span.stop <= run.stop for run in missing[path]), path
        assert not leftovers(tmp_path / "home")


class Watched(ParallelDownloadManager):
    """A manager that keeps its handles."""

    def submit(self, *args: Any, **options: Any) -> DownloadHandle:
        self.handle = super().submit(*args, **options)
        return self.handle


def test_a_file_too_big_for_one_request_upstream_is_planned_as_ranges(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    make_sparse_file(folder / "huge.safetensors", 60 << 30)
    repo = Repo.from_folder(folder, "org/huge", sha256={"huge.safetensors": "f" * 64})
    settings = Settings(disk_check="off", max_concurrent_downloads=4)
    failure: list[BaseException] = []
    with LocalHub(repo, lfs="direct") as hub, Watched(settings=settings) as manager:
        # Every body stalls: what matters is what is asked for, not to move 60 GB.
        hub.faults.add(Stall(0), kind="resolve", times=None)

        def run() -> None:
            try:
                snapshot_download(
                    "org/huge", endpoint=hub.url, token=False, cache_dir=tmp_path, manager=manager
                )
            except DownloadCancelledError as error:
                failure.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert hub.requests.wait_for(lambda log: len(log.of("resolve")) >= 4, 30)
        finally:
            manager.handle.cancel()
            thread.join(10)
        assert len(failure) == 1
        ranges = [record.range for record in hub.requests.of("resolve")]
        assert all(asked and asked.startswith("bytes=") for asked in ranges)
        assert len(set(ranges)) == len(ranges)


def test_a_listing_with_a_name_that_leads_out_is_not_even_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_haul.hub import repository

    real = repository.Repository.list_files

    def with_a_trap(self: repository.Repository, *args: Any, **more: Any) -> dict[str, Any]:
        listing = dict(real(self, *args, **more))
        return {**listing, "../../trap": next(iter(listing.values()))}

    monkeypatch.setattr(repository.Repository, "list_files", with_a_trap)
    with serve_repo(tmp_path / "src") as served:
        cache = tmp_path / "cache"
        with pytest.raises(ValueError, match=r"cannot contain a '\.\.' path segment"):
            snapshot_download("org/tiny", endpoint=served.hub.url, cache_dir=cache)
        assert not cache.exists() or not [path for path in cache.rglob("*") if path.is_file()]
        found = snapshot_download(
            "org/tiny", endpoint=served.hub.url, cache_dir=cache, allow_patterns="config.json", revision=""
        )
        assert [path.name for path in Path(found).iterdir()] == ["config.json"]


class TestNotesOfARepository:
    """A repository that lists files where a ``local_dir`` keeps its own metadata."""

    NOTE = ".cache/huggingface/download/config.json.metadata"
    FILES: ClassVar[dict[str, bytes]] = {
        "config.json": b"{}",
        NOTE: b"forged",
        ".Cache/HuggingFace./x": b"forged, too",
    }

    @pytest.fixture
    def where(self, tmp_path: Path, manager: ParallelDownloadManager) -> Iterator[dict[str, Any]]:
        repo = Repo("org/forger")
        repo.commit(self.FILES, "first")
        with LocalHub(repo, lfs="direct") as hub:
            yield {"endpoint": hub.url, "cache_dir": tmp_path / "cache", "token": False, "manager": manager}

    def test_a_snapshot_leaves_them_out_and_says_so(
        self, where: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        local = tmp_path / "local"
        would = snapshot_download("org/forger", local_dir=local, dry_run=True, **where)
        assert [info.filename for info in would] == ["config.json"]
        for _ in range(2):
            snapshot_download("org/forger", local_dir=local, **where)
            assert self.NOTE in caplog.text
            assert "Left out" in caplog.text
            caplog.clear()
        files = {
            p.relative_to(local).as_posix()
            for p in local.rglob("*")
            if p.is_file() and b"forged" in p.read_bytes()
        }
        assert files == set()
        assert (local / "config.json").read_bytes() == b"{}"
        assert not (local / ".Cache").exists()
        assert snapshot_download("org/forger", local_dir=local, local_files_only=True, **where) == str(local)
        found = huggingface_hub.snapshot_download(
            "org/forger", local_dir=local, local_files_only=True, cache_dir=where["cache_dir"]
        )
        assert found == str(local)

    def test_one_of_them_is_refused(self, where: dict[str, Any], tmp_path: Path) -> None:
        for more in ({}, {"dry_run": True}, {"local_files_only": True}):
            with pytest.raises(UnsafePathError, match="own metadata"):
                hf_hub_download("org/forger", self.NOTE, local_dir=tmp_path / "local", **more, **where)
        assert not (tmp_path / "local").exists()

    def test_the_cache_takes_them_as_any_others(self, where: dict[str, Any]) -> None:
        folder = Path(snapshot_download("org/forger", **where))
        assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(self.FILES)
        path = hf_hub_download("org/forger", self.NOTE, **where)
        assert Path(path).read_bytes() == b"forged"


@pytest.mark.skipif(os.name == "nt", reason="such names are too long there at other lengths")
def test_a_note_that_cannot_be_written_costs_no_second_download(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    local = tmp_path / "local"
    (local / ".cache/huggingface/download/config.json.metadata").mkdir(parents=True)
    path = hf_hub_download("org/tiny", "config.json", local_dir=local, **where)
    assert Path(path).read_bytes() == (served.folder / "config.json").read_bytes()
    assert len([record for record in served.hub.requests if record.method == "GET"]) == 1
    assert "may be fetched again" in caplog.text


def test_where_a_file_stands_for_a_folder_nothing_is_fetched_and_nothing_left(
    where: dict[str, Any], tmp_path: Path
) -> None:
    repo = Repo("org/folders")
    repo.commit({"a.txt": b"a", "data/inner.bin": b"b" * 1000}, "first")
    local = tmp_path / "local"
    local.mkdir()
    (local / "data").write_bytes(b"mine")
    with LocalHub(repo, lfs="direct") as hub:
        with pytest.raises(FileExistsError, match="data"):
            snapshot_download("org/folders", local_dir=local, **{**where, "endpoint": hub.url})
        assert not [record for record in hub.requests if record.path == "data/inner.bin"]
    assert (local / "data").read_bytes() == b"mine"
    assert (local / "a.txt").read_bytes() == b"a"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("way", ["snapshot", "file", "pinned snapshot", "pinned file"])
@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors"])
def test_a_file_of_the_cache_whose_size_is_not_the_listed_one_is_fetched_again(
    served: ServedRepo, where: dict[str, Any], way: str, name: str
) -> None:
    folder = Path(snapshot_download("org/tiny", **where))
    blob = (folder / name).resolve()
    os.truncate(blob, blob.stat().st_size // 2)
    served.hub.requests.clear()
    revision = served.repo.head.id if "pinned" in way else None
    if "snapshot" in way:
        would = snapshot_download("org/tiny", revision=revision, dry_run=True, **where)
        assert [info.filename for info in would if info.will_download] == [name]
        assert snapshot_download("org/tiny", revision=revision, **where) == str(folder)
    else:
        assert hf_hub_download("org/tiny", name, revision=revision, **where) == str(folder / name)
    assert digests(folder) == served.contents
    assert served.hub.requests.settle()
    bodies = {record.path for record in served.hub.requests if record.method == "GET" and record.body_bytes}
    assert name in bodies
    assert not {path for path in bodies if path and path != name and path in served.contents}
    served.hub.requests.clear()
    assert hf_hub_download("org/tiny", name, revision=served.repo.head.id, **where) == str(folder / name)
    assert kinds(served.hub) == []


def test_a_note_of_the_same_commit_and_another_etag_is_believed_only_with_the_bytes(
    served: ServedRepo, where: dict[str, Any], tmp_path: Path
) -> None:
    """Mirrors call a file otherwise than the Hub; and what calls itself the same commit need not be of one repository."""
    local = tmp_path / "local"
    name = "model-00001-of-00002.safetensors"
    snapshot_download("org/tiny", local_dir=local, **where)
    note = local / ".cache/huggingface/download" / f"{name}.metadata"
    commit, etag, at, _repo = note.read_text().splitlines()
    note.write_text(f"{commit}\nanother\n{at}\n")
    served.hub.requests.clear()
    snapshot_download("org/tiny", local_dir=local, **where)
    assert kinds(served.hub) == ["GET info"], "its bytes are right"
    assert note.read_text().splitlines()[:2] == [commit, etag]
    (local / name).write_bytes(bytes((local / name).stat().st_size))
    note.write_text(f"{commit}\nanother\n{time.time() + 60}\n")
    snapshot_download("org/tiny", local_dir=local, **where)
    assert digests(local) == served.contents


def test_each_file_that_the_hub_refuses_is_told_in_its_own_words(
    served: ServedRepo, where: dict[str, Any]
) -> None:
    for name in ("config.json", "README.md", "vocab.txt"):
        served.hub.faults.add(Status(404, headers={"X-Error-Code": "EntryNotFound"}), path=name, times=None)
    with pytest.raises(RemoteEntryNotFoundError) as caught:
        snapshot_download("org/tiny", **where)
    notes = getattr(caught.value, "__notes__", [])
    assert len(notes) == 2
    told = [str(caught.value), *notes]
    for name in ("config.json", "README.md", "vocab.txt"):
        assert sum(name in text for text in told) == 1, told


@pytest.mark.parametrize("patterns", [[], "", ["no such file"]])
def test_what_matched_nothing_is_named_even_if_it_is_empty(
    where: dict[str, Any], caplog: pytest.LogCaptureFixture, patterns: Any
) -> None:
    snapshot_download("org/tiny", allow_patterns=patterns, **where)
    assert f"No files matched allow_patterns={patterns!r}." in caplog.text
