"""How others use the public API, for the type checker; never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from huggingface_hub import DryRunFileInfo, RepoFile
from typing_extensions import assert_type

import hf_haul


def snapshots(progress: list[hf_haul.DownloadProgress], manager: hf_haul.ParallelDownloadManager) -> None:
    """Both drop-ins, with upstream's arguments and with ours."""
    assert_type(hf_haul.snapshot_download("org/model"), str)
    assert_type(hf_haul.snapshot_download("org/model", dry_run=False), str)
    assert_type(hf_haul.snapshot_download("org/model", dry_run=True), list[DryRunFileInfo])
    assert_type(hf_haul.hf_hub_download("org/model", "config.json", dry_run=True), DryRunFileInfo)
    assert_type(
        hf_haul.hf_hub_download("org/model", "config.json", dry_run=bool(progress)), str | DryRunFileInfo
    )
    assert_type(hf_haul.snapshot_download("org/model", dry_run=bool(progress)), str | list[DryRunFileInfo])
    assert_type(hf_haul.hf_hub_download("org/model", "config.json"), str)
    assert_type(
        hf_haul.snapshot_download(
            "org/data",
            repo_type="dataset",
            revision="refs/pr/1",
            cache_dir=Path("cache"),
            allow_patterns=["*.parquet"],
            ignore_patterns="*.md",
            token=False,
            max_workers=4,
            priority=hf_haul.DownloadPriority.HIGH,
            max_bandwidth="50MB/s",
            max_connections=8,
            verify=True,
            progress_callback=progress.append,
            on_event=lambda event: print(event["ev"]),
            presets="safetensors",
            sources=["http://node7:8000"],
        ),
        str,
    )
    assert_type(hf_haul.hf_hub_download("org/model", "config.json", sources=("http://node7:8000",)), str)
    hf_haul.snapshot_download("org/model", manager=manager, presets=["safetensors", "no-weights"])
    hf_haul.snapshot_download("org/model", "main")  # type: ignore[call-overload]  # keyword-only, as upstream


def told(event: Mapping[str, Any]) -> None:
    """A callback that only reads."""


def kept(event: dict[str, Any]) -> bool:
    """One that takes a dict, and returns something."""
    return bool(event)


def events(all_of_them: list[dict[str, Any]]) -> None:
    """Whatever takes a dict may listen."""
    hf_haul.snapshot_download("org/model", on_event=told)
    hf_haul.hf_hub_download("org/model", "config.json", on_event=all_of_them.append)
    hf_haul.ParallelDownloadManager(on_event=kept)
    hf_haul.snapshot_download("org/model", on_event=print)
    hf_haul.snapshot_download("org/model", on_event=len("no function"))  # type: ignore[call-overload]


class Spec:
    """The least that a file of a queue has to say."""

    def __init__(self, path: str, size: int | None) -> None:
        self.path = path
        self.size = size


def managers(files: list[RepoFile], told: list[hf_haul.DownloadProgress]) -> None:
    """The manager with everything that was asked for."""
    with hf_haul.ParallelDownloadManager(
        max_concurrent_downloads=16,
        max_concurrent_files_per_model=8,
        max_bandwidth_bps=1e6,
        connection_pool_size=16,
        chunk_size=1 << 20,
        enable_resume=True,
        enable_adaptive_chunking=True,
        enable_compression=False,
        queue_timeout=60.0,
        settings=hf_haul.Settings(verify=True),
    ) as manager:
        assert_type(manager, hf_haul.ParallelDownloadManager)
        assert_type(manager.connection_pool, hf_haul.ConnectionPool)
        assert_type(manager.connection_pool.get_session(), requests.Session)
        task = manager.add_download_task(
            "model",
            "a.bin",
            "https://example.org/a.bin",
            Path("a.bin"),
            10,
            hf_haul.DownloadPriority.LOW,
            told.append,
        )
        assert_type(task, str)
        queue = manager.queue_model_download("model", files, "https://example.org", "out")
        assert_type(queue, str)
        manager.download_model_parallel("model", [Spec("a.bin", None)], "https://example.org", Path("out"))
        own = hf_haul.FileSpec("a.bin", 10, digest="0" * 64, priority=hf_haul.DownloadPriority.HIGH)
        assert_type(own.size, int | None)
        manager.queue_model_download(
            "model",
            ["a.bin", {"path": "b.bin", "size": 3}, own, Spec("c.bin", 1), *files],
            "https://example.org",
            "out",
        )
        elsewhere = hf_haul.FileSpec("a.bin", 10, digest="0" * 64, sources=["https://mirror.org/a.bin"])
        assert_type(elsewhere.sources, Sequence[str])
        mirrors = ["https://mirror.org"]
        manager.queue_model_download("model", [elsewhere], "https://example.org", "out", sources=mirrors)
        manager.download_model_parallel("model", [elsewhere], "https://example.org", "out", sources=mirrors)
        manager.add_download_task("model", "a.bin", "https://a.org/a.bin", "a.bin", 10, sources=mirrors)
        assert_type(hf_haul.Settings(sources=("http://node7:8000",)).sources, tuple[str, ...])
        manager.queue_model_download("model", [3], "https://example.org", "out")  # type: ignore[list-item]
        own.size = 3  # type: ignore[misc]  # frozen
        outcome = manager.wait_for_model_completion(queue, timeout=1.5)
        success: bool = outcome["success"]
        status = manager.get_model_queue_status(queue)
        if status is not None and success:
            status["completion_rate"].is_integer()
        assert_type(manager.cancel_model_download(task), bool)
        assert_type(manager.pause_downloads(), bool)
        assert_type(manager.resume_downloads(queue), bool)
        manager.max_bandwidth_bps = None
        manager.max_bandwidth_bps = "5MB/s"
        stats: Mapping[str, object] = manager.get_download_stats()
        tuned: Mapping[str, object] = manager.optimize_performance()
        del stats, tuned
        manager.shutdown(wait=False)
    hf_haul.ParallelDownloadManager(max_workers=4)  # type: ignore[call-arg]  # no such argument
    assert_type(hf_haul.default_manager(), hf_haul.ParallelDownloadManager)


