"""Which stripe a node fetches next, and from whom: the policy of a job, as one of its nodes sees it.

Long because it is one order of choices, to be read from one end to the other.

Each node decides for itself, by what the others announce: what they have, what they fetch from the origin at
the moment (their *claims*), and whether they are done. In this order:

1. Its own stripes, from the origin. Where others have something for it, too, it does both at once: at least
   as many connections to the origin as to nodes.
2. Stripes that a node has: rare ones first, not all nodes the same one, from the node with the fewest
   connections in use, two at the most, and not always the same node first.
3. Stripes whose home is gone, silent, or ended: they go to the first one left in an order that each stripe
   has of its own, so that one node fetches them and not all.
4. Stripes whose home *lags*: by its pace it ends much later than half of the homes. They are taken from the
   last to the first, as it goes on from the first to the last. And a node that has none of its own left takes
   some of whoever would end last, rather than idle.
5. If there is nothing else to do: what is under way for long already, from where it is had faster.

What only a *slow* node has, one that sends slowly or lags, each node takes over one connection, and of each
stripe only the first one left in its order: the others have it from that one. So what the slow node can send
goes once around, and the origin need not send it again.

Nobody takes a stripe that a live node claims, but for that end. And nobody waits for ever: who has been idle
for a while takes the place of a node before it in a stripe's order.

Pure: no input or output, no threads, and the time is given. Whoever uses it from several threads locks it.
What is looked at in :meth:`Shares.next` are the few bits of the stripes that are asked about, not all of a
job's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import Final, Literal

from hf_haul.cluster.bitmaps import Bitmap, highest, lowest, numbers_in
from hf_haul.cluster.homes import ENOUGH, SLACK, Homes, laggards
from hf_haul.cluster.known_nodes import KnownNodes, Node, averaged, rest_after
from hf_haul.cluster.node_state import NodeState
from hf_haul.cluster.stripes import Stripes

__all__ = ["Choice", "ErrorKind", "Shares"]

#: Connections to one node at once.
_CONNECTIONS: Final = 2
#: Connections to the origin of all nodes together, where each has more than one. With more of them all
#: stripes come at the same time, in the end, and nobody has anything to give to others before: with 200 nodes
#: and five stripes for each it took 8.3 s and not 7.0 (tests/benchmarks/sim_swarm.py).
_ORIGIN_CONNECTIONS: Final = 256
#: And of a node's own stripes it fetches this share at once, or this many: else they come at the same time,
#: too. Six nodes with 21 stripes each took 9.4 s, and 9.6 s if one of them was slow, for what took 10.1 s and
#: 15.8 s with all stripes of a node at once (tests/benchmarks/real_swarm.py).
_AT_ONCE, _FEW_AT_ONCE = 1 / 6, 4
#: Slow nodes that are asked at once, while there is something else to do.
_SLOW_AT_ONCE: Final = 4
#: A stripe is under way for long after so many times the usual seconds, and these seconds.
_LONG, _LONG_SECONDS = 3.0, 1.0
#: Seconds after which who is idle takes the place of whoever comes before it.
_PATIENCE: Final = 5.0
#: Stripes that are looked at for one whose turn it is.
_LOOKED_AT: Final = 64
#: Seconds between two looks at who lags.
_LOOK: Final = 0.2
#: Homes that are looked at so often; more of them less often.
_HOMES_LOOKED_AT: Final = 200

#: What became of a stripe that did not come: the node is ``gone``, it does not have it (``absent``), what it
#: sent was ``wrong``, or something else.
ErrorKind = Literal["gone", "absent", "wrong", "failed"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What to fetch next.

    Attributes:
        stripe: Its number.
        node: Whom to ask; ``None`` for the origin.
        hedge: Whether it is under way already.
    """

    stripe: int
    node: str | None
    hedge: bool = False


