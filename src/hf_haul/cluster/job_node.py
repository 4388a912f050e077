"""One node of a job, as its engine, its server and its questions to others see it."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hf_haul.cluster.assigner import JobAssigner
from hf_haul.cluster.holdings import HeldRange, Holdings, NotHeldError
from hf_haul.cluster.node_state import NodeState, as_shown
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.polling import MOST_NODES
from hf_haul.ranges import ByteRange

__all__ = ["JobNode"]

logger = logging.getLogger(__name__)


@dataclass
class _Other:
    """What is known of another node, besides what its shares are.

    Attributes:
        is_listed: Whether the job counts on it.
        is_heard: Whether it has ever answered, or asked.
        is_ready: Whether it has said what it has.
        is_gone: Whether it refuses connections, or is of no use.
        is_useless: Whether it is there, and works on something else.
        is_silent: Whether it does not answer.
        is_done: Whether it needs nobody any more.
    """

    is_listed: bool = False
    is_heard: bool = False
    is_ready: bool = False
    is_gone: bool = False
    is_useless: bool = False
    is_silent: bool = False
    is_done: bool = False


class JobNode:
    """What this node knows of a job, and of the other nodes.

    Locking: ``_changed`` guards what is known of others; nothing is called with it held. The plan, and who
    assigns the parts, are set once, before anybody asks for them.

    Args:
        name: The node's name.
        job_id: The job.
        on_member: Called, in the event loop, with name and URL of a node that has asked.
    """

    def __init__(self, name: str, job_id: str, *, on_member: Callable[[str, str], object]) -> None:
        self.name = name
        self._job_id = job_id
        self._on_member = on_member
        self._changed = threading.Condition()
        self._others: dict[str, _Other] = {}
        self._plan: JobPlan | None = None
        self._plan_bytes: bytes | None = None
        self._plan_digest = ""
        self._assigner: JobAssigner | None = None
        self._holdings: Holdings | None = None
        self._unbegun: NodeState | None = None  # of one that has ended before it began

    # ---- the plan

    def set_plan(self, plan: JobPlan) -> None:
        """Give the plan to whoever asks, from now on."""
        data = json.dumps(plan.to_json(), separators=(",", ":")).encode()
        with self._changed:
            self._plan, self._plan_bytes, self._plan_digest = plan, data, _digest(plan)

    def begin(self, assigner: JobAssigner, holdings: Holdings) -> None:
        """Announce what this node has, and answer for it.

        Args:
            assigner: Knows what it has, and is told of others.
            holdings: Finds the bytes.
        """
        with self._changed:
            self._assigner, self._holdings = assigner, holdings

    def note_ended(self, error: str | None) -> None:
        """Note that this node needs the others no more; ``error`` says why, if it does not have all."""
        assigner = self._assigner
        if assigner is not None:
            assigner.note_ended(error)
        else:
            self._unbegun = NodeState(self.name, 1, done=True, error=error)

    # ---- other nodes

    def expect(self, names: Collection[str]) -> None:
        """Count on some nodes."""
        with self._changed:
            for name in names:
                if name != self.name:
                    self._others.setdefault(name, _Other()).is_listed = True

    def note_asker(self, name: str, url: str) -> None:
        """Note a node that has asked; see `Served`."""
        if name != self.name:
            with self._changed:  # it may be done, and gone, before it is asked itself for the first time
                if name in self._others or len(self._others) < MOST_NODES:
                    self._others.setdefault(name, _Other()).is_heard = True
        self._on_member(name, url)

    def note_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Note what a node said of itself; see `Listener`.

        Raises:
            ValueError: It is no state of this job, or by another plan.
        """
        with self._changed:
            assigner, plan = self._assigner, self._plan
        assert assigner is not None
        assert plan is not None
        if state.get("name") != name:
            raise ValueError(f"{as_shown(state.get('name'))} answers at its address")
        found: NodeState | None = None
        if state.get("plan") is not None:
            if state["plan"] != self._plan_digest:
                raise ValueError(_difference(state, plan))
            found = NodeState.from_json(state, assigner.stripes.count)
        elif state.get("done") is True:  # it has ended before it began
            found = NodeState.from_json(state, 0)
        if found is not None:
            assigner.note_state(name, found)
        with self._changed:
            other = self._others.setdefault(name, _Other())
            if other.is_gone or other.is_silent:
                logger.info("node %s is there", name)
            other.is_heard = True
            other.is_gone = other.is_useless = other.is_silent = False
            if found is not None:
                if found.error is not None and not other.is_done:
                    logger.warning("node %s cannot get all files: %s", name, found.error)
                other.is_ready, other.is_done = True, found.done
            self._changed.notify_all()

    def note_gone(self, name: str, why: str) -> None:
        """Note a node that is gone; see `Listener`."""
        with self._changed:
            other = self._others.setdefault(name, _Other())
            if other.is_gone:
                return
            logger.info("node %s %s: %s", name, "is gone" if other.is_heard else "is not there", why)
        self._leave(name, other)

    def note_useless(self, name: str, why: str) -> None:
        """Note a node that works on something else; see `Listener`."""
        with self._changed:
            other = self._others.setdefault(name, _Other())
            if other.is_useless:
                return
            other.is_useless = True
        logger.warning("node %s is of no use: %s", name, why)
        self._leave(name, other)

    def _leave(self, name: str, other: _Other) -> None:
        assigner = self._assigner
        if assigner is not None:
            assigner.note_gone(name)
        with self._changed:
            other.is_gone, other.is_silent, other.is_ready = True, False, False
            self._changed.notify_all()

    def note_silent(self, name: str) -> None:
        """Note a node that does not answer; see `Listener`."""
        with self._changed:
            other = self._others.setdefault(name, _Other())
            if other.is_silent:
                return
            other.is_silent = True
            assigner = self._assigner
            self._changed.notify_all()
        logger.info("node %s does not answer", name)
        if assigner is not None:
            assigner.note_silent(name)

    def wait(self, seconds: float) -> None:
        """Wait for news of other nodes, for as long at the most."""
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """End :meth:`wait`."""
        with self._changed:
            self._changed.notify_all()

    def unheard(self) -> list[str]:
        """Return the nodes that are counted on, and have not said what they have, nor are away."""
        with self._changed:
            return [
                name
                for name, each in self._others.items()
                if each.is_listed and not (each.is_ready or each.is_gone or each.is_silent)
            ]

    def pending(self, *, absent_too: bool) -> list[str]:
        """Return the nodes that are not done.

        Args:
            absent_too: Whether those count, too, that are counted on and have not begun, or do not answer.
        """
        with self._changed:
            return [name for name, each in self._others.items() if _is_pending(each, absent_too=absent_too)]

    # ---- what is served

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._job_id

    @property
    def version(self) -> int:
        """Changes with each change of the state."""
        if self._assigner is not None:
            return self._assigner.version
        return 0 if self._unbegun is None else self._unbegun.version

    def state(self) -> Mapping[str, Any]:
        """Return the state, for JSON; see `Served`."""
        with self._changed:
            assigner, plan = self._assigner, self._plan
        if self._unbegun is not None:
            return {**self._unbegun.to_json(), "plan": None}
        if assigner is None or plan is None:
            return {"name": self.name, "version": 0, "plan": None}
        return {**assigner.state().to_json(), "plan": self._plan_digest, "commit": plan.commit}

    def plan(self) -> bytes | None:
        """Return the plan in JSON; see `Served`."""
        return self._plan_bytes

    def size_of(self, etag: str) -> int:
        """Return the bytes of a blob; see `Served`."""
        if self._holdings is None:
            raise NotHeldError("this node is still preparing")
        return self._holdings.size(etag)

    def open(self, etag: str, span: ByteRange) -> HeldRange:
        """Open a range that was announced; see `Served`."""
        assigner, holdings = self._assigner, self._holdings
        assert assigner is not None
        assert holdings is not None
        stripes, length = assigner.stripes.of_blob(etag), assigner.stripes.stripe_bytes
        if not assigner.has(stripes[span.start // length : -(-span.stop // length)]):
            raise NotHeldError(f"bytes {span.start} to {span.stop} are not here")
        return holdings.open(etag, span)


def _is_pending(other: _Other, *, absent_too: bool) -> bool:
    if other.is_done or other.is_useless:
        return False
    if other.is_gone:
        return absent_too and other.is_listed and not other.is_heard
    return absent_too or (other.is_heard and not other.is_silent)


def _digest(plan: JobPlan) -> str:
    """Return what two plans share by which nodes can exchange stripes."""
    digest = hashlib.blake2b(f"{plan.commit} {plan.stripe_bytes}".encode(), digest_size=16)
    for etag, size in plan.blobs():
        digest.update(f" {etag} {size}".encode())
    return digest.hexdigest()


def _difference(state: Mapping[str, Any], plan: JobPlan) -> str:
    """Return why what another node has is of no use here."""
    commit = state.get("commit")
    if commit != plan.commit:
        return f"it works on commit {as_shown(commit)}, and this node on {plan.commit}"
    return "it works on other files of the commit, or cuts them in another way"
