"""``verify``: whether downloaded files are what the Hub has, and their repair."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    filter_repo_objects,
)

from hf_haul.config import require_number
from hf_haul.engine.events import EventCallback
from hf_haul.hub.asking import LISTING_ERRORS, is_offline
from hf_haul.hub.call_options import CallOptions
from hf_haul.hub.presets import Preset, select
from hf_haul.hub.repair import Repairs
from hf_haul.hub.repository import Repository
from hf_haul.hub.upstream_cache import read_tree, tree_folder
from hf_haul.hub.verify_checks import Checks
from hf_haul.hub.verify_events import VerifyEvents
from hf_haul.hub.verify_report import CheckedFile, VerifyProgress, VerifyReport
from hf_haul.hub.verify_subjects import Listing, Subject, noted_commit, subjects_of
from hf_haul.hub.verify_targets import Target, find_target
from hf_haul.manager import ParallelDownloadManager

__all__ = ["verify"]

logger = logging.getLogger(__name__)


def verify(
    target: str | os.PathLike[str],
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    presets: Preset | Sequence[Preset] | None = None,
    ask_hub: bool = False,
    partial: bool = False,
    repair: bool = False,
    token: bool | str | None = None,
    endpoint: str | None = None,
    headers: dict[str, str] | None = None,
    max_workers: int | None = None,
    on_file: Callable[[CheckedFile], None] | None = None,
    on_progress: Callable[[VerifyProgress], None] | None = None,
    on_event: EventCallback | None = None,
    max_bandwidth: float | str | None = None,
    max_connections: int | None = None,
    manager: ParallelDownloadManager | None = None,
) -> VerifyReport:
    """Check downloaded files against the Hub's digests, and repair them if asked to.

    First all sizes are looked at, then files are read and hashed on all processors. What the digests should
    be is told by what is on disk: names of blobs, notes in a ``local_dir``, and the listing that was kept of
    the commit; no request is made. The Hub is asked if ``ask_hub`` says so, or if it can be asked and the
    disk does not tell a single digest.

    A file whose digest nobody knows is counted as ``unknown``, one that the repository does not have as
    ``extra``; neither is an error.

    A repair fetches what it cannot keep, checks the whole file, and then replaces the old one by rename: it
    is there, wrong as it is, until then, and a link is never written through. Which bytes of a file are
    wrong its digest does not tell. So where it is too short, too long, or has pages of zeros, as after a
    crash, the rest of it is kept and only what is missing is fetched; if the digest is still wrong, or
    nothing tells where the fault is, all of it is fetched. A repair that was interrupted goes on from there.

    Args:
        target: ``org/name``, or a folder: a snapshot, a repository's folder in a cache (then all its
            snapshots and blobs count), or one that was downloaded with ``local_dir``.
        repo_type: ``model`` (the default), ``dataset``, ``space`` or ``kernel``.
        revision: Branch, tag, ``refs/pr/N`` or commit; ``main`` by default.
        cache_dir: The cache; ``HF_HUB_CACHE`` by default.
        local_dir: The folder with the repository's files, if they are not in the cache.
        allow_patterns: Only files that match one of these.
        ignore_patterns: No file that matches one of these.
        presets: Rules that pick among formats, see :mod:`hf_haul.hub.presets`.
        ask_hub: Ask the Hub for the commit's listing; if it cannot be reached, what the disk tells has to do.
        partial: Whether files that were never downloaded are left out; otherwise they are ``missing`` where
            a listing names them.
        repair: Whether to repair what is wrong or missing.
        token: A token, ``True`` for the stored one, ``False`` for none.
        endpoint: The Hub's URL.
        headers: Further headers for the Hub.
        max_workers: Files hashed at once; as many as there are processors to use by default.
        on_file: Told of each file as soon as it is known, on the caller's thread.
        on_progress: Told several times a second how many bytes are hashed, on the caller's thread.
        on_event: Called with every event, a plain dict; ``examples/events.md`` has its fields.
        max_bandwidth: Limit of a repair in bytes per second, or a text such as ``50MB/s``.
        max_connections: Most connections of a repair at once.
        manager: The manager that repairs; a process-wide one by default.

    Returns:
        Every file and its state; :attr:`VerifyReport.is_ok` says whether all is well.

    Raises:
        ValueError: Nothing tells what the folder's files should be, or arguments contradict each other.
        huggingface_hub.errors.LocalEntryNotFoundError: The repository, revision or folder is not there.
    """
    began = time.monotonic()
    require_number("max_workers", max_workers, whole=True, optional=True)
    if max_workers is not None and max_workers < 1:
        raise ValueError(f"max_workers must be greater than 0, not {max_workers!r}")
    options = CallOptions(
        max_bandwidth=max_bandwidth, max_connections=max_connections, manager=manager, on_event=on_event
    )
    found = find_target(
        target,
        repo_type=repo_type,
        revision=revision,
        cache_dir=cache_dir,
        local_dir=local_dir,
        token=token,
        endpoint=endpoint,
        headers=headers,
    )
    if repair and found.repository is None:
        raise ValueError(
            f"Nothing in {found.path} tells which repository its files are from; name it, and the folder as local_dir"
            f" (hf-haul verify REPO --local-dir {found.path} --repair)"
        )
    repo_id = None if found.repository is None else found.repository.repo_id
    with options.events(repo_id or found.path) as events:
        if found.repository is not None:
            found = replace(found, repository=events.attended(found.repository))
        told = VerifyEvents(events.stream, on_file or _ignore, on_progress or _ignore)
        known = _Knowledge(found, ask_hub=ask_hub)
        subjects = known.subjects(
            allow_patterns, ignore_patterns, (presets,) if isinstance(presets, str) else presets or ()
        )
        checks = Checks(partial=partial, threads=max_workers, on_file=told.file, on_progress=told.progress)
        findings = checks.run(subjects)
        fetched = 0
        if repair:
            repairs = Repairs(known.target, options, told.file, told.progress, events.stream)
            findings = repairs.run(findings)
            fetched = repairs.bytes_fetched
        report = VerifyReport(
            path=found.path,
            repo_id=repo_id,
            repo_type=None if found.repository is None else found.repository.repo_type,
            revision=revision,
            commits=known.target.commits,
            files=tuple(each.checked for each in findings),
            asked_hub=known.asked_hub,
            hub_error=known.hub_error,
            bytes_read=checks.bytes_read,
            read_seconds=checks.read_seconds,
            bytes_fetched=fetched,
            seconds=time.monotonic() - began,
        )
        told.done(report)
        return report


def _ignore(_: object) -> None:
    """Do nothing."""


class _Knowledge:
    """What is known of the files of a target.

    Attributes:
        target: The target, with the commit that its files are compared with.
        asked_hub: Whether the Hub told something.
        hub_error: Why it could not be asked, if that was tried.
    """

    def __init__(self, target: Target, *, ask_hub: bool) -> None:
        self.target = target
        self.asked_hub = False
        self.hub_error: str | None = None
        self._ask = ask_hub
        if target.local is not None and not target.commits:
            commit = None if target.revision is not None and ask_hub else noted_commit(target.local)
            self.target = replace(target, commits=() if commit is None else (commit,))

    def subjects(
        self,
        allow_patterns: list[str] | str | None,
        ignore_patterns: list[str] | str | None,
        presets: Sequence[Preset],
    ) -> list[Subject]:
        """Return the files to check, with all that is known of them."""
        listings = self._listings()  # they may tell the commit
        found = subjects_of(self.target, listings)
        if not self._ask and self._may_ask() and not any(each.digest is not None for each in found):
            self._ask = True
            listings = self._listings()
            found = subjects_of(self.target, listings)
        paths = dict.fromkeys(each.path for each in found)
        chosen = filter_repo_objects(paths, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        kept = set(select(list(chosen), presets))
        return [each for each in found if each.path in kept]

    def _may_ask(self) -> bool:
        return self.target.repository is not None and not is_offline()

    def _listings(self) -> dict[str, Listing]:
        """Return the listings of the commits in question, from the Hub if it is to be asked and answers."""
        if self._ask and self.target.repository is None:
            self.hub_error = "nothing tells which repository the files are from"
        elif self._ask and is_offline():
            self.hub_error = "HF_HUB_OFFLINE is set"
        elif self._ask:
            self._resolve(self.target.repository)
        listings: dict[str, Listing] = {}
        for commit in self.target.commits:
            listing = self._from_hub(commit) if self._ask and self._may_ask() else None
            if listing is None:
                kept = read_tree(self._tree_folder(), commit)
                listing = None if kept is None else (kept, "listing")
            if listing is not None:
                listings[commit] = listing
        return listings

    def _tree_folder(self) -> str:
        target = self.target
        if target.local is not None:
            return tree_folder("", target.local.root)
        assert target.cache is not None
        return tree_folder(target.cache.root, None)

    def _resolve(self, repository: Repository | None) -> None:
        """Ask the Hub which commit a ``local_dir`` is to be compared with, if nothing else tells."""
        if self.target.commits or repository is None:
            return
        wanted = self.target.revision or constants.DEFAULT_REVISION
        try:
            commit = repository.resolve(wanted, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except LISTING_ERRORS as error:
            self._note(error)
        else:
            self.target = replace(self.target, commits=(commit,))

    def _from_hub(self, commit: str) -> Listing | None:
        assert self.target.repository is not None
        if self.hub_error is not None:
            return None
        try:
            files: Mapping[str, Any] = self.target.repository.list_files(commit, retry_connect=False)
        except LISTING_ERRORS as error:
            self._note(error)
            return None
        self.asked_hub = True
        return files, "hub"

    def _note(self, error: Exception) -> None:
        self.hub_error = str(error) or type(error).__name__
        logger.warning("The Hub was not asked what the files should be: %s", self.hub_error)
