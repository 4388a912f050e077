"""Checks files: all sizes first, then digests on several threads."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.digests import Digest
from hf_haul.hub.verify_report import CheckedFile, VerifyProgress
from hf_haul.hub.verify_subjects import Subject
from hf_haul.processors import usable_processors
from hf_haul.storage.file_checks import CheckOrder, Sight, hex_digest, look_at
from hf_haul.threads import results_in_threads

__all__ = ["Checks", "Finding"]

logger = logging.getLogger(__name__)

#: Threads that look at files: on network file systems each look is a round trip.
_LOOKING_THREADS: Final = 8
#: Files looked at in one piece of work.
_LOOKS_AT_ONCE: Final = 256
#: Seconds between two reports of progress.
_PROGRESS_SECONDS: Final = 0.2
#: How often a file is hashed that is another one by then, because somebody replaces it.
_ATTEMPTS: Final = 3
#: Seconds by which a file may be younger than the note of its download.
_CLOCK_SLACK: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that was checked, and what a repair has to know of it.

    Attributes:
        subject: The file.
        sight: How it was found.
        checked: What was found out.
    """

    subject: Subject
    sight: Sight
    checked: CheckedFile


@dataclass
class _Job:
    """One file to hash: the subjects are names of the same bytes."""

    subjects: list[Subject]
    sight: Sight
    digest: Digest
    read: int = 0

    @property
    def size(self) -> int:
        return self.sight.size or 0


@dataclass
class Checks:
    """Checks some files and tells of each as soon as it is known.

    Callbacks are called on the caller's thread.

    Attributes:
        partial: Whether a file that was never downloaded is left out of the findings, and not missing.
        threads: Threads that hash; as many as there are processors to use if ``None``.
        on_file: Told of each file.
        on_progress: Told several times a second how far it is.
        bytes_read: Bytes read so far.
        read_seconds: How long reading took.
    """

    partial: bool = False
    threads: int | None = None
    on_file: Callable[[CheckedFile], None] = lambda _: None
    on_progress: Callable[[VerifyProgress], None] = lambda _: None
    bytes_read: int = 0
    read_seconds: float = 0.0
    _findings: list[Finding] = field(default_factory=list)
    _read_lock: threading.Lock = field(default_factory=threading.Lock)
    _cancel_token: CancelToken = field(default_factory=CancelToken)
    _active: dict[int, _Job] = field(default_factory=dict)

    def run(self, subjects: Sequence[Subject]) -> list[Finding]:
        """Check files; what is known from their sizes is told before the first is read.

        Returns:
            What was found out about each, by path.
        """
        to_hash: list[tuple[Subject, Sight]] = []
        for subject, sight in self._look_at_all(subjects):
            if sight.fault is None and subject.expected and subject.digest is not None:
                to_hash.append((subject, sight))
            elif self._counts(subject, sight):
                self._note(subject, sight, _from_sight(subject, sight))
        self._hash_all(_jobs(to_hash), len(subjects))
        return sorted(self._findings, key=lambda found: (found.checked.path, found.checked.commit or ""))

    def _counts(self, subject: Subject, sight: Sight) -> bool:
        return not (self.partial and sight.fault == "absent" and not subject.downloaded)

    def _note(self, subject: Subject, sight: Sight, checked: CheckedFile) -> None:
        self._findings.append(Finding(subject, sight, checked))
        self.on_file(checked)

    # ---- sizes

    def _look_at_all(self, subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Sight]]:
        batches = [subjects[at : at + _LOOKS_AT_ONCE] for at in range(0, len(subjects), _LOOKS_AT_ONCE)]

        def look(number: int) -> list[tuple[Subject, Sight]]:
            seen = []
            for subject in batches[number]:
                self._cancel_token.check()
                seen.append((subject, look_at(subject.location, subject.size)))
            return seen

        with closing(
            results_in_threads(
                "hf-haul-look", _LOOKING_THREADS, look, range(len(batches)), self._cancel_token.set
            )
        ) as results:
            for result in results:
                yield from result[1] if result is not None else ()

    # ---- digests

    def _hash_all(self, jobs: Sequence[_Job], files: int) -> None:
        threads = self.threads or math.ceil(usable_processors())
        order = CheckOrder([(job, job.size, _is_odd(job)) for job in jobs], threads)
        total = sum(job.size for job in jobs)
        began = told = time.monotonic()

        def hash_next(_: int) -> tuple[_Job, Sight, str | OSError] | None:
            job = order.take()
            return None if job is None else (job, *self._hash(job))

        def tell() -> None:
            seconds = time.monotonic() - began
            done = min(self.bytes_read, total)
            jobs = list(self._active.values())  # in one step: the threads change it
            jobs.sort(key=lambda job: job.read - job.size)
            active = tuple((job.subjects[0].path, job.read, job.size) for job in jobs)
            self.on_progress(
                VerifyProgress(
                    "check",
                    len(self._findings),
                    files,
                    done,
                    total,
                    done / seconds if seconds else 0.0,
                    active,
                )
            )

        tell()
        with closing(
            results_in_threads("hf-haul-verify", threads, hash_next, range(len(jobs)), self._cancel_token.set)
        ) as results:
            for result in results:
                if result is not None and result[1] is not None:
                    job, sight, outcome = result[1]
                    for subject in job.subjects:
                        self._note(subject, sight, _from_digest(subject, sight, outcome))
                if time.monotonic() - told >= _PROGRESS_SECONDS:
                    tell()
                    told = time.monotonic()
        self.read_seconds = time.monotonic() - began
        tell()

    def _hash(self, job: _Job) -> tuple[Sight, str | OSError]:
        """Hash one file; once more if somebody replaced it meanwhile."""
        me = threading.get_ident()
        location, sight = job.subjects[0].location, job.sight
        self._active[me] = job
        try:
            for _ in range(_ATTEMPTS):
                job.read = 0
                actual, identity = self._digest(job, location, job.digest.algorithm)
                if actual == job.digest.value:
                    break
                sight = look_at(location, sight.size)
                if sight.identity == identity:
                    if job.digest.algorithm == "git-sha1" and job.subjects[0].known_from == "etag":
                        # Some mirrors' etags are the sha1 of the bytes, without git's header.
                        plain = self._digest(job, location, "sha1")[0]
                        actual = plain if plain == job.digest.value else actual
                    break
        except OSError as error:
            return sight, error
        finally:
            self._active.pop(me, None)
        return sight, actual

    def _digest(self, job: _Job, location: str, algorithm: str) -> tuple[str, tuple[int, int, int, int]]:
        def note(count: int) -> None:
            job.read += count
            with self._read_lock:
                self.bytes_read += count

        return hex_digest(location, algorithm, note, self._cancel_token.check)


