"""What one call of ``snapshot_download`` tells: its plan, and what it finds without the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain

from huggingface_hub import DryRunFileInfo
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    filter_repo_objects,
)

from hf_haul.hub.call_events import CallEvents
from hf_haul.hub.known_files import KnownFiles
from hf_haul.hub.snapshot_files import SnapshotFiles
from hf_haul.hub.snapshot_requests import SnapshotRequests
from hf_haul.storage.safe_paths import is_in_metadata_folder

__all__ = ["files_in", "tell_found", "tell_plan"]


def tell_found(events: CallEvents, files: SnapshotFiles, found: str | list[DryRunFileInfo]) -> None:
    """Tell what the cache has, or what a dry run found.

    Args:
        events: Where to tell it.
        files: What the call is about.
        found: The snapshot's folder, or what would be downloaded.
    """
    if events.stream is None:
        return
    folder = files.local_dir or files.cache_dir
    if isinstance(found, str):
        events.found(files_in(found, files), folder=folder, revision=files.revision, path=found)
    else:
        events.plan_dry_run(found, folder=folder, revision=files.revision)


def files_in(folder: str, files: SnapshotFiles) -> Iterator[str]:
    """Yield the files of a snapshot on disk, those that match the patterns."""
    found = [
        os.path.relpath(os.path.join(root, name), folder)
        for root, _, names in os.walk(folder)
        for name in names
    ]
    paths = [path.replace(os.sep, "/") for path in found]
    for path in filter_repo_objects(
        [path for path in paths if not is_in_metadata_folder(path)],
        allow_patterns=files.allow_patterns,
        ignore_patterns=files.ignore_patterns,
    ):
        yield os.path.join(folder, path)


def tell_plan(
    events: CallEvents,
    files: SnapshotFiles,
    commit: str,
    known: KnownFiles,
    failed: Mapping[str, Exception],
    requests: SnapshotRequests,
    result: str,
) -> None:
    """Tell the plan, and which files failed before it.

    Args:
        events: Where to tell it.
        files: What the call is about.
        commit: What its revision stands for.
        known: Its files.
        failed: Those that the Hub does not tell enough about.
        requests: Those of its files that the engine is asked for.
        result: Where the caller finds them.
    """
    if events.stream is None:
        return
    events.plan(
        chain(_files(known, requests), [(None, False, False)] * len(failed)),
        folder=files.local_dir or files.cache_dir,
        revision=files.revision,
        commit=commit,
        path=result,
    )
    for path, error in failed.items():
        events.failed(path, None, error)


def _files(known: KnownFiles, requests: SnapshotRequests) -> Iterator[tuple[int | None, bool, bool]]:
    """Yield of each file its bytes, whether it is in place, and whether the engine need not look at it."""
    wanted = iter(requests.paths)
    following = next(wanted, None)
    for path, size in known.sizes(known):
        if path == following:
            following = next(wanted, None)
            yield size, requests.has_blob(path), False
        else:
            yield size, True, True
