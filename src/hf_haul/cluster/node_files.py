"""The files of a plan on one node: the ordinary call that brings them, and what is here of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from hf_haul.cluster.holdings import Holdings, LeftBytes
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.stripes import Stripes
from hf_haul.engine.handle import DownloadHandle
from hf_haul.hub.call_options import CallOptions
from hf_haul.hub.snapshot_call import SnapshotCall, make_snapshot_call
from hf_haul.hub.snapshot_files import Listing, SnapshotFiles
from hf_haul.hub.upstream_cache import cache_folder
from hf_haul.storage.resumable import find_resumable
from hf_haul.storage.staged_file import StagedFile
from hf_haul.storage.staged_names import scan_orphans
from hf_haul.task import FileRequest
from hf_haul.urls import source_of

__all__ = ["NodeFiles", "planned_call"]


@dataclass(frozen=True)
class _PlannedFiles(SnapshotFiles):
    """The files of a plan.

    Attributes:
        plan: It.
    """

    plan: JobPlan = field(kw_only=True)

    def ask(self, *, retry: bool) -> tuple[str, Listing]:
        """Return the plan's commit and its files, and cache the listing as a question to the Hub would."""
        del retry
        self.keep(self.plan.commit, self.plan.files, complete=self.plan.complete)
        return self.plan.commit, self.plan.files

    def select(self, listing: Listing) -> list[str]:
        """Return the files that the plan selects."""
        del listing
        return list(self.plan.selection)


def planned_call(
    plan: JobPlan,
    *,
    options: CallOptions,
    cache_dir: str | None,
    local_dir: str | None,
    token: bool | str | None,
    endpoint: str | None,
) -> SnapshotCall:
    """Return the call that brings a plan's files to this node.

    Args:
        plan: It.
        options: Those of the call.
        cache_dir: The cache; the Hub's own if ``None``.
        local_dir: A folder for plain files in its place.
        token: The Hub's, as :func:`hf_haul.snapshot_download` takes it.
        endpoint: The Hub's URL; the plan's if ``None``.
    """
    call = make_snapshot_call(
        plan.repo_id,
        repo_type=plan.repo_type,
        revision=plan.revision,
        cache_dir=cache_dir,
        local_dir=local_dir,
        token=token,
        endpoint=plan.endpoint if endpoint is None else endpoint,
        options=options,
    )
    given = {each.name: getattr(call.files, each.name) for each in fields(call.files)}
    return replace(call, files=_PlannedFiles(**given, plan=plan))


class NodeFiles:
    """The files of a plan on this node: in place, staged, or still to come.

    Args:
        plan: The plan.
        call: As :func:`planned_call` returned it.
        stripes: Those of the plan.
        sequential: Whether files are staged in order only.
    """

    def __init__(
        self, plan: JobPlan, call: SnapshotCall, stripes: Stripes, *, sequential: bool = False
    ) -> None:
        self._plan = plan
        self._call = call
        self._stripes = stripes
        self._sequential = sequential
        self._paths = _paths_by_blob(plan)
        files = call.files
        self._folder = cache_folder(files.repository, files.cache_dir)
        self._left: dict[str, LeftBytes] = {}
        self._handle: DownloadHandle | None = None
        self.holdings = Holdings(self._paths, stripes.size, self._place_of, self._staged, self._left)

    @property
    def origin(self) -> str:
        """The Hub, as sums by source call it."""
        return source_of(self._call.files.repository.base)

    def note_handle(self, handle: DownloadHandle) -> None:
        """Note who knows what is staged, from now on."""
        self._handle = handle

    def look(self, requests: Iterable[FileRequest]) -> list[int]:
        """Return the stripes that are here before anything is fetched.

        Args:
            requests: The files that are to be fetched; all others are in place.
        """
        wanted = {request.remote.path: request for request in requests}
        left = _Leftovers(sequential=self._sequential)
        found: list[int] = []
        for etag, paths in self._paths.items():
            stripes = self._stripes.of_blob(etag)
            requested = [wanted[path] for path in paths if path in wanted]
            if len(requested) < len(paths):
                found += stripes
                continue
            here = left.of(requested[0], self._stripes.size(etag))
            if here is not None:
                self._left[etag] = here
                found += [each for each in stripes if here.has(self._stripes.locate(each)[1])]
        return found

    def _place_of(self, path: str) -> Path:
        local_dir = self._call.files.local_dir
        if local_dir is not None:
            return Path(os.path.realpath(local_dir), *path.split("/"))
        return Path(self._folder.pointer(self._plan.commit, path))

    def _staged(self) -> Mapping[str, StagedFile]:
        return {} if self._handle is None else self._handle.staged_files()


class _Leftovers:
    """What earlier sessions left of files, by the folders that they are staged in.

    Args:
        sequential: Whether files are staged in order only.
    """

    def __init__(self, *, sequential: bool) -> None:
        self._sequential = sequential
        self._orphans: dict[Path, Mapping[str, list[Path]]] = {}

    def of(self, request: FileRequest, size: int) -> LeftBytes | None:
        """Return the most that there is of a file; ``None`` if that is nothing."""
        destination = request.destination
        folder = destination.staging_dir
        if folder not in self._orphans:
            self._orphans[folder] = scan_orphans(folder)
        keys = (destination.staging_key, *destination.former_keys)
        best: tuple[int, LeftBytes] | None = None
        for path in (path for key in keys for path in self._orphans[folder].get(key, ())):
            found = find_resumable([path], keys, size, sequential=self._sequential)
            if found.fetched_by is None and found.done > (best[0] if best else 0):
                best = found.done, LeftBytes(path, found.missing)
        return None if best is None else best[1]


def _paths_by_blob(plan: JobPlan) -> dict[str, list[str]]:
    """Return the paths of a plan's files by the etag that they share; not those of empty files."""
    found: dict[str, list[str]] = {}
    for path in plan.selection:
        known = plan.metadata(path)
        if known is not None and known.size:
            found.setdefault(known.etag, []).append(path)
    return found
