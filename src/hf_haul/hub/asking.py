"""Requests to the Hub: which errors are transient, how often and after what delay a request is repeated."""

from __future__ import annotations

import importlib
import json
import logging
import reprlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote

from huggingface_hub import constants
from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but without an __all__
    hf_raise_for_status,
)

from hf_haul.cancellation import CancelToken
from hf_haul.config import DEFAULT_TIMINGS, Timings
from hf_haul.descriptors import descriptors
from hf_haul.errors import HaulError, HttpStatusError, StopRequestedError
from hf_haul.redaction import redacting
from hf_haul.retry_after import parse_retry_after
from hf_haul.transports.pacing import ServerWaits
from hf_haul.urls import host_of, redact
from hf_haul.waits import Wait, WaitReason, Waits, in_words, unattended

__all__ = [
    "BODY_HEADERS",
    "LISTING_ERRORS",
    "UNCACHED_TIMEOUT",
    "UNREACHABLE",
    "BadAnswerError",
    "ProxyError",
    "ask_once",
    "explain",
    "explain_misreads",
    "httpx",
    "is_busy",
    "is_listing_unknown",
    "is_not_served",
    "is_offline",
    "is_transient",
    "is_unanswered",
    "raise_for_status",
    "retry_broken",
    "retry_busy",
    "uncached_timeout",
    "wait_as_requested",
]

logger = logging.getLogger(__name__)

# huggingface_hub 1.x speaks httpx and 2.x httpx2: its errors say which.
httpx: Any = importlib.import_module(
    next(
        base for base in HfHubHTTPError.__mro__ if not base.__module__.startswith("huggingface_hub")
    ).__module__.partition(".")[0]
)
ProxyError: type[Exception] = httpx.ProxyError
#: Errors after which huggingface_hub looks into the cache. A ProxyError is not one of them.
UNREACHABLE: Final[tuple[type[Exception], ...]] = (
    httpx.ConnectError,
    httpx.TimeoutException,
    OfflineModeIsEnabled,
    HfHubHTTPError,
)
#: What parsing raises for an answer that no Hub sends: wrong types, missing fields, endless nesting.
_MISREAD_ERRORS: Final[tuple[type[Exception], ...]] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    httpx.DecodingError,
    httpx.InvalidURL,
)
#: What may be raised where a listing is asked for.
LISTING_ERRORS: Final[tuple[type[Exception], ...]] = (
    *UNREACHABLE,
    httpx.RequestError,  # a broken connection, a proxy that refuses, redirects without end
    FileMetadataError,
    *_MISREAD_ERRORS,
)
#: A connection was refused, or broke.
_CONNECTION_ERRORS: Final[tuple[type[Exception], ...]] = (httpx.NetworkError, httpx.RemoteProtocolError)
_TRANSIENT_ERRORS: Final[tuple[type[Exception], ...]] = (httpx.TimeoutException, *_CONNECTION_ERRORS)
#: What may be raised for a reason that passes.
_MAY_PASS: Final[tuple[type[Exception], ...]] = (json.JSONDecodeError, HfHubHTTPError, *_TRANSIENT_ERRORS)
_TRANSIENT_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
#: Seconds that a metadata request may take when the cache cannot answer it, see :func:`uncached_timeout`:
#: enough for a source that needs a minute.
UNCACHED_TIMEOUT: Final = 75.0
#: Headers that are wrong for a decoded or truncated body.
BODY_HEADERS: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})
_LISTING_UNKNOWN: Final = "ListingUnknown"
_ENTRY_NOT_SERVED: Final = "EntryNotServed"
T = TypeVar("T")


def is_offline() -> bool:
    """Return whether huggingface_hub was told to stay offline."""
    return bool(constants.is_offline_mode())


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed a little later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT_STATUSES
    return isinstance(error, _TRANSIENT_ERRORS)


def is_unanswered(error: BaseException) -> bool:
    """Return whether nobody has said anything about what was asked, for whatever reason."""
    return is_transient(error) or isinstance(error, httpx.RequestError)


def is_busy(error: BaseException) -> bool:
    """Return whether the Hub is reachable, but cannot answer right now."""
    if isinstance(error, httpx.ConnectTimeout):
        return False
    return is_transient(error) and isinstance(error, (HfHubHTTPError, httpx.TimeoutException))


def is_listing_unknown(error: BaseException) -> bool:
    """Return whether a ``hf-haul serve`` has some files of a commit, but no listing of it."""
    return _error_code(error) == _LISTING_UNKNOWN


def is_not_served(error: BaseException) -> bool:
    """Return whether a ``hf-haul serve`` has some files of a commit, but not this one."""
    return _error_code(error) == _ENTRY_NOT_SERVED


def _error_code(error: BaseException) -> str | None:
    return error.response.headers.get("X-Error-Code") if isinstance(error, HfHubHTTPError) else None


