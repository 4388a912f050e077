"""2,000 files of 20 KiB with the Hub's metadata: on a fast link, and with 50 ms round trips."""

from __future__ import annotations

from tests.benchmarks.harness import Goal, Result
from tests.benchmarks.rig import Rig

NEEDS = ("bench/small",)


def bench(rig: Rig) -> list[Result]:
    """Run both rows."""
    rows = [_row(rig, "front", "small", "2,000 x 20 KiB, no latency", 2.0)]
    if "far" in rig.servers.nginx.hubs:
        rows.append(_row(rig, "far", "small-far", "2,000 x 20 KiB, 50 ms to each answer", 4.0))
    else:
        rig.missing["small-far"] = "nginx has no echo module (libnginx-mod-http-echo)"
    return rows


def _row(rig: Rig, origin: str, name: str, title: str, wanted: float) -> Result:
    repo = "bench/small"
    result = Result(name, title + ", Hub metadata included", unit="files/s", scale=len(rig.sizes(repo)))
    rig.compare(
        result,
        [
            rig.haul(repo, origin),
            rig.hub(repo, origin),
            # These know no Hub: no metadata, no digests, no cache. They show what the bytes alone cost.
            rig.aria2c(repo, "plain", 1, 16) if origin == "front" else None,
            rig.curl(repo, "plain") if origin == "front" else None,
        ],
        rig.nbytes(repo),
    )
    result.goals = [
        Goal("speed over huggingface_hub", result.ratio("hf-haul", "huggingface_hub"), wanted),
    ]
    result.notes.append(
        "shape A of a public repository: each file is a redirect and an answer; huggingface_hub asks HEAD and GET"
    )
    if origin == "front":
        result.notes.append("aria2c and curl fetch plain URLs: no metadata, no redirect, no digest, no cache")
    return result
