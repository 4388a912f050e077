"""HaulFileSystem: huggingface_hub's filesystem with reads and downloads of our own."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.utils import isfilelike, stringify_path
from huggingface_hub import CommitOperationDelete, HfFileSystem, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_file_system import HfFileSystemResolvedBucketPath, HfFileSystemResolvedRepositoryPath

from hf_haul.filesystem.copies import Pairs, Report, Target, Unfinished, raise_first
from hf_haul.filesystem.files import HaulFile, HaulStreamFile
from hf_haul.filesystem.freshness import Freshness, drop_oldest
from hf_haul.filesystem.pinned import Pin, PinnedApi, pin_of
from hf_haul.hub.repository import (
    FileMetadata,
    ListedFile,
    Repository,
    detach_tracebacks,
    is_commit,
    is_listing_unknown,
    metadata_from_listing,
)
from hf_haul.manager import ParallelDownloadManager, default_manager
from hf_haul.reading.batches import RangeRequest
from hf_haul.reading.extents import Extents
from hf_haul.reading.range_source import Checksum, RangeSource
from hf_haul.reading.reader import Reads
from hf_haul.storage.destinations import FileDestination
from hf_haul.storage.nodes import is_node
from hf_haul.storage.safe_paths import require_safe_path
from hf_haul.task import DownloadProgress, FileRequest
from hf_haul.urls import redact

__all__ = ["HaulFileSystem"]

#: Seconds between two looks at a running download: for its progress, and for its first failure.
_LOOK_SECONDS: Final = 0.1
#: fsspec's options that say how long a listing is good.
_CACHE_OPTIONS: Final = ("use_listings_cache", "listings_expiry_time")
#: Files of which more was asked than a listing says, and that are remembered.
_EXPANSIONS: Final = 4096
#: Revisions whose listings are remembered, and repositories.
_REVISIONS: Final = 64
#: Repositories, revisions and buckets of which it is remembered whether they exist, and why not.
_EXISTING: Final = 1000

Method = TypeVar("Method", bound=Callable[..., Any])
ResolvedPath = HfFileSystemResolvedRepositoryPath | HfFileSystemResolvedBucketPath


def _is_one_call(method: Method) -> Method:
    """Have what a method does be one call in the sense of :class:`Freshness`."""

    @functools.wraps(method)
    def call(fs: HaulFileSystem, *args: Any, **kwargs: Any) -> Any:
        freshness = fs._freshness  # noqa: SLF001  the module's own class
        with freshness.within(freshness.begin(refresh=bool(kwargs.get("refresh")))):
            return method(fs, *args, **kwargs)

    return call  # type: ignore[return-value]  # of the same kind


class HaulFileSystem(HfFileSystem):
    """The Hub as a filesystem: ``haul://org/model/file``, ``haul://datasets/org/name@revision/file``.

    Paths, listings and writing are :class:`huggingface_hub.HfFileSystem`'s, whose instances these are. Reading and
    downloading are ours: over several connections, one resolve per file, every answer checked to be the range that
    was asked for, whole files checked against their digest. All reads of one instance see a branch at the commit it
    was at when first used; :meth:`invalidate_cache` looks again, as does any call with ``refresh=True``, and every call
    of an instance with ``use_listings_cache=False``, or ``listings_expiry_time`` seconds after the last look. Open files
    stay with their commit.

    Instances may be used from many threads at once, pickled, and used after a fork.

    Args:
        endpoint: The Hub's URL.
        token: As in huggingface_hub.
        block_size: As in huggingface_hub; ``0`` opens forward-only streams.
        options: Further options of huggingface_hub's class and fsspec's.
    """

    protocol = "haul"

    def __init__(
        self,
        *args: Any,
        endpoint: str | None = None,
        token: bool | str | None = None,
        block_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, endpoint=endpoint, token=token, block_size=block_size, **options)
        cache_options = {name: options[name] for name in _CACHE_OPTIONS if name in options}
        self._freshness = Freshness(**cache_options)
        self._api: PinnedApi = PinnedApi(self._freshness, endpoint=endpoint, token=token)
        self._manager: ParallelDownloadManager | None = None
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._expansions: dict[str, tuple[str | None, dict[str, Any]]] = {}
        self._index: dict[str, tuple[Any, int, dict[str, dict[str, Any]]]] = {}
        self._roots: dict[str, None] = {}  # of listings, the latest last

    @property
    def fsid(self) -> str:
        """What two instances for the same Hub have in common."""
        return f"hf_{self.endpoint}"

    @property
    def manager(self) -> ParallelDownloadManager:
        """Whose connections, limits and queue are used: the process-wide manager, unless another was set."""
        return self._manager or default_manager()

    @manager.setter
    def manager(self, manager: ParallelDownloadManager | None) -> None:
        self._manager = manager

    # ---- names

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Take ``haul://`` off, and ``hf://`` too, so that paths of both filesystems are understood."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        path = stringify_path(path)
        for prefix in ("hf://", "hf::"):
            path = path.removeprefix(prefix)
        return super()._strip_protocol(path)

    def unstrip_protocol(self, name: str) -> str:
        """The path as a URL."""
        return str(super().unstrip_protocol(self._strip_protocol(name)))

    def resolve_path(self, path: str, revision: str | None = None) -> ResolvedPath:
        """What a path means; see :class:`huggingface_hub.HfFileSystem`. Looks where its branch is now, if that is due."""
        if self._freshness.wants_latest:
            # What was absent may be there by now.
            for known in (self._repo_and_revision_exists_cache, self._bucket_exists_cache):
                _drop_absent(known)
        resolved = super().resolve_path(path, revision=revision)
        if isinstance(resolved, HfFileSystemResolvedBucketPath):
            bucket = ("bucket", resolved.bucket_id)
            if self._freshness.is_due(bucket):
                self._freshness.note(bucket)
                self._forget_listings(resolved.root)
        elif not is_commit(resolved.revision):
            pin = pin_of(resolved.repo_type, resolved.repo_id, resolved.revision)
            if self._freshness.is_due(pin) and not self._look_again(resolved.root, pin):
                return super().resolve_path(path, revision=revision)  # raises what is to be raised
        return resolved

    def _repo_and_revision_exist(
        self, repo_type: str, repo_id: str, revision: str | None
    ) -> tuple[bool, Exception | None]:
        return _bounded(
            self._repo_and_revision_exists_cache,
            lambda: super(HaulFileSystem, self)._repo_and_revision_exist(repo_type, repo_id, revision),
        )

    def _bucket_exists(self, bucket_id: str) -> tuple[bool, Exception | None]:
        return _bounded(
            self._bucket_exists_cache, lambda: super(HaulFileSystem, self)._bucket_exists(bucket_id)
        )

    def _look_again(self, root: str, pin: Pin) -> bool:
        """Go to the commit that a revision is at now; returns whether there still is one."""
        try:
            latest = self._api.latest_commit(pin)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            for known in [key for key in list(self._repo_and_revision_exists_cache) if key[:2] == pin[:2]]:
                self._repo_and_revision_exists_cache.pop(known, None)
            latest = None
        if latest is None or latest != self._api.commits.get(pin):
            self._api.commits.pop(
                pin, None
            )  # before its listings, which must not be read as those of the next
            self._forget_repository(root)
            if latest is not None:
                self._api.commits[pin] = latest
        return latest is not None

    def _forget_repository(self, root: str) -> None:
        """Forget what is known of a repository: one revision has several names, as ``org/name`` and ``org/name@main``."""
        repository = root.partition("@")[0]
        for listed in list(self.dircache):
            if listed == repository or listed.startswith((f"{repository}/", f"{repository}@")):
                self.dircache.pop(listed, None)
        self._index.clear()
        self._expansions.clear()

    def _forget_listings(self, root: str) -> None:
        """Forget what is known of a revision. Listings of one commit must not be read with those of the next."""
        self._index.clear()
        self._expansions.clear()
        for listed in [each for each in list(self.dircache) if f"{each}/".startswith(f"{root}/")]:
            self.dircache.pop(listed, None)

    # ---- listings

    def _ls_tree(self, path: str, *args: Any, **kwargs: Any) -> Any:
        while True:
            resolved = self.resolve_path(path, revision=kwargs.get("revision"))
            before = self._commit_at(resolved)
            found = super()._ls_tree(path, *args, **kwargs)
            if self._commit_at(resolved) == before:
                self._roots.pop(resolved.root, None)
                self._roots[resolved.root] = None
                for oldest in list(self._roots)[:-_REVISIONS]:
                    self._roots.pop(oldest, None)
                    self._forget_listings(oldest)
                return found
            self._forget_listings(resolved.root)  # another thread went on to the next commit meanwhile

    def _commit_at(self, resolved: ResolvedPath) -> str | None:
        """The commit that a path is read at; ``None`` in a bucket."""
        if isinstance(resolved, HfFileSystemResolvedBucketPath):
            return None
        return self._api.pinned_commit(resolved.repo_type, resolved.repo_id, resolved.revision)

    def walk(self, path: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Folders and files below a path; see :class:`huggingface_hub.HfFileSystem`. All of one version."""
        call = self._freshness.begin(refresh=bool(kwargs.get("refresh")))
        folders = super().walk(path, *args, **kwargs)
        while True:
            with self._freshness.within(call):  # what others do between two steps is not a part of it
                folder = next(folders, None)
            if folder is None:
                return
            yield folder

    def info(
        self, path: str, refresh: bool = False, revision: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """What is known of a file or folder; see :class:`huggingface_hub.HfFileSystem`.

        Answered from an index where the folder is listed already, however long the listing.
        """
        expand = kwargs.get("expand_info", self.expand_info)
        if not refresh and not expand:
            resolved = self.resolve_path(path, revision=revision)
            if resolved.path:
                name = resolved.unresolve()
                found = self._listed(name)
                if found is not None:
                    return found
        known = self._expanded(path, revision) if expand and not refresh else None
        if known is not None:
            return known
        info: dict[str, Any]
        try:
            info = super().info(path, refresh=refresh, revision=revision, **kwargs)
        except HfHubHTTPError as error:
            if expand or not is_listing_unknown(error):
                raise
            # A server that has some of the files only knows of each what it is, but not which there are.
            alone = {**kwargs, "expand_info": True}
            info = super().info(path, refresh=refresh, revision=revision, **alone)
        if expand and info["type"] == "file":
            if len(self._expansions) >= _EXPANSIONS:
                self._expansions.clear()
            self._expansions[info["name"]] = (self._commit_of(info["name"]), info)
        return info

    def _expanded(self, path: str, revision: str | None) -> dict[str, Any] | None:
        """What was said before of a file's last commit; DuckDB asks three times in each query."""
        name = self.resolve_path(path, revision=revision).unresolve()
        commit, info = self._expansions.get(name, (None, None))
        return info if info is not None and commit == self._commit_of(name) else None

    def _commit_of(self, name: str) -> str | None:
        return self._commit_at(self.resolve_path(name))

    def lexists(self, path: str, **kwargs: Any) -> bool:
        """The same as :meth:`exists`: there are no links."""
        return self.exists(path, **kwargs)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether there is a file or folder of this name; see :class:`huggingface_hub.HfFileSystem`."""
        try:
            self.info(path, **kwargs)
        except OSError:
            return False
        return True

    def ukey(self, path: str) -> str:
        """What changes when the file's content does, and only then."""
        info = self.info(path)
        lfs = info.get("lfs")
        content = (lfs["sha256"] if lfs else None) or info.get("xet_hash") or info.get("blob_id")
        if content is None:
            return str(super().ukey(path))
        return hashlib.sha256(f"{info['name']} {content}".encode("utf-8", "surrogatepass")).hexdigest()

    def checksum(self, path: str) -> int:
        """As :meth:`ukey`, as a number."""
        return int(self.ukey(path), 16)

    def _listed(self, name: str) -> dict[str, Any] | None:
        """A file or folder of a listing we have."""
        parent = self._parent(name)
        listing = self.dircache.get(parent)
        if listing is None:
            return None
        known = self._index.get(parent)
        if known is None or known[0] is not listing or known[1] != len(listing):
            # huggingface_hub replaces listings; where it appends to one, its length tells.
            known = (listing, len(listing), {entry["name"]: entry for entry in listing})
            self._index[parent] = known
        found = known[2].get(name)
        if found is None:
            raise FileNotFoundError(name)
        return found

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget listings, and which commit a branch is at.

        Args:
            path: Forget those of this path's repository and revision only.
        """
        super().invalidate_cache(path)
        self._index.clear()
        self._expansions.clear()
        if path is None:
            self._api.commits.clear()
            return
        try:
            resolved = self.resolve_path(path)
        except (FileNotFoundError, NotImplementedError, ValueError):
            return
        self._forget_repository(resolved.root)
        if isinstance(resolved, HfFileSystemResolvedRepositoryPath):
            self._api.commits.pop(pin_of(resolved.repo_type, resolved.repo_id, resolved.revision), None)

    def _get_instance_state(self) -> dict[str, Any]:
        # What huggingface_hub pickles, and copies to the instances of other threads.
        return {**super()._get_instance_state(), "_commits": dict(self._api.commits)}

    @property
    def _commits(self) -> dict[tuple[str, str, str], str]:
        return dict(self._api.commits)

    @_commits.setter
    def _commits(self, commits: dict[tuple[str, str, str], str]) -> None:
        self._api.commits.update(commits)

    # ---- where a file's bytes are

    @property
    def extents(self) -> Extents:
        """What is in memory of the files read through the same manager, and how to get more."""
        return self.manager.extents

    @property
    def reads(self) -> Reads:
        """Threads, connections and resolved URLs for reading, those of the manager."""
        return self.extents.reads

    def _repository(self, resolved: HfFileSystemResolvedRepositoryPath) -> Repository:
        key = (resolved.repo_type, resolved.repo_id)
        repository = self._repositories.get(key)
        if repository is None:
            if len(self._repositories) >= _REVISIONS:
                self._repositories.clear()
            repository = self._repositories[key] = Repository(
                resolved.repo_id, resolved.repo_type, endpoint=self.endpoint, token=self.token
            )
        return repository

    def _target(self, path: str, revision: str | None = None, place: str = "") -> Target | None:
        """The file at the Hub, pinned to a commit; ``None`` in a bucket, which has no commits."""
        resolved = self.resolve_path(path, revision=revision)
        if not isinstance(resolved, HfFileSystemResolvedRepositoryPath):
            return None
        name = resolved.unresolve()
        commit, info = None, {}
        while commit is None or commit != self._commit_at(
            resolved
        ):  # else another thread went on to the next
            commit, info = self._commit_at(resolved), self.info(name)
        if info["type"] != "file":
            raise IsADirectoryError(name)
        repository = self._repository(resolved)
        path = resolved.path_in_repo
        remote = repository.remote_file(path, self._metadata(repository, path, commit, info))
        # Under its full name, which tells files of several repositories apart in progress and messages.
        return Target(name, place, repository, path, commit, replace(remote, path=name), info)

    def _metadata(self, repository: Repository, path: str, commit: str, info: dict[str, Any]) -> FileMetadata:
        lfs = info.get("lfs")
        if info.get("blob_id"):
            entry = ListedFile(
                size=info["size"],
                blob_id=info["blob_id"],
                lfs_sha256=lfs["sha256"] if lfs else None,
                lfs_size=lfs["size"] if lfs else None,
                xet_hash=info.get("xet_hash"),
            )
            found = metadata_from_listing(commit, entry)
            if found is not None:
                return found
        return repository.metadata(path, commit, timeout=constants.HF_HUB_ETAG_TIMEOUT, patient=True)

    def _source(self, path: str, revision: str | None = None) -> tuple[Target, RangeSource] | None:
        """The file and where to read it from; ``None`` in a bucket."""
        target = self._target(path, revision)
        return None if target is None else (target, self.reads.source(target.remote))

    # ---- opening

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        revision: str | None = None,
        cache_type: str | None = None,
        **kwargs: Any,
    ) -> Any:
        block_size = self.block_size if block_size is None else block_size
        if "x" in mode:
            if self.exists(path, revision=revision):
                raise FileExistsError(path)
            mode = mode.replace("x", "w")
        kwargs.pop("refresh", None)  # it was
        found = self._source(path, revision) if mode == "rb" else None
        if found is None:
            if cache_type not in {None, "haul"}:
                kwargs["cache_type"] = cache_type
            return super()._open(path, mode, block_size=block_size, revision=revision, **kwargs)
        kwargs.pop("size", None)  # the listing knows
        if block_size == 0:
            kwargs.pop("cache_options", None)
            return HaulStreamFile(self, *found, self.reads, **kwargs)
        if block_size is not None:
            kwargs["block_size"] = block_size
        return HaulFile(self, *found, self.extents, cache_type=cache_type or "haul", **kwargs)

    def _open_at(self, path: str, commit: str, **kwargs: Any) -> HaulFile | HaulStreamFile:
        """Open a file at the commit that it had elsewhere, which this instance need not be at.

        Args:
            path: The file, under the name it had there.
            commit: The commit.
            kwargs: As for :meth:`open`.
        """
        resolved = self.resolve_path(path)
        assert isinstance(resolved, HfFileSystemResolvedRepositoryPath)
        if self._commit_at(resolved) != commit:
            parts = {"model": "", "dataset": "datasets/", "space": "spaces/"}
            path = f"{parts.get(resolved.repo_type, '')}{resolved.repo_id}@{commit}/{resolved.path_in_repo}"
        file: HaulFile | HaulStreamFile = self._open(path, **kwargs)
        return file

    # ---- reading into memory

    def cat_file(
        self,
        path: str,
        start: int | None = None,
        end: int | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> bytes:
        """The bytes of a file, or of a slice of it.

        Args:
            path: The file.
            start: As in a Python slice; negative from the end.
            end: As in a Python slice.
            revision: Which revision, if the path does not say.
            kwargs: For :meth:`open`, where a file has to be opened (in buckets).
        """
        found = self._source(path, revision)
        if found is None:
            data: bytes = super().cat_file(path, start=start, end=end, **kwargs)
            return data
        target, source = found
        a, b, _ = slice(start, end).indices(source.size)
        with target.explained():
            return self.reads.read(source, a, max(a, b))

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | list[int | None] | None,
        ends: int | list[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        """Many slices of many files, fetched together; neighbours in one request, the rest at once.

        Args:
            paths: One file for each slice.
            starts: One start for each slice, or one for all; as in a Python slice.
            ends: One end for each slice, or one for all.
            max_gap: Bytes between two slices of a file that are rather fetched than asked around; ``None`` for what
                suits the connection.
            on_error: ``return`` puts an exception in the place of its slice, ``raise`` raises the first.
            kwargs: ``revision``, and options for :meth:`open` in buckets.

        Returns:
            The bytes of each slice, in the order asked for.
        """
        if not isinstance(paths, list):
            raise TypeError(f"paths must be a list, not {type(paths).__name__}")
        all_starts = starts if isinstance(starts, list) else [starts] * len(paths)
        all_ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(paths) == len(all_starts) == len(all_ends):
            raise ValueError("paths, starts and ends must have the same length")
        slices = list(zip(paths, all_starts, all_ends, strict=True))
        return self._read_slices(slices, max_gap=max_gap, fail_fast=on_error != "return", **kwargs)

    def _read_slices(
        self,
        slices: Sequence[tuple[str, int | None, int | None]],
        *,
        max_gap: int | None = None,
        fail_fast: bool,
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        results: list[bytes | Exception] = [b""] * len(slices)
        wanted: list[RangeRequest] = []
        owners: list[tuple[int, Target]] = []
        revision = kwargs.get("revision")
        sources: dict[str, Any] = {}
        for index, (path, start, end) in enumerate(slices):
            if path not in sources:
                sources[path] = _attempt(self._source, path, revision)
            found = sources[path]
            if found is None:  # in a bucket
                found = _attempt(self.cat_file, path, start, end, **kwargs)
            if isinstance(found, tuple):
                target, source = found
                a, b, _ = slice(start, end).indices(source.size)
                wanted.append(RangeRequest(source, a, max(a, b)))
                owners.append((index, target))
            elif fail_fast and isinstance(found, Exception):
                raise found
            else:
                results[index] = found
        done = self.reads.read_many(wanted, max_gap=max_gap, fail_fast=False)
        for (index, target), result in zip(owners, done, strict=True):
            results[index] = target.explain(result) if isinstance(result, Exception) else result
        if fail_fast:
            for outcome in results:
                if isinstance(outcome, Exception):
                    raise outcome
        return results

    def cat(
        self, path: str | list[str], recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> bytes | dict[str, bytes | Exception]:
        """The contents of one file, or of many at once.

        Args:
            path: A file, a pattern, a folder (with ``recursive``) or a list of them.
            recursive: Whether to go into folders.
            on_error: ``raise``, ``omit`` (leave the file out) or ``return`` (the exception in its place).
            kwargs: ``revision``, and options for :meth:`cat_file`.

        Returns:
            Bytes for one plain path, else bytes by path.
        """
        paths = self.expand_path(path, recursive=recursive, **kwargs)
        if len(paths) == 1 and not isinstance(path, list) and paths[0] == self._strip_protocol(path):
            return self.cat_file(paths[0], **kwargs)
        if recursive or not isinstance(path, list):  # of a list, every name is meant
            paths = [each for each in paths if not self.isdir(each)]
        ends = kwargs.pop("start", None), kwargs.pop("end", None)
        results = self._read_slices(
            [(each, *ends) for each in paths], fail_fast=on_error == "raise", **kwargs
        )
        return {
            each: result
            for each, result in zip(paths, results, strict=True)
            if on_error != "omit" or not isinstance(result, Exception)
        }

    # ---- writing

    def rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        maxdepth: int | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Delete files, in one commit for each repository.

        Args:
            path: A file, a pattern, a folder (with ``recursive``) or a list of them.
            recursive: Whether to go into folders.
            maxdepth: How many levels of folders.
            revision: The branch, if the paths do not say.
            kwargs: ``commit_message`` and ``commit_description``.
        """
        if not isinstance(path, list):
            super().rm(path, recursive=recursive, maxdepth=maxdepth, revision=revision, **kwargs)
            return
        names = self.expand_path(path, recursive=recursive, maxdepth=maxdepth, revision=revision)
        doomed: dict[tuple[str, str, str], list[HfFileSystemResolvedRepositoryPath]] = {}
        for name in names:
            if self.isdir(name):
                continue
            resolved = self.resolve_path(name, revision=revision)
            if isinstance(resolved, HfFileSystemResolvedRepositoryPath):
                key = (resolved.repo_type, resolved.repo_id, resolved.revision)
                doomed.setdefault(key, []).append(resolved)
            else:
                super().rm(name, **kwargs)
        for (repo_type, repo_id, branch), files in doomed.items():
            self._api.create_commit(
                repo_id=repo_id,
                repo_type=repo_type,
                revision=branch,
                token=self.token,
                operations=[CommitOperationDelete(path_in_repo=file.path_in_repo) for file in files],
                commit_message=kwargs.get("commit_message") or f"Delete {len(files)} files",
                commit_description=kwargs.get("commit_description"),
            )
            self.invalidate_cache(files[0].unresolve())

    def cp_file(self, path1: str, path2: str, revision: str | None = None, **kwargs: Any) -> None:
        """Copy a file; of a folder, which exists only as long as it has files, there is nothing to copy."""
        if not self.isdir(path1):
            super().cp_file(path1, path2, revision=revision, **kwargs)

    # ---- downloading

    def get_file(
        self,
        rpath: str,
        lpath: Any = None,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: IO[bytes] | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy one file to disk, or into an open file.

        On disk it appears complete and checked, or not at all. As with ``cp``, a link leads to its target, a file that
        is replaced keeps its permissions, and a device or a pipe is written into, in order.

        Args:
            rpath: The file.
            lpath: Where to; a path or an open file.
            callback: Told of size and progress, in this thread.
            outfile: An open file; wins over ``lpath``. Left at the position it had, if it can seek.
            kwargs: ``revision``, and options for :meth:`open` in buckets.
        """
        revision = kwargs.pop("revision", None)
        kwargs.pop("refresh", None)  # it was
        if outfile is None and lpath is None:
            raise ValueError("Either `lpath` or `outfile` must be provided.")
        if outfile is None and isfilelike(lpath):
            outfile = lpath
        resolved = self.resolve_path(rpath, revision=revision)
        if resolved.path:
            require_safe_path(resolved.path)
        if outfile is None and self.info(resolved.unresolve())["type"] == "directory":
            os.makedirs(lpath, exist_ok=True)
            return
        target = self._target(rpath, revision, place=os.fspath(lpath) if outfile is None else "")
        if target is None:
            super().get_file(rpath, lpath, callback=callback, outfile=outfile, **kwargs)
        elif outfile is not None:
            self._stream_into(outfile, target, callback)
        elif is_node(lpath):
            with open(lpath, "wb") as node:
                self._stream_into(node, target, callback)
        else:
            callback.set_size(target.remote.size)
            self._download([target], Report([target], callback, branch=False))

    def get(
        self,
        rpath: str | list[str],
        lpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy files to disk, many at once; which file goes where is fsspec's own decision.

        By its rule ``get("org/model", "out", recursive=True)`` makes ``out/`` of the model, and ``out/model/`` where
        there is an ``out`` already. One that was made by the same call, and not filled to the end, does not count:
        the call repeated goes on there. Until then a file ``.haul-get.incomplete`` in it says so.

        Args:
            rpath: A file, a pattern, a folder (with ``recursive``) or a list of them.
            lpath: A file or folder, or a list as long as that of ``rpath``.
            recursive: Whether to go into folders.
            callback: Told of the number of files; its branches of each file's size and progress. All in this thread.
            maxdepth: How many levels of folders.
            kwargs: ``revision``.
        """
        unfinished = None
        if recursive and isinstance(rpath, str) and Unfinished.depends(rpath, lpath):
            name = self.resolve_path(rpath, revision=kwargs.get("revision")).unresolve()
            unfinished = Unfinished(f"{redact(self.endpoint)}/{name}", lpath)
            if unfinished.resumes():
                rpath = f"{rpath}/"  # "what is in it"
        collector = Pairs(self)
        collector.collect(rpath, lpath, recursive=recursive, maxdepth=maxdepth, **kwargs)
        revision = kwargs.get("revision")
        resolved = [self.resolve_path(name, revision=revision) for name, _ in collector.pairs]
        for each in resolved:  # all of them before the first byte or folder is written
            if each.path:
                require_safe_path(each.path)
        if unfinished is not None and len(collector.pairs) > 1:  # a folder, itself included
            unfinished.begin(place for _, place in collector.pairs)
        callback.set_size(len(collector.pairs))
        targets: list[Target] = []
        for each, (name, place) in zip(resolved, collector.pairs, strict=True):
            in_repository = isinstance(each, HfFileSystemResolvedRepositoryPath) and each.path
            to_disk = not (isfilelike(place) or is_node(place))
            if in_repository and to_disk and self.info(each.unresolve())["type"] == "file":
                target = self._target(name, revision, place=os.fspath(place))
                assert target is not None
                targets.append(target)
                continue
            with callback.branched(name, place) as child:
                self.get_file(name, place, callback=child, **kwargs)
            callback.relative_update()
        self._download(targets, Report(targets, callback, branch=True))
        if unfinished is not None:
            unfinished.end()

    def _download(self, targets: list[Target], report: Report) -> None:
        """Have the manager fetch files to their places, and report on it from this thread."""
        if not targets:
            return
        by_place: dict[str, Target] = {}
        for target in targets:
            by_place[os.path.abspath(target.place)] = target  # the last one wins, as if copied one by one
        requests = []
        for place, target in by_place.items():
            os.makedirs(os.path.dirname(place), exist_ok=True)
            remote = target.remote
            version = remote.etag or remote.url
            # Without a digest an older file of the same size may be another version: fetch it again.
            size = remote.size if remote.digest else None
            requests.append(FileRequest(remote, FileDestination(Path(place), version, remote.digest, size)))
        news: deque[DownloadProgress] = deque()
        handle = self.manager.submit(
            requests,
            model_id=targets[0].repository.repo_id,
            progress_callback=None if report.silent else news.append,
        )
        with report:
            try:
                while not handle.wait(_LOOK_SECONDS) and not handle.errors():
                    report.tell(news)
                report.tell(news)
                raise_first(handle, targets)
            except BaseException:
                handle.cancel()
                handle.wait()
                raise
            report.finish()

    def _stream_into(self, outfile: IO[bytes], target: Target, callback: Callback) -> None:
        source = self.reads.source(target.remote)
        position = outfile.tell() if _can_seek(outfile) else None
        checksum = Checksum(source.remote)  # with its size, where nobody said it before
        callback.set_size(source.size)
        with target.explained(), self.reads.stream(source, 0, source.size) as blocks:
            for block in blocks:
                outfile.write(block)
                checksum.update(block)
                callback.relative_update(len(block))
        checksum.check()
        if position is not None:
            outfile.seek(position)


# Listings survive the pickling of instances into worker processes only in huggingface_hub's own cache of instances.
HaulFileSystem._cache = HfFileSystem._cache  # noqa: SLF001  its keys hold the class, so the two do not meet


for _name in (
    "cat", "cat_file", "cat_ranges", "checksum", "du", "exists", "expand_path", "find", "get", "get_file", "glob", "info",
    "isdir", "isfile", "ls", "modified", "open", "sizes", "ukey", "url",
):  # fmt: skip
    setattr(HaulFileSystem, _name, _is_one_call(getattr(HaulFileSystem, _name)))


def _bounded(
    known: dict[Any, tuple[bool, Exception | None]], look: Callable[[], tuple[bool, Exception | None]]
) -> tuple[bool, Exception | None]:
    """Whether something exists, and the error if not, from what is known or of the Hub; of very many, the latest stay known.

    huggingface_hub keeps each one for ever, and with the errors all that their frames hold.
    """
    drop_oldest(known, _EXISTING)
    try:
        exists, error = look()
    except KeyError:  # dropped by another thread, between huggingface_hub's look for it and its use
        exists, error = look()
    if error is not None:
        detach_tracebacks(error)
    return exists, error


def _drop_absent(known: dict[Any, tuple[bool, Exception | None]]) -> None:
    """Forget what was not there when it was asked for."""
    for absent in [key for key, (exists, _) in known.copy().items() if not exists]:
        known.pop(absent, None)


def _attempt(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``work`` returns, or the exception it raises."""
    try:
        return work(*args, **kwargs)
    except Exception as error:  # noqa: BLE001  handed to the caller
        return error


def _can_seek(file: IO[bytes]) -> bool:
    seekable = getattr(file, "seekable", None)
    return bool(seekable and seekable())