class BadAnswerError(FileMetadataError):
    """An answer that is not what a Hub sends."""

    def __init__(self, what: str, error: BaseException) -> None:
        super().__init__(
            f"the answer about {what} cannot be understood: {type(error).__name__}: {reprlib.repr(str(error))}. If it comes"
            " from a mirror or a proxy, set HF_ENDPOINT to another one or to the Hub itself."
        )


def raise_for_status(response: Any) -> None:
    """Raise huggingface_hub's error for a refused request, even if it cannot parse the reason."""
    try:
        hf_raise_for_status(response)
    except HfHubHTTPError:
        raise
    except _MISREAD_ERRORS as error:
        raise HfHubHTTPError(
            f"Status {response.status_code} for url {redact(str(response.url))}; what it says of the reason cannot be"
            f" understood: {type(error).__name__}",
            response=response,
        ) from error


@contextmanager
def explain_misreads(what: str) -> Iterator[None]:
    """Turn what parsing an answer raises into an error that names the answer.

    Args:
        what: The answer's subject, for the message.

    Raises:
        BadAnswerError: The answer is not what a Hub sends.
    """
    try:
        yield
    except (
        HaulError,
        HFValidationError,
        json.JSONDecodeError,
    ):  # the last may be a captive portal's page
        raise
    except _MISREAD_ERRORS as error:
        raise BadAnswerError(what, error) from error


def uncached_timeout() -> float:
    """Return the seconds that a request beyond the cache may take: ``HF_HUB_ETAG_TIMEOUT``, where set."""
    if constants.HF_HUB_ETAG_TIMEOUT != constants.DEFAULT_ETAG_TIMEOUT:
        return float(constants.HF_HUB_ETAG_TIMEOUT)
    return UNCACHED_TIMEOUT


