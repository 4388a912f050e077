"""Runs a hub: in a thread of its own for tests and programs, or in the foreground for sharing."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from hf_haul.localhub.access import Account, Accounts
from hf_haul.localhub.app import OTHER_LOOPBACK, App
from hf_haul.localhub.catalog import Catalog
from hf_haul.localhub.connections import Connections, listen, most_connections
from hf_haul.localhub.hosts import HostRule
from hf_haul.localhub.options import HubOptions
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.requestlog import RequestLog
from hf_haul.localhub.signing import Signer
from hf_haul.localhub.site import Site
from hf_haul.localhub.testing.limits import RateLimits
from hf_haul.localhub.testing.rules import Faults
from hf_haul.localhub.timings import DEFAULT_TIMINGS, HubTimings

__all__ = ["LocalHub"]

logger = logging.getLogger(__name__)

_START_TIMEOUT: Final = 30.0  # seconds
_WAITERS: Final = 64  # threads, made when needed
#: Where to reach, from here, a hub that listens everywhere.
_REACHABLE: Final = {"0.0.0.0": "127.0.0.1", "0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  only looked up, not bound


class LocalHub:
    """A read-only Hub in a thread of its own.

    Use it as a context manager, or call `start` and `close`. Everything here may be called from
    any thread.

    Args:
        *repos: What to serve; more can be added with `add`.
        host: Address to listen on.
        port: Port of the hub; 0 for any free one.
        cdn_port: Port of the other origin, which serves LFS files; 0 for any free one, ``None``
            for no such port (then the option ``lfs`` must not be ``"redirect"``).
        cdn_url: Public address of the other origin, if clients reach it by another one than the
            hub's host with ``cdn_port``.
        accounts: Users with their tokens.
        options: How the hub behaves.
        url_lifetime: Seconds a signed URL is good for.
        log_size: How many requests `requests` remembers; ``None`` for all.
        certfile: A TLS certificate (PEM), to serve https on both ports.
        keyfile: Its key.
        host_rule: Which names a request may be meant for, lest web pages read what is served here; any if
            ``None``.
        timings: How long to wait for clients.
        site: What is added to it.
        **settings: Options by name, see `HubOptions`.
    """

    def __init__(
        self,
        *repos: Repo,
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_port: int | None = 0,
        cdn_url: str | None = None,
        accounts: Iterable[Account] = (),
        options: HubOptions | None = None,
        url_lifetime: float = 3600.0,
        log_size: int | None = None,
        certfile: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
        host_rule: HostRule | None = None,
        timings: HubTimings = DEFAULT_TIMINGS,
        site: Site | None = None,
        **settings: Any,
    ) -> None:
        self.options = options or HubOptions()
        for name, value in settings.items():
            if not hasattr(self.options, name):
                raise TypeError(f"no such option: {name}")
            setattr(self.options, name, value)
        if cdn_port is None and self.options.lfs == "redirect":
            raise ValueError('without a second port, lfs must be "direct" or "same_origin"')
        self._host = host
        self._ports: tuple[int, int | None] = (port, cdn_port)
        self._tls = _tls_context(certfile, keyfile)
        self._timings = timings
        self.catalog = Catalog(repos)
        self.signer = Signer(url_lifetime)
        self.accounts = Accounts(accounts, code_on_401=self._tls is None)
        self._app = App(
            self.catalog,
            self.accounts,
            self.options,
            self.signer,
            cdn_url=cdn_url,
            log=RequestLog(log_size),
            host_rule=host_rule,
            timings=timings,
            site=site or Site(),
        )
        self._connections: Connections | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._bound = (0, 0)

    # -- life

    def __enter__(self) -> LocalHub:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> LocalHub:
        """Listen, and return once both ports are open.

        Raises:
            OSError: A port is taken.
        """
        if self._thread is not None:
            raise RuntimeError("this hub has been started already")
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="localhub", daemon=True)
        self._thread.start()
        ready.result(_START_TIMEOUT)
        return self

    def close(self) -> None:
        """Stop at once: open connections are reset. Calling it again does nothing."""
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join(_START_TIMEOUT)

    def wait(self) -> None:
        """Wait until the hub is closed by another thread; Ctrl+C interrupts the wait."""
        while self._thread is not None and self._thread.is_alive():
            # On Windows a join without a timeout would not be interrupted.
            self._thread.join(0.5)

    def _run(self, ready: Future[None]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        # Whoever asks for a folder that is being hashed waits in a thread, out of others' way.
        self._loop.set_default_executor(ThreadPoolExecutor(_WAITERS, "localhub-wait"))
        self._connections = connections = Connections(most_connections(), self._tls, self._timings)
        try:
            bound = [0, 0]
            handlers = (self._app.handle_hub, self._app.handle_cdn)
            for i, port in enumerate(self._ports):
                if port is None:
                    continue
                sockets = listen(self._host, port, self._timings.stalled)
                bound[i] = sockets[0].getsockname()[1]
                sockets += self._ipv6_too(sockets, bound[i])
                connections.serve(sockets, handlers[i])
            self._bound = (bound[0], bound[1])
            self._app.cdn_port = bound[1]
            ready.set_result(None)
            await self._stop.wait()
        finally:
            # First the answers, then their connections: asyncio takes it amiss if a connection
            # is lost under a running sendfile.
            await self._app.cancel_all()
            await connections.close()
            self._app.close()
            # A connection that its client ended in this very moment is closed in one of the loop's next
            # turns.
            for _turn in range(3):
                await asyncio.sleep(0)

    def _ipv6_too(self, sockets: list[socket.socket], port: int) -> list[socket.socket]:
        # "localhost" may mean ::1 first, and on Windows it takes seconds to find nobody there.
        if self._host not in ("127.0.0.1", "localhost") or len(sockets) > 1:
            return []
        try:
            return listen("::1", port, self._timings.stalled)
        except OSError as error:
            logger.debug("not listening on ::1 port %s: %s", port, error)
            return []

    # -- addresses

    def _url(self, port: int, *, is_cdn: bool = False) -> str:
        host = _REACHABLE.get(self._host, self._host)
        if is_cdn:
            host = OTHER_LOOPBACK.get(host, host)
        shown = f"[{host}]" if ":" in host else host
        return f"{'http' if self._tls is None else 'https'}://{shown}:{port}"

    @property
    def url(self) -> str:
        """The hub's address, for ``HF_ENDPOINT``; on this machine if it listens everywhere."""
        return self._url(self._bound[0])

    @property
    def cdn_url(self) -> str:
        """The address of the other origin."""
        return self._app.cdn_url or self._url(self._bound[1], is_cdn=True)

    # -- what is served

    def add(self, repo: Repo) -> Repo:
        """Add a repository, in place of one of the same type and id."""
        self.catalog.add(repo)
        return repo

    def rename(self, old_id: str, new_id: str, repo_type: str = "model") -> None:
        """Make ``old_id`` an old name of ``new_id``."""
        self.catalog.rename(old_id, new_id, repo_type)

    def expire_urls(self) -> None:
        """Make every signed URL that was given out until now invalid (403)."""
        self.signer.expire_all()

    # -- how it behaves

    def set_pace(self, bytes_per_s: float | None, *, total: float | None = None) -> None:
        """Limit how fast bodies are sent, those under way too.

        Args:
            bytes_per_s: Bytes per second of each connection; ``None`` for no limit.
            total: Bytes per second of all connections together; ``None`` for no limit.
        """
        self._app.pace.per_connection = bytes_per_s
        self._app.pace.total = total

    @property
    def max_bytes_per_s(self) -> float | None:
        """Bytes per second of all connections together; ``None`` for no limit."""
        return self._app.pace.total

    def set_latency(self, seconds: float) -> None:
        """Wait this long before every answer, from the next request on."""
        self._app.latency = seconds

    @property
    def faults(self) -> Faults:
        """The faults that answers can have."""
        return self._app.faults

    @property
    def limits(self) -> RateLimits:
        """How many requests a client may send in a window of time."""
        return self._app.limits

    # -- what it saw

    @property
    def requests(self) -> RequestLog:
        """Every request so far."""
        return self._app.log

    @property
    def body_bytes(self) -> int:
        """Body bytes sent by both origins since the start, up to now."""
        return self._app.sender.body_bytes

    @property
    def open_connections(self) -> int:
        """Connections that are open on both ports now, idle ones too."""
        return 0 if self._connections is None else len(self._connections)


def _tls_context(
    certfile: str | os.PathLike[str] | None, keyfile: str | os.PathLike[str] | None
) -> ssl.SSLContext | None:
    if certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(Path(certfile), None if keyfile is None else Path(keyfile))
    except OSError as error:
        files = os.fspath(certfile) if keyfile is None else f"{os.fspath(certfile)} with {os.fspath(keyfile)}"
        raise OSError(
            error.errno, f"cannot use the certificate {files}: {error.strerror or error}"
        ) from error
    return context
