"""Shares a folder or a Hub cache with other machines."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from hf_haul.localhub.access import Account
from hf_haul.localhub.cache_repo import CacheRepo
from hf_haul.localhub.discovery import find_repos
from hf_haul.localhub.following import FollowingRepo
from hf_haul.localhub.hosts import ANY_ADDRESS, HostRule, is_loopback
from hf_haul.localhub.objects import DigestCache
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.server import LocalHub
from hf_haul.localhub.site import Site

__all__ = ["require_token", "serve", "share"]

logger = logging.getLogger(__name__)

_LOOK_EVERY: Final = 5.0  # seconds between two looks for new repositories
_LOG_SIZE: Final = 1000  # requests; a hub that runs for weeks must not keep them all


def share(
    path: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    max_bytes_per_s: float | None = None,
    certfile: str | os.PathLike[str] | None = None,
    keyfile: str | os.PathLike[str] | None = None,
    digest_file: str | os.PathLike[str] | None = None,
    hidden: bool = False,
    complete: bool = False,
    allow_anyone: bool = False,
    allowed_hosts: Iterable[str] = (),
    site: Site | None = None,
    make_repo: Callable[..., CacheRepo] = CacheRepo,
) -> LocalHub:
    """Return a hub, not started yet, that shares a folder and follows its changes.

    One port is all it needs: LFS files are given directly, as simple mirrors do.

    Args:
        path: A Hub cache; or a folder of ``<org>/<name>/``, also below ``models/``, ``datasets/``
            and ``spaces/``; or one repository.
        host: Address to listen on; ``"0.0.0.0"`` for every one of this machine.
        port: Port to listen on; 0 for any free one.
        token: If given, everything is private, and this is the token that opens it.
        max_bytes_per_s: Bytes per second of all downloads together; ``None`` for no limit.
        certfile: A TLS certificate (PEM), to serve https.
        keyfile: Its key.
        digest_file: Where the digests of files are remembered, so that a second start need not
            read them all; ``None`` for ``hf-haul/digests.json`` in the user's cache folder.
        hidden: Whether folders that are no cache show all files whose names begin with a dot; else only those
            that git uses. What is in ``.git`` is never shown.
        complete: Whether commits in a cache that the Hub's listing was not kept of are known to be all there.
            Without it nobody is told which files they have.
        allow_anyone: Whether other machines may have what is served without a token. What in a cache is
            private or gated is not known there.
        allowed_hosts: Names under which the hub may be asked without a token, besides this machine's own name
            and addresses: a web page could have its own name lead here.
        site: What is added to it.
        make_repo: Makes the repositories of a cache.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It could be reached from elsewhere, and there is neither a token nor ``allow_anyone``; or
            the token, or an allowed host, cannot be one.
    """
    require_token(host, token, allow_anyone=allow_anyone)
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder: {root}")
    digests = DigestCache(digest_file if digest_file is not None else _default_digest_file())

    def find() -> list[Repo]:
        return find_repos(
            root,
            private=token is not None,
            digests=digests,
            hidden=hidden,
            complete=complete,
            make=make_repo,
        )

    accounts = [] if token is None else [Account("local", token, repos=("*",), gated=("*",))]
    hub = LocalHub(
        *find(),
        host=host,
        port=port,
        cdn_port=None,
        accounts=accounts,
        certfile=certfile,
        keyfile=keyfile,
        log_size=_LOG_SIZE,
        host_rule=HostRule({*allowed_hosts, host} - ANY_ADDRESS) if token is None else None,
        site=site,
        lfs="direct",
        git_files="direct",
        xet=False,
    )
    hub.catalog.follow(find, _LOOK_EVERY, time.monotonic)
    hub.set_pace(None, total=max_bytes_per_s)
    return hub


def serve(
    path: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    max_bytes_per_s: float | None = None,
    certfile: str | os.PathLike[str] | None = None,
    keyfile: str | os.PathLike[str] | None = None,
    digest_file: str | os.PathLike[str] | None = None,
    hidden: bool = False,
    complete: bool = False,
    allow_anyone: bool = False,
    allowed_hosts: Iterable[str] = (),
    site: Site | None = None,
    make_repo: Callable[..., CacheRepo] = CacheRepo,
    on_ready: Callable[[LocalHub], None] | None = None,
) -> None:
    """Share a folder until Ctrl+C, or until another thread calls ``hub.close()``.

    Repositories are hashed in the background, one after the other, as soon as it listens.

    Args:
        path: See `share`.
        host: See `share`.
        port: See `share`.
        token: See `share`.
        max_bytes_per_s: See `share`.
        certfile: See `share`.
        keyfile: See `share`.
        digest_file: See `share`.
        hidden: See `share`.
        complete: See `share`.
        allow_anyone: See `share`.
        allowed_hosts: See `share`.
        site: See `share`.
        make_repo: See `share`.
        on_ready: Called once it listens, with the hub: to say where.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: See `share`.
        OSError: The port is taken.
    """
    hub = share(
        path,
        host=host,
        port=port,
        token=token,
        max_bytes_per_s=max_bytes_per_s,
        certfile=certfile,
        keyfile=keyfile,
        digest_file=digest_file,
        hidden=hidden,
        complete=complete,
        allow_anyone=allow_anyone,
        allowed_hosts=allowed_hosts,
        site=site,
        make_repo=make_repo,
    )
    with hub:
        if on_ready is not None:
            on_ready(hub)
        threading.Thread(target=_warm_up, args=(hub,), name="localhub-warm", daemon=True).start()
        try:
            hub.wait()
        except KeyboardInterrupt:
            return


def require_token(host: str, token: str | None, *, allow_anyone: bool) -> None:
    """Refuse to share without a token on a host that other machines reach.

    Args:
        host: What it listens on.
        token: What opens it, or ``None``.
        allow_anyone: Whether none is needed.

    Raises:
        ValueError: It would; or the token cannot be sent in a header.
        OSError: There is no such host.
    """
    if token is not None:
        if not token:
            raise ValueError("the token is empty")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ValueError(
                "the token cannot be sent: it has blanks, or characters that are not printable ASCII"
            )
        if allow_anyone:
            raise ValueError(
                "a token and allow_anyone (--allow-anyone) contradict each other: give one of the two"
            )
    elif not allow_anyone and not is_loopback(host):
        raise ValueError(
            f"listening on {host or 'every address'} gives what is served to other machines, also what is private or"
            " gated: a cache does not say what is. Ask for a token (--token-file, HF_HAUL_SERVE_TOKEN), or allow anyone"
            " to have all of it (--allow-anyone)"
        )


def _warm_up(hub: LocalHub) -> None:
    for repo in hub.catalog.all():
        if isinstance(repo, FollowingRepo):
            try:
                repo.wait_until_loaded()
            except Exception as error:  # noqa: BLE001  the others are not to blame
                logger.warning("cannot read %s: %s", repo, error)


def _default_digest_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base, "hf-haul", "digests.json")
