"""What is done on a worker, whatever scheduler it belongs to: start a node's agent, run it, end it.

An agent outlives its run: who joins late, or comes back, gets its bytes from those that have them, until the
job is over. Nobody has to come and end it: it ends by itself a while after all nodes have their files, and
with its worker.
"""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cluster.census import fill_in
from hf_haul.cluster.results import NodeResult, WorkerLostError, portable
from hf_haul.errors import DownloadCancelledError
from hf_haul.forks import renew_after_fork
from hf_haul.threads import start_daemon

if TYPE_CHECKING:
    from hf_haul.cluster.agent import NodeAgent
    from hf_haul.cluster.plan import JobPlan

__all__ = ["NodeOrder", "begin_node", "end_nodes", "make_agent", "pack_plan", "run_node"]

logger = logging.getLogger(__name__)

#: Seconds for which an agent that nobody ends goes on after its run, at the least, once the other nodes have
#: all of their files; and for which it waits to be run. Who started it may be gone.
_ABANDONED_SECONDS, _UNUSED_SECONDS = 120.0, 3600.0
#: Jobs that are over and are remembered, for tasks that come too late.
_MOST_OVER: Final = 1000
#: Events of a node that are worth a message to the scheduler; those about single files are not.
_TOLD: Final = frozenset({"plan", "progress", "wait", "done", "error"})
#: Files in progress that a report names; it goes to the scheduler once a second from each node.
_MOST_ACTIVE: Final = 4


@dataclass(frozen=True)
class NodeOrder:
    """What one node is started with, beside the plan of the job.

    Attributes:
        job_id: The job.
        node: What the node is called.
        token: What the nodes of the job know each other by.
        hub_token: The Hub's token: a text, ``None`` for the worker's own, ``False`` for none.
        cache_dir: The cache, which may hold ``{node}``; ``None`` for the worker's own.
        local_dir: The folder for plain files; the same.
        max_bandwidth: Bytes per second that this node may fetch from the Hub; ``None`` for no limit.
        max_send_rate: Bytes per second that it may send to other nodes; ``None`` for no limit.
        attempt: How often the node was started before.
    """

    job_id: str
    node: str
    token: str = field(repr=False)
    hub_token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | None = None
    local_dir: str | None = None
    max_bandwidth: int | None = None
    max_send_rate: float | None = None
    attempt: int = 0


def pack_plan(plan: JobPlan) -> bytes:
    """Return a plan as it is sent to workers."""
    return zlib.compress(json.dumps(plan.to_json(), separators=(",", ":")).encode(), 1)


def make_agent(
    order: NodeOrder, plan: bytes, host: str, on_event: Callable[[Mapping[str, Any]], object] | None
) -> NodeAgent:
    """Return the agent of a node, not started.

    Args:
        order: What the node is.
        plan: As :func:`pack_plan` returned it.
        host: Address to listen on.
        on_event: Told what happens.
    """
    from hf_haul.cluster.agent import NodeAgent  # needs the extra "serve"
    from hf_haul.cluster.plan import JobPlan

    return NodeAgent(
        JobPlan.from_json(json.loads(zlib.decompress(plan))),
        order.node,
        listen=(host, 0),
        token=order.token,
        hub_token=order.hub_token,
        cache_dir=fill_in(order.cache_dir, order.node),
        local_dir=fill_in(order.local_dir, order.node),
        max_bandwidth=order.max_bandwidth,
        max_bytes_per_s=order.max_send_rate,
        on_event=on_event,
    )


