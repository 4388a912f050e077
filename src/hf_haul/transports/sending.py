"""How a request is sent: plainly over a connection that stands, or as ``requests`` would; and once more.

Once more where the connection turns out to be gone, and where no socket could be opened for a while.
"""

from __future__ import annotations

from typing import Any, cast

from urllib3.response import BaseHTTPResponse
from urllib3.util import Timeout

from hf_haul.descriptors import descriptors, is_shortage
from hf_haul.errors import TooManyOpenFilesError
from hf_haul.redaction import redacting
from hf_haul.transports.mounted import GivenAnswer, raw_answer, send_apart
from hf_haul.transports.network import Adapter, NetworkOptions
from hf_haul.transports.outgoing import Outgoing
from hf_haul.transports.plain import PlainAnswer, exchange
from hf_haul.transports.request import InterruptibleRequest, active
from hf_haul.transports.sessions import receive
from hf_haul.transports.slots import ConnectionSlots, PooledConnections
from hf_haul.transports.translation import FOREIGN, is_stale, raise_translated

__all__ = ["Sender"]


class Sender:
    """Sends requests of one pool; for any number of threads.

    Args:
        options: The pool's.
        slots: Those of its connections.
    """

    def __init__(self, options: NetworkOptions, slots: ConnectionSlots) -> None:
        self._options = options
        self._slots = slots

    def send(self, request: Outgoing) -> BaseHTTPResponse | PlainAnswer | GivenAnswer:
        """Send a request, and wait for the head of its answer."""
        call = request.call
        try:
            return self._send_plainly(request) or self._send_once(request)
        except FOREIGN as error:
            if is_shortage(error) and not call.woken:
                return self._send_on_shortage(request)
            # The server may close an idle connection in the moment we choose it. Nothing was answered, and a
            # GET may be repeated: that is no failure, and no matter for the retry budget.
            if not call.reused or call.woken or not is_stale(error):
                raise_translated(error, call, self._options)
        call.reused, call.new = False, True
        try:
            return self._send_once(request)
        except FOREIGN as error:
            raise_translated(error, call, self._options)

    def _send_on_shortage(self, request: Outgoing) -> BaseHTTPResponse | GivenAnswer:
        """Send the request once a socket can be opened again."""
        call = request.call

        def attempt() -> BaseHTTPResponse | GivenAnswer:
            with self._slots.attempting():
                return self._send_once(request)

        self._slots.close_idle(0.0)
        call.enter("waiting for a file descriptor")
        try:
            with call.cancel_token.queueing():
                return descriptors.retry_on_shortage(
                    attempt, call.raise_if_woken, own=call.cancel_token.holds, what="a connection"
                )
        except TooManyOpenFilesError:
            raise
        except FOREIGN as error:
            raise_translated(error, call, self._options)

    def _send_plainly(self, request: Outgoing) -> BaseHTTPResponse | PlainAnswer | None:
        """Send the request over an idle connection; ``None`` if there is none, or it takes more than that."""
        if request.session is not None:
            return None
        route = request.adapter.network.known_route(request.url, request.path)
        if route is None or route.forwards:
            return None
        connections = cast("PooledConnections", route.connections)
        return exchange(connections, request.call, request.url, request.headers, self._options.read_timeout)

    def _send_once(self, request: Outgoing) -> BaseHTTPResponse | GivenAnswer:
        """Send the request as ``requests`` would."""
        adapter, call, session = request.adapter, request.call, request.session
        options = adapter.network.options
        try:
            with redacting():
                prepared = request.prepared()
                chosen = adapter if session is None else session.get_adapter(str(prepared.url))
                sent: dict[str, Any] = {
                    "stream": True,
                    "timeout": self._timeout(call),
                    "verify": options.requests_verify,
                    "cert": options.cert,
                }
                if isinstance(chosen, Adapter):
                    call.route = adapter.network.route(request.url, adapter, prepared, request.path)
                    active.call = call
                    sent["proxies"] = call.route.proxies
                    answer = adapter.send(prepared, **sent)
                    if session is not None:
                        call.raw = raw_answer(answer)  # until hooks have put another in its place
                        call.raw = raw_answer(receive(session, answer, prepared, **sent))
                else:
                    timeout = sent["timeout"]
                    sent["timeout"] = (timeout.connect_timeout, timeout.read_timeout)
                    sent["proxies"] = adapter.network.proxies_for(request.url, request.path)
                    assert session is not None  # whose adapter it is
                    call.raw = raw_answer(send_apart(chosen, session, prepared, call, **sent))
        finally:
            active.call = None
        raw = cast("BaseHTTPResponse | GivenAnswer", call.raw)
        call.raise_if_woken()
        return raw

    def _timeout(self, call: InterruptibleRequest) -> Timeout:
        limits = call.silence_limits
        if limits is None:
            return self._options.timeout
        return Timeout(connect=self._options.connect_timeout, read=limits.answer)
