"""``plan``: what a download would do, without doing it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from huggingface_hub import ResolvedRevision, constants
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    validate_hf_hub_args,
)

from hf_haul.cancellation import CancelToken
from hf_haul.config import parse_rate
from hf_haul.engine.events import EventCallback
from hf_haul.engine.plan import PlannedFile, count_parts, part_size
from hf_haul.failures import describe
from hf_haul.hub.asking import is_busy, is_offline, uncached_timeout, wait_as_requested
from hf_haul.hub.call_options import (
    CallOptions,
    absolute_path,
    checked_repo_type,
    effective_etag_timeout,
    raise_all,
)
from hf_haul.hub.download_plan import DownloadPlan, FilePlan
from hf_haul.hub.fallback import HubUnreachable, snapshot_error
from hf_haul.hub.file_listing import FileListing
from hf_haul.hub.local_dir import is_current
from hf_haul.hub.metadata import FileMetadata, is_commit
from hf_haul.hub.presets import Preset
from hf_haul.hub.repository import Repository
from hf_haul.hub.snapshot_files import Listing, SnapshotFiles
from hf_haul.hub.upstream_cache import is_in_shared_store, read_tree
from hf_haul.manager import ParallelDownloadManager
from hf_haul.ranges import ByteRange
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.storage.free_space import free_bytes, space_needed
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.resumable import Resumable, find_resumable
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.task import FileRequest

__all__ = ["plan"]

#: Entries of one page of the Hub's listing.
_PAGE: Final = 1000


@validate_hf_hub_args
def plan(
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    presets: Preset | Sequence[Preset] | None = None,
    named: Sequence[str] = (),
    force_download: bool = False,
    etag_timeout: float = constants.DEFAULT_ETAG_TIMEOUT,
    token: bool | str | None = None,
    endpoint: str | None = None,
    headers: dict[str, str] | None = None,
    rate: float | str | None = None,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    on_event: EventCallback | None = None,
    manager: ParallelDownloadManager | None = None,
) -> DownloadPlan:
    """Return what :func:`hf_haul.snapshot_download` would do with the same arguments; nothing is written.

    The Hub is asked for the commit and, unless a listing of it is kept, for its files. If it cannot be
    reached, a kept listing has to do.

    Args:
        repo_id: ``org/name`` or ``name``.
        repo_type: ``model`` (the default), ``dataset``, ``space`` or ``kernel``.
        revision: Branch, tag, ``refs/pr/N`` or commit; ``main`` by default.
        cache_dir: The cache; ``HF_HUB_CACHE`` by default.
        local_dir: The folder for plain files, where they are not to go into the cache.
        allow_patterns: Only files that match one of these.
        ignore_patterns: No file that matches one of these.
        presets: Rules that pick among formats, see :mod:`hf_haul.hub.presets`.
        named: Files, folders (with a slash at the end) and patterns that have to stand for a file each.
        force_download: Whether every file is fetched anew.
        etag_timeout: Seconds that the Hub may take to answer as long as a kept listing may help instead.
        token: A token, ``True`` for the stored one, ``False`` for none.
        endpoint: The Hub's URL.
        headers: Further headers for the Hub.
        rate: Bytes per second, or a text such as ``100MB/s``, to say how long it takes; by default the
            bandwidth limit, where there is one.
        max_bandwidth: As for the download.
        max_connections: As for the download.
        on_event: Called with every event, a plain dict: what is waited for, and then the plan.
        manager: The manager that would download; a process-wide one by default.

    Returns:
        The files in the order in which they are begun, bytes, requests, room on the disk, and time.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: The Hub refuses; its subclasses say why.
        huggingface_hub.errors.EntryNotFoundError: A file that is ``named`` is not there.
        huggingface_hub.errors.LocalEntryNotFoundError: The Hub cannot be reached, and no listing is kept.
        UnsafePathError: A file's name would lead out of its folder.
    """
    options = CallOptions(
        max_bandwidth=max_bandwidth, max_connections=max_connections, manager=manager, on_event=on_event
    )
    files = SnapshotFiles(
        repository=Repository(
            repo_id=repo_id,
            repo_type=checked_repo_type(repo_type),
            endpoint=endpoint,
            token=token,
            headers=headers,
            timings=options.timings,
        ),
        revision=revision or constants.DEFAULT_REVISION,
        cache_dir=absolute_path(constants.HF_HUB_CACHE if cache_dir is None else cache_dir),
        local_dir=None if local_dir is None else absolute_path(local_dir),
        etag_timeout=effective_etag_timeout(etag_timeout),
        force_download=force_download,
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
        presets=(presets,) if isinstance(presets, str) else tuple(presets or ()),
        read_only=True,
        max_listing=options.max_listing,
        named=tuple(named),
    )
    wanted_rate = parse_rate(rate, "rate")
    with options.engine() as engine, options.events(repo_id) as events:
        files = replace(files, repository=events.attended(files.repository))
        found = _Planning(files, engine, wanted_rate or engine.max_bandwidth_bps).run()
        events.plan(
            ((each.size, each.state == "present", True) for each in found.files),
            folder=found.path,
            revision=found.revision,
            commit=found.commit,
            path=found.path,
            dry_run=True,
        )
        return found


@dataclass
class _Planning:
    """One call of ``plan``."""

    files: SnapshotFiles
    manager: ParallelDownloadManager
    rate: float | None
    hub_error: str | None = None
    _staged: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    def run(self) -> DownloadPlan:
        commit, listing = self._find()
        asking = self._requests_for_listing(commit, listing)
        selected = self.files.choose(listing)
        known, failed = self.files.repository.complete_metadata(
            FileListing.of(listing).only(selected), commit, timeout=uncached_timeout()
        )
        if failed:
            raise_all(list(failed.items()))
        # Without asking whether links work here: that is tried on the disk.
        folder = RepoFolder(self.files.cache_dir, self.files.repository.folder_name)
        local = (
            None
            if self.files.local_dir is None
            else LocalFolder(self.files.local_dir, self.files.repository.name)
        )
        requests = [self._request(folder, local, path, meta) for path, meta in known.items()]
        here = {path for path, meta in known.items() if self._is_here(folder, local, path, meta)}
        ordered = self.manager.plan(requests, model_id=self.files.repository.repo_id).files
        to_fetch = [each for each in ordered if each.request.remote.path not in here]
        present = [_present(each) for each in ordered if each.request.remote.path in here]
        plans = [*self._to_fetch(to_fetch), *present]
        nbytes = sum(each.bytes_to_fetch or 0 for each in plans)
        root = folder.snapshot(commit) if local is None else local.root
        return DownloadPlan(
            repo_id=self.files.repository.repo_id,
            repo_type=self.files.repository.repo_type,
            revision=self.files.revision,
            commit=commit,
            path=root,
            files=tuple(plans),
            bytes_total=sum(each.size or 0 for each in plans),
            bytes_here=sum(each.bytes_here for each in plans),
            bytes_to_fetch=nbytes,
            requests=asking
            + sum(not meta.listed for meta in known.values())
            + sum(each.requests for each in plans),
            disk_needed=space_needed(each.request for each in to_fetch)
            + self._copied_bytes(folder, local, known, here),
            disk_free=free_bytes(Path(root)),
            unknown_sizes=sum(each.bytes_to_fetch is None for each in plans),
            rate=self.rate,
            seconds=None if not self.rate else nbytes / self.rate,
            asked_hub=self.hub_error is None,
            hub_error=self.hub_error,
        )

    # ---- which files

    def _find(self) -> tuple[str, Listing]:
        """Return the commit and its files, from the kept listing where the Hub does not answer."""
        if not is_offline():
            try:
                return self.files.ask(retry=False)
            except HubUnreachable as unreachable:
                error: Exception = unreachable.error
                commit = unreachable.commit
            kept = self._kept(commit)
            if kept is None and is_busy(error):
                try:
                    wait_as_requested(error, self.files.repository.waits, self.files.repository.timings)
                    return self.files.ask(retry=True)
                except HubUnreachable as again:
                    error = again.error
        else:
            error, kept = OfflineModeIsEnabled(), self._kept(None)
        if kept is None:
            verdict = snapshot_error(error)
            if verdict is error:
                raise error
            raise verdict from error
        self.hub_error = describe(error).text
        return kept

    def _kept(self, commit: str | None) -> tuple[str, Listing] | None:
        revision = self.files.revision
        if isinstance(revision, ResolvedRevision):
            commit = revision.resolved
        elif is_commit(revision):
            commit = revision
        if commit is None:
            folder = RepoFolder(self.files.cache_dir, self.files.repository.folder_name)
            commit = folder.read_ref(revision)
        listing = None if commit is None else read_tree(self.files.tree_folder, commit)
        return None if commit is None or listing is None else (commit, listing)

    def _requests_for_listing(self, commit: str, listing: Listing) -> int:
        fixed = is_commit(self.files.revision) or isinstance(self.files.revision, ResolvedRevision)
        kept = not self.files.force_download and read_tree(self.files.tree_folder, commit) is not None
        return (not fixed) + (0 if kept else max(1, math.ceil(len(listing) / _PAGE)))

    # ---- what there is of them

    def _request(
        self, folder: RepoFolder, local: LocalFolder | None, path: str, meta: FileMetadata
    ) -> FileRequest:
        return FileRequest(
            remote=self.files.repository.remote_file(path, meta),
            destination=_blob(folder, path, meta)
            if local is None
            else LocalDirDestination(local, path, meta.commit, meta.etag),
            fresh=self.files.force_download,
        )

    def _is_here(self, folder: RepoFolder, local: LocalFolder | None, path: str, meta: FileMetadata) -> bool:
        if self.files.force_download:
            return False
        blob = _blob(folder, path, meta)
        if local is not None:
            return is_current(local, path, meta, CancelToken()) or blob.is_linked()
        return blob.is_linked() or blob.has_blob() or is_in_shared_store(self.files.cache_dir, meta)

    def _copied_bytes(
        self,
        folder: RepoFolder,
        local: LocalFolder | None,
        known: Mapping[str, FileMetadata],
        here: set[str],
    ) -> int:
        """Return the bytes of files that a ``local_dir`` gets from the cache."""
        if local is None:
            return 0
        return sum(
            known[path].size or 0
            for path in here
            if not os.path.isfile(local.file(path)) and _blob(folder, path, known[path]).is_linked()
        )

    # ---- what is to be fetched

    def _to_fetch(self, files: Sequence[PlannedFile]) -> list[FilePlan]:
        found = []
        begun: set[tuple[Path, str]] = set()
        for each in files:
            destination = each.request.destination
            content = destination.staging_dir, destination.staging_key
            found.append(_present(each) if content in begun else self._absent(each))
            begun.add(content)
        return found

    def _absent(self, each: PlannedFile) -> FilePlan:
        remote, size = each.request.remote, each.task.size
        staged = Resumable(()) if size is None else self._resumable(each.request, size)
        settings = self.manager.settings
        limit = part_size(size or 0, settings.initial_connections, settings)
        parts = 1 if size is None else count_parts(staged.missing, limit)
        return FilePlan(
            path=remote.path,
            size=size,
            state="partial" if staged.done else "absent",
            priority=_priority(each),
            bytes_here=staged.done,
            bytes_to_fetch=None if size is None else size - staged.done,
            requests=parts + 1 if parts else 0,  # one is redirected to where the bytes are
            fetched_by=staged.fetched_by,
        )

    def _resumable(self, request: FileRequest, size: int) -> Resumable:
        settings, destination = self.manager.settings, request.destination
        if request.fresh or not settings.enable_resume:
            return Resumable((ByteRange(0, size),) if size else ())
        folder = destination.staging_dir
        if folder not in self._staged:
            self._staged[folder] = scan_orphans(folder)
        keys = (destination.staging_key, *destination.former_keys)
        return find_resumable(
            [path for key in keys for path in self._staged[folder].get(key, ())],
            keys,
            size,
            sequential=settings.write_mode == "sequential",
            digest_known=request.remote.digest is not None and settings.verify,
        )


def _blob(folder: RepoFolder, path: str, meta: FileMetadata) -> BlobDestination:
    return BlobDestination(folder, meta.commit, path, meta.etag, meta.size, meta.xet_hash)


def _present(each: PlannedFile) -> FilePlan:
    size = each.task.size
    return FilePlan(each.request.remote.path, size, "present", _priority(each), size or 0, 0)


def _priority(each: PlannedFile) -> Literal["HIGH", "NORMAL", "LOW"]:
    name: Literal["HIGH", "NORMAL", "LOW"] = each.task.priority.name  # type: ignore[assignment]  # its members' names
    return name
