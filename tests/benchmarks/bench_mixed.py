"""A queue of everything: one large file, some middling, a thousand small, at 20 MB/s per connection."""

from __future__ import annotations

from tests.benchmarks.harness import MB, Goal, Result
from tests.benchmarks.rig import Rig
from tests.benchmarks.servers import PACE

NEEDS = ("bench/mixed",)
CONNECTIONS = 16


def bench(rig: Rig) -> list[Result]:
    """Run the row."""
    repo = "bench/mixed"
    nbytes = rig.nbytes(repo)
    ideal = nbytes / (CONNECTIONS * PACE)
    result = Result(
        "mixed", "1 x 1 GiB, 8 x 100 MiB, 1,000 x 20 KiB at 20 MB/s per connection, 16 allowed", unit="s"
    )
    rig.compare(
        result,
        [
            rig.manager(repo, "paced", "hf-haul", max_concurrent_downloads=CONNECTIONS),
            rig.aria2c(repo, "paced", 4, CONNECTIONS // 4),
        ],
        nbytes,
    )
    urgent = [path for path in rig.sizes(repo) if path.startswith("config")]
    result.goals = [
        Goal(
            f"makespan over the ideal {ideal:.2f} s", _over(result.of("hf-haul"), ideal), 1.1, at_least=False
        ),
        Goal(
            f"share of the ideal time until the {len(urgent)} HIGH files are there",
            _over(result.of("hf-haul", lambda s: max(s.extra["done"][path] for path in urgent)), ideal),
            0.05,
            at_least=False,
        ),
    ]
    result.notes.append(f"ideal: {nbytes / MB:,.0f} MB over {CONNECTIONS} connections of {PACE // MB} MB/s")
    return [result]


def _over(value: float | None, ideal: float) -> float | None:
    return None if value is None else value / ideal
