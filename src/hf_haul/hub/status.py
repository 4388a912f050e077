"""What is partial in a Hub cache or a folder, who is fetching it, and how to go on."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import constants

from hf_haul.hub.partial_names import PartialName, PartialNames, commits_by_ref, repository_of
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.ownership import program_of
from hf_haul.storage.partial_files import OwnerState, PartialKind, PartialOnDisk, partial_files
from hf_haul.storage.staging_places import StagingPlace, staging_places

__all__ = [
    "FileProblem",
    "PartialFile",
    "PartialOwner",
    "PartialStatus",
    "Survey",
    "folder_to_search",
    "order_of",
    "status",
]

_DEFAULT_BRANCH: Final = constants.DEFAULT_REVISION


@dataclass(frozen=True, slots=True)
class PartialOwner:
    """The process that fetches a partial file, or did.

    Attributes:
        state: ``"alive"``; ``"dead"``; or ``"unknown"`` where it may run on another host.
        pid: Its process id, on its host.
        host: The name of its host.
        program: What it runs, where that can be seen.
    """

    state: OwnerState
    pid: int | None = None
    host: str | None = None
    program: str | None = None


@dataclass(frozen=True, slots=True)
class PartialFile:
    """A file that was not fetched to its end.

    Attributes:
        path: Where it is on the disk.
        kind: ``"staged"`` by hf-haul; ``"huggingface_hub"``: its own, never resumed; ``"temporary"``:
            made to be renamed or removed at once.
        repo_type: ``"model"``, ``"dataset"``, ``"space"`` or ``"kernel"``; ``None`` if nothing tells.
        repo_id: The repository.
        revision: The branch or tag that it was asked for at, or the commit.
        file: Its path in the repository, or its file name.
        etag: The version of its content.
        bytes_done: Bytes of it that are here.
        bytes_total: Bytes of the whole file; ``None`` if nothing tells.
        percent: How much of it is here.
        bytes_on_disk: Bytes that it takes on the disk.
        modified: When it was last written to, in seconds since the epoch.
        age: Seconds since then.
        owner: Who fetches it, or did.
        in_place: Whether the whole file is in place already, so that this one is of no use.
        resumable: Whether a download goes on from it.
        command: What to type to go on; ``None`` where that cannot be told, or nothing is to be done.
        hint: How to go on, in words.
    """

    path: Path
    kind: PartialKind
    repo_type: str | None
    repo_id: str | None
    revision: str | None
    file: str | None
    etag: str | None
    bytes_done: int
    bytes_total: int | None
    percent: float | None
    bytes_on_disk: int
    modified: float
    age: float
    owner: PartialOwner
    in_place: bool
    resumable: bool
    command: str | None
    hint: str


@dataclass(frozen=True, slots=True)
class FileProblem:
    """What could not be read, or not be done.

    Attributes:
        path: What it is about.
        message: What is wrong with it.
    """

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class PartialStatus:
    """What is partial in a folder.

    Attributes:
        folder: The folder.
        files: The partial files, by repository and name.
        bytes_done: Bytes of them that are here.
        bytes_total: Bytes of them all, as far as their sizes are known.
        bytes_on_disk: Bytes that they take on the disk.
        problems: Folders that could not be read.
    """

    folder: Path
    files: tuple[PartialFile, ...]
    bytes_done: int
    bytes_total: int
    bytes_on_disk: int
    problems: tuple[FileProblem, ...]


def status(
    folder: str | os.PathLike[str] | None = None, *, cache_dir: str | os.PathLike[str] | None = None
) -> PartialStatus:
    """Return what is partial in a Hub cache or in a folder. Nothing is changed.

    Args:
        folder: A ``local_dir``, a cache, or any folder that files were downloaded to; folders in it count,
            links are not followed.
        cache_dir: A Hub cache; the default one if neither is given.

    Returns:
        The partial files: those of hf-haul, and huggingface_hub's own.

    Raises:
        FileNotFoundError: There is no such folder; a default cache that is not there yet is empty.
        NotADirectoryError: It is no folder.
        ValueError: Both are given.
    """
    survey = Survey(folder_to_search(folder, cache_dir))
    files = [survey.describe(found) for found in survey.found if found.kind != "temporary"]
    files.sort(key=order_of)
    return PartialStatus(
        folder=survey.folder,
        files=tuple(files),
        bytes_done=sum(file.bytes_done for file in files),
        bytes_total=sum(file.bytes_total or 0 for file in files),
        bytes_on_disk=sum(file.bytes_on_disk for file in files),
        problems=tuple(survey.problems),
    )


def order_of(file: PartialFile) -> tuple[str, str, str, Path]:
    """Return what files are sorted by: repository, then name."""
    return (file.repo_type or "", file.repo_id or "", file.file or "", file.path)


def folder_to_search(
    folder: str | os.PathLike[str] | None, cache_dir: str | os.PathLike[str] | None
) -> Path | None:
    """Return the folder that somebody asks about, links in its own path resolved.

    Returns:
        ``None`` for a default cache that is not there yet.

    Raises:
        FileNotFoundError: There is no such folder.
        NotADirectoryError: It is no folder.
        ValueError: Both are given.
    """
    if folder is not None and cache_dir is not None:
        raise ValueError("folder and cache_dir cannot be given together")
    asked = cache_dir if folder is None else folder
    path = Path(constants.HF_HUB_CACHE if asked is None else asked).expanduser()
    if not path.exists():
        if asked is None:
            return None
        raise FileNotFoundError(f"there is no folder {path}")
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is no folder")
    return Path(os.path.realpath(path))


class Survey:
    """All that is partial or temporary in a folder, and what it is of.

    Attributes:
        folder: The folder.
        found: What there is.
        problems: Folders that could not be read.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = Path(constants.HF_HUB_CACHE) if folder is None else folder
        self.problems: list[FileProblem] = []
        self.found: list[PartialOnDisk] = []
        self._names = PartialNames()
        self._refs: dict[Path, dict[str, str]] = {}
        self._now = time.time()
        for place in () if folder is None else staging_places(folder, self._note):
            self.found += partial_files(place)

    def describe(self, found: PartialOnDisk) -> PartialFile:
        """Return what is known of a file that was found."""
        name = self._names.name_of(found)
        size = name.size if found.size is None else found.size
        in_place = _is_in_place(found, name)
        resumable = found.resumable and not in_place
        revision = self._revision_of(found.place, name.commit)
        owner, program = found.owner, None
        if owner is not None and found.state == "alive":
            program = program_of(owner)
        who = PartialOwner(
            found.state,
            None if owner is None else owner.pid,
            None if owner is None else owner.host,
            program,
        )
        command = None
        if found.kind == "staged" and not in_place and found.state != "alive":
            command = _command(found.place, name, revision)
        return PartialFile(
            path=found.path,
            kind=found.kind,
            repo_type=name.repo_type,
            repo_id=name.repo_id,
            revision=revision,
            file=name.file,
            etag=name.etag,
            bytes_done=found.done,
            bytes_total=size,
            percent=_percent(found.done, size),
            bytes_on_disk=found.on_disk,
            modified=found.modified,
            age=max(0.0, self._now - found.modified),
            owner=who,
            in_place=in_place,
            resumable=resumable,
            command=command,
            hint=_hint(found, who, in_place=in_place, command=command),
        )

    def _note(self, error: OSError) -> None:
        self.problems.append(FileProblem(Path(error.filename or self.folder), error.strerror or str(error)))

    def _revision_of(self, place: StagingPlace, commit: str | None) -> str | None:
        """Return the branch or tag that a commit is known by here, or the commit."""
        if commit is None or repository_of(place.root) is None:
            return commit
        if place.root not in self._refs:
            self._refs[place.root] = commits_by_ref(place.root)
        refs = sorted(ref for ref, its in self._refs[place.root].items() if its == commit)
        return _DEFAULT_BRANCH if _DEFAULT_BRANCH in refs else refs[0] if refs else commit


