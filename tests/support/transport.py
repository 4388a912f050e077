"""A transport without a network: serves bytes from memory and fails on command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hf_haul.cancellation import CancelToken
from hf_haul.errors import ConnectionFailedError, RangeRefusedError
from hf_haul.ranges import ByteRange
from hf_haul.task import Digest, DownloadPriority, FileRequest, RemoteFile
from hf_haul.transports.base import Body

__all__ = ["FakeSource", "MemoryDestination"]


@dataclass
class FakeBody:
    """The bytes of one answer."""

    data: bytes
    range: ByteRange | None
    total: int | None
    step: int
    on_read: Callable[[int], None] | None = None
    whole: bool = False
    closed: bool = False
    at: int = 0

    def readinto(self, buffer: memoryview) -> int:
        if self.on_read is not None:
            self.on_read(self.at)
        part = self.data[self.at : self.at + min(len(buffer), self.step)]
        buffer[: len(part)] = part
        self.at += len(part)
        return len(part)

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeSource:
    """Serves one file's bytes.

    Attributes:
        content: The bytes.
        log: Every request: the range asked for, ``None`` for the whole file.
        faults: Raised by the next requests, one each; ``None`` lets one pass.
        ranges: Whether ranges are served; if not, the whole file comes instead.
        cut: Bytes after which the next bodies end early, one each.
        says_size: Whether answers say how long the file is.
        step: Bytes per read at the most.
        on_open: Called with each range asked for.
        on_read: Called before each read with the bytes of the body read so far.
    """

    content: bytes
    log: list[ByteRange | None] = field(default_factory=list)
    faults: list[Exception | None] = field(default_factory=list)
    ranges: bool = True
    cut: list[int] = field(default_factory=list)
    says_size: bool = True
    step: int = 1 << 20
    on_open: Callable[[ByteRange | None], None] | None = None
    on_read: Callable[[int], None] | None = None
    version: str | None = None

    def open(self, want: ByteRange | None, cancel_token: CancelToken, *, fresh: bool = False) -> Body:
        self.log.append(want)
        if self.on_open is not None:
            self.on_open(want)
        cancel_token.check()
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        if want is not None and not self.ranges:
            if want.start:
                raise RangeRefusedError("the whole file instead of a range")
            want = None
        size = len(self.content)
        span = want if want is not None else ByteRange(0, size)
        data = self.content[span.start : span.stop]
        if self.cut:
            data = data[: self.cut.pop(0)]
        total = size if self.says_size else None
        return FakeBody(
            data, span if self.says_size or want else None, total, self.step, self.on_read, want is None
        )

    def fetched(self) -> Iterator[int]:
        """Every offset asked for, repeated ones repeatedly."""
        for want in self.log:
            yield from range(len(self.content)) if want is None else range(want.start, want.stop)


@dataclass
class MemoryDestination:
    """Takes a verified file into memory.

    Attributes:
        folder: Where it is staged.
        name: What it is called there.
        content: The published bytes, once there are any.
        fails: Raised by publishing, one each.
        on_look: Called in the middle of a look that can be ended.
    """

    folder: Path
    name: str
    content: bytes | None = None
    fails: list[OSError] = field(default_factory=list)
    on_look: Callable[[], None] | None = None
    published: int = 0

    def __fspath__(self) -> str:
        return os.fspath(self.folder / self.name)

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def staging_dir(self) -> Path:
        return self.folder

    @property
    def staging_key(self) -> str:
        return self.name

    @property
    def former_keys(self) -> tuple[str, ...]:
        return ()

    def replaces(self, key: str) -> bool:
        return False

    @property
    def upstream_lock(self) -> None:
        return None

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        if check is not None and self.on_look is not None:
            self.on_look()
            check()
        return self.content is not None

    def publish(self, staged: Path) -> None:
        if self.fails:
            raise self.fails.pop(0)
        self.content = staged.read_bytes()
        self.published += 1
        staged.unlink()


def reset_by_peer() -> ConnectionFailedError:
    """The most common of faults."""
    return ConnectionFailedError("reset by peer")


def request(
    destination: MemoryDestination,
    source: FakeSource,
    *,
    digest: Digest | None = None,
    size: int | None = -1,
    priority: DownloadPriority | None = None,
) -> FileRequest:
    """Ask for a file of ``source``; the size is the true one unless given."""
    known = len(source.content) if size == -1 else size
    remote = RemoteFile(destination.name, f"http://source.test/{destination.name}", known, digest)
    return FileRequest(remote, destination, priority)