def explain(error: BaseException, url: str, path: str = "") -> BaseException:
    """Return the error that huggingface_hub raises when a server refuses ``url`` in this way.

    Args:
        error: What the engine raised.
        url: What was asked for.
        path: The file's name, added to the message where the server did not name it.

    Returns:
        huggingface_hub's error, or ``error`` itself if it is about anything but a refusal.
    """
    if not isinstance(error, HttpStatusError):
        return error
    kept = [
        (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in error.headers.items()
        if name.lower() not in BODY_HEADERS
    ]
    # Whether there was a token tells a wrong one from none; which one it was is nobody's business.
    sent = {"Authorization": "Bearer (hidden)"} if error.sent_token else {}
    request = httpx.Request("GET", error.url or url, headers=sent)
    response = httpx.Response(error.status, headers=kept, content=error.body, request=request)
    try:
        raise_for_status(response)
    except HfHubHTTPError as explained:
        if path not in str(explained) and quote(path) not in str(explained):
            explained.append_to_message(f"\nThe file is {path!r}.")
        return explained
    return error


def retry_busy(
    ask: Callable[[], T],
    *,
    retry_connect: bool = False,
    what: str = "a repository",
    cancel_token: CancelToken | None = None,
    waits: Waits = unattended,
    timings: Timings = DEFAULT_TIMINGS,
) -> T:
    """Ask, and repeat after transient errors until the attempts run out.

    Obeys ``Retry-After`` as far as ``ServerWaits`` allows. Repeats a request that timed out only once,
    because each attempt takes long enough.

    Args:
        ask: Makes the request.
        retry_connect: Whether to repeat after a refused connection, too.
        what: What is asked about, for messages.
        cancel_token: Ends the waits; a thread that Ctrl+C does not reach needs one.
        waits: Where they are reported.
        timings: How long they are.
    """
    return _retry(
        ask,
        busy=True,
        retry_connect=retry_connect,
        what=what,
        cancel_token=cancel_token,
        waits=waits,
        timings=timings,
    )


def retry_broken(
    ask: Callable[[], T], what: str, waits: Waits = unattended, timings: Timings = DEFAULT_TIMINGS
) -> T:
    """Ask, and repeat after a broken connection or an answer that is not JSON, such as a captive portal's."""
    return _retry(
        ask, busy=False, retry_connect=False, what=what, cancel_token=None, waits=waits, timings=timings
    )


def _retry(
    ask: Callable[[], T],
    *,
    busy: bool,
    retry_connect: bool,
    what: str,
    cancel_token: CancelToken | None,
    waits: Waits,
    timings: Timings,
) -> T:
    ask = partial(descriptors.retry_on_shortage, ask, None if cancel_token is None else cancel_token.check)
    host = host_of(what) if "://" in what else None
    unanswered = Wait(WaitReason.NETWORK, f"{host or 'the Hub'} has not answered yet about {what}", host=host)
    budget = _AskBudget(busy=busy, retry_connect=retry_connect)
    attempts = len(timings.ask_again)
    for number, usual in enumerate(timings.ask_again, 1):
        try:
            with waits.during(unanswered, after=timings.worth_a_word):
                return ask_once(ask)
        except _MAY_PASS as error:
            seconds = budget.seconds_after(error, usual)
            if seconds is None:
                raise
            wait = _wait_for(error, seconds, (number, attempts), _host_of(error) or host)
        waits.asked_again += 1
        with waits.during(wait):
            _pause(seconds, cancel_token)
    return _last_attempt(ask, what)


class _AskBudget:
    """Decides after which errors one question is asked again, and how long after.

    Args:
        busy: Whether a busy Hub is asked again.
        retry_connect: Whether one that cannot be reached is.
    """

    def __init__(self, *, busy: bool, retry_connect: bool) -> None:
        self._busy = busy
        self._retry_connect = retry_connect
        self._server_waits = ServerWaits()
        self._slow = False  # whether it took too long once; each attempt takes long enough

    def seconds_after(self, error: Exception, usual: float) -> float | None:
        """Return the seconds to wait before the next attempt; ``None`` if there is to be none.

        Args:
            error: What the last attempt raised.
            usual: Seconds to wait if nobody says otherwise.
        """
        if isinstance(error, HfHubHTTPError):
            if not self._busy or not is_busy(error):
                return None
            return _retry_delay(error, usual, self._server_waits)
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return usual if self._retry_connect else None
        if isinstance(error, httpx.TimeoutException):
            again, self._slow = self._busy and not self._slow, True
            return usual if again else None
        return usual


def wait_as_requested(
    error: Exception, waits: Waits = unattended, timings: Timings = DEFAULT_TIMINGS
) -> None:
    """Wait as long as the answer to an earlier request asked for, if it did, before another one is made.

    Args:
        error: How that request ended. Only a busy Hub's answer asks for time: a request that was not answered
            has waited long enough.
        waits: Where the wait is reported.
        timings: How long it is where it asked for none.
    """
    if not isinstance(error, HfHubHTTPError) or not is_busy(error):
        return
    seconds = _retry_delay(error, timings.ask_again[0], ServerWaits())
    assert seconds is not None  # nothing was waited for yet
    waits.asked_again += 1
    with waits.during(_wait_for(error, seconds, None, _host_of(error))):
        _pause(seconds, None)


def _wait_for(error: Exception, seconds: float, attempt: tuple[int, int] | None, host: str | None) -> Wait:
    """Return what the wait before another attempt is for people.

    Args:
        error: How the last attempt ended.
        seconds: How long is waited.
        attempt: Which of how many retries follows; ``None`` if it is none of them.
        host: Who was asked.
    """
    reason, why = WaitReason.NETWORK, "broke the connection"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reason = WaitReason.RATE_LIMIT if status == 429 else WaitReason.SERVER_BUSY
        why = f"{'limits requests' if status == 429 else 'is busy'} (status {status})"
    elif isinstance(error, json.JSONDecodeError):
        why = "answered with something that is not JSON"
    elif isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        why = "cannot be reached"
    elif isinstance(error, httpx.TimeoutException):
        why = "did not answer in time"
    number, attempts = (None, None) if attempt is None else attempt
    what = "asked again" if attempt is None else f"retry {number} of {attempts}"
    message = f"{host or 'The Hub'} {why}; {what} in {in_words(seconds)}"
    return Wait(reason, message, seconds, host, number, attempts)


def _host_of(error: Any) -> str | None:
    """Return which server an error of huggingface_hub's client is about; ``None`` where it does not say."""
    for subject in ("response", "request"):
        try:
            return host_of(str(getattr(error, subject).url)) or None
        except (AttributeError, RuntimeError):  # httpx's, where no request is known
            continue
    return None


def _pause(seconds: float, cancel_token: CancelToken | None) -> None:
    if cancel_token is None:
        time.sleep(seconds)
    elif cancel_token.wait(seconds):
        raise StopRequestedError


def _last_attempt(ask: Callable[[], T], what: str) -> T:
    try:
        return ask_once(ask)
    except json.JSONDecodeError as error:
        raise BadAnswerError(what, error) from error


def ask_once(ask: Callable[[], T]) -> T:
    """Ask one time, with secrets redacted in what is logged meanwhile."""
    try:
        with redacting():
            return ask()
    except httpx.TimeoutException as error:
        error.args = (f"{error} (HF_HUB_ETAG_TIMEOUT sets how long is waited)", *error.args[1:])
        raise


def _retry_delay(error: HfHubHTTPError, wait: float, server_waits: ServerWaits) -> float | None:
    """Return the seconds to wait for a busy Hub, at least ``wait``.

    The result is ``None`` once ``ServerWaits`` allows no more.
    """
    status = error.response.status_code
    asked = parse_retry_after(status, error.response.headers)
    if asked is None:
        return wait
    granted = server_waits.grant(asked, counts_requests=status == 429)
    return None if granted is None else max(granted, wait)
