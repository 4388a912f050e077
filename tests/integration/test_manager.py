"""The manager as it was asked for, end to end: results, settings that do what they say, and what it refuses."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.engine import PART, SMALL, TOKEN, WEIGHTS, Rig, leftovers, serve_files
from tests.support.repos import random_bytes
from tests.support.waits import SECOND, until

from hf_haul.cancellation import CancelToken
from hf_haul.config import KiB, Settings
from hf_haul.errors import RetriesExhaustedError, SourceChangedError
from hf_haul.limiter import BandwidthLimiter
from hf_haul.localhub.requestlog import RequestRecord
from hf_haul.localhub.testing.faults import GzipBody, Reset, Status, WrongTotal
from hf_haul.manager import ParallelDownloadManager
from hf_haul.ranges import ByteRange
from hf_haul.task import DownloadState, RemoteFile
from hf_haul.transports.http import HttpBody, HttpSource

SIZE = 400 * KiB
TEXT = b'{"vocabulary": "' + b"word " * 20_000 + b'"}'
TEXT_FILE = "tokenizer.json"

#: Of ``wait_for_model_completion``: what was asked for, and what we add.
ASKED = {
    "success", "queue_id", "completed_tasks", "failed_tasks", "total_tasks", "total_bytes", "bytes_downloaded",
    "duration_seconds", "average_speed_bps", "peak_speed_bps", "completion_rate", "concurrent_downloads", "retry_count",
    "bandwidth_limited_time", "failed_files",
}  # fmt: skip


@dataclass
class Spec:
    path: str
    size: int | None = None
    digest: str | None = None


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with serve_files(tmp_path / "out", more={TEXT_FILE: TEXT}, lfs="direct", git_files="direct") as made:
        made.folder.mkdir()
        yield made
        made.hub.requests.settle(2)


def specs(rig: Rig, *paths: str, digests: bool = True) -> list[Spec]:
    return [
        Spec(p, len(rig.files[p]), hashlib.sha256(rig.files[p]).hexdigest() if digests else None)
        for p in paths
    ]


def base(rig: Rig) -> str:
    return rig.url("").rstrip("/")


# ---- results


def test_the_result_of_a_download_has_every_key_and_true_values(rig: Rig) -> None:
    rig.hub.set_latency(0.02)
    with rig.manager() as manager:
        result = manager.download_model_parallel(
            "org/m", specs(rig, WEIGHTS, SMALL), base(rig), rig.folder / "x"
        )
    total = SIZE + 300
    assert set(result) >= ASKED
    assert {k: result[k] for k in ("success", "timed_out", "state", "model_id")} == {
        "success": True, "timed_out": False, "state": "done", "model_id": "org/m",
    }  # fmt: skip
    assert (result["total_tasks"], result["completed_tasks"], result["failed_tasks"]) == (2, 2, 0)
    assert (result["total_bytes"], result["bytes_downloaded"], result["bytes_done"]) == (total, total, total)
    assert (result["completion_rate"], result["retry_count"], result["failed_files"]) == (100.0, 0, [])
    assert result["bandwidth_limited_time"] == 0.0
    assert 0.02 < result["duration_seconds"] < 20
    assert result["average_speed_bps"] == pytest.approx(total / result["duration_seconds"])
    assert result["peak_speed_bps"] >= result["average_speed_bps"]
    assert 2 <= result["concurrent_downloads"] <= 8
    assert result["connections"] == 0
    # A small file keeps its connection until it is in place, when its answer is over.
    assert rig.hub.requests.peak() <= result["concurrent_downloads"]
    assert (rig.folder / "x" / WEIGHTS).read_bytes() == rig.files[WEIGHTS]


def test_the_statistics_count_files_and_bytes_of_all_queues_since_the_manager_was_made(rig: Rig) -> None:
    rig.hub.faults.add(Status(404), path=SMALL, times=None)
    with rig.manager() as manager:
        manager.submit([rig.request(WEIGHTS), rig.request(SMALL)], model_id="first").wait(20)
        manager.submit([rig.request(TEXT_FILE)], model_id="second").wait(20)
        cancelled = manager.submit([rig.request(WEIGHTS, fresh=True)], model_id="third")
        cancelled.cancel()
        assert cancelled.wait(20)
        stats = manager.get_download_stats()
        said = repr(manager)
    counts = [stats[f"{name}_downloads"] for name in ("active", "queued", "completed", "failed")]
    assert counts == [0, 0, 2, 1]
    assert "active 0, waiting 0, done 2, failed 1" in said
    received = cancelled.progress().bytes_transferred
    assert stats["total_bytes_downloaded"] == len(rig.files[WEIGHTS]) + len(TEXT) + received
    assert stats["average_speed_bps"] == pytest.approx(
        stats["total_bytes_downloaded"] / stats["busy_seconds"]
    )
    assert 0 < stats["busy_seconds"] <= stats["uptime_seconds"]
    assert stats["connection_pool"]["total_requests"] >= 3


def test_results_are_plain_values(rig: Rig) -> None:
    import json

    with rig.manager() as manager:
        result = manager.download_model_parallel("m", specs(rig, SMALL), base(rig), rig.folder)
        assert json.loads(json.dumps(result)) == result
        json.dumps(manager.get_download_stats())
        json.dumps(manager.optimize_performance())


def test_what_fails_is_named_with_its_error_and_the_rest_is_there(rig: Rig) -> None:
    rig.hub.faults.add(Status(404), path=WEIGHTS, times=None)
    with rig.manager() as manager:
        result = manager.download_model_parallel("m", specs(rig, WEIGHTS, SMALL), base(rig), rig.folder)
    assert result["success"] is False
    assert result["state"] == "failed"
    assert (result["completed_tasks"], result["failed_tasks"]) == (1, 1)
    (failed,) = result["failed_files"]
    assert set(failed) == {"file_path", "error"}
    assert failed["file_path"] == WEIGHTS
    assert "404" in failed["error"]
    assert result["completion_rate"] == pytest.approx(100 * 300 / (SIZE + 300))
    assert rig.is_whole(SMALL)


def test_retries_and_limited_seconds_are_counted(rig: Rig) -> None:
    rig.hub.faults.add(Reset(), path=WEIGHTS, times=3)
    with rig.manager(max_bandwidth_bps=800_000) as manager:
        result = manager.download_model_parallel("m", specs(rig, WEIGHTS), base(rig), rig.folder)
    assert result["success"]
    assert result["retry_count"] == 3
    assert result["bandwidth_limited_time"] > 0.1
    assert result["duration_seconds"] > (SIZE - 64 * KiB) / 800_000 * 0.9


def test_the_status_of_a_running_queue_says_how_far_it_is(rig: Rig) -> None:
    rig.hub.set_pace(None, total=300_000)
    with rig.manager() as manager:
        queue = manager.queue_model_download("m", specs(rig, WEIGHTS, SMALL), base(rig), rig.folder)

        def status() -> dict[str, Any]:
            found = manager.get_model_queue_status(queue)
            assert found is not None
            return found

        assert until(lambda: status()["bytes_done"] > SIZE // 4)
        now = status()
        assert now["state"] == "running"
        assert 0 < now["completion_rate"] < 100
        assert now["connections"] >= 1
        assert now["speed_bps"] > 10_000
        stats = manager.get_download_stats()
        assert stats["queues"] == 1
        assert stats["connections"] >= 1
        (source,) = stats["sources"]
        assert source == rig.hub.url
        assert stats["sources"][source]["limit"] >= 1
        assert stats["measured"][source]["connection_speed_bps"] > 0
        assert stats["measured"][source]["first_byte_seconds"] > 0
        assert stats["pool"]["open_connections"] >= 1
        rig.hub.set_pace(None)
        assert manager.wait_for_model_completion(queue, 20)["success"]


def test_results_stay_readable_however_often_they_are_asked_for(rig: Rig) -> None:
    with rig.manager() as manager:
        queue = manager.queue_model_download("m", specs(rig, SMALL), base(rig), rig.folder)
        first = manager.wait_for_model_completion(queue)
        assert manager.wait_for_model_completion(queue) == first
        status = manager.get_model_queue_status(queue)
        assert status is not None
        assert status["duration_seconds"] == first["duration_seconds"]


def test_the_queue_timeout_bounds_the_call_and_leaves_the_download_running(rig: Rig) -> None:
    rig.hub.set_pace(None, total=100_000)
    with rig.manager(queue_timeout=0.2) as manager:
        started = time.monotonic()
        result = manager.download_model_parallel("m", specs(rig, WEIGHTS), base(rig), rig.folder)
        assert 0.2 <= time.monotonic() - started < SECOND
        assert (result["success"], result["timed_out"], result["state"]) == (False, True, "running")
        rig.hub.set_pace(None)
        assert manager.wait_for_model_completion(result["queue_id"], 20)["success"]
    assert rig.is_whole(WEIGHTS)


def test_one_task_is_downloaded_and_known_by_its_id_everywhere(rig: Rig) -> None:
    told = []
    rig.hub.set_pace(None, total=200_000)
    with rig.manager() as manager:
        task = manager.add_download_task(
            "m", "label", rig.url(WEIGHTS), rig.folder / "new" / "name.bin", SIZE, progress_callback=told.append,
            digest=hashlib.sha256(rig.files[WEIGHTS]).hexdigest(),
        )  # fmt: skip
        assert until(lambda: (manager.get_model_queue_status(task) or {})["bytes_done"] > 0)
        assert manager.wait_for_model_completion(task, 0.01)["timed_out"]
        assert manager.pause_downloads(task)
        assert (manager.get_model_queue_status(task) or {})["state"] == "paused"
        assert manager.resume_downloads(task)
        rig.hub.set_pace(None)
        assert manager.wait_for_model_completion(task, 20)["success"]
        assert not manager.cancel_model_download(task)
    assert (rig.folder / "new" / "name.bin").read_bytes() == rig.files[WEIGHTS]
    assert {progress.task_id for progress in told} == {task}
    assert {progress.file_path for progress in told} == {"label"}


def test_a_size_that_nobody_told_counts_once_it_is_known(rig: Rig) -> None:
    with rig.manager() as manager:
        wanted = [Spec(WEIGHTS), *specs(rig, SMALL)]
        result = manager.download_model_parallel("m", wanted, base(rig), rig.folder)
    assert result["success"]
    assert (result["total_bytes"], result["completion_rate"]) == (SIZE + 300, 100.0)
    assert rig.is_whole(WEIGHTS)


# ---- settings


def test_without_resume_everything_starts_anew(rig: Rig) -> None:
    rig.hub.set_pace(None, total=400_000)
    with rig.manager() as manager:
        queue = manager.queue_model_download("m", specs(rig, WEIGHTS), base(rig), rig.folder)
        assert until(lambda: (manager.get_model_queue_status(queue) or {})["bytes_done"] > SIZE // 4)
    assert leftovers(rig.folder)
    rig.hub.set_pace(None)
    for _ in range(2):  # over a staged file, and over a file in place
        with rig.manager(enable_resume=False) as manager:
            result = manager.download_model_parallel("m", specs(rig, WEIGHTS), base(rig), rig.folder)
        assert result["success"]
        assert (result["bytes_resumed"], result["bytes_downloaded"]) == (0, SIZE)
    assert rig.is_whole(WEIGHTS)
    assert leftovers(rig.folder) == []


def test_with_resume_a_file_in_place_is_not_fetched_again(rig: Rig) -> None:
    for expected in (SIZE, 0):
        with rig.manager() as manager:
            result = manager.download_model_parallel("m", specs(rig, WEIGHTS), base(rig), rig.folder)
        assert (result["success"], result["bytes_downloaded"]) == (True, expected)
        assert result["completion_rate"] == 100.0


def test_a_file_in_place_with_other_bytes_is_replaced(rig: Rig) -> None:
    (rig.folder / SMALL).write_bytes(b"x" * 300)
    with rig.manager() as manager:
        assert manager.download_model_parallel("m", specs(rig, SMALL), base(rig), rig.folder)["success"]
    assert rig.is_whole(SMALL)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all reads asked for."""
    asked: list[int] = []
    real = HttpBody.readinto

    def readinto(self: HttpBody, buffer: memoryview) -> int:
        asked.append(len(buffer))
        return real(self, buffer)

    monkeypatch.setattr(HttpBody, "readinto", readinto)
    return asked


