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
    """Processors that the scheduler lets this process use: a container or a batch job seldom has all of them.

    Args:
        membership: The control groups that the process belongs to; see cgroups(7).
        hierarchies: Where the groups' files are.

    Returns:
        A number above 0, not always a whole one: the processors that it may run on, or what the quota of its control
        groups comes to if that is less (``cpu.max``, in version 1 ``cpu.cfs_quota_us``).
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas: list[float] = []
    with suppress(OSError, ValueError):  # no control groups, or unreadable ones
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                quotas += _quotas(hierarchies, path)
                quotas += _quotas(hierarchies / "unified", path)
            elif "cpu" in controllers.split(","):
                quotas += _quotas(hierarchies / controllers, path)
                quotas += _quotas(hierarchies / "cpu", path)
    return min([float(allowed), *quotas])


def _quotas(hierarchy: Path, path: str) -> list[float]:
    """What a group and those around it allow. In a container its own group may be the root of what can be seen."""
    group = PurePosixPath(path.lstrip("/"))
    found = (_quota(hierarchy / each) for each in (group, *group.parents))
    return [quota for quota in found if quota is not None]


def _quota(group: Path) -> float | None:
    """Processors that one group allows, ``None`` if it sets no limit."""
    with suppress(OSError, ValueError):
        microseconds, period = map(int, (group / "cpu.max").read_text().split())  # or "max", for no limit
        return microseconds / period
    with suppress(OSError, ValueError):
        microseconds = int((group / "cpu.cfs_quota_us").read_text())  # -1 for no limit
        if microseconds > 0:
            return microseconds / int((group / "cpu.cfs_period_us").read_text())
    return None
