"""Dask's scheduler as what starts and watches the nodes: two tasks for each of them.

``start`` binds a port and returns; ``run`` is one long task, which leaves its thread's place to others, and
whose name on the dashboard says which node it is. Both are bound to their worker. What is asked of all
workers, and what ends the nodes, is run beside the tasks (``Client.run``): it must not wait for a free
thread. Events come over one topic of Dask's own, of which the scheduler keeps the last thousand.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hf_haul.cluster.census import Facts, Question, Worker, probe
from hf_haul.cluster.control import ControlLostError, GetResult, HowToEnd, OnDone
from hf_haul.cluster.node_work import NodeOrder, begin_node, end_nodes, run_node
from hf_haul.cluster.results import NodeResult, WorkerLostError
from hf_haul.threads import ThreadGroup

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["DaskControl", "joined"]

logger = logging.getLogger(__name__)

#: The topic of all events, and the plugin of workers that have nodes.
_TOPIC: Final = "hf-haul"
_PLUGIN: Final = "hf-haul-nodes"
#: Seconds for the scheduler to say which workers there are, and for a worker to answer a question: it may
#: have to import hf-haul for it, with all other workers of a busy machine, or from a slow file system.
_SCHEDULER_SECONDS, _PROBE_SECONDS = 5.0, 60.0
_CONNECT_SECONDS: Final = 10.0
#: Workers that are asked at once.
_ASKED_AT_ONCE: Final = 8
#: Before what users compute: the nodes that start first would wait for the last.
_PRIORITY: Final = 100
_LOOPBACK: Final = "127.0.0.1"
#: What a client raises whose scheduler does not answer; the last two if somebody has closed the client.
_NO_ANSWER: Final = (OSError, asyncio.TimeoutError, RuntimeError, AttributeError)
#: Of a worker on which tasks begin.
_FIT: Final = frozenset({"running", "paused"})

#: Who is told of a job's events, by client.
_listeners: Final[weakref.WeakKeyDictionary[Client, dict[str, Callable[[str, dict[str, Any]], object]]]] = (
    weakref.WeakKeyDictionary()
)


@contextmanager
def joined(address: str) -> Iterator[Client]:
    """Yield a client of the scheduler at an address, and close it.

    Raises:
        ControlLostError: There is none.
    """
    from distributed import Client  # needs the extra "dask"

    try:
        asyncio.run(_try(address))
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except Exception as error:
        why = str(error) or type(error).__name__
        raise ControlLostError(f"no Dask scheduler can be reached at {address} ({why})") from error
    with client:
        yield client


async def _try(address: str) -> None:
    """Connect to a scheduler, once.

    A client that fails at this is closed when Python ends, and waits for twenty seconds then.
    """
    from distributed.comm import connect
    from distributed.security import Security

    comm = await connect(address, timeout=_CONNECT_SECONDS, **Security().get_connection_args("client"))
    await comm.close()


class DaskControl:
    """A Dask scheduler, as :class:`~hf_haul.cluster.control.Control` describes one.

    Args:
        client: The caller's.
        job_id: The job.
        repo_id: What the tasks are called by.

    Attributes:
        where: The scheduler, in a message.

    Raises:
        ValueError: The client is asynchronous, or closed.
    """

    def __init__(self, client: Client, job_id: str, repo_id: str) -> None:
        if client.asynchronous:
            raise ValueError(
                "distribute needs a client that is not asynchronous: call it in a thread, with Client(address)"
            )
        if client.status == "closed":
            raise ValueError("the client is closed: make another one, with Client(address)")
        _leave_thread()
        self._client = client
        self._job_id = job_id
        self._repo_id = repo_id
        self.where = f"the Dask scheduler at {client.scheduler.address}"
        self._futures: dict[tuple[str, int], list[Future]] = {}
        self._plan: Future | None = None
        self._starting: set[tuple[str, int]] = set()  # without an answer yet
        self._questions: deque[Callable[[], None]] = deque()
        self._threads = ThreadGroup("hf-haul-probe", _ASKED_AT_ONCE, self._next_question)

    def workers(self) -> Mapping[str, Worker]:
        """Return the workers there are now, by address."""
        if self._client.status != "running":
            raise ControlLostError(f"{self.where} has gone away")
        try:
            info = self._client.sync(self._client.scheduler.identity, callback_timeout=_SCHEDULER_SECONDS)
        except _NO_ANSWER as error:
            raise ControlLostError(f"{self.where} does not answer") from error
        return {
            address: Worker(address, str(known["name"]), known["host"])
            for address, known in info["workers"].items()
            if known.get("status", "running") in _FIT
        }

    def probe(self, worker: Worker, question: Question, on_done: OnDone) -> None:
        """Ask a worker, on a thread of this control's own."""
        self._questions.append(partial(self._ask, worker, question, on_done))
        self._threads.wake()
        if not self._threads.start():  # the system gives no thread
            self._questions.pop()()

    def _next_question(self) -> Callable[[], None] | None:
        return self._questions.popleft() if self._questions else None

    def _ask(self, worker: Worker, question: Question, on_done: OnDone) -> None:
        try:
            answer = self._run(probe, [worker], question, worker.name, timeout=_PROBE_SECONDS)
        except Exception as error:  # noqa: BLE001  raised where it is handled
            on_done(partial(_raise, error))
        else:
            on_done(lambda: _facts(answer.get(worker.address)))

    def _run(
        self, function: Callable[..., Any], workers: Sequence[Worker], *arguments: Any, timeout: float
    ) -> Any:
        """Call a function on workers, beside their tasks; return results or errors by address."""
        return self._client.run(
            function,
            *arguments,
            workers=[worker.address for worker in workers],
            on_error="return",
            callback_timeout=timeout,
        )

    def start(self, worker: Worker, order: NodeOrder, plan_bytes: bytes, on_done: OnDone) -> None:
        """Submit the task that starts a node."""
        key = order.node, order.attempt
        self._starting.add(key)
        plan = self._plan
        if plan is None or plan.status != "finished":
            plan = self._plan = self._client.scatter(plan_bytes, workers=[worker.address], hash=False)
        self._submit(
            "start", worker, order, partial(self._started, key, on_done), start_on_worker, order, plan
        )

    def _started(self, key: tuple[str, int], on_done: OnDone, get_result: GetResult) -> None:
        """Let go of the plan once every worker has it: the scheduler would mourn for it with its worker."""
        self._starting.discard(key)
        if not self._starting:
            self._plan = None
        on_done(get_result)

    def run(self, worker: Worker, order: NodeOrder, members: Mapping[str, str], on_done: OnDone) -> None:
        """Submit the task that runs a node."""
        self._submit("run", worker, order, on_done, run_on_worker, order.job_id, order.node, dict(members))

    def _submit(
        self, what: str, worker: Worker, order: NodeOrder, on_done: OnDone, function: Any, *arguments: Any
    ) -> None:
        future = self._client.submit(
            function,
            *arguments,
            # What the dashboard shows of a task; it puts all of them together as hf-haul.
            key=f"hf-haul-{self._repo_id}-{order.node}-{what}-{self._job_id}-{order.attempt}",
            workers=[worker.address],
            allow_other_workers=False,
            priority=_PRIORITY,
            retries=0,
            pure=False,
        )
        self._futures.setdefault((order.node, order.attempt), []).append(future)
        future.add_done_callback(lambda done: on_done(partial(_result, done)))

    def forget(self, order: NodeOrder) -> None:
        """Release the tasks of an attempt, which would wait for their worker for ever."""
        key = order.node, order.attempt
        self._starting.discard(key)
        for future in self._futures.pop(key, []):
            future.release()

    def end(self, workers: Sequence[Worker], job_id: str, how: HowToEnd, timeout: float) -> None:
        """End the nodes of a job; what does not answer ends by itself."""
        try:
            self._run(end_on_worker, workers, job_id, how == "cancel", timeout=timeout)
        except _NO_ANSWER as error:
            logger.debug("the nodes of %s were not told of its end: %s", job_id, error)

    def listen(self, listener: Callable[[str, dict[str, Any]], object]) -> None:
        """Pass on each event of the job's nodes, on the client's thread."""
        jobs = _listeners.setdefault(self._client, {})
        jobs[self._job_id] = listener
        self._client.subscribe_topic(_TOPIC, partial(_dispatch, weakref.ref(self._client)))

    def close(self) -> None:
        """Let go of the tasks, and of the events."""
        _listeners.get(self._client, {}).pop(self._job_id, None)
        for futures in self._futures.values():
            for future in futures:
                future.release()
        self._futures.clear()
        self._plan = None
        self._questions.clear()
        self._threads.close(0.0)


