"""The manager's face: what it refuses at the call, what its ids lead to, and what it forwards. Nothing is fetched."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_haul import manager as module
from hf_haul.config import Settings
from hf_haul.errors import DiskFullError, UnsafePathError
from hf_haul.limiter import BandwidthLimiter
from hf_haul.manager import ParallelDownloadManager, default_manager
from hf_haul.storage.destinations import FileDestination
from hf_haul.task import Digest, DownloadPriority, DownloadState, FileRequest, RemoteFile
from hf_haul.urls import redact

SHA256 = "ab" * 32
SHA1 = "cd" * 20
URL = "https://hub.test/org/m/resolve/main"


@dataclass
class Spec:
    path: str
    size: Any = 10
    more: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["more"][name]
        except KeyError:
            raise AttributeError(name) from None


@pytest.fixture
def manager() -> Iterator[ParallelDownloadManager]:
    """Paused from the start, so that no connection is ever made."""
    made = ParallelDownloadManager(settings=Settings())
    made.pause_downloads()
    yield made
    made.shutdown(wait=False)


def only_request(manager: ParallelDownloadManager) -> FileRequest:
    (run,) = manager._engine.runs()
    (file,) = run.planned
    return file.request


# ---- settings


NAMES = [
    "max_concurrent_downloads", "max_concurrent_files_per_model", "max_bandwidth_bps", "connection_pool_size", "chunk_size",
    "queue_timeout",
]  # fmt: skip


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", NAMES)
def test_a_limit_of_zero_or_less_is_refused_by_name_and_value(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        ParallelDownloadManager(**{name: value})


@pytest.mark.parametrize("rate", ["fast", "50 apples/s", "-3MB/s", float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        ParallelDownloadManager(max_bandwidth_bps=rate)


def test_the_nine_arguments_keep_their_order_and_reach_the_settings() -> None:
    given = (7, 5, 1_000_000, 6, 65536, False, False, True, 9.0)
    with ParallelDownloadManager(*given) as manager:
        settings = manager.settings
    assert given == (
        settings.max_concurrent_downloads, settings.max_concurrent_files_per_model, settings.max_bandwidth_bps,
        settings.connection_pool_size, settings.chunk_size, settings.enable_resume, settings.enable_adaptive_chunking,
        settings.enable_compression, settings.queue_timeout,
    )  # fmt: skip


def test_arguments_beat_settings_and_settings_beat_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HAUL_CHUNK_SIZE", "32KiB")
    monkeypatch.setenv("HF_HAUL_MAX_CONCURRENT_DOWNLOADS", "3")
    with ParallelDownloadManager(max_concurrent_downloads=2) as manager:
        assert (manager.settings.max_concurrent_downloads, manager.settings.chunk_size) == (2, 32 << 10)
    with ParallelDownloadManager(chunk_size=4096, settings=Settings(part_size=77)) as manager:
        assert (manager.settings.chunk_size, manager.settings.part_size) == (4096, 77)
        assert manager.settings.max_concurrent_downloads == 64


def test_a_bandwidth_limit_can_be_written_and_changed_as_text(manager: ParallelDownloadManager) -> None:
    manager.max_bandwidth_bps = "50MB/s"
    assert manager.max_bandwidth_bps == 50_000_000
    assert manager.get_download_stats()["max_bandwidth_bps"] == 50_000_000
    manager.max_bandwidth_bps = None
    assert manager.max_bandwidth_bps is None
    with pytest.raises(ValueError, match="-1"):
        manager.max_bandwidth_bps = -1


def test_a_limiter_can_be_shared() -> None:
    shared = BandwidthLimiter(1000)
    with ParallelDownloadManager(limiter=shared) as one, ParallelDownloadManager(limiter=shared) as two:
        one.max_bandwidth_bps = 2000
        assert two.max_bandwidth_bps == 2000


# ---- bad input


@pytest.mark.parametrize(
    ("specs", "match"),
    [
        pytest.param([], "empty", id="no files"),
        pytest.param([Spec("a"), Spec("b"), Spec("a")], "'a' is given twice", id="a path twice"),
        pytest.param([Spec("a/b"), Spec("a//b")], "given twice", id="a path twice, written differently"),
        pytest.param([Spec("./a"), Spec("a")], "given twice", id="a path twice, with a dot"),
        pytest.param([Spec("a"), Spec("a/b")], "'a' cannot be a file and the folder of 'a/b'", id="nested"),
        pytest.param([Spec("a/b/c"), Spec("a")], "'a' cannot be a file", id="nested, the other way"),
        pytest.param([Spec("../a")], r"\.\./a", id="above the folder"),
        pytest.param([Spec("a/../../b")], r"a/\.\./\.\./b", id="above the folder, later"),
        pytest.param([Spec("/etc/passwd")], "/etc/passwd", id="absolute"),
        pytest.param([Spec("C:\\boot.ini")], "boot.ini", id="on a drive"),
        pytest.param([Spec("C:boot.ini")], "boot.ini", id="relative to a drive"),
        pytest.param([Spec("\\\\server\\share\\a")], "share", id="on a share"),
        pytest.param([Spec("..\\a")], "a", id="above the folder, with backslashes"),
        pytest.param([Spec("")], "''", id="no name"),
        pytest.param([Spec(".")], "'.'", id="the folder itself"),
        pytest.param([Spec("a\0b")], "a", id="a NUL"),
        pytest.param([Spec("a", -1)], "-1", id="a negative size"),
        pytest.param([Spec("a", 1.5)], "1.5", id="a broken size"),
        pytest.param([Spec("a", "12")], "'12'", id="a size in words"),
        pytest.param([Spec("a", 1, {"digest": "abc"})], "abc", id="a short digest"),
        pytest.param([Spec("a", 1, {"sha256": "z" * 64})], "zzz", id="a digest not in hex"),
        pytest.param([Spec("a", 1, {"url": "ftp://hub.test/a"})], "ftp://hub.test/a", id="a URL of another scheme"),
        pytest.param([Spec("a", 1, {"priority": 7})], "7", id="an unknown priority"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_at_the_call_and_leave_nothing(
    manager: ParallelDownloadManager, tmp_path: Path, specs: list[Spec], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        manager.queue_model_download("org/m", specs, URL, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert manager.get_download_stats()["queues"] == 0


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hub.test/x", "file:///etc/passwd", "hub.test/x", "", "https://", "https:///x", "//hub.test/x",
        "http://hub.test:99999/x", "http://hub.test:port/x", "http://[::1/x", "hf://org/m",
    ],
)  # fmt: skip
def test_an_unsupported_url_is_refused_at_the_call(
    manager: ParallelDownloadManager, tmp_path: Path, url: str
) -> None:
    for ask in (
        lambda: manager.queue_model_download("org/m", [Spec("a")], url, tmp_path / "out"),
        lambda: manager.add_download_task("org/m", "a", url, tmp_path / "out" / "a"),
        lambda: manager.submit(
            [FileRequest(RemoteFile("a", url, 1), FileDestination(tmp_path / "a"))], model_id="m"
        ),
    ):
        with pytest.raises(ValueError, match="not an http") as caught:
            ask()
        assert repr(redact(url)) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_message_about_a_url_holds_no_secret(manager: ParallelDownloadManager, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hub\.test/x") as caught:
        manager.add_download_task("m", "a", "ftp://user:hunter2@hub.test/x?sig=secret", tmp_path / "a")
    assert "hunter2" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_unwritable_folder_is_told_at_the_call(manager: ParallelDownloadManager, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            manager.queue_model_download("org/m", [Spec("a")], URL, folder)
        with pytest.raises(OSError, match="file"):
            manager.add_download_task("org/m", "a", f"{URL}/a", folder / "a")


def test_a_folder_without_permission_is_told_at_the_call(
    manager: ParallelDownloadManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="out"):
        manager.queue_model_download("org/m", [Spec("a")], URL, tmp_path / "out")


def test_a_folder_in_the_files_place_is_told_at_the_call(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError, match="a"):
        manager.queue_model_download("org/m", [Spec("a")], URL, tmp_path)
    with pytest.raises(IsADirectoryError, match="a"):
        manager.add_download_task("org/m", "a", f"{URL}/a", tmp_path / "a")
    with pytest.raises(IsADirectoryError):
        manager.add_download_task("org/m", "a", f"{URL}/a", "")


def test_a_queue_that_will_not_fit_is_refused_before_anything_is_made(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    with pytest.raises(DiskFullError, match="free"):
        manager.queue_model_download("org/m", [Spec("a", 1 << 60)], URL, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_staged_of_a_waiting_download_is_not_counted_against_another(
    manager: ParallelDownloadManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, rest = 16 << 20, 1 << 20
    first = manager.add_download_task("org/m", "a", f"{URL}/a", tmp_path / "a", size)
    (request,) = manager._engine.unsettled()
    staged = tmp_path / f"{request.destination.staging_key}.seq.incomplete"
    staged.write_bytes(b"x" * (size - rest))
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: disk._replace(free=size + rest))
    second = manager.add_download_task("org/m", "b", f"{URL}/b", tmp_path / "b", size)
    assert second != first
    with pytest.raises(DiskFullError, match=f"1 bytes are to be fetched, and {size + rest} bytes of running"):
        manager.add_download_task("org/m", "c", f"{URL}/c", tmp_path / "c", 1)


def test_an_unknown_priority_is_refused(manager: ParallelDownloadManager, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="9"):
        manager.queue_model_download("org/m", [Spec("a")], URL, tmp_path / "out", priority=9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0"):
        manager.add_download_task("org/m", "a", f"{URL}/a", tmp_path / "a", priority=0)  # type: ignore[arg-type]


def test_an_unsafe_path_is_an_error_of_its_own(manager: ParallelDownloadManager, tmp_path: Path) -> None:
    with pytest.raises(UnsafePathError):
        manager.queue_model_download("org/m", [Spec("../a")], URL, tmp_path)


# ---- unknown ids


@pytest.mark.parametrize("unknown", ["queue-0", "", None, 7, [], object()], ids=repr)
def test_unknown_ids_give_none_or_false(manager: ParallelDownloadManager, unknown: Any) -> None:
    assert manager.get_model_queue_status(unknown) is None
    assert manager.cancel_model_download(unknown) is False
    if unknown is not None:  # which stands for all
        assert manager.pause_downloads(unknown) is False
        assert manager.resume_downloads(unknown) is False
    result = manager.wait_for_model_completion(unknown, 0)
    assert result["success"] is False
    assert result["queue_id"] is unknown
    assert "unknown" in result["error"]


# ---- what is asked for


@pytest.mark.parametrize(
    ("base", "path", "url"),
    [
        pytest.param(URL, "a.bin", f"{URL}/a.bin", id="plain"),
        pytest.param(URL + "/", "a/b c#1?.bin", f"{URL}/a/b%20c%231%3F.bin", id="quoted"),
        pytest.param("https://x.test/d?sig=1&se=2", "a", "https://x.test/d/a?sig=1&se=2", id="query kept"),
        pytest.param("http://x.test", "a", "http://x.test/a", id="no path"),
        pytest.param("http://x.test/d#frag", "ü", "http://x.test/d/%C3%BC", id="no fragment"),
    ],
)
def test_a_files_url_is_made_of_the_queues(
    manager: ParallelDownloadManager, tmp_path: Path, base: str, path: str, url: str
) -> None:
    manager.queue_model_download("org/m", [Spec(path)], base, tmp_path)
    request = only_request(manager)
    assert request.remote.url == url
    assert request.destination.path == tmp_path / path


@pytest.mark.parametrize(
    ("more", "digest"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"digest": Digest("sha256", SHA256)}, Digest("sha256", SHA256), id="a digest"),
        pytest.param({"digest": SHA256.upper()}, Digest("sha256", SHA256), id="hex digits"),
        pytest.param({"digest": f"sha256:{SHA256}"}, Digest("sha256", SHA256), id="named"),
        pytest.param({"sha256": SHA256}, Digest("sha256", SHA256), id="sha256"),
        pytest.param({"blob_id": SHA1}, Digest("git-sha1", SHA1), id="git object"),
        pytest.param({"blob_id": SHA1, "lfs": None}, Digest("git-sha1", SHA1), id="as a git file of the Hub"),
        pytest.param(
            {"blob_id": SHA1, "lfs": SimpleNamespace(sha256=SHA256)}, Digest("sha256", SHA256),
            id="as an LFS file of the Hub",
        ),
    ],
)  # fmt: skip
def test_a_files_digest_is_found_where_listings_put_it(
    manager: ParallelDownloadManager, tmp_path: Path, more: dict[str, Any], digest: Digest | None
) -> None:
    manager.queue_model_download("org/m", [Spec("a", 10, more)], URL, tmp_path)
    assert only_request(manager).remote.digest == digest


def test_a_file_may_have_an_url_an_etag_and_a_priority_of_its_own(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    more = {"url": "http://mirror.test/x", "etag": "v1", "priority": DownloadPriority.LOW}
    manager.queue_model_download("org/m", [Spec("a", None, more)], URL, tmp_path)
    request = only_request(manager)
    assert (request.remote.url, request.remote.etag) == ("http://mirror.test/x", "v1")
    assert request.priority is DownloadPriority.LOW
    assert request.remote.size is None


def test_headers_of_the_manager_go_with_every_file_and_are_not_shown(tmp_path: Path) -> None:
    manager = ParallelDownloadManager(headers={"Authorization": "Bearer hf_secret"})
    manager.pause_downloads()
    try:
        manager.add_download_task("m", "a", f"{URL}/a", tmp_path / "a", 1)
        request = only_request(manager)
        assert request.remote.headers == {"Authorization": "Bearer hf_secret"}
        assert "hf_secret" not in repr(request)
    finally:
        manager.shutdown(wait=False)


def test_relative_paths_are_meant_as_of_the_call(
    manager: ParallelDownloadManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager.add_download_task("m", "a", f"{URL}/a", "sub/a", 1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert only_request(manager).destination.path == tmp_path / "sub" / "a"


def test_ids_are_unique_and_a_task_is_known_by_its_own(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    tasks = [manager.add_download_task("m", f"{i}", f"{URL}/{i}", tmp_path / f"{i}", 1) for i in range(50)]
    queues = [
        manager.queue_model_download("m", [Spec(f"q{i}"), Spec(f"r{i}")], URL, tmp_path) for i in range(50)
    ]
    assert len({*tasks, *queues}) == 100
    for i, each in enumerate(tasks):
        status = manager.get_model_queue_status(each)
        assert status is not None
        assert status["total_tasks"] == 1
        assert status["total_bytes"] == 1
        assert status["state"] == "paused"
        assert manager.pause_downloads(each)
        assert manager.resume_downloads(each)
        if i % 2:
            assert manager.cancel_model_download(each)
            assert not manager.cancel_model_download(each)
            assert manager.wait_for_model_completion(each, 5)["state"] == "cancelled"
        else:
            assert manager.wait_for_model_completion(each, 0)["timed_out"]


def test_the_priority_of_a_task_is_its_queues_too(manager: ParallelDownloadManager, tmp_path: Path) -> None:
    task = manager.add_download_task("m", "a", f"{URL}/a", tmp_path / "a", 1, DownloadPriority.HIGH)
    status = manager.get_model_queue_status(task)
    assert status is not None
    assert status["priority"] == "HIGH"
    assert only_request(manager).priority is DownloadPriority.HIGH


def test_finished_results_are_kept_up_to_a_bound(
    manager: ParallelDownloadManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_haul.engine.results._MOST_UNTOLD", 3)
    tasks = []
    for i in range(5):
        tasks.append(manager.add_download_task("m", f"{i}", f"{URL}/{i}", tmp_path / f"{i}", 1))
        assert manager.cancel_model_download(tasks[-1])
    known = [manager.get_model_queue_status(each) is not None for each in tasks]
    assert known == [False, False, True, True, True]
    assert manager.wait_for_model_completion(tasks[-1])["state"] == "cancelled"
    assert manager.wait_for_model_completion(tasks[-1])["state"] == "cancelled"


def test_a_wait_without_patience_tells_and_leaves_it_running(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    queue = manager.queue_model_download("m", [Spec("a")], URL, tmp_path)
    result = manager.wait_for_model_completion(queue, 0.01)
    assert (result["success"], result["timed_out"], result["state"]) == (False, True, "paused")
    assert manager.get_download_stats()["queues"] == 1


def test_waiting_costs_no_polling(
    manager: ParallelDownloadManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = manager.submit(
        [FileRequest(RemoteFile("a", f"{URL}/a", 1), FileDestination(tmp_path / "a"))], model_id="m"
    )
    waits: list[float | None] = []
    real = threading.Event.wait

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        if self is handle._outcome.done:
            waits.append(timeout)
        return real(self, timeout)

    monkeypatch.setattr(threading.Event, "wait", wait)
    waiter = threading.Thread(target=handle.wait)
    waiter.start()
    handle.cancel()
    waiter.join(10)
    assert not waiter.is_alive()
    assert waits == [None]


def test_a_queue_tells_its_priority_and_can_be_moved(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    handle = manager.submit(
        [FileRequest(RemoteFile("a", f"{URL}/a", 1), FileDestination(tmp_path / "a"))], model_id="m"
    )
    handle.set_priority(DownloadPriority.HIGH)
    status = manager.get_model_queue_status(handle.queue_id)
    assert status is not None
    assert status["priority"] == "HIGH"
    with pytest.raises(ValueError, match="5"):
        handle.set_priority(5)  # type: ignore[arg-type]


def test_a_cancel_that_comes_too_late_changes_nothing(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    handle = manager.submit([], model_id="m")
    assert handle.wait(0)
    assert not handle.cancel()
    assert handle.state is DownloadState.DONE
    assert manager.wait_for_model_completion(handle.queue_id)["success"]


def test_the_default_manager_is_one_until_it_is_shut_down() -> None:
    first = default_manager()
    try:
        assert default_manager() is first
    finally:
        first.shutdown()
    second = default_manager()
    try:
        assert second is not first
    finally:
        second.shutdown()


@pytest.mark.parametrize("files", [1, 2000])
def test_queueing_looks_at_each_folder_once(
    manager: ParallelDownloadManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    made: list[Path] = []
    real = module.require_writable
    monkeypatch.setattr(module, "require_writable", lambda folder: (made.append(folder), real(folder)))
    manager.queue_model_download("m", [Spec(f"{i % 3}/{i}") for i in range(files)], URL, tmp_path)
    assert len(made) == min(files, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param(
            {"max_concurrent_downloads": "8"},
            "max_concurrent_downloads must be a whole number, not '8'",
            id="a text for a number",
        ),
        pytest.param({"chunk_size": 1.5}, "chunk_size must be a whole number, not 1.5", id="half a byte"),
        pytest.param({"queue_timeout": "1h"}, "queue_timeout must be a number or None, not '1h'", id="seconds"),
        pytest.param({"enable_resume": "no"}, "enable_resume must be True or False, not 'no'", id="a switch"),
        pytest.param(
            {"max_bandwidth_bps": b"1"},
            "not a rate for max_bandwidth_bps: b'1'; write a number of bytes per second, or for instance '50MB/s'",
            id="a rate",
        ),
    ],
)  # fmt: skip
def test_an_argument_of_the_wrong_type_is_named_with_what_is_expected(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(TypeError) as caught:
        ParallelDownloadManager(**given)
    assert str(caught.value) == said


def test_links_to_one_object_share_what_is_staged_and_others_do_not(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    def place(query: str, **more: Any) -> Any:
        known = {"size": 10, "digest": None, "etag": None, "priority": None, **more}
        return manager._request("a.bin", f"{URL}/a.bin{query}", tmp_path / "a.bin", **known).destination

    links = [place(f"?v=1&X-Amz-Date={n}&X-Amz-Signature={n}") for n in (1, 2)]
    assert len({each.staging_key for each in links}) == 1
    assert links[0].staging_key == place("?v=1").staging_key != place("?v=2").staging_key
    assert links[0].former_keys != links[1].former_keys
    assert place("?v=1").former_keys == ()
    assert place("?X-Amz-Signature=1", etag="e").former_keys == ()


# ---- what it says of itself


def test_a_manager_says_what_it_is_at(manager: ParallelDownloadManager, tmp_path: Path) -> None:
    assert repr(manager) == (
        "<ParallelDownloadManager: queues 0, active 0, waiting 0, done 0, failed 0, connections 0, speed 0 bytes/s, "
        "limit none, paused>"
    )
    manager.queue_model_download("m", ["a", "b"], URL, tmp_path)
    manager.max_bandwidth_bps = "50MB/s"
    assert "queues 1, active 0, waiting 2" in repr(manager)
    assert "limit 50 MB/s, paused" in repr(manager)
    manager.shutdown(wait=False)
    assert repr(manager) == "<ParallelDownloadManager: shut down>"


def test_statistics_have_the_names_that_others_look_for(
    manager: ParallelDownloadManager, tmp_path: Path
) -> None:
    manager.queue_model_download("m", ["a", "b"], URL, tmp_path)
    stats = manager.get_download_stats()
    counts = {name: stats[f"{name}_downloads"] for name in ("active", "queued", "completed", "failed")}
    assert counts == {"active": 0, "queued": 2, "completed": 0, "failed": 0}
    assert (stats["total_bytes_downloaded"], stats["average_speed_bps"], stats["bytes_wasted"]) == (0, 0.0, 0)
    assert 0 < stats["uptime_seconds"] < 60
    assert stats["connection_pool"] == stats["pool"]
    assert stats["connection_pool"]["open_connections"] == 0
    json.dumps(stats)
