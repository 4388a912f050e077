"""One node of a job, as its engine, its server and its questions to others see it."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hf_haul.cluster.holdings import HeldRange, Holdings, NotHeldError
from hf_haul.cluster.node_state import NodeState
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.shares import Shares
from hf_haul.cluster.stripes import Stripes
from hf_haul.ranges import ByteRange

__all__ = ["JobNode"]

logger = logging.getLogger(__name__)


@dataclass
class _Other:
    """What is known of another node, besides what its shares are.

    Attributes:
        is_listed: Whether the job counts on it.
        is_heard: Whether it has ever answered.
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

    Locking: ``_changed`` guards everything. Nobody who holds it waits for the disk or the network, or calls
    whoever is told of news.

    Args:
        name: The node's name.
        job_id: The job.
        on_change: Called, on any thread, when this node has something new to announce.
        on_news: Called, in the event loop, when there is something new of others.
        on_member: Called, in the event loop, with name and URL of a node that has asked.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        job_id: str,
        *,
        on_change: Callable[[], object],
        on_news: Callable[[], object],
        on_member: Callable[[str, str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._job_id = job_id
        self._on_change = on_change
        self._on_news = on_news
        self._on_member = on_member
        self._clock = clock
        self._changed = threading.Condition()
        self._others: dict[str, _Other] = {}
        self._plan: JobPlan | None = None
        self._plan_bytes: bytes | None = None
        self._plan_digest = ""
        self._shares: Shares | None = None
        self._holdings: Holdings | None = None

    # ---- the plan

    def set_plan(self, plan: JobPlan) -> None:
        """Give the plan to whoever asks, from now on."""
        data = json.dumps(plan.to_json(), separators=(",", ":")).encode()
        with self._changed:
            self._plan, self._plan_bytes, self._plan_digest = plan, data, _digest(plan)

    def begin(self, stripes: Stripes, holdings: Holdings, have: Collection[int]) -> None:
        """Announce what this node has, and answer for it.

        Args:
            stripes: The stripes of the plan.
            holdings: Finds their bytes.
            have: Those that are here.
        """
        with self._changed:
            self._shares = Shares(self.name, stripes, clock=self._clock)
            self._holdings = holdings
            for stripe in have:
                self._shares.note_have(stripe)
            for name, other in self._others.items():
                if not other.is_gone:
                    self._shares.note_member(name)
        self._on_change()

    @contextmanager
    def shares(self) -> Iterator[Shares]:
        """Yield what there is to decide by, for a moment; tell what has changed of it afterwards."""
        with self._changed:
            assert self._shares is not None
            before = self._shares.version
            yield self._shares
            changed = self._shares.version != before
        if changed:
            self._on_change()

    # ---- other nodes

    def expect(self, names: Collection[str]) -> None:
        """Count on some nodes."""
        with self._changed:
            for name in names:
                if name != self.name:
                    self._others.setdefault(name, _Other()).is_listed = True

    def note_asker(self, name: str, url: str) -> None:
        """Note a node that has asked; see `Served`."""
        self._on_member(name, url)

    def note_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Note what a node said of itself; see `Listener`.

        Raises:
            ValueError: It is no state of this job, or by another plan.
        """
        with self._changed:
            other = self._others.setdefault(name, _Other())
            shares, plan = self._shares, self._plan
            if shares is None or plan is None:
                return
            if state.get("plan") not in {None, self._plan_digest}:
                raise ValueError(_difference(state, plan))
            if other.is_gone or other.is_silent:
                logger.info("node %s is back", name)
            other.is_heard = True
            other.is_gone = other.is_useless = other.is_silent = False
            if state.get("plan") is None:
                shares.note_member(name)  # it is still preparing
            else:
                found = NodeState.from_json(state, shares.stripes.count)
                if found.error is not None and not other.is_done:
                    logger.warning("node %s cannot get all files: %s", name, found.error)
                other.is_ready = True
                other.is_done = found.done
                shares.note_state(name, found)
            self._changed.notify_all()
        self._on_news()

    def note_gone(self, name: str, why: str) -> None:
        """Note a node that is gone; see `Listener`."""
        with self._changed:
            other = self._others.setdefault(name, _Other())
            if other.is_gone:
                return
            logger.info("node %s %s: %s", name, "is gone" if other.is_heard else "is not there", why)
            self._leave(name, other)
        self._on_news()

    def note_useless(self, name: str, why: str) -> None:
        """Note a node that works on something else; see `Listener`."""
        with self._changed:
            other = self._others.setdefault(name, _Other())
            if other.is_useless:
                return
            logger.warning("node %s is of no use: %s", name, why)
            self._leave(name, other)
            other.is_useless = True
        self._on_news()

    def _leave(self, name: str, other: _Other) -> None:
        other.is_gone, other.is_silent, other.is_ready = True, False, False
        if self._shares is not None:
            self._shares.note_gone(name)
        self._changed.notify_all()

    def note_silent(self, name: str) -> None:
        """Note a node that does not answer; see `Listener`."""
        with self._changed:
            other = self._others.setdefault(name, _Other())
            if other.is_silent:
                return
            logger.info("node %s does not answer", name)
            other.is_silent = True
            if self._shares is not None:
                self._shares.note_silent(name)
            self._changed.notify_all()
        self._on_news()

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
        with self._changed:
            return 0 if self._shares is None else self._shares.version

    def state(self) -> Mapping[str, Any]:
        """Return the state, for JSON; see `Served`."""
        with self._changed:
            shares, plan = self._shares, self._plan
            if shares is None or plan is None:
                return {"name": self.name, "version": 0, "plan": None}
            state = shares.state()
        return {**state.to_json(), "plan": self._plan_digest, "commit": plan.commit}

    def plan(self) -> bytes | None:
        """Return the plan in JSON; see `Served`."""
        return self._plan_bytes

    def size_of(self, etag: str) -> int:
        """Return the bytes of a blob; see `Served`."""
        with self._changed:
            holdings = self._holdings
        if holdings is None:
            raise NotHeldError("this node is still preparing")
        return holdings.size(etag)

    def open(self, etag: str, span: ByteRange) -> HeldRange:
        """Open a range that was announced; see `Served`."""
        with self._changed:
            holdings, shares = self._holdings, self._shares
            assert holdings is not None
            assert shares is not None
            stripes, length = shares.stripes.of_blob(etag), shares.stripes.stripe_bytes
            wanted = stripes[span.start // length : -(-span.stop // length)]
            announced = all(map(shares.has, wanted))
        if not announced:
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
        return f"it works on commit {commit}, and this node on {plan.commit}"
    return "it works on other files of the commit, or cuts them in another way"
