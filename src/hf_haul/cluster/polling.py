"""What a node asks the other nodes of its job: how far they are, again and again.

Each is asked by a long poll: it answers once there is news, or after a moment. A node that refuses
connections is gone; one that does not answer in time is silent, and may come back. Many nodes are asked less
often each, a bounded number at once, so that what each has to answer does not grow with their number. Only
those few are asked as often as ever whose work this node has to do once they are gone.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import json
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

import aiohttp

from hf_haul.cluster.node_state import as_shown
from hf_haul.cluster.serving import NODE_HEADER, PREFIX, URL_HEADER
from hf_haul.urls import parse_url

__all__ = ["DEFAULT_POLL_TIMINGS", "MOST_NODES", "Health", "Listener", "PollTimings", "Poller"]

logger = logging.getLogger(__name__)

#: Nodes that are known at the most: whoever has the job's token may make up names.
MOST_NODES: Final = 20_000
#: Nodes that are asked at once.
_ASKED_AT_ONCE: Final = 32
#: Bytes of a state, and of a plan, at the most.
_LARGEST_STATE: Final = 16 << 20
_LARGEST_PLAN: Final = 1 << 30
_OK: Final = 200
_NOT_UNDERSTOOD: Final = "its answer cannot be understood"
_NO_ANSWER: Final = (OSError, asyncio.TimeoutError, aiohttp.ClientError)
_REFUSED: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})
#: Seconds by which time was up too late: this process stood still, and an answer may have come meanwhile.
_STOOD_STILL: Final = 0.1


@dataclass(frozen=True)
class PollTimings:
    """Seconds that a node asks others by; those who test it pass shorter ones.

    Attributes:
        wait: For which a node may hold its answer back until there is news.
        answer: For which an answer may be late before a node is silent.
        spacing: Between two questions to one node, for each node that there is.
        least: Between two questions to one node, at the least. Six nodes on two processors took 4.41 s for
            what took 4.74 s with 0.12 (medians of six runs each, in turn).
        watch: Between two questions to a node that is watched, at the most.
        retry: Between two questions to a node that is gone or silent.
        plan: For which a node's plan may take to come.
    """

    wait: float = 2.0
    answer: float = 5.0
    spacing: float = 0.02
    least: float = 0.3
    watch: float = 1.0
    retry: float = 1.0
    plan: float = 60.0


DEFAULT_POLL_TIMINGS: Final = PollTimings()


class Listener(Protocol):
    """Is told what was learned of other nodes; called in the loop."""

    def note_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Note what a node said of itself.

        Raises:
            ValueError: It is no state of this job.
        """

    def note_gone(self, name: str, why: str) -> None:
        """Note a node that refuses connections."""

    def note_useless(self, name: str, why: str) -> None:
        """Note a node that is there, and does not work on this job with us."""

    def note_silent(self, name: str) -> None:
        """Note a node that does not answer."""


@dataclass
class _Peer:
    name: str
    url: str
    version: str | None = None


class _Failure(enum.Enum):
    """What came of a question that failed."""

    GONE = enum.auto()  # nobody listens there
    USELESS = enum.auto()  # its answer is of no use
    SILENT = enum.auto()  # it does not answer
    BROKE = enum.auto()  # the connection did, or this process stood still: the next attempt may explain it


class _RefusedError(Exception):
    """A node answered, and not with what it was asked for."""


@dataclass(frozen=True)
class Health:
    """What a node says of itself before there is a plan.

    Attributes:
        answers: Whether it is there.
        has_plan: Whether it has a plan of this job.
        awaits_plan: Whether it waits for another node to make one.
        refusal: Why it is of no use, if so: it works on another job, or refuses the token.
    """

    answers: bool = False
    has_plan: bool = False
    awaits_plan: bool = False
    refusal: str | None = None


