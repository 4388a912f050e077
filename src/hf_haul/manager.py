"""ParallelDownloadManager: the public face of the engine; it wires and forwards.

The file is this long because one class has the whole public API, and half of the file is what its methods and
settings mean: the docstrings are the reference.
"""

from __future__ import annotations

import atexit
import logging
import os
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from hf_haul.cancellation import CancelToken
from hf_haul.config import Settings, parse_rate
from hf_haul.descriptors import descriptors
from hf_haul.digests import Digest
from hf_haul.engine.download_queue import ModelDownloadQueue
from hf_haul.engine.event_stream import EventStream, tells_waits
from hf_haul.engine.events import EventBus, EventCallback, EventFeed, Notifier, ProgressCallback
from hf_haul.engine.file_batch import FileBatch
from hf_haul.engine.file_specs import (
    AnyFileSpec,
    as_digest,
    as_specs,
    joined_to,
    require_http,
    require_no_nesting,
    require_size,
    require_writable,
)
from hf_haul.engine.handle import DownloadHandle
from hf_haul.engine.other_sources import other_sources
from hf_haul.engine.plan import Plan, make_plan
from hf_haul.engine.planned_files import PlannedFiles
from hf_haul.engine.priority import DefaultPolicy, PriorityPolicy
from hf_haul.engine.queue_events import QueueEvents
from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.results import QueueStatus
from hf_haul.engine.scheduler import Scheduler
from hf_haul.engine.url_requests import request_url
from hf_haul.finalizers import catch_up
from hf_haul.forks import call_after_fork, renew_after_fork
from hf_haul.limiter import BandwidthLimiter, rate_in_words
from hf_haul.metrics import SMALL_FILE
from hf_haul.reading.extents import Extents
from hf_haul.reading.lookahead import LookAhead
from hf_haul.reading.reader import Reads
from hf_haul.storage.free_space import check_space, free_bytes, have_room
from hf_haul.storage.safe_paths import require_safe_path
from hf_haul.task import DownloadPriority, FileRequest, OtherSource, RemoteFile
from hf_haul.transports.base import Transport
from hf_haul.transports.file_facts import FileFacts, learn_facts
from hf_haul.transports.http import HttpSource
from hf_haul.transports.pacing import RateLimits
from hf_haul.transports.pool import ConnectionPool
from hf_haul.waits import Waits

__all__ = ["ParallelDownloadManager", "default_manager"]

logger = logging.getLogger(__name__)

#: Seconds that a shutdown waits for callbacks that do not return.
_CALLBACK_GRACE: Final = 2.0

_TEXT_SUFFIXES: Final = frozenset(
    {".json", ".txt", ".md", ".csv", ".jsonl", ".yaml", ".yml", ".xml", ".html", ".py"}
)


