"""Translates exceptions of requests, urllib3, ssl and the sockets into our own, once."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections import deque
from collections.abc import Iterator
from typing import Final, NoReturn

import requests
from urllib3.exceptions import HTTPError, LocationValueError, ProxyError, ReadTimeoutError, RequestError

from hf_haul.errors import CertificateError, ConnectionFailedError, StalledError, TransferError
from hf_haul.transports.dialing import DialTimeoutError
from hf_haul.transports.network import NetworkOptions
from hf_haul.transports.request import RECEIVING, WAITING, InterruptibleRequest
from hf_haul.transports.retry import stall_hint
from hf_haul.transports.slots import NoSlotError

__all__ = ["FOREIGN", "FOREIGN_IN_BODY", "is_stale", "raise_translated"]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield ``error`` and its causes, the outermost first."""
    seen: set[int] = set()
    todo = deque([error])
    while todo:
        one = todo.popleft()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo.extend((getattr(one, "reason", None), *one.args, one.__cause__))


def _explain(error: BaseException, options: NetworkOptions) -> str:
    """Return what happened, in words without any URL (urllib3's own messages hold the query)."""
    causes = list(_causes(error))
    proxied = "its proxy: " if any(isinstance(cause, ProxyError) for cause in causes) else ""
    known: tuple[tuple[type[BaseException], str], ...] = (
        (socket.gaierror, "its name could not be resolved"),
        (DialTimeoutError, f"no connection within {options.connect_timeout:g} s (HF_HAUL_CONNECT_TIMEOUT)"),
        (TimeoutError, f"nothing received for {options.read_timeout:g} s"),
        (ReadTimeoutError, f"nothing received for {options.read_timeout:g} s"),
        (http.client.RemoteDisconnected, "closed by the server without an answer"),
        (http.client.IncompleteRead, "cut short"),
    )
    for kind, words in known:
        if any(isinstance(cause, kind) for cause in causes):
            return proxied + words
    for cause in reversed(causes):
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            return proxied + (cause.strerror or str(cause) or type(cause).__name__)
    return proxied + type(causes[-1]).__name__


def _stall(error: BaseException, call: InterruptibleRequest) -> str | None:
    """Return how long nothing came, in words, if the request's own limits ended it; else ``None``."""
    limits = call.silence_limits
    if limits is None or call.phase not in {WAITING, RECEIVING}:
        return None
    if not any(isinstance(cause, (TimeoutError, ReadTimeoutError)) for cause in _causes(error)):
        return None
    answered = call.phase == RECEIVING
    seconds, since = (limits.stall, "") if answered else (limits.answer, " since the request")
    return f"no byte for {seconds:.3g} s{since}{stall_hint(answered=answered)}"


def _is_certificate_fault(error: BaseException, *, handshake: bool) -> bool:
    """Return whether the TLS handshake failed, rather than the network the handshake."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        passing = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, passing):
            return handshake and not isinstance(cause, TimeoutError)
    return False


def _tellable(error: BaseException) -> BaseException | None:
    """Return the innermost cause of ``error``, to be shown in tracebacks: those around it quote the URL."""
    *_, innermost = _causes(error)
    telling = (requests.RequestException, RequestError, LocationValueError)
    return None if isinstance(innermost, telling) else innermost


def raise_translated(error: BaseException, call: InterruptibleRequest, options: NetworkOptions) -> NoReturn:
    """Raise ``error`` as one of our own errors, which never hold a query, a user or a password.

    Raises:
        StopRequestedError: The call was woken, and its cancel token is set.
        CertificateError: the TLS handshake failed.
        ConnectionFailedError: No connection, or it broke; a ``StalledError`` if it was woken, or brought
            nothing for longer than its cancel token allows.
        TransferError: The address is unusable, or the pool is closed.
    """
    call.raise_if_woken(error)
    if isinstance(error, TransferError):  # an OSError too, but in our own words already
        raise error
    if isinstance(
        error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, LocationValueError)
    ):
        raise TransferError(f"{call.host}: not a usable address: {type(error).__name__}") from None
    if isinstance(error, NoSlotError):
        raise TransferError("the connection pool is closed") from error
    if (stall := _stall(error, call)) is not None:
        raise StalledError(f"{call.host}: {stall}") from _tellable(error)
    what = _explain(error, options)
    if _is_certificate_fault(error, handshake="TLS" in call.phase):
        raise CertificateError(
            f"{call.host}: the TLS handshake failed: {what}. Behind a proxy that opens TLS, name its certificate "
            "in REQUESTS_CA_BUNDLE; a server's own in HF_HAUL_CA_BUNDLE."
        ) from _tellable(error)
    raise ConnectionFailedError(f"{call.host}: {what} ({call.phase}, {call.seconds():.1f} s)") from _tellable(
        error
    )


FOREIGN: Final = (requests.RequestException, HTTPError, http.client.HTTPException, OSError)
#: The same while a body is read: a chunk of minus five bytes is a ValueError to ``http.client``.
FOREIGN_IN_BODY: Final = (*FOREIGN, ValueError, ArithmeticError)


def is_stale(error: BaseException) -> bool:
    """Return whether a reused connection had been closed before it answered."""
    gone = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
    return any(isinstance(cause, gone) for cause in _causes(error))
