"""What it means that no answer came, or none that a Hub would give."""

from __future__ import annotations

import re
from typing import Any, Final

from hf_haul.failures.failure import RUN_AGAIN, Failure, FailureKind, says_itself, sentences
from hf_haul.urls import redact, source_of

__all__ = [
    "CERTIFICATES",
    "read_bad_answer",
    "read_broken",
    "read_certificate",
    "read_exhausted",
    "read_metadata",
    "read_no_answer",
    "read_no_connection",
    "read_not_json",
    "read_proxy",
]

#: What to do about a certificate that was refused.
CERTIFICATES: Final = (
    "Behind a proxy that opens TLS, name its certificates in SSL_CERT_FILE or REQUESTS_CA_BUNDLE; "
    "otherwise check this machine's clock, and the address"
)
#: What OpenSSL says where the other side answers with something else than TLS.
_NO_TLS: Final = ("wrong version number", "record layer failure", "http request", "unknown protocol")
_WITHOUT_TLS: Final = "If it is a server without TLS, write http:// in place of https://; else check the port and the proxy settings"
#: A URL, and what of it tells which server it is about.
_URL_PATH: Final = re.compile(r"(https?://[^/\s]+)/\S*")
_IF_IT_LASTS: Final = "; if it stays so, check the connection and the proxy settings (HTTPS_PROXY, NO_PROXY)"
_NETWORK: Final = "Check the connection, the proxy settings (HTTPS_PROXY, NO_PROXY) and HF_ENDPOINT"
_LOG_IN_TO_NETWORK: Final = (
    "Open any web page in a browser and log in to the network; else check HF_ENDPOINT and the proxy settings"
)


def _source(error: Any) -> str:
    """Return which server an httpx error is about."""
    try:
        return source_of(str(error.request.url))
    except (AttributeError, RuntimeError):  # httpx's, where no request is known
        return "The Hub"


def read_no_connection(error: Any) -> Failure:
    """Return why a server cannot be reached; httpx says it in the text alone."""
    said = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in said or "[SSL" in said:
        return _distrusted(error)
    source, lowered = _source(error), said.lower()
    if "refused" in lowered:
        why = "the connection was refused"
    elif any(words in lowered for words in ("name or service", "getaddrinfo", "nodename", "name resolution")):
        why = "its name cannot be resolved"
    else:
        why = re.sub(r"^\[[^\]]*\]\s*", "", said) or "no connection"
    return Failure(FailureKind.NETWORK, f"{source} cannot be reached: {why}", _NETWORK)


def _distrusted(error: Any) -> Failure:
    return _no_tls(_source(error), str(error))


def read_certificate(error: Any) -> Failure | None:
    """Return what it means that TLS refused the server of a file, in the same words."""
    who, colon, why = sentences(error)[0].partition(": TLS refused the server: ")
    return _no_tls(who, why) if colon else says_itself(FailureKind.NETWORK, CERTIFICATES)(error)


def _no_tls(who: str, said: str) -> Failure:
    """Return why there is no TLS with a server, from what OpenSSL says."""
    why = re.sub(r"\[[^\]]*\]\s*|\s*\(_ssl[^)]*\)", "", said) or "no reason was given"
    if any(words in why for words in _NO_TLS):
        return Failure(FailureKind.NETWORK, f"{who} does not speak TLS ({why})", _WITHOUT_TLS)
    return Failure(
        FailureKind.NETWORK, f"{who} cannot be trusted: its certificate was refused ({why})", CERTIFICATES
    )


def read_exhausted(error: Any) -> Failure | None:
    """Return what went wrong in the end, first; how often and how long it was tried is for those who look."""
    last = error.__cause__
    if type(last).__name__ in {"NoneType", "RetriesExhaustedError"} or not str(last):
        return None
    text = _URL_PATH.sub(r"\1", str(last).splitlines()[0]).rstrip(".")
    tried = str(error).partition("gave up ")[2].partition("; the last error: ")[0]
    details = (f"gave up {tried}", str(last)) if tried else (str(last),)
    hint = f"{RUN_AGAIN}{_IF_IT_LASTS if type(last).__name__ == 'ConnectionFailedError' else ''}"
    return Failure(FailureKind.NETWORK, text, hint, details)


def read_no_answer(error: Any) -> Failure:
    """Return what it means that nothing came in time."""
    return Failure(
        FailureKind.NETWORK,
        f"{_source(error)} did not answer in time",
        f"{RUN_AGAIN}; HF_HUB_ETAG_TIMEOUT sets how many seconds are waited",
    )


def read_broken(error: Any) -> Failure:
    """Return what it means that a connection broke."""
    why = re.sub(r"^\[[^\]]*\]\s*", "", str(error)).rstrip(".")
    return Failure(
        FailureKind.NETWORK, f"The connection to {_source(error)} broke{f': {why}' if why else ''}", RUN_AGAIN
    )


def read_proxy(error: Any) -> Failure:
    """Return what it means that a proxy fails."""
    return Failure(
        FailureKind.NETWORK,
        f"The proxy before {_source(error)} cannot be used: {error}",
        "Check HTTPS_PROXY and NO_PROXY",
    )


def read_not_json(error: Any) -> Failure:
    """Return what it means that an answer is not JSON."""
    return Failure(FailureKind.NETWORK, *_unlike_a_hub("The Hub", str(getattr(error, "doc", ""))))


def _unlike_a_hub(who: str, body: str) -> tuple[str, str]:
    """Return what to say where an answer is not JSON, and what to do."""
    if body.lstrip()[:1] == "<":
        return (
            f"{who} answered with a web page instead of data, as networks do that want a log-in first",
            _LOG_IN_TO_NETWORK,
        )
    return f"{who} did not answer with data of a Hub", _NETWORK


def read_bad_answer(error: Any) -> Failure | None:
    """Return what it means that an answer was asked for several times and never was JSON."""
    cause = error.__cause__
    if type(cause).__name__ != "JSONDecodeError":
        return None
    who = re.search(r"https?://[^\s'\"]*[^\s'\".,:;)]", str(error))
    return Failure(FailureKind.NETWORK, *_unlike_a_hub(source_of(who[0]) if who else "The Hub", cause.doc))


def read_metadata(error: Any) -> Failure | None:
    """Return what it means that an answer about a file lacks what every Hub sends."""
    match = re.match(r"Response from (\S+) is missing the '(\S+)' header", str(error))
    if match is None:
        return says_itself(FailureKind.NETWORK)(error)
    return Failure(
        FailureKind.NETWORK,
        f"{source_of(match[1])} does not answer as a Hub does: something in between may be answering, such as a "
        "network that wants a log-in first",
        _LOG_IN_TO_NETWORK,
        (f"{redact(match[1])}: no {match[2]} header",),
    )
