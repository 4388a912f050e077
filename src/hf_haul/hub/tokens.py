"""Where a token may go: the Hub's own origins, and a hook that strips secrets from all other requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from huggingface_hub import constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    get_session,
)

from hf_haul.errors import InvalidUrlError
from hf_haul.hub.client_network import trust_named_certificates
from hf_haul.redaction import redacting
from hf_haul.urls import origin_of

__all__ = ["is_hub", "may_follow_with_token", "protect_secrets", "trusted_origins"]

#: Origins that huggingface_hub sends the token to besides the endpoint in use.
_HUB_ENDPOINTS: Final = ("https://huggingface.co", "https://hub-ci.huggingface.co", "https://hf.co")


def trusted_origins(url: str) -> frozenset[str]:
    """Return the origins that may receive a token meant for ``url``, as ``scheme://host:port``."""
    found = set()
    for each in (*_HUB_ENDPOINTS, constants.ENDPOINT, url):
        with suppress(InvalidUrlError):  # nothing is ever sent there
            found.add(origin_of(each))
    return frozenset(found)


def is_hub(base: str) -> bool:
    """Return whether a URL is the Hub's itself, not a mirror's: there, etags are digests."""
    try:
        return origin_of(base) in {origin_of(each) for each in _HUB_ENDPOINTS}
    except InvalidUrlError:
        return False


#: Headers of a request that cannot hold a secret.
_HARMLESS_HEADERS: Final = frozenset(
    {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
        "range",
        "x-amzn-trace-id",
        "content-length",
        "content-type",
        "transfer-encoding",
    }
)
#: Where this thread may send secrets; ``None`` for requests that are not ours.
_allowed_origins: Final[ContextVar[frozenset[str] | None]] = ContextVar("hf_haul_origins_asked", default=None)


def _strip_secrets(request: Any) -> None:
    """Strip what may be secret from a request to another origin. A request hook of huggingface_hub's client.

    huggingface_hub 1.x follows redirects of a file's metadata with the token, to any port of the same host.
    """
    allowed = _allowed_origins.get()
    if allowed is None:  # the application's own
        return
    try:
        is_own = origin_of(str(request.url)) in allowed
    except InvalidUrlError:
        is_own = False
    if not is_own:
        for name in set(request.headers):
            if name.lower() not in _HARMLESS_HEADERS:
                del request.headers[name]


def _drop_encoded_length(response: Any) -> None:
    """Drop the length of an encoded body from the answer to a HEAD.

    A response hook of huggingface_hub's client.

    huggingface_hub would take it for the file's size.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if (
        _allowed_origins.get() is not None
        and response.request.method == "HEAD"
        and encoding not in {"", "identity"}
    ):
        response.headers.pop("Content-Length", None)


def _redirect_origins(base: str) -> frozenset[str]:
    """Return the origins to which a redirect from ``base`` may take the token, https as well."""
    own = trusted_origins(base)
    upgraded = {
        f"https://{each[7:-3]}:443" for each in own if each.startswith("http://") and each.endswith(":80")
    }
    return own | upgraded


def may_follow_with_token(url: str, target: str) -> bool:
    """Return whether a redirect from ``url`` to ``target`` may be followed with the token."""
    try:
        return origin_of(target) in _redirect_origins(url)
    except InvalidUrlError:
        return False


def _require_url(base: str) -> None:
    """Raise an error that names the setting if the Hub's URL is invalid: huggingface_hub names none."""
    try:
        origin_of(base)
    except InvalidUrlError as error:
        name = "HF_ENDPOINT" if base == constants.ENDPOINT.rstrip("/") else "endpoint"
        raise InvalidUrlError(
            f"{name}, the Hub's URL, is {error}. Unset it, or set it to one such as https://huggingface.co"
        ) from None


@contextmanager
def protect_secrets(base: str) -> Iterator[None]:
    """Keep secrets of this thread's requests out of logs and away from other origins, for a block.

    Args:
        base: The Hub's URL.

    Raises:
        InvalidUrlError: ``base`` is no URL, as where ``HF_ENDPOINT`` is set to nothing.
        CertificateError: Certificates that a variable names cannot be read.
    """
    if not constants.is_offline_mode():  # nothing is asked then
        _require_url(base)
        trust_named_certificates()
    hooks = getattr(get_session(), "event_hooks", None)
    if isinstance(hooks, dict):
        for kind, hook in (("request", _strip_secrets), ("response", _drop_encoded_length)):
            if hook not in hooks.setdefault(kind, []):
                hooks[kind].append(hook)
    before = _allowed_origins.set(_redirect_origins(base))
    try:
        with redacting():
            yield
    finally:
        _allowed_origins.reset(before)
