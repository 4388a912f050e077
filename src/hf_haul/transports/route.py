"""How to reach one origin."""

from __future__ import annotations

from dataclasses import dataclass, field

from urllib3 import HTTPConnectionPool

__all__ = ["Route"]


@dataclass(frozen=True)
class Route:
    """How to reach one origin.

    Attributes:
        connections: urllib3's pool for it, a proxy's where one is set.
        proxies: The proxies that apply.
    """

    connections: HTTPConnectionPool
    proxies: dict[str, str] = field(repr=False)  # they may hold passwords

    @property
    def forwards(self) -> bool:
        """Whether a proxy is asked for whole URLs, and given headers of its own."""
        return self.connections.proxy is not None and self.connections.scheme == "http"
