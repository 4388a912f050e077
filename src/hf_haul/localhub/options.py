"""How a hub behaves where real hubs and mirrors differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["HubOptions"]


@dataclass
class HubOptions:
    """Choices that may be changed while the hub runs; they apply from the next request on.

    Attributes:
        lfs: How LFS files are given. ``"redirect"``: 302 to a signed URL on the other origin, as
            the Hub does. ``"same_origin"``: the same, but on the hub's own origin.
            ``"direct"``: 200, as simple mirrors do; needs one port only.
        git_files: How other files are given. ``"auto"``: 307 to ``/api/resolve-cache`` in public
            repositories and 200 in private ones, as the Hub does; ``"redirect"`` and
            ``"direct"``: always that.
        quoted_etags: Whether etags have quotes; some mirrors leave them off.
        commit_names: What ``X-Repo-Commit`` and ``sha`` hold: ``"sha1"`` (40 hex digits),
            ``"sha256"`` (64), or ``"asked"`` (whatever revision the URL named).
        xet: Whether files that have a Xet hash say so.
        cas_url: Where Xet files are, for ``xet-read-token``: ``http(s)://...`` or
            ``local:///folder``.
        xet_token_lifetime: Seconds a Xet token is good for.
        gzip_git_files: Whether git files are sent gzipped, without length and ignoring ``Range``,
            to clients that accept gzip.
        page_size: Entries of one page of a tree, at most.
        expanded_page_size: The same with ``expand=true``.
        commits_page_size: Commits of one page.
        link_origin: Origin to put into ``Link`` instead of the one the client used, to see what a
            client does about it.
        cdn_etag: ``"own"``: not the sha256, as S3 gives it; ``"sha256"``: the sha256.
        cdn_refuses_tokens: Whether a signed URL together with ``Authorization`` is refused with
            400, as S3 does.
    """

    lfs: Literal["redirect", "same_origin", "direct"] = "redirect"
    git_files: Literal["auto", "redirect", "direct"] = "auto"
    quoted_etags: bool = True
    commit_names: Literal["sha1", "sha256", "asked"] = "sha1"
    xet: bool = True
    cas_url: str | None = None
    xet_token_lifetime: float = 900.0
    gzip_git_files: bool = False
    page_size: int = 1000
    expanded_page_size: int = 50
    commits_page_size: int = 50
    link_origin: str | None = None
    cdn_etag: Literal["own", "sha256"] = "own"
    cdn_refuses_tokens: bool = True
