"""``hf_hub_download``: huggingface_hub's function on our engine.

Long because half of it is signatures: three overloads with upstream's arguments, each of them documented.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from huggingface_hub import DryRunFileInfo, ResolvedRevision, constants
from huggingface_hub import hf_hub_download as upstream_hf_hub_download
from huggingface_hub.errors import (
    FileMetadataError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    validate_hf_hub_args,
)

from hf_haul.cancellation import CancelToken
from hf_haul.engine.events import EventCallback
from hf_haul.hub.asking import (
    UNREACHABLE,
    ProxyError,
    is_offline,
    is_transient,
    uncached_timeout,
    wait_as_requested,
)
from hf_haul.hub.bars import bars_of_one_file
from hf_haul.hub.call_events import CallEvents
from hf_haul.hub.call_options import (
    CallOptions,
    ProgressCallback,
    TqdmClass,
    absolute_path,
    checked_repo_type,
    effective_etag_timeout,
    raise_all,
)
from hf_haul.hub.fallback import HubUnreachable, detach_tracebacks, file_error
from hf_haul.hub.local_dir import LONG_CHECK, checking, reuse_file
from hf_haul.hub.metadata import FileMetadata, is_commit, metadata_from_listing
from hf_haul.hub.repo_sources import checkable, sources_of_call
from hf_haul.hub.repository import Repository
from hf_haul.hub.tokens import protect_secrets
from hf_haul.hub.upstream_cache import (
    cache_folder,
    drop_tree,
    missing_in_tree,
    read_tree_entry,
    tree_folder,
)
from hf_haul.hub.wait_bars import WaitBar
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.safe_paths import require_outside_metadata, require_safe_path
from hf_haul.task import (
    Destination,
    DownloadPriority,
    FileRequest,
)

if TYPE_CHECKING:
    from hf_haul.manager import ParallelDownloadManager

__all__ = ["hf_hub_download"]

logger = logging.getLogger(__name__)

_NO_METADATA: Final[tuple[type[Exception], ...]] = (*UNREACHABLE, FileMetadataError)


@overload
def hf_hub_download(
    repo_id: str,
    filename: str,
    *,
    subfolder: str | None = None,
    repo_type: str | None = None,
    revision: str | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    user_agent: dict[str, Any] | str | None = None,
    force_download: bool = False,
    etag_timeout: float = constants.DEFAULT_ETAG_TIMEOUT,
    token: bool | str | None = None,
    local_files_only: bool = False,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    tqdm_class: TqdmClass | None = None,
    dry_run: Literal[False] = False,
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    on_event: EventCallback | None = None,
    manager: ParallelDownloadManager | None = None,
    sources: Sequence[str] | None = None,
) -> str: ...


@overload
def hf_hub_download(
    repo_id: str,
    filename: str,
    *,
    subfolder: str | None = None,
    repo_type: str | None = None,
    revision: str | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    user_agent: dict[str, Any] | str | None = None,
    force_download: bool = False,
    etag_timeout: float = constants.DEFAULT_ETAG_TIMEOUT,
    token: bool | str | None = None,
    local_files_only: bool = False,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    tqdm_class: TqdmClass | None = None,
    dry_run: Literal[True],
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    on_event: EventCallback | None = None,
    manager: ParallelDownloadManager | None = None,
    sources: Sequence[str] | None = None,
) -> DryRunFileInfo: ...


@overload
def hf_hub_download(
    repo_id: str,
    filename: str,
    *,
    subfolder: str | None = None,
    repo_type: str | None = None,
    revision: str | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    user_agent: dict[str, Any] | str | None = None,
    force_download: bool = False,
    etag_timeout: float = constants.DEFAULT_ETAG_TIMEOUT,
    token: bool | str | None = None,
    local_files_only: bool = False,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    tqdm_class: TqdmClass | None = None,
    dry_run: bool,
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    on_event: EventCallback | None = None,
    manager: ParallelDownloadManager | None = None,
    sources: Sequence[str] | None = None,
) -> str | DryRunFileInfo: ...


@validate_hf_hub_args
def hf_hub_download(
    repo_id: str,
    filename: str,
    *,
    subfolder: str | None = None,
    repo_type: str | None = None,
    revision: str | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    user_agent: dict[str, Any] | str | None = None,
    force_download: bool = False,
    etag_timeout: float = constants.DEFAULT_ETAG_TIMEOUT,
    token: bool | str | None = None,
    local_files_only: bool = False,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    tqdm_class: TqdmClass | None = None,
    dry_run: bool = False,
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    on_event: EventCallback | None = None,
    manager: ParallelDownloadManager | None = None,
    sources: Sequence[str] | None = None,
) -> str | DryRunFileInfo:
    """Download one file of a repository, as :func:`huggingface_hub.hf_hub_download` does.

    The arguments up to ``dry_run`` are upstream's and mean the same.

    Args:
        repo_id: ``org/name`` or ``name``.
        filename: The file's path in the repository.
        subfolder: A folder in the repository that ``filename`` is relative to.
        repo_type: ``model`` (the default), ``dataset``, ``space`` or ``kernel``.
        revision: Branch, tag, ``refs/pr/N`` or commit; ``main`` by default.
        library_name: For the user agent.
        library_version: For the user agent.
        cache_dir: The cache; ``HF_HUB_CACHE`` by default.
        local_dir: Put a plain file here and not into the cache.
        user_agent: For the user agent.
        force_download: Fetch the file anew.
        etag_timeout: Seconds that the Hub may take to answer as long as the cache may help instead.
        token: A token, ``True`` for the stored one, ``False`` for none.
        local_files_only: Do not touch the network.
        headers: Further headers for the Hub.
        endpoint: The Hub's URL.
        tqdm_class: A class, or any callable, that imitates tqdm.
        dry_run: Tell what would be downloaded; nothing is written.
        priority: Urgency among all downloads of the manager.
        max_bandwidth: Limit in bytes per second, or a text such as ``50MB/s``.
        max_connections: Most connections at once.
        verify: Whether the digest is checked; it is by default.
        progress_callback: Called with the file's progress.
        on_event: Called with every event, a plain dict; ``examples/events.md`` has its fields. Called on one
            thread, in order, and never under a lock; what it raises is logged, and while it blocks the
            download goes on.
        manager: The manager to use; a process-wide one by default.
        sources: URLs of servers that have the same repository under the same paths, such as mirrors and
            ``hf-haul serve``: they are asked for bytes, too, and never believed; see
            ``examples/many-machines.md``. By default those of the settings (``HF_HAUL_SOURCES``).

    Returns:
        The file's path, or what would be downloaded if ``dry_run``.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: The Hub refuses; its subclasses say why.
        huggingface_hub.errors.LocalEntryNotFoundError: The Hub cannot be reached, and the cache does not
            help.
        UnsafePathError: The file's name would lead out of its folder, or into the metadata folder of
            ``local_dir``.
        IntegrityError: The file's digest was wrong twice.
        TransferError: The file could not be fetched; the subclasses say why.
    """
    extras = CallOptions(
        priority=priority,
        max_bandwidth=max_bandwidth,
        max_connections=max_connections,
        verify=verify,
        progress_callback=progress_callback,
        on_event=on_event,
        manager=manager,
        sources=sources,
    )
    if isinstance(revision, ResolvedRevision):
        revision = revision.resolved
    return _File(
        repository=Repository(
            repo_id=repo_id,
            repo_type=checked_repo_type(repo_type),
            endpoint=endpoint,
            token=token,
            library_name=library_name,
            library_version=library_version,
            user_agent=user_agent,
            headers=headers,
            timings=extras.timings,
        ),
        name=f"{subfolder}/{filename}" if subfolder else filename,
        revision=revision or constants.DEFAULT_REVISION,
        cache_dir=absolute_path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir),
        local_dir=None if local_dir is None else absolute_path(local_dir),
        etag_timeout=effective_etag_timeout(etag_timeout),
        force_download=force_download,
        local_files_only=local_files_only,
        tqdm_class=tqdm_class,
        dry_run=dry_run,
        extras=extras,
    ).run()


@dataclass(frozen=True)
class _File:
    """One call of ``hf_hub_download``, which decides in upstream's order."""

    repository: Repository
    name: str
    revision: str
    cache_dir: str
    local_dir: str | None
    etag_timeout: float
    force_download: bool
    local_files_only: bool
    tqdm_class: TqdmClass | None
    dry_run: bool
    extras: CallOptions

    def run(self) -> str | DryRunFileInfo:
        bar = WaitBar(self.tqdm_class, "huggingface_hub.http_get")
        with self.extras.events(self.repository.repo_id, bar) as events:
            return replace(self, repository=events.attended(self.repository)).carry_out(events)

    def carry_out(self, events: CallEvents) -> str | DryRunFileInfo:
        """Carry the call out, and tell of it."""
        _ = self.repository.request_headers  # a missing token is an error even where none is needed
        require_safe_path(self.name)
        if self.local_dir is not None:
            require_outside_metadata(self.name)
        if self.dry_run or self.local_files_only or is_offline():
            # Upstream makes one request at most, and no download.
            answer = self._upstream(local_files_only=self.local_files_only)
            if isinstance(answer, str):
                self._tell_found(events, answer)
            else:
                events.plan_dry_run(
                    [answer], folder=self._root, revision=self.revision, path=answer.local_path
                )
            return answer
        folder = cache_folder(self.repository, self.cache_dir)
        local = None if self.local_dir is None else LocalFolder(self.local_dir, self.repository.name)
        if is_commit(self.revision) and not self.force_download:
            present = self._find_present(folder, local)
            if present is not None:
                self._tell_found(events, present)
                return present
        meta = self._cached_metadata(folder)
        if meta is None:
            asked = self._ask(folder)
            if not isinstance(asked, FileMetadata):
                self._tell_found(events, asked)
                return asked
            meta = asked
            self._check_cached_listing(folder, meta.commit)
        if local is not None:
            result = self._to_local_dir(folder, local, meta, events)
        else:
            result = self._to_cache(folder, meta, events)
        events.done(result)
        return result

    # -- what is told of it

    @property
    def _root(self) -> str:
        """Where bytes go."""
        return self.local_dir or self.cache_dir

    def _tell_found(self, events: CallEvents, path: str) -> None:
        events.found([path], folder=self._root, revision=self.revision, path=path)

    def _tell_plan(self, events: CallEvents, meta: FileMetadata, path: str, *, reused: bool) -> None:
        events.plan(
            [(meta.size, reused, reused)],
            folder=self._root,
            revision=self.revision,
            commit=meta.commit,
            path=path,
        )

    def _find_present(self, folder: RepoFolder, local: LocalFolder | None) -> str | None:
        """Return the file of a pinned commit, if present: the case without any request."""
        if local is None:
            pointer = folder.pointer(self.revision, self.name)
            try:
                size = os.stat(pointer).st_size
            except OSError:
                return None
            entry = read_tree_entry(tree_folder(folder.root, None), self.revision, self.name)
            return pointer if entry is None or entry.bytes == size else None
        noted = local.read_metadata(self.name)
        if noted is not None and noted.commit == self.revision:
            return self._local_path(local)
        return None

    def _local_path(self, local: LocalFolder) -> str:
        """Return the file's path as upstream does, without the ``.`` of ``./config.json``."""
        return os.path.normpath(local.file(self.name))

    def _cached_metadata(self, folder: RepoFolder) -> FileMetadata | None:
        """Return metadata of a file of a pinned commit from the cached listing."""
        if not is_commit(self.revision) or self.force_download:
            return None
        entry = read_tree_entry(tree_folder(folder.root, self.local_dir), self.revision, self.name)
        return None if entry is None else metadata_from_listing(self.revision, entry)

    def _check_cached_listing(self, folder: RepoFolder, commit: str) -> None:
        """Delete the cached listing of a commit if it lacks this file, which the Hub has just described."""
        folder_of_trees, name = tree_folder(folder.root, self.local_dir), posixpath.normpath(self.name)
        if missing_in_tree(folder_of_trees, commit, (name,)) is not None:
            drop_tree(folder_of_trees, commit, name)

    # -- asking the Hub

    def _ask(self, folder: RepoFolder) -> FileMetadata | str:
        """Return metadata from the Hub, or the cached file's path where the Hub does not answer."""
        try:
            return self._head(folder, retry=False)
        except HubUnreachable as question:
            error = question.error
        if not self.force_download:
            with contextlib.suppress(LocalEntryNotFoundError):
                cached = self._upstream(local_files_only=True)
                assert isinstance(cached, str)
                return cached
            if is_transient(error):
                logger.info("No local file found. Asking the Hub again")
                try:
                    wait_as_requested(error, self.repository.waits, self.repository.timings)
                    return self._head(folder, retry=True)
                except HubUnreachable as again:
                    error = again.error
        verdict = (
            ValueError("Force download failed due to the above error.")
            if self.force_download
            else file_error(error)
        )
        if verdict is error:
            raise error
        raise verdict from error

    def _head(self, folder: RepoFolder, *, retry: bool) -> FileMetadata:
        timeout = uncached_timeout() if retry else self.etag_timeout
        try:
            return self.repository.metadata(self.name, self.revision, timeout=timeout, retry=retry)
        except RemoteEntryNotFoundError as error:
            error.named_file = self.name  # type: ignore[attr-defined]  # any error takes attributes
            if self.local_dir is None:
                commit = error.response.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
                if commit is not None:
                    if posixpath.normpath(self.name) == self.name:  # "a.json/" says nothing of "a.json"
                        folder.note_absent(commit, self.name)
                    folder.write_ref(self.revision, commit)
            raise
        except (ProxyError, RevisionNotFoundError):
            raise
        except _NO_METADATA as error:
            detach_tracebacks(error)
            raise HubUnreachable(error, None) from None

    def _upstream(self, *, local_files_only: bool) -> str | DryRunFileInfo:
        repository = self.repository
        with protect_secrets(repository.base):
            answer: str | DryRunFileInfo = upstream_hf_hub_download(
                repository.repo_id,
                self.name,
                repo_type=repository.repo_type,
                revision=self.revision,
                library_name=repository.library_name,
                library_version=repository.library_version,
                cache_dir=self.cache_dir,
                local_dir=self.local_dir,
                user_agent=repository.user_agent,
                force_download=self.force_download,
                etag_timeout=self.etag_timeout,
                token=repository.token,
                local_files_only=local_files_only,
                headers=repository.headers,
                endpoint=repository.endpoint,
                tqdm_class=self.tqdm_class,
                dry_run=self.dry_run,
            )
        return answer

    # -- to disk

    def _to_cache(self, folder: RepoFolder, meta: FileMetadata, events: CallEvents) -> str:
        destination = BlobDestination(folder, meta.commit, self.name, meta.etag, meta.size, meta.xet_hash)
        pointer = folder.pointer(meta.commit, self.name)
        if not self.force_download and destination.is_linked():
            # The cache may be read-only, and nothing has to be written.
            with contextlib.suppress(OSError):
                folder.write_ref(self.revision, meta.commit)
            self._tell_plan(events, meta, pointer, reused=True)
            return pointer
        folder.prepare()
        folder.write_ref(self.revision, meta.commit)
        missing = self.force_download or not destination.is_present()
        self._tell_plan(events, meta, pointer, reused=not missing)
        if missing:
            self._fetch(meta, destination, events)
        return pointer

    def _to_local_dir(
        self, folder: RepoFolder, local: LocalFolder, meta: FileMetadata, events: CallEvents
    ) -> str:
        local.prepare()
        path = self._local_path(local)
        with self.repository.waits.during(checking(local.root), after=LONG_CHECK):
            missing = self.force_download or not reuse_file(local, folder, self.name, meta, CancelToken())
        self._tell_plan(events, meta, path, reused=not missing)
        if missing:
            self._fetch(meta, LocalDirDestination(local, self.name, meta.commit, meta.etag), events)
        return path

    def _fetch(self, meta: FileMetadata, destination: Destination, events: CallEvents) -> None:
        sources = sources_of_call(self.repository, meta.commit, self.extras)
        if sources:
            meta = checkable(self.repository, self.name, meta)
        request = FileRequest(
            remote=self.repository.remote_file(self.name, meta, sources),
            destination=destination,
            fresh=self.force_download,
        )
        make_bars = bars_of_one_file(self.tqdm_class, self.name, meta.size)
        errors = self.extras.download([request], self.repository.repo_id, make_bars, events)
        if errors:
            raise_all(
                [(path, self.repository.explain(self.name, meta.commit, error)) for path, error in errors]
            )
