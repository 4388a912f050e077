"""The other nodes of a job: who lives, what they have and claim, who stands in for whom.

It decides nothing about this node's next stripe; ``shares`` does, by what is known here.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Final

from hf_haul.cluster.bitmaps import Bitmap, LazyBitmap
from hf_haul.cluster.stripes import Stripes

__all__ = ["KnownNodes", "Node"]

#: A node is slow that sends at less than this share of the usual pace.
_SLOW: Final = 0.4
#: Stripes that it must have sent before that is said of it.
_MEASURED: Final = 3
#: Seconds for which who failed is left alone the first time, and the most.
_REST, _LONGEST_REST = 0.5, 30.0
#: Of who is left alone for longer than these seconds nobody waits for what it has.
_BEARABLE_REST: Final = 1.0
#: Wrong stripes after which a node is not asked any more.
_LIES: Final = 3
#: Weight of the latest pace in the average.
_RECENT: Final = 0.3


class Node:
    """What is known of another node that was heard of.

    Attributes:
        name: Its name.
        have: Bitmap of what it has.
        claims: What it is fetching from the origin.
        gone: Whether it is dead for sure.
        silent: Whether it does not answer for now.
        ended: Whether it fetches nothing more, and lacks something.
        heard: Whether it has announced anything yet.
        pace: Bytes per second of a connection to it, as far as known.
        counted: Whether what it has counts as there.
        slow: Whether it sends what it has, but so slowly that it does not count as there.
        rests_until: Until when it is left alone.
        failing: Whether that is too long to wait for what it has.
        stripes: How many it has sent.
    """

    __slots__ = (
        *("name", "have", "claims", "gone", "silent", "ended", "heard", "pace", "counted", "rests_until"),
        *("slow", "stripes", "failing", "_failures", "_lies", "_wrong"),
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.have = 0
        self.claims: frozenset[int] = frozenset()
        self.gone = self.silent = self.ended = self.heard = self.counted = self.slow = False
        self.pace: float | None = None
        self.rests_until = 0.0
        self.failing = False
        self.stripes = 0
        self._failures = 0
        self._wrong: frozenset[int] = frozenset()
        self._lies = False

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return not (self.gone or self.silent)

    @property
    def distrusted(self) -> bool:
        """Whether it sent wrong stripes, and not only once."""
        return self._lies or len(self._wrong) >= _LIES

    def note_lies(self) -> None:
        """Note that it is to blame for a file that was wrong."""
        self._lies = True

    def note_wrong(self, stripe: int) -> None:
        """Note that it sent something else than it has."""
        self._wrong |= {stripe}

    def note_pace(self, pace: float) -> None:
        """Note that it sent a stripe, at so many bytes per second."""
        self._failures = 0
        self.rests_until, self.failing = 0.0, False
        self.stripes += 1
        self.pace = averaged(self.pace, pace)

    def note_failure(self, now: float, told: float) -> None:
        """Leave it alone for a while, longer each time; ``told`` are the seconds that it asks for."""
        self._failures += 1
        seconds = max(told, rest_after(self._failures))
        self.rests_until, self.failing = now + seconds, seconds > _BEARABLE_REST


class KnownNodes:
    """All nodes but this one.

    Of ten thousand nodes most were not heard of yet: those that the job began with are taken to live.

    Args:
        me: This node.
        stripes: The job's stripes.

    Attributes:
        ring: The nodes that may be asked, from this one's place on.
        slow: Those that are not worth asking for what others have, too.
        at_slow: What those have.
        available: What some of them has.
        twice: What two or more of them have.
        claimed: What any node is fetching from the origin.
        lagging: The homes that lag.
        abandoned: The stripes whose home does not fetch them.
        pace: The usual bytes per second of a connection to a node, as far as known.
    """

    def __init__(self, me: str, stripes: Stripes) -> None:
        self._me = me
        self._stripes = stripes
        self._nodes: dict[str, Node] = {}
        self._claims: Counter[int] = Counter()
        self.ring: list[Node] = []
        self.available, self.twice, self.claimed, self.at_slow = (Bitmap(stripes.count) for _ in range(4))
        self.slow: list[Node] = []
        #: Those that fetch nothing for others: gone, silent, ended, distrusted, failing, or lagging.
        self._unfit: set[str] = set()
        self.abandoned = Bitmap(stripes.count)
        self._inherited = LazyBitmap(stripes.count, self.is_heir)
        self._first = LazyBitmap(stripes.count, self._is_first)
        self.lagging: frozenset[str] = frozenset()
        self._failing: set[str] = set()
        self.pace: float | None = None

    def get(self, name: str) -> Node | None:
        """Return a node; ``None`` if nothing was heard of it."""
        return self._nodes.get(name)

    def alive(self, name: str) -> bool:
        """Return whether a node answers, as far as is known."""
        node = self._nodes.get(name)
        return self._stripes.place(name) is not None if node is None else node.alive

    def note_member(self, name: str) -> None:
        """Note that a node takes part, and lives."""
        if name in self._nodes or self._stripes.place(name) is None:
            self.greet(name)

    def greet(self, name: str) -> Node:
        """Return a node, which is alive."""
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = Node(name)
        elif node.alive:
            return node
        node.gone = node.silent = False
        self._update(node)
        return node

    def note_state(self, node: Node, have: int, claims: frozenset[int], *, ended: bool) -> None:
        """Note what a node announced; ``ended`` if it gets nothing more, and lacks something."""
        old, new = node.have, have
        node.have = have
        self._note_claims(node, claims)
        node.ended = ended
        if old & ~new:
            self._regroup()
        elif node.counted:
            self._add_available(new & ~old)
        elif node.slow:
            self.at_slow.replace(self.at_slow.bits | new)
        self._update(node)

    def _note_claims(self, node: Node, claims: Collection[int]) -> None:
        claims = frozenset(claims)
        for stripe in node.claims - claims:
            self._claims[stripe] -= 1
            if self._claims[stripe] <= 0:
                del self._claims[stripe]
                self.claimed.discard(stripe)
        for stripe in claims - node.claims:
            self._claims[stripe] += 1
            self.claimed.add(stripe)
        node.claims = claims

    def leave(self, name: str, *, gone: bool) -> None:
        """Note that a node is ``gone``, or does not answer for now."""
        node = self._nodes.get(name)
        if node is None:
            if self._stripes.place(name) is None or name == self._me:
                return
            node = self._nodes[name] = Node(name)
        if node.gone or (node.silent and not gone):
            return
        node.gone, node.silent = gone, not gone
        self._note_claims(node, ())
        self._update(node)

    def note_missing(self, node: Node, stripe: int, *, wrong: bool) -> None:
        """Note that a node does not have a stripe, or sent something else for it."""
        node.have &= ~(1 << stripe)
        if wrong:
            node.note_wrong(stripe)
        self._regroup()
        self._update(node)

    def blame(self, wrong: Collection[tuple[int, str]]) -> str | None:
        """Note stripes that were wrong although their digests were right; return the node that is to blame.

        That is whoever sent them, or their home, from which the sender may have had them in good faith: of
        all these the one that explains most.

        Args:
            wrong: Each stripe, and the node that it came from.
        """
        homes = Counter(self._stripes.home(stripe) for stripe, _ in wrong)
        suspected = Counter(
            name for stripe, sender in wrong for name in {sender, self._stripes.home(stripe)} - {self._me}
        )
        if not suspected:
            return None
        liar = max(sorted(suspected), key=lambda name: (suspected[name], homes[name]))
        node = self.greet(liar)
        node.note_lies()
        self._update(node)
        return liar

    def note_pace(self, node: Node, pace: float) -> None:
        """Note that a node sent a stripe, at so many bytes per second."""
        self.pace = averaged(self.pace, pace)
        node.note_pace(pace)
        self._update(node)

    def note_failure(self, node: Node, now: float, told: float = 0.0) -> None:
        """Note that a node did not send what it has.

        Once that is so several times in a row, what it has counts as not there, until it is asked again: it
        may announce what it cannot send for as long as it lives.

        Args:
            node: It.
            now: The time.
            told: Seconds for which it asks to be left alone.
        """
        node.note_failure(now, told)
        if node.failing:
            self._failing.add(node.name)
            self._update(node)

    def note_rested(self, now: float) -> None:
        """Take those into account again that have been left alone for long enough."""
        for node in [self._nodes[name] for name in self._failing]:
            if node.rests_until <= now:
                self._failing.discard(node.name)
                node.failing = False
                self._update(node)

    def note_late(self, node: Node, pace: float) -> None:
        """Note that a stripe has been under way for long from a node: it comes at no more than this pace."""
        # One that is known not to be slow may be held up for a moment, and slow is who is slower than others.
        if node.stripes < _MEASURED and self.pace is not None:
            node.stripes = _MEASURED
            node.pace = pace if node.pace is None else min(node.pace, pace)
            self._update(node)

    def note_lagging(self, names: frozenset[str]) -> None:
        """Note whose stripes would come much later than those of others."""
        changed, self.lagging = names ^ self.lagging, names
        for name in changed:
            self._update(self._nodes[name])

    def _counts(self, node: Node) -> bool:
        """Return whether what a node has counts as there."""
        if not node.alive or node.distrusted or node.failing:
            return False
        known = node.pace is not None and self.pace is not None and node.stripes >= _MEASURED
        slow = known and (node.pace or 0.0) < _SLOW * (self.pace or 0.0)
        # One that lags need not be slow to send what it has.
        return not slow and (node.name not in self.lagging or node.pace is not None)

    def _update(self, node: Node) -> None:
        """Take note of what became of one node."""
        unfit = not node.alive or node.ended or node.distrusted or node.failing or node.name in self.lagging
        if unfit != (node.name in self._unfit):
            self._unfit ^= {node.name}
            place = self._stripes.place(node.name)
            if place is not None:
                self.abandoned.replace(self.abandoned.bits ^ self._stripes.homes(place))
            self._inherited.forget()
            self._first.forget()
        if self._counts(node):
            if not node.counted:
                node.counted = True
                bisect.insort(self.ring, node, key=self._place_in_ring)
                self._add_available(node.have)
        elif node.counted:
            self._regroup()
        if node.slow != _is_slow(node):
            self._regroup_slow()

    def _regroup_slow(self) -> None:
        bits = 0
        for node in self._nodes.values():
            node.slow = _is_slow(node)
            bits |= node.have if node.slow else 0
        self.slow = [node for node in self._nodes.values() if node.slow]
        self.at_slow.replace(bits)
        self._first.forget()

    def _place_in_ring(self, node: Node) -> tuple[bool, str]:
        return node.name < self._me, node.name

    def _add_available(self, bits: int) -> None:
        if bits:
            there = self.available.bits
            self.twice.replace(self.twice.bits | (there & bits))
            self.available.replace(there | bits)

    def _regroup(self) -> None:
        """Take stock, after a node left, or has less than before."""
        there = twice = 0
        for node in self._nodes.values():
            node.counted = self._counts(node)
        self.ring = sorted((n for n in self._nodes.values() if n.counted), key=self._place_in_ring)
        self._regroup_slow()
        for node in self.ring:
            bits = node.have
            twice |= there & bits
            there |= bits
        self.available.replace(there)
        self.twice.replace(twice)

    def stand_ins(self, stripe: int) -> Iterator[str]:
        """Yield the nodes that fetch a stripe if its home does not, this one among them: the first one does.

        Those that came later to the job are the last.
        """
        began = self._stripes.order(stripe)
        yield from (name for name in began if name not in self._unfit)
        later = {*self._nodes, self._me} - self._unfit
        yield from sorted(name for name in later if self._stripes.place(name) is None)

    def is_alone(self) -> bool:
        """Return whether nobody else is left that could fetch anything."""
        known = chain(self._stripes.nodes, self._nodes)
        return all(name == self._me or name in self._unfit for name in known)

    def inherited(self, among: int, base: int, length: int) -> int:
        """Return a bitmap of the stripes whose home does not fetch them, so that it is for this node to do.

        Args:
            among: Bitmap of the stripes to look at.
            base: The stripe that is bit 0.
            length: How many bits there are.
        """
        return self._inherited.among(among & self.abandoned.window(base, length), base, length)

    def is_heir(self, stripe: int) -> bool:
        """Return whether this node comes first of those who take over a stripe."""
        return next(self.stand_ins(stripe), None) == self._me

    def to_take_first(self, among: int, base: int, length: int) -> int:
        """Return a bitmap of the stripes that this node takes before others, where only slow nodes have them.

        Args:
            among: Bitmap of the stripes to look at.
            base: The stripe that is bit 0.
            length: How many bits there are.
        """
        return self._first.among(among, base, length)

    def _is_first(self, stripe: int) -> bool:
        """Return whether this node comes first of those who take over a stripe and are not slow."""
        return next((name for name in self.stand_ins(stripe) if not self.is_slow(name)), None) == self._me

    def is_slow(self, name: str) -> bool:
        """Return whether a node is known to be slow."""
        node = self._nodes.get(name)
        return node is not None and node.slow


def _is_slow(node: Node) -> bool:
    """Return whether a node sends what it has, but so slowly that it does not count as there."""
    return node.alive and not (node.distrusted or node.failing or node.counted)


def averaged(before: float | None, latest: float) -> float:
    """Return an average in which later values weigh more."""
    return latest if before is None else before + _RECENT * (latest - before)


def rest_after(failures: int) -> float:
    """Return the seconds for which who has failed so often in a row is left alone."""
    return float(min(_REST * 2 ** min(failures - 1, 10), _LONGEST_REST))
