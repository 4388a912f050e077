"""What :func:`hf_haul.verify` finds out, as values."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from hf_haul.storage.file_checks import Fault

__all__ = ["CheckedFile", "FileState", "KnownFrom", "Repair", "VerifyProgress", "VerifyReport"]

#: ``ok``: the bytes are right; ``wrong``: they are not; ``missing``: the repository has the file, the disk
#: does not; ``unknown``: nobody told what its bytes have to be; ``extra``: the repository has no such file.
FileState = Literal["ok", "wrong", "missing", "unknown", "extra"]
#: Who told what a file has to be. ``hub``: the Hub's listing, asked just now; ``listing``: the one that was
#: kept of its commit; ``etag``: the name of its blob, or what was noted when it was downloaded.
KnownFrom = Literal["hub", "listing", "etag"]
#: How a file was repaired. ``fetched``: all of it was fetched; ``completed``: only what could not be kept of
#: it; ``copied``: all its bytes were on this disk; ``linked``: only its link was missing.
Repair = Literal["fetched", "completed", "copied", "linked"]


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file, and what was found out about it.

    Attributes:
        path: Its path in the repository; ``blobs/<etag>`` for a blob that no snapshot uses.
        state: Whether it is right. After a repair: whether it is right now.
        location: Where it is on disk.
        commit: The commit that it was checked against, where that is known.
        fault: What was wrong with it, also if it was repaired; ``None`` if nothing was.
        detail: What the system said, where it refused.
        size: Bytes on disk, when it was looked at.
        expected_size: Bytes that it should have, where that is known.
        algorithm: ``sha256`` or ``git-sha1``, where a digest is known.
        expected: The digest that it should have.
        actual: The digest that it has, where it was computed and is another one.
        known_from: Who told the expected digest.
        repair: How it was repaired, if it was.
        repair_error: Why it could not be repaired, if that was tried.
        bytes_kept: Bytes of the repaired file that did not have to be fetched.
    """

    path: str
    state: FileState
    location: str
    commit: str | None = None
    fault: Fault | None = None
    detail: str = ""
    size: int | None = None
    expected_size: int | None = None
    algorithm: str | None = None
    expected: str | None = None
    actual: str | None = None
    known_from: KnownFrom | None = None
    repair: Repair | None = None
    repair_error: str | None = None
    bytes_kept: int = 0

    @property
    def finding(self) -> str:
        """What was wrong, in words; empty if nothing was."""
        if self.fault is None:
            return ""
        return {
            "absent": "it is not there",
            "broken-link": "its link leads to nothing",
            "folder": "a folder is in its place",
            "not-a-file": "something that is no file is in its place",
            "unreadable": f"it cannot be read: {self.detail}",
            "size": f"it has {self.size} bytes and should have {self.expected_size}",
            "digest": f"its {self.algorithm} is {self.actual} and should be {self.expected}",
        }[self.fault]


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far a verification has come, at one moment.

    Attributes:
        phase: ``check`` while files are read and hashed, ``repair`` while they are fetched.
        files_done: Files of which all is known, or that are repaired.
        files_total: Files in all, or to be repaired.
        bytes_done: Bytes read, or on disk.
        bytes_total: Bytes to be read, or of all files to be repaired.
        speed_bps: Bytes per second.
        active: Files being read: path, bytes read, bytes in all.
    """

    phase: Literal["check", "repair"]
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    speed_bps: float
    active: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        path: The folder that was checked.
        repo_id: The repository, where that is known.
        repo_type: Its kind.
        revision: The revision that was asked for.
        commits: The commits that were checked.
        files: Every file, by path.
        asked_hub: Whether the Hub told what the files should be.
        hub_error: Why it could not be asked, if that was tried.
        bytes_read: Bytes read to hash them.
        read_seconds: How long that took.
        bytes_fetched: Bytes fetched to repair files.
        seconds: How long all of it took.
    """

    path: str
    repo_id: str | None
    repo_type: str | None
    revision: str | None
    commits: tuple[str, ...]
    files: tuple[CheckedFile, ...]
    asked_hub: bool = False
    hub_error: str | None = None
    bytes_read: int = 0
    read_seconds: float = 0.0
    bytes_fetched: int = 0
    seconds: float = 0.0

    @property
    def is_ok(self) -> bool:
        """Whether no file is wrong or missing, now."""
        return not any(file.state in {"wrong", "missing"} for file in self.files)

    @property
    def counts(self) -> dict[str, int]:
        """How many files there are in each state."""
        found = Counter(file.state for file in self.files)
        return {state: found[state] for state in get_args(FileState)}

    @property
    def repaired(self) -> int:
        """How many files were repaired."""
        return sum(file.repair is not None for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it in plain values, as ``hf-haul verify --json`` prints it."""
        files = [asdict(file) for file in self.files]
        return {
            **{name: getattr(self, name) for name in ("path", "repo_id", "repo_type", "revision")},
            "commits": list(self.commits),
            "success": self.is_ok,
            **self.counts,
            "repaired": self.repaired,
            "asked_hub": self.asked_hub,
            "hub_error": self.hub_error,
            "bytes_read": self.bytes_read,
            "read_seconds": self.read_seconds,
            "bytes_fetched": self.bytes_fetched,
            "seconds": self.seconds,
            "files": files,
        }