def _jobs(to_hash: Iterable[tuple[Subject, Sight]]) -> list[_Job]:
    """Return the files to hash; names of the same bytes, as in several snapshots, are one."""
    jobs: dict[object, _Job] = {}
    for subject, sight in to_hash:
        assert subject.digest is not None
        job = jobs.setdefault((sight.identity, subject.digest), _Job([], sight, subject.digest))
        job.subjects.append(subject)
    return list(jobs.values())


def _is_odd(job: _Job) -> bool:
    """Return whether something about a file makes it worth hashing before others."""
    noted_at = job.subjects[0].noted_at
    return job.sight.sparse or (noted_at is not None and job.sight.modified > noted_at + _CLOCK_SLACK)


def _from_sight(subject: Subject, sight: Sight) -> CheckedFile:
    """Return what is known of a file that was not read."""
    checked = _about(subject, sight)
    if not subject.expected:
        return replace(checked, state="extra")
    if sight.fault in {"absent", "broken-link"}:
        return replace(checked, state="missing", fault=sight.fault)
    if sight.fault is not None:
        return replace(checked, state="wrong", fault=sight.fault, detail=sight.detail)
    return replace(checked, state="unknown")


def _from_digest(subject: Subject, sight: Sight, outcome: str | OSError) -> CheckedFile:
    """Return what is known of a file that was read, or could not be."""
    checked = _about(subject, sight)
    if isinstance(outcome, OSError):
        if isinstance(outcome, FileNotFoundError):
            return replace(checked, state="missing", fault="absent")
        return replace(checked, state="wrong", fault="unreadable", detail=outcome.strerror or str(outcome))
    assert subject.digest is not None
    if outcome == subject.digest.value:
        return checked
    return replace(checked, state="wrong", fault="digest", actual=outcome)


def _about(subject: Subject, sight: Sight) -> CheckedFile:
    digest = subject.digest
    return CheckedFile(
        path=subject.path,
        state="ok",
        location=subject.location,
        commit=subject.commit,
        size=sight.size,
        expected_size=subject.size,
        algorithm=None if digest is None else digest.algorithm,
        expected=None if digest is None else digest.value,
        known_from=subject.known_from,
    )
