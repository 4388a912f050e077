"""huggingface_hub's cache on disk, asked before the Hub: commits, files and where what is read is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from huggingface_hub import constants
from huggingface_hub.hf_api import BlobLfsInfo
from huggingface_hub.hf_file_system import HfFileSystemResolvedRepositoryPath

from hf_haul.errors import UnsafePathError
from hf_haul.filesystem.freshness import drop_oldest
from hf_haul.filesystem.listings import PinnedFileSystem
from hf_haul.filesystem.pinned import Pin, pin_of
from hf_haul.filesystem.target import Target
from hf_haul.hub.asking import is_offline
from hf_haul.hub.metadata import ListedFile, digest_from_etag, is_commit
from hf_haul.hub.repository import Repository
from hf_haul.hub.upstream_cache import cache_folder, read_tree_entry, tree_folder
from hf_haul.storage.destinations import BlobDestination
from hf_haul.storage.hub_cache import RepoFolder

__all__ = ["KeptFileSystem", "checked_cache"]

#: Repositories whose folders are remembered.
_FOLDERS: Final = 64


def checked_cache(cache: str | None) -> str | None:
    """Return ``memory``, ``hub``, or ``None`` where the setting decides.

    Raises:
        ValueError: It is none of them.
    """
    if cache not in {None, "memory", "hub"}:
        raise ValueError(f'cache must be "memory" or "hub", not {cache!r}')
    return cache


class KeptFileSystem(PinnedFileSystem):
    """Answers from the Hub's cache on disk what it can, where that is wanted.

    Nothing of it is asked or written where ``cache`` is ``memory``.
    """

    def __init__(self, *args: Any, cache: str | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cache_kind = checked_cache(cache)
        self._cache_folders: dict[tuple[str, str, str], RepoFolder] = {}

    if TYPE_CHECKING:  # the subclass has it; fsspec's metaclass allows no abstract methods

        @property
        def keeps_on_disk(self) -> bool:
            """Whether the Hub's cache on disk is used."""

    def _folder_of(self, repo_type: str, repo_id: str) -> RepoFolder:
        cache_dir = os.path.abspath(os.path.expanduser(constants.HF_HUB_CACHE))
        key = (repo_type, repo_id, cache_dir)
        folder = self._cache_folders.get(key)
        if folder is None:
            drop_oldest(self._cache_folders, _FOLDERS)
            folder = self._cache_folders[key] = cache_folder(Repository(repo_id, repo_type), cache_dir)
        return folder

    # ---- commits

    def _repo_and_revision_exist(
        self, repo_type: str, repo_id: str, revision: str | None
    ) -> tuple[bool, Exception | None]:
        if self.keeps_on_disk and self._is_kept(pin_of(repo_type, repo_id, revision)):
            return True, None
        return super()._repo_and_revision_exist(repo_type, repo_id, revision)

    def _is_kept(self, pin: Pin) -> bool:
        """Return whether the cache has something of a commit, or offline, of what a branch was last at."""
        repo_type, repo_id, revision = pin
        if not is_commit(revision) and not is_offline():
            return False
        with suppress(UnsafePathError, ValueError):
            folder = self._folder_of(repo_type, repo_id)
            commit = revision if is_commit(revision) else folder.read_ref(revision)
            if commit and (os.path.isdir(folder.snapshot(commit)) or self._has_listing(folder, commit)):
                if commit != revision:
                    self._api.commits.setdefault(pin, commit)
                return True
        return False

    @staticmethod
    def _has_listing(folder: RepoFolder, commit: str) -> bool:
        return os.path.isfile(os.path.join(folder.root, "trees", f"{commit}.json"))

    def _look_again(self, root: str, pin: Pin) -> bool:
        if self.keeps_on_disk and is_offline() and self._is_kept(pin):
            return True
        return super()._look_again(root, pin)

    # ---- files

    def info(
        self, path: str, refresh: bool = False, revision: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return what is known of a file or folder; see :class:`huggingface_hub.HfFileSystem`.

        Of a file that the cache on disk knows, with ``cache="hub"``, without a request.
        """
        expand = kwargs.get("expand_info", self.expand_info)
        found = None if refresh or expand or not self.keeps_on_disk else self._kept_info(path, revision)
        return super().info(path, refresh=refresh, revision=revision, **kwargs) if found is None else found

    def _kept_info(self, path: str, revision: str | None) -> dict[str, Any] | None:
        resolved = self.resolve_path(path, revision=revision)
        if not isinstance(resolved, HfFileSystemResolvedRepositoryPath) or not resolved.path_in_repo:
            return None
        name = resolved.unresolve()
        commit = self._commit_at(resolved)
        if commit is None or self._parent(name) in self.dircache:
            return None
        with suppress(UnsafePathError, ValueError):
            folder = self._folder_of(resolved.repo_type, resolved.repo_id)
            entry = read_tree_entry(tree_folder(folder.root, None), commit, resolved.path_in_repo)
            if entry is None and (is_commit(resolved.revision) or is_offline()):
                # The size of what is linked is believed where nobody is to be asked.
                entry = _linked_file(folder.pointer(commit, resolved.path_in_repo))
            return None if entry is None else _info_of(name, entry)
        return None

    def kept_at(self, target: Target) -> tuple[BlobDestination, Callable[[], None]] | None:
        """Return where a file is kept on disk, and what to do once all of it is; ``None`` if nowhere."""
        remote = target.remote
        if not (self.keeps_on_disk and remote.digest and remote.etag and remote.size):
            return None
        resolved = self.resolve_path(target.name)
        assert isinstance(resolved, HfFileSystemResolvedRepositoryPath)
        folder = self._folder_of(resolved.repo_type, resolved.repo_id)

        def note_commit() -> None:
            # Never over another one: what is offline may have all of that, and has some of this only.
            if not is_commit(resolved.revision) and folder.read_ref(resolved.revision) is None:
                folder.write_ref(resolved.revision, target.commit)

        with suppress(UnsafePathError, ValueError):
            destination = BlobDestination(
                folder, target.commit, target.path, remote.etag, remote.size, remote.xet_hash
            )
            return destination, note_commit
        return None


def _linked_file(pointer: str) -> ListedFile | None:
    """Return what the name of a blob tells, to which a snapshot's link leads."""
    try:
        size = os.stat(pointer).st_size
        etag = os.path.basename(os.readlink(pointer))
    except OSError:
        return None
    digest = digest_from_etag(etag)
    if digest is None:
        return None
    if digest.algorithm == "sha256":
        return ListedFile(size, "", etag, size)
    return ListedFile(size, etag)


def _info_of(name: str, entry: ListedFile) -> dict[str, Any]:
    """Return a file in the form in which huggingface_hub's filesystem has it."""
    lfs = None
    if entry.lfs_sha256 is not None:
        lfs = BlobLfsInfo(size=entry.bytes, sha256=entry.lfs_sha256, pointer_size=entry.size)
    return {
        "name": name, "size": entry.bytes, "type": "file", "blob_id": entry.blob_id or None, "lfs": lfs,
        "xet_hash": entry.xet_hash, "last_commit": None, "security": None,
    }  # fmt: skip
