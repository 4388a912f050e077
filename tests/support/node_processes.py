"""Nodes of one job, each a process of its own, to be killed: forked from one that has everything imported."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from tests.support.forking import ForkServer

from hf_haul.cluster.plan import JobPlan

__all__ = ["TOKEN", "NodeProcess", "NodeProcesses"]

TOKEN = "t0ken-of-the-job"
_PROGRAM = """
import json, logging, os
from pathlib import Path
from tests.support.full_disk import FullDisk
from hf_haul.cluster.agent import NodeAgent
from hf_haul.cluster.plan import JobPlan
from hf_haul.config import Settings
from hf_haul.hub import snapshot
from hf_haul.storage import staged_file
from tests.support.slow_network import slow_down

def say(folder, name, value):
    staged = folder / (name + ".tmp")
    staged.write_text(json.dumps(value))
    staged.rename(folder / name)

def live(order):
    folder = Path(order["folder"])
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(name)s %(message)s")
    if order["room"] is not None:
        staged_file.os = FullDisk(order["room"])
    if order["pace"] is not None:
        slow_down(order["pace"])
    plan = JobPlan.from_json(json.loads(Path(order["plan"]).read_text()))
    events = []
    agent = NodeAgent(
        plan, order["name"], token=order["token"], hub_token=False, on_event=events.append,
        cache_dir=order["cache_dir"], local_dir=order["local_dir"], max_bytes_per_s=order["rate"],
        settings=Settings.from_environment(durable=False, **order["settings"]),
    )
    say(folder, "url", agent.start())
    # Open for writing, too, it does not end when whoever writes an order closes it.
    with open(os.open(folder / "orders", os.O_RDWR), "r") as orders:
        for line in iter(orders.readline, ""):
            members = json.loads(line)
            if members is None:
                break
            result = agent.run(members, linger=60.0, on_linger=lambda names: say(folder, "lingers", names))
            say(folder, "result", {**result.as_dict(), "last": events[-1] if events else None})
    agent.close()
"""


@dataclass
class NodeProcess:
    """One node.

    Attributes:
        name: Its name.
        folder: What it says, and its log.
        cache: Its cache.
        url: Where others reach it.
    """

    server: ForkServer
    name: str
    pid: int
    folder: Path
    cache: Path
    url: str = ""

    @property
    def log(self) -> str:
        """What it logged."""
        return (self.folder / "log").read_text()

    def run(self, members: Mapping[str, str]) -> None:
        """Have it fetch its files."""
        self._order(dict(members))

    def _order(self, value: Any) -> None:
        # The node has it open for reading all the time.
        with (self.folder / "orders").open("a") as orders:
            orders.write(json.dumps(value) + "\n")

    def result(self, seconds: float = 60.0) -> dict[str, Any]:
        """Wait for its result."""
        found: dict[str, Any] = self.said("result", seconds)
        return found

    def said(self, what: str, seconds: float = 60.0) -> Any:
        """Wait until it says something, and return that."""
        deadline = time.monotonic() + seconds
        path = self.folder / what
        while not path.exists():
            assert time.monotonic() < deadline, f"{self.name} does not say its {what}:\n{self.log}"
            time.sleep(0.01)
        return json.loads(path.read_text())

    def kill(self) -> None:
        """End it as the kernel ends a process that takes too much memory, and wait until it is gone."""
        self.server.kill(self.pid)

    def close(self) -> None:
        """Have it end, and wait until it has."""
        self._order(None)
        assert self.server.wait(self.pid) == 0, self.log

    @property
    def fetched(self) -> int:
        """Bytes that it has staged, or in place, by what its folder holds on the disk."""
        blobs = self.cache.glob("*/blobs/*")
        return sum(path.stat().st_blocks * 512 for path in blobs)


class NodeProcesses:
    """Where nodes come from: a context manager.

    Args:
        folder: For caches, and what nodes say.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._server = ForkServer(_PROGRAM, {"HF_HUB_DISABLE_TELEMETRY": "1"})
        self._count = 0

    def __enter__(self) -> NodeProcesses:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def cache(self, name: str) -> Path:
        """Return the cache of a node, which outlives it."""
        return self._folder / "caches" / name

    def start(
        self,
        plan: JobPlan,
        name: str,
        *,
        token: str = TOKEN,
        local_dir: Path | None = None,
        room: int | None = None,
        rate: float | None = None,
        pace: int | None = None,
        **settings: Any,
    ) -> NodeProcess:
        """Start a node, and wait until it listens.

        Args:
            plan: The plan of its job.
            name: Its name.
            token: The job's token.
            local_dir: A folder for plain files.
            room: Bytes that its disk has room for.
            rate: Bytes per second that it sends at the most.
            pace: Bytes per second that its network sends and takes, if that is slow.
            **settings: Of its download.
        """
        self._count += 1
        folder = self._folder / f"{name}-{self._count}"
        folder.mkdir()
        os.mkfifo(folder / "orders")
        (folder / "plan").write_text(json.dumps(plan.to_json()))
        order = {
            "folder": str(folder),
            "plan": str(folder / "plan"),
            "name": name,
            "token": token,
            "cache_dir": str(self.cache(name)),
            "local_dir": None if local_dir is None else str(local_dir),
            "room": room,
            "rate": rate,
            "pace": pace,
            "settings": settings,
        }
        node = NodeProcess(self._server, name, self._server.fork(order), folder, self.cache(name))
        node.url = node.said("url")
        return node

    @contextmanager
    def running(
        self, plan: JobPlan, *, paces: Mapping[str, int] = MappingProxyType({}), **options: Any
    ) -> Iterator[dict[str, NodeProcess]]:
        """Start all nodes of a plan, and have them fetch; close those that live, at the end.

        Args:
            plan: The plan.
            paces: The pace of those whose network is slow.
            **options: See `start`.
        """
        nodes = {name: self.start(plan, name, pace=paces.get(name), **options) for name in plan.nodes}
        members = {name: node.url for name, node in nodes.items()}
        for node in nodes.values():
            node.run(members)
        yield nodes
        for node in nodes.values():
            if self._server.is_alive(node.pid):
                node.close()
