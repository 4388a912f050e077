"""The ways in which a worker can be kept waiting, each on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.engine import WEIGHTS, Rig, serve_files

from hf_haul.config import KiB
from hf_haul.engine.handle import DownloadHandle
from hf_haul.localhub.testing.faults import Delay, Fault, Reset, Stall, Status
from hf_haul.manager import ParallelDownloadManager
from hf_haul.task import DownloadPriority, FileRequest

__all__ = ["SECOND", "URGENT", "WAITS", "Kept", "keep_waiting", "our_threads", "until"]

#: Within this everything has to stop.
SECOND = 1.0
#: A file that nothing keeps waiting.
URGENT = "urgent.bin"
#: A file of another queue.
OTHER = "other.bin"


def until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Wait until something is true that no event tells of; whether it became so."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def our_threads() -> list[str]:
    """Threads of managers; those of reads, and a name that is being resolved, are not waited for."""
    kinds = ("worker", "ticker", "hasher", "errand", "progress", "events")
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(tuple(f"hf-haul-{kind}" for kind in kinds))]


@dataclass
class Kept:
    """A queue whose workers all wait for the same thing.

    Attributes:
        rig: Its hub and folder.
        manager: Its manager.
        handle: The queue.
        release: Ends what keeps it waiting.
        finishes: Whether it comes to a good end then.
    """

    rig: Rig
    manager: ParallelDownloadManager
    handle: DownloadHandle
    release: Callable[[], None]
    finishes: bool = True

    def is_quiet(self) -> bool:
        """Whether nothing of it is under way at the hub, which does not notice who leaves before the headers."""
        return all(
            record.end is not None or "Delay" in record.faults
            for record in self.rig.hub.requests
            if record.path != OTHER
        )


def _fault(fault: Fault, **settings: Any) -> Callable[[ExitStack, Path], Kept]:
    def make(stack: ExitStack, folder: Path) -> Kept:
        rig = stack.enter_context(serve_files(folder, more={URGENT: b"now" * 1000}))
        rule = rig.hub.faults.add(fault, path=WEIGHTS, times=None)
        manager = stack.enter_context(rig.manager(**{"stall_timeout": 60.0, **settings}))
        handle = manager.submit([rig.request(WEIGHTS)], model_id="m", priority=DownloadPriority.LOW)
        assert rule.wait(10)
        return Kept(rig, manager, handle, rig.hub.faults.clear)

    return make


def _slow_body(stack: ExitStack, folder: Path) -> Kept:
    rig = stack.enter_context(serve_files(folder, more={URGENT: b"now" * 1000}))
    rig.hub.set_pace(20_000)
    manager = stack.enter_context(rig.manager())
    handle = manager.submit([rig.request(WEIGHTS)], model_id="m", priority=DownloadPriority.LOW)
    assert until(lambda: handle.progress().bytes_transferred)
    return Kept(rig, manager, handle, lambda: rig.hub.set_pace(None))


def _limiter(stack: ExitStack, folder: Path) -> Kept:
    rig = stack.enter_context(serve_files(folder, more={URGENT: b"now" * 1000}))
    manager = stack.enter_context(rig.manager(max_bandwidth_bps=40_000))
    handle = manager.submit([rig.request(WEIGHTS)], model_id="m", priority=DownloadPriority.LOW)
    assert until(lambda: handle.progress().bytes_transferred > 64 * KiB)

    def release() -> None:
        manager.max_bandwidth_bps = None

    return Kept(rig, manager, handle, release)


def _patience(stack: ExitStack, folder: Path) -> Kept:
    kept = _fault(Status(503, retry_after=2))(stack, folder)
    assert until(lambda: kept.manager.get_download_stats()["asked_to_wait"])
    return kept


def _place(stack: ExitStack, folder: Path) -> Kept:
    rig = stack.enter_context(
        serve_files(folder, lfs="direct", more={URGENT: b"now" * 1000, OTHER: b"b" * 90_000})
    )
    rule = rig.hub.faults.add(Stall(after=100), path=OTHER, times=None)
    manager = stack.enter_context(rig.manager(connection_pool_size=1, stall_timeout=60.0))
    manager.submit([rig.request(OTHER)], model_id="other", priority=DownloadPriority.LOW)
    assert rule.wait(10)
    elsewhere = rig.request(WEIGHTS, base=rig.hub.url.replace("127.0.0.1", "localhost"))
    handle = manager.submit([elsewhere], model_id="m", priority=DownloadPriority.LOW)
    assert until(lambda: manager.get_download_stats()["pool"]["waiting"])
    return Kept(rig, manager, handle, rig.hub.faults.clear)


@contextmanager
def _deaf_server() -> Iterator[int]:
    """A port whose connections are never accepted: the queue of those that wait is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(server.getsockname())
        yield server.getsockname()[1]


def _connect(stack: ExitStack, folder: Path) -> Kept:
    rig = stack.enter_context(serve_files(folder, more={URGENT: b"now" * 1000}))
    port = stack.enter_context(_deaf_server())
    manager = stack.enter_context(rig.manager(connect_timeout=60.0, max_concurrent_downloads=4))
    wanted: list[FileRequest] = [
        rig.request(path, base=f"http://127.0.0.1:{port}") for path in (WEIGHTS, "config.json")
    ]
    handle = manager.submit(wanted, model_id="m", priority=DownloadPriority.LOW)
    assert until(lambda: handle.progress().connections)
    return Kept(rig, manager, handle, lambda: None, finishes=False)


#: By name: what keeps all workers of a queue waiting.
WAITS: dict[str, Callable[[ExitStack, Path], Kept]] = {
    "reading a slow body": _slow_body,
    "in the limiter": _limiter,
    "for the headers": _fault(Delay(30), stall_timeout=4.0),
    "in a stalled body": _fault(Stall(after=1000)),
    "before another attempt": _fault(Reset(), first_retry_wait=5.0, max_retry_wait=5.0, give_up_after=600.0),
    "as the server asked": _patience,
    "for a place in the pool": _place,
    "in connect": _connect,
}


@contextmanager
def keep_waiting(name: str, folder: Path) -> Iterator[Kept]:
    """A queue whose workers wait for what ``name`` says."""
    with ExitStack() as stack:
        kept = WAITS[name](stack, folder)
        try:
            yield kept
        finally:
            kept.rig.hub.faults.clear()
