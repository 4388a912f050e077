"""A repository that follows a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hf_haul.localhub.confinement import Confinement
from hf_haul.localhub.folders import files_below, scan_folder
from hf_haul.localhub.following import FollowingRepo, Holding
from hf_haul.localhub.listings import read_kept, stamp
from hf_haul.localhub.objects import DigestCache, FileContent
from hf_haul.localhub.trees import Tree

__all__ = ["FolderRepo"]


class FolderRepo(FollowingRepo):
    """A folder on disk. When it changes, ``main`` gets a new commit.

    A commit's id follows from the files alone, so the same folder has the same id after a restart
    and on another machine.

    Args:
        root: The folder.
        repo_id: See `Repo`.
        repo_type: See `Repo`.
        private: See `Repo`.
        digests: Where digests are kept.
        confinement: See `scan_folder`.
        interval: Seconds between two looks at the folder.
        clock: Seconds; only differences count.
    """

    def __init__(
        self,
        root: Path,
        repo_id: str,
        repo_type: str = "model",
        *,
        private: bool = False,
        digests: DigestCache | None = None,
        confinement: Confinement | None = None,
        interval: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(repo_id, repo_type, private=private, interval=interval, clock=clock)
        self.root = root.resolve()
        self._confinement = confinement or Confinement([self.root])
        self._digests = digests
        self._seen: list[tuple[str, int, int]] | None = None

    def load(self) -> None:
        """Add a commit if the folder has changed."""
        entries = list(scan_folder(self.root, self._digests, self._confinement))
        seen = [
            (entry.path, entry.size, entry.content.mtime_ns)
            for entry in entries
            if isinstance(entry.content, FileContent)
        ]
        if seen == self._seen:
            return
        self.add_tree(Tree(entries), "Folder")
        if self._digests is not None:
            self._digests.save()
        self._seen = seen

    def holdings(self) -> list[Holding]:
        """Return how much is here of the commit that was last downloaded into the folder."""
        metadata = self.root / ".cache" / "huggingface"
        listings = [path for path in metadata.glob("trees/*.json") if stamp(path) is not None]
        if not listings:
            return []
        newest = max(listings, key=lambda path: path.lstat().st_mtime_ns)
        kept = read_kept(newest)
        if kept is None:
            return []
        here = {path.relative_to(self.root).as_posix() for path in files_below(self.root, self._confinement)}
        return [Holding(newest.stem, [], len(here & kept.keys()), len(kept))]