def submitted(manager: hf_haul.ParallelDownloadManager, requests: list[hf_haul.FileRequest]) -> None:
    """A handle on a queue."""
    handle = manager.submit(requests, model_id="model", priority=hf_haul.DownloadPriority.HIGH)
    assert_type(handle, hf_haul.DownloadHandle)
    assert_type(handle.wait(1.0), bool)
    assert_type(handle.progress(), hf_haul.QueueProgress)
    assert_type(handle.errors(), list[tuple[str, BaseException]])
    handle.set_priority(hf_haul.DownloadPriority.NORMAL)


def values() -> None:
    """Values are immutable, and errors say what to do."""
    digest = hf_haul.Digest("sha256", "0" * 64)
    digest.value = "1"  # type: ignore[misc]  # frozen
    hf_haul.Digest("crc32", "0")  # type: ignore[arg-type]  # not one that a Hub announces
    try:
        hf_haul.snapshot_download("org/model")
    except hf_haul.IntegrityError as error:
        assert_type(error.expected, str)
    except hf_haul.TransferError as error:
        assert_type(error.retryable, bool)
        assert_type(error.retry_after, float | None)


def largest_first(path: str, size: int | None) -> tuple[hf_haul.DownloadPriority, tuple[int, str]]:
    """A policy of the user's own: a function will do."""
    return hf_haul.DownloadPriority.NORMAL, (-(size or 0), path)


def limited() -> None:
    """Parts that are useful alone."""
    limiter = hf_haul.BandwidthLimiter(1e6, 1 << 20)
    assert_type(limiter.acquire_tokens(4096), float)
    policy: hf_haul.PriorityPolicy = largest_first
    hf_haul.ParallelDownloadManager(limiter=limiter, policy=policy)


def before_and_after(checked: list[hf_haul.CheckedFile]) -> None:
    """What a download would do, and whether what it did is still right."""
    plan = hf_haul.plan("org/model", local_dir=Path("files"), presets="safetensors", rate="100MB/s")
    assert_type(plan, hf_haul.DownloadPlan)
    assert_type(plan.files, tuple[hf_haul.FilePlan, ...])
    assert_type(plan.seconds, float | None)
    report = hf_haul.verify("org/model", local_dir="files", repair=plan.fits, on_file=checked.append)
    assert_type(report, hf_haul.VerifyReport)
    assert_type(report.counts, dict[str, int])
    hf_haul.verify(Path("files"), on_progress=lambda progress: print(progress.bytes_done))


def left_over() -> None:
    """What is on the disk."""
    status = hf_haul.status(Path("files"))
    assert_type(status, hf_haul.PartialStatus)
    assert_type(status.files[0].percent, float | None)
    assert_type(status.files[0].owner, hf_haul.PartialOwner)
    assert_type(status.problems, tuple[hf_haul.FileProblem, ...])
    status.files[0].file = "other"  # type: ignore[misc]  # frozen
    found = hf_haul.list_cached(cache_dir="cache")
    assert_type(found, hf_haul.CachedRepositories)
    assert_type(found.repositories[0], hf_haul.CachedRepository)
    assert_type(found.repositories[0].revisions[0], hf_haul.CachedRevision)
    result = hf_haul.clean(cache_dir=Path("cache"), dry_run=True, keep_resumable=True, older_than=3600)
    assert_type(result, hf_haul.CleanResult)
    assert_type(result.kept[0], hf_haul.KeptFile)
    hf_haul.clean("files", "cache")  # type: ignore[call-arg]  # what is removed is said by name
