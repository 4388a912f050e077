"""Ray's cluster as what starts and watches the nodes: one actor for each of them, bound to its machine.

An actor needs no processor of those that Ray counts. It lives no longer than the process that called
:func:`~hf_haul.cluster.distributing.distribute`: Ray ends what that has started.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

from hf_haul.cluster.census import Question, Worker, probe
from hf_haul.cluster.control import ControlLostError, GetResult, HowToEnd, OnDone
from hf_haul.cluster.node_work import NodeOrder, begin_node, end_nodes, run_node
from hf_haul.cluster.results import NodeResult, WorkerLostError

__all__ = ["NodeActor", "RayControl", "joined"]

logger = logging.getLogger(__name__)

#: Calls of one actor at once: its run, its events, its end, and one more.
_CALLS: Final = 4
#: Seconds for which an actor waits for an event that it can tell of.
_EVENTS_SECONDS: Final = 1.0
#: Characters of a node's id that tell it from others.
_ID_SHOWN: Final = 8


@contextmanager
def joined(address: str) -> Iterator[Literal["ray"]]:
    """Join the cluster at an address during the block, and yield what stands for it.

    Raises:
        ControlLostError: There is none.
    """
    import ray  # needs the extra "ray"

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ControlLostError(f"no Ray cluster can be joined at {address} ({error})") from error
    try:
        yield "ray"
    finally:
        ray.shutdown()


class RayControl:
    """A Ray cluster, as :class:`~hf_haul.cluster.control.Control` describes one.

    What Ray calls a node is a worker here: a machine, or one of several Ray instances on it.

    Args:
        job_id: The job.
        repo_id: What the actors are called by.

    Attributes:
        where: The cluster, in a message.

    Raises:
        ValueError: ``ray.init`` was not called.
    """

    def __init__(self, job_id: str, repo_id: str) -> None:
        import ray  # needs the extra "ray"

        if not ray.is_initialized():
            raise ValueError("this process has joined no Ray cluster: call ray.init() first")
        self._job_id = job_id
        self._repo_id = repo_id
        self.where = f"the Ray cluster at {ray.get_runtime_context().gcs_address}"
        self._actors: dict[tuple[str, int], tuple[str, Any]] = {}  # node and attempt: address, actor
        self._plan: Any = None
        self._listener: Callable[[str, dict[str, Any]], object] = _ignore
        self._closed = False

    def workers(self) -> Mapping[str, Worker]:
        """Return Ray's nodes that are alive, by id."""
        import ray  # needs the extra "ray"
        from ray.exceptions import RayError

        try:
            nodes = ray.nodes()
        except (RayError, RuntimeError) as error:
            raise ControlLostError(f"{self.where} does not answer ({error})") from error
        return {node["NodeID"]: _worker(node) for node in nodes if node["Alive"]}

    def probe(self, worker: Worker, question: Question, on_done: OnDone) -> None:
        """Submit the task that answers a question."""
        import ray  # needs the extra "ray"

        task = ray.remote(num_cpus=0, max_retries=0)(probe)
        answer = task.options(scheduling_strategy=_bound_to(worker)).remote(question, worker.name)
        _when_done(answer, on_done)

    def start(self, worker: Worker, order: NodeOrder, plan_bytes: bytes, on_done: OnDone) -> None:
        """Make the actor of a node, and start the node there."""
        import ray  # needs the extra "ray"

        if self._plan is None:
            self._plan = ray.put(plan_bytes)
        actor = (
            ray.remote(NodeActor)
            .options(
                name=f"hf-haul-{self._repo_id}-{order.node}-{self._job_id}-{order.attempt}",
                num_cpus=0,
                max_concurrency=_CALLS,
                scheduling_strategy=_bound_to(worker),
            )
            .remote()
        )
        self._actors[order.node, order.attempt] = worker.address, actor
        _when_done(actor.start.remote(order, self._plan), on_done)
        self._ask_for_events(order.node, actor)

    def run(self, worker: Worker, order: NodeOrder, members: Mapping[str, str], on_done: OnDone) -> None:
        """Call the actor of a node that was started."""
        del worker  # the actor is there
        _, actor = self._actors[order.node, order.attempt]
        _when_done(actor.run.remote(order.job_id, order.node, dict(members)), on_done)

    def _ask_for_events(self, node: str, actor: Any) -> None:
        """Ask an actor what happens next, again and again until it is gone."""

        def take(get_result: GetResult) -> None:
            try:
                events = get_result()
            except Exception as error:  # noqa: BLE001  what has become of it is told elsewhere
                logger.debug("no more events of %s: %s", node, error)
                return
            for event in events:
                self._listener(node, event)
            if not self._closed:
                self._ask_for_events(node, actor)

        _when_done(actor.events.remote(), take)

    def forget(self, order: NodeOrder) -> None:
        """End an actor that is of no use any more."""
        import ray  # needs the extra "ray"

        _, actor = self._actors.pop((order.node, order.attempt), ("", None))
        if actor is not None:
            ray.kill(actor)

    def end(self, workers: Sequence[Worker], job_id: str, how: HowToEnd, timeout: float) -> None:
        """End the nodes of a job; what does not answer is ended with its actor."""
        import ray  # needs the extra "ray"
        from ray.exceptions import RayError

        addresses = {worker.address for worker in workers}
        ends = [
            actor.end.remote(job_id, how == "cancel")
            for address, actor in self._actors.values()
            if address in addresses
        ]
        try:
            ray.get(ends, timeout=timeout)
        except RayError as error:
            logger.debug("not all nodes of %s were told of its end: %s", job_id, error)

    def listen(self, listener: Callable[[str, dict[str, Any]], object]) -> None:
        """Pass on each event of the job's nodes, on a thread of Ray's."""
        self._listener = listener

    def close(self) -> None:
        """Let go of the actors, which ends them."""
        import ray  # needs the extra "ray"

        self._closed = True
        self._listener = _ignore
        self._plan = None
        for _, actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()


