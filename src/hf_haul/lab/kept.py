"""What was fetched for others, and which of it goes when space runs short: what was not used for longest.

Only what was fetched here goes: a file that is also part of a snapshot which somebody else downloaded stays,
and is no longer counted. The record of it is beside the cache, in the user's own folder, as nothing but
repositories belongs into a Hub cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["Kept", "KeptBlob", "record_file"]

logger = logging.getLogger(__name__)

_VERSION: Final = 1
#: Seconds between two writings of the record where files are only given out, and where more are fetched: what
#: a killed process has not noted is the user's own from then on.
_SAVE_USED_EVERY, _SAVE_FETCHED_EVERY = 30.0, 2.0


def record_file(cache_dir: Path) -> Path:
    """Return the file that remembers what was fetched into a cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    name = hashlib.sha256(os.fsencode(cache_dir.resolve())).hexdigest()[:16]
    return Path(base, "hf-haul", f"fetched-{name}.json")


@dataclass
class KeptBlob:
    """One file that was fetched for others.

    Attributes:
        folder: Its repository's folder in the cache.
        blob: The name of its blob.
        size: Bytes.
        used: When it was last given out, in seconds since 1970.
        pointers: Where it is in snapshots: ``<commit>/<path>``.
    """

    folder: str
    blob: str
    size: int
    used: float
    pointers: list[str] = field(default_factory=list)


