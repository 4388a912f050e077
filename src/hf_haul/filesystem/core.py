"""HaulFileSystem: huggingface_hub's filesystem with reads and downloads of our own.

Long because fsspec's interface is one class: each method is short, and hands over to the module that does it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import IO, Any, Final, TypeVar

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.utils import isfilelike
from huggingface_hub import CommitOperationDelete, HfFileSystem
from huggingface_hub.hf_file_system import HfFileSystemResolvedRepositoryPath

from hf_haul.config import DEFAULT_TIMINGS, Timings
from hf_haul.filesystem.copies import CallbackReport, PairCollector, PartialCopyMarker, download, stream_into
from hf_haul.filesystem.files import HaulFile, HaulStreamFile
from hf_haul.filesystem.kept import KeptFileSystem
from hf_haul.filesystem.prefetching import Prefetch, prefetch
from hf_haul.filesystem.readers import checked_prefetch, reader_for
from hf_haul.filesystem.slices import Slice, as_slices, read_slices
from hf_haul.filesystem.target import Target, metadata_of
from hf_haul.hub.repository import Repository
from hf_haul.manager import ParallelDownloadManager, default_manager
from hf_haul.reading.extents import Extents
from hf_haul.reading.range_source import RangeSource
from hf_haul.reading.reader import Reads
from hf_haul.storage.nodes import is_node
from hf_haul.storage.safe_paths import require_safe_path
from hf_haul.task import DownloadPriority
from hf_haul.urls import redact
from hf_haul.waits import Waits, unattended

__all__ = ["HaulFileSystem"]

#: Repositories that are remembered.
_REPOSITORIES: Final = 64

Method = TypeVar("Method", bound=Callable[..., Any])


def _is_one_call(method: Method) -> Method:
    """Make a method one call in the sense of :class:`~hf_haul.filesystem.freshness.Freshness`."""

    @functools.wraps(method)
    def call(fs: HaulFileSystem, *args: Any, **kwargs: Any) -> Any:
        freshness = fs._freshness  # noqa: SLF001  the module's own class
        with freshness.within(freshness.begin(refresh=bool(kwargs.get("refresh")))):
            return method(fs, *args, **kwargs)

    return call  # type: ignore[return-value]  # of the same kind


class HaulFileSystem(KeptFileSystem):
    """The Hub as a filesystem: ``haul://org/model/file``, ``haul://datasets/org/name@revision/file``.

    Paths, listings and writing are :class:`huggingface_hub.HfFileSystem`'s, whose instances these are.
    Reading and downloading are ours: over several connections, one resolve per file, every answer checked to
    be the range that was asked for, whole files checked against their digest. All reads of one instance see a
    branch at the commit it was at when first used; :meth:`invalidate_cache` looks again, as does any call
    with ``refresh=True``, and every call of an instance with ``use_listings_cache=False``, or
    ``listings_expiry_time`` seconds after the last look. Open files stay with their commit.

    Instances may be used from many threads at once, pickled, and used after a fork.

    Args:
        endpoint: The Hub's URL.
        token: As in huggingface_hub.
        block_size: As in huggingface_hub; ``0`` opens forward-only streams.
        prefetch: ``auto`` fetches what will be read next, of files and of the files after them, by what was
            read so far; ``none`` fetches what is asked for and nothing else. Also an option of :meth:`open`.
        cache: ``memory`` keeps what is read, and will be, in the memory of this process (128 MiB); ``hub``
            also reads and copies from huggingface_hub's cache on disk, without a request for what is there,
            and keeps there what is read or copied, for others and for downloads. ``HF_HAUL_FS_CACHE`` if
            ``None``.
        options: Further options of huggingface_hub's class and fsspec's.
    """

    protocol = "haul"

    def __init__(
        self,
        *args: Any,
        endpoint: str | None = None,
        token: bool | str | None = None,
        block_size: int | None = None,
        prefetch: str = "auto",
        cache: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, endpoint=endpoint, token=token, block_size=block_size, cache=cache, **options)
        self._prefetch = checked_prefetch(prefetch)
        self._manager: ParallelDownloadManager | None = None
        self._repositories: dict[tuple[str, str], Repository] = {}

    @property
    def manager(self) -> ParallelDownloadManager:
        """Whose connections, limits and queue are used: the process-wide manager, unless another was set."""
        return self._manager or default_manager()

    @manager.setter
    def manager(self, manager: ParallelDownloadManager | None) -> None:
        self._manager = manager
        self._repositories.clear()
        self._api.waits, self._api.timings = self._waits, self._timings

    @property
    def _waits(self) -> Waits:
        """Where it is reported what is waited for; the process-wide manager has nobody who listens."""
        return unattended if self._manager is None else self._manager.read_waits

    @property
    def _timings(self) -> Timings:
        return DEFAULT_TIMINGS if self._manager is None else self._manager.settings.timings

    # ---- where a file's bytes are

    @property
    def keeps_on_disk(self) -> bool:
        """Whether the Hub's cache on disk is read from, and what is read kept there."""
        return (self._cache_kind or self.manager.settings.fs_cache) == "hub"

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
            if len(self._repositories) >= _REPOSITORIES:
                self._repositories.clear()
            repository = self._repositories[key] = Repository(
                resolved.repo_id,
                resolved.repo_type,
                endpoint=self.endpoint,
                token=self.token,
                waits=self._waits,
                timings=self._timings,
            )
        return repository

    def _target(self, path: str, revision: str | None = None, lpath: str = "") -> Target | None:
        """Return the file at the Hub, pinned to a commit; ``None`` in a bucket, which has no commits."""
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
        remote = repository.remote_file(path, metadata_of(repository, path, commit, info))
        # Under its full name, which tells files of several repositories apart in progress and messages.
        return Target(name, lpath, repository, path, commit, replace(remote, path=name), info)

    def source_of(self, path: str, revision: str | None = None) -> tuple[Target, RangeSource] | None:
        """Return the file and where to read it from; ``None`` in a bucket."""
        target = self._target(path, revision)
        if target is None:
            return None
        return target, self.reads.source(target.remote, *(self.kept_at(target) or ()))

    # ---- opening

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        revision: str | None = None,
        cache_type: str | None = None,
        prefetch: str | None = None,
        **kwargs: Any,
    ) -> Any:
        block_size = self.block_size if block_size is None else block_size
        if "x" in mode:
            if self.exists(path, revision=revision):
                raise FileExistsError(path)
            mode = mode.replace("x", "w")
        kwargs.pop("refresh", None)  # it was
        found = self.source_of(path, revision) if mode == "rb" else None
        if found is None:
            if cache_type not in {None, "haul"}:
                kwargs["cache_type"] = cache_type
            return super()._open(path, mode, block_size=block_size, revision=revision, **kwargs)
        kwargs.pop("size", None)  # the listing knows
        if prefetch is not None:
            kwargs["prefetch"] = checked_prefetch(prefetch)  # so that it is known when the file is pickled
        reader = functools.partial(reader_for, self, *found, prefetch or self._prefetch)
        if block_size == 0:
            kwargs.pop("cache_options", None)
            return HaulStreamFile(self, *found, functools.partial(reader, stream=True), **kwargs)
        if block_size is not None:
            kwargs["block_size"] = block_size
        cache_type = cache_type or "haul"
        reader = functools.partial(reader, ahead=cache_type != "none")
        return HaulFile(self, *found, reader, self.extents, cache_type=cache_type, **kwargs)

    def _open_at(self, path: str, commit: str, **kwargs: Any) -> HaulFile | HaulStreamFile:
        """Open a file at a commit that this instance need not be at, as a pickled file needs.

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
        """Return the bytes of a file, or of a slice of it.

        Args:
            path: The file.
            start: As in a Python slice; negative from the end.
            end: As in a Python slice.
            revision: Which revision, if the path does not say.
            kwargs: For :meth:`open`, where a file has to be opened (in buckets).
        """
        found = self.source_of(path, revision)
        if found is None:
            data: bytes = super().cat_file(path, start=start, end=end, **kwargs)
            return data
        target, source = found
        a, b, _ = slice(start, end).indices(source.size)
        with target.explained():
            if (a, b) != (0, source.size) or self._prefetch == "none":
                held = self.extents.read_held(source, a, b)
                return self.reads.read(source, a, max(a, b)) if held is None else held
            with closing(reader_for(self, target, source, self._prefetch)) as reader:
                return reader.read(0, b)

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        """Return many slices of many files, fetched together: neighbours in one request, the rest at once.

        Args:
            paths: One file for each slice; a list, as all of these, or another sequence, numpy's included.
            starts: One start for each slice, or one for all; as in a Python slice.
            ends: One end for each slice, or one for all.
            max_gap: Bytes between two slices of a file that are rather fetched than asked around; ``None``
                for what suits the connection.
            on_error: ``return`` puts an exception in the place of its slice, ``raise`` raises the first.
            kwargs: ``revision``, and options for :meth:`open` in buckets.

        Returns:
            The bytes of each slice, in the order asked for.
        """
        slices = as_slices(paths, starts, ends)
        return self._read_slices(slices, max_gap=max_gap, fail_fast=on_error != "return", **kwargs)

    def _read_slices(
        self, slices: Sequence[Slice], *, max_gap: int | None = None, fail_fast: bool, **kwargs: Any
    ) -> list[bytes | Exception]:
        return read_slices(
            slices,
            extents=self.extents,
            source_of=functools.partial(self.source_of, revision=kwargs.get("revision")),
            read_file=functools.partial(self.cat_file, **kwargs),
            max_gap=max_gap,
            fail_fast=fail_fast,
        )

    def cat(
        self, path: str | list[str], recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> bytes | dict[str, bytes | Exception]:
        """Return the contents of one file, or of many at once.

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

    def prefetch(
        self,
        paths: str | Sequence[Any],
        priority: DownloadPriority | int | str = DownloadPriority.NORMAL,
        revision: str | None = None,
    ) -> Prefetch:
        """Begin to fetch what will be read, and return at once; reads take from memory what has come.

        As much is fetched as memory has room for, that of all reading ahead of a process (128 MiB).

        Args:
            paths: A file, a pattern, a folder, a range ``(file, start, end)``, or a sequence of them.
            priority: ``high`` goes before what is read ahead, ``low`` after it; reads go before all.
            revision: Which revision, if the paths do not say.

        Raises:
            FileNotFoundError: One of them is not there.
        """
        return prefetch(self, paths, priority, revision)

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
        """Copy a file. A folder exists only while it has files, so nothing is copied for one."""
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

        On disk it appears complete and checked, or not at all. As with ``cp``, a link leads to its target, a
        file that is replaced keeps its permissions, and a device or a pipe is written into, in order.

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
        if outfile is None and self.kind_of(resolved.unresolve()) == "directory":
            os.makedirs(lpath, exist_ok=True)
            return
        target = self._target(rpath, revision, lpath=os.fspath(lpath) if outfile is None else "")
        if target is None:
            super().get_file(rpath, lpath, callback=callback, outfile=outfile, **kwargs)
        elif outfile is not None:
            stream_into(outfile, target, self.extents, callback)
        elif is_node(lpath):
            with open(lpath, "wb") as node:
                stream_into(node, target, self.extents, callback)
        else:
            callback.set_size(target.remote.size)
            report = CallbackReport([target], callback, branch=False)
            download(self.manager, [target], report, self.kept_at)

    def get(
        self,
        rpath: str | list[str],
        lpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy files to disk, many at once; fsspec decides which file goes where.

        By its rule ``get("org/model", "out", recursive=True)`` makes ``out/`` of the model, and
        ``out/model/`` where there is an ``out`` already. One that was made by the same call, and not filled
        to the end, does not count: the call repeated goes on there. Until then a file
        ``.haul-get.incomplete`` in it says so.

        Args:
            rpath: A file, a pattern, a folder (with ``recursive``) or a list of them.
            lpath: A file or folder, or a list as long as that of ``rpath``.
            recursive: Whether to go into folders.
            callback: Told of the number of files; its branches of each file's size and progress. All in this
                thread.
            maxdepth: How many levels of folders.
            kwargs: ``revision``.
        """
        marker = None
        if recursive and isinstance(rpath, str) and PartialCopyMarker.depends(rpath, lpath):
            name = self.resolve_path(rpath, revision=kwargs.get("revision")).unresolve()
            marker = PartialCopyMarker(f"{redact(self.endpoint)}/{name}", lpath)
            if marker.resumes():
                rpath = f"{rpath}/"  # "what is in it"
        collector = PairCollector(self)
        collector.collect(rpath, lpath, recursive=recursive, maxdepth=maxdepth, **kwargs)
        revision = kwargs.get("revision")
        resolved = [self.resolve_path(name, revision=revision) for name, _ in collector.pairs]
        for each in resolved:  # all of them before the first byte or folder is written
            if each.path:
                require_safe_path(each.path)
        if marker is not None and len(collector.pairs) > 1:  # a folder, itself included
            marker.begin(lpath for _, lpath in collector.pairs)
        callback.set_size(len(collector.pairs))
        targets: list[Target] = []
        for each, (name, lpath) in zip(resolved, collector.pairs, strict=True):
            in_repository = isinstance(each, HfFileSystemResolvedRepositoryPath) and each.path
            to_disk = not (isfilelike(lpath) or is_node(lpath))
            if in_repository and to_disk and self.kind_of(each.unresolve()) == "file":
                target = self._target(name, revision, lpath=os.fspath(lpath))
                assert target is not None
                targets.append(target)
                continue
            with callback.branched(name, lpath) as child:
                self.get_file(name, lpath, callback=child, **kwargs)
            callback.relative_update()
        download(self.manager, targets, CallbackReport(targets, callback, branch=True), self.kept_at)
        if marker is not None:
            marker.end()


# Listings survive the pickling of instances into worker processes only in huggingface_hub's own cache of
# instances.
HaulFileSystem._cache = HfFileSystem._cache  # noqa: SLF001  its keys hold the class, so the two do not meet


for _name in (
    "cat", "cat_file", "cat_ranges", "checksum", "du", "exists", "expand_path", "find", "get", "get_file", "glob", "info",
    "isdir", "isfile", "ls", "modified", "open", "prefetch", "sizes", "ukey", "url",
):  # fmt: skip
    setattr(HaulFileSystem, _name, _is_one_call(getattr(HaulFileSystem, _name)))
