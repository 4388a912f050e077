"""The route to each host: trusted certificates, proxies, and requests' adapter over shared slots.

One TLS context serves all connections: reading the trusted certificates takes 22 of the 24 ms that a new
connection would cost otherwise.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy
from urllib3 import PoolManager
from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout, create_urllib3_context

from hf_haul.config import ca_bundle
from hf_haul.errors import CertificateError, TransferError
from hf_haul.redaction import redact_text
from hf_haul.task import NetworkPath
from hf_haul.transports.certificates import load_certificates
from hf_haul.transports.request import active
from hf_haul.transports.route import Route
from hf_haul.transports.slots import ConnectionSlots, with_slots
from hf_haul.urls import HttpUrl

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

__all__ = [
    "Adapter",
    "ClientCertificate",
    "Network",
    "NetworkOptions",
    "Verify",
    "ca_from_environment",
    "needs_no_proxy",
]

_MAX_ROUTES: Final = 256
_MAX_PROXIES: Final = 64


#: What verifies certificates: whether anything does, the path of those to trust, or a context.
Verify: TypeAlias = bool | str | os.PathLike[str] | ssl.SSLContext
#: The path of a client's certificate, or those of certificate and key.
ClientCertificate: TypeAlias = (
    str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]] | None
)


def _named(verify: Any) -> bool | str | ssl.SSLContext:
    """Return what verifies certificates with a path as text, or it would be taken for "the usual ones"."""
    told: bool | str | ssl.SSLContext = verify
    return os.fsdecode(verify) if isinstance(verify, os.PathLike | bytes) else told


def _files(cert: Any) -> str | tuple[str, str] | None:
    """Return the files of a client's certificate as texts."""
    if isinstance(cert, os.PathLike | bytes):
        return os.fsdecode(cert)
    if isinstance(cert, tuple | list):
        certificate, key = map(os.fsdecode, cert)
        return certificate, key
    told: str | None = cert
    return told


@dataclass(frozen=True)
class NetworkOptions:
    """What a pool was made with, its environment included."""

    told_verify: bool | str | ssl.SSLContext  # the same without what the environment names
    verify: bool | str | ssl.SSLContext
    own_tls: bool  # whether verify or cert were given
    own_proxies: bool  # whether proxies were given, or those of the environment refused
    capath: str | None
    cert: str | tuple[str, str] | None
    proxies: Mapping[str, str] = field(repr=False)  # they may hold passwords
    trust_env: bool
    headers: Mapping[str, str] = field(repr=False)  # they may hold tokens
    timeout: Timeout
    connect_timeout: float
    read_timeout: float

    @classmethod
    def of(
        cls,
        *,
        verify: Verify,
        cert: ClientCertificate,
        proxies: Mapping[str, str] | None,
        trust_env: bool,
        headers: Mapping[str, str],
        connect_timeout: float,
        read_timeout: float,
    ) -> Self:
        """Return the options for what was given, and for what the environment says besides."""
        told, files = _named(verify), _files(cert)
        cafile = capath = None
        if told is True and trust_env:
            cafile, capath = ca_from_environment()
        return cls(
            told_verify=told, verify=cafile or told, own_tls=told is not True or files is not None,
            own_proxies=proxies is not None or not trust_env, capath=capath, cert=files,
            proxies=dict(proxies or {}), trust_env=trust_env, headers=headers,
            timeout=Timeout(connect=connect_timeout, read=read_timeout),
            connect_timeout=connect_timeout, read_timeout=read_timeout,
        )  # fmt: skip

    @property
    def requests_verify(self) -> bool | str:
        """What verifies certificates, as requests expects it."""
        return True if isinstance(self.verify, ssl.SSLContext) else self.verify

    def set_on(self, session: requests.Session) -> None:
        """Set the same on a session."""
        session.headers.update(self.headers)
        session.trust_env = self.trust_env
        session.proxies.update(self.proxies)
        session.verify = self.requests_verify
        session.cert = self.cert

    def are_on(self, session: requests.Session) -> bool:
        """Return whether a session says the same, headers apart."""
        return (
            self._is_told(_named(session.verify))
            and _files(session.cert) == self.cert
            and session.trust_env == self.trust_env
            and session.proxies == self.proxies
        )

    def _is_told(self, verify: object) -> bool:
        return verify in {None, self.told_verify, self.requests_verify}

    def changed_by(self, session: requests.Session) -> Self:
        """Return the options as they are on a session, on which they may have been changed."""
        verify = None if session.verify is None else _named(session.verify)
        kept = self.own_proxies and session.proxies == self.proxies
        return self.of(
            verify=self.told_verify if verify is None or self._is_told(verify) else verify,
            cert=session.cert,
            proxies=session.proxies if session.proxies or kept else None,
            trust_env=session.trust_env, headers=self.headers,
            connect_timeout=self.connect_timeout, read_timeout=self.read_timeout,
        )  # fmt: skip


