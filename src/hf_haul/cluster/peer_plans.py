"""How nodes that no scheduler started come to one plan: the first of the list makes it, the others ask.

A node that has a plan gives it to whoever asks, so that one that is started again, or later, works on the
same commit as the others, wherever a branch has gone since. If the first one does not come up, the others
list the repository themselves: their plans are the same, unless the branch moves at that moment. So they do
if it comes up and waits for another one, as where somebody's list leaves out its own node: all could wait in
a circle.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from hf_haul.cancellation import CancelToken
from hf_haul.cluster.loop_thread import LoopThread
from hf_haul.cluster.node_state import as_shown
from hf_haul.cluster.peer_list import PeerList
from hf_haul.cluster.plan import JobPlan
from hf_haul.cluster.polling import Health
from hf_haul.cluster.results import NodeError
from hf_haul.errors import UnsafePathError
from hf_haul.failures import FailureKind
from hf_haul.waits import Wait, WaitReason, Waits

__all__ = ["PeerPlans", "PlanAsker", "job_name"]

logger = logging.getLogger(__name__)

#: Seconds for which the first node may take to come up, and between two looks for it.
_PATIENCE: Final = 30.0
_LOOK: Final = 0.5
#: What stands in the name of a job before the digest of its choice.
_SOME_FILES: Final = " (some files, "
#: Nodes that are asked at once.
_ASKED_AT_ONCE: Final = 32


def job_name(
    repo_type: str, repo_id: str, revision: str, choice: Mapping[str, str | Sequence[str] | None]
) -> str:
    """Return the id of a job, the same on each node that was asked for the same.

    Args:
        repo_type: The type of the repository.
        repo_id: The repository.
        revision: What was asked for.
        choice: Which files, in the words of whoever asks.
    """
    given = {name: value for name, value in choice.items() if value}
    name = f"{repo_type}s/{repo_id}@{revision}"
    if given:
        digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
        name += f"{_SOME_FILES}{digest[:8]})"
    return name


class PlanAsker(Protocol):
    """Asks other nodes, in an event loop."""

    async def health_of(self, url: str) -> Health:
        """Ask a node whether it is there, and has a plan."""

    async def plan_of(self, url: str) -> object:
        """Return the plan that a node has, in JSON; ``None`` if it does not give one."""


class PeerPlans:
    """Finds or makes the plan of a job.

    Args:
        peers: The nodes.
        repo_id: The repository.
        job_id: The job.
        make: Makes the plan; told where to report waits.
        patience: Seconds for which the first node may take to come up, or wait for another one.
        look: Seconds between two looks for it.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        peers: PeerList,
        repo_id: str,
        job_id: str,
        make: Callable[[Waits], JobPlan],
        *,
        patience: float = _PATIENCE,
        look: float = _LOOK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.repo_id = repo_id
        self.job_id = job_id
        self._peers = peers
        self._make = make
        self._patience = patience
        self._look = look
        self._clock = clock
        self._useless: set[str] = set()  # whose plans are
        self._others = {name: url for name, url in peers.urls.items() if name != peers.me}

    @property
    def awaits_another(self) -> bool:
        """Whether the first node of the list is another one, which makes the plan."""
        return not self._peers.is_first

    def find(
        self,
        asker: PlanAsker,
        loop: LoopThread,
        waits: Waits,
        cancelled: CancelToken,
    ) -> JobPlan:
        """Return the plan, once there is one.

        Args:
            asker: Asks other nodes.
            loop: Where it does.
            waits: Where waits are reported.
            cancelled: Ends the wait.

        Raises:
            NodeError: The node that the others wait for works on another job, refuses the token, or has a
                plan that is of no use here.
            StopRequestedError: It was cancelled.
            Exception: What ``make`` raises.
        """
        first = next(iter(self._peers.urls))
        wait = Wait(WaitReason.NETWORK, f"waiting for {first}, which lists the repository", host=first)
        deadline = self._clock() + self._patience
        with waits.during(wait, after=1.0):
            while True:
                health = loop.run(lambda: self._ask(asker))
                if isinstance(health, JobPlan):
                    return health
                lists = health.answers and not health.awaits_plan
                if self._peers.is_first or (not lists and self._clock() >= deadline):
                    break
                if health.refusal is not None:
                    raise NodeError(f"{first} is no node of this job: {health.refusal}", FailureKind.USAGE)
                cancelled.wait(self._look)
                cancelled.check()
        if not self._peers.is_first:
            logger.warning(
                "%s waits for another machine to list the repository, so --peers is not the same on all: listing it here"
                if health.awaits_plan
                else "%s did not come up: listing the repository here",
                first,
            )
        return self._make(waits)

    async def _ask(self, asker: PlanAsker) -> JobPlan | Health:
        """Return the plan, if somebody has it, or else what the first node says."""
        turns = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def ask(url: str) -> Health:
            async with turns:
                return await asker.health_of(url)

        names = list(self._others)
        answers = dict(
            zip(names, await asyncio.gather(*(ask(self._others[name]) for name in names)), strict=True)
        )
        for name in names:
            value = await asker.plan_of(self._others[name]) if answers[name].has_plan else None
            if value is None:
                continue
            try:
                return self._read(value)
            except (ValueError, UnsafePathError) as error:
                why = f"its plan is of no use: {as_shown(error)}"
                answers[name] = replace(answers[name], refusal=why)
                if name not in self._useless:
                    self._useless.add(name)
                    logger.warning("%s: %s", name, why)
        return answers.get(next(iter(self._peers.urls)), Health())

    def _read(self, value: object) -> JobPlan:
        plan = JobPlan.from_json(value)
        whole = job_name(plan.repo_type, plan.repo_id, plan.revision, {})
        if plan.job_id != self.job_id or self.job_id.partition(_SOME_FILES)[0] != whole:
            raise ValueError(f"it is that of another job, {plan.job_id}")
        return plan
