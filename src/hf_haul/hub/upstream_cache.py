"""huggingface_hub's cache besides files: listings of commits, and blobs that repositories share."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Final

from huggingface_hub import constants, file_download

from hf_haul.config import MiB
from hf_haul.hub.file_listing import FileListing, kept_file, require_credible
from hf_haul.hub.long_listings import FORMAT, read_long, write_long
from hf_haul.hub.metadata import FileMetadata, ListedFile
from hf_haul.hub.repository import Repository
from hf_haul.storage.hub_cache import RepoFolder, ShareBlob

__all__ = [
    "cache_folder",
    "drop_tree",
    "is_in_shared_store",
    "missing_in_tree",
    "read_tree",
    "read_tree_entry",
    "tree_folder",
    "write_tree",
]

logger = logging.getLogger(__name__)

#: Listings that huggingface_hub keeps in memory; it has all of them on disk.
_TREES_IN_MEMORY: Final = 8
#: Files of a listing, and bytes of its file, beyond which it is read and written here, and not kept there.
_FILES_IN_MEMORY: Final = 10_000
_BYTES_IN_MEMORY: Final = 2 * MiB


def cache_folder(repository: Repository, cache_dir: str) -> RepoFolder:
    """Return the repository's folder in a Hub cache, by huggingface_hub's rules for symlinks."""
    root = os.path.join(cache_dir, repository.folder_name)
    return RepoFolder(
        cache_dir,
        repository.folder_name,
        symlinks=lambda: bool(file_download.are_symlinks_supported(root)),
        share=_shared_store(cache_dir),
    )


def _shared_store(cache_dir: str) -> ShareBlob | None:
    """Return a reader of the blob store that repositories share (huggingface_hub 2.x).

    We never write to it.
    """
    try:
        store = importlib.import_module("huggingface_hub.utils._shared_blobs")
        enabled = store.shared_blobs_enabled()
        link = store.try_link_from_shared_store
    except (ImportError, AttributeError):
        return None
    if not enabled or not os.path.isdir(os.path.join(cache_dir, "blobs")):
        return None

    def share(blob: str, xet_hash: str, size: int | None) -> bool:
        return bool(
            file_download.are_symlinks_supported(cache_dir)
            and link(blob_path=blob, xet_hash=xet_hash, cache_dir=cache_dir, expected_size=size)
        )

    return share


def is_in_shared_store(cache_dir: str, metadata: FileMetadata) -> bool:
    """Return whether the blob store that repositories share has a file. Does not change the cache."""
    try:
        store = importlib.import_module("huggingface_hub.utils._shared_blobs")
        known = store.has_shared_blob
    except (ImportError, AttributeError):
        return False
    return (
        metadata.xet_hash is not None
        and not constants.HF_HUB_DISABLE_SYMLINKS
        and bool(known(xet_hash=metadata.xet_hash, cache_dir=cache_dir, expected_size=metadata.size))
    )


def _tree_cache() -> Any:
    try:
        return importlib.import_module("huggingface_hub._tree_cache")
    except ImportError:
        return None


def tree_folder(repo_folder: str, local_dir: str | None) -> str:
    """Return the folder in which huggingface_hub caches the listings of a repository's commits."""
    return repo_folder if local_dir is None else os.path.join(local_dir, ".cache", "huggingface")


def read_tree(folder: str, commit: str) -> Mapping[str, ListedFile] | None:
    """Return the cached listing of a commit; ``None`` if there is none.

    Args:
        folder: See :func:`tree_folder`.
        commit: The commit.
    """
    path = _tree_path(folder, commit)
    if _tree_cache() is not None and _is_long(path):
        return read_long(path)
    entries = _cached_entries(folder, commit)
    if entries is None:
        return None
    try:
        require_credible(entries)
        return {path: _to_listed_file(entry) for path, entry in entries.items()}
    except ValueError as error:
        logger.warning("Ignoring the cached listing %s, which is no Hub's: it has %s", path, error)
        return None


def read_tree_entry(folder: str, commit: str, path: str) -> ListedFile | None:
    """Return one file of a cached listing; ``None`` if there is no listing, or it lacks the file.

    Args:
        folder: See :func:`tree_folder`.
        commit: The commit.
        path: The file.
    """
    entry = (_cached_entries(folder, commit) or {}).get(path)
    try:
        return None if entry is None else _to_listed_file(entry)
    except ValueError as error:
        logger.warning("Ignoring what %s says of %s: %s", _tree_path(folder, commit), path, error)
        return None


def _is_long(path: str) -> bool:
    try:
        return os.path.getsize(path) > _BYTES_IN_MEMORY
    except OSError:
        return False