@pytest.mark.parametrize("chunk", [4 * KiB, 32 * KiB])
def test_reads_are_of_the_chunk_size_unless_they_adapt(rig: Rig, reads: list[int], chunk: int) -> None:
    rig.fetch(WEIGHTS, chunk_size=chunk, enable_adaptive_chunking=False, part_size=None)
    assert max(reads) == chunk
    assert sum(size == chunk for size in reads) >= SIZE // chunk // 2


def test_reads_that_adapt_follow_the_measured_speed_of_the_source_below_the_chunk_size(
    rig: Rig, reads: list[int]
) -> None:
    settings = replace(rig.settings, chunk_size=256 * KiB, min_chunk_size=4 * KiB, part_size=None)
    with ParallelDownloadManager(settings=settings) as manager:
        manager._engine.history.read(rig.hub.url, 200_000, 1.0)  # 200 kB/s a connection
        assert manager.submit([rig.request(WEIGHTS)], model_id="m").wait(20)
    assert reads[0] == 16 * KiB  # what comes in a tenth of a second, as a power of two
    assert max(reads) > 16 * KiB  # it turned out to be faster
    assert max(reads) <= 256 * KiB


COMPRESSED = {"enable_compression": True, "part_size": None}


def encodings(rig: Rig, path: str) -> list[tuple[str, str]]:
    return [(r.headers.get("accept-encoding", ""), r.range) for r in rig.hub.requests.of(path=path)]


