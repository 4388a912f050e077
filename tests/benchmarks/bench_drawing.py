"""What showing a download in a terminal costs, beside the same download that nobody sees."""

from __future__ import annotations

from statistics import median

from tests.benchmarks.harness import Goal, Result
from tests.benchmarks.rig import Rig

NEEDS = ("bench/shards",)
_SHARE = 0.02


def bench(rig: Rig) -> list[Result]:
    """Run the row."""
    repo = "bench/shards"
    result = Result("drawing", "8 x 256 MiB, plain HTTP, shown in a terminal of 120 columns")
    tools = [
        rig.haul(repo, "plain", f"hf-haul, {mode}", what="haul_shown", mode=mode)
        for mode in ("tty", "plain", "json", "none")
    ]
    rig.compare(result, tools, rig.nbytes(repo))
    shares = [each.extra["drawing"] / each.seconds for each in result.usable("hf-haul, tty")]
    result.goals = [
        Goal("share of a core for drawing", median(shares) if shares else None, _SHARE, at_least=False)
    ]
    result.notes = [
        f"{tool}: {1000 * median(each.extra['drawing'] for each in runs):.1f} ms of the threads that show it"
        for tool in result.samples
        if (runs := result.usable(tool))
    ]
    return [result]