class Shares:
    """The policy of one node in one job.

    Args:
        me: The node's name; one that the job did not begin with has no stripes of its own.
        stripes: The job's stripes.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, me: str, stripes: Stripes, *, clock: Callable[[], float]) -> None:
        self.me = me
        self.stripes = stripes
        self._clock = clock
        now = clock()
        count = stripes.count
        self._place = stripes.place(me)
        self._have = Bitmap(count)
        self._spoilt = Bitmap(count)  # what came, and was wrong
        self._version = 1
        self._done = False
        self._error: str | None = None
        #: What this node is fetching: from whom, and since when.
        self._under_way: dict[int, dict[str | None, float]] = {}
        self._nodes = KnownNodes(me, stripes)
        self._turn = 0
        #: Where in the stripes this node begins with those that are rare: a number from 0 to 1 of its own.
        self._start = int.from_bytes(blake2b(me.encode(), digest_size=4).digest(), "big") / (1 << 32)
        self._homes = Homes(stripes, now)
        self._mine = self._homes.of(me)
        self._looked_at = now
        self._seconds: float | None = None
        size = len(stripes.nodes)
        at_once = max(_FEW_AT_ONCE, int(count / size * _AT_ONCE))
        self._most_to_origin = max(1, min(_ORIGIN_CONNECTIONS // size, at_once))
        self._origin_failures = 0
        self._origin_rests_until = 0.0
        self._idle_since: float | None = None
        self._out_of_turn: set[int] = set()  # what is fetched because nobody brought it
        self._blocked: int | None = None

    # ---- what is known of the nodes

    def note_member(self, name: str) -> None:
        """Note that a node takes part, and lives."""
        if name != self.me:
            self._nodes.note_member(name)

    def note_state(self, name: str, state: NodeState) -> None:
        """Note what a node announced."""
        if name == self.me:
            return
        node = self._nodes.greet(name)
        lacks = state.error is not None or (state.done and state.have.bit_count() < self.stripes.count)
        self._nodes.note_state(node, state.have, state.claims, ended=lacks)
        self._homes.note(node.name, state.have, state.claims, self._clock(), first=not node.heard)
        node.heard = True
        self._look()

    def note_gone(self, name: str) -> None:
        """Note that a node is dead for sure."""
        self._nodes.leave(name, gone=True)

    def note_silent(self, name: str) -> None:
        """Note that a node does not answer for now."""
        self._nodes.leave(name, gone=False)

    # ---- what this node has

    def has(self, stripe: int) -> bool:
        """Return whether this node has a stripe."""
        return stripe in self._have

    def note_have(self, stripe: int) -> None:
        """Note that this node has a stripe: from an earlier run, or fetched."""
        if stripe not in self._have:
            self._have.add(stripe)
            self._changed()
            self._note_own(stripe, 1)

    def note_window(self, base: int, length: int, have: int) -> None:
        """Note which of some stripes this node has, as a bitmap.

        Args:
            base: The stripe that is bit 0.
            length: How many there are.
            have: Those that are here.
        """
        for bit in numbers_in(self._have.window(base, length) ^ have):
            if have >> bit & 1:
                self.note_have(base + bit)
            else:
                self.note_lost(base + bit)

    def note_lost(self, stripe: int) -> None:
        """Note that a stripe is not here any more: its file was wrong, or is gone."""
        if stripe in self._have:
            self._have.discard(stripe)
            self._changed()
            self._note_own(stripe, -1)

    def _note_own(self, stripe: int, by: int) -> None:
        if self._mine is not None and stripe % len(self.stripes.nodes) == self._place:
            self._mine.note(self._mine.count + by, self._own_under_way(), self._clock())

    def _own_under_way(self) -> int:
        size = len(self.stripes.nodes)
        return sum(None in by and stripe % size == self._place for stripe, by in self._under_way.items())

    def note_ended(self, error: str | None = None) -> None:
        """Note that this node fetches nothing more: all files are in place, or ``error`` says why not."""
        self._done, self._error = True, error
        self._changed()

    def state(self) -> NodeState:
        """Return what to announce."""
        claims = frozenset(stripe for stripe, by in self._under_way.items() if None in by)
        return NodeState(self.me, self._version, self._have.bits, claims, self._done, self._error)

    @property
    def version(self) -> int:
        """The version of :meth:`state`, without the work."""
        return self._version

    def _changed(self) -> None:
        self._version += 1

    # ---- what becomes of a choice

    def note_begun(self, stripe: int, node: str | None) -> None:
        """Note that a stripe is being fetched from a node, or the origin."""
        self._under_way.setdefault(stripe, {})[node] = self._clock()
        if stripe not in self._out_of_turn:
            self._idle_since = None
        if node is None:
            self._changed()

    def note_done(self, stripe: int, node: str | None, seconds: float) -> None:
        """Note that a stripe came from a node, or the origin."""
        self._end(stripe, node)
        self.note_have(stripe)
        if node is None:
            self._origin_failures = 0
            return
        self._seconds = averaged(self._seconds, seconds)
        known = self._nodes.get(node)
        if known is not None:
            self._nodes.note_pace(known, self.stripes.length(stripe) / max(seconds, 1e-6))

    def note_failed(self, stripe: int, node: str | None, kind: ErrorKind, *, told: float = 0.0) -> None:
        """Note that a stripe did not come; ``told`` are the seconds that a node asks to be left alone for."""
        self._end(stripe, node)
        now = self._clock()
        if node is None:
            self._origin_failures += 1
            self._origin_rests_until = now + rest_after(self._origin_failures)
            return
        known = self._nodes.get(node)
        if known is None:
            return
        if kind in {"absent", "wrong"}:
            self._nodes.note_missing(known, stripe, wrong=kind == "wrong")
        if kind == "gone":
            self.note_silent(node)
        elif kind == "wrong":
            self._spoilt.add(stripe)
        else:
            self._nodes.note_failure(known, now, told)

    def can_spare_origin(self, most: int) -> bool:
        """Return whether others may bring what the origin did not; not once it has failed ``most`` times."""
        return self._origin_failures + 1 < most and not self._nodes.is_alone()

    def note_lies(self, wrong: Collection[tuple[int, str]]) -> str | None:
        """See :meth:`KnownNodes.blame`."""
        return self._nodes.blame(wrong)

    def note_dropped(self, stripe: int, node: str | None) -> None:
        """Note that a stripe is not being fetched from a node any more, which is nobody's fault."""
        self._end(stripe, node)

    def _end(self, stripe: int, node: str | None) -> None:
        sources = self._under_way.get(stripe)
        if sources is None or node not in sources:
            return
        del sources[node]
        if not sources:
            del self._under_way[stripe]
            self._out_of_turn.discard(stripe)
        if node is None:
            self._changed()

    # ---- what is next

    def next(
        self,
        wanted: int,
        busy: Mapping[str | None, int],
        *,
        base: int = 0,
        origin: bool = True,
        under_way: int = 0,
        idle: bool = True,
    ) -> Choice | None:
        """Return what to fetch next; ``None`` if nothing can be had now.

        Args:
            wanted: Bitmap of the stripes that are missing and not under way.
            busy: Connections in use by node; those to the origin under ``None``.
            base: The stripe that is bit 0 of the bitmaps.
            origin: Whether the origin may have another connection, as far as the engine goes.
            under_way: Bitmap of the stripes under way that may be had from somewhere else at the same time,
                once there is nothing else to do.
            idle: Whether there is nothing else to do, for other stripes either.
        """
        self._look()
        now = self._clock()
        self._nodes.note_rested(now)
        origin = origin and self._origin_rests_until <= now and busy.get(None, 0) < self._most_to_origin
        length = max(wanted.bit_length(), under_way.bit_length())
        choice = self._choose(_Window(base, length, wanted), busy, now, origin=origin)
        if choice is None and idle:
            choice = self._last_choice(_Window(base, length, wanted), under_way, busy, now, origin=origin)
        if choice is None and wanted:
            self._blocked = base + lowest(wanted)
            if self._idle_since is None and self._under_way.keys() <= self._out_of_turn:
                self._idle_since = now
        return choice

    def _choose(
        self, at: _Window, busy: Mapping[str | None, int], now: float, *, origin: bool
    ) -> Choice | None:
        wanted = at.wanted
        if not wanted:
            return None
        there = at.of(self._nodes.available)
        unclaimed = wanted & ~there & ~at.of(self._nodes.at_slow) & ~at.of(self._nodes.claimed)
        own = 0
        if origin and self._place is not None:
            own = unclaimed & self.stripes.homes(self._place, at.base, at.length)
            asked = busy.get(None, 0)
            if own and (asked <= sum(busy.values()) - asked or not wanted & there):
                return Choice(at.base + lowest(own), None)
        found = self._from_slow(at, busy, now, most=_SLOW_AT_ONCE)
        found = found or self._from_node(at, wanted & there, busy, now)
        if found is not None:
            return found
        if own:
            return Choice(at.base + lowest(own), None)
        return self._inherit(at, unclaimed) if origin and unclaimed else None

    def _from_node(
        self, at: _Window, wanted: int, busy: Mapping[str | None, int], now: float
    ) -> Choice | None:
        """Return a stripe that some node has, and the node."""
        if not wanted:
            return None
        ring, count = self._nodes.ring, len(self._nodes.ring)
        rare = wanted & ~at.of(self._nodes.twice)
        best: tuple[int, Node, int] | None = None
        last = 0
        turn = self._turn % count if count else 0
        for place in chain(range(turn, count), range(turn)):
            node = ring[place]
            has = wanted & (node.have >> at.base)
            if not has:
                continue
            asked = busy.get(node.name, 0)
            if asked >= _CONNECTIONS or (best is not None and asked >= best[0]) or node.rests_until > now:
                continue
            best, last = (asked, node, has), place
            if not asked:
                break
        if best is None:
            return None
        _, node, has = best
        self._turn = last + 1
        rare &= has
        if not rare:
            return Choice(at.base + lowest(has), node.name)
        # Nodes that all want what one has take different stripes of it, and have the others from each other.
        start = int(self._start * at.length)
        return Choice(at.base + lowest(rare >> start << start or rare), node.name)

    def _inherit(self, at: _Window, unclaimed: int) -> Choice | None:
        """Return a stripe whose home does not fetch it, if it is for this node to do so."""
        inherited = self._nodes.inherited(unclaimed, at.base, at.length) | unclaimed & at.of(self._spoilt)
        if not inherited:
            return None
        # Of a laggard from the last to the first, as it goes from the first to the last.
        of_dead = inherited
        for name in self._nodes.lagging:
            place = self.stripes.place(name)
            if place is not None:
                of_dead &= ~self.stripes.homes(place, at.base, at.length)
        return Choice(at.base + (lowest(of_dead) if of_dead else highest(inherited)), None)

    def _last_choice(
        self, at: _Window, under_way: int, busy: Mapping[str | None, int], now: float, *, origin: bool
    ) -> Choice | None:
        """Return what to fetch where all that is wanted is under way, here or elsewhere."""
        if at.wanted:
            found = self._from_slow(at, busy, now)
            if found is None and origin:
                found = self._help(at, now) or self._out_of_patience(at, now)
            if found is not None:
                return found
        stuck, late = self._stuck(at, under_way, now)
        if not stuck:
            return None
        others = _Window(at.base, at.length, stuck)
        found = self._from_node(others, stuck & at.of(self._nodes.available), busy, now)
        if found is None and origin:
            alone = late & ~at.of(self._nodes.available) & ~at.of(self._nodes.claimed)
            mine = (bit for bit in numbers_in(alone) if self._nodes.is_heir(at.base + bit))
            bit = next((bit for bit in mine if None not in self._under_way.get(at.base + bit, ())), None)
            found = None if bit is None else Choice(at.base + bit, None)
        if found is None or found.node in self._under_way.get(found.stripe, ()):
            return None
        return Choice(found.stripe, found.node, hedge=True)

    def _from_slow(
        self, at: _Window, busy: Mapping[str | None, int], now: float, *, most: int | None = None
    ) -> Choice | None:
        """Return a stripe that only slow nodes have, if it is for this node to take it, ``most`` at once."""
        scarce = at.wanted & at.of(self._nodes.at_slow) & ~at.of(self._nodes.available)
        mine = self._nodes.to_take_first(scarce, at.base, at.length) if scarce else 0
        if not mine or (
            most is not None and sum(busy.get(node.name, 0) > 0 for node in self._nodes.slow) >= most
        ):
            return None
        for node in self._nodes.slow:
            has = mine & (node.have >> at.base)
            if has and not busy.get(node.name) and node.rests_until <= now:
                return Choice(at.base + lowest(has), node.name)
        return None

    def _help(self, at: _Window, now: float) -> Choice | None:
        """Return a stripe of whoever would end last, where this node has none of its own left."""
        if self._mine is None or self._mine.ended_at is None:
            return None
        there = at.of(self._nodes.available) | at.of(self._nodes.at_slow)
        claimed = at.of(self._nodes.claimed)
        # What a laggard is fetching: one helper takes it as well.
        for name in self._nodes.lagging:
            node = self._nodes.get(name)
            for stripe in node.claims if node is not None else ():
                bit = stripe - at.base
                if 0 <= bit < at.length and at.wanted & ~there & (1 << bit) and self._nodes.is_heir(stripe):
                    return Choice(stripe, None)
        left = at.wanted & ~there & ~claimed
        latest, found = 0.0, 0
        for name, home in self._homes.items() if left else ():
            if home.ended_at is not None or home.total - home.count - home.under_way < ENOUGH:
                continue
            theirs = left & self.stripes.homes(self.stripes.place(name) or 0, at.base, at.length)
            end, elapsed = home.end(now, hopeful=True), now - home.since
            if theirs and end > max(latest, elapsed + SLACK) and elapsed > SLACK:
                latest, found = end, theirs
        if not found or not self._nodes.is_heir(at.base + highest(found)):
            return None
        return Choice(at.base + highest(found), None)

    def _out_of_patience(self, at: _Window, now: float) -> Choice | None:
        """Return a stripe that nobody brings, though others come before this node."""
        if self._idle_since is None or now - self._idle_since < _PATIENCE:
            return None
        before = int((now - self._idle_since) / _PATIENCE)
        there = at.of(self._nodes.available)
        for bit in islice(numbers_in(at.wanted & ~there), _LOOKED_AT):
            stripe = at.base + bit
            if self.me in islice(self._nodes.stand_ins(stripe), before):
                self._out_of_turn.add(stripe)
                return Choice(stripe, None)
        return None

    def _stuck(self, at: _Window, under_way: int, now: float) -> tuple[int, int]:
        """Return bitmaps of the stripes that are under way for long or from a slow node, and for long."""
        stuck = late = 0
        seconds = self._long()
        for bit in numbers_in(under_way):
            sources = self._under_way.get(at.base + bit)
            if sources is None or len(sources) > 1:
                continue
            ((name, since),) = sources.items()
            node = None if name is None else self._nodes.get(name)
            if now - since > seconds:
                late |= 1 << bit
            if node is not None and node.slow:
                stuck |= 1 << bit
        return stuck | late, late

    def _long(self) -> float:
        """Return the seconds after which a stripe is under way for long."""
        return _LONG_SECONDS if self._seconds is None else max(_LONG_SECONDS, _LONG * self._seconds)

    def waits_for(self) -> str:
        """Say what the files wait for while nothing is assigned."""
        stripe = self._blocked
        if stripe is None:
            return "other nodes"
        by = [node.name for node in self._nodes.ring if stripe in node.claims]
        if by:
            return f"{by[0]}, which is fetching it from the origin"
        if stripe in self._nodes.available:
            return "a connection to a node that has it"
        home = self.stripes.home(stripe)
        if self._origin_rests_until > self._clock():
            return "the origin, which failed, or a node that has it"
        return "a connection to the origin" if home == self.me else f"{home}, which has to fetch it"

    def _look(self) -> None:
        """Find out, now and then, whose stripes would come much later than those of others."""
        now = self._clock()
        if now - self._looked_at < _LOOK * max(1.0, len(self._homes) / _HOMES_LOOKED_AT):
            return
        self._looked_at = now
        seconds = self._long()
        for stripe, sources in self._under_way.items():
            for name, since in sources.items():
                node = None if name is None else self._nodes.get(name)
                if node is not None and now - since > seconds:
                    self._nodes.note_late(node, self.stripes.length(stripe) / (now - since))
        if self._mine is not None:
            self._mine.note(self._mine.count, self._own_under_way(), now)
        homes = {name: home for name, home in self._homes.items() if self._nodes.alive(name)}
        self._nodes.note_lagging(laggards(homes, now) - {self.me})


@dataclass(frozen=True, slots=True)
class _Window:
    """The stripes that are looked at.

    Attributes:
        base: The first one.
        length: How many.
        wanted: Bitmap of those that are wanted.
    """

    base: int
    length: int
    wanted: int

    def of(self, bitmap: Bitmap) -> int:
        """Return what a bitmap says of them."""
        return bitmap.window(self.base, self.length)
