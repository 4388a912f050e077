"""Nodes of one job in one process: a manager, an assigner and a server each, which hear of each other at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from tests.support.engine import Rig

from hf_haul.cluster.assigner import JobAssigner
from hf_haul.cluster.holdings import HeldRange, Holdings
from hf_haul.cluster.loop_thread import LoopThread
from hf_haul.cluster.serving import JobServer
from hf_haul.cluster.stripes import Stripes
from hf_haul.engine.handle import DownloadHandle
from hf_haul.manager import ParallelDownloadManager
from hf_haul.ranges import ByteRange

__all__ = ["JOB", "SwarmNode", "run_swarm"]

JOB = "job-1"
TOKEN = "job-token"


@dataclass
class SwarmNode:
    """One node.

    Attributes:
        name: Its name.
        rig: Where its files go; its hub is the origin.
        manager: Fetches them.
        assigner: Says which part is next.
        paths: The paths of each blob.
        url: Where others ask it.
        handle: Its download, once it has begun.
        corrupts: Whether it announces other digests than those of what it sends.
        lies: Whether it sends zeros, with their digest.
        opened: How many ranges it was asked for.
    """

    name: str
    rig: Rig
    manager: ParallelDownloadManager
    assigner: JobAssigner
    paths: Mapping[str, Sequence[str]]
    url: str = ""
    handle: DownloadHandle | None = None
    corrupts: bool = False
    lies: bool = False
    opened: int = 0
    _asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._holdings = Holdings(
            self.paths,
            self.assigner.stripes.size,
            self.rig.folder.joinpath,
            lambda: {} if self.handle is None else self.handle.staged_files(),
        )

    # ---- what is served

    @property
    def job_id(self) -> str:
        return JOB

    @property
    def version(self) -> int:
        return self.assigner.version

    def state(self) -> Mapping[str, Any]:
        return self.assigner.state().to_json()

    def plan(self) -> bytes | None:
        return None

    def size_of(self, etag: str) -> int:
        return self._holdings.size(etag)

    def open(self, etag: str, span: ByteRange) -> HeldRange:
        self.opened += 1
        if self.lies:
            return self._lie(etag, span)
        held = self._holdings.open(etag, span)
        if self.corrupts:
            held.sha256 = bytes(32)
        return held

    def _lie(self, etag: str, span: ByteRange) -> HeldRange:
        zeros = self.rig.folder / "zeros"
        with open(zeros, "ab") as file:
            file.truncate(max(file.tell(), self.size_of(etag)))
        return HeldRange(open(zeros, "rb"), sha256(bytes(len(span))).digest(), None, -1)

    def note_asker(self, name: str, url: str) -> None:
        self._asked.append(name)

    def hear(self, other: SwarmNode) -> None:
        """Learn at once how far another node is."""
        self.assigner.note_state(other.name, other.assigner.state())

    # ---- its download

    def begin(self, paths: Sequence[str]) -> None:
        requests = self.assigner.assigned([self.rig.request(path) for path in paths])
        self.handle = self.manager.submit(requests, model_id="org/m")

    @property
    def by_source(self) -> Mapping[str, int]:
        assert self.handle is not None
        return self.handle.progress().bytes_by_source

    @property
    def from_origin(self) -> int:
        return self.by_source.get(self.rig.hub.url, 0)


def _stripes(rig: Rig, stripe_bytes: int, members: Sequence[str]) -> tuple[dict[str, list[str]], Stripes]:
    """The paths of each blob of a repository, and its stripes."""
    paths: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for path in rig.files:
        entry = rig.repo.head.tree.files[path]
        etag = entry.content.sha256() if entry.is_lfs else entry.etag
        paths.setdefault(etag, []).append(path)
        sizes[etag] = entry.size
    return paths, Stripes(sizes.items(), stripe_bytes, members)


@contextmanager
def run_swarm(
    rig: Rig,
    names: Sequence[str],
    *,
    stripe_bytes: int,
    members: Sequence[str] | None = None,
    **settings: Any,
) -> Iterator[dict[str, SwarmNode]]:
    """Set nodes up that hear of each other, and of each change, at once; they begin when told to.

    Args:
        rig: Its hub is the origin.
        names: The nodes.
        stripe_bytes: Bytes of a stripe.
        members: The nodes that the job began with; all of them by default.
        **settings: Of their managers.
    """
    paths, stripes = _stripes(rig, stripe_bytes, members or names)
    changed, ending = threading.Event(), threading.Event()
    nodes: dict[str, SwarmNode] = {}

    def exchange() -> None:
        told: dict[tuple[str, str], int] = {}
        while not ending.is_set():
            changed.wait(0.05)
            changed.clear()
            for node in list(nodes.values()):
                state = node.assigner.state()
                for other in list(nodes.values()):
                    if other is not node and told.get((node.name, other.name)) != state.version:
                        told[node.name, other.name] = state.version
                        other.assigner.note_state(node.name, state)

    with ExitStack() as stack:
        for name in names:
            folder = rig.folder / name
            folder.mkdir(parents=True)
            own = replace(rig, folder=folder)
            manager = stack.enter_context(own.manager(**settings))
            assigner = JobAssigner(
                name, stripes, job_id=JOB, token=TOKEN, nudge=manager.nudge, on_change=changed.set
            )
            node = nodes[name] = SwarmNode(name, own, manager, assigner, paths)
            loop = LoopThread(f"node-{name}")
            loop.start()
            server = JobServer(node, TOKEN)
            stack.callback(loop.close, server.close)
            port = loop.run(lambda server=server: server.start("127.0.0.1", 0))
            node.url = f"http://127.0.0.1:{port}"
        for node in nodes.values():
            for other in nodes.values():
                if other is not node:
                    node.assigner.note_member(other.name, other.url)
        thread = threading.Thread(target=exchange, name="exchange", daemon=True)
        thread.start()
        stack.callback(thread.join, 5.0)
        stack.callback(ending.set)
        yield nodes
