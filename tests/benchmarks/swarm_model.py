"""The nodes of one job in simulated time: what they fetch from whom, what they are told of each other, and when.

The policy is not modelled but run: one object per node, :class:`hf_haul.cluster.shares.Shares` or one of the schemes that it
is compared with (:mod:`tests.benchmarks.schemes`). What is modelled is what surrounds it: the links (:mod:`tests.benchmarks.fluid`),
the connections that a node has, the time until a body begins, and how nodes hear of each other, as agents do: by asking up to
32 others, each of which answers when it has something new; or with more nodes all of them in turn, and those that it watches
once a second.

A stripe can be served when it is there as a whole. Digests, disks and the work of publishing cost nothing here.
"""

from __future__ import annotations

import gc
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from tests.benchmarks.fluid import Network

__all__ = ["Outcome", "Policy", "Setting", "Simulation"]

#: Seconds without a byte, and without an answer, after which the engine and an agent give up on somebody.
_STALLED: Final = 10.0
_NO_ANSWER: Final = 5.0
#: Seconds between two looks of the engine at what it could fetch, without any news.
_TICK: Final = 0.25
#: Simulated seconds after which a run is taken for one without an end.
_NEVER: Final = 1e6


class Policy(Protocol):
    """What the model asks of an object that decides for one node; see :class:`hf_haul.cluster.shares.Shares`."""

    def note_state(self, name: str, state: Any) -> object: ...
    def note_gone(self, name: str) -> object: ...
    def note_silent(self, name: str) -> object: ...
    def next(self, wanted: int, busy: Mapping[str | None, int], *, under_way: int) -> Any: ...
    def note_begun(self, stripe: int, node: str | None) -> object: ...
    def note_done(self, stripe: int, node: str | None, seconds: float) -> object: ...
    def note_failed(self, stripe: int, node: str | None, error_kind: Any) -> object: ...
    def note_dropped(self, stripe: int, node: str | None) -> object: ...
    def note_ended(self) -> object: ...
    def state(self) -> Any: ...

    @property
    def version(self) -> int: ...


