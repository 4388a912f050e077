"""Time that passes only when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hf_haul.cancellation import CancelToken
from hf_haul.waits import Waits

__all__ = ["FakeCancelToken", "FakeClock"]


class FakeClock:
    """Seconds that a test moves by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


class FakeCancelToken(CancelToken):
    """A cancel token whose waits take no time but move a fake clock.

    ``during`` is called before each wait with its seconds, and may set the token or change the world.
    """

    def __init__(self, clock: FakeClock, during: Callable[[float], None] = lambda seconds: None) -> None:
        super().__init__(Waits(clock=clock))
        self.clock = clock
        self.during = during
        self.waited: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.during(seconds)
        if not self.is_set():
            self.clock.advance(seconds)
        return self.is_set()
