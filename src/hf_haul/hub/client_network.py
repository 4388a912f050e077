"""The proxies and certificates of the user's own huggingface_hub client, for downloads to use as well.

``huggingface_hub.set_client_factory`` is where a company's certificates and proxies are configured. This
module asks that client, httpx's or httpx2's, how it would reach an address; no bytes are fetched with it.
httpx has no public way to ask for a transport's TLS context and proxy; what is not as expected is left alone,
with a warning.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import os
import ssl
import warnings
import weakref
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    get_session,
)

from hf_haul.config import ca_bundle
from hf_haul.task import NetworkPath
from hf_haul.transports.certificates import load_certificates
from hf_haul.urls import parse_url

__all__ = ["ClientNetwork", "add_client_headers", "client_network", "trust_named_certificates"]

_NOT_CARRIED: Final = frozenset(
    {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length", "x-amzn-trace-id"}
)
_MAX_ORIGINS: Final = 256
#: Ways to authenticate that take one request; others need an answer first.
_SIMPLE_AUTH: Final = frozenset({"BasicAuth", "FunctionAuth", "NetRCAuth"})


class ClientNetwork:
    """How a client of httpx reaches each origin; safe for many threads.

    Args:
        client: The client that the user's factory made.
        known_hooks: Names of hooks that have nothing to do with the network.

    Warns:
        UserWarning: Downloads cannot use something of it.
    """

    def __init__(self, client: Any, known_hooks: frozenset[str] = frozenset()) -> None:
        self._client = client
        self._paths: dict[str, NetworkPath | None] = {}
        unsupported = list(dict.fromkeys(self._unsupported(known_hooks)))
        if unsupported:
            warnings.warn(
                "Downloads cannot use everything of the client that set_client_factory gave to huggingface_hub: they lack "
                f"{', '.join(unsupported)}. Give certificates and proxies to hf_haul.ParallelDownloadManager("
                "verify_tls=..., proxies=...), that as manager=, and headers as headers=.",
                UserWarning,
                stacklevel=2,
            )

    def path_to(self, url: str) -> NetworkPath | None:
        """Return how the client reaches a URL; ``None`` if unknown."""
        origin = parse_url(url).origin
        try:
            return self._paths[origin]
        except KeyError:
            path = self._find_path(url)
        if len(self._paths) >= _MAX_ORIGINS:
            self._paths.clear()
        self._paths[origin] = path
        return path

    def headers_for(self, url: str, own: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that the client would send to a URL: its own, the request's, its authentication.

        Args:
            url: On the Hub.
            own: The request's own headers.
        """
        if not hasattr(self._client, "build_request"):  # something that imitates httpx's
            return dict(own)
        request = self._client.build_request("GET", url, headers=dict(own))
        auth: Any = getattr(self._client, "auth", None)
        if type(auth).__name__ in _SIMPLE_AUTH:
            request = next(auth.sync_auth_flow(request))
        given = {name.lower() for name in own}
        return {
            **{k: v for k, v in request.headers.items() if k.lower() not in _NOT_CARRIED | given},
            **{k: request.headers.get(k, v) if k.lower() == "authorization" else v for k, v in own.items()},
        }

    # ---- its transports

    def _find_path(self, url: str) -> NetworkPath | None:
        try:
            # Also the way to the proxies of the environment, with httpx's reading of NO_PROXY.
            transport = self._client._transport_for_url(type(self._client.base_url)(url))  # noqa: SLF001  see the module's docstring
            return _path_of(transport)
        except (AttributeError, TypeError, ValueError):
            return None

    def _unsupported(self, known_hooks: frozenset[str]) -> Iterator[str]:
        mounted = getattr(self._client, "_mounts", {}).values()
        for transport in (getattr(self._client, "_transport", None), *mounted):
            if transport is not None:
                yield from _unsupported_by(transport)
        auth = getattr(self._client, "auth", None)
        if auth is not None and type(auth).__name__ not in _SIMPLE_AUTH:
            yield f"its authentication ({type(auth).__name__})"
        hooks = getattr(self._client, "event_hooks", {}).get("request", ())
        if any(getattr(hook, "__name__", "") not in known_hooks for hook in hooks):
            yield "what its request hooks do"
        if getattr(self._client, "params", None):
            yield "its query parameters"


def _plain_class(transport: Any) -> type | None:
    """Return httpx's own transport class that a transport derives from."""
    for cls in type(transport).__mro__:
        if cls.__name__ == "HTTPTransport" and cls.__module__.partition(".")[0] in {"httpx", "httpx2"}:
            return cls
    return None


def _unsupported_by(transport: Any) -> Iterator[str]:
    plain: Any = _plain_class(transport)
    if plain is None or type(transport).handle_request is not plain.handle_request:
        yield f"what its transport does ({type(transport).__name__})"
        return
    try:
        _path_of(transport)
    except (AttributeError, TypeError, ValueError):
        yield f"what its transport does ({type(transport).__name__})"
    if getattr(getattr(transport, "_pool", None), "_uds", None) is not None:
        yield "its Unix socket"


