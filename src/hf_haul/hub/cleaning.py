"""Removes what interrupted downloads left in a Hub cache or a folder, and nothing that somebody uses."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hf_haul.hub.status import FileProblem, PartialFile, Survey, folder_to_search, order_of
from hf_haul.storage.partial_files import MODE_PROBE_AGE, PartialOnDisk, is_mode_probe
from hf_haul.storage.removal import StillInUseError, remove_partial

__all__ = ["CleanResult", "CleaningPlan", "KeptFile", "clean"]

#: Units of an age, in seconds, the largest first.
_UNITS: Final = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A partial file that is left as it is.

    Attributes:
        file: The file.
        reason: Why.
    """

    file: PartialFile
    reason: str


@dataclass(frozen=True, slots=True)
class CleanResult:
    """What was removed, and what was not.

    Attributes:
        folder: The folder.
        dry_run: Whether nothing was removed: ``removed`` is what would have been.
        removed: The files that are gone.
        bytes_freed: Bytes on the disk that they took.
        kept: Files that somebody uses, or may, or that were to be kept.
        problems: What could not be read, or not be removed, such as files of other users.
    """

    folder: Path
    dry_run: bool
    removed: tuple[PartialFile, ...]
    bytes_freed: int
    kept: tuple[KeptFile, ...]
    problems: tuple[FileProblem, ...]


def clean(
    folder: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    keep_resumable: bool = False,
    older_than: float = 0.0,
) -> CleanResult:
    """Remove what interrupted downloads left in a Hub cache or in a folder. It does not ask.

    Files of processes that are alive stay, and those of processes that may be: on another host, until they
    have been silent for a day. huggingface_hub's own partial files go if their lock is free and nothing has
    changed about them for a day, on file systems of this host. Links are not followed.

    Args:
        folder: A ``local_dir``, a cache, or any folder that files were downloaded to.
        cache_dir: A Hub cache; the default one if neither is given.
        dry_run: Only tell what would be removed.
        keep_resumable: Keep what a download goes on from: of no use is only what is left over besides.
        older_than: Keep what has changed within so many seconds.

    Returns:
        What was removed, what was kept and why, and what could not be removed.

    Raises:
        FileNotFoundError: There is no such folder; a default cache that is not there yet is empty.
        NotADirectoryError: It is no folder.
        ValueError: Both are given.
    """
    plan = CleaningPlan(
        folder_to_search(folder, cache_dir), keep_resumable=keep_resumable, older_than=older_than
    )
    return plan.as_result() if dry_run else plan.carry_out()


class CleaningPlan:
    """What is to be removed from a folder, and why the rest is not.

    Attributes:
        folder: The folder.
        to_remove: What is to be removed.
        kept: What is not.
        problems: What could not be read.
    """

    def __init__(self, folder: Path | None, *, keep_resumable: bool = False, older_than: float = 0.0) -> None:
        survey = Survey(folder)
        self.folder = survey.folder
        self.to_remove: list[PartialFile] = []
        self.kept: list[KeptFile] = []
        self.problems = list(survey.problems)
        self._found: list[PartialOnDisk] = []
        self._made_at = time.monotonic()
        described = [(found, survey.describe(found)) for found in survey.found]
        for found, file in sorted(described, key=lambda each: order_of(each[1])):
            reason = _reason_to_keep(found, file, keep_resumable=keep_resumable, older_than=older_than)
            if reason is None:
                self.to_remove.append(file)
                self._found.append(found)
            elif _is_of_others(found):
                self.problems.append(FileProblem(found.path, reason))
            else:
                self.kept.append(KeptFile(file, reason))

    @property
    def bytes_to_free(self) -> int:
        """Bytes on the disk that the files to be removed take."""
        return sum(file.bytes_on_disk for file in self.to_remove)

    def as_result(self) -> CleanResult:
        """Return the plan as if it were carried out."""
        return CleanResult(
            folder=self.folder,
            dry_run=True,
            removed=tuple(self.to_remove),
            bytes_freed=self.bytes_to_free,
            kept=tuple(self.kept),
            problems=tuple(self.problems),
        )

    def carry_out(self) -> CleanResult:
        """Remove the files, each only if nobody has come to use it meanwhile."""
        removed: list[PartialFile] = []
        kept, problems = list(self.kept), list(self.problems)
        freed = 0
        # These exist for a moment only: one that is still there after a while is nobody's.
        if any(is_mode_probe(found) and found.state != "dead" for found in self._found):
            time.sleep(max(0.0, MODE_PROBE_AGE - self._seen_for()))
        for found, file in zip(self._found, self.to_remove, strict=True):
            try:
                freed += remove_partial(found, seen_for=self._seen_for())
                removed.append(file)
            except StillInUseError as error:
                kept.append(KeptFile(file, str(error)))
            except OSError as error:
                problems.append(FileProblem(found.path, _explain(found, error)))
        return CleanResult(
            folder=self.folder,
            dry_run=False,
            removed=tuple(removed),
            bytes_freed=freed,
            kept=tuple(kept),
            problems=tuple(problems),
        )

    def _seen_for(self) -> float:
        return time.monotonic() - self._made_at


def _reason_to_keep(
    found: PartialOnDisk, file: PartialFile, *, keep_resumable: bool, older_than: float
) -> str | None:
    if found.state == "alive":
        return _in_use(found, file)
    if found.state == "unknown" and not is_mode_probe(found):
        return _may_be_in_use(found, file)
    if keep_resumable and file.resumable:
        return "a download goes on from it"
    if file.age < older_than:
        return f"it has changed {_ago(file.age)}"
    return None


def _in_use(found: PartialOnDisk, file: PartialFile) -> str:
    if found.kind != "staged" or file.owner.pid is None:
        return "a process is using it"
    program = f" ({file.owner.program})" if file.owner.program else ""
    return f"process {file.owner.pid} on {file.owner.host}{program} is fetching it"


def _may_be_in_use(found: PartialOnDisk, file: PartialFile) -> str:
    changed = f"has changed {_ago(file.age)}"
    if found.kind == "temporary":
        return f"it {changed}: a process may be about to rename it"
    if found.kind == "huggingface_hub":
        return f"it is huggingface_hub's, {changed}, and goes a day after its last change where no other host can be writing it"
    if file.owner.pid is not None:
        return (
            f"it {changed}, by process {file.owner.pid} on {file.owner.host}, which cannot be seen from here; it goes "
            "after a day of silence"
        )
    if file.resumable:
        return "it is complete, and may be about to be published"
    return (
        "it may not be read"
        if not _is_of_others(found)
        else f"it belongs to {_user(found.uid)} and may not be read"
    )


def _is_of_others(found: PartialOnDisk) -> bool:
    """Return whether nothing is known of a file because it is another user's."""
    return (
        found.kind == "staged"
        and found.state == "unknown"
        and found.owner is None
        and not found.resumable
        and hasattr(os, "geteuid")
        and found.uid != os.geteuid()
    )


def _explain(found: PartialOnDisk, error: OSError) -> str:
    """Return why a file could not be removed."""
    text = error.strerror or str(error)
    if hasattr(os, "geteuid") and found.uid != os.geteuid():
        return f"it belongs to {_user(found.uid)}: {text}"
    return text


def _user(uid: int) -> str:
    """Return a user's name, or number."""
    if sys.platform != "win32":
        import pwd

        with contextlib.suppress(KeyError):
            return pwd.getpwuid(uid).pw_name
    return f"user {uid}"


def _ago(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    count = int(seconds // size)
    return f"{count} {unit}{'' if count == 1 else 's'} ago"
