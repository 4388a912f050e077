"""What the errors of requests, urllib3, ssl and sockets become, without a network."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import traceback

import pytest
import requests
from urllib3.exceptions import (
    LocationValueError,
    MaxRetryError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
)

from hf_haul.cancellation import CancelToken, SilenceLimits
from hf_haul.errors import (
    CertificateError,
    ConnectionFailedError,
    StalledError,
    StopRequestedError,
    TransferError,
)
from hf_haul.transports.dialing import DialTimeoutError
from hf_haul.transports.network import NetworkOptions
from hf_haul.transports.request import RECEIVING, WAITING, InterruptibleRequest
from hf_haul.transports.slots import NoSlotError
from hf_haul.transports.translation import is_stale, raise_translated

OPTIONS = NetworkOptions.of(
    verify=True, cert=None, proxies=None, trust_env=False, headers={}, connect_timeout=5.0, read_timeout=7.0
)
SECRET = "X-Signature=s3cret"
HANDSHAKE = "the TLS handshake"


def wrapped(cause: BaseException) -> requests.ConnectionError:
    """An error as requests raises it: in others that quote the whole URL."""
    return requests.ConnectionError(MaxRetryError(None, f"/a?{SECRET}", cause))  # type: ignore[arg-type]  # no pool is needed


def translate(error: BaseException, phase: str = "connecting", **limits: float) -> BaseException:
    call = InterruptibleRequest(CancelToken(), "cdn.test")
    call.enter(phase)
    call.silence_limits = SilenceLimits(**limits) if limits else None
    with pytest.raises(BaseException) as caught:
        raise_translated(error, call, OPTIONS)
    return caught.value


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        pytest.param(socket.gaierror(-2, "unknown"), "its name could not be resolved", id="no name"),
        pytest.param(DialTimeoutError(), "no connection within 5 s (HF_HAUL_CONNECT_TIMEOUT)", id="no answer to a connect"),
        pytest.param(TimeoutError(), "nothing received for 7 s", id="silence of a socket"),
        pytest.param(ReadTimeoutError(None, SECRET, SECRET), "nothing received for 7 s", id="silence, as urllib3 has it"),  # type: ignore[arg-type]  # no pool is needed
        pytest.param(http.client.RemoteDisconnected(), "closed by the server without an answer", id="closed"),
        pytest.param(ProtocolError("x", http.client.IncompleteRead(b"", 9)), "cut short", id="cut short"),
        pytest.param(OSError(errno.ECONNREFUSED, "Connection refused"), "Connection refused", id="the system's words"),
        pytest.param(ProxyError("x", OSError(errno.EPIPE, "Broken pipe")), "its proxy: Broken pipe", id="the proxy's fault"),
        pytest.param(http.client.BadStatusLine(""), "BadStatusLine", id="no words at all"),
    ],
)  # fmt: skip
def test_a_broken_connection_says_in_words_what_happened_where(cause: BaseException, words: str) -> None:
    error = translate(wrapped(cause))
    assert type(error) is ConnectionFailedError
    assert str(error).startswith(f"cdn.test: {words} (connecting, ")


@pytest.mark.parametrize(
    "error",
    [
        wrapped(OSError(errno.ECONNRESET, "reset")),
        requests.exceptions.InvalidURL(f"https://a.test/?{SECRET}"),
        LocationValueError(f"https://a.test/?{SECRET}"),
    ],
    ids=["of the system", "an invalid URL", "an invalid location"],
)
def test_neither_the_error_nor_what_its_traceback_shows_has_the_query(error: BaseException) -> None:
    shown = "".join(traceback.format_exception(translate(error)))
    assert SECRET.partition("=")[2] not in shown


@pytest.mark.parametrize(
    ("phase", "cause", "kind"),
    [
        pytest.param(HANDSHAKE, ssl.SSLCertVerificationError("bad"), CertificateError, id="an untrusted certificate"),
        pytest.param("connecting", ssl.SSLCertVerificationError("bad"), CertificateError, id="whenever it is found"),
        pytest.param(HANDSHAKE, ssl.SSLError("no ciphers"), CertificateError, id="no common ground"),
        pytest.param(RECEIVING, ssl.SSLError("bad record"), ConnectionFailedError, id="a broken record later"),
        pytest.param(HANDSHAKE, ssl.SSLEOFError("eof"), ConnectionFailedError, id="the network broke the handshake"),
        pytest.param(HANDSHAKE, ssl.SSLZeroReturnError("end"), ConnectionFailedError, id="the server ended it"),
    ],
)  # fmt: skip
def test_a_handshake_that_fails_is_final_and_one_that_breaks_is_tried_again(
    phase: str, cause: BaseException, kind: type[TransferError]
) -> None:
    error = translate(requests.exceptions.SSLError(MaxRetryError(None, "/", cause)), phase)  # type: ignore[arg-type]  # no pool is needed
    assert type(error) is kind
    assert kind.retryable is (kind is not CertificateError)


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        pytest.param(WAITING, "no byte for 3 s since the request", id="for an answer"),
        pytest.param(RECEIVING, "no byte for 2 s", id="within a body"),
        pytest.param("connecting", None, id="for a connection"),
    ],
)
def test_a_silence_beyond_the_limits_of_the_request_is_a_stall(phase: str, words: str | None) -> None:
    error = translate(wrapped(TimeoutError()), phase, answer=3.0, stall=2.0)
    assert isinstance(error, StalledError) is (words is not None)
    assert words is None or str(error).startswith(f"cdn.test: {words}")


def test_what_was_woken_is_no_fault_of_the_network() -> None:
    token = CancelToken()
    call = InterruptibleRequest(token, "cdn.test")
    token.set()
    with pytest.raises(StopRequestedError):
        raise_translated(wrapped(OSError("bad descriptor")), call, OPTIONS)


def test_our_own_errors_pass_as_they_are_and_a_closed_pool_has_its_own_words() -> None:
    own = TransferError("in our words")
    assert translate(own) is own
    closed = translate(NoSlotError(None, "no slot"))  # type: ignore[arg-type]  # no pool is needed
    assert str(closed) == "the connection pool is closed"


@pytest.mark.parametrize(
    ("cause", "stale"),
    [
        (http.client.RemoteDisconnected(), True),
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (ssl.SSLEOFError(), True),
        (TimeoutError(), False),
        (ConnectionRefusedError(), False),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_reused_connection_that_ends_at_once_had_been_closed_before(
    cause: BaseException, stale: bool
) -> None:
    assert is_stale(wrapped(ProtocolError("Connection aborted.", cause))) is stale


def test_an_error_that_is_its_own_cause_is_looked_at_once() -> None:
    error = requests.ConnectionError()
    error.args = (error,)
    assert not is_stale(error)
