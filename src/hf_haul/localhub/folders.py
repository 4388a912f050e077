"""Which files of a folder belong to a repository."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hf_haul.localhub.confinement import Confinement, open_regular
from hf_haul.localhub.objects import DigestCache, FileContent
from hf_haul.localhub.trees import FileEntry, default_lfs_rule

__all__ = ["SHA1", "SHA256", "file_entry", "files_below", "is_hub_home", "scan_folder", "warn_of_link"]

logger = logging.getLogger(__name__)

SHA1: Final = re.compile(r"[0-9a-f]{40}")
SHA256: Final = re.compile(r"[0-9a-f]{64}")


_MOST_METADATA: Final = 4096  # bytes of a note beside a file
#: Files in huggingface_hub's home, beside its cache: the user's own tokens.
_TOKENS: Final = frozenset({"token", "stored_tokens"})


def scan_folder(
    root: Path, digests: DigestCache | None = None, confinement: Confinement | None = None
) -> Iterator[FileEntry]:
    """Return every file below ``root`` that belongs to a repository.

    Left out are unfinished downloads, links that lead elsewhere, and names that begin with a dot, but for
    those that git uses. Where a download into this folder left a note of a file's etag, it is taken instead
    of hashing.

    Args:
        root: The folder.
        digests: Where computed digests are kept.
        confinement: Where the files must lie, and which names are shown; below ``root`` by default.
    """
    root = root.resolve()
    confinement = confinement or Confinement([root])
    for path in files_below(root, confinement):
        name = path.relative_to(root).as_posix()
        yield file_entry(path, name, _etag_in_metadata(root, name, path), digests, confinement)


def files_below(root: Path, confinement: Confinement) -> Iterator[Path]:
    """Yield the files below ``root`` that may be served, by folder and name."""
    for folder, dirs, names in os.walk(root):
        dirs[:] = sorted(name for name in dirs if confinement.enters(Path(folder, name)))
        kept_back = _TOKENS if is_hub_home(Path(folder)) else frozenset()
        for name in sorted(set(names) - kept_back):
            path = Path(folder, name)
            # A dangling link or a socket is nothing that can be served.
            if not path.is_file() or not confinement.shows(path):
                continue
            if not path.is_symlink() or confinement.holds(path):
                yield path
            else:
                warn_of_link(path)


def is_hub_home(folder: Path) -> bool:
    """Return whether a folder is huggingface_hub's home (``HF_HOME``), where the user's tokens are."""
    if (folder / "stored_tokens").is_file():
        return True
    return (folder / "token").is_file() and (folder.name == "huggingface" or (folder / "hub").is_dir())


@functools.lru_cache(maxsize=1000)
def warn_of_link(path: Path) -> None:
    """Warn of a link once, not at each scan of the folder."""
    logger.warning("%s is not served: it is a link that leads out of what is served", path)


def _etag_in_metadata(root: Path, name: str, path: Path) -> str:
    metadata = root / ".cache" / "huggingface" / "download"
    try:
        # A repository that was cloned here could bring links to anything in place of metadata.
        with open_regular(metadata / f"{name}.metadata", Confinement([metadata], every_name=True)) as file:
            _commit, etag, when = file.read(_MOST_METADATA).decode("utf-8").split()
        # A file changed since is not what the metadata says; a second is for coarse file systems.
        return etag if path.stat().st_mtime - 1 <= float(when) else ""
    except (OSError, ValueError):
        return ""


def file_entry(
    path: Path, name: str, etag: str, digests: DigestCache | None, confinement: Confinement
) -> FileEntry:
    """Describe the file at ``path``; its digest is the etag, where that has the form of one."""
    sha256 = etag if SHA256.fullmatch(etag) else None
    sha1 = etag if SHA1.fullmatch(etag) else None
    content = FileContent(path, sha256=sha256, git_sha1=sha1, digests=digests, confinement=confinement)
    is_lfs = sha256 is not None or (sha1 is None and default_lfs_rule(name, content.size))
    return FileEntry(name, content, is_lfs)