def test_compression_is_asked_for_with_whole_small_text_files_only(rig: Rig) -> None:
    rig.hub.options.gzip_git_files = True
    with rig.manager(**COMPRESSED) as manager:
        result = manager.download_model_parallel("m", specs(rig, TEXT_FILE, WEIGHTS), base(rig), rig.folder)
        received = manager.get_download_stats()["pool"]["total_bytes"]
    assert result["success"]
    assert encodings(rig, TEXT_FILE) == [("gzip", "")]
    assert {encoding for encoding, _ in encodings(rig, WEIGHTS)} == {"identity"}
    assert rig.hub.requests.settle()
    assert rig.sent(TEXT_FILE) < len(TEXT) // 10  # it travelled compressed
    assert rig.is_whole(TEXT_FILE)
    assert result["bytes_downloaded"] == len(TEXT) + SIZE
    assert received >= SIZE


def test_without_compression_nothing_is_compressed(rig: Rig) -> None:
    rig.hub.options.gzip_git_files = True
    assert rig.fetch(TEXT_FILE).errors == {}
    assert {encoding for encoding, _ in encodings(rig, TEXT_FILE)} == {"identity"}
    assert rig.is_whole(TEXT_FILE)


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
def test_a_text_file_that_is_fetched_in_ranges_or_unsized_is_not_compressed(rig: Rig, known: bool) -> None:
    size = len(TEXT) if known else None
    settings = {**COMPRESSED, "part_size": 32 * KiB}
    outcome = rig.fetch(rig.request(TEXT_FILE, size=size), **settings)
    assert outcome.errors == {}
    assert {encoding for encoding, _ in encodings(rig, TEXT_FILE)} == {"identity"}
    assert rig.is_whole(TEXT_FILE)