def _path_of(transport: Any) -> NetworkPath | None:
    """Return what a transport of httpx was made with."""
    if _plain_class(transport) is None:
        return None
    pool = transport._pool  # noqa: SLF001  see the module's docstring
    tls = pool._ssl_context  # noqa: SLF001  the same
    if getattr(
        pool, "_http2", False
    ):  # httpcore sets the context's protocols before each handshake, and so do we
        tls = _copy_context(tls)
    proxy, headers = _proxy_of(pool) if hasattr(pool, "_proxy_url") else (None, ())
    return NetworkPath(
        proxy=proxy,
        proxy_headers=headers,
        proxy_tls=getattr(pool, "_proxy_ssl_context", None),
        tls=tls,
        source_address=getattr(pool, "_local_address", None),
    )


def _proxy_of(pool: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    url = pool._proxy_url  # noqa: SLF001  see the module's docstring
    scheme, host = url.scheme.decode(), url.host.decode()
    userinfo, kept = "", []
    for raw_name, raw_value in getattr(pool, "_proxy_headers", ()):
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name.lower() == "proxy-authorization" and value.lower().startswith("basic "):
            userinfo = _userinfo(value[6:])
        else:
            kept.append((name, value))
    auth = getattr(pool, "_proxy_auth", None)
    if auth is not None:
        userinfo = ":".join(quote(part, safe="") for part in auth)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    port = "" if url.port is None else f":{url.port}"
    # httpcore leaves names to a SOCKS proxy, which requests calls socks5h.
    scheme = "socks5h" if scheme == "socks5" else scheme
    return f"{scheme}://{userinfo and userinfo + '@'}{host}{port}", tuple(kept)


def _userinfo(basic: str) -> str:
    try:
        user, _, password = base64.b64decode(basic).partition(b":")
    except binascii.Error:
        return ""
    return f"{quote(user, safe='')}:{quote(password, safe='')}"


def _copy_context(tls: ssl.SSLContext) -> ssl.SSLContext:
    """Return a context that trusts the same; a client's certificate cannot be copied."""
    copy = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    copy.check_hostname, copy.verify_mode = tls.check_hostname, tls.verify_mode
    trusted = b"".join(tls.get_ca_certs(binary_form=True))
    if trusted:
        copy.load_verify_locations(cadata=trusted)
    return copy


#: Request hooks of huggingface_hub and of ours.
_KNOWN_HOOKS: Final = frozenset({"hf_request_event_hook", "_strip_secrets"})
_networks: Final[weakref.WeakKeyDictionary[Any, ClientNetwork]] = weakref.WeakKeyDictionary()


def _is_from_users_factory() -> bool:
    upstream = importlib.import_module("huggingface_hub.utils._http")
    factory = getattr(upstream, "_GLOBAL_CLIENT_FACTORY", None)
    return factory is not getattr(upstream, "default_client_factory", None)


def client_network() -> ClientNetwork | None:
    """Return how the client of the user's own factory reaches the network.

    The result is ``None`` with huggingface_hub's factory.

    Warns:
        UserWarning: Downloads cannot use something of it; once for each client.
    """
    if not _is_from_users_factory():
        return None
    client = get_session()
    network = _networks.get(client)
    if network is None:
        network = _networks[client] = ClientNetwork(client, _KNOWN_HOOKS)
    return network


def add_client_headers(url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers as the client of the user's own factory would send them to the Hub, cookies included."""
    network = client_network()
    return headers if network is None else MappingProxyType(network.headers_for(url, headers))


#: huggingface_hub's own clients that trust what the environment names.
_trusting: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def trust_named_certificates() -> None:
    """Make huggingface_hub's own client trust the certificates that the bytes' connections trust.

    It knows ``SSL_CERT_FILE`` only. ``HF_HAUL_CA_BUNDLE`` and ``REQUESTS_CA_BUNDLE`` count for downloads,
    which begin with questions to the Hub. A client of the user's own factory is left alone.

    Raises:
        CertificateError: They cannot be read.
    """
    named = {"HF_HAUL_CA_BUNDLE": ca_bundle(), "REQUESTS_CA_BUNDLE": os.environ.get("REQUESTS_CA_BUNDLE")}
    if not any(named.values()) or _is_from_users_factory():
        return
    client = get_session()
    if client in _trusting:
        return
    mounted = getattr(client, "_mounts", None)
    transports = [
        getattr(client, "_transport", None),
        *(mounted.values() if isinstance(mounted, dict) else ()),
    ]
    for transport in transports:
        context = getattr(getattr(transport, "_pool", None), "_ssl_context", None)
        for name, path in named.items():
            if path and isinstance(context, ssl.SSLContext):
                load_certificates(context, path, name)
    _trusting.add(client)