class Kept:
    """Remembers what was fetched, and makes room.

    Safe for threads: ``_lock`` guards the table, and is not held while files are removed.

    Args:
        cache_dir: The cache.
        most: Bytes that what was fetched may take; ``None`` for any number.
        file: Where it is remembered; ``None`` for `record_file`.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        cache_dir: Path,
        most: int | None = None,
        file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.most = most
        self._cache_dir = cache_dir
        self._file = record_file(cache_dir) if file is None else file
        self._clock = clock
        self._lock = threading.Lock()
        self._blobs = {(each.folder, each.blob): each for each in self._read()}
        self._coming: dict[str, int] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        self._saved = clock()
        self.evicted_files = self.evicted_bytes = 0

    # -- what is known

    @property
    def total(self) -> int:
        """Bytes of all that was fetched and is still here."""
        with self._lock:
            return sum(each.size for each in self._blobs.values())

    def __len__(self) -> int:
        with self._lock:
            return len(self._blobs)

    def add(self, folder: str, blob: str, size: int, pointer: str, *, fetched: bool) -> None:
        """Note a file that is in place.

        Args:
            folder: Its repository's folder.
            blob: The name of its blob.
            size: Its bytes.
            pointer: Where it is in snapshots.
            fetched: Whether its bytes came for it, and were not here before.
        """
        with self._lock:
            self._coming.pop(f"{folder}/{pointer}", None)
            if not fetched and (folder, blob) not in self._blobs:
                return  # somebody else's
            kept = self._blobs.setdefault((folder, blob), KeptBlob(folder, blob, size, 0.0))
            kept.used = self._clock()
            if pointer not in kept.pointers:
                kept.pointers.append(pointer)
        self._save_after(_SAVE_FETCHED_EVERY)

    def note_use(self, folder: str, blob: str) -> None:
        """Note that a file was given out, if it is one that was fetched."""
        now = self._clock()
        with self._lock:
            kept = self._blobs.get((folder, blob))
            if kept is None:
                return
            kept.used = now
        self._save_after(_SAVE_USED_EVERY)

    # -- room

    def make_room(self, folder: str, pointer: str, size: int) -> bool:
        """Remove what was not used for longest, until a file that is about to be fetched fits.

        Args:
            folder: Its repository's folder.
            pointer: Where it will be in a snapshot.
            size: Its bytes.

        Returns:
            Whether it fits.
        """
        if self.most is None:
            return True
        key = f"{folder}/{pointer}"
        if size > self.most:
            return False
        with self._lock:
            self._coming[key] = size
            going = self._choose(self.most - sum(self._coming.values()))
        for each in going:
            self._evict(each)
        if going:
            self.save()
        return True

    def hold(self, folder: str, blob: str, by: int) -> None:
        """Note that somebody waits for all of a file, which stays until then, or waits no more.

        Args:
            folder: Its repository's folder.
            blob: The name of its blob.
            by: 1, or -1.
        """
        with self._lock:
            self._held[folder, blob] += by
            if not self._held[folder, blob]:
                del self._held[folder, blob]

    def give_up(self, folder: str, pointer: str) -> None:
        """Note that a file will not come."""
        with self._lock:
            self._coming.pop(f"{folder}/{pointer}", None)

    def _choose(self, room: int) -> list[KeptBlob]:
        """Take out of the table what has to go so that the rest fits into ``room``."""
        total = sum(each.size for each in self._blobs.values())
        going = []
        for each in sorted(self._blobs.values(), key=lambda kept: kept.used):
            if total <= room:
                break
            if (each.folder, each.blob) in self._held:
                continue
            total -= each.size
            going.append(each)
            del self._blobs[each.folder, each.blob]
        return going

    def _evict(self, kept: KeptBlob) -> None:
        root = self._cache_dir / kept.folder
        blob = root / "blobs" / kept.blob
        ours = {root / "snapshots" / pointer for pointer in kept.pointers}
        links = set(_links_to(root / "snapshots", kept.blob))
        if links - ours or (not blob.exists() and not any(path.exists() for path in ours)):
            logger.info(
                "%s of %s is somebody else's, too, or gone: it is no longer counted", kept.blob, kept.folder
            )
            return
        for path in ours:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            _remove_empty(path.parent, root / "snapshots")
        try:
            blob.unlink(missing_ok=True)
        except OSError as error:  # in use, on Windows
            logger.warning("cannot remove %s: %s", blob, error.strerror)
            return
        self.evicted_files += 1
        self.evicted_bytes += kept.size
        logger.info("removed %s of %s, %s bytes, to make room", kept.blob, kept.folder, kept.size)

    # -- the record

    def _read(self) -> Iterable[KeptBlob]:
        try:
            data = json.loads(self._file.read_text("utf-8"))
            if data["version"] != _VERSION:
                return []
            return [_checked(each) for each in data["blobs"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("ignoring %s: %s: %s", self._file, type(error).__name__, error)
            return []

    def _save_after(self, seconds: float) -> None:
        """Write the record, unless that was done so many seconds ago."""
        with self._lock:
            due = self._clock() - self._saved >= seconds
        if due:
            self.save()

    def save(self) -> None:
        """Write the record by rename; go on without where that fails."""
        with self._lock:
            self._saved = self._clock()
            text = json.dumps({"version": _VERSION, "blobs": [asdict(each) for each in self._blobs.values()]})
        staged = self._file.with_name(f"{self._file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            staged.write_text(text, "utf-8")
            staged.replace(self._file)
        except OSError as error:
            logger.warning("%s cannot be written: what was fetched is not remembered: %s", self._file, error)
            with contextlib.suppress(OSError):
                staged.unlink()


def _checked(values: Any) -> KeptBlob:
    """Return one entry of the record, whose names lead nowhere else.

    Raises:
        ValueError: They might.
    """
    kept = KeptBlob(
        str(values["folder"]), str(values["blob"]), int(values["size"]), float(values["used"]),
        [str(pointer) for pointer in values["pointers"]],
    )  # fmt: skip
    for name in (kept.folder, kept.blob, *(part for each in kept.pointers for part in each.split("/"))):
        if name in {"", ".", ".."} or "/" in name or os.sep in name:
            raise ValueError(f"not a name: {name!r}")
    return kept


def _links_to(snapshots: Path, blob: str) -> Iterable[Path]:
    for folder, _, names in os.walk(snapshots):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() and os.path.basename(os.readlink(path)) == blob:
                yield path


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it, below ``top``, as long as they are empty."""
    while folder != top and folder.is_relative_to(top):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
