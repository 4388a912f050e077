"""``snapshot_download`` and ``hf_hub_download``: huggingface_hub's functions on our engine."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, overload

from huggingface_hub import DryRunFileInfo, ResolvedRevision, constants
from huggingface_hub import hf_hub_download as upstream_hf_hub_download
from huggingface_hub import snapshot_download as upstream_snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    FileMetadataError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    filter_repo_objects,
    validate_hf_hub_args,
)

from hf_haul.cancellation import CancelToken
from hf_haul.digests import file_digest
from hf_haul.errors import UnsafePathError
from hf_haul.hub import repository as hub
from hf_haul.hub.call_options import (
    CallOptions,
    ProgressCallback,
    bars_of_a_snapshot,
    bars_of_one_file,
    raise_all,
)
from hf_haul.hub.presets import Preset, select
from hf_haul.manager import ParallelDownloadManager
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.safe_paths import is_among_notes, is_lasting, require_outside_notes, require_safe_path
from hf_haul.task import (
    Destination,
    DownloadPriority,
    FileRequest,
)
from hf_haul.threads import in_threads

__all__ = ["hf_hub_download", "snapshot_download"]

logger = logging.getLogger(__name__)

TqdmClass = Any  # upstream accepts any callable that imitates tqdm

_DEFAULT_WORKERS: Final = 8
_NO_METADATA: Final[tuple[type[Exception], ...]] = (*hub.UNREACHABLE, FileMetadataError)


# ---- a whole snapshot


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
    manager: ParallelDownloadManager | None = None,
    presets: Preset | Sequence[Preset] | None = None,
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
    dry_run: bool,
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    manager: ParallelDownloadManager | None = None,
    presets: Preset | Sequence[Preset] | None = None,
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
    manager: ParallelDownloadManager | None = None,
    presets: Preset | Sequence[Preset] | None = None,
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
        manager: The manager to use; a process-wide one by default.
        presets: Rules that pick among formats of the same weights, see :mod:`hf_haul.hub.presets`.

    Returns:
        The snapshot's folder, or what would be downloaded if ``dry_run``.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: The Hub refuses; its subclasses say why.
        huggingface_hub.errors.LocalEntryNotFoundError: The Hub cannot be reached, and the cache does not help.
        UnsafePathError: A file's name would lead out of its folder; nothing was written.
        IntegrityError: A file's digest was wrong twice.
        TransferError: A file could not be fetched; the subclasses say why.
    """
    extras = CallOptions(
        priority=priority,
        max_bandwidth=max_bandwidth,
        max_connections=max_connections,
        verify=verify,
        progress_callback=progress_callback,
        manager=manager,
        max_workers=None if max_workers == _DEFAULT_WORKERS else max_workers,
    )
    return _Snapshot(
        repository=hub.Repository(
            repo_id=repo_id,
            repo_type=_repo_type(repo_type),
            endpoint=endpoint,
            token=token,
            library_name=library_name,
            library_version=library_version,
            user_agent=user_agent,
            headers=headers,
        ),
        revision=revision or constants.DEFAULT_REVISION,
        cache_dir=_absolute(constants.HF_HUB_CACHE if cache_dir is None else cache_dir),
        local_dir=None if local_dir is None else _absolute(local_dir),
        etag_timeout=_etag_timeout(etag_timeout),
        force_download=force_download,
        local_files_only=local_files_only,
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
        presets=(presets,) if isinstance(presets, str) else tuple(presets or ()),
        tqdm_class=tqdm_class,
        dry_run=dry_run,
        extras=extras,
    ).run()


def _repo_type(repo_type: str | None) -> str:
    if repo_type not in constants.REPO_TYPES_WITH_KERNEL:
        raise ValueError(
            f"Invalid repo type: {repo_type}. Accepted repo types are: {constants.REPO_TYPES_WITH_KERNEL!s}"
        )
    return repo_type or "model"


def _absolute(path: str | Path) -> str:
    return str(Path(path).expanduser().resolve())


def _etag_timeout(seconds: float) -> float:
    """The environment's timeout, where one is set: it wins over the argument."""
    if constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT:
        return float(constants.HF_HUB_ETAG_TIMEOUT)
    return seconds


Listing = Mapping[str, hub.ListedFile]


def _all_safe(paths: Iterable[str]) -> bool:
    """Whether no name could lead out of its folder: if one can, nothing is written, not even the list of names."""
    try:
        for path in paths:
            require_safe_path(path)
    except UnsafePathError:
        return False
    return True


