"""The stripes of a job: pieces of its blobs, numbered over all of them, each with a home among the nodes."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from math import gcd
from typing import Final

from hf_haul.cluster.plan import JobPlan
from hf_haul.ranges import ByteRange

__all__ = ["Stripes"]

#: Stripes by which a node may come to watch others, for each node that there is. With more of them a job
#: takes so long that the seconds until a node is asked in its turn do not count.
_WATCHED: Final = 32
#: Of each stripe those who stand in for its home, and watch whoever comes before them.
_STAND_INS: Final = 2


class Stripes:
    """Numbers the stripes of a plan's blobs: the first blob's in order, then the second's, and so on.

    Args:
        blobs: Etag and size of each blob; none is empty.
        stripe_bytes: Bytes of a stripe; the last one of a blob may have fewer.
        nodes: Names of the nodes that the job began with, in order.
    """

    def __init__(self, blobs: Iterable[tuple[str, int]], stripe_bytes: int, nodes: Sequence[str]) -> None:
        self.stripe_bytes = stripe_bytes
        self.nodes = tuple(nodes)
        self._places = {name: place for place, name in enumerate(self.nodes)}
        self._etags: list[str] = []
        self._index: dict[str, int] = {}
        self._sizes = array("q")
        self._firsts = array("q", (0,))
        for etag, size in blobs:
            self._index[etag] = len(self._etags)
            self._etags.append(etag)
            self._sizes.append(size)
            self._firsts.append(self._firsts[-1] - (-size // stripe_bytes))
        # One bit in as many as there are nodes: shifted by its place, the stripes whose home a node is.
        self._every = _spread(self.count, len(self.nodes))

    @classmethod
    def of(cls, plan: JobPlan) -> Stripes:
        """Return the stripes of a plan."""
        return cls(plan.blobs(), plan.stripe_bytes, plan.nodes)

    @property
    def count(self) -> int:
        """How many there are."""
        return self._firsts[-1]

    @property
    def total_bytes(self) -> int:
        """Bytes of all of them."""
        return sum(self._sizes)

    def of_blob(self, etag: str) -> range:
        """Return the numbers of a blob's stripes, in order; none if it is not of the job."""
        index = self._index.get(etag)
        return range(0) if index is None else range(self._firsts[index], self._firsts[index + 1])

    def locate(self, stripe: int) -> tuple[str, ByteRange]:
        """Return the etag of the blob that a stripe is of, and its place there."""
        if not 0 <= stripe < self.count:
            raise IndexError(f"no stripe {stripe} of {self.count}")
        index = bisect_right(self._firsts, stripe) - 1
        start = (stripe - self._firsts[index]) * self.stripe_bytes
        return self._etags[index], ByteRange(start, min(start + self.stripe_bytes, self._sizes[index]))

    def length(self, stripe: int) -> int:
        """Return the bytes of a stripe."""
        return len(self.locate(stripe)[1])

    def size(self, etag: str) -> int:
        """Return the bytes of a blob of the job."""
        return self._sizes[self._index[etag]]

    def size_of(self, etag: str) -> int | None:
        """Return the bytes of a blob; ``None`` if it is not of the job."""
        index = self._index.get(etag)
        return None if index is None else self._sizes[index]

    def home(self, stripe: int) -> str:
        """Return the node that fetches a stripe from the origin, unless it is gone or lags."""
        return self.nodes[stripe % len(self.nodes)]

    def place(self, node: str) -> int | None:
        """Return a node's place in the order of nodes; ``None`` if the job did not begin with it."""
        return self._places.get(node)

    def homes(self, place: int, base: int = 0, length: int | None = None) -> int:
        """Return a bitmap of the stripes whose home is the node at a place in the order of nodes.

        Args:
            place: The node's place.
            base: The stripe that is bit 0.
            length: How many bits are wanted; all from ``base`` on by default.
        """
        length = self.count - base if length is None else length
        shift = (place - base) % len(self.nodes)
        return (self._every & ((1 << length) - 1)) << shift & ((1 << length) - 1)

    def order(self, stripe: int) -> Iterator[str]:
        """Yield the nodes in the order in which they stand in for a stripe's home.

        Each stripe has an order of its own, so that the stripes of one home go to many. Whoever leaves is
        passed over, which changes nothing between the others. To find the first one takes no longer with ten
        thousand nodes than with ten.
        """
        size = len(self.nodes)
        digest = blake2b(stripe.to_bytes(8, "little"), digest_size=16).digest()
        place, step = (int.from_bytes(digest[at : at + 8], "little") % size for at in (0, 8))
        while gcd(step, size) != 1:  # else it would not come by all of them
            step += 1
        for _ in range(size):
            yield self.nodes[place]
            place = (place + step) % size

    def watched_by(self, node: str) -> frozenset[str]:
        """Return the nodes whose end another one has to know of soon, as it fetches a stripe in their stead.

        Those are a stripe's home, and who stands in for it first: of many homes that end at the same time,
        the first stand-in of one has ended, too. On average there are three for each stripe that a home has.
        """
        found: set[str] = set()
        for stripe in range(min(self.count, _WATCHED * len(self.nodes))) if node in self._places else ():
            home = self.home(stripe)
            line = [home, *islice((name for name in self.order(stripe) if name != home), _STAND_INS)]
            if node in line:
                found.update(line[: line.index(node)])
        return frozenset(found)


def _spread(count: int, step: int) -> int:
    """Return an int with bits at 0, ``step``, twice that, and so on, below ``count``."""
    bits, length = 1, step
    while length < count:
        bits |= bits << length
        length *= 2
    return bits & ((1 << count) - 1)
