"""The faults of :mod:`hf_haul.localhub.testing.faults` and their rules, under their public name."""

from __future__ import annotations

from hf_haul.localhub.testing.faults import (
    ChangedEtag,
    Corrupt,
    Cut,
    Delay,
    Effects,
    Fault,
    GzipBody,
    Headers,
    Html,
    IgnoreRange,
    Redirects,
    Reset,
    Stall,
    Status,
    TooLong,
    Trickle,
    WrongRange,
    WrongTotal,
)
from hf_haul.localhub.testing.rules import FaultRule, Faults

__all__ = [
    "ChangedEtag",
    "Corrupt",
    "Cut",
    "Delay",
    "Effects",
    "Fault",
    "FaultRule",
    "Faults",
    "GzipBody",
    "Headers",
    "Html",
    "IgnoreRange",
    "Redirects",
    "Reset",
    "Stall",
    "Status",
    "TooLong",
    "Trickle",
    "WrongRange",
    "WrongTotal",
]
