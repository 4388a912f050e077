"""A collector that changes what is being looked at."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["at_every_allocation"]


@contextmanager
def at_every_allocation(change: Callable[[], object]) -> Iterator[None]:
    """Have a finalizer call ``change()`` whenever the collector may run: at every allocation, up to Python 3.11."""
    over = False

    class Garbage:
        """Unreachable at once, but for the collector; and made anew by each collection."""

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            if not over:
                change()
                Garbage()

    # Small tuples that were let go are used again, which is no allocation: take them all.
    tuples = [(number, number) for number in range(5000)]
    threshold = gc.get_threshold()
    gc.collect()
    Garbage()
    gc.set_threshold(1, 1000, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        over = True
        tuples.clear()
        gc.collect()
