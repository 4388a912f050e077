"""A ``local_dir``: plain files, and metadata about them as huggingface_hub writes and reads it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hf_haul.errors import TooManyOpenFilesError, UnsafePathError
from hf_haul.storage.file_names import passing_name
from hf_haul.storage.placing import Folders, copy_to_new, discard, replace_file, tag_folder, write_atomically
from hf_haul.storage.regular_files import open_regular
from hf_haul.storage.safe_paths import (
    FOLDER_LIMIT,
    extended_path,
    require_outside_metadata,
    require_safe_path,
)

__all__ = ["LocalFolder", "LocalMetadata", "short_name"]

logger = logging.getLogger(__name__)

_METADATA: Final = ".metadata"


def short_name(name: str) -> str:
    """Return what stands for a file of metadata, ``<name>.metadata``, in the names of partial files."""
    digest = hashlib.sha1(name.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return base64.urlsafe_b64encode(digest).decode()


@dataclass(frozen=True, slots=True)
class LocalMetadata:
    """What is noted about a file in a ``local_dir``.

    Attributes:
        commit: The commit it was downloaded at.
        etag: The version of its content.
        timestamp: When that was true, in seconds since the epoch.
        repo: The repository, such as ``datasets/org/name``; empty where it was not noted. huggingface_hub
            reads the three lines above it, and no further.
    """

    commit: str
    etag: str
    timestamp: float
    repo: str = ""


class LocalFolder:
    """A ``local_dir``: plain files, and metadata about them in ``.cache/huggingface``.

    Args:
        root: The folder.
        repo: The repository whose files go into it, to be noted with each.
    """

    def __init__(self, root: str, repo: str = "") -> None:
        self.root = root
        self._repo = repo
        self._metadata_folder = os.path.join(root, ".cache", "huggingface")
        self._folders = Folders()
        self._prepared = False  # set without a lock: two threads that prepare it at once do no harm

    def prepare(self) -> None:
        """Make the metadata folder, mark it as a cache and hide it from git; only the first call does."""
        if self._prepared:
            return
        self._folders.make(self.metadata_root)
        tag_folder(self._metadata_folder)
        with contextlib.suppress(OSError), open(os.path.join(self._metadata_folder, ".gitignore"), "x") as f:
            f.write("*")
        self._prepared = True

    def file(self, name: str) -> str:
        """Return the path of the file itself.

        Raises:
            UnsafePathError: ``name`` leads out of the folder, or into its metadata folder.
        """
        require_safe_path(name)
        require_outside_metadata(name)
        return extended_path(os.path.join(self.root, *name.split("/")), FOLDER_LIMIT)

    def metadata_path(self, name: str) -> str:
        """Return the path of the file that holds the metadata of ``name``."""
        require_safe_path(name)
        require_outside_metadata(name)
        path = os.path.join(self.metadata_root, *name.split("/"))
        return extended_path(f"{path}.metadata", FOLDER_LIMIT)

    @property
    def metadata_root(self) -> str:
        """The folder that holds the files with metadata, and what is staged."""
        return os.path.join(self._metadata_folder, "download")

    def noted(self, name: str) -> LocalMetadata | None:
        """Return what was noted when a file was downloaded, whatever became of the file; changes nothing.

        Returns:
            ``None`` where there is no metadata, or it cannot be read.
        """
        try:
            return _parse(self.metadata_path(name))
        except (OSError, ValueError) as error:
            logger.debug("%s: no metadata: %s", name, error)
            return None

    def all_noted(self) -> dict[str, LocalMetadata]:
        """Return what was noted of each file, by its name; changes nothing."""
        found = {}
        for folder, _, names in os.walk(self.metadata_root, onerror=_warn_of):
            below = os.path.relpath(folder, self.metadata_root).replace(os.sep, "/")
            for name in names:
                path = (name if below == "." else f"{below}/{name}").removesuffix(_METADATA)
                if name.endswith(_METADATA) and _is_safe(path):
                    noted = self.noted(path)
                    if noted is not None:
                        found[path] = noted
        return found

    def read_metadata(self, name: str) -> LocalMetadata | None:
        """Return the metadata of a file, if it still describes the file.

        Returns:
            ``None`` where there is no metadata, it is damaged (it is then removed), or the file is gone or
            was changed more than a second after the metadata was written.
        """
        path = self.metadata_path(name)
        try:
            metadata = _parse(path)
        except (FileNotFoundError, TooManyOpenFilesError):
            return None
        except (OSError, ValueError) as error:
            logger.warning("Invalid metadata file %s: %s. Removing it from disk and continue.", path, error)
            discard(path)
            return None
        try:
            changed = os.stat(self.file(name)).st_mtime
        except OSError:
            return None
        return metadata if changed - 1 <= metadata.timestamp else None

    def write_metadata(self, name: str, commit: str, etag: str) -> None:
        """Write the metadata of ``name``: commit, etag, and the time now; a failure is only a warning."""
        path = self.metadata_path(name)
        try:
            self.prepare()
            text = f"{commit}\n{etag}\n{time.time()}\n" + (f"{self._repo}\n" if self._repo else "")
            self._in_folder(path, lambda: write_atomically(path, text, os.path.dirname(path)))
        except OSError as error:
            logger.warning(
                "%s is in place, but its metadata could not be written, so it may be fetched again: %s",
                name,
                error,
            )

    def publish(self, staged: str, name: str) -> None:
        """Move a verified file into place.

        Raises:
            OSError: It could not be moved.
        """
        path = self.file(name)
        self._folders.apply_mode(staged, os.path.dirname(staged))
        self._in_folder(path, lambda: replace_file(staged, path))

    def copy_in(self, source: str, name: str) -> None:
        """Copy another file into place, by rename.

        Raises:
            OSError: It could not be copied.
        """
        self.prepare()
        temporary = passing_name(self.metadata_root)
        try:
            copy_to_new(source, temporary)
            self.publish(temporary, name)
        finally:
            discard(temporary)

    def _in_folder(self, path: str, action: Callable[[], None]) -> None:
        folder = os.path.dirname(path)
        self._folders.make(folder)
        try:
            action()
        except FileNotFoundError:
            # Made in this session and removed by somebody since.
            self._folders.forget(folder)
            self._folders.make(folder)
            action()


def _warn_of(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        logger.warning("Could not look into %s: %s", error.filename, error.strerror)


def _is_safe(name: str) -> bool:
    try:
        require_safe_path(name)
        require_outside_metadata(name)
    except UnsafePathError:
        return False
    return True


def _parse(path: str) -> LocalMetadata:
    with open(open_regular(path, os.O_RDONLY), encoding="utf-8") as file:
        commit, etag, timestamp, repo = (file.readline().strip() for _ in range(4))
    return LocalMetadata(commit, etag, float(timestamp), repo)
