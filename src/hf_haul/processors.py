"""How much of the machine's processors this process may use."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["usable_processors"]

_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_HIERARCHIES: Final = Path("/sys/fs/cgroup")


def usable_processors(membership: Path = _MEMBERSHIP, hierarchies: Path = _HIERARCHIES) -> float:
    """Return how many processors this process may use: a container or batch job seldom has all of them.

    Args:
        membership: The control groups that the process belongs to; see cgroups(7).
        hierarchies: Where the groups' files are.

    Returns:
        A number above 0, not always a whole one: the processors that it may run on, or what the quota of its
        control groups comes to if that is less (``cpu.max``, in version 1 ``cpu.cfs_quota_us``).
    """
    allowed = 0
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            allowed = len(os.sched_getaffinity(0))
    quotas: list[float] = []
    with suppress(OSError, ValueError):  # no control groups, or unreadable ones
        for line in os.fsdecode(membership.read_bytes()).splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                quotas += _quotas(hierarchies, path)
                quotas += _quotas(hierarchies / "unified", path)
            elif "cpu" in controllers.split(","):
                quotas += _quotas(hierarchies / controllers, path)
                quotas += _quotas(hierarchies / "cpu", path)
    return min([float(allowed or os.cpu_count() or 1), *quotas])


def _quotas(hierarchy: Path, path: str) -> list[float]:
    """Return the limits of a control group and its parents.

    In a container its own may be the visible root.
    """
    group = PurePosixPath(path.lstrip("/"))
    found = (_quota(hierarchy / each) for each in (group, *group.parents))
    return [quota for quota in found if quota is not None]


def _quota(group: Path) -> float | None:
    """Return how many processors one control group allows; ``None`` without a sensible limit."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(OSError, ValueError, ArithmeticError):  # no such file, or "max" for no limit
            quota, period = map(int, " ".join((group / file).read_text() for file in files).split())
            if quota > 0 and period > 0:  # -1 for no limit
                return quota / period
    return None
