"""What one thread is doing, and what is to be done about it once the scheduler's lock is free."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from hf_haul.engine.queue_run import QueueRun
from hf_haul.engine.transfer import Part, Transfer
from hf_haul.metrics import SMALL_FILE

__all__ = ["Action", "FollowUp", "Job", "JobKind"]

Action = Callable[[], object]


class JobKind(enum.Enum):
    """What a worker does with a file."""

    OPEN = enum.auto()
    FETCH = enum.auto()
    RENEW = enum.auto()
    FINISH = enum.auto()


@dataclass(eq=False, slots=True)
class Job:
    """What one thread is doing.

    Attributes:
        kind: ``OPEN``: look what is there, and claim it; ``FETCH``: a part; ``RENEW``: drop the bytes of an
            older version; ``FINISH``: check and publish.
        run: The file's queue.
        transfer: The file.
        part: What is fetched.
        published: Whether it put the file in place.
        broken_by: What kept its thread from going on with it, if anything did.
    """

    kind: JobKind
    run: QueueRun
    transfer: Transfer
    part: Part | None = None
    published: bool = False
    broken_by: Exception | None = None

    @property
    def counts(self) -> bool:
        """Whether it takes up one of its source's connections.

        Who finishes a small file comes back for the next one: whoever were woken for the connection meanwhile
        would only take the interpreter from it.
        """
        if self.part is None and self.transfer.sources.has_others:
            return False  # which of them a file comes from is decided for each part
        if self.kind is JobKind.FINISH:
            return self.transfer.size <= SMALL_FILE
        return self.kind is not JobKind.RENEW

    @property
    def source(self) -> str:
        """Whose connection that is."""
        return self.transfer.source if self.part is None else self.part.source.name

    @property
    def asks(self) -> bool:
        """Whether it sends requests: opening does where the size is unknown."""
        return self.kind is JobKind.FETCH or (
            self.kind is JobKind.OPEN and self.transfer.request.remote.size is None
        )


@dataclass(eq=False, slots=True)
class FollowUp:
    """What is to be done once the lock is free.

    Attributes:
        stop: Parts to cancel.
        do: Everything else, in order; what was begun is taken out.
        runs: Queues that may not end before it is done.
        disk: On which file system some of it may have to wait, if any.
    """

    stop: list[Part] = field(default_factory=list)
    do: deque[Action] = field(default_factory=deque)
    runs: set[QueueRun] = field(default_factory=set)
    disk: Hashable | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.stop or self.do or self.runs)

    def tell(self, run: QueueRun, action: Action) -> None:
        """Add a message that comes before the end of a queue, or a file that is to be closed by then."""
        run.untold.add(self)
        self.runs.add(run)
        self.do.append(action)
