"""One lab server: what is served, what is fetched for it, and what is told of it."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hf_haul.config import Settings
from hf_haul.errors import InvalidUrlError
from hf_haul.lab.fetches import Fetches
from hf_haul.lab.kept import Kept
from hf_haul.lab.lookups import LookUps
from hf_haul.lab.repos import LabUpstream
from hf_haul.lab.traffic import Traffic
from hf_haul.localhub.cache_repo import CacheRepo
from hf_haul.localhub.discovery import find_repos
from hf_haul.localhub.server import LocalHub
from hf_haul.manager import ParallelDownloadManager
from hf_haul.redaction import redact_text
from hf_haul.urls import parse_url

__all__ = ["DEFAULT_REFRESH", "Lab"]

logger = logging.getLogger(__name__)

#: Seconds for which a branch is taken to be where it was.
DEFAULT_REFRESH: Final = 60.0


class Lab:
    """A lab's server, without its sockets: what `hf_haul.localhub.serve` is given to be more than a cache's.

    Nothing is started before something is fetched.

    Args:
        cache_dir: The Hub cache; made, where it is missing and there is an upstream.
        upstream: URL of the Hub that has what is absent; ``None`` for none.
        token: Whether clients are asked for one.
        private: Whether the upstream is asked with this machine's own token.
        refresh: Seconds for which a branch or tag is taken to be where it was.
        max_size: Bytes that what was fetched may take; ``None`` for any number.
        settings: Of what is fetched; by default those in force.
        access_log: Gets the lines of the access log; ``None`` for none.

    Raises:
        ValueError: The upstream is no URL; or ``private`` without a token of the server's, without one of
            this machine's, or without an upstream; or ``max_size`` without an upstream.
        OSError: The folder cannot be made.
    """

    def __init__(
        self,
        cache_dir: str | os.PathLike[str],
        *,
        upstream: str | None = None,
        token: bool = False,
        private: bool = False,
        refresh: float = DEFAULT_REFRESH,
        max_size: int | None = None,
        settings: Settings | None = None,
        access_log: Callable[[str], None] | None = None,
    ) -> None:
        self.cache_dir = Path(cache_dir).expanduser()
        self.began = time.time()
        self.traffic = Traffic(access_log)
        self.hub: LocalHub | None = None
        self.lookups: LookUps | None = None
        self.fetches: Fetches | None = None
        self.kept: Kept | None = None
        self.source: LabUpstream | None = None
        if upstream is None:
            if private or max_size is not None:
                name = "--private" if private else "--max-size"
                raise ValueError(f"{name} is about what is fetched, and nothing is without --upstream")
            return
        if private and not token:
            raise ValueError(
                "--private fetches what only this machine's own token can open, and would give it to anybody: ask for a"
                " token (--token-file, HF_HAUL_SERVE_TOKEN)"
            )
        self._require_url(upstream)
        name = secrets.token_hex(8)
        self._require_cache()
        self.lookups = LookUps(
            str(self.cache_dir.resolve()), upstream, refresh=refresh, private=private, name=name
        )
        self.lookups.require_token()
        self.kept = Kept(self.cache_dir, max_size)
        manager = ParallelDownloadManager(settings=settings)
        self.fetches = Fetches(manager, self.lookups, str(self.cache_dir.resolve()), self.kept)
        self.source = LabUpstream(
            self.lookups, self.fetches, self.cache_dir.resolve(), self._note_use, name, token
        )

    @staticmethod
    def _require_url(upstream: str) -> None:
        try:
            parse_url(upstream)
        except InvalidUrlError as error:
            raise ValueError(f"--upstream: {redact_text(str(error))}") from error

    def _require_cache(self) -> None:
        """Make the cache, where it is missing; refuse folders that are something else.

        Raises:
            ValueError: It has something else in it.
            OSError: It cannot be made.
        """
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        if any(isinstance(repo, CacheRepo) for repo in find_repos(self.cache_dir)):
            if not any(self.cache_dir.glob("*--*/snapshots")):
                self.cache_dir /= "hub"  # HF_HOME
            return
        visible = [path.name for path in self.cache_dir.iterdir() if not path.name.startswith(".")]
        if set(visible) - {"CACHEDIR.TAG", "version.txt"}:
            raise ValueError(
                f"{self.cache_dir} is no Hub cache: with --upstream, give one, or an empty or new folder that becomes one"
            )

    def attach(self, hub: LocalHub) -> None:
        """Note which hub it belongs to, once that is there."""
        self.hub = hub

    def _note_use(self, folder: Path, blob: str) -> None:
        if self.kept is not None:
            self.kept.note_use(folder.name, blob)

    def close(self) -> None:
        """End what is fetched, resumable, and remember what was."""
        if self.fetches is not None:
            self.fetches.close()
        if self.kept is not None:
            self.kept.save()
