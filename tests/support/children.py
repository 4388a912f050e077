"""Processes that download, to be killed: forked from one that has everything imported, so they start at once."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.engine import SETTINGS, Rig
from tests.support.forking import ForkServer

from hf_haul.config import DEFAULT_TIMINGS, Timings, setting_fields
from hf_haul.task import Digest, FileRequest

__all__ = ["Child", "Nursery", "job_for"]

_PROGRAM = """
import json, os
from pathlib import Path
from hf_haul.hub import snapshot
from hf_haul.storage import ownership
from hf_haul.storage.destinations import FileDestination
from hf_haul.config import Settings, Timings
from hf_haul.manager import ParallelDownloadManager
from hf_haul.task import Digest, FileRequest, RemoteFile

def pretend(what):
    if what == "locks always succeed":
        import fcntl
        fcntl.flock = lambda *args: None
    elif what == "another container":
        ownership._namespace = lambda: "pid:[container %d]" % os.getpid()
    elif what == "another host":
        read = ownership._read_text
        ownership._read_text = lambda path: "boot-%d" % os.getpid() if path.endswith("boot_id") else read(path)
    else:
        raise AssertionError(what)

def request_of(fact):
    digest = Digest(*fact["digest"]) if fact["digest"] else None
    remote = RemoteFile(fact["path"], fact["url"], size=fact["size"], digest=digest, etag=fact["etag"])
    destination = FileDestination(Path(fact["target"]), fact["version"], digest, fact["size"])
    return FileRequest(remote, destination)

def download(job):
    manager = ParallelDownloadManager(settings=Settings(**job["settings"], timings=Timings(**job["timings"])))
    waited_for = set()
    try:
        if job["snapshot"]:
            folder = snapshot.snapshot_download(manager=manager, token=False, **job["snapshot"])
            return {"folder": folder}
        handle = manager.submit([request_of(fact) for fact in job["files"]], model_id="org/m")
        for _ in range(2000):
            over = handle.wait(0.02)
            progress = handle.progress()
            if progress.waiting_for:
                waited_for.add(progress.waiting_for)
            if over:
                break
        errors = {path: f"{type(error).__name__}: {error}" for path, error in handle.errors()}
        return {
            "over": over,
            "errors": errors,
            "transferred": progress.bytes_transferred,
            "waited_for": sorted(waited_for),
        }
    finally:
        manager.shutdown(wait=False)

def live(order):
    for what in order["pretend"]:
        pretend(what)
    Path(order["result"]).write_text(json.dumps(download(order)))
"""


def _plain(digest: Digest | None) -> list[str] | None:
    return None if digest is None else [digest.algorithm, digest.value]


def job_for(
    rig: Rig,
    *requests: FileRequest,
    pretend: tuple[str, ...] = (),
    snapshot: Mapping[str, Any] | None = None,
    timings: Timings = DEFAULT_TIMINGS,
    **changes: Any,
) -> dict[str, Any]:
    """What a child is to do.

    Args:
        rig: Where from, and the settings.
        *requests: The files.
        pretend: What the child is made to believe about its surroundings.
        snapshot: Arguments of ``snapshot_download``, to be called instead.
        timings: What its engine works by.
        **changes: Settings.
    """
    files = [
        {
            "path": request.remote.path,
            "url": request.remote.url,
            "size": request.remote.size,
            "digest": _plain(request.remote.digest),
            "etag": request.remote.etag,
            "target": str(request.destination.path),
            "version": (request.remote.digest.value if request.remote.digest else request.remote.etag)
            or request.remote.url,
        }
        for request in requests
    ]
    settings = {**{each.name: getattr(SETTINGS, each.name) for each in setting_fields()}, **changes}
    return {
        "files": files,
        "settings": settings,
        "timings": asdict(timings),
        "pretend": pretend,
        "snapshot": snapshot,
    }


@dataclass
class Child:
    """A process that downloads."""

    server: ForkServer
    pid: int
    result: Path

    def kill(self) -> None:
        """End it as the kernel ends a process that takes too much memory, and wait until it is gone."""
        self.server.kill(self.pid)

    def stop(self) -> None:
        """Have it stand still, as Ctrl+Z does."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on after a stop."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> dict[str, Any]:
        """Wait until it is done; returns what it says."""
        status = self.server.wait(self.pid)
        assert status == 0, f"the child ended with {status}"
        found: dict[str, Any] = json.loads(self.result.read_text())
        return found


class Nursery:
    """Where children come from: a context manager.

    It may be shared by the tests of a module: to have everything imported takes half a second.

    Args:
        folder: For results.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._server = ForkServer(_PROGRAM)
        self._numbers = itertools.count()

    def __enter__(self) -> Nursery:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def start(self, job: Mapping[str, Any]) -> Child:
        """Have a child do a job."""
        result = self._folder / f"result-{next(self._numbers)}.json"
        return Child(self._server, self._server.fork({**job, "result": str(result)}), result)
