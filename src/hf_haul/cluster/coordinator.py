"""Sees to it that every node runs somewhere until it has its files, though workers vanish, return or join.

The problem. A scheduler forgets: a task that is bound to a worker waits for ever when that is gone; a worker
that was started again has another address; a scheduler that was started again knows nothing of what ran.

What we chose. Twice a second the coordinator compares the nodes there should be with the workers there are,
and does what is missing: whoever has no worker gets another one that reaches the same folder, and a new
worker with a folder of its own becomes a node. Starting and running a node can be asked for again and again:
where it runs already, both find it. Each attempt has a number, and what an earlier one says counts no more.
The nodes need nobody for their work: when the coordinator ends, they go on.
"""

from __future__ import annotations

import enum
import logging
import math
import queue
import re
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from hf_haul.cluster.census import Census, Question, SameFolderError, Worker
from hf_haul.cluster.control import Control, ControlLostError, Event, GetResult, HowToEnd
from hf_haul.cluster.node_work import NodeOrder
from hf_haul.cluster.progress import JobProgress
from hf_haul.cluster.results import NodeError, NodeResult, WorkerLostError
from hf_haul.failures import FailureKind
from hf_haul.waits import Wait, WaitReason

__all__ = ["Coordinator"]

logger = logging.getLogger(__name__)

_NUMBER: Final = re.compile(r"([0-9]+)")
#: Seconds between two looks at the workers.
_LOOK: Final = 0.5
#: Seconds that nodes which are ready wait for others to be, so that all know each other from the beginning.
_MUSTER: Final = 10.0
#: How often a node is started at the most: what kills its worker each time would go on doing so.
_ATTEMPTS: Final = 4
#: Seconds to end the nodes at an interrupt, and when all is done.
_CANCEL_SECONDS, _CLOSE_SECONDS = 1.0, 5.0
#: Seconds without a word of a node, which reports once a second, before that is told as a wait.
_QUIET: Final = 15.0
#: Seconds that a worker may take to answer before that is told as a wait.
_SLOW: Final = 2.0


def _in_order(worker: Worker) -> list[str | int]:
    """Return what sorts workers by host and name, the tenth after the second."""
    pieces = _NUMBER.split(f"{worker.host} {worker.name}")
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)]


class _State(enum.Enum):
    ABSENT = enum.auto()  # it has no worker
    STARTING = enum.auto()
    READY = enum.auto()  # it listens
    RUNNING = enum.auto()
    ENDED = enum.auto()  # it has a result


@dataclass(eq=False)
class _Node:
    """One node, and where it is.

    Attributes:
        since: When it got into its state.
        attempts: How often it was started.
    """

    name: str
    key: Hashable
    since: float
    state: _State = _State.ABSENT
    worker: Worker | None = None
    order: NodeOrder | None = None
    url: str | None = None
    attempts: int = 0
    result: NodeResult | None = None
    why: str = ""  # the last that was said of a lost worker


