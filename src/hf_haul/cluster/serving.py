"""What a node answers the other nodes of its job: how far it is, the plan, and bytes of what it has.

Requests are answered by what ``localhub`` is made of (connections, ranges, sendfile, pace), on routes of
their own. Nothing is answered without the job's token, and no byte is sent that the node has not announced.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, Final, Protocol
from urllib.parse import parse_qsl, unquote

from aiohttp import web
from multidict import CIMultiDict

from hf_haul.cluster.holdings import HeldRange, NotHeldError
from hf_haul.localhub.arriving import Arrival, ArrivingContent
from hf_haul.localhub.connections import Connections, listen, most_connections
from hf_haul.localhub.hosts import HostRule
from hf_haul.localhub.objects import BytesContent, FileContent
from hf_haul.localhub.pace import Pace
from hf_haul.localhub.replies import Refusal, Reply, file_reply, json_reply
from hf_haul.localhub.requestlog import RequestRecord
from hf_haul.localhub.sending import Delivery, Sender
from hf_haul.ranges import ByteRange

__all__ = ["NODE_HEADER", "PREFIX", "URL_HEADER", "JobServer", "Served"]

logger = logging.getLogger(__name__)

#: Where all routes begin.
PREFIX: Final = "/haul/v1"
_ROOT: Final = PREFIX.split("/")[1:]
#: What a node says of itself when it asks another one.
NODE_HEADER: Final = "Haul-Node"
URL_HEADER: Final = "Haul-Node-Url"

#: Seconds for which a question about the state may wait for news, at the most.
_LONGEST_WAIT: Final = 30.0
#: Ranges that are sent at once; others wait for their turn. When all nodes want the first copies of what one
#: node has, some have them soon, and the others get them from those, instead of all of them at the very end:
#: with three slow nodes of 64 the others end in a third of the time (tests/benchmarks/sim_swarm.py).
_SENT_AT_ONCE: Final = 16
#: Seconds after which the next one may begin all the same: whoever takes a range may have vanished.
_LONGEST_TURN: Final = 10.0
#: Characters of a node's name or URL.
_LONGEST_NAME: Final = 1000
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="hf-haul job"'}


class Served(Protocol):
    """What is served of a job. Methods are called in the server's loop, but for `open`."""

    @property
    def job_id(self) -> str:
        """The job's id."""

    @property
    def version(self) -> int:
        """Changes with each change of the state."""

    def state(self) -> Mapping[str, Any]:
        """Return the state, for JSON."""

    def plan(self) -> bytes | None:
        """Return the plan in JSON; ``None`` while there is none yet."""

    def size_of(self, etag: str) -> int:
        """Return the bytes of a blob.

        Raises:
            NotHeldError: It is none of the job's.
        """

    def open(self, etag: str, span: ByteRange) -> HeldRange:
        """Open a range that was announced; called on a thread that may wait.

        Raises:
            NotHeldError: It was not, or is gone.
            OSError: The disk refuses.
        """

    def note_asker(self, name: str, url: str) -> None:
        """Note a node that has asked."""


class _Held(Arrival):
    """A range that is sent."""

    def __init__(self, held: HeldRange) -> None:
        self._held = held

    async def ready(self, start: int, stop: int) -> tuple[BinaryIO, int]:
        """Return the file; see `Arrival`."""
        del start
        if self._held.is_withdrawn:
            raise Refusal(404, "these bytes turned out to be wrong", "NotHeld")
        return self._held.file, stop

    def close(self) -> None:
        """Close the file."""
        self._held.close()


class _Content(ArrivingContent):
    """A blob, one range of which is open."""

    def __init__(self, size: int, etag: str, held: HeldRange | None = None) -> None:
        self.size = size
        self._etag = etag
        self.held = held

    def at_once(self) -> FileContent | None:
        """Return ``None``: it may be staged."""
        return None

    def begin(self) -> Arrival:
        """Return the range."""
        assert self.held is not None
        return _Held(self.held)

    def sha256(self) -> str:
        """Return the blob's name."""
        return self._etag

    def git_sha1(self) -> str:
        """Return the blob's name."""
        return self._etag


class _Turn:
    """The right to send a range, for one that has it: it ends once."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns: asyncio.Semaphore | None = turns

    def end(self) -> None:
        """Let the next one begin."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.release()


