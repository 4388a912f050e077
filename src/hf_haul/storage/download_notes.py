"""Where a file came from and in which version, noted with the file, so that it is not fetched twice.

The note is an extended attribute: it goes where the file goes, and ends with it. Where a file system has
none, and on macOS and Windows, where Python does not reach them, it is a small hidden file beside it. Either
counts only as long as the file has the size and the time that it had when the note was made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

from hf_haul.descriptors import descriptors
from hf_haul.storage.file_names import name_length, name_limit
from hf_haul.storage.placing import discard, write_atomically
from hf_haul.urls import without_signature

__all__ = ["DownloadNote", "read_download_note", "write_download_note"]

logger = logging.getLogger(__name__)

#: A contract with other versions, as the names of staged files are.
_ATTRIBUTE: Final = "user.hf_haul.origin"
_SUFFIX: Final = ".origin.json"
#: Bytes of a note at the most; what is longer is none of ours.
_MOST: Final = 4096


@dataclass(frozen=True, slots=True)
class DownloadNote:
    """Where a file came from.

    Attributes:
        url: A digest of its URL, which may hold a secret.
        etag: The server's name for this version.
        modified: When it was changed there, in Unix seconds.
    """

    url: str
    etag: str | None = None
    modified: int | None = None

    @classmethod
    def of(cls, url: str, etag: str | None, modified: int | None) -> DownloadNote:
        """Return the origin of a file with this URL; links to it that are signed anew have the same."""
        digest = hashlib.sha256(without_signature(url).encode("utf-8", "surrogatepass")).hexdigest()
        return cls(digest[:32], etag, modified)

    def is_still(self, now: DownloadNote) -> bool:
        """Return whether the server still has this version, as far as it tells."""
        if self.url != now.url:
            return False
        if self.etag is not None and now.etag is not None:
            return self.etag == now.etag
        return self.modified is not None and self.modified == now.modified


def write_download_note(path: str | os.PathLike[str], origin: DownloadNote) -> None:
    """Give a file the time that it has at its source, and note with it where it came from.

    What cannot be noted is not: then the file is fetched again the next time.

    Args:
        path: The file, just published.
        origin: Its origin.
    """
    name = os.fspath(path)
    try:
        if origin.modified is not None:
            os.utime(name, (os.stat(name).st_atime, origin.modified))
        status = os.stat(name)
    except (OSError, OverflowError) as error:
        logger.debug("%s: its modification time was not set: %s", name, error)
        return
    note = json.dumps({"v": 1, **asdict(origin), "size": status.st_size, "mtime_ns": status.st_mtime_ns})
    beside = _beside(name)
    if len(note) > _MOST:
        return
    if _set_attribute(name, note):
        if os.path.lexists(beside):
            discard(beside)
        return
    folder, own = os.path.split(beside)
    if name_length(own) <= name_limit(folder or os.curdir):
        with contextlib.suppress(OSError):
            write_atomically(beside, note, folder or os.curdir)


def read_download_note(path: str | os.PathLike[str]) -> DownloadNote | None:
    """Return where a file came from; ``None`` if nobody noted it, or it was changed since."""
    name = os.fspath(path)
    try:
        status = os.stat(name)
        text = _attribute(name) or _text_of(_beside(name))
        note: Any = json.loads(text) if text else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(note, dict) or note.get("v") != 1:
        return None
    if (note.get("size"), note.get("mtime_ns")) != (status.st_size, status.st_mtime_ns):
        return None
    url, etag, modified = note.get("url"), note.get("etag"), note.get("modified")
    return DownloadNote(
        str(url),
        etag if isinstance(etag, str) else None,
        modified if isinstance(modified, int) else None,
    )


def _beside(name: str) -> str:
    folder, own = os.path.split(os.path.realpath(name))
    return os.path.join(folder, f".{own}{_SUFFIX}")


def _set_attribute(name: str, note: str) -> bool:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setxattr(name, _ATTRIBUTE, note.encode())
            return True
    return False


def _attribute(name: str) -> str:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return os.getxattr(name, _ATTRIBUTE).decode()
    return ""


def _text_of(path: str) -> str:
    with descriptors.retry_on_shortage(lambda: open(path, encoding="utf-8")) as file:
        return file.read(_MOST)
