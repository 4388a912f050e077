"""``snapshot_download``: huggingface_hub's function on our engine.

The file is this long because type checkers need the signature four times: that, and what its arguments mean,
is a half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from huggingface_hub import DryRunFileInfo, constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    validate_hf_hub_args,
)

from hf_haul.engine.events import EventCallback
from hf_haul.hub.call_options import CallOptions, ProgressCallback, TqdmClass
from hf_haul.hub.presets import Preset
from hf_haul.hub.snapshot_call import make_snapshot_call
from hf_haul.task import DownloadPriority

if TYPE_CHECKING:
    from hf_haul.manager import ParallelDownloadManager

__all__ = ["snapshot_download"]

_DEFAULT_WORKERS: Final = 8


@overload
def snapshot_download(
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    user_agent: dict[str, Any] | str | None = None,
    etag_timeout: float = constants.DEFAULT_ETAG_TIMEOUT,
    force_download: bool = False,
    token: bool | str | None = None,
    local_files_only: bool = False,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    max_workers: int = _DEFAULT_WORKERS,
    tqdm_class: TqdmClass | None = None,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    dry_run: Literal[False] = False,
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    on_event: EventCallback | None = None,
    manager: ParallelDownloadManager | None = None,
    presets: Preset | Sequence[Preset] | None = None,
    sources: Sequence[str] | None = None,
) -> str: ...


@overload
def snapshot_download(
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    user_agent: dict[str, Any] | str | None = None,
    etag_timeout: float = constants.DEFAULT_ETAG_TIMEOUT,
    force_download: bool = False,
    token: bool | str | None = None,
    local_files_only: bool = False,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    max_workers: int = _DEFAULT_WORKERS,
    tqdm_class: TqdmClass | None = None,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    dry_run: Literal[True],
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    on_event: EventCallback | None = None,
    manager: ParallelDownloadManager | None = None,
    presets: Preset | Sequence[Preset] | None = None,
    sources: Sequence[str] | None = None,
) -> list[DryRunFileInfo]: ...


@overload
def snapshot_download(
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    user_agent: dict[str, Any] | str | None = None,
    etag_timeout: float = constants.DEFAULT_ETAG_TIMEOUT,
    force_download: bool = False,
    token: bool | str | None = None,
    local_files_only: bool = False,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    max_workers: int = _DEFAULT_WORKERS,
    tqdm_class: TqdmClass | None = None,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    dry_run: bool,
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    on_event: EventCallback | None = None,
    manager: ParallelDownloadManager | None = None,
    presets: Preset | Sequence[Preset] | None = None,
    sources: Sequence[str] | None = None,
) -> str | list[DryRunFileInfo]: ...


@validate_hf_hub_args
def snapshot_download(
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    user_agent: dict[str, Any] | str | None = None,
    etag_timeout: float = constants.DEFAULT_ETAG_TIMEOUT,
    force_download: bool = False,
    token: bool | str | None = None,
    local_files_only: bool = False,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    max_workers: int = _DEFAULT_WORKERS,
    tqdm_class: TqdmClass | None = None,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    on_event: EventCallback | None = None,
    manager: ParallelDownloadManager | None = None,
    presets: Preset | Sequence[Preset] | None = None,
    sources: Sequence[str] | None = None,
) -> str | list[DryRunFileInfo]:
    """Download a repository's files, as :func:`huggingface_hub.snapshot_download` does.

    The arguments up to ``dry_run`` are upstream's and mean the same. One file's failure does not stop the
    others: the first error is raised when all have ended, with the others as its notes. After an interrupt,
    an error or a kill the next call goes on from what was fetched.

    Args:
        repo_id: ``org/name`` or ``name``.
        repo_type: ``model`` (the default), ``dataset``, ``space`` or ``kernel``.
        revision: Branch, tag, ``refs/pr/N`` or commit; ``main`` by default.
        cache_dir: The cache; ``HF_HUB_CACHE`` by default.
        local_dir: Put plain files here and not into the cache.
        library_name: For the user agent.
        library_version: For the user agent.
        user_agent: For the user agent.
        etag_timeout: Seconds that the Hub may take to answer as long as the cache may help instead.
        force_download: Fetch every file anew.
        token: A token, ``True`` for the stored one, ``False`` for none.
        local_files_only: Do not touch the network.
        allow_patterns: Only files that match one of these.
        ignore_patterns: No file that matches one of these.
        max_workers: Files in flight at once. Left at its default, the engine decides.
        tqdm_class: A class, or any callable, that imitates tqdm.
        headers: Further headers for the Hub.
        endpoint: The Hub's URL.
        dry_run: Tell what would be downloaded; nothing is written.
        priority: Urgency among all downloads of the manager.
        max_bandwidth: Limit in bytes per second, or a text such as ``50MB/s``.
        max_connections: Most connections at once.
        verify: Whether digests are checked; they are by default.
        progress_callback: Called with each file's progress.
        on_event: Called with every event, a plain dict; ``examples/events.md`` has its fields. Called on one
            thread, in order, and never under a lock; what it raises is logged, and while it blocks the
            download goes on.
        manager: The manager to use; a process-wide one by default.
        presets: Rules that pick among formats of the same weights, see :mod:`hf_haul.hub.presets`.
        sources: URLs of servers that have the same repository under the same paths, such as mirrors and
            ``hf-haul serve``: they are asked for bytes, too, and never believed; see
            ``examples/many-machines.md``. By default those of the settings (``HF_HAUL_SOURCES``).

    Returns:
        The snapshot's folder, or what would be downloaded if ``dry_run``.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: The Hub refuses; its subclasses say why.
        huggingface_hub.errors.LocalEntryNotFoundError: The Hub cannot be reached, and the cache does not
            help.
        UnsafePathError: A file's name would lead out of its folder; nothing was written.
        IntegrityError: A file's digest was wrong twice.
        TransferError: A file could not be fetched; the subclasses say why.
    """
    return make_snapshot_call(
        repo_id,
        repo_type=repo_type,
        revision=revision,
        cache_dir=cache_dir,
        local_dir=local_dir,
        library_name=library_name,
        library_version=library_version,
        user_agent=user_agent,
        etag_timeout=etag_timeout,
        force_download=force_download,
        token=token,
        local_files_only=local_files_only,
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
        tqdm_class=tqdm_class,
        headers=headers,
        endpoint=endpoint,
        dry_run=dry_run,
        presets=presets,
        options=CallOptions(
            priority=priority,
            max_bandwidth=max_bandwidth,
            max_connections=max_connections,
            verify=verify,
            progress_callback=progress_callback,
            on_event=on_event,
            manager=manager,
            max_workers=None if max_workers == _DEFAULT_WORKERS else max_workers,
            sources=sources,
        ),
    ).run()