@dataclass(frozen=True)
class _Snapshot:
    """One call of ``snapshot_download``."""

    repository: hub.Repository
    revision: str
    cache_dir: str
    local_dir: str | None
    etag_timeout: float
    force_download: bool
    local_files_only: bool
    allow_patterns: list[str] | str | None
    ignore_patterns: list[str] | str | None
    presets: tuple[Preset, ...]
    tqdm_class: TqdmClass | None
    dry_run: bool
    extras: CallOptions

    def run(self) -> str | list[DryRunFileInfo]:
        if self.local_files_only or hub.is_offline():
            # Upstream makes no request then, and its return values and errors are the ones to have.
            return self._upstream(local_files_only=self.local_files_only)
        found = self._find()
        if not isinstance(found, tuple):
            return found
        commit, listing = found
        selected = self._select(listing)
        for path in selected:
            require_safe_path(path)
        notes = self._notes_in(selected)
        if notes:
            named = ", ".join(notes[:3]) + (f" and {len(notes) - 3} more" if len(notes) > 3 else "")
            logger.warning("A local_dir keeps its own notes in .cache/huggingface. Left out: %s", named)
            selected = [path for path in selected if path not in notes]
        known, failed = self.repository.complete(
            {path: listing[path] for path in selected},
            commit,
            timeout=hub.patient_timeout(),
        )
        folder = hub.cache_folder(self.repository, self.cache_dir)
        if self.dry_run:
            if failed:
                raise_all(list(failed.items()))
            return [self._would(folder, path, meta) for path, meta in known.items()]
        self._write_ref(folder, commit)
        if self.local_dir is None:
            requests = self._into_cache(folder, known)
        else:
            requests = self._into_local_dir(folder, known)
        errors: list[tuple[str, BaseException]] = list(failed.items())
        if requests:
            errors += self._fetch(requests)
        if errors:
            raise_all([(path, self.repository.explain(path, commit, error)) for path, error in errors])
        return folder.snapshot(commit) if self.local_dir is None else os.path.realpath(self.local_dir)

    # -- which commit, which files

    def _find(self) -> tuple[str, Listing] | str | list[DryRunFileInfo]:
        """The commit and its files; or what the cache has, where the Hub does not answer."""
        try:
            return self._ask(patient=False)
        except _Unanswered as question:
            first = question
        try:
            return self._from_cache(first)
        except (LocalEntryNotFoundError, DryRunError):
            if not hub.is_busy(first.error):
                raise
            logger.info("Nothing complete in the cache: asking the Hub again")
        try:
            return self._ask(patient=True)
        except _Unanswered as again:
            return self._from_cache(again)

    def _ask(self, *, patient: bool) -> tuple[str, Listing]:
        commit: str | None = None
        if isinstance(self.revision, ResolvedRevision):
            commit = self.revision.resolved
        elif hub.is_commit(self.revision):
            commit = self.revision
        fixed = commit is not None
        try:
            named: frozenset[str] = frozenset()
            if commit is None:
                timeout = hub.patient_timeout() if patient else self.etag_timeout
                answer = self.repository.look_up(self.revision, timeout=timeout, patient=patient)
                commit, named = answer.commit, answer.files
            listing = self._kept_listing(commit, named)
            if listing is None:
                # With the commit just answered, the Hub is there: worth some patience at once.
                found = self.repository.list_files(
                    commit, patient=patient or not fixed, most=self.extras.max_listing
                )
                # With files in it that are left out, huggingface_hub would miss them in the local_dir.
                kept = not self.dry_run and not hub.is_partial(found) and not self._notes_in(found)
                if kept and _all_safe(found):
                    hub.write_tree(self._tree_folder(), commit, found)
                listing = found
            return commit, listing
        except (hub.ProxyError, RevisionNotFoundError):
            raise
        except hub.UNREACHABLE as error:
            if hub.is_listing_unknown(error):
                raise  # what the cache has may be a part of it just as well
            hub.detach_tracebacks(error)
            raise _Unanswered(error, commit) from None

    def _kept_listing(self, commit: str, named: frozenset[str]) -> Listing | None:
        """The listing that was kept of a commit, unless the Hub has just named a file that it lacks."""
        # What a mirror calls "main" today has other files tomorrow.
        if not is_lasting(commit) or self.force_download:
            return None
        lacking = hub.missing_in_tree(self._tree_folder(), commit, named)
        if lacking is None:
            return hub.read_tree(self._tree_folder(), commit)
        if not self.dry_run:
            hub.drop_tree(self._tree_folder(), commit, lacking)
        return None

    def _tree_folder(self) -> str:
        root = os.path.join(self.cache_dir, self.repository.folder_name)
        return hub.tree_folder(root, self.local_dir)

    def _select(self, listing: Listing) -> list[str]:
        paths = list(
            filter_repo_objects(
                listing.keys(),
                allow_patterns=self.allow_patterns,
                ignore_patterns=self.ignore_patterns,
            )
        )
        given = {
            "allow_patterns": self.allow_patterns,
            "ignore_patterns": self.ignore_patterns,
        }
        if listing and not paths:
            told = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
            logger.warning("No files matched %s.", told)
        return select(paths, self.presets)

    def _notes_in(self, paths: Iterable[str]) -> list[str]:
        """Those files that would be taken for notes of the ``local_dir``."""
        return [] if self.local_dir is None else [path for path in paths if is_among_notes(path)]

    # -- without the Hub

    def _from_cache(self, question: _Unanswered) -> str | list[DryRunFileInfo]:
        """What upstream makes of a Hub that does not answer: the cached snapshot, or its errors."""
        error = question.error
        revision = self.revision
        if question.commit not in (None, revision) and not isinstance(revision, ResolvedRevision):
            revision = ResolvedRevision(resolved=question.commit, initial=revision)
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
        if isinstance(error, OfflineModeIsEnabled):
            raise LocalEntryNotFoundError(
                "Cannot find an appropriate cached snapshot folder for the specified revision on the local disk and "
                "outgoing traffic has been disabled. To enable repo look-ups and downloads online, set "
                "'HF_HUB_OFFLINE=0' as environment variable."
            ) from error
        if _is_refusal(error):
            raise error
        raise LocalEntryNotFoundError(
            f"Got: {type(error).__name__}: {error}"
            "\nAn error happened while trying to locate the files on the Hub, and we cannot find the appropriate"
            " snapshot folder for the specified revision on the local disk. Please check your internet connection"
            " and try again."
        ) from error

    def _upstream(self, *, local_files_only: bool, revision: str | None = None) -> str | list[DryRunFileInfo]:
        repository = self.repository
        revision = self.revision if revision is None else revision
        allow_patterns, ignore_patterns = self._patterns(revision)
        answer: str | list[DryRunFileInfo] = upstream_snapshot_download(
            repository.repo_id,
            repo_type=repository.repo_type,
            revision=revision,
            cache_dir=self.cache_dir,
            local_dir=self.local_dir,
            library_name=repository.library_name,
            library_version=repository.library_version,
            user_agent=repository.user_agent,
            etag_timeout=self.etag_timeout,
            force_download=self.force_download,
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
        """Patterns that make upstream look for the files that we would fetch, if their listing was kept."""
        if not self.presets and self.local_dir is None:
            return self.allow_patterns, self.ignore_patterns
        if isinstance(revision, ResolvedRevision):
            commit: str | None = revision.resolved
        elif hub.is_commit(revision):
            commit = revision
        else:
            commit = hub.cache_folder(self.repository, self.cache_dir).read_ref(revision)
        listing = None if commit is None else hub.read_tree(self._tree_folder(), commit)
        notes = self._notes_in(listing or ())
        if listing is None or not (self.presets or notes):
            return self.allow_patterns, self.ignore_patterns
        return [glob.escape(path) for path in self._select(listing) if path not in notes], None

    # -- to disk

    def _write_ref(self, folder: RepoFolder, commit: str) -> None:
        if isinstance(self.revision, ResolvedRevision):
            return  # whoever resolved it has noted it
        try:
            folder.write_ref(self.revision, commit)
        except OSError as error:
            logger.warning(
                "Ignored error while writing commit hash to %s: %s.",
                os.path.join(folder.root, "refs", self.revision),
                error,
            )

    def _into_cache(self, folder: RepoFolder, known: Mapping[str, hub.FileMetadata]) -> list[FileRequest]:
        requests: list[FileRequest] = []
        for path, meta in known.items():
            destination = BlobDestination(folder, meta.commit, path, meta.etag, meta.size, meta.xet_hash)
            if self.force_download or not destination.is_linked():
                requests.append(self._request(path, meta, destination))
        if requests:
            folder.prepare()
        return requests

    def _into_local_dir(self, folder: RepoFolder, known: Mapping[str, hub.FileMetadata]) -> list[FileRequest]:
        assert self.local_dir is not None
        local = LocalFolder(self.local_dir)
        if known:
            local.prepare()
        current: set[str] = set()
        if not self.force_download:
            current = _settle_all(local, folder, known)
        return [
            self._request(path, meta, LocalDirDestination(local, path, meta.commit, meta.etag))
            for path, meta in known.items()
            if path not in current
        ]

    def _request(self, path: str, meta: hub.FileMetadata, destination: Destination) -> FileRequest:
        return FileRequest(
            remote=self.repository.remote_file(path, meta),
            destination=destination,
            fresh=self.force_download,
        )

    def _fetch(self, requests: Sequence[FileRequest]) -> list[tuple[str, BaseException]]:
        make_bars = bars_of_a_snapshot(self.tqdm_class, len(requests))
        return self.extras.download(requests, self.repository.repo_id, make_bars)

    def _would(self, folder: RepoFolder, path: str, meta: hub.FileMetadata) -> DryRunFileInfo:
        destination = BlobDestination(folder, meta.commit, path, meta.etag, meta.size, meta.xet_hash)
        pointer = os.fspath(destination.path)
        if self.local_dir is None:
            place = pointer
            cached = destination.is_linked() or destination.has_blob() or hub.is_shared(self.cache_dir, meta)
            download = self.force_download or not cached
        else:
            local = LocalFolder(self.local_dir)
            place = local.file(path)
            current = not self.force_download and (
                _is_current(local, path, meta, CancelToken()) or destination.is_linked()
            )
            cached = current or os.path.isfile(place)
            download = not current
        return DryRunFileInfo(
            commit_hash=meta.commit,
            file_size=meta.size,
            filename=path,
            local_path=place,
            is_cached=cached,
            will_download=download,
        )


class _Unanswered(Exception):  # noqa: N818  not an error of its own: it carries one
    """The Hub did not answer; ``commit`` is what was known by then."""

    def __init__(self, error: Exception, commit: str | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.commit = commit


def _is_refusal(error: Exception) -> bool:
    """Whether the Hub answered and its answer is what the caller has to see."""
    return isinstance(error, RepositoryNotFoundError) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code == 401
    )


# ---- what is in a local_dir already


def _is_current(local: LocalFolder, path: str, meta: hub.FileMetadata, cancel_token: CancelToken) -> bool:
    """Whether the file in a ``local_dir`` is what the repository has; hashes it where nothing is noted of it."""
    place = local.file(path)
    if not os.path.isfile(place):
        return False
    noted = local.read_metadata(path)
    if noted is not None and (noted.etag == meta.etag or noted.commit != meta.commit):
        return noted.etag == meta.etag
    # Nothing is known, or the same commit gives the file another etag, as mirrors do.
    digest = hub.digest_from_etag(meta.etag)
    if digest is None or digest.algorithm != "sha256":
        return False
    if meta.size is not None and os.path.getsize(place) != meta.size:
        return False
    return file_digest(place, digest.algorithm, cancel_token.check) == digest


def _settle(
    local: LocalFolder, folder: RepoFolder, path: str, meta: hub.FileMetadata, cancel_token: CancelToken
) -> bool:
    """Bring a file of a ``local_dir`` up to date without the network, if that can be done.

    Returns:
        Whether it is up to date now.
    """
    try:
        noted = local.read_metadata(path)
        same = noted is not None and (noted.commit, noted.etag) == (meta.commit, meta.etag)
        if same and is_lasting(meta.commit):
            return True
        if not _is_current(local, path, meta, cancel_token):
            cached = BlobDestination(folder, meta.commit, path, meta.etag, meta.size, meta.xet_hash)
            if not cached.is_linked():
                return False
            local.copy_in(os.fspath(cached.path), path)
        local.write_metadata(path, meta.commit, meta.etag)
        return True
    except OSError as error:
        logger.warning("Could not use what %s has of %s: %s", local.root, path, error)
        return False


def _settle_all(local: LocalFolder, folder: RepoFolder, known: Mapping[str, hub.FileMetadata]) -> set[str]:
    """The files that need no download, settled by a few threads: some have to be hashed or copied."""
    cancel_token = CancelToken()

    def settle(path: str) -> bool:
        return _settle(local, folder, path, known[path], cancel_token)

    settled = in_threads("hf-haul-local", _DEFAULT_WORKERS, settle, known, cancel_token.set)
    return {path for path, done in settled.items() if done}


# ---- one file


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
    manager: ParallelDownloadManager | None = None,
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
    dry_run: bool,
    priority: DownloadPriority = DownloadPriority.NORMAL,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    verify: bool | None = None,
    progress_callback: ProgressCallback | None = None,
    manager: ParallelDownloadManager | None = None,
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
    manager: ParallelDownloadManager | None = None,
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
        manager: The manager to use; a process-wide one by default.

    Returns:
        The file's path, or what would be downloaded if ``dry_run``.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: The Hub refuses; its subclasses say why.
        huggingface_hub.errors.LocalEntryNotFoundError: The Hub cannot be reached, and the cache does not help.
        UnsafePathError: The file's name would lead out of its folder, or to the notes of ``local_dir``.
        IntegrityError: The file's digest was wrong twice.
        TransferError: The file could not be fetched; the subclasses say why.
    """
    extras = CallOptions(
        priority=priority,
        max_bandwidth=max_bandwidth,
        max_connections=max_connections,
        verify=verify,
        progress_callback=progress_callback,
        manager=manager,
    )
    if isinstance(revision, ResolvedRevision):
        revision = revision.resolved
    return _File(
        repository=hub.Repository(
            repo_id=repo_id,
            repo_type=_repo_type(repo_type),
            endpoint=endpoint,
            token=token,
            library_name=library_name,
            library_version=library_version,
            user_agent=user_agent,
            headers=headers,
        ),
        name=f"{subfolder}/{filename}" if subfolder else filename,
        revision=revision or constants.DEFAULT_REVISION,
        cache_dir=_absolute(constants.HF_HUB_CACHE if cache_dir is None else cache_dir),
        local_dir=None if local_dir is None else _absolute(local_dir),
        etag_timeout=_etag_timeout(etag_timeout),
        force_download=force_download,
        local_files_only=local_files_only,
        tqdm_class=tqdm_class,
        dry_run=dry_run,
        extras=extras,
    ).run()


@dataclass(frozen=True)
class _File:
    """One call of ``hf_hub_download``; the order of its decisions is upstream's."""

    repository: hub.Repository
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
        _ = self.repository.request_headers  # a missing token is an error even where none is needed
        require_safe_path(self.name)
        if self.local_dir is not None:
            require_outside_notes(self.name)
        if self.dry_run or self.local_files_only or hub.is_offline():
            # At most one request is made then, and no download.
            return self._upstream(local_files_only=self.local_files_only)
        folder = hub.cache_folder(self.repository, self.cache_dir)
        local = None if self.local_dir is None else LocalFolder(self.local_dir)
        if hub.is_commit(self.revision) and not self.force_download:
            place = self._in_place(folder, local)
            if place is not None:
                return place
        meta = self._listed(folder)
        if meta is None:
            answer = self._ask(folder)
            if not isinstance(answer, hub.FileMetadata):
                return answer
            meta = answer
            self._check_kept_listing(folder, meta.commit)
        if local is not None:
            return self._to_local_dir(folder, local, meta)
        return self._to_cache(folder, meta)

    def _in_place(self, folder: RepoFolder, local: LocalFolder | None) -> str | None:
        """The file of a pinned commit, if it is there: the case without any request."""
        if local is None:
            pointer = folder.pointer(self.revision, self.name)
            try:
                size = os.stat(pointer).st_size
            except OSError:
                return None
            entry = hub.kept_entry(hub.tree_folder(folder.root, None), self.revision, self.name)
            return pointer if entry is None or entry.bytes == size else None
        noted = local.read_metadata(self.name)
        if noted is not None and noted.commit == self.revision:
            return self._place(local)
        return None

    def _place(self, local: LocalFolder) -> str:
        """The file's path as upstream writes it, which drops the ``.`` of ``./config.json``."""
        return os.path.normpath(local.file(self.name))

    def _listed(self, folder: RepoFolder) -> hub.FileMetadata | None:
        """Metadata from a listing that an earlier snapshot kept, for a pinned commit."""
        if not hub.is_commit(self.revision) or self.force_download:
            return None
        entry = hub.kept_entry(hub.tree_folder(folder.root, self.local_dir), self.revision, self.name)
        return None if entry is None else hub.metadata_from_listing(self.revision, entry)

    def _check_kept_listing(self, folder: RepoFolder, commit: str) -> None:
        """Drop the listing that was kept of a commit if it lacks this file, which the Hub has just described."""
        kept_in, name = hub.tree_folder(folder.root, self.local_dir), posixpath.normpath(self.name)
        if hub.missing_in_tree(kept_in, commit, (name,)) is not None:
            hub.drop_tree(kept_in, commit, name)

    # -- asking the Hub

    def _ask(self, folder: RepoFolder) -> hub.FileMetadata | str:
        """Metadata from the Hub; or the file that the cache has, where the Hub does not answer."""
        try:
            return self._head(folder, patient=False)
        except _Unanswered as question:
            error = question.error
        if not self.force_download:
            with contextlib.suppress(LocalEntryNotFoundError):
                cached = self._upstream(local_files_only=True)
                assert isinstance(cached, str)
                return cached
            if hub.is_transient(error):
                logger.info("No local file found. Asking the Hub again")
                try:
                    return self._head(folder, patient=True)
                except _Unanswered as again:
                    error = again.error
        verdict = self._verdict(error)
        if verdict is error:
            raise error
        raise verdict from error

    def _head(self, folder: RepoFolder, *, patient: bool) -> hub.FileMetadata:
        timeout = hub.patient_timeout() if patient else self.etag_timeout
        try:
            return self.repository.metadata(self.name, self.revision, timeout=timeout, patient=patient)
        except RemoteEntryNotFoundError as error:
            if self.local_dir is None:
                commit = error.response.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
                if commit is not None:
                    if posixpath.normpath(self.name) == self.name:  # "a.json/" says nothing of "a.json"
                        folder.remember_missing(commit, self.name)
                    folder.write_ref(self.revision, commit)
            raise
        except (hub.ProxyError, RevisionNotFoundError):
            raise
        except _NO_METADATA as error:
            hub.detach_tracebacks(error)
            raise _Unanswered(error, None) from None

    def _verdict(self, error: Exception) -> Exception:
        """What upstream raises when neither the Hub nor the cache has the file."""
        if self.force_download:
            return ValueError("Force download failed due to the above error.")
        if _is_refusal(error):
            return error
        if isinstance(error, FileMetadataError):
            return LocalEntryNotFoundError(
                f"{error} We also cannot find the requested files in the local cache."
            )
        if hub.is_not_served(error):
            return LocalEntryNotFoundError(f"{error}\nWe also cannot find the file in the local cache.")
        return LocalEntryNotFoundError(
            "An error happened while trying to locate the file on the Hub and we cannot find the requested files"
            " in the local cache. Please check your connection and try again or make sure your Internet connection"
            " is on."
        )

    def _upstream(self, *, local_files_only: bool) -> str | DryRunFileInfo:
        repository = self.repository
        with hub.asking(repository.base):
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

    def _to_cache(self, folder: RepoFolder, meta: hub.FileMetadata) -> str:
        destination = BlobDestination(folder, meta.commit, self.name, meta.etag, meta.size, meta.xet_hash)
        pointer = folder.pointer(meta.commit, self.name)
        if not self.force_download and destination.is_linked():
            # The cache may be read-only, and nothing has to be written.
            with contextlib.suppress(OSError):
                folder.write_ref(self.revision, meta.commit)
            return pointer
        folder.prepare()
        folder.write_ref(self.revision, meta.commit)
        if self.force_download or not destination.is_present():
            self._fetch(meta, destination)
        return pointer

    def _to_local_dir(self, folder: RepoFolder, local: LocalFolder, meta: hub.FileMetadata) -> str:
        local.prepare()
        if self.force_download or not _settle(local, folder, self.name, meta, CancelToken()):
            self._fetch(meta, LocalDirDestination(local, self.name, meta.commit, meta.etag))
        return self._place(local)

    def _fetch(self, meta: hub.FileMetadata, destination: Destination) -> None:
        request = FileRequest(
            remote=self.repository.remote_file(self.name, meta),
            destination=destination,
            fresh=self.force_download,
        )
        make_bars = bars_of_one_file(self.tqdm_class, self.name, meta.size)
        errors = self.extras.download([request], self.repository.repo_id, make_bars)
        if errors:
            raise_all(
                [(path, self.repository.explain(self.name, meta.commit, error)) for path, error in errors]
            )
