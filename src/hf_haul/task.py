"""Values about one file: where it is, where it goes, how urgent it is, how far it has come."""

from __future__ import annotations

import enum
import itertools
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

from hf_haul.digests import Digest
from hf_haul.urls import source_of

if TYPE_CHECKING:
    import ssl

__all__ = [
    "TRANSITIONS",
    "Destination",
    "Digest",  # of digests: pickles of earlier versions look for it here
    "DownloadPriority",
    "DownloadProgress",
    "DownloadState",
    "DownloadTask",
    "FileRequest",
    "NetworkPath",
    "NetworkPaths",
    "OtherSource",
    "RemoteFile",
    "bears_out",
    "new_id",
    "next_number",
]

logger = logging.getLogger(__name__)


class DownloadPriority(enum.IntEnum):
    """How urgent a file or a queue is; a smaller number goes first."""

    HIGH = 1
    NORMAL = 2
    LOW = 3

    @classmethod
    def _missing_(cls, value: object) -> DownloadPriority:
        """Return the priority of a name in any case, as commands and files have it."""
        if isinstance(value, str) and value.upper() in cls.__members__:
            return cls[value.upper()]
        known = ", ".join(f"{each.name} ({each.value})" for each in cls)
        raise ValueError(f"priority must be one of {known}, not {value!r}")


