"""A local hub, a manager and a folder: one call fetches files, and tells what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.repos import random_bytes

from hf_haul.config import KiB, Settings, Timings
from hf_haul.engine.handle import DownloadHandle
from hf_haul.localhub import Account, LocalHub, Repo
from hf_haul.manager import ParallelDownloadManager
from hf_haul.storage.destinations import FileDestination
from hf_haul.task import Digest, FileRequest, RemoteFile

__all__ = ["PART", "SMALL", "TOKEN", "WEIGHTS", "Outcome", "Rig", "leftovers", "serve_files"]

#: Bytes of one part in these tests.
PART = 64 * KiB
#: An LFS file of several parts, and a git file.
WEIGHTS = "model.safetensors"
SMALL = "config.json"
TOKEN = "Bearer hf_secret"

#: Quick to see a fault, quick to try again, and patient enough for a busy machine.
SETTINGS = Settings(
    part_size=PART,
    chunk_size=16 * KiB,
    min_chunk_size=4 * KiB,
    max_concurrent_downloads=8,
    initial_connections=4,
    connect_timeout=5.0,
    stall_timeout=0.5,
    first_byte_timeout=2.0,
    give_up_after=20.0,
    max_retries=8,
    first_retry_wait=0.01,
    max_retry_wait=0.05,
    durable=False,
)


def leftovers(folder: Path) -> list[str]:
    """What a download in progress or given up keeps in ``folder``."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if ".incomplete" in p.name)


@dataclass
class Outcome:
    """What became of some files.

    Attributes:
        handle: Their queue's.
        errors: By path.
    """

    handle: DownloadHandle
    errors: dict[str, BaseException]

    def __post_init__(self) -> None:
        self.progress = self.handle.progress()


@dataclass
class Rig:
    """Everything one test needs.

    Attributes:
        hub: Serves ``files`` as the repository ``org/m``.
        files: Contents by path.
        folder: Where downloads go.
        settings: Of the manager.
        options: More arguments of the manager.
    """

    hub: LocalHub
    repo: Repo
    files: dict[str, bytes]
    folder: Path
    settings: Settings = SETTINGS
    options: dict[str, Any] = field(default_factory=dict)

    def url(self, path: str, base: str | None = None) -> str:
        """Where a file is resolved."""
        return f"{base or self.hub.url}/org/m/resolve/{self.repo.head.id}/{path}"

    def request(
        self,
        path: str,
        *,
        base: str | None = None,
        url: str | None = None,
        digest: Digest | str | None = "own",
        etag: str | None = "own",
        size: int | None = -1,
        fresh: bool = False,
        headers: Mapping[str, str] = MappingProxyType({"Authorization": TOKEN}),
    ) -> FileRequest:
        """A request as the snapshot makes it, with any of its facts replaced."""
        entry = self.repo.head.tree.files[path]
        if digest == "own":
            digest = (
                Digest("sha256", entry.content.sha256()) if entry.is_lfs else Digest("git-sha1", entry.etag)
            )
        assert digest is None or isinstance(digest, Digest)
        etag = entry.etag if etag == "own" else etag
        url = url or self.url(path, base)
        remote = RemoteFile(
            path,
            url,
            size=entry.size if size == -1 else size,
            digest=digest,
            etag=etag,
            headers=headers,
        )
        version = (digest.value if digest else etag) or url
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        destination = FileDestination(target, version, digest, remote.size if digest else None)
        return FileRequest(remote, destination, fresh=fresh)

    def tune(self, **seconds: Any) -> None:
        """Have managers work by other times; see :class:`hf_haul.config.Timings`."""
        self.settings = replace(self.settings, timings=Timings(**seconds))

    @contextmanager
    def manager(self, **changes: Any) -> Iterator[ParallelDownloadManager]:
        """A manager that stops at once at the end."""
        manager = ParallelDownloadManager(settings=replace(self.settings, **changes), **self.options)
        try:
            yield manager
        finally:
            manager.shutdown(wait=False)

    def fetch(self, *wanted: str | FileRequest, timeout: float = 40.0, **changes: Any) -> Outcome:
        """Fetch files by path or request, and wait for them."""
        requests = [each if isinstance(each, FileRequest) else self.request(each) for each in wanted]
        with self.manager(**changes) as manager:
            handle = manager.submit(requests, model_id="org/m")
            assert handle.wait(timeout), f"still {handle.progress()} after {timeout} s"
            return Outcome(handle, dict(handle.errors()))

    def is_whole(self, path: str) -> bool:
        """Whether a file is in place with every byte."""
        target = self.folder / path
        return target.is_file() and target.read_bytes() == self.files[path]

    @property
    def left(self) -> list[str]:
        """Staged files."""
        return leftovers(self.folder)

    def sent(self, path: str = "*") -> int:
        """Body bytes that the hub sent of files, redirects' bodies left out."""
        return sum(
            record.body_bytes
            for record in self.hub.requests
            if record.status in {200, 206} and (path in {"*", record.path})
        )


@contextmanager
def serve_files(
    folder: Path, *, weights: int = 400 * KiB, more: Mapping[str, bytes] | None = None, **hub_options: Any
) -> Iterator[Rig]:
    """Serve an LFS file of ``weights`` bytes, a git file of 300 bytes, and ``more``."""
    files = {
        WEIGHTS: random_bytes(weights, "weights"),
        SMALL: random_bytes(300, "config"),
        **(more or {}),
    }
    repo = Repo("org/m")
    repo.commit(files, "first")
    account = Account("me", TOKEN.removeprefix("Bearer "))
    with LocalHub(repo, accounts=[account], **hub_options) as hub:
        yield Rig(hub, repo, files, folder)