def _leave_thread() -> None:
    """Leave this thread's place to others, if it is one of a worker, on which a task has called us.

    That worker is to be a node, too, and to start it takes a place.
    """
    from distributed import secede
    from distributed.threadpoolexecutor import thread_state

    if getattr(thread_state, "proceed", False):  # not so in other threads, nor in one that has left already
        secede()


def _dispatch(client: weakref.ref[Client], event: tuple[float, Mapping[str, Any]]) -> None:
    """Tell the listener of a job: a client has one function for all events of a topic."""
    known = client()
    message = event[1]
    listener = None if known is None else _listeners.get(known, {}).get(message["job"])
    if listener is not None:
        listener(message["node"], message["event"])


def _raise(error: Exception) -> Any:
    raise error


def _facts(answer: Any) -> Facts:
    """Return a worker's answer, or raise its error."""
    if isinstance(answer, Facts):
        return answer
    if isinstance(answer, OSError) or answer is None:
        raise WorkerLostError(f"the worker does not answer ({answer})")
    raise answer


def _result(future: Future) -> Any:
    """Return what a task returned, or raise what it raised."""
    from distributed import KilledWorker

    if future.status in {"cancelled", "lost"}:
        raise WorkerLostError("its worker's task was forgotten by the scheduler")
    try:
        result = future.result(timeout=_PROBE_SECONDS)
        future.release()  # or the scheduler would want it computed again when its worker goes
    except KilledWorker as error:
        raise WorkerLostError("its worker died meanwhile") from error
    except (
        asyncio.CancelledError,
        concurrent.futures.CancelledError,
        asyncio.TimeoutError,
        OSError,
    ) as error:
        if future.status == "error":  # it is the task's own
            raise
        raise WorkerLostError(
            f"its worker's answer was lost ({str(error) or type(error).__name__})"
        ) from error
    return result