class DownloadState(str, enum.Enum):
    """The state of a file, or of a whole queue."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return not TRANSITIONS[self]


_S = DownloadState

#: Every legal move. A missing pair is a bug in the caller, never a case to handle.
TRANSITIONS: Final[Mapping[DownloadState, frozenset[DownloadState]]] = {
    # Straight to DONE: another process published the file while ours was queued.
    _S.QUEUED: frozenset({_S.RUNNING, _S.PAUSED, _S.FAILED, _S.CANCELLED, _S.DONE}),
    # Back to QUEUED: the file's connections were needed for something more urgent.
    _S.RUNNING: frozenset({_S.VERIFYING, _S.PAUSED, _S.QUEUED, _S.FAILED, _S.CANCELLED, _S.DONE}),
    # To VERIFYING and DONE: the last byte was in when the pause came.
    _S.PAUSED: frozenset({_S.QUEUED, _S.RUNNING, _S.VERIFYING, _S.DONE, _S.CANCELLED, _S.FAILED}),
    # A wrong digest sends the file back to the queue once; the second time it fails.
    _S.VERIFYING: frozenset({_S.DONE, _S.QUEUED, _S.FAILED, _S.CANCELLED}),
    _S.DONE: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class NetworkPath:
    """How one origin is reached, where the caller's own client says so.

    Attributes:
        proxy: The proxy's URL, with its password; ``None`` for none.
        proxy_headers: Sent to the proxy, its password aside.
        proxy_tls: Trusts the proxy, if that speaks TLS.
        tls: Trusts the origin, and may hold a client's certificate.
        source_address: The address to connect from.
    """

    proxy: str | None = field(default=None, repr=False)
    proxy_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    proxy_tls: ssl.SSLContext | None = None
    tls: ssl.SSLContext | None = None
    source_address: str | None = None


class NetworkPaths(Protocol):
    """Knows how origins are reached."""

    def path_to(self, url: str) -> NetworkPath | None:
        """Return the path to a URL's origin; ``None`` for the manager's own."""


@dataclass(frozen=True, slots=True)
class OtherSource:
    """Where the bytes of files can be had beside their origin: a mirror, a server in the lab.

    It is asked for bytes and believed nothing: what a file is, how long it is and what it must hash to its
    origin says.

    Attributes:
        url: The file there, or what its path is appended to.
        headers: Sent to the origin of ``url`` only; they may hold a token of its own.
        joins_path: Whether the path is appended.
        network: How it is reached; ``None`` for the way of the file's origin.
        redirects: Whether it may lead elsewhere, as a mirror does.
    """

    url: str = field(repr=False)  # it may hold a password
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    joins_path: bool = True
    network: NetworkPaths | None = field(default=None, repr=False, compare=False)
    redirects: bool = True

    @property
    def name(self) -> str:
        """``scheme://host:port``, to show and to keep speeds and limits by."""
        return source_of(self.url)

    def stand_in(self, remote: RemoteFile) -> RemoteFile:
        """Return a file as it is asked for here."""
        url = self.url
        if self.joins_path:
            head, mark, query = url.partition("#")[0].partition("?")
            url = f"{head.rstrip('/')}/{quote(remote.path)}{mark}{query}"
        return replace(
            remote,
            url=url,
            headers=self.headers,
            trusted_origins=frozenset(),
            xet_hash=None,
            location=None,
            network=self.network or remote.network,
            redirects=self.redirects,
            sources=(),
            original_url=remote.original_url or remote.url,
        )


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at its source.

    Attributes:
        path: Name of the file inside its repository, ``/`` between folders.
        url: Where to ask for it, before any redirect.
        size: Bytes, or ``None`` if only the source's first answer will tell. A size of 0 beside a digest of
            something else is nobody's size, and becomes ``None``: some say 0 for "unknown".
        digest: What the bytes must hash to, or ``None`` if the source announces nothing.
        etag: The source's version of the file; another one in an answer means that the file changed.
        headers: Sent to the origin of ``url`` only (it may hold a token), never to a redirect's target
            on another origin.
        trusted_origins: Further origins (``scheme://host:port``) that may receive ``headers``.
        xet_hash: The file's Xet hash where it has one.
        location: Where ``url`` led to a moment ago, if somebody asked already; saves asking again.
        announced_by: Who told its size, for messages.
        network: How its origin and others are reached; ``None`` for the way of whoever fetches it.
        digest_is_etag: Whether the digest is only an etag that looks like one: 40 or 64 hex digits.
        confirm: Asks what the digest really is, where that is so, and answers ``None`` if nobody says.
            ``None`` where an etag of that form can be nothing else.
        uri: What people call it, such as ``hf://org/name@commit/a.bin``; its staged file says so.
        ranges: Whether its source may be asked for ranges; ``False`` where it has shown that it knows none.
        sources: Where its bytes can be had, too.
        original_url: Its URL at its origin, where this is another source's file: what users set on a session
            may be secret, and meant for that host alone.
        redirects: Whether its source may lead elsewhere.
    """

    path: str
    url: str = field(repr=False)  # it may be signed
    size: int | None = None
    digest: Digest | None = None
    etag: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    trusted_origins: frozenset[str] = frozenset()
    xet_hash: str | None = None
    location: str | None = field(default=None, repr=False)  # it may be signed
    announced_by: str = field(default="", compare=False)
    network: NetworkPaths | None = field(default=None, repr=False, compare=False)
    digest_is_etag: bool = field(default=False, compare=False)
    confirm: Callable[[], Digest | None] | None = field(default=None, repr=False, compare=False)
    uri: str = field(default="", compare=False)
    ranges: bool = field(default=True, compare=False)
    sources: tuple[OtherSource, ...] = field(default=(), compare=False)
    original_url: str | None = field(default=None, repr=False, compare=False)  # it may be signed
    redirects: bool = field(default=True, compare=False)

    @property
    def is_checkable(self) -> bool:
        """Whether its origin told what it is, so that its bytes may come from anywhere."""
        return (
            self.size is not None
            and self.digest is not None
            and (not self.digest_is_etag or self.confirm is None)
        )

    def __post_init__(self) -> None:
        if self.size == 0 and self.digest is not None and not self.digest.is_of_nothing:
            object.__setattr__(self, "size", None)


def bears_out(remote: RemoteFile, hex_digest: Callable[[str], str]) -> bool:
    """Return whether bytes are right although their digest is not what the form of the etag suggests.

    An etag of 40 hex digits may be the sha1 of the bytes and not git's; and both forms may be a name that
    some mirror has made up. Then the digest that its listing tells decides. Only where it tells none is the
    etag a name.

    Args:
        remote: The file.
        hex_digest: The bytes' own digest, by the name of its algorithm.
    """
    if not remote.digest_is_etag or remote.digest is None:
        return False
    etag = remote.digest.value
    if remote.digest.algorithm == "git-sha1" and hex_digest("sha1") == etag:
        return True
    if remote.confirm is None:
        return False
    try:
        digest = remote.confirm()
    except Exception as error:  # noqa: BLE001  whoever was asked may know it later: until then the etag counts
        logger.debug("%s: its digest could not be looked up: %s", remote.path, error)
        return False
    if digest is not None:
        return hex_digest(digest.algorithm) == digest.value
    logger.warning(
        "%s is not checked: its etag %s looks like a digest, but is not that of its bytes, and %s announces none",
        remote.path, etag, remote.announced_by or "its source",
    )  # fmt: skip
    return True


class Destination(Protocol):
    """Where a verified file goes, and where it is staged until then."""

    def __fspath__(self) -> str:
        """Return the path a user finds the file at, as text, which costs less than a :class:`Path`."""

    @property
    def path(self) -> Path:
        """The same as a :class:`Path`."""

    @property
    def staging_dir(self) -> Path:
        """Folder of the staged file, on the same file system as the final place."""

    @property
    def staging_key(self) -> str:
        """What tells this content from any other in ``staging_dir``: an etag, or a digest of a URL."""

    @property
    def former_keys(self) -> tuple[str, ...]:
        """Keys under which earlier versions of hf-haul staged the same content, if others."""

    def replaces(self, key: str) -> bool:
        """Return whether ``key`` in ``staging_dir`` belongs to another version of the same file."""

    @property
    def upstream_lock(self) -> Path | None:
        """The lock that huggingface_hub holds while it fetches this file; ``None`` if there is none."""

    def is_present(self, check: Callable[[], None] | None = None) -> bool:
        """Return whether the file is in place already, for instance because another process fetched it.

        Links what has to be linked, so that ``True`` means that nothing is left to be done.

        Args:
            check: Called now and then while a file is read; raises to end a look that takes long.
        """

    def publish(self, staged: Path) -> None:
        """Move the verified file ``staged`` into place, by rename, and link it.

        Raises:
            OSError: It could not be moved; ``staged`` is then still there.
        """


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One wanted file: its source, its destination, its urgency.

    Attributes:
        remote: The file at its source.
        destination: Where it goes.
        priority: Its urgency within its queue; ``None`` lets the policy decide.
        fresh: Fetch it anew, whatever is in place or staged already.
    """

    remote: RemoteFile
    destination: Destination
    priority: DownloadPriority | None = None
    fresh: bool = False


#: Process-wide, so that two tasks created in the same clock tick still have an order. The tasks of one plan
#: lie between two numbers.
_sequence = itertools.count(step=1 << 32)


def new_id(kind: str) -> str:
    """Return an id that is unique within and across processes, such as ``task-4f0c...``."""
    return f"{kind}-{secrets.token_hex(8)}"


def next_number() -> int:
    """Return a number above all earlier ones: of a task, or of the first task of a plan."""
    return next(_sequence)


@dataclass(eq=False, slots=True)
class DownloadTask:
    """One file to fetch.

    Tasks order a queue: first by priority, then by the policy's ``order``, then by age.

    Attributes:
        model_id: The repository or group the file belongs to; a label.
        file_path: Name of the file inside it.
        source_url: Where the bytes come from.
        local_path: Where they go.
        size: Bytes, or ``None`` if unknown until the first answer.
        priority: Urgency of this file within its queue.
        order: The policy's sort key inside one priority; smaller goes first.
        digest: What the bytes must hash to, if known.
        task_id: Unique id.
        retry_count: Attempts beyond the first, over all parts of the file.
        max_retries: Failures in a row without a new byte before the file fails.
        created_at: Seconds since the epoch.
        state: Where the file is in its life; moved with :meth:`move_to`.
        error: Why it failed, once it has.
        other_sources: Where its bytes may come from beside its source: ``scheme://host:port``.
    """

    model_id: str
    file_path: str
    source_url: str = field(repr=False)  # it may be signed
    local_path: Path
    size: int | None = None
    priority: DownloadPriority = DownloadPriority.NORMAL
    order: tuple[Any, ...] = ()
    digest: Digest | None = None
    task_id: str = field(default_factory=lambda: new_id("task"))
    retry_count: int = 0
    max_retries: int = 8
    created_at: float = field(default_factory=time.time)
    state: DownloadState = DownloadState.QUEUED
    error: BaseException | None = None
    sequence: int = field(default_factory=next_number)
    other_sources: tuple[str, ...] = ()

    def __lt__(self, other: DownloadTask) -> bool:
        return self.sort_key < other.sort_key

    @property
    def sources(self) -> tuple[str, ...]:
        """Where its bytes may come from, its origin first: ``scheme://host:port``."""
        return (source_of(self.source_url), *self.other_sources)

    @property
    def sort_key(self) -> tuple[int, tuple[Any, ...], int]:
        """Priority, then the policy's order, then age; unique for each task."""
        return (self.priority, self.order, self.sequence)

    def move_to(self, state: DownloadState) -> None:
        """Change the state, if the table of transitions allows it.

        Raises:
            RuntimeError: The move is not in :data:`TRANSITIONS`: a bug in hf-haul.
        """
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"{self.file_path}: illegal move from {self.state} to {state}")
        self.state = state


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far one file has come, at one moment.

    Attributes:
        task_id: The file's task.
        model_id: The repository or group the file belongs to.
        file_path: Name of the file inside it.
        bytes_downloaded: Bytes on disk, those of earlier sessions included.
        total_bytes: Size of the file in bytes, ``None`` while unknown.
        speed_bps: Smoothed speed in bytes per second.
        eta_seconds: Seconds left at that speed, ``None`` while unknown.
        status: State of the file.
    """

    task_id: str
    model_id: str
    file_path: str
    bytes_downloaded: int
    total_bytes: int | None
    speed_bps: float
    eta_seconds: float | None
    status: DownloadState