class JobServer:
    """Answers the nodes of one job. It lives in an event loop; `start` and `close` are called there.

    Args:
        served: What there is to serve.
        token: The job's token.
        max_bytes_per_s: Bytes per second of all that is sent; ``None`` for no limit.
        sent_at_once: Ranges of blobs that are sent at once; who asks for more waits.
        longest_turn: Seconds after which a range that is still being sent does not count among them.
        names: Names and addresses of this machine, besides those that it knows: without a token no request
            for another one is answered, as a web page could have made it.

    Raises:
        ValueError: One of the names is none.
    """

    def __init__(
        self,
        served: Served,
        token: str,
        *,
        max_bytes_per_s: float | None = None,
        sent_at_once: int = _SENT_AT_ONCE,
        longest_turn: float = _LONGEST_TURN,
        names: Iterable[str] = (),
    ) -> None:
        self._served = served
        self._token = token.encode()
        self._host_rule = None if token else HostRule(names)
        pace = Pace()
        pace.total = max_bytes_per_s
        self._sender = Sender(pace, lambda: None)
        self._turns = asyncio.Semaphore(sent_at_once)
        self._longest_turn = longest_turn
        self._connections: Connections | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        #: Whether this node waits for another one to list the repository.
        self.awaits_plan = False

    @property
    def body_bytes(self) -> int:
        """Bytes of bodies that were sent."""
        return self._sender.body_bytes

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port.

        Raises:
            OSError: The port is taken, or the host is none of ours.
        """
        sockets = listen(host, port)
        self._connections = Connections(most_connections())
        self._connections.serve(sockets, self._handle)
        bound: int = sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening, and end what is being sent."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._connections is not None:
            await self._connections.close()

    def note_change(self) -> None:
        """Answer those who wait for news."""
        self._changed.set()
        self._changed = asyncio.Event()

    # -- one request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        target = request.raw_path.partition("?")[0]
        record = RequestRecord(
            method=request.method,
            kind="haul",
            url=target,
            repo_id="",
            path=target,
            headers={},
            connection=next(self._numbers),
            start=time.monotonic(),
        )
        try:
            try:
                self._require_own_name(request)
                reply = await self.answer(request.method, request.raw_path, request.headers)
            except Refusal as refusal:
                reply = refusal.reply(as_json=True)
            if request.can_read_body:  # nobody reads it
                reply.headers["Connection"] = "close"
            try:
                async with self._turn(reply):
                    return await self._sender.send(request, reply, Delivery(), record)
            except Refusal as refusal:
                return await self._sender.send(request, refusal.reply(as_json=True), Delivery(), record)
        except ConnectionError:
            return web.Response()  # aiohttp wants one; nobody is there to get it
        finally:
            self._running.discard(task)

    @asynccontextmanager
    async def _turn(self, reply: Reply) -> AsyncIterator[None]:
        """Wait until one more range of a blob may be sent; in the order of requests."""
        if not isinstance(reply.content, _Content) or reply.content.held is None:
            yield
            return
        try:
            await self._turns.acquire()
        except asyncio.CancelledError:
            reply.content.held.close()  # it is not sent
            raise
        turn = _Turn(self._turns)
        longest = asyncio.get_running_loop().call_later(self._longest_turn, turn.end)
        try:
            yield
        finally:
            longest.cancel()
            turn.end()

    async def answer(self, method: str, target: str, headers: Mapping[str, str]) -> Reply:
        """Return the answer to a request; it has to be sent, or its content closed.

        Args:
            method: The request's method.
            target: Its path and query, as they were sent.
            headers: Its headers, whatever their case.

        Raises:
            Refusal: It is not answered.
        """
        self._require_token(headers)
        if method != "GET":
            raise Refusal(405, "this is only read from", headers={"Allow": "GET"})
        path, _, query = target.partition("?")
        parts = [unquote(part) for part in path.split("/")[1:]]
        if parts == [*_ROOT, "health"]:
            has_plan = self._served.plan() is not None
            facts = {
                "job": self._served.job_id,
                "has_plan": has_plan,
                "awaits_plan": self.awaits_plan and not has_plan,
            }
            return _unpaced({"status": "ok", **facts})
        if len(parts) < len(_ROOT) + 2 or parts[: len(_ROOT) + 1] != [*_ROOT, "jobs"]:
            raise Refusal(404, "there is nothing of this name", "NotFound")
        job, *about = parts[len(_ROOT) + 1 :]
        if job != self._served.job_id:
            raise Refusal(
                404, f"this node works on the job {self._served.job_id}, and not on {job}", "OtherJob"
            )
        self._note_asker(headers)
        return await self._about_job(about, dict(parse_qsl(query)), headers)

    async def _about_job(
        self, about: Sequence[str], query: Mapping[str, str], headers: Mapping[str, str]
    ) -> Reply:
        match about:
            case ["state"]:
                return await self._state(query)
            case ["plan"]:
                return self._plan()
            case ["blobs", etag]:
                return await self._blob(etag, headers)
        raise Refusal(404, "there is nothing of this name", "NotFound")

    def _require_own_name(self, request: web.BaseRequest) -> None:
        """Refuse a request under a name that is not this machine's, where there is no token.

        Raises:
            Refusal: It is such a one.
        """
        arrived = request.get_extra_info("sockname")
        hosts = request.headers.getall("Host", [])
        if self._host_rule is not None and not self._host_rule.allows(hosts, arrived and arrived[0]):
            raise Refusal(421, "this node was asked under a name that is not its own", "OtherHost")

    def _require_token(self, headers: Mapping[str, str]) -> None:
        """Refuse whoever does not have the job's token, in a time that tells nothing about it.

        Raises:
            Refusal: They do not.
        """
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(
            hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest(),
            hashlib.sha256(self._token).digest(),
        )
        if scheme.lower() != "bearer" or not right:
            raise Refusal(401, "this node answers only who has its job's token", "NoToken", _CHALLENGE)

    def _note_asker(self, headers: Mapping[str, str]) -> None:
        name, url = headers.get(NODE_HEADER, ""), headers.get(URL_HEADER, "")
        # Whatever else has such names shows them to people.
        if name and url and max(len(name), len(url)) <= _LONGEST_NAME and (name + url).isprintable():
            self._served.note_asker(name, url)

    async def _state(self, query: Mapping[str, str]) -> Reply:
        """Return the state, once it is another one than the asker knows, or the asker's time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(_seconds(query.get("wait")), _LONGEST_WAIT)
        while str(self._served.version) == query.get("after") and loop.time() < deadline:
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), deadline - loop.time())
            except asyncio.TimeoutError:
                break
        return _unpaced(self._served.state())

    def _plan(self) -> Reply:
        plan = self._served.plan()
        if plan is None:
            raise Refusal(503, "the plan is still being made", "NoPlanYet", {"Retry-After": "1"})
        headers = CIMultiDict({"Content-Type": "application/json; charset=utf-8"})
        return Reply(200, headers, BytesContent(plan), 0, len(plan), paced=False)

    async def _blob(self, etag: str, headers: Mapping[str, str]) -> Reply:
        try:
            content = _Content(self._served.size_of(etag), etag)
            reply = file_reply(content, headers, etag=f'"{etag}"', name=etag)
            if reply.content is not content:  # 304 and 416 have no bytes of it
                return reply
            content.held = await self._open(etag, ByteRange(reply.start, reply.stop))
        except NotHeldError as error:
            raise Refusal(404, str(error.args[0]), "NotHeld") from error
        except OSError as error:
            logger.warning("cannot read %s for another node: %s", etag, error)
            raise Refusal(500, f"the disk refuses: {error.strerror}", "DiskError") from error
        reply.headers["Content-Digest"] = f"sha-256=:{base64.b64encode(content.held.sha256).decode()}:"
        return reply

    async def _open(self, etag: str, span: ByteRange) -> HeldRange:
        opening = asyncio.get_running_loop().run_in_executor(None, self._served.open, etag, span)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unsent)
            raise


def _close_unsent(opening: asyncio.Future[HeldRange]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _unpaced(value: Any) -> Reply:
    """Return an answer in JSON that does not wait for the bytes of blobs."""
    reply = json_reply(value)
    reply.paced = False
    return reply


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        return 0.0
    return seconds if 0.0 <= seconds < math.inf else 0.0