def _worker(node: Mapping[str, Any]) -> Worker:
    host, name = node["NodeManagerAddress"], node.get("NodeName")
    # Ray calls a node by its address where nobody gave it a name, also where several share that.
    return Worker(node["NodeID"], name if name and name != host else node["NodeID"][:_ID_SHOWN], host)


def _bound_to(worker: Worker) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(worker.address, soft=False)


def _ignore(_node: str, _event: dict[str, Any]) -> None:
    pass


def _when_done(reference: Any, on_done: OnDone) -> None:
    """Call a function once what a reference stands for is there, or cannot be had."""
    reference.future().add_done_callback(lambda done: on_done(partial(_result, done)))


def _result(future: Any) -> Any:
    """Return what a task returned, or raise what it raised."""
    from ray.exceptions import RayActorError, RayError, RayTaskError

    try:
        return future.result(0)
    except RayTaskError as error:
        raise error.cause from error
    except RayActorError as error:
        raise WorkerLostError(f"its actor died ({str(error).splitlines()[0]})") from error
    except RayError as error:
        raise WorkerLostError(f"its actor was lost ({type(error).__name__})") from error


# ---- on the nodes


class NodeActor:
    """The process of a node."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def start(self, order: NodeOrder, plan: bytes) -> str:
        """Start the node; return its URL."""
        import ray

        return begin_node(order, plan, ray.util.get_node_ip_address(), self._events.put)

    def run(self, job_id: str, node: str, members: Mapping[str, str]) -> NodeResult:
        """Run the node; return its result."""
        return run_node(job_id, node, members)

    def events(self) -> list[dict[str, Any]]:
        """Return what has happened since the last call; wait for it, but not for long."""
        found = []
        try:
            found.append(self._events.get(timeout=_EVENTS_SECONDS))
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            return found

    def end(self, job_id: str, cancel: bool) -> None:
        """End the node."""
        end_nodes(job_id=job_id, cancel=cancel)
