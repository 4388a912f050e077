"""What makes of a hub that shares a folder a lab's server."""

from __future__ import annotations

from typing import Any

from hf_haul.lab.lab import Lab
from hf_haul.lab.pages import pages_of
from hf_haul.localhub.site import Site

__all__ = ["hub_options"]


def hub_options(lab: Lab) -> dict[str, Any]:
    """Return what `hf_haul.localhub.share` and `serve` are to be given; then `Lab.attach` the hub."""
    made: dict[str, Any] = {"site": Site(pages_of(lab), lab.traffic, lab.source)}
    if lab.source is not None:
        made["make_repo"] = lab.source.make_repo
    return made
