"""Seconds for which a hub waits for its clients: nobody has to choose them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_TIMINGS", "HubTimings"]


@dataclass(frozen=True, kw_only=True)
class HubTimings:
    """Seconds that a hub works by; those who test it pass shorter ones.

    Attributes:
        header: From the first byte of a request to the end of its headers.
        body: From there to the end of its body.
        keep_alive: Between two requests of a connection.
        handshake: For a TLS handshake.
        handshake_grace: Of a handshake after which it makes room for other connections.
        taking: In which a client takes no more of an answer, some MiB, after which it makes room.
        look: Between two looks for connections that are overdue; only while there are any.
        stalled: In which a client takes not a byte of an answer.
    """

    header: float = 20.0
    body: float = 30.0
    keep_alive: float = 75.0
    handshake: float = 15.0
    handshake_grace: float = 1.0
    taking: float = 10.0
    look: float = 5.0
    stalled: float = 300.0


DEFAULT_TIMINGS: Final = HubTimings()