def needs_no_proxy(url: HttpUrl) -> bool:
    """Return whether ``NO_PROXY`` names a URL's host with port or scheme, which requests ignores."""
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    for entry in listed.lower().split(","):
        scheme, mark, place = entry.strip().rpartition("://")
        host, _, port = place.rpartition(":")
        if not port.isdecimal() or (
            ":" in host and not host.endswith("]")
        ):  # no port, or a bare IPv6 address
            host, port = place, ""
        if not (mark or port) or scheme not in {"", "all", url.scheme} or port not in {"", str(url.port)}:
            continue
        name = host.removeprefix("*").removeprefix(".")
        if name and (url.host == name or url.host.endswith(f".{name}")):
            return True
    return False


def ca_from_environment() -> tuple[str | None, str | None]:
    """Return the file and folder of trusted certificates that the environment names."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(name)
        if path:
            return (None, path) if os.path.isdir(path) else (path, None)
    return os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None


class Network:
    """All that the sessions of one pool share: slots, TLS context, urllib3's managers.

    One TLS context for all: reading the trusted certificates takes 22 of the 24 ms that a new connection
    costs.

    Locking: ``_lock`` guards the attributes below it.
    """

    def __init__(self, options: NetworkOptions, slots: ConnectionSlots | None) -> None:
        self.options = options
        self.slots = slots
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._proxy_managers: dict[Any, Any] = {}
        self._routes: dict[tuple[str, NetworkPath | None], Route] = {}
        self.manager = self._adopt(PoolManager(num_pools=_MAX_ROUTES, maxsize=1))

    def _adopt(self, manager: Any) -> Any:
        manager.pool_classes_by_scheme = {
            scheme: partial(with_slots(cls), slots=self.slots)
            for scheme, cls in manager.pool_classes_by_scheme.items()
        }
        return manager

    def proxy_manager(self, proxy: Any, make: Callable[[], Any]) -> Any:
        """Return urllib3's manager for a proxy and its headers, created once."""
        with self._lock:
            if proxy not in self._proxy_managers:
                if len(self._proxy_managers) >= _MAX_PROXIES:
                    self._proxy_managers.clear()
                self._proxy_managers[proxy] = self._adopt(make())
            return self._proxy_managers[proxy]

    def tls_context(self) -> ssl.SSLContext:
        """Return the context shared by all connections.

        Raises:
            CertificateError: A file of certificates that was named cannot be read.
        """
        with self._lock:
            if self._context is None:
                self._context = self._make_context()
            return self._context

    def _make_context(self) -> ssl.SSLContext:
        options = self.options
        if isinstance(options.verify, ssl.SSLContext):
            return options.verify
        cafile = options.verify if isinstance(options.verify, str) else None
        if cafile is None and options.capath is None:
            cafile = DEFAULT_CA_BUNDLE_PATH
        context = create_urllib3_context()
        read: str | tuple[str, ...] | None = cafile or options.capath
        try:
            if cafile is not None and os.path.isdir(cafile):
                context.load_verify_locations(capath=cafile)
            else:
                context.load_verify_locations(cafile=cafile, capath=options.capath)
            read = options.cert
            if isinstance(options.cert, str):
                context.load_cert_chain(options.cert)
            elif options.cert is not None:
                context.load_cert_chain(*options.cert)
        except (OSError, ssl.SSLError) as error:
            names = read if isinstance(read, str) else " and ".join(read or ())
            raise CertificateError(
                f"cannot read the certificates {names}: {error}. "
                "They are named by REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE, SSL_CERT_DIR or by verify= "
                "and cert=."
            ) from error
        more = ca_bundle() if options.trust_env and not options.own_tls else None
        if more is not None:
            load_certificates(context, more, "HF_HAUL_CA_BUNDLE")
        return context

    def is_own(self, verify: Any, cert: Any) -> bool:
        """Return whether a session asks for the pool's own verification."""
        own = self.options
        return own.verify is not False and verify in {True, own.requests_verify} and cert == own.cert

    def proxies_for(self, url: HttpUrl, path: NetworkPath | None) -> dict[str, str]:
        """Return the proxies by which ``url`` is reached."""
        if path is not None and not self.options.own_proxies:
            return {} if path.proxy is None else {url.scheme: path.proxy}
        proxies = dict(self.options.proxies)
        if self.options.trust_env and not needs_no_proxy(url):
            for scheme, proxy in get_environ_proxies(str(url)).items():
                proxies.setdefault(scheme, proxy)
        return proxies

    def known_route(self, url: HttpUrl, path: NetworkPath | None) -> Route | None:
        """Return the route to the origin of ``url``; ``None`` before it was determined."""
        return self._routes.get((url.origin, path))

    def route(self, url: HttpUrl, adapter: Adapter, request: Any, path: NetworkPath | None = None) -> Route:
        """Return the route to the origin of ``url``, determined once.

        Args:
            url: The URL.
            adapter: This thread's.
            request: What is to be sent.
            path: How the caller would have it reached, where the pool was not told itself.
        """
        route = self.known_route(url, path)
        if route is None:
            proxies = self.proxies_for(url, path)
            try:
                connections = adapter.connections_for(request, proxies, path)
            except ValueError as error:
                if not select_proxy(str(url), proxies):
                    raise
                raise TransferError(
                    f"{url.host}: its proxy cannot be used: {redact_text(str(error))}"
                ) from None
            route = Route(connections, proxies)
            with self._lock:
                if len(self._routes) >= _MAX_ROUTES:
                    self._routes.clear()
                self._routes[url.origin, path] = route
        return route