def test_the_digest_of_a_compressed_file_is_that_of_its_decoded_bytes(rig: Rig) -> None:
    rig.hub.faults.add(GzipBody(), path=TEXT_FILE, times=None)
    wrong = "0" * 64
    with rig.manager(**COMPRESSED) as manager:
        bad = manager.download_model_parallel(
            "m", [Spec(TEXT_FILE, len(TEXT), wrong)], base(rig), rig.folder / "bad"
        )
        good = manager.download_model_parallel("m", specs(rig, TEXT_FILE), base(rig), rig.folder / "good")
    assert good["success"]
    assert (rig.folder / "good" / TEXT_FILE).read_bytes() == TEXT
    assert not bad["success"]
    assert "digest" in bad["failed_files"][0]["error"]
    assert not (rig.folder / "bad" / TEXT_FILE).exists()


def test_a_compressed_file_of_the_wrong_length_is_refused(rig: Rig) -> None:
    rig.hub.options.gzip_git_files = True
    with rig.manager(**COMPRESSED, max_retries=1) as manager:
        for size in (len(TEXT) - 5, len(TEXT) + 5):
            result = manager.download_model_parallel("m", [Spec(TEXT_FILE, size)], base(rig), rig.folder)
            assert not result["success"]
    assert not (rig.folder / TEXT_FILE).exists()


