"""A process whose network is slow: what it fetches, be it from the origin or from other nodes, comes at a pace."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["slow_down"]


def slow_down(bytes_per_s: int) -> None:
    """Let this process take, and each node that it starts send, so many bytes per second, from now on.

    The limit of bandwidth is for what comes from the Hub. Here it is for all that is fetched: who does not read
    has the sender wait, as a slow line does.
    """
    from hf_haul.cluster import agent
    from hf_haul.engine import file_sources, part_fetcher  # noqa: F401  imported before it is changed

    class LimitedSource(file_sources.FileSource):
        __slots__ = ()

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "is_limited": True})

    class SlowServer(agent.JobServer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "max_bytes_per_s": float(bytes_per_s)})

    file_sources.FileSource = LimitedSource  # type: ignore[misc]  # as tests do
    agent.JobServer = SlowServer  # type: ignore[misc]  # as tests do
    os.environ["HF_HAUL_MAX_BANDWIDTH_BPS"] = str(bytes_per_s)
