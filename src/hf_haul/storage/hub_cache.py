"""One repository's folder in a Hub cache: ``models--org--name/{blobs,snapshots,refs,.no_exist}``.

The layout is huggingface_hub's own, so that it finds what we publish and we find what it published.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

from hf_haul.descriptors import descriptors
from hf_haul.storage.file_names import passing_name
from hf_haul.storage.placing import Folders, copy_to_new, discard, replace_file, tag_folder, write_atomically
from hf_haul.storage.regular_files import open_regular
from hf_haul.storage.safe_paths import (
    FOLDER_LIMIT,
    extended_path,
    is_content_addressed,
    require_safe_commit,
    require_safe_name,
    require_safe_path,
)

__all__ = ["RepoFolder"]

logger = logging.getLogger(__name__)


#: Makes ``blobs/<etag>`` point into a store shared by all repositories: (blob path, xet hash, size) -> done.
ShareBlob = Callable[[str, str, "int | None"], bool]


class RepoFolder:
    """One repository's folder in a Hub cache.

    Args:
        cache_dir: The cache: the folder that holds one folder per repository.
        name: The repository's folder in it, such as ``models--org--name``.
        symlinks: Whether the cache's file system has symlinks; without, files go straight into snapshots.
        share: Links a blob from a store that several repositories share, where there is one.
    """

    def __init__(
        self,
        cache_dir: str,
        name: str,
        *,
        symlinks: Callable[[], bool] = lambda: True,
        share: ShareBlob | None = None,
    ) -> None:
        self.cache_dir = cache_dir
        self.root = os.path.join(cache_dir, name)
        self.blobs = os.path.join(self.root, "blobs")
        self.staging_dir = Path(self.blobs)
        self.share = share
        self._symlinks = symlinks
        self._symlinks_known: bool | None = None
        self._snapshots: dict[str, str] = {}
        self._folders = Folders()

    @property
    def symlinks(self) -> bool:
        """Whether symlinks work here; tested once, because the test writes to the disk."""
        if self._symlinks_known is None:
            self._symlinks_known = self._symlinks()
        return self._symlinks_known

    def prepare(self) -> None:
        """Make the folders that any download needs, and mark the cache as one.

        Raises:
            OSError: The cache cannot be written.
        """
        self._folders.make(self.blobs)
        tag_folder(self.cache_dir)

    def snapshot(self, commit: str) -> str:
        """Return the folder of one commit's files."""
        found = self._snapshots.get(commit)
        if found is None:
            found = os.path.join(self.root, "snapshots", *require_safe_commit(commit).split("/"))
            self._snapshots[commit] = found
        return found

    def pointer(self, commit: str, path: str) -> str:
        """Return the path at which a user finds the file: a link to its blob.

        Raises:
            UnsafePathError: ``path`` would leave the snapshot.
        """
        require_safe_path(path)
        return os.path.join(self.snapshot(commit), *path.split("/"))

    def blob(self, etag: str) -> str:
        """Return the path of the file that holds the bytes."""
        return os.path.join(self.blobs, require_safe_name(etag, what="etag"))

    def read_ref(self, revision: str) -> str | None:
        """Return the commit that a branch or tag was last seen at, or ``None``."""
        try:
            with descriptors.retry_on_shortage(lambda: open(self._ref(revision), encoding="utf-8")) as file:
                return file.read()
        except OSError:
            return None

    def write_ref(self, revision: str, commit: str) -> None:
        """Write the commit of a branch or tag, unless it is there already; readers never see half of it.

        A branch that a mirror calls by its own name is noted too: offline, nothing else leads to its files.

        Raises:
            OSError: It cannot be written.
        """
        if (revision == commit and is_content_addressed(commit)) or self.read_ref(revision) == commit:
            return
        path = self._ref(revision)
        os.makedirs(extended_path(os.path.dirname(path), FOLDER_LIMIT), exist_ok=True)
        write_atomically(path, commit, self.blobs if os.path.isdir(self.blobs) else os.path.dirname(path))

    def _ref(self, revision: str) -> str:
        require_safe_path(revision)
        return os.path.join(self.root, "refs", *revision.split("/"))

    def note_absent(self, commit: str, path: str) -> None:
        """Note that the repository has no such file at this commit; a failure to do so is only logged.

        Nothing is noted of a commit that may have the file tomorrow.
        """
        require_safe_path(path)
        marker = os.path.join(self.root, ".no_exist", require_safe_commit(commit), *path.split("/"))
        if not is_content_addressed(commit):
            return
        try:
            os.makedirs(extended_path(os.path.dirname(marker), FOLDER_LIMIT), exist_ok=True)
            os.close(open_regular(marker, os.O_WRONLY | os.O_CREAT))
        except OSError as error:
            logger.warning("Could not note that '%s' does not exist: %s", path, error)

    def publish(
        self, staged: str, blob: str, pointer: str, *, over: Callable[[], bool] = lambda: False
    ) -> None:
        """Move a verified file to its blob and link it.

        Args:
            staged: The file.
            blob: Where it goes.
            pointer: Where users look for it.
            over: Asked whether a pointer that is there already is replaced.

        Raises:
            OSError: It could not be moved.
        """
        self._folders.make(self.blobs)
        self._folders.apply_mode(staged, os.path.dirname(staged))
        if self.symlinks:
            replace_file(staged, extended_path(blob))
            if not self._link_anew(blob, pointer):
                self.link(blob, pointer, over=over())
        else:
            self._folders.make(os.path.dirname(pointer))
            replace_file(staged, extended_path(pointer))

    def _link_anew(self, blob: str, pointer: str) -> bool:
        """Make a pointer where nothing is; return whether that was possible."""
        folder = os.path.dirname(pointer)
        self._folders.make(folder)
        try:
            os.symlink(_relative(blob, folder), pointer)
        except OSError:
            return False
        return True

    def link(self, blob: str, pointer: str, *, over: bool = False) -> None:
        """Make ``pointer`` lead to an existing ``blob``; copy where symlinks do not work.

        Args:
            blob: The bytes.
            pointer: Where users look for them.
            over: Whether a pointer that is there already is replaced; it is left alone otherwise.

        Raises:
            FileExistsError: Something else took the pointer's place meanwhile.
        """
        exists = os.path.exists(pointer)
        if exists and not over:
            return
        folder = os.path.dirname(pointer)
        self._folders.make(folder)
        if self.symlinks:
            try:
                if exists:
                    self._relink(blob, pointer, folder)
                    return
                _symlink(blob, pointer, folder)
                return
            except FileNotFoundError:
                # Somebody removed the folder since we made it.
                self._folders.forget(folder)
                self._folders.make(folder)
                _symlink(blob, pointer, folder)
                return
            except PermissionError:
                logger.debug("No permission for symlinks in %s: copying", folder)
        temporary = passing_name(self.blobs)
        try:
            copy_to_new(blob, temporary)
            replace_file(temporary, extended_path(pointer))
        finally:
            discard(temporary)

    def _relink(self, blob: str, pointer: str, folder: str) -> None:
        """Replace a pointer by rename: who reads it meanwhile gets the old bytes or the new ones."""
        temporary = passing_name(self.blobs)
        try:
            os.symlink(_relative(blob, folder), temporary)
            replace_file(temporary, extended_path(pointer))
        finally:
            discard(temporary)


@functools.lru_cache(maxsize=1024)
def _way(start: str, folder: str) -> str:
    """Return the relative path from one folder to another; many files go the same way."""
    return os.path.relpath(folder, start)


def _relative(blob: str, folder: str) -> str:
    """Return what a link in a folder has to say to lead to a blob."""
    blobs, name = os.path.split(blob)
    return os.path.join(_way(folder, blobs), name)


def _symlink(blob: str, pointer: str, folder: str) -> None:
    target = _relative(blob, folder)
    try:
        os.symlink(target, pointer)
    except FileExistsError:
        if not os.path.islink(pointer):
            raise
        if os.path.realpath(pointer) != os.path.realpath(blob):
            # A link to nowhere, or to a blob of another store: only the caller's blob is known to be right.
            os.unlink(pointer)
            os.symlink(target, pointer)