# ---- on the workers


def _plugin() -> Any:
    """Return what ends the nodes of a worker that ends."""
    from distributed import WorkerPlugin

    class EndsNodes(WorkerPlugin):  # type: ignore[misc]  # it need not be installed, so its classes are Any
        async def teardown(self, worker: Any) -> None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, partial(end_nodes, owner=worker.id, cancel=True))

    return EndsNodes()


def start_on_worker(order: NodeOrder, plan: bytes) -> str:
    """Start a node on the worker that carries out this task; return its URL."""
    from distributed import get_worker
    from distributed.comm import get_address_host

    worker = get_worker()
    if _PLUGIN not in worker.plugins:
        adding = worker.plugin_add(plugin=_plugin(), name=_PLUGIN)
        asyncio.run_coroutine_threadsafe(adding, worker.loop.asyncio_loop).result(_PROBE_SECONDS)

    def tell(event: dict[str, Any]) -> None:
        worker.log_event(_TOPIC, {"job": order.job_id, "node": order.node, "event": event})

    # Workers of one process talk to each other without a network; other machines have none of them.
    host = _LOOPBACK if worker.address.startswith("inproc:") else get_address_host(worker.address)
    return begin_node(order, plan, host, tell, owner=worker.id)


def run_on_worker(job_id: str, node: str, members: Mapping[str, str]) -> NodeResult:
    """Run a node that was started on this worker; return its result."""
    from distributed import secede

    secede()  # it waits more than it computes: others may have the thread
    return run_node(job_id, node, members)


async def end_on_worker(job_id: str, cancel: bool) -> None:
    """End the nodes of a job on this worker, beside its event loop."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, partial(end_nodes, job_id=job_id, cancel=cancel))
