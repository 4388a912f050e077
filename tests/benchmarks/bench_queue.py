"""What the manager itself costs: queueing 10,000 files, and scheduling a part, without any network."""

from __future__ import annotations

import json
import sys

from tests.benchmarks.harness import KIB, Goal, Result, Tool
from tests.benchmarks.rig import CLIENT, Rig

NEEDS = ()
FILES = 10_000
PARTS = 4_000


def bench(rig: Rig) -> list[Result]:
    """Run both rows."""
    return [_queueing(rig), _parts(rig)]


def _tool(rig: Rig, what: str, name: str, **arguments: int) -> Tool:
    given = json.dumps({"folder": str(rig.out / "to"), **arguments})
    return Tool(
        name, [sys.executable, str(CLIENT), what, given], rig.environment("plain"), reports=True, nbytes=0
    )


def _queueing(rig: Rig) -> Result:
    result = Result("queue", f"{FILES:,} files queued on a paused manager", unit="s")
    rig.compare(result, [_tool(rig, "haul_queue", "hf-haul", files=FILES)], 0)
    result.goals = [
        Goal("seconds to queue them", result.of("hf-haul"), 0.5, at_least=False),
        Goal(
            "KiB of memory per queued file",
            result.of("hf-haul", lambda s: s.extra["bytes_per_file"] / KIB),
            2.0,
            at_least=False,
        ),
    ]
    return result


def _parts(rig: Rig) -> Result:
    result = Result(
        "parts", f"{PARTS:,} parts of 4 KiB of one file before {FILES:,} waiting files, no network", unit="s"
    )
    rig.compare(result, [_tool(rig, "haul_parts", "hf-haul", parts=PARTS, files=FILES)], 0)
    result.notes.append(
        "all work of one part but the network: choosing, writing 4 KiB, the journal, settling"
    )
    result.goals = [
        Goal(
            "microseconds per part",
            result.of("hf-haul", lambda s: s.extra["seconds_per_part"] * 1e6),
            100.0,
            at_least=False,
        ),
    ]
    seconds = result.of("hf-haul", lambda s: s.extra["seconds_per_file"])
    if seconds is not None:
        result.notes.append(
            f"a file of 4 KiB, from queue to its name, costs {seconds * 1e6:.0f} microseconds"
        )
    return result
