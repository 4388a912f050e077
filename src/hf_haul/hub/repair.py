"""Repairs the files of which a verification found that they are wrong or missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

from huggingface_hub import constants

from hf_haul.cancellation import CancelToken
from hf_haul.engine.event_stream import EventStream
from hf_haul.engine.handle import DownloadHandle
from hf_haul.errors import DownloadCancelledError
from hf_haul.failures import describe
from hf_haul.hub.asking import LISTING_ERRORS, is_offline, uncached_timeout
from hf_haul.hub.bars import TICK
from hf_haul.hub.call_options import CallOptions, absolute_path
from hf_haul.hub.metadata import FileMetadata
from hf_haul.hub.repo_sources import checkable, repo_sources
from hf_haul.hub.repository import Repository
from hf_haul.hub.upstream_cache import cache_folder
from hf_haul.hub.verify_checks import Finding
from hf_haul.hub.verify_report import CheckedFile, Repair, VerifyProgress
from hf_haul.hub.verify_subjects import Subject
from hf_haul.hub.verify_targets import Target
from hf_haul.manager import ParallelDownloadManager
from hf_haul.storage.adoption import StagedElsewhereError
from hf_haul.storage.destinations import BlobDestination, LocalDirDestination
from hf_haul.storage.file_checks import look_at
from hf_haul.storage.free_space import check_space
from hf_haul.storage.repairing import RepairDestination, stage_what_is_good
from hf_haul.task import FileRequest
from hf_haul.threads import results_in_threads

__all__ = ["Repairs"]

logger = logging.getLogger(__name__)

#: Threads that ask for metadata and copy what can be kept.
_PREPARING_THREADS: Final = 4
#: What asking the Hub, and reading the disk, may raise.
_PREPARING_ERRORS: Final[tuple[type[Exception], ...]] = (OSError, *LISTING_ERRORS)
#: Seconds for cancelled downloads to stop before an interrupt goes on.
_CANCEL_GRACE: Final = 0.4
#: What stands in a file's place that is not ours to remove.
_IN_THE_WAY: Final = {
    "folder": "there are files in the folder in its place: move it away, then repair again",
    "not-a-file": "remove what is in its place, then repair again",
}


@dataclass(frozen=True, slots=True)
class _Job:
    """One file to repair.

    Attributes:
        finding: What was found.
        request: What the engine is asked for.
        destination: Where it goes.
        kept: Bytes that were staged from what is on disk.
        copied: Whether those are of another copy, and not of the wrong file.
    """

    finding: Finding
    request: FileRequest
    destination: RepairDestination
    kept: int
    copied: bool


class Repairs:
    """Repairs files through the engine, which checks each before it takes its place.

    Args:
        target: What was verified; its repository is known.
        options: The manager, and limits.
        on_file: Told of each file that was repaired, or could not be, on the caller's thread.
        on_progress: Told several times a second how far it is, on the caller's thread.
        events: Where it is told what files come and what is waited for.

    Attributes:
        bytes_fetched: Bytes that came over the network.
    """

    def __init__(
        self,
        target: Target,
        options: CallOptions,
        on_file: Callable[[CheckedFile], None],
        on_progress: Callable[[VerifyProgress], None],
        events: EventStream | None = None,
    ) -> None:
        assert target.repository is not None
        self.bytes_fetched = 0
        self._target = target
        self._repository: Repository = target.repository
        self._options = options
        self._on_file = on_file
        self._on_progress = on_progress
        self._events = events
        self._right: dict[str, set[tuple[int, int, int, int]]] = {}
        self._cancel_token = CancelToken()

    def run(self, findings: Sequence[Finding]) -> list[Finding]:
        """Repair what is wrong or missing.

        Returns:
            All findings, with what became of those files.
        """
        results = {id(each): each for each in findings}
        faulty = [each for each in findings if each.checked.state in {"wrong", "missing"}]
        with self._options.engine() as manager:
            jobs = []
            for finding, outcome in self._prepare_all(faulty, manager):
                if isinstance(outcome, _Job):
                    jobs.append(outcome)
                else:
                    self._tell_failed(finding, outcome)
                    results[id(finding)] = self._failed(finding, outcome)
            for job, error in self._fetch_all(jobs, manager):
                results[id(job.finding)] = (
                    self._repaired(job) if error is None else self._failed(job.finding, _in_words(error))
                )
        return list(results.values())

    # ---- before the download

    def _prepare_all(
        self, faulty: Sequence[Finding], manager: ParallelDownloadManager
    ) -> list[tuple[Finding, _Job | str]]:
        """Return a job, or why there is none, for each file."""

        def prepare(number: int) -> _Job | str:
            try:
                return self._prepare(faulty[number], manager)
            except _PREPARING_ERRORS as error:
                explained = self._repository.explain(
                    faulty[number].subject.path, faulty[number].subject.commit or "", error
                )
                return _in_words(explained)

        with closing(
            results_in_threads(
                "hf-haul-repair", _PREPARING_THREADS, prepare, range(len(faulty)), self._cancel_token.set
            )
        ) as results:
            found = [result for result in results if result is not None]
        return [(faulty[number], outcome) for number, outcome in found]

    def _prepare(self, finding: Finding, manager: ParallelDownloadManager) -> _Job | str:
        subject, fault = finding.subject, finding.checked.fault
        if fault in _IN_THE_WAY and not _is_out_of_the_way(subject.location):
            return _IN_THE_WAY[fault]
        if subject.commit is None:
            return "no snapshot uses it, so nothing tells which file it was; it can be deleted"
        if is_offline():
            return "HF_HUB_OFFLINE is set"
        metadata = self._metadata(subject)
        sources = repo_sources(self._repository, metadata.commit, manager.settings)
        if sources:
            metadata = checkable(self._repository, subject.path, metadata)
        remote = self._repository.remote_file(subject.path, metadata, sources)
        destination = self._destination(finding, metadata)
        request = FileRequest(remote, destination)
        kept, copied = 0, False
        if metadata.size is not None and remote.digest is not None:
            check_space([request], 0, lambda: (), manager.settings.disk_check)
            kept, copied = self._keep(finding, request, destination, metadata.size, manager)
        return _Job(finding, request, destination, kept, copied)

    def _metadata(self, subject: Subject) -> FileMetadata:
        """Return what a download has to know; the Hub is asked for what the disk does not tell."""
        assert subject.commit is not None
        if subject.etag is not None and subject.size is not None:
            listed = subject.known_from in {"hub", "listing"}
            return FileMetadata(subject.commit, subject.etag, subject.size, subject.xet_hash, listed=listed)
        found = self._repository.metadata(
            subject.path,
            subject.commit,
            timeout=uncached_timeout(),
            retry=True,
            cancel_token=self._cancel_token,
        )
        # What was noted on disk is the version that was wanted, whatever a branch means by now.
        return found if subject.etag in {None, found.etag} else replace(found, etag=subject.etag, size=None)

    def _destination(self, finding: Finding, metadata: FileMetadata) -> RepairDestination:
        path, target = finding.subject.path, self._target
        inner: BlobDestination | LocalDirDestination
        if target.local is not None:
            inner = LocalDirDestination(target.local, path, metadata.commit, metadata.etag)
        else:
            assert target.cache is not None
            inner = BlobDestination(
                target.cache, metadata.commit, path, metadata.etag, metadata.size, metadata.xet_hash
            )
        right = self._right.setdefault(metadata.etag if target.local is None else path, set())
        digest = self._repository.remote_file(path, metadata).digest
        return RepairDestination(inner, digest, finding.sight.identity, right)

    def _keep(
        self,
        finding: Finding,
        request: FileRequest,
        destination: RepairDestination,
        size: int,
        manager: ParallelDownloadManager,
    ) -> tuple[int, bool]:
        """Stage what can be kept; return how much that is, and whether it is of another copy."""
        source, copied = finding.subject.location, False
        if isinstance(destination.inner, LocalDirDestination):
            cache = cache_folder(self._repository, absolute_path(constants.HF_HUB_CACHE))
            blob = cache.blob(destination.inner.etag)
            if look_at(blob, size).fault is None:
                source, copied = blob, True
        if not copied and finding.checked.state == "missing":
            return 0, False
        try:
            kept = stage_what_is_good(
                source,
                destination,
                size,
                whole=copied,
                sequential=manager.settings.write_mode == "sequential",
                uri=request.remote.uri,
                check=self._cancel_token.check,
            )
        except (FileNotFoundError, PermissionError, StagedElsewhereError) as error:
            logger.info("%s: nothing of it is kept: %s", finding.subject.path, error)
            return 0, False
        return kept, copied

    # ---- the download

    def _fetch_all(
        self, jobs: Sequence[_Job], manager: ParallelDownloadManager
    ) -> list[tuple[_Job, BaseException | None]]:
        """Fetch what is missing; return why a file failed, where it did."""
        running: list[tuple[list[_Job], DownloadHandle]] = []
        found: list[tuple[_Job, BaseException | None]] = []
        try:
            for group in _groups(jobs):
                handle = self._submit(group, manager)
                if isinstance(handle, DownloadHandle):
                    running.append((group, handle))
                else:
                    found += [(job, handle) for job in group]
            self._wait_for(running)
        except BaseException:
            for _, handle in running:
                handle.cancel()
            for _, handle in running:
                handle.wait(_CANCEL_GRACE)
            raise
        for group, handle in running:
            errors, fetched = dict(handle.errors()), handle.progress().bytes_transferred
            self.bytes_fetched += fetched
            found += [(_with_what_was_kept(job, fetched), self._why(job, errors)) for job in group]
        return found

    def _submit(
        self, group: Sequence[_Job], manager: ParallelDownloadManager
    ) -> DownloadHandle | OSError | ValueError:
        """Begin the download of some files; return why it cannot begin, if it cannot."""
        try:
            return manager.submit(
                [job.request for job in group],
                model_id=self._repository.repo_id,
                priority=self._options.priority,
                events=self._events,
                summed=True,
            )
        except (OSError, ValueError) as error:  # no room for them
            for job in group:
                self._tell_failed(job.finding, _in_words(error))
            return error

    def _wait_for(self, running: Sequence[tuple[list[_Job], DownloadHandle]]) -> None:
        """Wait for downloads, and tell how far they are."""
        if not running:
            return
        self._tell(running)
        for _, handle in running:
            while not handle.wait(TICK):
                self._tell(running)
        self._tell(running)

    def _tell_failed(self, finding: Finding, why: str) -> None:
        """Tell of a file that never came to the engine, which tells of the others."""
        if self._events is not None:
            self._events.file("failed", finding.subject.path, finding.subject.size, why)

    def _why(self, job: _Job, errors: dict[str, BaseException]) -> BaseException | None:
        path = job.finding.subject.path
        error = errors.get(path)
        if error is None and not job.destination.steps:
            error = DownloadCancelledError(f"{path}: the repair was cancelled")
        return (
            None if error is None else self._repository.explain(path, job.finding.subject.commit or "", error)
        )

    def _tell(self, running: Sequence[tuple[list[_Job], DownloadHandle]]) -> None:
        now = [handle.progress() for _, handle in running]
        self._on_progress(
            VerifyProgress(
                "repair",
                sum(each.files_done for each in now),
                sum(each.files_total for each in now),
                sum(each.bytes_done for each in now),
                sum(each.bytes_total for each in now),
                sum(each.speed_bps for each in now),
            )
        )

    # ---- after it

    def _repaired(self, job: _Job) -> Finding:
        if job.destination.steps[-1] == "linked":
            how: Repair = "linked" if isinstance(job.destination.inner, BlobDestination) else "copied"
        elif job.copied:
            how = "copied"
        else:
            how = "completed" if job.kept else "fetched"
        checked = replace(
            job.finding.checked,
            state="ok" if job.request.remote.digest is not None else "unknown",
            repair=how,
            bytes_kept=job.kept,
        )
        self._on_file(checked)
        return replace(job.finding, checked=checked)

    def _failed(self, finding: Finding, why: str) -> Finding:
        checked = replace(finding.checked, repair_error=why)
        self._on_file(checked)
        return replace(finding, checked=checked)


def _in_words(error: BaseException) -> str:
    return describe(error).text


def _is_out_of_the_way(location: str) -> bool:
    """Remove an empty folder from a file's place; return whether it is gone."""
    try:
        os.rmdir(location)
    except OSError:  # somebody's files are in it
        return False
    return True


def _groups(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Return the jobs by the queue that each is in.

    One of which something is kept has a queue of its own: its numbers tell whether that was right. A queue
    tells of its files by their paths, so that two commits have two.
    """
    groups = [[job] for job in jobs if job.kept]
    rest: dict[str | None, list[_Job]] = {}
    for job in jobs:
        if not job.kept:
            rest.setdefault(job.finding.subject.commit, []).append(job)
    return [*groups, *rest.values()]


def _with_what_was_kept(job: _Job, fetched: int) -> _Job:
    """Return the job; without what was kept if the digest told that it was not right, and all was fetched."""
    if job.kept and fetched >= (job.request.remote.size or 0):
        return replace(job, kept=0, copied=False)
    return job
