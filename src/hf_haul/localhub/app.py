"""One request from arrival to answer: authentication, routing, and the faults that apply."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
import uuid
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from hf_haul.localhub.access import Account, Accounts, not_found
from hf_haul.localhub.catalog import Asked, Catalog
from hf_haul.localhub.hosts import HostRule
from hf_haul.localhub.options import HubOptions
from hf_haul.localhub.pace import Pace
from hf_haul.localhub.replies import Refusal, Reply, json_reply, text_reply
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.requestlog import RequestLog, RequestRecord
from hf_haul.localhub.routes_api import API_ROUTES, LISTING_HEADER, home, list_repos
from hf_haul.localhub.routes_files import CDN_PREFIX, cdn, resolve
from hf_haul.localhub.routing import FILE_KINDS, Route, parse
from hf_haul.localhub.sending import Delivery, Sender, abort, reset
from hf_haul.localhub.signing import Signer
from hf_haul.localhub.site import PageRequest, Site
from hf_haul.localhub.testing.faults import Effects
from hf_haul.localhub.testing.limits import Allowance, RateLimits
from hf_haul.localhub.testing.rules import Faults
from hf_haul.localhub.timings import DEFAULT_TIMINGS, HubTimings

__all__ = ["OTHER_LOOPBACK", "VIA_HEADER", "App"]

logger = logging.getLogger(__name__)

#: The other origin has another host name too, where there is one: clients tell hosts apart by name
#: (huggingface_hub 1.x looks at the name only) and follow redirects to the same host as the Hub's.
OTHER_LOOPBACK: Final = {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}

#: Names the hub that a request was made for by another hub.
VIA_HEADER: Final = "X-Haul-Via"

_PAGE_THREADS: Final = 4  # made when needed
_SEARCH_THREADS: Final = 64  # the same
_READ_METHODS: Final = frozenset({"GET", "HEAD", "POST"})
_HOP: Final = "localhub-hop"
_HOP_MARK: Final = re.compile(rf"[?&]{_HOP}=(\d+)\.(\d+)$")
_EXPOSED: Final = (
    "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,"
    f"Accept-Ranges,Content-Range,X-Linked-Size,X-Linked-ETag,X-Xet-Hash,{LISTING_HEADER}"
)


@dataclass
class App:
    """Everything the two origins share, and the handlers that answer them.

    Attributes:
        catalog: The repositories.
        accounts: The users.
        options: How the hub behaves.
        signer: For URLs of the other origin.
        cdn_port: The port of the other origin, once it is known.
        cdn_url: Its public address, if it is not just another port of the same host.
        latency: Seconds before every answer.
        faults: What goes wrong.
        limits: How much a client may ask.
        log: What was asked.
        pace: How fast bodies go out.
        host_rule: Which names a request may be meant for; any if ``None``.
        timings: How long to wait for a body.
        site: What is added to it.
    """

    catalog: Catalog
    accounts: Accounts
    options: HubOptions
    signer: Signer
    cdn_port: int = 0
    cdn_url: str | None = None
    latency: float = 0.0
    faults: Faults = field(default_factory=Faults)
    limits: RateLimits = field(default_factory=RateLimits)
    log: RequestLog = field(default_factory=RequestLog)
    pace: Pace = field(default_factory=Pace)
    host_rule: HostRule | None = None
    timings: HubTimings = DEFAULT_TIMINGS
    site: Site = field(default_factory=Site)

    def __post_init__(self) -> None:
        self.sender = Sender(self.pace, self.log.touch)
        self._page_threads = ThreadPoolExecutor(_PAGE_THREADS, "localhub-page")
        self._search_threads = ThreadPoolExecutor(_SEARCH_THREADS, "localhub-search")
        self._running: set[asyncio.Task[Any]] = set()
        self._numbers = itertools.count(1)
        self._connections: weakref.WeakKeyDictionary[asyncio.BaseTransport, int] = weakref.WeakKeyDictionary()

    # -- the two origins

    async def handle_hub(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request to the hub itself."""
        return await self._handle(request, is_cdn=False)

    async def handle_cdn(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request to the other origin."""
        return await self._handle(request, is_cdn=True)

    async def _handle(self, request: web.BaseRequest, *, is_cdn: bool) -> web.StreamResponse:
        target, chain = _without_hop(_target(request.raw_path))
        route = self._route(target, is_cdn=is_cdn)
        record = self._record(request, route, target)
        self.log.add(record)
        observer = self.site.observer
        if observer is not None:
            observer.begun(record)
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await self._answer(request, route, record, chain)
        except ConnectionError:
            return web.Response()  # aiohttp wants one; nobody is there to get it
        finally:
            self._running.discard(task)
            record.end = time.monotonic()
            self.log.touch()
            if observer is not None:
                observer.ended(record)

    async def cancel_all(self) -> None:
        """End every answer that is being sent, without telling its client."""
        if self.site.upstream is not None:
            self.site.upstream.close()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._search_threads.shutdown)
        # aiohttp forgets a connection that it closes, also while the client has not taken all that was sent.
        for transport in list(self._connections):
            if isinstance(transport, asyncio.WriteTransport):
                abort(transport)

    def close(self) -> None:
        """Give back what is left when no request comes any more."""
        self._page_threads.shutdown(wait=False)

    async def _answer(
        self, request: web.BaseRequest, route: Route, record: RequestRecord, chain: _Hop | None
    ) -> web.StreamResponse:
        try:
            self._require_host(request)
            body = await _read_body(request, self.timings.body)
        except Refusal as refusal:
            # What is left of the request is not waited for.
            refusal.headers["Connection"] = "close"
            return await self.sender.send(request, refusal.reply(as_json=False), Delivery(), record)
        if self.latency:
            await asyncio.sleep(self.latency)
        if chain is not None and chain.number < len(self.faults.chain(chain.name)):
            hop = self._hop(record, chain.name, chain.number)
            return await self.sender.send(request, hop, Delivery(), record)
        effects = self.faults.effects(record)
        if effects.delay:
            await asyncio.sleep(effects.delay)
        if effects.reset:
            if request.transport is not None:
                reset(request.transport)
            raise ConnectionResetError("reset on purpose")
        reply = await self._reply_or_fault(request, route, body, record, effects)
        try:
            return await self.sender.send(request, reply, effects.delivery, record)
        except Refusal as refusal:
            reply = refusal.reply(as_json=False)
            return await self.sender.send(request, reply, Delivery(), record)

    def _require_host(self, request: web.BaseRequest) -> None:
        """Refuse a request whose Host is not this machine, where that is checked."""
        transport = request.transport
        if self.host_rule is None or transport is None:
            return
        arrived = transport.get_extra_info("sockname")
        if not self.host_rule.allows(request.headers.getall("Host", []), arrived[0] if arrived else None):
            raise Refusal(
                421,
                "This server was asked under a name that is not its own. Use its address, or have it started with"
                " --allowed-host NAME.",
            )

    async def _reply_or_fault(
        self,
        request: web.BaseRequest,
        route: Route,
        body: bytes,
        record: RequestRecord,
        effects: Effects,
    ) -> Reply:
        if effects.redirects:
            name = self.faults.start_chain(effects.redirects)
            return self._hop(record, name, 0)
        if effects.instead is not None:
            return effects.instead()
        if self._may_block(route):
            loop = asyncio.get_running_loop()
            reply = await loop.run_in_executor(self._threads(route), self._reply, request, route, body)
        else:
            reply = self._reply(request, route, body)
        for change in effects.changes:
            change(reply)
        return reply

    def _threads(self, route: Route) -> ThreadPoolExecutor | None:
        """Return the threads that may wait for an answer; ``None`` for those of the loop.

        While others wait for another hub that does not answer, what is here is given all the same, and so is
        how it is and what it does.
        """
        if route.raw_path in self.site.pages:
            return self._page_threads
        if self.site.upstream is not None and self.catalog.get(route.repo_type, route.repo_id) is None:
            return self._search_threads
        return None

    def _may_block(self, route: Route) -> bool:
        if route.raw_path in self.site.pages:
            return True
        repo = self.catalog.get(route.repo_type, route.repo_id)
        if repo is None:
            return self.catalog.follows or self.site.upstream is not None
        # A file is found at once; making a listing takes a while.
        quick = route.kind in FILE_KINDS and route.revision is not None
        return repo.blocking and not (quick and repo.knows_at_once(str(route.revision)))

    def _hop(self, record: RequestRecord, name: str, number: int) -> Reply:
        separator = "&" if "?" in record.url else "?"
        location = f"{record.url}{separator}{_HOP}={name}.{number + 1}"
        reply = text_reply(f"Redirecting to {location}", self.faults.chain(name)[number])
        reply.headers["Location"] = location
        return reply

    def _route(self, target: str, *, is_cdn: bool) -> Route:
        raw_path, _, query = target.partition("?")
        if is_cdn or raw_path.startswith(CDN_PREFIX):
            pairs = parse_qsl(query, keep_blank_values=True)
            about = dict(pairs)
            return Route(
                "cdn",
                raw_path,
                pairs,
                repo_id=about.get("repo", ""),
                path=about.get("file", ""),
            )
        return parse(target, self.catalog.knows)

    def _record(self, request: web.BaseRequest, route: Route, target: str) -> RequestRecord:
        return RequestRecord(
            method=request.method,
            kind=route.kind,
            url=target,
            repo_id=route.repo_id,
            path=route.path,
            headers={name.lower(): value for name, value in request.headers.items()},
            connection=self._connection(request),
            start=time.monotonic(),
            range=request.headers.get("Range", ""),
            client=request.remote or "",
        )

    def _connection(self, request: web.BaseRequest) -> int:
        transport = request.transport
        if transport is None:
            return 0
        if transport not in self._connections:
            self._connections[transport] = next(self._numbers)
        return self._connections[transport]

    # -- the answer

    def _reply(self, request: web.BaseRequest, route: Route, body: bytes) -> Reply:
        if route.kind == "cdn":
            return cdn(
                request.method,
                route.raw_path,
                dict(route.query),
                request.headers,
                self.catalog,
                self.signer,
                self.options,
            )
        allowance = self._allowance(request, route)
        page = self.site.pages.get(route.raw_path)
        try:
            allowance.require()
            if page is None:
                reply = self._hub_reply(request, route, body)
            else:
                reply = page(self._page_request(request, route, body))
        except Refusal as refusal:
            reply = refusal.reply(as_json=route.kind not in FILE_KINDS)
        except Exception:  # whatever is wrong here, the client gets an answer
            logger.exception("cannot answer %s %s", request.method, route.raw_path)
            reply = Refusal(500, "Internal error, see the hub's log.").reply(as_json=True)
        reply.paced = page is None  # or nobody could lift a limit that is too low
        allowance.write_headers(reply.headers)
        trace = request.headers.get("X-Amzn-Trace-Id") or str(uuid.uuid4())
        reply.headers["X-Request-Id"] = f"Root=1-{uuid.uuid4().hex[:24]};{trace}"
        reply.headers["X-Powered-By"] = "hf-haul-localhub"
        reply.headers.setdefault("Vary", "Origin")
        reply.headers["Access-Control-Expose-Headers"] = _EXPOSED
        return reply

    def _allowance(self, request: web.BaseRequest, route: Route) -> Allowance:
        bucket = "resolvers" if route.kind in FILE_KINDS else "api"
        token = request.headers.get("Authorization")
        client = token or request.remote or ""
        return self.limits.take(bucket, client, has_token=token is not None)

    def _page_request(self, request: web.BaseRequest, route: Route, body: bytes) -> PageRequest:
        return PageRequest(
            request.method,
            route.raw_path,
            route.query,
            request.headers,
            body,
            self.accounts.identify(request.headers, for_repo=False),
            bool(self.accounts),
        )

    def _hub_reply(self, request: web.BaseRequest, route: Route, body: bytes) -> Reply:
        if request.method not in _READ_METHODS:
            raise Refusal(405, "This hub is read-only.")
        for_repo = bool(route.repo_id)
        if route.kind == "agent-harnesses":
            return json_reply({"standardEnvVars": ["AI_AGENT", "AGENT"], "harnesses": {}})
        account = self.accounts.identify(request.headers, for_repo=for_repo)
        if route.kind == "whoami":
            return json_reply(self.accounts.whoami(account))
        if route.kind in ("home", "list"):
            self.catalog.look_again()
            visible = [repo for repo in self.catalog.all() if self.accounts.can_see(repo, account)]
            return list_repos(route, visible) if route.kind == "list" else home(visible)
        if not for_repo:
            raise not_found()
        if request.headers.get(VIA_HEADER, "") == getattr(self.site.upstream, "name", None):
            raise Refusal(508, "This server asks itself: its --upstream leads back to it.")
        repo = self._find_repo(route, account)
        if repo is None:
            renamed = self.catalog.new_id(route.repo_type, route.repo_id)
            if renamed is not None and route.kind not in FILE_KINDS:
                return _moved(route, renamed, request.raw_path)
            repo = self.catalog.get(route.repo_type, renamed) if renamed else None
        repo = self.accounts.require_read(repo, account)
        origin = f"{request.scheme}://{request.host}"
        asked = Asked(
            method=request.method,
            route=route,
            headers=request.headers,
            body=body,
            origin=origin,
            cdn_origin=self._cdn_origin(request),
            options=self.options,
            signer=self.signer,
            accounts=self.accounts,
            account=account,
            repo=repo,
        )
        return resolve(asked) if route.kind in FILE_KINDS else API_ROUTES[route.kind](asked)

    def _find_repo(self, route: Route, account: Account | None) -> Repo | None:
        repo = self.catalog.get(route.repo_type, route.repo_id)
        if repo is None:
            self.catalog.look_again()
            repo = self.catalog.get(route.repo_type, route.repo_id)
        # Who may have nothing may not have others asked, either.
        if repo is None and self.site.upstream is not None and (account is not None or not self.accounts):
            repo = self.site.upstream.find(route)
            if repo is not None:
                repo = self.catalog.add_new(repo)
        return repo

    def _cdn_origin(self, request: web.BaseRequest) -> str:
        if self.cdn_url is not None:
            return self.cdn_url
        host = urlsplit(f"//{request.host}").hostname or "localhost"
        host = OTHER_LOOPBACK.get(host, host)
        shown = f"[{host}]" if ":" in host else host
        return f"{request.scheme}://{shown}:{self.cdn_port}"


async def _read_body(request: web.BaseRequest, seconds: float) -> bytes:
    """Return the body of a request, which is small and must come soon.

    Raises:
        Refusal: It is neither, or it is compressed.
    """
    if not request.can_read_body:
        return b""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise Refusal(415, "The body is compressed, which it must not be.")
    try:
        return await asyncio.wait_for(request.read(), seconds)
    except asyncio.TimeoutError as error:
        raise Refusal(408, f"The body did not come within {seconds:.0f} seconds.") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise Refusal(413, "The body is too large.") from error
    except web.RequestPayloadError as error:
        raise Refusal(400, "The body cannot be read.") from error
    except RuntimeError as error:  # aiohttp's word for a connection that has ended meanwhile
        raise ConnectionResetError("the client has gone") from error


@dataclass(frozen=True)
class _Hop:
    """The position of a request in a chain of redirects."""

    name: str
    number: int


def _without_hop(target: str) -> tuple[str, _Hop | None]:
    """Return a request target without the mark of a chain of redirects, and that mark."""
    match = _HOP_MARK.search(target)
    if match is None:
        return target, None
    return target[: match.start()], _Hop(match[1], int(match[2]))


def _target(raw: str) -> str:
    """Return path and query of a request target, which a proxy may send as a whole URL."""
    if raw.startswith("/"):
        return raw
    return "/" + raw.partition("://")[2].partition("/")[2]


def _moved(route: Route, new_id: str, target: str) -> Reply:
    location = target.replace(f"/{route.repo_id}", f"/{new_id}", 1)
    reply = text_reply("", 307)
    reply.headers["Location"] = location
    return reply
