"""Joins the policy of a job to the engine of one node: which part of which file is next, and from whom.

The engine asks for each file, with its own lock held; whoever listens to other nodes tells of them on another
thread. One lock of this module is between them, which is held for a moment and taken last.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from hf_haul.cluster.bitmaps import numbers_in
from hf_haul.cluster.copies import CopyAssigner
from hf_haul.cluster.node_state import NodeState
from hf_haul.cluster.shares import Choice, ErrorKind, Shares
from hf_haul.cluster.stripes import Stripes
from hf_haul.engine.assignment import AssignedBatch, Assigner, Assignment, AssignmentEnd, assigned
from hf_haul.engine.file_batch import FileBatch
from hf_haul.errors import ConnectionFailedError, HttpStatusError, StopRequestedError, WrongBytesError
from hf_haul.forks import renew_after_fork
from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.task import FileRequest, NetworkPath, OtherSource, RemoteFile
from hf_haul.urls import source_of

__all__ = ["FileAssigner", "JobAssigner"]

#: Failures of the origin in a row after which a file is not waited for any more, though nodes might bring it.
_ORIGIN_FAILURES: Final = 3
_NOT_FOUND: Final = frozenset({404, 410, 416})


class _Direct:
    """Reaches nodes without a proxy, which is for the world outside."""

    def path_to(self, url: str) -> NetworkPath | None:
        """Return the path to a node."""
        del url
        return NetworkPath()


_DIRECT: Final = _Direct()


@dataclass(frozen=True, slots=True, eq=False)
class _StripeAssignment(Assignment):
    """An assignment, and the choice that it comes from."""

    stripe: int = -1
    node: str | None = None


class _JobState:
    """What the files of a job share on this node.

    Attributes:
        lock: Guards all of it, and the files' own state. Nothing is called with it held but the policy and
            ``on_change``.
        shares: The policy.
        busy: Connections in use by node; those to the origin under ``None``.
        urls: Where nodes are asked.
    """

    def __init__(self, shares: Shares, job_id: str, token: str, on_change: Callable[[], object]) -> None:
        self.shares = shares
        self.stripes = shares.stripes
        self.busy: Counter[str | None] = Counter()
        self.urls: dict[str, str] = {}
        self._job_id = job_id
        self._headers = MappingProxyType({"Authorization": f"Bearer {token}"})
        self._on_change = on_change
        self._told = shares.version
        self._renew()
        renew_after_fork(self, _JobState._renew)

    def _renew(self) -> None:
        self.lock = threading.Lock()

    def tell(self) -> None:
        """Tell whoever announces the state if it has changed."""
        if self.shares.version != self._told:
            self._told = self.shares.version
            self._on_change()

    def source(self, node: str, etag: str) -> OtherSource | None:
        """Return a node as a source of a blob; ``None`` if nobody has said where it is."""
        base = self.urls.get(node)
        if base is None:
            return None
        url = f"{base}/haul/v1/jobs/{quote(self._job_id, safe='')}/blobs/{quote(etag, safe='')}"
        return OtherSource(url, self._headers, joins_path=False, network=_DIRECT, redirects=False)


class JobAssigner:
    """Assigns the parts of all files of one job on one node. Safe for threads.

    Args:
        name: This node.
        stripes: The job's stripes.
        job_id: The job.
        token: What nodes identify themselves with to each other.
        repeated: The blobs that several files have.
        nudge: Has the engine look for work; called without a lock, whenever something new is known.
        on_change: Called whenever this node's state has changed, by whoever changed it: with locks of the
            engine held, so it may only set a flag, or wake a loop.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        stripes: Stripes,
        *,
        job_id: str,
        token: str,
        repeated: Collection[str] = (),
        nudge: Callable[[], object] = lambda: None,
        on_change: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.stripes = stripes
        self._nudge = nudge
        self._job = _JobState(Shares(name, stripes, clock=clock), job_id, token, on_change)
        self._repeated = repeated
        #: Of each blob that several files have the first one, and where that is staged.
        self._files: dict[str, tuple[FileAssigner, tuple[Path, str]]] = {}

    # ---- what is learned of other nodes

    def note_own_url(self, url: str) -> None:
        """Note where this node itself is asked, for files that have the same bytes."""
        with self._job.lock:
            self._job.urls[self.name] = url.rstrip("/")

    def note_member(self, name: str, url: str) -> None:
        """Note that a node takes part, and where it is asked."""
        with self._job.lock:
            self._job.urls[name] = url.rstrip("/")
            self._job.shares.note_member(name)
        self._nudge()

    def note_state(self, name: str, state: NodeState) -> None:
        """Note what a node announced."""
        with self._job.lock:
            self._job.shares.note_state(name, state)
        self._nudge()

    def note_gone(self, name: str) -> None:
        """Note that a node is dead for sure."""
        with self._job.lock:
            self._job.shares.note_gone(name)
        self._nudge()

    def note_silent(self, name: str) -> None:
        """Note that a node does not answer for now."""
        with self._job.lock:
            self._job.shares.note_silent(name)
        self._nudge()

    # ---- what this node announces

    @property
    def version(self) -> int:
        """Grows with each change of :meth:`state`."""
        return self._job.shares.version

    def state(self) -> NodeState:
        """Return what to announce."""
        with self._job.lock:
            return self._job.shares.state()

    def has(self, stripes: Iterable[int]) -> bool:
        """Return whether this node has announced some stripes."""
        with self._job.lock:
            return all(map(self._job.shares.has, stripes))

    def bytes_here(self) -> int:
        """Return the bytes of all stripes that are here."""
        with self._job.lock:
            have = self._job.shares.state().have
        return sum(map(self.stripes.length, numbers_in(have)))

    def note_stripes(self, stripes: Iterable[int]) -> None:
        """Note stripes that are here already."""
        with self._job.lock:
            for stripe in stripes:
                self._job.shares.note_have(stripe)
            self._job.tell()

    def note_ended(self, error: str | None = None) -> None:
        """Note that this node fetches nothing more; ``error`` says why, if it does not have all."""
        with self._job.lock:
            self._job.shares.note_ended(error)
            self._job.tell()

    # ---- the files

    def assigned(self, requests: Sequence[FileRequest]) -> Sequence[FileRequest]:
        """Return requests whose parts are assigned here."""
        if isinstance(requests, FileBatch):
            return AssignedBatch(requests, self)
        return [assigned(each, self) for each in requests]

    def assigner_of(self, request: FileRequest) -> Assigner | None:
        """Return the assigner of a file; ``None`` if its blob is not of the job.

        Of several files with one blob the first one gets it, and the others beside it have it from there.
        """
        etag = self._blob_of(request.remote)
        if etag is None:
            return None
        if etag not in self._repeated:
            return FileAssigner(self._job, etag)
        place = request.destination.staging_dir, request.destination.staging_key
        file, known = self._files.setdefault(etag, (FileAssigner(self._job, etag), place))
        own = self._job.source(self.name, etag)
        if known == place or own is None:
            return file
        return CopyAssigner(etag, self.stripes, has=self.has, is_lost=lambda: file.is_lost, source=own)

    def _blob_of(self, remote: RemoteFile) -> str | None:
        etag = None if remote.digest is None else remote.digest.value
        known = etag is not None and remote.is_checkable and self.stripes.size_of(etag) == remote.size
        return etag if known else None

    def order_of(self, request: FileRequest) -> tuple[int, int, str]:
        """Return a file's place in the order of this node.

        What is not of the job is first, as it has to come from the origin. Those of several stripes follow,
        for all nodes in the same order: every node is home to some of them. Of the others a node begins with
        its own, and goes on with those of the next node, which that one has by then; so not all ask the same
        node.
        """
        path, etag = request.remote.path, self._blob_of(request.remote)
        if etag is None:
            return -1, 0, path
        stripes = self.stripes.of_blob(etag)
        if len(stripes) > 1:
            return 0, stripes.start, path
        size = len(self.stripes.nodes)
        place = self.stripes.place(self.name)
        mine = stripes.start % size if place is None else (stripes.start - place) % size
        return 1 + mine, stripes.start, path


