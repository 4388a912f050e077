"""Which commit a call is about, and which of its files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from huggingface_hub import ResolvedRevision, constants
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    filter_repo_objects,
)

from hf_haul.hub.asking import UNREACHABLE, ProxyError, is_listing_unknown, uncached_timeout
from hf_haul.hub.fallback import HubUnreachable, detach_tracebacks
from hf_haul.hub.file_listing import FileListing, is_partial
from hf_haul.hub.metadata import ListedFile, is_commit
from hf_haul.hub.named_files import require_named
from hf_haul.hub.presets import Preset, select
from hf_haul.hub.repository import Repository
from hf_haul.hub.upstream_cache import drop_tree, missing_in_tree, read_tree, tree_folder, write_tree
from hf_haul.storage.safe_paths import is_content_addressed, is_in_metadata_folder, require_safe_path

__all__ = ["Listing", "SnapshotFiles"]

logger = logging.getLogger(__name__)

Listing = Mapping[str, ListedFile]


@dataclass(frozen=True)
class SnapshotFiles:
    """A revision of a repository, and a choice of its files.

    Attributes:
        repository: The repository.
        revision: What was asked for.
        cache_dir: The cache.
        etag_timeout: Seconds that the Hub may take to answer as long as the cache may help instead.
        local_dir: The folder with plain files, where they do not go into the cache.
        force_download: Whether the cached listing does not count either.
        allow_patterns: Only files that match one of these.
        ignore_patterns: No file that matches one of these.
        presets: Rules that pick among formats.
        read_only: Whether the listing is not cached.
        max_listing: Most entries of a listing; ``None`` for the environment's setting.
        named: Files, folders (with a slash at the end) and patterns that have to stand for a file each.
    """

    repository: Repository
    revision: str
    cache_dir: str
    etag_timeout: float
    local_dir: str | None = None
    force_download: bool = False
    allow_patterns: list[str] | str | None = None
    ignore_patterns: list[str] | str | None = None
    presets: tuple[Preset, ...] = ()
    read_only: bool = False
    max_listing: int | None = None
    named: tuple[str, ...] = ()

    def ask(self, *, retry: bool) -> tuple[str, Listing]:
        """Return the commit and its files: from the cache where it has them, or else from the Hub.

        Args:
            retry: Whether to repeat after transient errors.

        Raises:
            HubUnreachable: The Hub does not answer.
            Exception: huggingface_hub's own errors.
        """
        commit: str | None = None
        if isinstance(self.revision, ResolvedRevision):
            commit = self.revision.resolved
        elif is_commit(self.revision):
            commit = self.revision
        fixed = commit is not None
        try:
            named: frozenset[str] = frozenset()
            if commit is None:
                timeout = uncached_timeout() if retry else self.etag_timeout
                answer = self.repository.revision_info(self.revision, timeout=timeout, retry=retry)
                commit, named = answer.commit, answer.files
            listing = self._cached_listing(commit, named)
            if listing is None:
                # The Hub has just told the commit, so it is reachable: repeat at once.
                found = FileListing.of(
                    self.repository.list_files(
                        commit, retry_connect=retry or not fixed, most=self.max_listing
                    )
                )
                if not self.read_only:
                    self.keep(commit, found, complete=not is_partial(found))
                listing = found
            return commit, listing
        except (ProxyError, RevisionNotFoundError):
            raise
        except UNREACHABLE as error:
            if is_listing_unknown(error):
                raise  # what the cache has may be a part of it just as well
            detach_tracebacks(error)
            raise HubUnreachable(error, commit) from None

    def keep(self, commit: str, listing: Listing, *, complete: bool) -> None:
        """Cache the listing of a commit, where the cache may have it.

        Args:
            commit: The commit.
            listing: Its files.
            complete: Whether that is all that the Hub says of them.
        """
        # Offline, huggingface_hub would miss the files left out of a local_dir.
        files = FileListing.of(listing)
        if complete and not self.in_metadata_folder(files) and files.is_safe:
            write_tree(self.tree_folder, commit, files)

    def _cached_listing(self, commit: str, named: frozenset[str]) -> Listing | None:
        """Return the cached listing of a commit, unless the Hub has just named a file that it lacks."""
        # A mirror's "main" may have other files tomorrow.
        if not is_content_addressed(commit) or self.force_download:
            return None
        listing = read_tree(self.tree_folder, commit)
        lacking = missing_in_tree(self.tree_folder, commit, named, listing)
        if lacking is None:
            return listing
        if not self.read_only:
            drop_tree(self.tree_folder, commit, lacking)
        return None

    @property
    def tree_folder(self) -> str:
        """Where the listings of commits are cached."""
        root = os.path.join(self.cache_dir, self.repository.folder_name)
        return tree_folder(root, self.local_dir)

    def choose(self, listing: Listing) -> list[str]:
        """Return the files that were asked for, but for those that a ``local_dir`` cannot have.

        Raises:
            huggingface_hub.errors.EntryNotFoundError: One that was named is not there.
            UnsafePathError: The name of one would lead out of its folder.
        """
        require_named(self.named, listing.keys(), self.where)
        selected = self.select(listing)
        if not (isinstance(listing, FileListing) and listing.is_safe):
            for path in selected:
                require_safe_path(path)
        reserved = self.in_metadata_folder(selected)
        if reserved:
            named = ", ".join(reserved[:3]) + (f" and {len(reserved) - 3} more" if len(reserved) > 3 else "")
            logger.warning(
                "Left out, because a local_dir has its own metadata in .cache/huggingface: %s", named
            )
            selected = [path for path in selected if path not in reserved]
        return selected

    @property
    def where(self) -> str:
        """The repository, at its revision unless that is the default."""
        repo_id = self.repository.repo_id
        return repo_id if self.revision == constants.DEFAULT_REVISION else f"{repo_id} at {self.revision}"

    def select(self, listing: Listing) -> list[str]:
        """Return the files that patterns and presets select."""
        paths = list(
            filter_repo_objects(
                listing.keys(),
                allow_patterns=self.allow_patterns,
                ignore_patterns=self.ignore_patterns,
            )
        )
        given = {
            "allow_patterns": self.allow_patterns,
            "ignore_patterns": self.ignore_patterns,
        }
        if listing and not paths:
            shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
            logger.warning("No files matched %s.", shown)
        return select(paths, self.presets)

    def in_metadata_folder(self, paths: Iterable[str]) -> list[str]:
        """Return the files that would lie in the metadata folder of the ``local_dir``."""
        return [] if self.local_dir is None else [path for path in paths if is_in_metadata_folder(path)]
