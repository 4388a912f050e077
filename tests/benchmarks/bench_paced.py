"""20 MB/s for each connection, as a CDN gives it: what several connections bring."""

from __future__ import annotations

from tests.benchmarks.harness import MB, Goal, Result, Sample
from tests.benchmarks.rig import Rig
from tests.benchmarks.servers import PACE

NEEDS = ("bench/single", "bench/quarter", "bench/shards")
#: Seconds of the row about default settings.
FIRST_SECONDS = 10.0


def bench(rig: Rig) -> list[Result]:
    """Run the three rows."""
    return [_shards(rig), _allowed(rig), _default(rig)]


def _shards(rig: Rig) -> Result:
    repo = "bench/shards"
    result = Result("shards-paced", "8 x 256 MiB at 20 MB/s per connection, 32 connections allowed")
    rig.compare(
        result,
        [
            rig.haul(repo, "paced", "hf-haul (default: 32)"),
            rig.hub(repo, "paced"),
            rig.aria2c(repo, "paced", 4, 8),
            rig.curl(repo, "paced", parallel=8),
        ],
        rig.nbytes(repo),
    )
    result.goals = [
        Goal("speed over huggingface_hub", result.ratio("hf-haul (default: 32)", "huggingface_hub"), 3.5),
        Goal(
            "aria2c's speed over ours",
            result.ratio("aria2c -x4 -j8", "hf-haul (default: 32)"),
            1.1,
            at_least=False,
        ),
    ]
    return result


def _allowed(rig: Rig) -> Result:
    repo, one = "bench/single", "bench/quarter"
    result = Result("single-paced", "one file of 2 GiB at 20 MB/s per connection, 16 connections allowed")
    rig.compare(
        result,
        [
            rig.haul(repo, "paced", "hf-haul, 16 allowed", max_connections=16),
            rig.haul(one, "paced", "hf-haul, 1 allowed", max_connections=1),
            rig.hub(one, "paced"),
            rig.aria2c(repo, "paced", 16, 1),
            rig.transfer(repo, "paced"),
            rig.curl(one, "paced"),
        ],
        rig.nbytes(repo),
    )
    result.notes.append("tools with one connection fetch 256 MiB: their speed is the pace, whatever the size")
    result.goals = [
        Goal("speed over one connection", result.ratio("hf-haul, 16 allowed", "hf-haul, 1 allowed"), 13.0),
        Goal("speed over curl", result.ratio("hf-haul, 16 allowed", "curl"), 13.0),
    ]
    return result


def _default(rig: Rig) -> Result:
    repo = "bench/single"
    result = Result("single-default", "the same with default settings: the first 10 s", unit="MB/s")
    tool = rig.haul(repo, "paced", "hf-haul, first 10 s", what="haul_timeline", stop_after=FIRST_SECONDS)
    rig.compare(result, [tool], rig.nbytes(repo))
    for sample in result.samples[tool.name]:
        if sample.error is None:
            _from_timeline(sample)
    result.goals = [
        Goal(
            f"bytes of the first {FIRST_SECONDS:.0f} s over those of one connection",
            result.of(tool.name, lambda s: s.speed * MB / PACE),
            8.0,
        ),
        Goal(
            "seconds until eight times one connection's speed",
            result.of(tool.name, lambda s: s.extra["eightfold_after"]),
            FIRST_SECONDS,
            at_least=False,
        ),
    ]
    result.notes.append("bytes on disk, asked five times a second; ends early where the file is complete")
    return result


def _from_timeline(sample: Sample) -> None:
    """Count what is on disk at the end, and look when the speed of eight connections was reached."""
    timeline = sample.extra["timeline"]
    at, stored, *_ = timeline[-1]
    sample.seconds, sample.nbytes = at, stored
    sample.extra["eightfold_after"] = next(
        (
            later[0]
            for earlier, later in zip(timeline, timeline[5:], strict=False)
            if (later[1] - earlier[1]) / (later[0] - earlier[0]) >= 8 * PACE * 0.95
        ),
        float("inf"),
    )
