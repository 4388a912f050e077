"""What a cluster's scheduler has to offer, so that nodes can be started on its workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from hf_haul.cluster.census import Question, Worker
from hf_haul.cluster.node_work import NodeOrder
from hf_haul.errors import HaulError

__all__ = ["Control", "ControlLostError", "Event", "GetResult", "HowToEnd", "OnDone"]

#: Returns the result of what was asked for, or raises why there is none; may take a moment.
GetResult = Callable[[], Any]
#: Called, on any thread, once something that was asked for has ended.
OnDone = Callable[[GetResult], object]
#: ``cancel``: at once, whatever is under way. ``close``: no more is to come.
HowToEnd = Literal["cancel", "close"]
#: As ``on_event`` is told them.
Event = Mapping[str, Any]


class ControlLostError(HaulError):
    """The scheduler does not answer, or has gone away."""


class Control(Protocol):
    """A scheduler of some kind, as one distribution sees it.

    The result of what is asked of a worker is a :class:`~hf_haul.cluster.results.WorkerLostError`, raised,
    where that worker is gone, or has forgotten it.

    Attributes:
        where: The scheduler, in a message.
    """

    where: str

    def workers(self) -> Mapping[str, Worker]:
        """Return the workers there are now, by address.

        Raises:
            ControlLostError: The scheduler does not tell.
        """

    def probe(self, worker: Worker, question: Question, on_done: OnDone) -> None:
        """Ask a worker; the result is :class:`~hf_haul.cluster.census.Facts`."""

    def start(self, worker: Worker, order: NodeOrder, plan_bytes: bytes, on_done: OnDone) -> None:
        """Start a node on a worker; the result is the URL of the node."""

    def run(self, worker: Worker, order: NodeOrder, members: Mapping[str, str], on_done: OnDone) -> None:
        """Run a node until it has its files; the result is a :class:`~hf_haul.cluster.results.NodeResult`.

        Args:
            worker: Where it was started.
            order: What it was started with.
            members: The URLs of all nodes, by name.
            on_done: Called when it has ended.
        """

    def forget(self, order: NodeOrder) -> None:
        """Drop what was asked for of a node, whose worker is gone."""

    def end(self, workers: Sequence[Worker], job_id: str, how: HowToEnd, timeout: float) -> None:
        """End the nodes of a job.

        Args:
            workers: Where they run.
            job_id: The job.
            how: At once, or as they have done all there was to do.
            timeout: Seconds to wait for it at the most.
        """

    def listen(self, listener: Callable[[str, dict[str, Any]], object]) -> None:
        """Call a function with each event of a node, on any thread: the node's name, and the event."""

    def close(self) -> None:
        """Let go of the scheduler; it goes on for others."""