class Poller:
    """Asks the other nodes of a job. It lives in an event loop: all methods are called there.

    Args:
        name: This node's name.
        url: Where it is asked itself.
        job_id: The job.
        token: The job's token.
        listener: Who is told.
        timings: How long it waits.
        clock: Seconds, monotonic.
        jitter: Random numbers from 0 to 1.
    """

    def __init__(
        self,
        name: str,
        url: str,
        job_id: str,
        token: str,
        listener: Listener,
        *,
        timings: PollTimings = DEFAULT_POLL_TIMINGS,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._job = job_id
        self._root = f"{PREFIX}/jobs/{quote(job_id, safe='')}"
        self._headers = {"Authorization": f"Bearer {token}", NODE_HEADER: name, URL_HEADER: url}
        self._listener = listener
        self._timings = timings
        self._clock = clock
        self._jitter = jitter
        self._peers: dict[str, _Peer] = {}
        self._watched: Collection[str] = frozenset()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def add(self, name: str, url: str) -> bool:
        """Ask a node from now on; return whether it was unknown.

        One that is known already may have begun anew elsewhere.

        Raises:
            InvalidUrlError: The URL is none.
        """
        base = str(parse_url(url)).rstrip("/")
        known = self._peers.get(name)
        if known is not None:
            if known.url != base:
                known.url, known.version = base, None
            return False
        if name == self._name or len(self._peers) >= MOST_NODES:
            return False
        peer = self._peers[name] = _Peer(name, base)
        self._tasks[name] = asyncio.get_running_loop().create_task(self._follow(peer))
        return True

    def watch(self, names: Collection[str]) -> None:
        """Ask some nodes often, however many there are, so that it is soon known when one of them is gone.

        Args:
            names: Them, added already or not.
        """
        self._watched = names

    def url_of(self, name: str) -> str | None:
        """Return where a node is asked; ``None`` for one that is unknown."""
        peer = self._peers.get(name)
        return None if peer is None else peer.url

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def health_of(self, url: str) -> Health:
        """Ask a node whether it is there, and has a plan."""
        try:
            return self._health(
                await self._get(f"{url}{PREFIX}/health", self._timings.answer, _LARGEST_STATE)
            )
        except _RefusedError as error:
            return Health(answers=True, refusal=str(error))
        except _NO_ANSWER as error:
            logger.debug("%s does not answer: %r", url, error)
            return Health()
        except Exception as error:  # noqa: BLE001  whatever one node answers, there are others
            logger.debug("what %s answers cannot be understood: %r", url, error)
            return Health(answers=True, refusal=_NOT_UNDERSTOOD)

    def _health(self, found: Any) -> Health:
        job = found.get("job") if isinstance(found, dict) else None
        if job != self._job:
            return Health(answers=True, refusal=f"it works on {as_shown(job)}, and not on {self._job}")
        return Health(
            answers=True,
            has_plan=found.get("has_plan") is True,
            awaits_plan=found.get("awaits_plan") is True,
        )

    async def plan_of(self, url: str) -> Any:
        """Return the plan that a node has, in JSON; ``None`` if it does not give one."""
        try:
            return await self._get(f"{url}{self._root}/plan", self._timings.plan, _LARGEST_PLAN)
        except Exception as error:  # noqa: BLE001  whatever one node answers, there are others
            logger.debug("no plan from %s: %r", url, error)
            return None

    # -- one node

    async def _follow(self, peer: _Peer) -> None:
        await asyncio.sleep(self._first_pause(peer))
        broke = False
        while True:
            # Who is watched does not wait behind many that do not answer, as when half of them are away.
            async with nullcontext() if peer.name in self._watched else self._turns:
                failed = await self._ask(peer, again=broke)
            broke = failed is _Failure.BROKE
            if not broke:  # else the next attempt says what has become of the node
                await asyncio.sleep(max(0.0 if failed is None else self._timings.retry, self._spacing(peer)))

    def _first_pause(self, peer: _Peer) -> float:
        """Return the seconds before the first question to a node.

        Were all nodes to ask the same ones first, all would want what those have.
        """
        return self._jitter() * self._spacing(peer) if len(self._peers) > _ASKED_AT_ONCE else 0.0

    def _spacing(self, peer: _Peer) -> float:
        """Return the seconds between two questions to a node."""
        spacing = max(self._timings.least, self._timings.spacing * (len(self._peers) + 1))
        return min(spacing, self._timings.watch) if peer.name in self._watched else spacing

    @property
    def _wait(self) -> float:
        """Seconds that a node may hold its answer back: none where others wait for their turn meanwhile."""
        return self._timings.wait if len(self._peers) <= _ASKED_AT_ONCE else 0.0

    async def _ask(self, peer: _Peer, *, again: bool) -> _Failure | None:
        """Ask a node for its state, and tell what came of it; return how it failed, if it did.

        Args:
            peer: The node.
            again: Whether that is the attempt that has to explain the last one.
        """
        wait = self._wait
        query = f"wait={wait:g}" + ("" if peer.version is None else f"&after={quote(peer.version)}")
        url, seconds, began = peer.url, wait + self._timings.answer, self._clock()
        try:
            state = await self._get(f"{url}{self._root}/state?{query}", seconds, _LARGEST_STATE)
            if not isinstance(state, dict) or not isinstance(state.get("version"), int):
                raise _RefusedError("its answer is not a state")
            self._listener.note_state(peer.name, state)
            if peer.url == url:
                peer.version = str(state["version"])
        except asyncio.TimeoutError:
            # Whoever wakes from having been stopped would take all others for silent, and fetch their parts.
            if not again and self._clock() - began > seconds + _STOOD_STILL:
                return _Failure.BROKE
            return self._fail(peer, _Failure.SILENT, "it does not answer")
        except (_RefusedError, ValueError) as error:
            return self._fail(peer, _Failure.USELESS, str(error))
        except aiohttp.ClientConnectorError as error:
            failure = _Failure.GONE if error.os_error.errno in _REFUSED else _Failure.SILENT
            return self._fail(peer, failure, str(error.os_error.strerror or error))
        except (OSError, aiohttp.ClientError) as error:
            if again:
                return self._fail(peer, _Failure.SILENT, str(error))
            return _Failure.BROKE
        except Exception as error:  # noqa: BLE001  whatever it answers, it has to be asked again
            logger.warning("what %s answers cannot be understood: %r", peer.name, error)
            return self._fail(peer, _Failure.USELESS, _NOT_UNDERSTOOD)
        return None

    def _fail(self, peer: _Peer, failure: _Failure, why: str) -> _Failure:
        peer.version = None
        if failure is _Failure.GONE:
            self._listener.note_gone(peer.name, why)
        elif failure is _Failure.USELESS:
            self._listener.note_useless(peer.name, why)
        else:
            self._listener.note_silent(peer.name)
        return failure

    async def _get(self, url: str, seconds: float, most: int) -> Any:
        """Return the JSON that a node answers.

        Raises:
            _RefusedError: It refuses.
            OSError: There is no connection.
        """
        if self._session is None:
            # Nodes are asked directly: a proxy is for the world outside. No cookie of theirs is kept, and
            # nothing is inflated: what listens at a node's address now may be anybody's.
            self._session = aiohttp.ClientSession(
                trust_env=False,
                headers={**self._headers, "Accept-Encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        # aiohttp rounds what is longer than the threshold up to a whole second.
        timeout = aiohttp.ClientTimeout(
            total=seconds, sock_connect=self._timings.answer, ceil_threshold=seconds
        )
        async with self._session.get(url, timeout=timeout, allow_redirects=False) as response:
            body = await _read(response, most)
            if response.status != _OK:
                raise _refusal(response, body)
            try:
                return json.loads(body)
            except (ValueError, RecursionError) as error:
                raise _RefusedError("it answers with something else than JSON") from error


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    pieces, count = [], 0
    async for piece in response.content.iter_any():
        count += len(piece)
        if count > most:
            raise _RefusedError(f"its answer has more than {most} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> _RefusedError:
    """Return what a node's refusal says."""
    try:
        said = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    if response.status == 401:
        said = "it refuses this node's token: all nodes of a job need the same (HF_HAUL_PEERS_TOKEN, --peers-token-file)"
    return _RefusedError(as_shown(said) or f"it answers {response.status}")