@dataclass
class _LocalNode:
    """A node in this process."""

    agent: NodeAgent
    url: str
    owner: Hashable
    result: Future[NodeResult] | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class _LocalNodes:
    """The nodes in this process, by job and name.

    Locking: ``_lock`` guards them; nobody who holds it calls an agent.
    """

    def __init__(self) -> None:
        self._renew()
        renew_after_fork(self, _LocalNodes._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._nodes: dict[tuple[str, str], _LocalNode] = {}
        self._over: dict[str, None] = {}

    def get(self, key: tuple[str, str]) -> _LocalNode | None:
        with self._lock:
            return self._nodes.get(key)

    def add(self, key: tuple[str, str], node: _LocalNode) -> _LocalNode:
        """Add a node; return the one that there is by then.

        Raises:
            DownloadCancelledError: Its job is over.
        """
        with self._lock:
            if key[0] in self._over:
                raise DownloadCancelledError(f"node {key[1]}: its job was ended before it began")
            return self._nodes.setdefault(key, node)

    def note_over(self, job_id: str) -> None:
        """Note that no node of a job is to begin any more."""
        with self._lock:
            self._over[job_id] = None
            while len(self._over) > _MOST_OVER:
                self._over.pop(next(iter(self._over)))

    def take_result(self, node: _LocalNode) -> tuple[Future[NodeResult], bool]:
        """Return where a node's result will be, and whether the caller has to see to it."""
        with self._lock:
            first = node.result is None
            node.result = node.result or Future()
            return node.result, first

    def pop(self, wanted: Callable[[tuple[str, str], _LocalNode], bool]) -> list[_LocalNode]:
        with self._lock:
            keys = [key for key, node in self._nodes.items() if wanted(key, node)]
            return [self._nodes.pop(key) for key in keys]


_local_nodes: Final = _LocalNodes()


def begin_node(
    order: NodeOrder,
    plan: bytes,
    host: str,
    tell: Callable[[dict[str, Any]], object],
    owner: Hashable = None,
) -> str:
    """Start a node; return its URL. Where it is started already, nothing else happens.

    Args:
        order: What the node is.
        plan: As :func:`pack_plan` returned it.
        host: Address to listen on.
        tell: Called with events.
        owner: Who has it ended; see :func:`end_nodes`.
    """
    key = order.job_id, order.node
    known = _local_nodes.get(key)
    if known is not None:
        return known.url

    def on_event(event: Mapping[str, Any]) -> None:
        if event["ev"] in _TOLD:
            shortened = {"active": list(event["active"])[:_MOST_ACTIVE]} if "active" in event else {}
            tell({**event, **shortened})

    agent = make_agent(order, plan, host, on_event)
    try:
        node = _local_nodes.add(key, _LocalNode(agent, agent.start(), owner))
    except BaseException:
        agent.close()
        raise
    if node.agent is not agent:  # somebody else was faster
        agent.close()
    elif start_daemon(partial(_end_abandoned, node), "hf-haul-abandoned") is None:
        logger.debug("no thread that would end node %s by itself", order.node)
    return node.url


def run_node(job_id: str, node: str, members: Mapping[str, str]) -> NodeResult:
    """Run a node until it has its files, and return its result; a second call waits for the first one's.

    Args:
        job_id: The job.
        node: The node.
        members: The URLs of all nodes, by name.
    """
    local = _local_nodes.get((job_id, node))
    if local is None:
        raise WorkerLostError("its worker was started again, and knows nothing of it")
    result, first = _local_nodes.take_result(local)
    if not first:
        return result.result()
    try:
        found = local.agent.run(members)
    except Exception as error:  # noqa: BLE001  what becomes of the node, not of who asked
        found = NodeResult(error=error)
    except BaseException as error:
        result.set_exception(error)
        raise
    result.set_result(portable(found))
    return result.result()


def _end_abandoned(node: _LocalNode) -> None:
    """End a node that nobody runs; or that nobody ends after its run, once no other node needs it either."""
    unused, was_idle = 0.0, False
    while not node.ended.wait(_ABANDONED_SECONDS):
        unused += _ABANDONED_SECONDS
        is_idle = node.result is not None and node.result.done() and not node.agent.is_needed
        if (was_idle and is_idle) or (node.result is None and unused >= _UNUSED_SECONDS):
            _end(_local_nodes.pop(lambda _, each: each is node), cancel=False)
            return
        was_idle = is_idle


def end_nodes(*, job_id: str | None = None, owner: Hashable = None, cancel: bool) -> None:
    """End nodes, within a second or two each; those of one job, or those of one owner.

    Args:
        job_id: The job; ``None`` for all.
        owner: The owner; ``None`` for all.
        cancel: Whether to stop what is under way first.
    """
    if job_id is not None:
        _local_nodes.note_over(job_id)
    _end(
        _local_nodes.pop(
            lambda key, node: job_id in {None, key[0]} and (owner is None or owner == node.owner)
        ),
        cancel=cancel,
    )


def _end(nodes: list[_LocalNode], *, cancel: bool) -> None:
    for node in nodes:
        node.ended.set()
        if cancel:
            node.agent.cancel()
    for node in nodes:
        node.agent.close()