class Coordinator:
    """Runs the nodes of one job. For one thread; only messages come from others.

    Args:
        control: The scheduler.
        question: What workers are asked, and what is a node.
        progress: Told what happens.
        worker_timeout: Seconds for a worker that vanished to come back, and for a scheduler to answer again.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        control: Control,
        question: Question,
        progress: JobProgress,
        *,
        worker_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._question = question
        self._progress = progress
        self._worker_timeout = worker_timeout
        self._clock = clock
        self._census = Census(question.per)
        self._inbox: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._asked: dict[str, Worker] = {}  # by address, without an answer yet
        self._answers: list[tuple[Worker, Any]] = []  # not taken in yet
        self._known: set[str] = set()  # addresses that were asked
        self._nodes: dict[Hashable, _Node] = {}
        self._present: Mapping[str, Worker] = {}
        self._lost_since: float | None = None
        self._looked_at = -math.inf
        self._order: NodeOrder | None = None
        self._plan = b""
        self._began = clock()
        self._is_running = False
        self._heard: dict[str, float] = {}  # when each node has said something
        self._done: set[str] = set()  # nodes that wait for others only, and have nothing to say
        control.listen(lambda name, event: self._inbox.put(partial(self._note_event, name, event)))

    def _note_event(self, name: str, event: Event) -> None:
        self._heard[name] = self._clock()
        if event["ev"] in {"done", "error"}:
            self._done.add(name)
        self._progress.note(name, event)

    # ---- which nodes there are

    def muster(self) -> list[str]:
        """Ask all workers, and return the names of the nodes that they make.

        Raises:
            ControlLostError: The scheduler does not tell which workers there are.
            SameFolderError: Two nodes would have one folder.
        """
        self._present = self._control.workers()
        for worker in self._present.values():
            self._ask(worker)
        began = self._clock()
        while self._asked:
            self._receive(_LOOK)
            self._tell_slow(began, self._asked.values(), "answer")
        self._progress.waits.end("slow")
        self._note_answers()
        return list(self._census.nodes.values())

    @property
    def refused(self) -> dict[str, Exception]:
        """Why workers cannot be nodes, by the name that is shown."""
        return self._census.refused

    def _ask(self, worker: Worker) -> None:
        self._known.add(worker.address)
        self._asked[worker.address] = worker
        self._control.probe(worker, self._question, self._handled_here(partial(self._note_answer, worker)))

    def _note_answer(self, worker: Worker, get_result: GetResult) -> None:
        self._asked.pop(worker.address, None)
        try:
            answer = get_result()
        except Exception as error:  # noqa: BLE001  whatever a worker's installation raises
            answer = error
        if isinstance(answer, WorkerLostError):
            self._known.discard(worker.address)  # asked again, should it be there after all
            return
        self._answers.append((worker, answer))
        if self._is_running:
            self._note_answers()

    def _note_answers(self) -> None:
        """Take in what was answered, by name: nodes are called the same, and in one order, each time."""
        answers, self._answers = self._answers, []
        for worker, answer in sorted(answers, key=lambda each: _in_order(each[0])):
            try:
                self._census.note(worker, answer)
            except SameFolderError as error:
                if not self._is_running:
                    raise
                logger.warning("a worker that has joined is left out: %s", error)

    # ---- the job

    def run(self, order: NodeOrder, plan: bytes) -> dict[str, NodeResult]:
        """Run the nodes until each has ended or cannot be had; return what became of each.

        Args:
            order: What each is started with, but for its name.
            plan: Of the job, packed.
        """
        self._order, self._plan = order, plan
        self._began, self._is_running = self._clock(), True
        how: HowToEnd = "cancel"
        try:
            while True:
                self._reconcile()
                if self._nodes and all(node.state is _State.ENDED for node in self._nodes.values()):
                    break
                self._receive(_LOOK)
                self._progress.tick()
            how = "close"
        finally:
            self._end(order.job_id, how)
        return {node.name: node.result for node in self._nodes.values() if node.result is not None}

    def _end(self, job_id: str, how: HowToEnd) -> None:
        workers = [node.worker for node in self._nodes.values() if node.worker is not None]
        timeout = _CANCEL_SECONDS if how == "cancel" else _CLOSE_SECONDS
        if workers and self._lost_since is None:
            self._control.end(workers, job_id, how, timeout)

    def _handled_here(self, handle: Callable[[GetResult], None]) -> Callable[[GetResult], None]:
        """Return what passes on that something has ended, to be handled on this thread."""
        return lambda get_result: self._inbox.put(partial(handle, get_result))

    def _receive(self, timeout: float) -> None:
        """Handle what has come; wait for the first of it."""
        try:
            message = self._inbox.get(timeout=timeout)
            while True:
                message()
                message = self._inbox.get_nowait()
        except queue.Empty:
            pass

    # ---- what is missing

    def _reconcile(self) -> None:
        now = self._clock()
        if now - self._looked_at >= _LOOK:
            self._look(now)
            self._looked_at = self._clock()
        for key, name in self._census.nodes.items():
            node = self._nodes.get(key)
            if node is None:
                node = self._nodes[key] = _Node(name, key, now)
            if node.state is _State.ABSENT:
                self._place(node, now)
        self._begin_runs(now)
        self._tell_slow_starts(now)
        self._tell_quiet(now)

    def _look(self, now: float) -> None:
        """See which workers there are."""
        try:
            present = self._control.workers()
        except ControlLostError as error:
            self._note_lost_control(error, now)
            return
        if self._lost_since is not None:
            self._note_found_control(now)
        self._present = present
        for node in self._nodes.values():
            if node.worker is not None and node.worker.address not in present:
                self._lose(node, f"its worker {node.worker.name} ({node.worker.address}) has gone", now)
        for address, worker in present.items():
            if address not in self._known:
                self._ask(worker)

    def _note_lost_control(self, error: Exception, now: float) -> None:
        if self._lost_since is None:
            self._lost_since = now
            logger.info("%s", error)
        left = self._lost_since + self._worker_timeout - now
        wait = Wait(WaitReason.NETWORK, f"{error}: waiting for it to come back", seconds=max(0.0, left))
        self._progress.waits.begin("scheduler", wait)
        if left <= 0:
            for node in self._nodes.values():
                if node.state is not _State.ENDED:
                    text = f"nothing is known of it, because {error}. Run it again: it goes on from what is there"
                    self._fail(node, NodeError(text, FailureKind.NETWORK), now)

    def _note_found_control(self, now: float) -> None:
        """Give workers their time from now on: they end with their scheduler, and come back after it."""
        self._lost_since = None
        self._progress.waits.end("scheduler")
        for node in self._nodes.values():
            if node.state is _State.ABSENT:
                node.since = now

    def _lose(self, node: _Node, why: str, now: float) -> None:
        """Note that a node has no worker any more."""
        if node.order is not None:
            self._control.forget(node.order)
        node.worker = node.url = None
        if node.state is not _State.ENDED:
            logger.info("node %s: %s", node.name, why)
            node.state, node.since, node.why = _State.ABSENT, now, why
        self._looked_at = -math.inf  # it is placed by what is known from now on

    def _fail(self, node: _Node, error: Exception, now: float) -> None:
        node.state, node.since = _State.ENDED, now
        node.result = NodeResult(seconds=now - self._began, error=error)
        self._progress.waits.end(("absent", node.name))

    def _place(self, node: _Node, now: float) -> None:
        """Start a node that has no worker on one that can serve it, if there is one."""
        worker = next((w for w in self._present.values() if self._census.key_of(w.address) == node.key), None)
        if node.attempts >= _ATTEMPTS:
            text = f"{node.why}, {node.attempts} times. See that worker's log; too little memory is the usual reason"
            self._fail(node, NodeError(text), now)
        elif worker is not None and self._lost_since is None and self._order is not None:
            self._progress.waits.end(("absent", node.name))
            self._done.discard(node.name)
            order = replace(self._order, node=node.name, attempt=node.attempts)
            node.worker, node.order, node.attempts = worker, order, node.attempts + 1
            node.state, node.since = _State.STARTING, now
            handle = partial(self._note_started, node, order)
            self._control.start(worker, order, self._plan, self._handled_here(handle))
        elif self._lost_since is None:
            left = node.since + self._worker_timeout - now
            if left <= 0:
                text = (
                    f"{node.why}, and no other came within {self._worker_timeout:g} s. "
                    "Run it again: it goes on from what is there"
                )
                self._fail(node, NodeError(text, FailureKind.NETWORK), now)
                return
            message = f"node {node.name}: {node.why}: waiting for a worker that takes its place"
            wait = Wait(WaitReason.NETWORK, message, seconds=left, host=node.name)
            self._progress.waits.begin(("absent", node.name), wait)

    def _note_started(self, node: _Node, order: NodeOrder, get_result: GetResult) -> None:
        if node.order is not order or node.state is not _State.STARTING:
            return
        url, now = self._result_of(node, get_result), self._clock()
        if url is not None:
            node.url, node.state, node.since = url, _State.READY, now

    def _begin_runs(self, now: float) -> None:
        """Run the nodes that are ready, once all are, or have had their time."""
        ready = [node for node in self._nodes.values() if node.state is _State.READY]
        starting = any(node.state is _State.STARTING for node in self._nodes.values())
        if not ready or (starting and now - min(node.since for node in ready) < _MUSTER):
            return
        members = {node.name: node.url for node in self._nodes.values() if node.url is not None}
        for node in ready:
            if node.worker is not None and node.order is not None:
                node.state, node.since = _State.RUNNING, now
                handle = partial(self._note_ended, node, node.order)
                self._control.run(node.worker, node.order, members, self._handled_here(handle))

    def _note_ended(self, node: _Node, order: NodeOrder, get_result: GetResult) -> None:
        if node.order is not order or node.state is not _State.RUNNING:
            return
        result: NodeResult | None = self._result_of(node, get_result)
        if result is not None:
            node.state, node.since, node.result = _State.ENDED, self._clock(), result

    def _result_of(self, node: _Node, get_result: GetResult) -> Any:
        """Return what came; ``None`` if it was nothing, and the node has another state now."""
        now = self._clock()
        try:
            return get_result()
        except WorkerLostError as error:
            self._lose(node, str(error), now)
        except Exception as error:  # noqa: BLE001  whatever goes wrong on a worker is that node's error
            self._fail(node, error, now)
        return None

    # ---- what is told

    def _tell_slow_starts(self, now: float) -> None:
        slow = [
            node
            for node in self._nodes.values()
            if node.state is _State.STARTING and now - node.since > _SLOW
        ]
        workers = [node.worker for node in slow if node.worker is not None]
        if workers:
            self._tell_slow(
                min(node.since for node in slow), workers, "begin: busy with other tasks, or loading hf-haul"
            )
        else:
            self._progress.waits.end("slow")

    def _tell_quiet(self, now: float) -> None:
        """Tell of nodes that say nothing: their machines may hang, which no scheduler notices for minutes."""
        for node in self._nodes.values():
            heard = max(node.since, self._heard.get(node.name, node.since))
            if node.state is _State.RUNNING and now - heard > _QUIET and node.name not in self._done:
                where = "" if node.worker is None else f" ({node.worker.name} at {node.worker.address})"
                wait = Wait(WaitReason.STALL, f"node {node.name}{where} says nothing", host=node.name)
                self._progress.waits.begin(("quiet", node.name), wait, lasting=2 * _QUIET)
            else:
                self._progress.waits.end(("quiet", node.name))

    def _tell_slow(self, began: float, workers: Any, what: str) -> None:
        names = [worker.name for worker in workers]
        if names and self._clock() - began > _SLOW:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            wait = Wait(WaitReason.SERVER_BUSY, f"waiting for worker {names[0]}{more} to {what}")
            self._progress.waits.begin("slow", wait)
