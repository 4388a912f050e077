"""Resumable, verified, parallel downloads for the Hugging Face Hub.

Two doors, one engine:

    import hf_haul

    folder = hf_haul.snapshot_download("org/model")  # as huggingface_hub's, into the same cache

    with fsspec.open("haul://datasets/org/data/train.csv") as file:  # as hf://, read ahead in parallel
        ...

    with hf_haul.ParallelDownloadManager(max_bandwidth_bps="50MB/s") as manager:  # any http(s) URLs
        manager.add_download_task("group", "a.bin", "https://example.org/a.bin", "a.bin")

The modules, from the ground up; each imports only what stands above it here:

- ``headers``: the headers of an answer, by names in any case
- ``errors``: every exception raised on purpose
- ``forks``: what a forked child renews: locks, threads, changes left half-made
- ``descriptors``: how many files may still be opened, and what to do when none can
- ``digests``: digests as sources announce them, and how they are computed
- ``waits``: what is being waited for now, and whom it is told
- ``threads``: threads that exist while there is work
- ``finalizers``: what finalizers leave for others to do
- ``cancellation``: CancelToken, which stops a piece of work and wakes it from whatever it waits for
- ``ranges``: half-open byte ranges; the only place that knows HTTP's inclusive end
- ``urls``: the one place that reads a URL: its host, its origin, what may be shown of it
- ``redaction``: keeps secrets out of what libraries log and raise while they work for us
- ``retry_after``: how long a server asks its clients to wait: the one reading of ``Retry-After``
- ``failures``: what an error means to people: what happened, where, what to do
- ``task``: values about one file: source, destination, digest, priority, state, progress
- ``config``: settings, defaults, the only reading of ``HF_HAUL_*`` variables
- ``processors``: how much of the machine's processors this process may use
- ``limiter``: BandwidthLimiter, a token bucket whose rate may change at any time
- ``metrics``: what was measured: bytes, speeds, retries; speed by source
- ``storage``: what is on disk: staged files and their owners, destinations, the Hub cache, free space
- ``transports``: how the bytes of a range are had: connections and how many, HTTP, retries, pace
- ``engine``: what is fetched next, by whom, and what follows: queues, parts, scheduler, digests, events
- ``reading``: ranges of remote files in memory, and what to fetch before it is asked for
- ``manager``: ParallelDownloadManager: the public face; wires and forwards
- ``hub``: all that speaks huggingface_hub: listings, snapshot_download, hf_hub_download, accelerate
- ``filesystem``: HaulFileSystem, the fsspec file system behind ``haul://``
- ``localhub``: a small read-only Hub over folders or a cache: sharing, demos, tests
- ``lab``: a Hub for a lab: what ``localhub`` serves, and what another Hub has, fetched once for all
- ``cluster``: one repository onto many machines, each part fetched once
- ``cli``: the command ``hf-haul``; the only package that prints

``import hf_haul`` is cheap: a name brings its module with it when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hf_haul.config import Settings
    from hf_haul.engine.download_queue import ModelDownloadQueue
    from hf_haul.engine.file_specs import FileSpec
    from hf_haul.engine.handle import DownloadHandle, QueueProgress
    from hf_haul.engine.priority import DefaultPolicy, PriorityPolicy
    from hf_haul.errors import (
        CertificateError,
        ConnectionFailedError,
        DiskFullError,
        DownloadCancelledError,
        HaulError,
        HttpStatusError,
        IntegrityError,
        LinkExpiredError,
        RangeRefusedError,
        RetriesExhaustedError,
        ServerBusyError,
        SourceChangedError,
        StalledError,
        TransferError,
        UnsafePathError,
    )
    from hf_haul.filesystem import HaulFileSystem, register, unregister
    from hf_haul.hub.acceleration import AccelerationWarning, accelerate
    from hf_haul.hub.cached import CachedRepositories, CachedRepository, CachedRevision, list_cached
    from hf_haul.hub.cleaning import CleanResult, KeptFile, clean
    from hf_haul.hub.download_plan import DownloadPlan, FilePlan
    from hf_haul.hub.planning import plan
    from hf_haul.hub.single_file import hf_hub_download
    from hf_haul.hub.snapshot import snapshot_download
    from hf_haul.hub.status import FileProblem, PartialFile, PartialOwner, PartialStatus, status
    from hf_haul.hub.verification import verify
    from hf_haul.hub.verify_report import CheckedFile, VerifyProgress, VerifyReport
    from hf_haul.limiter import BandwidthLimiter
    from hf_haul.manager import ParallelDownloadManager, default_manager
    from hf_haul.metrics import DownloadMetrics
    from hf_haul.task import (
        Digest,
        DownloadPriority,
        DownloadProgress,
        DownloadState,
        DownloadTask,
        FileRequest,
        RemoteFile,
    )
    from hf_haul.transports.pool import ConnectionPool

__version__ = "0.2.0"

__all__ = [
    "AccelerationWarning",
    "BandwidthLimiter",
    "CachedRepositories",
    "CachedRepository",
    "CachedRevision",
    "CertificateError",
    "CheckedFile",
    "CleanResult",
    "ConnectionFailedError",
    "ConnectionPool",
    "DefaultPolicy",
    "Digest",
    "DiskFullError",
    "DownloadCancelledError",
    "DownloadHandle",
    "DownloadMetrics",
    "DownloadPlan",
    "DownloadPriority",
    "DownloadProgress",
    "DownloadState",
    "DownloadTask",
    "FilePlan",
    "FileProblem",
    "FileRequest",
    "FileSpec",
    "HaulError",
    "HaulFileSystem",
    "HttpStatusError",
    "IntegrityError",
    "KeptFile",
    "LinkExpiredError",
    "ModelDownloadQueue",
    "ParallelDownloadManager",
    "PartialFile",
    "PartialOwner",
    "PartialStatus",
    "PriorityPolicy",
    "QueueProgress",
    "RangeRefusedError",
    "RemoteFile",
    "RetriesExhaustedError",
    "ServerBusyError",
    "Settings",
    "SourceChangedError",
    "StalledError",
    "TransferError",
    "UnsafePathError",
    "VerifyProgress",
    "VerifyReport",
    "accelerate",
    "clean",
    "default_manager",
    "hf_hub_download",
    "list_cached",
    "plan",
    "register",
    "snapshot_download",
    "status",
    "unregister",
    "verify",
]

_ERRORS: Final = "hf_haul.errors"
_TASK: Final = "hf_haul.task"
_HANDLE: Final = "hf_haul.engine.handle"
_MANAGER: Final = "hf_haul.manager"

#: Where each public name is defined.
_HOMES: Final = {
    "AccelerationWarning": "hf_haul.hub.acceleration",
    "BandwidthLimiter": "hf_haul.limiter",
    "CachedRepositories": "hf_haul.hub.cached",
    "CachedRepository": "hf_haul.hub.cached",
    "CachedRevision": "hf_haul.hub.cached",
    "CertificateError": _ERRORS,
    "CheckedFile": "hf_haul.hub.verify_report",
    "CleanResult": "hf_haul.hub.cleaning",
    "ConnectionFailedError": _ERRORS,
    "ConnectionPool": "hf_haul.transports.pool",
    "DefaultPolicy": "hf_haul.engine.priority",
    "Digest": _TASK,
    "DiskFullError": _ERRORS,
    "DownloadCancelledError": _ERRORS,
    "DownloadHandle": _HANDLE,
    "DownloadMetrics": "hf_haul.metrics",
    "DownloadPlan": "hf_haul.hub.download_plan",
    "DownloadPriority": _TASK,
    "DownloadProgress": _TASK,
    "DownloadState": _TASK,
    "DownloadTask": _TASK,
    "FilePlan": "hf_haul.hub.download_plan",
    "FileProblem": "hf_haul.hub.status",
    "FileRequest": _TASK,
    "FileSpec": "hf_haul.engine.file_specs",
    "HaulError": _ERRORS,
    "HaulFileSystem": "hf_haul.filesystem",
    "HttpStatusError": _ERRORS,
    "IntegrityError": _ERRORS,
    "KeptFile": "hf_haul.hub.cleaning",
    "LinkExpiredError": _ERRORS,
    "ModelDownloadQueue": "hf_haul.engine.download_queue",
    "ParallelDownloadManager": _MANAGER,
    "PartialFile": "hf_haul.hub.status",
    "PartialOwner": "hf_haul.hub.status",
    "PartialStatus": "hf_haul.hub.status",
    "PriorityPolicy": "hf_haul.engine.priority",
    "QueueProgress": _HANDLE,
    "RangeRefusedError": _ERRORS,
    "RemoteFile": _TASK,
    "RetriesExhaustedError": _ERRORS,
    "ServerBusyError": _ERRORS,
    "Settings": "hf_haul.config",
    "SourceChangedError": _ERRORS,
    "StalledError": _ERRORS,
    "TransferError": _ERRORS,
    "UnsafePathError": _ERRORS,
    "VerifyProgress": "hf_haul.hub.verify_report",
    "VerifyReport": "hf_haul.hub.verify_report",
    "accelerate": "hf_haul.hub.acceleration",
    "clean": "hf_haul.hub.cleaning",
    "default_manager": _MANAGER,
    "hf_hub_download": "hf_haul.hub.single_file",
    "list_cached": "hf_haul.hub.cached",
    "plan": "hf_haul.hub.planning",
    "register": "hf_haul.filesystem",
    "snapshot_download": "hf_haul.hub.snapshot",
    "status": "hf_haul.hub.status",
    "unregister": "hf_haul.filesystem",
    "verify": "hf_haul.hub.verification",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