class FileAssigner:
    """Assigns the parts of one blob's file, see :class:`hf_haul.engine.assignment.Assigner`.

    Args:
        job: What the job's files share; its lock guards the attributes.
        etag: The blob.
    """

    def __init__(self, job: _JobState, etag: str) -> None:
        self._job = job
        self._etag = etag
        numbers = job.stripes.of_blob(etag)
        self._first, self._count = numbers.start, len(numbers)
        self._size = job.stripes.size(etag)
        self._there = RangeSet()  # what is on disk, or under way
        self._wanted = 0  # bitmap of the stripes that lack something, and are not under way
        self._under_way: dict[int, list[_StripeAssignment]] = {}
        self.is_lost = False  # whether it was given up

    @property
    def piece_bytes(self) -> int:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        return self._job.stripes.stripe_bytes

    def start(self, missing: Sequence[ByteRange]) -> None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        job = self._job
        with job.lock:
            self._drop_all()
            self._there = RangeSet([ByteRange(0, self._size)] if self._size else [])
            for span in missing:
                self._there.discard(span.start, span.stop)
            self._wanted = _touched(missing, job.stripes.stripe_bytes)
            here = (1 << self._count) - 1 & ~self._wanted
            job.shares.note_window(self._first, self._count, here)
            job.tell()

    def next(self, *, origin: bool, idle: bool) -> Assignment | None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        job = self._job
        with job.lock:
            under_way = 0
            if idle:
                for index in self._under_way:
                    under_way |= 1 << index
            if not (self._wanted or under_way):
                return None
            choice = job.shares.next(
                self._wanted, job.busy, base=self._first, origin=origin, under_way=under_way, idle=idle
            )
            return None if choice is None else self._assignment(choice)

    def _assignment(self, choice: Choice) -> Assignment | None:
        source = None if choice.node is None else self._job.source(choice.node, self._etag)
        if choice.node is not None and source is None:
            return None
        if choice.hedge:
            slow = self._under_way[choice.stripe - self._first][0]
            return _StripeAssignment(slow.span, source, slow, choice.stripe, choice.node)
        span = self._holes(choice.stripe)[0]
        return _StripeAssignment(span, source, None, choice.stripe, choice.node)

    def _holes(self, stripe: int) -> list[ByteRange]:
        """Return what of a stripe is neither there nor under way."""
        span = self._job.stripes.locate(stripe)[1]
        return self._there.missing(span.start, span.stop)

    def begin(self, assignment: Assignment) -> None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        assert isinstance(assignment, _StripeAssignment)
        job, index = self._job, assignment.stripe - self._first
        with job.lock:
            self._under_way.setdefault(index, []).append(assignment)
            self._there.add(assignment.span.start, assignment.span.stop)
            self._wanted &= ~(1 << index)
            job.busy[assignment.node] += 1
            job.shares.note_begun(assignment.stripe, assignment.node)
            job.tell()

    def can_spare(self, assignment: Assignment, error: BaseException) -> bool:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        assert isinstance(assignment, _StripeAssignment)
        del error
        if assignment.node is not None:
            return True
        with self._job.lock:
            return self._job.shares.can_spare_origin(_ORIGIN_FAILURES)

    def end(self, assignment: Assignment, how: AssignmentEnd) -> None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        assert isinstance(assignment, _StripeAssignment)
        job, index, stripe = self._job, assignment.stripe - self._first, assignment.stripe
        with job.lock:
            others = self._under_way.get(index, [])
            if assignment not in others:
                return  # the file was begun anew since
            others.remove(assignment)
            if not others:
                del self._under_way[index]
            job.busy[assignment.node] -= 1
            for span in how.left:
                self._there.discard(span.start, span.stop)
            holes = self._holes(stripe)
            if holes and not others:
                self._wanted |= 1 << index
            if how.brought and not holes:
                # By the pace of what came: some of the stripe may have been there.
                whole = job.stripes.length(stripe)
                job.shares.note_done(stripe, assignment.node, how.seconds * whole / len(assignment.span))
            elif how.error is None or how.brought or isinstance(how.error, StopRequestedError):
                job.shares.note_dropped(stripe, assignment.node)
                if not holes and not others:  # somebody else was quicker
                    job.shares.note_have(stripe)
            else:
                told = getattr(how.error, "retry_after", None) or 0.0
                job.shares.note_failed(stripe, assignment.node, _kind_of(how.error), told=told)
            job.tell()

    def blame(self, wrong: Sequence[tuple[ByteRange, str]]) -> set[str]:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        job, length = self._job, self.piece_bytes
        with job.lock:
            nodes = {source_of(url): name for name, url in job.urls.items()}
            stripes = [
                (self._first + span.start // length, nodes[source])
                for span, source in wrong
                if source in nodes
            ]
            liar = job.shares.note_lies(stripes)
            return set() if liar is None or liar not in job.urls else {source_of(job.urls[liar])}

    def settle(self, *, ok: bool) -> None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        job = self._job
        with job.lock:
            self._drop_all()
            self._wanted = 0
            self.is_lost = not ok
            job.shares.note_window(self._first, self._count, (1 << self._count) - 1 if ok else 0)
            job.tell()

    def waits_for(self) -> str:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        with self._job.lock:
            return self._job.shares.waits_for()

    def _drop_all(self) -> None:
        """Forget what is under way: nobody is at the file."""
        for under_way in self._under_way.values():
            for each in under_way:
                self._job.busy[each.node] -= 1
                self._job.shares.note_dropped(each.stripe, each.node)
        self._under_way.clear()


def _touched(spans: Iterable[ByteRange], length: int) -> int:
    """Return a bitmap of the pieces of some length that ranges lie in."""
    bits = 0
    for span in spans:
        if len(span):
            first, last = span.start // length, (span.stop - 1) // length
            bits |= ((1 << (last - first + 1)) - 1) << first
    return bits


def _kind_of(error: BaseException) -> ErrorKind:
    """Return what an error says of the node that a stripe was asked of."""
    if isinstance(error, WrongBytesError):
        return "wrong"
    if isinstance(error, HttpStatusError) and error.status in _NOT_FOUND:
        return "absent"
    if isinstance(error, ConnectionFailedError) and _is_refusal(error):
        return "gone"
    return "failed"


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether nobody listens where a node was."""
    for _ in range(8):
        if error is None:
            break
        if isinstance(error, ConnectionRefusedError) or getattr(error, "errno", None) == errno.ECONNREFUSED:
            return True
        reason = getattr(error, "reason", None)
        error = (
            error.__cause__ or error.__context__ or (reason if isinstance(reason, BaseException) else None)
        )
    return False