def _cached_entries(folder: str, commit: str) -> Mapping[str, Any] | None:
    cache = _tree_cache()
    if cache is None or not os.path.isfile(_tree_path(folder, commit)):
        return None  # whatever huggingface_hub still has in memory: somebody dropped it
    try:
        entries: Mapping[str, Any] | None = cache.read_tree_cache(folder, commit)
    except (TypeError, ValueError, AttributeError) as error:  # it takes the types on trust
        logger.warning("Ignoring the cached listing %s: %s", _tree_path(folder, commit), error)
        return None
    _evict_old_trees(cache)
    return entries


def _evict_old_trees(cache: Any) -> None:
    """Keep only the latest listings in huggingface_hub's memory, which would keep all of them for ever."""
    memory, lock = (
        getattr(cache, "_IN_MEMORY_TREE_CACHE", None),
        getattr(cache, "_IN_MEMORY_TREE_CACHE_LOCK", None),
    )
    if isinstance(memory, dict) and lock is not None:
        with lock:
            for oldest in list(memory)[:-_TREES_IN_MEMORY]:
                del memory[oldest]


def _to_listed_file(entry: Any) -> ListedFile:
    return kept_file(entry.size, entry.blob_id, entry.lfs_sha256, entry.lfs_size, entry.xet_hash)


def missing_in_tree(
    folder: str, commit: str, names: Collection[str], listing: Mapping[str, ListedFile] | None = None
) -> str | None:
    """Return one of ``names`` that the cached listing of a commit lacks.

    The result is ``None`` if it lacks none, or there is no listing.

    Args:
        folder: See :func:`tree_folder`.
        commit: The commit.
        names: Files that the Hub has just named as files of the commit.
        listing: What :func:`read_tree` has just returned, if the caller has it: a long one is not read twice.
    """
    if isinstance(listing, FileListing):
        return next((name for name in names if name not in listing), None)
    path = _tree_path(folder, commit)
    try:
        about = os.stat(path)
        kept = _cached_names(path, about.st_mtime_ns, about.st_size)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None  # nobody uses one that cannot be read
    return next((name for name in names if name not in kept), None)


def drop_tree(folder: str, commit: str, lacking: str) -> None:
    """Delete the cached listing of a commit: it is not the Hub's, or incomplete, and would hide files.

    Args:
        folder: See :func:`tree_folder`.
        commit: The commit.
        lacking: A file that it lacks.
    """
    path = _tree_path(folder, commit)
    logger.warning("Deleted the cached listing %s: it lacks %s", path, lacking)
    with contextlib.suppress(OSError):
        os.unlink(path)
    _forget_tree(_tree_cache(), folder, commit)


def _forget_tree(cache: Any, folder: str, commit: str) -> None:
    """Drop a listing from huggingface_hub's memory; what is on disk stays."""
    memory = getattr(cache, "_IN_MEMORY_TREE_CACHE", None)
    if isinstance(memory, dict):
        memory.pop(_tree_path(folder, commit), None)


@lru_cache(maxsize=4)
def _cached_names(path: str, mtime_ns: int, size: int) -> frozenset[str]:  # noqa: ARG001  they tell a new one from the old
    """Return the names of the files in a cached listing."""
    with open(path, encoding="utf-8") as file:
        return frozenset(json.load(file)["files"])


def _tree_path(folder: str, commit: str) -> str:
    """Return the path at which huggingface_hub caches the listing of a commit."""
    name = os.path.join(folder, "trees", f"{commit}.json")
    path_of = getattr(_tree_cache(), "_tree_cache_path", None)  # it lengthens long paths on Windows
    return name if path_of is None else str(path_of(folder, commit))


def write_tree(folder: str, commit: str, listing: Mapping[str, ListedFile]) -> None:
    """Cache the listing of a commit as huggingface_hub does, so that both find it offline.

    Skips redacted listings, and ignores failures: huggingface_hub's rules.
    """
    cache = _tree_cache()
    if cache is None:
        return
    if len(listing) > _FILES_IN_MEMORY and cache.TREE_CACHE_FORMAT_VERSION == FORMAT:
        _forget_tree(cache, folder, commit)
        write_long(_tree_path(folder, commit), FileListing.of(listing))
    else:
        cache.write_tree_cache(
            folder,
            commit,
            {
                path: cache.TreeCacheEntry(
                    size=e.size,
                    blob_id=e.blob_id,
                    lfs_sha256=e.lfs_sha256,
                    lfs_size=e.lfs_size,
                    xet_hash=e.xet_hash,
                )
                for path, e in listing.items()
            },
        )
        _evict_old_trees(cache)