def test_the_limit_holds_for_all_queues_and_managers_that_share_it(rig: Rig) -> None:
    limiter = BandwidthLimiter(800_000)
    settings = replace(rig.settings)
    with (
        ParallelDownloadManager(settings=settings, limiter=limiter) as one,
        ParallelDownloadManager(settings=settings, limiter=limiter) as two,
    ):
        started = time.monotonic()
        queues = [
            (manager, manager.queue_model_download("m", specs(rig, WEIGHTS), base(rig), rig.folder / f"{i}"))
            for i, manager in enumerate((one, two, one))
        ]
        for manager, queue in queues:
            assert manager.wait_for_model_completion(queue, 20)["success"]
        assert time.monotonic() - started > (3 * SIZE - 2 * 64 * KiB) / 800_000 * 0.9


def test_a_lifted_limit_acts_at_once(rig: Rig) -> None:
    with rig.manager(max_bandwidth_bps=20_000) as manager:
        queue = manager.queue_model_download("m", specs(rig, WEIGHTS), base(rig), rig.folder)
        assert until(lambda: (manager.get_model_queue_status(queue) or {})["bytes_done"] > 80 * KiB)
        manager.max_bandwidth_bps = None
        result = manager.wait_for_model_completion(queue, 5)
        assert result["success"]
        assert result["bandwidth_limited_time"] > 0


# ---- fallbacks and tuning


def test_what_only_a_fresh_connection_cures_is_cured(rig: Rig) -> None:
    def is_pooled(record: RequestRecord) -> bool:
        return record.headers.get("connection", "") != "close"

    rig.hub.faults.add(Reset(), path=WEIGHTS, times=None, when=is_pooled)
    with rig.manager() as manager:
        result = manager.download_model_parallel("m", specs(rig, WEIGHTS), base(rig), rig.folder)
        assert manager.get_download_stats()["pool"]["open_connections"] <= 8
    assert result["success"], result
    assert rig.is_whole(WEIGHTS)
    cured = [r for r in rig.hub.requests.of(path=WEIGHTS) if not is_pooled(r)]
    assert cured
    assert len({r.connection for r in cured}) == len(cured)


def test_tuning_says_what_it_changed(rig: Rig) -> None:
    with rig.manager() as manager:
        assert manager.optimize_performance() == {"sources": {}, "closed_sessions": 0}
        assert manager.submit([rig.request(WEIGHTS)], model_id="m").wait(20)
        controller = manager._engine._sources._controller(rig.hub.url)
        controller._phase = "hold"
        changed = manager.optimize_performance()["sources"][rig.hub.url]
        assert (changed["phase_before"], changed["phase"]) == ("hold", "start")
        assert changed["connections"] == changed["connections_before"] == controller.limit
        assert manager.get_download_stats()["sources"][rig.hub.url]["phase"] == "start"


def test_a_refusal_halves_the_connections_and_the_statistics_say_so(rig: Rig) -> None:
    rig.hub.faults.add(Status(429, retry_after=0), path=WEIGHTS, times=1)
    with rig.manager(max_concurrent_downloads=8) as manager:
        assert manager.submit([rig.request(WEIGHTS)], model_id="m").wait(20)
        source = manager.get_download_stats()["sources"][rig.hub.url]
    assert source["backoffs"] == {"ServerBusyError": 1}


def test_sources_are_read_without_a_destination(rig: Rig) -> None:
    with rig.manager() as manager:
        source = manager.open_source(
            RemoteFile(WEIGHTS, rig.url(WEIGHTS), SIZE, headers={"Authorization": TOKEN})
        )
        assert isinstance(source, HttpSource)
        body = source.open(ByteRange(100, 1100), CancelToken())
        data, got = bytearray(1000), 0
        while count := body.readinto(memoryview(data)[got:]):
            got += count
        body.close()
    assert bytes(data) == rig.files[WEIGHTS][100:1100]


# ---- what the source says


@pytest.mark.parametrize("digest", [True, False], ids=["with a digest", "without"])
@pytest.mark.parametrize("path", [WEIGHTS, SMALL])
def test_a_size_that_the_source_contradicts_fails_with_a_clear_error(
    rig: Rig, path: str, digest: bool
) -> None:
    size = len(rig.files[path])
    (spec,) = specs(rig, path, digests=digest)
    with rig.manager(max_retries=2) as manager:
        for wrong in (size - 1, size + 7):
            spec.size = wrong
            result = manager.download_model_parallel("m", [spec], base(rig), rig.folder)
            assert not result["success"]
            error = result["failed_files"][0]["error"]
            assert str(size) in error
            assert str(wrong) in error
    assert not (rig.folder / path).exists()


