"""The parts of a file whose bytes another file of this node gets: they come from there, over loopback."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hf_haul.cluster.stripes import Stripes
from hf_haul.engine.assignment import Assignment, AssignmentEnd
from hf_haul.ranges import ByteRange, RangeSet
from hf_haul.task import OtherSource

__all__ = ["CopyAssigner"]


class CopyAssigner:
    """Assigns the parts of a second file of a blob, see :class:`hf_haul.engine.assignment.Assigner`.

    In a cache two files of one blob are one file. In a folder they are two, and what this node has of the
    first need not be asked for elsewhere.

    Args:
        etag: The blob.
        stripes: The job's stripes.
        has: Returns whether this node has some stripes.
        is_lost: Returns whether the first file was given up: then the origin is asked.
        source: This node itself.
    """

    def __init__(
        self,
        etag: str,
        stripes: Stripes,
        *,
        has: Callable[[Sequence[int]], bool],
        is_lost: Callable[[], bool],
        source: OtherSource,
    ) -> None:
        self._stripes = stripes
        self._numbers = stripes.of_blob(etag)
        self._size = stripes.size(etag)
        self._has = has
        self._is_lost = is_lost
        self._source = source
        self._there = RangeSet()  # what is on disk, or under way

    @property
    def piece_bytes(self) -> int:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        return self._stripes.stripe_bytes

    def start(self, missing: Sequence[ByteRange]) -> None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        self._there = RangeSet([ByteRange(0, self._size)])
        for span in missing:
            self._there.discard(span.start, span.stop)

    def next(self, *, origin: bool, idle: bool) -> Assignment | None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        del idle
        for gap in self._there.missing(0, self._size):
            length = self._stripes.stripe_bytes
            for index in range(gap.start // length, -(-gap.stop // length)):
                piece = self._stripes.locate(self._numbers[index])[1]
                span = ByteRange(max(gap.start, piece.start), min(gap.stop, piece.stop))
                if self._has([self._numbers[index]]):
                    return Assignment(span, self._source)
                if origin and self._is_lost():
                    return Assignment(span)
        return None

    def begin(self, assignment: Assignment) -> None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        self._there.add(assignment.span.start, assignment.span.stop)

    def can_spare(self, assignment: Assignment, error: BaseException) -> bool:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        del error
        return assignment.source is not None

    def end(self, assignment: Assignment, how: AssignmentEnd) -> None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        del assignment
        for span in how.left:
            self._there.discard(span.start, span.stop)

    def blame(self, wrong: Sequence[tuple[ByteRange, str]]) -> set[str]:
        """See :class:`hf_haul.engine.assignment.Assigner`: this node itself is not left alone."""
        del wrong
        return set()

    def settle(self, *, ok: bool) -> None:
        """See :class:`hf_haul.engine.assignment.Assigner`."""

    def waits_for(self) -> str:
        """See :class:`hf_haul.engine.assignment.Assigner`."""
        return "another file of this node that has the same bytes"