@dataclass(frozen=True)
class Setting:
    """One job and what it runs on; bytes, seconds, bytes per second.

    Args:
        nodes: How many take part.
        stripes: The size of each stripe.
        uplink: What comes from the Hub at the most, for all nodes together.
        nic: What each node can send, and what it can take.
        takes: What it can take, where that is something else.
        rack_line: What one rack can send the other, if there are two: the first half of the nodes and the second.
        slow: Nodes, by number, whose network has a tenth of the pace.
        killed: When which nodes end: their connections break, and new ones are refused.
        vanished: When which nodes are heard of no more: their connections stand still.
        connections: Those that a node has for what it fetches, at the most.
        sent_at_once: Stripes that a node sends at once; who asks for more waits.
        neighbours: Others whom a node asks at a time; with more nodes it goes from one to the next.
        ask_every: Seconds between two questions of a node to whomever; each of the others is asked in turn.
        watch_every: Seconds between two questions to a node that is watched.
        peer_delay: Seconds from a request to a node until its answer begins.
        origin_delay: The same for the Hub.
        seed: Of the order in which nodes ask.
        quantum: Steps of time are not shorter than this; 0 for exact times.
    """

    nodes: int
    stripes: Sequence[int]
    uplink: float
    nic: float
    takes: float | None = None
    rack_line: float | None = None
    slow: Collection[int] = ()
    killed: Mapping[int, float] = field(default_factory=dict)
    vanished: Mapping[int, float] = field(default_factory=dict)
    connections: int = 16
    neighbours: int = 32
    ask_every: float = 0.02
    watch_every: float = 1.0
    peer_delay: float = 0.001
    origin_delay: float = 0.05
    sent_at_once: int = 16
    seed: int = 1
    quantum: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of the whole job, S."""
        return sum(self.stripes)

    @property
    def bound(self) -> float:
        """Seconds that no scheme can undercut: max(S/U, S/B, n·S/(U + n·B))."""
        n, size = self.nodes, self.size
        takes = self.nic if self.takes is None else self.takes
        return max(size / self.uplink, size / takes, n * size / (self.uplink + n * self.nic))


@dataclass
class Outcome:
    """What came of a run: the seconds after which each node had all, by number, and the bytes that moved."""

    setting: Setting
    seconds: dict[int, float] = field(default_factory=dict)
    origin_bytes: float = 0.0
    peer_bytes: float = 0.0
    asks: int = 0
    transfers: int = 0

    @property
    def last(self) -> float:
        """Seconds until all nodes that are at their pace had all."""
        return max(at for number, at in self.seconds.items() if number not in self.setting.slow)

    @property
    def slowest(self) -> float:
        """Seconds until all had all."""
        return max(self.seconds.values())


class _Flow:
    """One request for one stripe."""

    __slots__ = ("began", "landed", "number", "over", "source", "stripe", "taker")

    def __init__(self, taker: _Node, source: _Node | None, stripe: int, began: float) -> None:
        self.taker, self.source, self.stripe, self.began = taker, source, stripe, began
        self.number: int | None = None  # of the network, while bytes move
        self.landed = self.over = False


class _Node:
    """A node: its policy, and what is under way."""

    def __init__(self, number: int, name: str, policy: Policy, stripes: int) -> None:
        self.number, self.name, self.policy = number, name, policy
        self.wanted = (1 << stripes) - 1
        self.under_way = 0
        self.flows: dict[_Flow, None] = {}
        #: What others fetch from this node, which of it is sent, and what waits for its turn.
        self.serves: dict[_Flow, None] = {}
        self.sends: set[_Flow] = set()
        self.queue: deque[_Flow] = deque()
        self.busy: Counter[str | None] = Counter()
        self.has_ended = self.is_silent = False
        self.answer = policy.state()
        #: Who waits for the next version of what this node announces.
        self.listeners: dict[_Node, None] = {}
        self.heard: dict[int, int] = {}
        #: Those whom this node does not ask at the moment, longest ago first, and those that it watches besides.
        self.round: deque[int] = deque()
        self.watched: frozenset[int] = frozenset()
        self.waits_for_news = True

    @property
    def is_there(self) -> bool:
        return not (self.has_ended or self.is_silent)


class Simulation:
    """Runs a job to its end.

    Args:
        setting: What to run.
        make_policy: Returns the policy of the node with a number, given a clock.
        asked: The nodes that a node asks for what they have, by number; all by default.
        watched: Those of them that it watches; none by default.
    """

    def __init__(
        self,
        setting: Setting,
        make_policy: Callable[[int, Callable[[], float]], Policy],
        asked: Callable[[int], Iterable[int]] | None = None,
        watched: Callable[[int], Iterable[int]] = lambda _number: (),
    ) -> None:
        self.setting, self.now = setting, 0.0
        self.outcome = Outcome(setting)
        self._random = random.Random(setting.seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        n = setting.nodes
        pace = [0.1 if number in setting.slow else 1.0 for number in range(n)]
        takes = setting.nic if setting.takes is None else setting.takes
        lines = [] if setting.rack_line is None else [setting.rack_line] * 2
        self._network = Network(
            [setting.uplink, *(setting.nic * each for each in pace), *(takes * each for each in pace), *lines]
        )
        self._nodes = [
            _Node(number, f"n{number}", make_policy(number, self._clock), len(setting.stripes))
            for number in range(n)
        ]
        self._by_name = {node.name: node for node in self._nodes}
        self._unfinished = set(range(n))
        self._pause = setting.ask_every * min(n, setting.neighbours)
        numbers = list(range(n))  # the same objects for each node: their lists are large enough
        self._asked = asked or (lambda _number: numbers)
        self._watched = watched
        for number, at in {**setting.killed, **setting.vanished}.items():
            self._later(at, self._lose, self._nodes[number], number in setting.killed)

    def run(self) -> Outcome:
        """Simulate until all nodes that are left have all."""
        collects = gc.isenabled()
        gc.disable()  # there are no cycles to find among a hundred million objects, and looking for them takes long
        try:
            return self._run()
        finally:
            if collects:
                gc.enable()

    def _run(self) -> Outcome:
        for node in self._nodes:
            self._fill(node)
            self._start_asking(node)
            self._later(self._random.random() * _TICK, self._tick, node)
        while self._unfinished:
            at = self.now + self._network.next_end()
            if self._events:
                at = min(at, self._events[0][0])
            if at > _NEVER:
                waiting = sorted(self._unfinished)[:5]
                raise RuntimeError(
                    f"nothing moves any more; nodes {waiting} of {self.setting.nodes} lack stripes"
                )
            at = max(at, self.now + self.setting.quantum)
            ended = self._network.advance(at - self.now)
            self.now = at
            for _, flow in ended:
                flow.number, flow.landed = None, True
            for _, flow in ended:
                self._finish(flow)
            while self._events and self._events[0][0] <= self.now:
                _, _, call, arguments = heapq.heappop(self._events)
                call(*arguments)
        return self.outcome

    def _tick(self, node: _Node) -> None:
        """Time alone may change what a policy wants."""
        if node.wanted or node.under_way:
            self._fill(node)
            self._later(_TICK, self._tick, node)

    def _clock(self) -> float:
        return self.now

    def _later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, call, arguments))

    # what a node fetches

    def _fill(self, node: _Node) -> None:
        """Begin what the policy wants next, as long as there is a connection for it."""
        while (
            len(node.flows) < self.setting.connections and (node.wanted or node.under_way) and node.is_there
        ):
            choice = node.policy.next(node.wanted, node.busy, under_way=node.under_way)
            if choice is None:
                break
            self._fetch(node, choice.stripe, choice.node)
        self._announce(node)

    def _fetch(self, node: _Node, stripe: int, name: str | None) -> None:
        source = None if name is None else self._by_name[name]
        flow = _Flow(node, source, stripe, self.now)
        node.wanted &= ~(1 << stripe)
        node.under_way |= 1 << stripe
        node.busy[name] += 1
        node.flows[flow] = None
        node.policy.note_begun(stripe, name)
        self.outcome.transfers += 1
        delay = self.setting.origin_delay if source is None else self.setting.peer_delay
        if source is not None:
            source.serves[flow] = None
        if source is not None and source.has_ended:
            self._later(self._jitter(delay), self._fail, flow, "gone")
        else:
            self._later(self._jitter(delay), self._begin, flow)

    def _jitter(self, seconds: float) -> float:
        return seconds * (0.5 + self._random.random())

    def _begin(self, flow: _Flow) -> None:
        if flow.over:
            return
        if flow.source is not None:
            if len(flow.source.sends) >= self.setting.sent_at_once:
                flow.source.queue.append(flow)
                return
            flow.source.sends.add(flow)
        taker, source, n = flow.taker.number, flow.source, self.setting.nodes
        if source is None:
            links = [0, 1 + n + taker]
        else:
            links = [1 + source.number, 1 + n + taker]
            racks = [number * 2 // n for number in (source.number, taker)]
            if self.setting.rack_line is not None and racks[0] != racks[1]:
                links.append(1 + 2 * n + racks[0])
        flow.number = self._network.start(flow, self.setting.stripes[flow.stripe], links)
        if source is not None and source.is_silent:
            self._later(_STALLED, self._fail, flow, "failed")

    def _finish(self, flow: _Flow) -> None:
        """A stripe is there."""
        if flow.over:
            return  # it came from somewhere else in the same moment
        self._end(flow, self._moved(flow))
        node, name = flow.taker, flow.source.name if flow.source else None
        node.under_way &= ~(1 << flow.stripe)
        for other in [each for each in node.flows if each.stripe == flow.stripe]:
            self._end(other, self._moved(other))
            node.policy.note_dropped(flow.stripe, other.source.name if other.source else None)
        node.policy.note_done(flow.stripe, name, self.now - flow.began)
        if not (node.wanted or node.under_way):
            self._unfinished.discard(node.number)
            self.outcome.seconds[node.number] = self.now
            node.policy.note_ended()
        self._fill(node)

    def _fail(self, flow: _Flow, why: str) -> None:
        """A request came to nothing."""
        if flow.over:
            return
        self._end(flow, self._moved(flow))
        node, name = flow.taker, flow.source.name if flow.source else None
        if not any(each.stripe == flow.stripe for each in node.flows):
            node.wanted |= 1 << flow.stripe
            node.under_way &= ~(1 << flow.stripe)
        node.policy.note_failed(flow.stripe, name, why)
        self._fill(node)

    def _moved(self, flow: _Flow) -> float:
        if flow.number is None:
            return self.setting.stripes[flow.stripe] if flow.landed else 0.0
        return self.setting.stripes[flow.stripe] - self._network.stop(flow.number)

    def _end(self, flow: _Flow, moved: float) -> None:
        """Take a flow off the books."""
        flow.over = True
        del flow.taker.flows[flow]
        if flow.source is None:
            self.outcome.origin_bytes += moved
            flow.taker.busy[None] -= 1
        else:
            self.outcome.peer_bytes += moved
            flow.taker.busy[flow.source.name] -= 1
            del flow.source.serves[flow]
            if flow in flow.source.sends:
                flow.source.sends.discard(flow)
                self._send_next(flow.source)

    def _send_next(self, node: _Node) -> None:
        while node.queue and len(node.sends) < self.setting.sent_at_once:
            self._begin(node.queue.popleft())

    # who ends

    def _lose(self, node: _Node, at_once: bool) -> None:
        """A node ends: known at once to those connected to it, or never heard of again."""
        self._unfinished.discard(node.number)
        for flow in list(node.flows):
            self._end(flow, self._moved(flow))
        if at_once:
            node.has_ended = True
            for flow in list(node.serves):
                self._fail(flow, "gone")
        else:
            node.is_silent = True
            self._network.set_capacity(1 + node.number, 0.0)
            for flow in list(node.serves):
                self._later(_STALLED, self._fail, flow, "failed")
        listeners, node.listeners = node.listeners, {}
        for listener in listeners:
            self._ask(listener, node)

    # what a node hears of others

    def _start_asking(self, node: _Node) -> None:
        others = [number for number in self._asked(node.number) if number != node.number]
        node.waits_for_news = len(others) <= self.setting.neighbours
        if self.setting.ask_every * len(others) > self.setting.watch_every:
            node.watched = frozenset(self._watched(node.number))
            others = [number for number in others if number not in node.watched]
        for number in sorted(node.watched):
            self._later(self._random.random() * self.setting.watch_every, self._watch, node, number)
        self._random.shuffle(others)
        node.round.extend(others)
        for _ in range(min(self.setting.neighbours, len(others))):
            self._later(self._random.random() * self._pause, self._ask_next, node)

    def _ask_next(self, node: _Node) -> None:
        """Ask whoever was not asked for longest."""
        if node.is_there and (node.wanted or node.under_way) and node.round:
            self._ask(node, self._nodes[node.round.popleft()])

    def _watch(self, node: _Node, number: int) -> None:
        if node.is_there and (node.wanted or node.under_way):
            self._ask(node, self._nodes[number])

    def _ask_again(self, node: _Node, other: _Node) -> None:
        """Ask a node once more, in its turn, and whoever is next now."""
        if other.number in node.watched:
            self._later(self.setting.watch_every, self._watch, node, other.number)
            return
        node.round.append(other.number)
        self._later(self._pause, self._ask_next, node)

    def _ask(self, node: _Node, other: _Node) -> None:
        """A question is answered when there is something new, refused, or not answered at all."""
        if other.has_ended:
            self._later(self.setting.peer_delay, self._hear_end, node, other)
        elif other.is_silent:
            self._later(_NO_ANSWER, self._hear_nothing, node, other)
        elif other.answer.version != node.heard.get(other.number):
            self._later(self.setting.peer_delay, self._hear, node, other)
        elif not node.waits_for_news:  # others have to be asked
            self._ask_again(node, other)
        else:
            other.listeners[node] = None

    def _hear(self, node: _Node, other: _Node) -> None:
        if not node.is_there:
            return
        self.outcome.asks += 1
        node.heard[other.number] = other.answer.version
        node.policy.note_state(other.name, other.answer)
        self._fill(node)
        self._ask_again(node, other)

    def _hear_end(self, node: _Node, other: _Node) -> None:
        if node.is_there:
            node.policy.note_gone(other.name)
            self._fill(node)
            if other.number not in node.watched:
                self._later(self._pause, self._ask_next, node)

    def _hear_nothing(self, node: _Node, other: _Node) -> None:
        if node.is_there:
            node.policy.note_silent(other.name)
            self._fill(node)
            self._ask_again(node, other)

    def _announce(self, node: _Node) -> None:
        """Answer those who wait, if there is something new."""
        if not node.is_there or node.policy.version == node.answer.version:
            return
        node.answer = node.policy.state()
        listeners, node.listeners = node.listeners, {}
        for listener in listeners:
            self._later(self.setting.peer_delay, self._hear, listener, node)
