"""A request through an adapter that a user has mounted: whatever that is, and whatever it answers with.

What it blocks in nobody can end. So it is called on a thread of its own, of which the thread that asks lets
go when it is woken; and so are the hooks for its answer, which may read that, or ask once more. Where an
answer is read from a socket, as with all of urllib3's, reading can be ended as ever; where it is not, the
adapter has to see to it that no read of its body blocks for long.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import requests
from requests.adapters import BaseAdapter
from urllib3.response import BaseHTTPResponse

from hf_haul.ranges import parse_length
from hf_haul.redaction import redacting
from hf_haul.threads import start_daemon
from hf_haul.transports.request import WAITING, InterruptibleRequest
from hf_haul.transports.sessions import receive

__all__ = ["GivenAnswer", "raw_answer", "send_apart"]

#: Seconds of one wait: the main thread sees a signal that comes right before a wait only after it.
_LONGEST_SECONDS: Final = 0.5


class GivenAnswer:
    """An answer whose body is whatever an adapter gives: a file, or bytes.

    Attributes:
        status: The HTTP status.
        headers: Names in any case.
        length_remaining: Bytes of the body, ``None`` if nobody knows.
    """

    def __init__(self, answer: requests.Response) -> None:
        self._answer = answer
        self.status = answer.status_code
        headers = requests.structures.CaseInsensitiveDict(answer.headers)
        # What was encoded is not any more where it is read already, by a hook for example; and of a body that
        # is not urllib3's, requests undoes no encoding either.
        headers.pop("Content-Encoding", None)
        self._body: Any = answer.raw
        if _is_read(answer):
            content = answer.content or b""
            self._body = io.BytesIO(content)
            headers["Content-Length"] = str(len(content))
        self.headers: Mapping[str, str] = headers
        self.length_remaining = parse_length(self.headers.get("Content-Length"))

    def read1(self, amount: int, *, decode_content: bool = False) -> bytes:
        """Return up to ``amount`` bytes of the body as they come; none at its end."""
        del decode_content  # nobody but urllib3 says what it is encoded with
        read = getattr(self._body, "read1", self._body.read)
        return bytes(read(amount))

    def close(self) -> None:
        """Close the answer."""
        self._answer.close()

    def release_conn(self) -> None:
        """Let go of the answer."""
        self._answer.close()


def _is_read(answer: requests.Response) -> bool:
    content: Any = answer._content  # noqa: SLF001  requests has no public word for it
    return answer.raw is None or content is not False


def raw_answer(answer: requests.Response) -> BaseHTTPResponse | GivenAnswer:
    """Return what the body of an answer is read from."""
    raw = answer.raw
    if isinstance(raw, BaseHTTPResponse) and raw.status == answer.status_code and not _is_read(answer):
        return raw
    return GivenAnswer(answer)


class _Sending:
    """A request on a thread of its own, whose answer somebody waits for, or not any more.

    Locking: ``_lock`` guards ``_abandoned`` and ``outcome``.
    """

    def __init__(self, send: Callable[[], requests.Response]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._abandoned = False
        self.ended = threading.Event()
        self.outcome: requests.Response | BaseException | None = None

    def run(self) -> None:
        try:
            with redacting():
                got: requests.Response | BaseException = self._send()
        except BaseException as error:  # noqa: BLE001  raised in the thread that asked
            got = error
        with self._lock:
            self.outcome = got
            abandoned = self._abandoned
        self.ended.set()
        if abandoned:
            _close(got)

    def abandon(self) -> None:
        """Let it end when it likes: nobody waits for it."""
        with self._lock:
            self._abandoned = True
        _close(self.outcome)


def send_apart(
    adapter: BaseAdapter,
    session: requests.Session,
    prepared: requests.PreparedRequest,
    call: InterruptibleRequest,
    **sent: Any,
) -> requests.Response:
    """Send a request through an adapter, and receive its answer as a session does, until the call is woken.

    Raises:
        WokenError: It was.
    """
    sending = _Sending(lambda: receive(session, adapter.send(prepared, **sent), prepared, **sent))
    call.enter(WAITING)
    if start_daemon(sending.run, "hf-haul-adapter") is None:
        sending.run()  # no thread is to be had: here, then, and nothing can interrupt it
    try:
        with call.blocking(sending.ended.set):
            while not sending.ended.wait(_LONGEST_SECONDS):
                pass
    except BaseException:
        sending.abandon()
        raise
    got = sending.outcome
    if isinstance(got, BaseException):
        raise got
    assert got is not None  # it has ended
    sock = _socket_of(got.raw)
    if isinstance(sock, socket.socket):
        call.attach(sock)
        if call.silence_limits is not None:
            with suppress(OSError):
                sock.settimeout(call.silence_limits.stall)
    return got


def _close(got: object) -> None:
    if isinstance(got, requests.Response):
        with suppress(Exception):
            got.close()


def _socket_of(raw: Any) -> Any:
    """Return the socket that a body comes from; ``None`` if it comes from none."""
    answer = getattr(raw, "_fp", None)
    reader = getattr(answer, "fp", None) if isinstance(answer, http.client.HTTPResponse) else None
    return getattr(getattr(reader, "raw", None), "_sock", None)
