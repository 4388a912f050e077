"""An agent that fetches nothing, for tests of what starts and ends agents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from hf_haul.cluster import node_work
from hf_haul.cluster.node_work import NodeOrder
from hf_haul.cluster.results import NodeResult
from hf_haul.errors import DownloadCancelledError

__all__ = ["Agents", "StandInAgent"]


class StandInAgent:
    """Does what it is told to: ``finish`` ends its run."""

    def __init__(self, order: NodeOrder, host: str, on_event: Any) -> None:
        self.order = order
        self.host = host
        self.on_event = on_event
        self.members: Mapping[str, str] | None = None
        self.runs = 0
        self.begun = threading.Event()
        self.over = threading.Event()
        self.cancelled = False
        self.needed: Callable[[], bool] = lambda: False
        self.closed = threading.Event()
        self.error: BaseException | None = None

    @property
    def is_needed(self) -> bool:
        return self.needed()

    def start(self) -> str:
        return f"http://{self.host}:1/{self.order.node}"

    def run(self, members: Mapping[str, str]) -> NodeResult:
        self.members = members
        self.runs += 1
        self.begun.set()
        assert self.over.wait(20)
        if self.cancelled:
            raise DownloadCancelledError("cancelled")
        if self.error is not None:
            raise self.error
        return NodeResult(f"/{self.order.node}", origin_bytes=1)

    def finish(self, error: BaseException | None = None) -> None:
        self.error = error
        self.over.set()

    def cancel(self) -> None:
        self.cancelled = True
        self.over.set()

    def close(self) -> None:
        self.over.set()
        self.closed.set()


class Agents:
    """All agents that are made in this process while a test runs."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[StandInAgent] = []
        self.on_make: Callable[[StandInAgent], object] = lambda agent: None
        self.changed = threading.Condition()
        patch.setattr(node_work, "make_agent", self._make)

    def _make(self, order: NodeOrder, plan: bytes, host: str, on_event: Any) -> StandInAgent:
        assert plan == b"plan"
        agent = StandInAgent(order, host, on_event)
        self.on_make(agent)
        with self.changed:
            self.made.append(agent)
            self.changed.notify_all()
        return agent

    def wait(self, count: int, seconds: float = 20.0) -> list[StandInAgent]:
        """Return the agents, once there are so many and all of them run."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.made) >= count, seconds), self.made
        for agent in self.made:
            assert agent.begun.wait(seconds)
        return self.made