def _percent(done: int, size: int | None) -> float | None:
    if size is None:
        return None
    return 100.0 if not size else min(100.0, round(100 * done / size, 2))


def _is_in_place(found: PartialOnDisk, name: PartialName) -> bool:
    """Return whether the file that this is a part of is whole and in place."""
    place = found.place
    if found.kind == "temporary":
        return False
    if place.kind == "blobs":
        return (place.folder / found.key).exists()
    if place.kind == "metadata" and name.file is not None and name.etag is not None:
        noted = LocalFolder(os.fspath(place.root)).noted(name.file)
        return noted is not None and noted.etag == name.etag and (place.root / name.file).is_file()
    return False


def _command(place: StagingPlace, name: PartialName, revision: str | None) -> str | None:
    """Return the command that goes on with a file."""
    if name.repo_id is None:
        return None
    words = ["hf-haul", "download", name.repo_id]
    if name.file is not None:
        words.append(name.file)
    if name.repo_type not in {None, "model"}:
        words += ["--type", str(name.repo_type)]
    if revision not in {None, _DEFAULT_BRANCH}:
        words += ["--revision", str(revision)]
    if place.kind == "metadata":
        words += ["--local-dir", os.fspath(place.root)]
    elif os.path.realpath(constants.HF_HUB_CACHE) != os.fspath(place.root.parent):
        words += ["--cache-dir", os.fspath(place.root.parent)]
    return shlex.join(words)


def _hint(found: PartialOnDisk, owner: PartialOwner, *, in_place: bool, command: str | None) -> str:
    """Return in words how to go on with a file."""
    if owner.state == "alive":
        return "it is being fetched; wait for it"
    if in_place:
        return "the whole file is in place: `hf-haul clean` removes this one"
    if found.kind == "temporary":
        return "of no use: `hf-haul clean` removes it"
    if found.kind == "huggingface_hub":
        return "huggingface_hub begins it anew: `hf-haul clean` removes it once it is a day old"
    if not found.resumable and owner.pid is None and found.state == "unknown":
        return "it cannot be read by this user"
    if not found.resumable:
        return "nothing of it can be used: `hf-haul clean` removes it"
    if command is not None:
        return "the same download goes on from it"
    if found.place.kind == "metadata":
        return "the same download into this folder goes on from it"
    return "a download of the same URL to the same place goes on from it"
