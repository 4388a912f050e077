"""Which files a verification is about, and what each of them has to be."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hf_haul.digests import Digest
from hf_haul.errors import UnsafePathError
from hf_haul.hub.metadata import ListedFile, credible_size, digest_from_etag
from hf_haul.hub.verify_report import KnownFrom
from hf_haul.hub.verify_targets import Target
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder, LocalMetadata
from hf_haul.storage.safe_paths import is_in_metadata_folder, require_safe_path
from hf_haul.storage.staged_names import STAGED_NAME

__all__ = ["Listing", "Subject", "noted_commit", "subjects_of"]

logger = logging.getLogger(__name__)

#: A commit's files, and who told them.
Listing = tuple[Mapping[str, ListedFile], KnownFrom]


@dataclass(frozen=True, slots=True)
class Subject:
    """One file to be verified.

    Attributes:
        path: Its path in the repository; ``blobs/<etag>`` for a blob that no snapshot uses.
        location: Where it is, or should be, on disk.
        commit: The commit that it belongs to.
        etag: The name of its version, where that is known.
        size: Bytes that it has to have, where that is known.
        digest: What it has to hash to, where that is known.
        xet_hash: Its Xet hash, where it has one.
        known_from: Who told the digest.
        expected: Whether the repository has it, as far as is known.
        downloaded: Whether something says that it was downloaded, so that it can be missing.
        noted_at: When its download was noted, in seconds since the epoch.
    """

    path: str
    location: str
    commit: str | None = None
    etag: str | None = None
    size: int | None = None
    digest: Digest | None = None
    xet_hash: str | None = None
    known_from: KnownFrom | None = None
    expected: bool = True
    downloaded: bool = True
    noted_at: float | None = None


def subjects_of(target: Target, listings: Mapping[str, Listing]) -> list[Subject]:
    """Return the files of a target.

    Args:
        target: The folder.
        listings: What is known of commits' files, by commit.
    """
    if target.local is not None:
        commit = target.commits[0] if target.commits else None
        found = list(_of_local_dir(target.local, commit, listings, asked=target.revision is not None))
    else:
        assert target.cache is not None
        found = []
        for commit in target.commits:
            found += _of_snapshot(target.cache, commit, listings.get(commit))
        if target.whole:
            found += _unused_blobs(target.cache, found)
    return [each for each in found if each.path.startswith(target.below)]


def noted_commit(local: LocalFolder) -> str | None:
    """Return the commit at which most files of a ``local_dir`` were downloaded, as far as is noted."""
    commits = Counter(noted.commit for noted in _notes(local).values())
    return commits.most_common(1)[0][0] if commits else None


# ---- a cache


def _of_snapshot(folder: RepoFolder, commit: str, listing: Listing | None) -> Iterator[Subject]:
    files, known_from = listing or ({}, None)
    root = folder.snapshot(commit)
    there = _files_below(root)
    for path in sorted({*there, *files}):
        subject = Subject(path, there.get(path) or _joined(root, path), commit, downloaded=path in there)
        etag = _linked_etag(folder, subject.location)
        if etag is not None:
            subject = _with_etag(subject, etag)
        if listing is not None:
            subject = _with_listing(subject, files.get(path), known_from)
        if _is_safe(path):
            yield subject


def _linked_etag(folder: RepoFolder, location: str) -> str | None:
    """Return the name of the blob that a link leads to at once; a blob may be a link in its turn."""
    try:
        target = os.path.join(os.path.dirname(location), os.readlink(location))
    except (OSError, ValueError):
        return None
    parent, name = os.path.split(os.path.normpath(target))
    return name if parent == os.path.normpath(folder.blobs) else None


def _unused_blobs(folder: RepoFolder, used: list[Subject]) -> Iterator[Subject]:
    """Yield the blobs that no snapshot uses: the next download of their content would."""
    etags = {subject.etag for subject in used}
    try:
        with os.scandir(folder.blobs) as entries:
            names = sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for name in names:
        if name not in etags and STAGED_NAME.fullmatch(name) is None and not name.endswith(".incomplete"):
            yield _with_etag(Subject(f"blobs/{name}", os.path.join(folder.blobs, name)), name)


# ---- a local_dir


def _of_local_dir(
    local: LocalFolder, commit: str | None, listings: Mapping[str, Listing], *, asked: bool
) -> Iterator[Subject]:
    """Yield the files of a ``local_dir``.

    Args:
        local: The folder.
        commit: The commit that it is compared with.
        listings: What is known of commits' files, by commit.
        asked: Whether the caller named the commit. If not, a file that was noted at another one is compared
            with that.
    """
    listing = None if commit is None else listings.get(commit)
    files, known_from = listing or ({}, None)
    notes = _notes(local)
    there = {path: at for path, at in _files_below(local.root).items() if not _is_aside(path)}
    for path in sorted({*there, *notes, *files}):
        if not _is_safe(path) or _is_aside(path):
            continue
        noted = notes.get(path)
        subject = Subject(
            path,
            there.get(path) or _joined(local.root, path),
            commit,
            downloaded=path in there or noted is not None,
        )
        if noted is not None:
            subject = replace(_with_etag(subject, noted.etag), commit=noted.commit, noted_at=noted.timestamp)
        if listing is not None and (noted is None or noted.commit == commit or asked):
            subject = _with_listing(replace(subject, commit=commit), files.get(path), known_from)
        yield subject


def _notes(local: LocalFolder) -> dict[str, LocalMetadata]:
    """Return what was noted when the files of a ``local_dir`` were downloaded, by file."""
    return {path: noted for path, noted in local.all_noted().items() if not _is_aside(path)}


def _is_aside(path: str) -> bool:
    """Return whether a file cannot be of a repository: the folder's own metadata, or git's."""
    return is_in_metadata_folder(path) or ".git" in path.split("/")[:-1]


# ---- both


def _with_etag(subject: Subject, etag: str) -> Subject:
    digest = digest_from_etag(etag)
    return replace(subject, etag=etag, digest=digest, known_from=None if digest is None else "etag")


def _with_listing(subject: Subject, entry: ListedFile | None, known_from: KnownFrom | None) -> Subject:
    if entry is None:
        return replace(subject, expected=False)
    digest = entry.digest
    if digest is None:  # a mirror's, or redacted: what the disk tells still counts
        size = credible_size(entry.bytes, subject.etag or "") if entry.lfs_size is not None else None
        return replace(subject, size=size)
    return replace(
        subject,
        etag=digest.value,
        size=credible_size(entry.bytes, digest.value),
        digest=digest,
        xet_hash=entry.valid_xet_hash,
        known_from=known_from,
    )


def _files_below(root: str) -> dict[str, str]:
    """Return the files and links below a folder, by path with slashes; links to folders are passed over."""
    found = {}

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            logger.warning("Could not look into %s: %s", error.filename, error.strerror)

    for folder, _, names in os.walk(root, onerror=note):
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in names:
            found[name if below == "." else f"{below}/{name}"] = os.path.join(folder, name)
    return found


def _joined(root: str, path: str) -> str:
    return os.path.join(root, *path.split("/"))


def _is_safe(path: str) -> bool:
    try:
        require_safe_path(path)
    except UnsafePathError:  # nobody downloads it
        return False
    return True
