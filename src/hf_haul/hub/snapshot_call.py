"""One call of ``snapshot_download``: which files, what of them is here, fetching the rest."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import DryRunFileInfo, ResolvedRevision, constants
from huggingface_hub import snapshot_download as upstream_snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    validate_hf_hub_args,
)

from hf_haul.cancellation import CancelToken
from hf_haul.hub.asking import is_busy, is_offline, uncached_timeout, wait_as_requested
from hf_haul.hub.bars import bars_of_a_snapshot
from hf_haul.hub.call_events import CallEvents
from hf_haul.hub.call_options import (
    CallOptions,
    TqdmClass,
    absolute_path,
    checked_repo_type,
    effective_etag_timeout,
    raise_all,
)
from hf_haul.hub.fallback import HubUnreachable, snapshot_error
from hf_haul.hub.file_listing import FileListing
from hf_haul.hub.known_files import KnownFiles
from hf_haul.hub.local_dir import LONG_CHECK, checking, is_current, reuse_files
from hf_haul.hub.metadata import FileMetadata, is_commit
from hf_haul.hub.named_files import require_named
from hf_haul.hub.presets import Preset
from hf_haul.hub.repo_sources import sources_of_call
from hf_haul.hub.repository import Repository
from hf_haul.hub.snapshot_events import files_in, tell_found, tell_plan
from hf_haul.hub.snapshot_files import Listing, SnapshotFiles
from hf_haul.hub.snapshot_requests import SnapshotRequests
from hf_haul.hub.upstream_cache import cache_folder, is_in_shared_store, read_tree
from hf_haul.hub.wait_bars import WaitBar
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.task import FileRequest, OtherSource

__all__ = ["ReadySnapshot", "SnapshotCall", "make_snapshot_call"]

logger = logging.getLogger(__name__)


@validate_hf_hub_args
def make_snapshot_call(
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
    tqdm_class: TqdmClass | None = None,
    headers: dict[str, str] | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
    presets: Preset | Sequence[Preset] | None = None,
    named: Sequence[str] = (),
    options: CallOptions | None = None,
) -> SnapshotCall:
    """Return a call that has not begun; the arguments are those of :func:`hf_haul.snapshot_download`.

    Those that huggingface_hub does not have are in ``options``. Files, folders (with a slash at the end) and
    patterns that are ``named`` have to stand for a file each.
    """
    options = CallOptions() if options is None else options
    return SnapshotCall(
        files=SnapshotFiles(
            repository=Repository(
                repo_id=repo_id,
                repo_type=checked_repo_type(repo_type),
                endpoint=endpoint,
                token=token,
                library_name=library_name,
                library_version=library_version,
                user_agent=user_agent,
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
            read_only=dry_run,
            max_listing=options.max_listing,
            named=tuple(named),
        ),
        local_files_only=local_files_only,
        tqdm_class=tqdm_class,
        dry_run=dry_run,
        options=options,
    )


@dataclass(frozen=True)
class ReadySnapshot:
    """What there is to do for a call.

    Attributes:
        commit: What its revision stands for.
        path: Where the caller finds the files.
        known: The files.
        failed: Those that the Hub does not tell enough about.
        requests: Those that are to be fetched.
    """

    commit: str
    path: str
    known: KnownFiles
    failed: Mapping[str, Exception]
    requests: SnapshotRequests


@dataclass(frozen=True)
class SnapshotCall:
    """One call of ``snapshot_download``."""

    files: SnapshotFiles
    local_files_only: bool
    tqdm_class: TqdmClass | None
    dry_run: bool
    options: CallOptions

    def run(self) -> str | list[DryRunFileInfo]:
        """Carry the call out; return the snapshot's folder, or what would be downloaded."""
        bar = WaitBar(self.tqdm_class, "huggingface_hub.snapshot_download")
        with self.options.events(self.files.repository.repo_id, bar) as events:
            call = self.attended(events)
            found = call.prepare()
            call.tell(found, events)
            if not isinstance(found, ReadySnapshot):
                return found
            errors = call.fetch(found.requests, events) if found.requests else []
            return call.finish(found, errors, events)

    def attended(self, events: CallEvents) -> SnapshotCall:
        """Return the call, with what it waits for told, too."""
        return replace(self, files=replace(self.files, repository=events.attended(self.files.repository)))

    def prepare(self) -> ReadySnapshot | str | list[DryRunFileInfo]:
        """Find out what there is to fetch; or return what the cache has, or what would be downloaded."""
        found: tuple[str, Listing] | str | list[DryRunFileInfo]
        if self.local_files_only or is_offline():
            # Upstream makes no request then; its return values and errors are the right ones.
            found = self._upstream(local_files_only=self.local_files_only)
        else:
            found = self._find()
        if not isinstance(found, tuple):
            self._require_named(found)
            return found
        commit, listing = found
        selected = self.files.choose(listing)
        listed = FileListing.of(listing)
        known, failed = self.files.repository.complete_metadata(
            listed if len(selected) == len(listed) else listed.only(selected),
            commit,
            timeout=uncached_timeout(),
        )
        folder = cache_folder(self.files.repository, self.files.cache_dir)
        if self.dry_run:
            if failed:
                raise_all(list(failed.items()))
            return [self._dry_run_info(folder, path, meta) for path, meta in known.items()]
        self._write_ref(folder, commit)
        sources = sources_of_call(self.files.repository, commit, self.options)
        if self.files.local_dir is None:
            requests = self._into_cache(folder, known, sources)
            result = folder.snapshot(commit)
        else:
            requests = self._into_local_dir(folder, known, sources)
            result = os.path.realpath(self.files.local_dir)
        return ReadySnapshot(commit, result, known, failed, requests)

    def tell(self, found: ReadySnapshot | str | list[DryRunFileInfo], events: CallEvents) -> None:
        """Tell what :meth:`prepare` found: a plan, and the end where nothing is to be fetched by us."""
        if isinstance(found, ReadySnapshot):
            tell_plan(events, self.files, found.commit, found.known, found.failed, found.requests, found.path)
        else:
            tell_found(events, self.files, found)

    def fetch(self, requests: Sequence[FileRequest], events: CallEvents) -> list[tuple[str, BaseException]]:
        """Download files; return what failed, the first failure first."""
        make_bars = bars_of_a_snapshot(self.tqdm_class, len(requests))
        return self.options.download(requests, self.files.repository.repo_id, make_bars, events)

    def finish(
        self, ready: ReadySnapshot, errors: Sequence[tuple[str, BaseException]], events: CallEvents
    ) -> str:
        """Return the snapshot's folder, and tell of the end.

        Args:
            ready: What there was to do.
            errors: What failed of it.
            events: Where to tell it.

        Raises:
            Exception: The first failure, with the others as its notes.
        """
        failures: list[tuple[str, BaseException]] = [*ready.failed.items(), *errors]
        if failures:
            explain = self.files.repository.explain
            raise_all([(path, explain(path, ready.commit, error)) for path, error in failures])
        events.done(ready.path)
        return ready.path

    def _require_named(self, found: str | list[DryRunFileInfo]) -> None:
        """Refuse names of files that the cache does not have."""
        if self.files.named:
            if isinstance(found, str):
                there = (os.path.relpath(path, found) for path in files_in(found, self.files))
                paths = {path.replace(os.sep, "/") for path in there}
            else:
                paths = {info.filename for info in found}
            require_named(self.files.named, paths, f"the cache, of {self.files.where}")

    # -- which commit, which files

    def _find(self) -> tuple[str, Listing] | str | list[DryRunFileInfo]:
        """Return the commit and its files, or the cached snapshot where the Hub does not answer."""
        try:
            return self.files.ask(retry=False)
        except HubUnreachable as unreachable:
            first = unreachable
        try:
            cached = self._from_cache(first)
        except (LocalEntryNotFoundError, DryRunError):
            if not is_busy(first.error):
                raise
            logger.info("Nothing complete in the cache: asking the Hub again")
        else:
            if not is_busy(first.error) or self._has_listing(cached, first.commit):
                logger.info("The Hub could not be asked (%s): going by what the cache has", first.error)
                return cached
            logger.info("Nothing tells whether the cached snapshot is complete: asking the Hub again")
        try:
            repository = self.files.repository
            wait_as_requested(first.error, repository.waits, repository.timings)
            return self.files.ask(retry=True)
        except HubUnreachable as again:
            return self._from_cache(again)

    # -- without the Hub

    def _from_cache(self, unreachable: HubUnreachable) -> str | list[DryRunFileInfo]:
        """Return the cached snapshot where the Hub does not answer, or raise upstream's errors."""
        error = unreachable.error
        revision = self.files.revision
        if unreachable.commit not in (None, revision) and not isinstance(revision, ResolvedRevision):
            revision = ResolvedRevision(resolved=unreachable.commit, initial=revision)
        try:
            return self._upstream(local_files_only=True, revision=revision)
        except IncompleteSnapshotError as found:
            text = str(found).replace(
                "Outgoing traffic is disabled ('local_files_only=True').",
                f"The Hub could not be reached ({type(error).__name__}: {error}).",
            )
            raise IncompleteSnapshotError(text, snapshot_path=found.snapshot_path) from error
        except DryRunError as found:
            raise DryRunError(*found.args) from error
        except LocalEntryNotFoundError:
            pass
        verdict = snapshot_error(error)
        if verdict is error:
            raise error
        raise verdict from error

    def _has_listing(self, cached: str | list[DryRunFileInfo], commit: str | None) -> bool:
        """Return whether a cached snapshot was compared with the listing of its commit.

        Without a listing huggingface_hub takes what is there for the snapshot, be it one file that
        ``hf_hub_download`` put there: right for a Hub that cannot be reached, and not for one that is busy at
        the moment.
        """
        if not isinstance(cached, str):
            return True
        if commit is None and self.files.local_dir is None:
            commit = os.path.basename(cached)
        return commit is not None and read_tree(self.files.tree_folder, commit) is not None

    def _upstream(self, *, local_files_only: bool, revision: str | None = None) -> str | list[DryRunFileInfo]:
        repository = self.files.repository
        revision = self.files.revision if revision is None else revision
        allow_patterns, ignore_patterns = self._patterns(revision)
        answer: str | list[DryRunFileInfo] = upstream_snapshot_download(
            repository.repo_id,
            repo_type=repository.repo_type,
            revision=revision,
            cache_dir=self.files.cache_dir,
            local_dir=self.files.local_dir,
            library_name=repository.library_name,
            library_version=repository.library_version,
            user_agent=repository.user_agent,
            etag_timeout=self.files.etag_timeout,
            force_download=self.files.force_download,
            token=repository.token,
            local_files_only=local_files_only,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            tqdm_class=self.tqdm_class,
            headers=repository.headers,
            endpoint=repository.endpoint,
            dry_run=self.dry_run,
        )
        return answer

    def _patterns(self, revision: str) -> tuple[list[str] | str | None, list[str] | str | None]:
        """Return patterns that make upstream select the files we would, if their listing is cached."""
        if not self.files.presets and self.files.local_dir is None:
            return self.files.allow_patterns, self.files.ignore_patterns
        if isinstance(revision, ResolvedRevision):
            commit: str | None = revision.resolved
        elif is_commit(revision):
            commit = revision
        else:
            commit = cache_folder(self.files.repository, self.files.cache_dir).read_ref(revision)
        listing = None if commit is None else read_tree(self.files.tree_folder, commit)
        reserved = self.files.in_metadata_folder(listing or ())
        if listing is None or not (self.files.presets or reserved):
            return self.files.allow_patterns, self.files.ignore_patterns
        return [glob.escape(path) for path in self.files.select(listing) if path not in reserved], None

    # -- to disk

    def _write_ref(self, folder: RepoFolder, commit: str) -> None:
        if isinstance(self.files.revision, ResolvedRevision):
            return  # whoever resolved it has written it
        try:
            folder.write_ref(self.files.revision, commit)
        except OSError as error:
            logger.warning(
                "Ignored error while writing commit hash to %s: %s.",
                os.path.join(folder.root, "refs", self.files.revision),
                error,
            )

    def _into_cache(
        self, folder: RepoFolder, known: KnownFiles, sources: tuple[OtherSource, ...]
    ) -> SnapshotRequests:
        def destination(path: str, meta: FileMetadata) -> BlobDestination:
            return BlobDestination(folder, meta.commit, path, meta.etag, meta.size, meta.xet_hash)

        # Nothing is linked in a snapshot that is not there: its files, perhaps a million, need no look each.
        fresh = {
            commit: self.files.force_download or not os.path.isdir(folder.snapshot(commit))
            for commit in known.commits
        }
        if all(fresh.values()):
            paths = list(known)
        else:
            paths = [
                path
                for path, meta in known.items()
                if fresh[meta.commit] or not destination(path, meta).is_linked()
            ]
        requests = self._requests(known, paths, destination, sources)
        if requests:
            folder.prepare()
        return requests

    def _into_local_dir(
        self, folder: RepoFolder, known: KnownFiles, sources: tuple[OtherSource, ...]
    ) -> SnapshotRequests:
        assert self.files.local_dir is not None
        local = LocalFolder(self.files.local_dir, self.files.repository.name)
        if known:
            local.prepare()
        current: set[str] = set()
        if not self.files.force_download:
            waits = self.files.repository.waits
            with waits.during(checking(self.files.local_dir), after=LONG_CHECK):
                current = reuse_files(local, folder, known)

        def destination(path: str, meta: FileMetadata) -> LocalDirDestination:
            return LocalDirDestination(local, path, meta.commit, meta.etag)

        return self._requests(known, [path for path in known if path not in current], destination, sources)

    def _requests(
        self,
        known: KnownFiles,
        paths: list[str],
        destination: Callable[[str, FileMetadata], BlobDestination | LocalDirDestination],
        sources: tuple[OtherSource, ...],
    ) -> SnapshotRequests:
        return SnapshotRequests(
            self.files.repository, known, paths, destination, sources, self.files.force_download
        )

    def _dry_run_info(self, folder: RepoFolder, path: str, meta: FileMetadata) -> DryRunFileInfo:
        destination = BlobDestination(folder, meta.commit, path, meta.etag, meta.size, meta.xet_hash)
        pointer = os.fspath(destination.path)
        if self.files.local_dir is None:
            local_path = pointer
            cached = (
                destination.is_linked()
                or destination.has_blob()
                or is_in_shared_store(self.files.cache_dir, meta)
            )
            download = self.files.force_download or not cached
        else:
            local = LocalFolder(self.files.local_dir, self.files.repository.name)
            local_path = local.file(path)
            current = not self.files.force_download and (
                is_current(local, path, meta, CancelToken()) or destination.is_linked()
            )
            cached = current or os.path.isfile(local_path)
            download = not current
        return DryRunFileInfo(
            commit_hash=meta.commit,
            file_size=meta.size,
            filename=path,
            local_path=local_path,
            is_cached=cached,
            will_download=download,
        )
