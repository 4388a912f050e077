"""A lab's server before a local hub, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_haul.config import Settings
from hf_haul.lab.lab import Lab
from hf_haul.lab.wiring import hub_options
from hf_haul.localhub import LocalHub, share

__all__ = ["LabServer", "lab_before"]

_SHARED = frozenset(
    {"host", "port", "certfile", "keyfile", "allow_anyone", "allowed_hosts", "max_bytes_per_s"}
)


@dataclass
class LabServer:
    """A running lab server.

    Attributes:
        hub: Its hub.
        lab: What is behind it.
        cache: The Hub cache that it fills.
    """

    hub: LocalHub
    lab: Lab
    cache: Path

    @property
    def url(self) -> str:
        """Its address."""
        return self.hub.url

    def blobs(self) -> set[str]:
        """The names of the files in its cache that are whole."""
        return {path.name for path in self.cache.glob("*/blobs/*") if "." not in path.name}


@contextmanager
def lab_before(
    upstream: LocalHub | str | None, cache: Path, *, token: str | None = None, **options: Any
) -> Iterator[LabServer]:
    """Serve a cache, and what another hub has.

    Args:
        upstream: The other hub, or its address.
        cache: The cache.
        token: What clients are asked for.
        **options: For `Lab`, and for `share`.
    """
    shared = {name: options.pop(name) for name in _SHARED & options.keys()}
    # A test need not wait for as long as a user would.
    settings = options.pop("settings", None) or Settings(give_up_after=5.0, stall_timeout=2.0, max_retries=2)
    lab = Lab(
        cache,
        upstream=upstream.url if isinstance(upstream, LocalHub) else upstream,
        token=token is not None,
        settings=settings,
        **options,
    )
    try:
        with share(cache, token=token, **shared, **hub_options(lab)) as hub:
            lab.attach(hub)
            yield LabServer(hub, lab, lab.cache_dir)
    finally:
        lab.close()
