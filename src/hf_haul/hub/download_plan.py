"""What :func:`hf_haul.plan` finds out, as values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["DownloadPlan", "FilePlan"]


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file of a download.

    Attributes:
        path: Its path in the repository.
        size: Bytes; ``None`` if the Hub does not tell.
        state: ``present``: it is in place, or only its link is missing, or the cache has its bytes;
            ``partial``: some of its bytes are staged; ``absent``: nothing of it is here.
        priority: ``HIGH``, ``NORMAL`` or ``LOW``: its urgency among the files of the download.
        bytes_here: Bytes that need not be fetched.
        bytes_to_fetch: Bytes to be fetched; ``None`` if its size is unknown.
        requests: Requests that this takes, about.
        fetched_by: Another process that is fetching it just now, which would be waited for.
    """

    path: str
    size: int | None
    state: Literal["present", "partial", "absent"]
    priority: Literal["HIGH", "NORMAL", "LOW"]
    bytes_here: int
    bytes_to_fetch: int | None
    requests: int = 0
    fetched_by: str | None = None


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """What a download would do.

    Attributes:
        repo_id: The repository.
        repo_type: Its kind.
        revision: The revision that was asked for.
        commit: What that stands for.
        path: Where the files go: the snapshot's folder, or the ``local_dir``.
        files: The files: first those to be fetched, in the order in which they are begun, and then those that
            are there.
        bytes_total: Bytes of all files, as far as their sizes are known.
        bytes_here: Bytes that need not be fetched.
        bytes_to_fetch: Bytes to be fetched.
        requests: Requests in all, about: how long parts are follows the speed.
        disk_needed: Bytes that will be written to the disk.
        disk_free: Bytes that are free there, where the system tells.
        unknown_sizes: How many files are to be fetched whose size the Hub does not tell.
        rate: Bytes per second that ``seconds`` is for.
        seconds: How long fetching takes at that rate.
        asked_hub: Whether the Hub told the files; if not, it was the listing that was kept.
        hub_error: Why it could not be asked.
    """

    repo_id: str
    repo_type: str
    revision: str
    commit: str
    path: str
    files: tuple[FilePlan, ...]
    bytes_total: int
    bytes_here: int
    bytes_to_fetch: int
    requests: int
    disk_needed: int
    disk_free: int | None
    unknown_sizes: int = 0
    rate: float | None = None
    seconds: float | None = None
    asked_hub: bool = True
    hub_error: str | None = None

    @property
    def fits(self) -> bool:
        """Whether there is room for it, as far as the system tells."""
        return self.disk_free is None or self.disk_needed <= self.disk_free

    def as_dict(self) -> dict[str, Any]:
        """Return all of it in plain values, as ``hf-haul plan --json`` prints it."""
        return {**asdict(self), "files": [asdict(file) for file in self.files], "fits": self.fits}