class ParallelDownloadManager:
    """Fetches many files over many connections: by priority, resumable, verified.

    Works for any http(s) URL. A context manager: leaving it normally finishes what was asked for; leaving it
    by an exception stops at once and keeps everything resumable. In a forked child it starts empty.

    Every argument left out takes its value from ``settings``, or else from ``HF_HAUL_*`` variables, or else
    from the defaults, whose reasons are in :class:`hf_haul.config.Settings`.

    Args:
        max_concurrent_downloads: Connections in use at once, at the most. How many really are follows the
            measured goodput.
        max_concurrent_files_per_model: Files of one queue in progress at once.
        max_bandwidth_bps: Limit over all connections in bytes per second, or a text such as ``"50MB/s"``;
            ``"unlimited"`` lifts the limit of the settings.
        connection_pool_size: Connections open at once, idle ones included.
        chunk_size: Largest read in bytes.
        enable_resume: Whether to go on from staged files of earlier runs; if not, every file starts anew.
        enable_adaptive_chunking: Whether reads follow the measured speed of their source.
        enable_compression: Whether to ask for gzip for small whole text files.
        queue_timeout: Seconds :meth:`download_model_parallel` waits at the most.
        settings: Everything else; see there.
        limiter: A bandwidth limit to share with other managers, instead of ``max_bandwidth_bps``.
        policy: Decides priorities and order of files.
        headers: Sent with every request to a source, never to a redirect's target on another origin.
        verify_tls: Whether certificates are verified; a path names the ones to trust, and an
            ``ssl.SSLContext`` says all of it, a client's certificate included.
        proxies: Proxies by scheme, before those of the environment; an empty text stands for none.
        on_event: Called with every event of every queue, a plain dict; ``examples/events.md`` has its fields.
            Called on one thread, in order, and never under a lock; what it raises is logged, and while it
            blocks downloads go on.

    Attributes:
        settings: The settings in force.
        events: Tells tools what happens: ``manager.events.subscribe(print)``.
    """

    def __init__(
        self,
        max_concurrent_downloads: int | None = None,
        max_concurrent_files_per_model: int | None = None,
        max_bandwidth_bps: float | str | None = None,
        connection_pool_size: int | None = None,
        chunk_size: int | None = None,
        enable_resume: bool | None = None,
        enable_adaptive_chunking: bool | None = None,
        enable_compression: bool | None = None,
        queue_timeout: float | None = None,
        *,
        settings: Settings | None = None,
        limiter: BandwidthLimiter | None = None,
        policy: PriorityPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        verify_tls: bool | str | os.PathLike[str] | ssl.SSLContext = True,
        proxies: Mapping[str, str] | None = None,
        on_event: EventCallback | None = None,
    ) -> None:
        changes: dict[str, Any] = {
            "max_concurrent_downloads": max_concurrent_downloads,
            "max_concurrent_files_per_model": max_concurrent_files_per_model,
            "max_bandwidth_bps": max_bandwidth_bps,
            "connection_pool_size": connection_pool_size,
            "chunk_size": chunk_size,
            "enable_resume": enable_resume,
            "enable_adaptive_chunking": enable_adaptive_chunking,
            "enable_compression": enable_compression,
            "queue_timeout": queue_timeout,
        }
        self.settings = (
            Settings.from_environment(**changes) if settings is None else settings.changed(**changes)
        )
        self._policy = policy or DefaultPolicy()
        self._headers = dict(headers or {})
        self._limiter = limiter or BandwidthLimiter(self.settings.max_bandwidth_bps)
        self._verify_tls = verify_tls
        self._proxies = proxies
        self._closed = False
        self._extents: Extents | None = None
        self._look_ahead: LookAhead | None = None
        self._start_empty()
        self.events = EventBus()
        #: Takes events to ``on_event``, where there is one.
        self.event_feed = None if on_event is None else EventFeed(on_event)
        #: What reads through this manager wait for; nobody looks at it now and then.
        self.read_waits = Waits(reviewed=False)
        if self.event_feed is not None:
            self.read_waits.listener = tells_waits(self.event_feed)
        self._pool = self._make_pool()  # starts empty in a forked child by itself, and keeps its settings
        self._build()
        key = id(self)
        _managers[key] = weakref.ref(self, lambda _gone: _managers.pop(key, None))
        renew_after_fork(self, ParallelDownloadManager._after_fork)

    def _start_empty(self) -> None:
        # Guards what follows, and the making of the engine, once per process, and of the extents.
        self._lock = threading.Lock()
        self._notifiers: weakref.WeakSet[Notifier] = weakref.WeakSet()

    def _build(self) -> None:
        self._pid = os.getpid()
        self._began = time.monotonic()
        self._rate_limits = RateLimits()
        self._scheduler = Scheduler(self.settings, self._limiter, self._transport_for, events=self.events)

    def _make_pool(self) -> ConnectionPool:
        settings = self.settings
        most = settings.max_concurrent_downloads + settings.max_read_connections
        size = settings.connection_pool_size or most
        return ConnectionPool(
            size,
            settings.max_connections_per_host or size,
            connect_timeout=settings.connect_timeout,
            # The watchdog acts first, and says more.
            read_timeout=max(30.0, 2 * settings.stall_timeout, 10.0 + settings.give_up_after),
            verify=self._verify_tls,
            proxies=self._proxies,
        )

    @property
    def _engine(self) -> Scheduler:
        with self._lock:
            if self._pid != os.getpid():  # forked: the parent's threads are not ours
                self._build()
            return self._scheduler

    def _after_fork(self) -> None:
        # Any lock may have been held by a thread that does not exist here.
        self._start_empty()

    def _transport_for(self, request: FileRequest) -> Transport:
        remote = request.remote
        compress = (
            self.settings.enable_compression
            and remote.size is not None
            and remote.size <= SMALL_FILE
            and os.path.splitext(remote.path)[1].lower() in _TEXT_SUFFIXES
        )
        return HttpSource(
            remote, self._pool, self._rate_limits, compress=compress, timings=self.settings.timings
        )

    # ---- reading without a destination

    def open_source(self, remote: RemoteFile) -> HttpSource:
        """Return a source that reads ranges of one file over this manager's connections, within its limits.

        Every answer is checked to be the range asked for, and the file's URL is resolved once for all of
        them. The caller owns retries, and asks :attr:`limiter` for what it reads.

        Args:
            remote: The file.

        Raises:
            RuntimeError: The manager is shut down.
        """
        if self._closed:
            raise RuntimeError("the manager is shut down")
        assert self._engine is not None  # rebuilt by now in a forked child, and the pool with it
        return HttpSource(remote, self._pool, self._rate_limits, timings=self.settings.timings)

    def ask_about(self, remote: RemoteFile, cancel_token: CancelToken) -> FileFacts:
        """Ask a server about a file before anything is fetched: one request for one byte.

        Args:
            remote: The file.
            cancel_token: Ends every wait.

        Raises:
            TransferError: The file cannot be had.
            StopRequestedError: The token was set.
        """
        source = self.open_source(remote)
        return learn_facts(source, self.settings, self._scheduler.history, cancel_token)

    @property
    def extents(self) -> Extents:
        """What is in memory of the files that are read through this manager, until it is shut down."""
        with self._lock:
            if self._extents is None:
                weak = weakref.proxy(self)
                # Not the bound method: it would keep the manager alive, and so itself.
                reads = Reads(
                    lambda remote: weak.open_source(remote),  # noqa: PLW0108  see above
                    self.settings,
                    self.limiter,
                    self._scheduler.history,
                    waits=self.read_waits,
                )
                self._extents = Extents(reads)
            return self._extents

    @property
    def look_ahead(self) -> LookAhead:
        """Who looks ahead at files that will be opened next, for those who read through this manager."""
        extents = self.extents
        with self._lock:
            if self._look_ahead is None:
                self._look_ahead = LookAhead(extents)
            return self._look_ahead

    @property
    def limiter(self) -> BandwidthLimiter:
        """The bandwidth limit over all connections."""
        return self._limiter

    @property
    def connection_pool(self) -> ConnectionPool:
        """The connections of all downloads and reads.

        What is set on its sessions holds for every byte: ``connection_pool.get_session().mount(...)``.
        """
        return self._pool

    # ---- asking for files

    def plan(self, files: Sequence[FileRequest], *, model_id: str) -> Plan:
        """Return files in the order in which :meth:`submit` would begin them; none is fetched.

        Args:
            files: What to fetch, and where to.
            model_id: What they belong to; a label.

        Raises:
            ValueError: Two files have one destination, or a size is negative.
        """
        return make_plan(
            files, model_id=model_id, policy=self._policy, settings=self.settings, created_at=time.time
        )

    def submit(
        self,
        files: Sequence[FileRequest],
        *,
        model_id: str,
        priority: DownloadPriority = DownloadPriority.NORMAL,
        progress_callback: ProgressCallback | None = None,
        events: EventStream | None = None,
        summed: bool = False,
    ) -> DownloadHandle:
        """Queue files whose source and destination are known.

        Args:
            files: What to fetch, and where to; of very many a :class:`~hf_haul.engine.file_batch.FileBatch`.
            model_id: What they belong to; a label.
            priority: Urgency of the queue against others.
            progress_callback: Told about each file, at most ten times a second, and at its end.
            events: Where to tell what happens, for a caller that has told the plan and will tell the end; by
                default ``on_event`` is told of all of it.
            summed: Whether that caller has several queues, and tells the numbers of all of them itself.

        Raises:
            ValueError: A URL is not of http or https, two files have one destination, or a size is negative.
            DiskFullError: They will not fit.
            RuntimeError: The manager is shut down.
        """
        if not isinstance(files, FileBatch):
            for each in files:
                require_http(each.remote.path, each.remote.url)
        return self._submit(files, model_id, priority, progress_callback, events=events, summed=summed)

    def _submit(
        self,
        files: Sequence[FileRequest],
        model_id: str,
        priority: DownloadPriority,
        progress_callback: ProgressCallback | None,
        folders: Collection[Path] = (),
        *,
        path: Path | None = None,
        events: EventStream | None = None,
        summed: bool = False,
    ) -> DownloadHandle:
        """Queue files whose URLs are checked; create the folders once everything else is valid."""
        if self._closed:
            raise RuntimeError("the manager is shut down")
        priority = DownloadPriority(priority)
        engine = self._engine
        plan = self.plan(files, model_id=model_id)
        most = plan.files.nbytes + engine.reserved_bytes
        if self.settings.disk_check != "off" and not have_room(plan.files.staging_dirs(), most):
            check_space(files, engine.reserved_bytes, engine.unsettled, self.settings.disk_check)
        for folder in folders:
            require_writable(folder)
        queue = ModelDownloadQueue(
            model_id, priority, max_concurrent_files=self.settings.max_concurrent_files_per_model
        )
        notifier = Notifier(progress_callback, f"hf-haul-progress-{model_id}") if progress_callback else None
        descriptors.measure()
        whole = events is None
        if events is None:
            events = self._begin_events(plan.files, queue, path)
        told = None if events is None else QueueEvents(events, whole=whole, summed=summed)
        run = engine.submit(queue, plan.files, notifier, told)
        with self._lock:
            if notifier is not None:
                self._notifiers.add(notifier)
        return DownloadHandle(engine, run.outcome)

    def _begin_events(
        self, files: PlannedFiles, queue: ModelDownloadQueue, path: Path | None
    ) -> EventStream | None:
        """Tell ``on_event`` what a queue is to do; return where to tell the rest, if anybody listens."""
        if self.event_feed is None:
            return None
        events = EventStream([self.event_feed], queue.model_id, queue.queue_id)
        folder = files[0].request.destination.staging_dir if files else Path.cwd()
        nbytes = None if files.unknown_sizes else files.nbytes
        events.plan(files=len(files), nbytes=nbytes, free_disk=free_bytes(folder), path=path)
        return events

    def add_download_task(
        self,
        model_id: str,
        file_path: str,
        source_url: str,
        local_path: str | os.PathLike[str],
        size: int | None = None,
        priority: DownloadPriority = DownloadPriority.NORMAL,
        progress_callback: ProgressCallback | None = None,
        *,
        digest: Digest | str | None = None,
        sources: Sequence[str] = (),
    ) -> str:
        """Queue one file.

        Args:
            model_id: What the file belongs to; a label.
            file_path: Name of the file; a label.
            source_url: Any http(s) URL.
            local_path: Where the file goes. As with ``cp``, a link leads to its target, a file that is
                replaced keeps its permissions, and a device or a pipe is written into.
            size: Bytes, or ``None`` to ask the source.
            priority: Urgency of the file.
            progress_callback: Told how it goes.
            digest: What the bytes must hash to: hex digits of sha256 or git-sha1, or with ``md5:`` or
                ``sha1:`` before them.
            sources: Other URLs of the file, whose bytes are taken, too, if ``size`` and ``digest`` are given.

        Returns:
            The task's id; every method that takes a queue's id takes it too.

        Raises:
            ValueError: The URL, size or digest is unusable.
            OSError: The folder cannot be written, or the file will not fit.
        """
        handle = self.submit_url(
            model_id, file_path, source_url, local_path, size, priority, progress_callback, digest=digest,
            sources=sources,
        )  # fmt: skip
        return handle.task_ids[0]

    def submit_url(
        self,
        model_id: str,
        file_path: str,
        source_url: str,
        local_path: str | os.PathLike[str],
        size: int | None = None,
        priority: DownloadPriority = DownloadPriority.NORMAL,
        progress_callback: ProgressCallback | None = None,
        *,
        digest: Digest | str | None = None,
        sources: Sequence[str] = (),
    ) -> DownloadHandle:
        """Queue one file as :meth:`add_download_task` does; return its handle, which has its errors, too."""
        require_http(file_path, source_url)
        target = Path(local_path).absolute()
        if target.is_dir():
            raise IsADirectoryError(f"{file_path!r}: {target} is a folder")
        request = self._request(
            file_path, source_url, target, size=size, digest=as_digest(digest), etag=None, priority=priority,
            sources=self._other_sources(sources, joins_path=False),
        )  # fmt: skip
        folders = [request.destination.staging_dir]
        return self._submit([request], model_id, priority, progress_callback, folders, path=target)

    def queue_model_download(
        self,
        model_id: str,
        file_specs: Sequence[AnyFileSpec],
        source_url: str,
        local_dir: str | os.PathLike[str],
        priority: DownloadPriority = DownloadPriority.NORMAL,
        progress_callback: ProgressCallback | None = None,
        *,
        sources: Sequence[str] = (),
    ) -> str:
        """Queue the files of one model, and return at once.

        Args:
            model_id: What the files belong to; a label.
            file_specs: The files: :class:`~hf_haul.engine.file_specs.FileSpec`, or anything with ``path`` and
                ``size``, paths alone, or dicts.
            source_url: What the files' paths are appended to, for instance
                ``https://hub/org/model/resolve/main``.
            local_dir: Folder the files go to.
            priority: Urgency of the queue against others.
            progress_callback: Told about each file.
            sources: Where the files are, too, as ``source_url`` says it; bytes are taken from there of files
                whose size and digest are given.

        Returns:
            The queue's id.

        Raises:
            TypeError: Something in ``file_specs`` does not stand for a file.
            ValueError: No files, a path given twice or leading out of ``local_dir``, an unusable size, URL or
                priority.
            OSError: ``local_dir`` cannot be written, or the files will not fit.
        """
        specs = as_specs(file_specs)
        if not specs:
            raise ValueError(f"{model_id}: file_specs is empty, there is nothing to download")
        folder = Path(local_dir).absolute()
        url_of = joined_to(source_url)
        for spec in specs:
            require_safe_path(spec.path)
        require_no_nesting([spec.path for spec in specs])
        requests, others = [], self._other_sources(sources)
        for spec in specs:
            if spec.url is not None:
                require_http(spec.path, spec.url)
            url = url_of(spec.path) if spec.url is None else spec.url
            target = folder / spec.path
            if target.is_dir():
                raise IsADirectoryError(f"{spec.path!r}: {target} is a folder")
            request = self._request(
                spec.path,
                url,
                target,
                size=spec.size,
                digest=as_digest(spec.digest),
                etag=spec.etag,
                priority=spec.priority,
                sources=(*others, *self._other_sources(spec.sources, joins_path=False))
                if spec.sources
                else others,
            )
            requests.append(request)
        folders = {request.destination.staging_dir for request in requests}
        return self._submit(requests, model_id, priority, progress_callback, folders, path=folder).queue_id

    def _request(
        self, path: str, url: str, target: Path, *, size: int | None, digest: Digest | None, etag: str | None,
        priority: DownloadPriority | None, sources: tuple[OtherSource, ...] = (),
    ) -> FileRequest:  # fmt: skip
        require_size(path, size)
        remote = RemoteFile(
            path, url, size=size, digest=digest, etag=etag, headers=self._headers, announced_by="the caller",
            sources=sources,
        )  # fmt: skip
        return request_url(
            remote,
            target,
            same_size_will_do=True,
            priority=None if priority is None else DownloadPriority(priority),
            fresh=not self.settings.enable_resume,
        )

    def _other_sources(self, urls: Sequence[str], *, joins_path: bool = True) -> tuple[OtherSource, ...]:
        return other_sources(urls, self.settings, headers=self._headers, joins_path=joins_path)

    def download_model_parallel(
        self,
        model_id: str,
        file_specs: Sequence[AnyFileSpec],
        source_url: str,
        local_dir: str | os.PathLike[str],
        progress_callback: ProgressCallback | None = None,
        *,
        sources: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Queue the files of one model and wait for them, for ``queue_timeout`` seconds at the most.

        Returns:
            See :meth:`wait_for_model_completion`.
        """
        queue_id = self.queue_model_download(
            model_id, file_specs, source_url, local_dir, progress_callback=progress_callback, sources=sources
        )
        return self.wait_for_model_completion(queue_id, self.settings.queue_timeout)

    # ---- waiting and watching

    def wait_for_model_completion(self, queue_id: str, timeout: float | None = None) -> dict[str, Any]:
        """Wait for a queue, without polling.

        Args:
            queue_id: As returned when it was queued.
            timeout: Seconds; ``None`` for as long as it takes. Afterwards the download goes on.

        Returns:
            ``success`` (all files in place), ``timed_out``, ``queue_id``, ``model_id``, ``state``,
            ``total_tasks``, ``completed_tasks``, ``failed_tasks``, ``total_bytes``, ``bytes_downloaded``
            (over the network), ``bytes_wasted`` (those of them that were thrown away), ``bytes_by_source``
            (a dict of those that came over the network, by ``scheme://host:port``), ``bytes_resumed`` (that
            earlier sessions left), ``duration_seconds``, ``average_speed_bps``, ``peak_speed_bps`` (of
            the best second), ``completion_rate`` (percent of the bytes that are on disk),
            ``concurrent_downloads`` (connections that were in use at once, at the most), ``retry_count``,
            ``bandwidth_limited_time`` (seconds, added up over connections), ``failed_files`` (``file_path``
            and ``error`` each). For an unknown id ``success`` is false and ``error`` says so.
        """
        found = self._find(queue_id)
        if found is None:
            return {"success": False, "queue_id": queue_id, "error": f"unknown queue: {queue_id}"}
        over = True
        if isinstance(found, QueueRun):
            outcome = found.outcome
            over = DownloadHandle(self._scheduler, outcome).wait(timeout)
            found = outcome.status or self._scheduler.status(found)
        else:
            self._scheduler.note_told(found.queue_id)
        return {**found.as_dict(), "success": over and not found.files_failed, "timed_out": not over}

    def get_model_queue_status(self, queue_id: str) -> dict[str, Any] | None:
        """Return how far a queue has come: what :meth:`wait_for_model_completion` returns, and more.

        These are ``priority``, ``active_tasks``, ``bytes_done`` (on disk, those of earlier sessions
        included), ``speed_bps`` and ``connections`` (both now), and ``waiting_for`` (another process that
        fetches a file).

        Returns:
            ``None`` for an unknown id.
        """
        found = self._find(queue_id)
        if isinstance(found, QueueRun):
            found = self._scheduler.status(found)
        if found is None:
            return None
        if found.state.final:
            self._scheduler.note_told(found.queue_id)
        return found.as_dict()

    def get_download_stats(self) -> dict[str, Any]:
        """Return plain values about the whole manager.

        Returns:
            In files: ``active_downloads``, ``queued_downloads`` (with those that wait for another process),
            ``completed_downloads``, ``failed_downloads`` (not those that were cancelled). In bytes:
            ``total_bytes_downloaded`` (over the network), ``bytes_wasted`` (those of them that were thrown
            away). ``average_speed_bps`` is the mean over the ``busy_seconds`` in which there was anything to
            fetch. ``uptime_seconds``. ``connection_pool``, also as ``pool``: see
            :meth:`hf_haul.transports.pool.ConnectionPool.get_stats`. All since the manager was made; in a
            forked child, since its first use there.

            Of the engine: ``queues``, ``files_active``, ``files_waiting``, ``files_done``, ``files_failed``,
            ``bytes_transferred``, ``connections``, ``speed_bps``, ``threads``, ``paused``; ``sources``: the
            adaptive limit of each source, its phase, why it backed off, and connections in use; ``measured``:
            speed of one connection and time to first byte, by source; ``max_bandwidth_bps``,
            ``bandwidth_limited_time``; ``asked_to_wait``: seconds by origin.
        """
        engine = self._engine
        now, pool = engine.snapshot(), self._pool.get_stats()
        nbytes, busy = now["bytes_transferred"], now["busy_seconds"]
        return {
            **now,
            "active_downloads": now["files_active"],
            "queued_downloads": now["files_waiting"],
            "completed_downloads": now["files_done"],
            "failed_downloads": now["files_failed"],
            "total_bytes_downloaded": nbytes,
            "average_speed_bps": nbytes / busy if busy > 0 else 0.0,
            "uptime_seconds": time.monotonic() - self._began,
            "measured": engine.history.as_dict(),
            "max_bandwidth_bps": self._limiter.max_bps,
            "bandwidth_limited_time": self._limiter.throttled_seconds,
            "asked_to_wait": self._rate_limits.waiting_for(),
            "connection_pool": pool,
            "pool": pool,
        }

    def __repr__(self) -> str:
        """Say what the manager is at, for people."""
        if self._closed:
            return f"<{type(self).__name__}: shut down>"
        if self._pid != os.getpid():
            return f"<{type(self).__name__}: idle>"  # the parent's downloads are not ours
        now = self._scheduler.snapshot()
        names = {
            "queues": "queues",
            "files_active": "active",
            "files_waiting": "waiting",
            "files_done": "done",
        }
        names |= {"files_failed": "failed", "connections": "connections"}
        limit = self._limiter.max_bps
        said = [
            *(f"{word} {now[name]}" for name, word in names.items()),
            f"speed {rate_in_words(now['speed_bps'])}",
            f"limit {'none' if limit is None else rate_in_words(limit)}",
            *(["paused"] if now["paused"] else []),
        ]
        return f"<{type(self).__name__}: {', '.join(said)}>"

    def _find(self, queue_id: object) -> QueueRun | QueueStatus | None:
        # Whatever else was passed, there is no such queue.
        return self._engine.find(queue_id) if isinstance(queue_id, str) else None

    # ---- steering

    def cancel_model_download(self, queue_id: str) -> bool:
        """Stop a queue, or a single task; what was fetched stays staged.

        Returns:
            Whether there was anything to stop.
        """
        found = self._find(queue_id)
        return isinstance(found, QueueRun) and self._engine.cancel(found)

    def pause_downloads(self, queue_id: str | None = None) -> bool:
        """Stop fetching, and keep every place in the queue.

        Args:
            queue_id: Which queue; ``None`` for all.

        Returns:
            ``False`` for an unknown id.
        """
        return self._steer(self._engine.pause, queue_id)

    def resume_downloads(self, queue_id: str | None = None) -> bool:
        """Go on after :meth:`pause_downloads`.

        Args:
            queue_id: Which queue; ``None`` for all.

        Returns:
            ``False`` for an unknown id.
        """
        return self._steer(self._engine.resume, queue_id)

    def _steer(self, action: Callable[[QueueRun | None], None], queue_id: str | None) -> bool:
        found = None if queue_id is None else self._find(queue_id)
        if isinstance(found, QueueRun):
            action(found)
        elif queue_id is None:
            action(None)
        return queue_id is None or found is not None

    @property
    def max_bandwidth_bps(self) -> float | None:
        """The limit over all connections in bytes per second; set it at any time, ``None`` lifts it."""
        return self._limiter.max_bps

    @max_bandwidth_bps.setter
    def max_bandwidth_bps(self, value: float | str | None) -> None:
        self._limiter.max_bps = parse_rate(value, "max_bandwidth_bps")

    def nudge(self) -> None:
        """Look for work: whoever assigns the parts of files has something new."""
        self._scheduler.nudge()

    def optimize_performance(self) -> dict[str, Any]:
        """Look for the best number of connections anew, and close connections long unused.

        Returns:
            ``sources``: what changed, by source: ``connections_before`` and ``connections`` (the limit, from
            which the search starts anew), ``phase_before`` and ``phase``; ``closed_sessions``: how many.
        """
        return {
            "sources": self._engine.retune(),
            "closed_sessions": self._pool.cleanup_stale_sessions(60.0),
        }

    def shutdown(self, *, wait: bool = True) -> None:
        """End every thread and connection; idempotent. Results stay readable.

        Args:
            wait: Whether to finish first what was asked for and is not paused. If not, downloads in progress
                stop within a moment and stay resumable.
        """
        engine = self._engine
        self._closed = True
        try:
            engine.shutdown(wait_for_work=wait)
        finally:
            self._pool.close()
            _managers.pop(id(self), None)
            with self._lock:
                extents, self._extents, self._look_ahead = self._extents, None, None
                telling: list[Notifier | EventBus | EventFeed] = [*self._notifiers, self.events]
                if self.event_feed is not None:
                    telling.append(self.event_feed)
            del extents  # with the files that were too large for memory
            catch_up()
            deadline = time.monotonic() + _CALLBACK_GRACE
            for each in telling:
                each.flush(deadline - time.monotonic())

    def __enter__(self) -> ParallelDownloadManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(wait=kind is None)


#: Managers that are not shut down, by id. Changed by single operations on a dict, which the collector may
#: interrupt.
_managers: Final[dict[int, weakref.ref[ParallelDownloadManager]]] = {}
_default_lock = threading.Lock()
_default: ParallelDownloadManager | None = None


def default_manager() -> ParallelDownloadManager:
    """Return the process-wide manager, made from ``HF_HAUL_*`` settings at first use and closed at exit."""
    global _default
    with _default_lock:
        if _default is None or _default._closed:  # noqa: SLF001  the module's own class
            _default = ParallelDownloadManager()
        return _default


@atexit.register
def _close_managers() -> None:
    for reference in list(_managers.values()):
        manager = reference()
        if manager is not None and manager._pid == os.getpid():  # noqa: SLF001  the module's own class
            manager.shutdown(wait=False)


def _reset_after_fork() -> None:
    global _default_lock
    _default_lock = threading.Lock()


call_after_fork(_reset_after_fork)