def test_a_total_that_changes_in_the_middle_is_told(rig: Rig) -> None:
    rig.hub.faults.add(WrongTotal(SIZE + 99), path=WEIGHTS, times=None)
    outcome = rig.fetch(rig.request(WEIGHTS), max_retries=2)
    error = outcome.errors[WEIGHTS]
    assert isinstance(error, SourceChangedError | RetriesExhaustedError)
    assert str(SIZE + 99) in str(error)


# ---- secrets


def test_no_secret_appears_in_any_log_record(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    secret, query = TOKEN.removeprefix("Bearer "), "X-Signature=topsecret"
    rig.hub.options.lfs = "redirect"
    rig.hub.faults.add(Reset(), path=WEIGHTS, times=2)
    rig.hub.faults.add(Status(404), path=SMALL, times=None)
    rig.hub.faults.add(Status(503, retry_after=0), path=TEXT_FILE, times=1)
    with (
        caplog.at_level(logging.DEBUG),
        ParallelDownloadManager(
            settings=rig.settings, headers={"Authorization": f"Bearer {secret}"}
        ) as manager,
    ):
        wanted = specs(rig, WEIGHTS, SMALL, TEXT_FILE)
        result = manager.download_model_parallel("m", wanted, f"{base(rig)}?{query}", rig.folder)
        manager.get_download_stats()
        bad = f"http://user:hunter2@127.0.0.1:9/x?{query}"
        task = manager.add_download_task("m", "x", bad, rig.folder / "x", 5)
        manager.pause_downloads()
        manager.cancel_model_download(task)
        said = repr(manager.get_download_stats()) + repr(manager.get_model_queue_status(task)) + repr(result)
    assert rig.hub.requests.of("cdn")
    assert caplog.records
    for record in caplog.records:
        text = f"{record.getMessage()} {record.exc_text or ''} {record.args!r}"
        for hidden in (secret, "topsecret", "hunter2", "Signature="):
            assert hidden not in text
    for hidden in (secret, "topsecret", "hunter2", "Signature="):
        assert hidden not in said


def test_everything_we_log_is_of_one_family(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "hf_haul"):
        rig.fetch(WEIGHTS)
    ours = {record.name for record in caplog.records if record.name.startswith("hf")}
    assert ours
    assert all(name.startswith("hf_haul.") for name in ours)


# ---- many


def test_ten_thousand_files_are_queued_in_a_time_that_grows_with_their_number(
    rig: Rig, tmp_path: Path
) -> None:
    with ParallelDownloadManager(settings=Settings()) as manager:
        manager.pause_downloads()
        used = {}
        for count in (1_000, 10_000):
            many = [Spec(f"{i // 100}/{i}.bin", 1000) for i in range(count)]
            started = time.thread_time()
            queue = manager.queue_model_download("m", many, base(rig), tmp_path / str(count))
            used[count] = time.thread_time() - started
            status = manager.get_model_queue_status(queue)
            assert status is not None
            assert status["total_tasks"] == count
            assert manager.cancel_model_download(queue)
            result = manager.wait_for_model_completion(queue, 10)
            assert result["failed_tasks"] == count
        assert used[10_000] < 50 * used[1_000]  # with the square of their number it would be a hundred times


def test_many_files_of_every_size_arrive(tmp_path: Path) -> None:
    more = {f"{i % 7}/f{i}.bin": random_bytes(i * 977 % (3 * PART), i) for i in range(60)}
    with serve_files(tmp_path, more=more) as rig, rig.manager() as manager:
        wanted = specs(rig, *rig.files)
        result = manager.download_model_parallel("m", wanted, base(rig), tmp_path / "out")
        assert result["failed_files"] == []
        assert result["completed_tasks"] == len(rig.files)
        for path, data in rig.files.items():
            assert (tmp_path / "out" / path).read_bytes() == data
        assert leftovers(tmp_path) == []
        assert manager.get_download_stats()["queues"] == 0
        assert DownloadState.DONE.final