def _with_context(context: ssl.SSLContext) -> dict[str, Any]:
    # urllib3 sets the context's mode to what stands beside it.
    return {"cert_reqs": context.verify_mode.name, "ssl_context": context}


class _Looking(threading.local):
    """The way that connections are looked for by, while a thread does so."""

    path: NetworkPath | None = None


class Adapter(HTTPAdapter):
    """requests' adapter over the shared network, for any number of threads; closing it is harmless."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._looking = _Looking()
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *_args: Any, **_kwargs: Any) -> None:
        """Use the shared manager."""
        self.poolmanager = self.network.manager

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Use the shared manager of a proxy."""
        path = self._looking.path
        told = () if path is None else (path.proxy_headers, path.proxy_tls)
        if path is not None and path.proxy_tls is not None:
            kwargs["proxy_ssl_context"] = path.proxy_tls

        def make() -> Any:
            self.proxy_manager.pop(proxy, None)
            return super(Adapter, self).proxy_manager_for(proxy, **kwargs)

        return self.network.proxy_manager((proxy, *told), make)

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Return the headers that a proxy gets with each request or tunnel."""
        headers = super().proxy_headers(proxy)
        path = self._looking.path
        return {**headers, **dict(() if path is None else path.proxy_headers)}

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """Put the shared TLS context where requests would name a bundle."""
        tls: Any
        host, tls = super().build_connection_pool_key_attributes(request, verify, cert)
        path, own = self._looking.path, self.network.is_own(verify, cert)
        if host["scheme"] == "https":
            if path is not None and path.tls is not None and not self.network.options.own_tls:
                tls = _with_context(path.tls)
            elif own:
                tls = _with_context(self.network.tls_context())
        if path is not None and path.source_address is not None:
            tls["source_address"] = (path.source_address, 0)
        return host, tls

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave the shared TLS context alone."""
        # requests would name the bundle here, and each connection would read it again.
        if "ssl_context" not in conn.conn_kw:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]  # so in the stubs

    def connections_for(self, request: Any, proxies: dict[str, str], path: NetworkPath | None) -> Any:
        """Return the connections that requests would choose, over the caller's path if there is one."""
        options = self.network.options
        self._looking.path = path
        try:
            return super().get_connection_with_tls_context(
                request, options.requests_verify, proxies=proxies, cert=options.cert
            )
        finally:
            self._looking.path = None

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Return the connections of the request's route; requests' own choice without one."""
        call = active.call
        if call is not None and call.route is not None:
            return call.route.connections
        return super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)

    def request_url(self, request: Any, proxies: Any) -> str:
        """Return the target for the request line."""
        return super().request_url(request, proxies) if proxies else str(request.path_url)

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        """Return the raw answer to a pooled request; requests' full response otherwise."""
        call = active.call
        if call is not None:
            call.raw = resp
        if call is None or call.by_session:
            return super().build_response(req, resp)
        return _LeanResponse(req, resp)

    def move_to(self, network: Network) -> None:
        """Use another network from now on."""
        self.network = network
        self.init_poolmanager()

    def close(self) -> None:
        """Do nothing: the slots own the connections."""


class _LeanResponse(requests.Response):
    """A response without cookie jar, encoding and copied headers, which cost more than sending a request."""

    def __init__(self, request: requests.PreparedRequest, raw: BaseHTTPResponse) -> None:
        self._content = False  # type: ignore[assignment]  # "not read yet"; the stubs forget it
        self._content_consumed = False
        self._next = None
        self.request = request
        self.url = str(request.url)
        self.raw = raw
        self.status_code = raw.status
        self.reason = str(raw.reason)
        self.headers = raw.headers  # type: ignore[assignment]  # urllib3's own, any case too
        self.encoding = None
        self.history = []
