"""Files that a ``local_dir`` has already: which are current, and which can be made so without a download."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Final

from hf_haul.cancellation import CancelToken
from hf_haul.digests import file_digest
from hf_haul.hub.metadata import FileMetadata, digest_from_etag
from hf_haul.storage.destinations import BlobDestination
from hf_haul.storage.hub_cache import RepoFolder
from hf_haul.storage.local_folder import LocalFolder
from hf_haul.storage.safe_paths import is_content_addressed
from hf_haul.threads import in_threads
from hf_haul.waits import Wait, WaitReason

__all__ = ["LONG_CHECK", "checking", "is_current", "reuse_file", "reuse_files"]

logger = logging.getLogger(__name__)

#: Seconds after which a look at what is there is worth a word.
LONG_CHECK: Final = 5.0
#: Threads that hash and copy.
_THREADS: Final = 8


def checking(folder: str) -> Wait:
    """Return the wait that is shown while files in a ``local_dir`` are checked."""
    return Wait(WaitReason.DISK, f"checking the files that are in {folder} already")


def is_current(local: LocalFolder, path: str, meta: FileMetadata, cancel_token: CancelToken) -> bool:
    """Return whether the file in a ``local_dir`` is the repository's.

    Hashes it if there is no metadata of it.
    """
    file = local.file(path)
    if not os.path.isfile(file):
        return False
    noted = local.read_metadata(path)
    if noted is not None and (noted.etag == meta.etag or noted.commit != meta.commit):
        return noted.etag == meta.etag
    # No metadata, or another etag for the same commit, as mirrors have.
    digest = digest_from_etag(meta.etag)
    if digest is None or digest.algorithm != "sha256":
        return False
    if meta.size is not None and os.path.getsize(file) != meta.size:
        return False
    return file_digest(file, digest.algorithm, cancel_token.check) == digest


def reuse_file(
    local: LocalFolder, folder: RepoFolder, path: str, meta: FileMetadata, cancel_token: CancelToken
) -> bool:
    """Make a file of a ``local_dir`` current without a download, if possible.

    Returns:
        Whether it is current now.
    """
    try:
        noted = local.read_metadata(path)
        same = noted is not None and (noted.commit, noted.etag) == (meta.commit, meta.etag)
        if same and is_content_addressed(meta.commit):
            return True
        if not is_current(local, path, meta, cancel_token):
            cached = BlobDestination(folder, meta.commit, path, meta.etag, meta.size, meta.xet_hash)
            if not cached.is_linked():
                return False
            local.copy_in(os.fspath(cached.path), path)
        local.write_metadata(path, meta.commit, meta.etag)
        return True
    except OSError as error:
        logger.warning("Could not reuse %s in %s: %s", path, local.root, error)
        return False


def reuse_files(local: LocalFolder, folder: RepoFolder, known: Mapping[str, FileMetadata]) -> set[str]:
    """Return the files that need no download. Hashes and copies in a few threads."""
    cancel_token = CancelToken()

    def reuse_one(path: str) -> bool:
        return reuse_file(local, folder, path, known[path], cancel_token)

    reused = in_threads("hf-haul-local", _THREADS, reuse_one, known, cancel_token.set)
    return {path for path, done in reused.items() if done}
