"""What fetches parts, without anybody who is told of it."""

from __future__ import annotations

from typing import Any

from hf_haul.config import Settings
from hf_haul.engine.part_fetcher import PartFetcher
from hf_haul.limiter import BandwidthLimiter
from hf_haul.metrics import SourceHistory

__all__ = ["quiet_fetcher"]


def quiet_fetcher(settings: Settings, **told: Any) -> PartFetcher:
    """Return a fetcher with no limit and no history, and nobody who is told, but for ``told``."""
    nobody = dict.fromkeys(
        ("on_bytes", "on_retry", "on_backing_off", "on_whole_file", "on_limited"), lambda *_: None
    )
    return PartFetcher(settings, BandwidthLimiter(None), SourceHistory(), **{**nobody, **told})
