"""One file of 2 GiB, as fast as the machine allows: plain and over TLS."""

from __future__ import annotations

from tests.benchmarks.harness import Goal, Result
from tests.benchmarks.rig import Rig

NEEDS = ("bench/single",)


def bench(rig: Rig) -> list[Result]:
    """Run both rows."""
    return [_plain(rig), *([_tls(rig)] if "TLS" not in rig.missing else [])]


def _plain(rig: Rig) -> Result:
    repo = "bench/single"
    result = Result("single", "one file of 2 GiB, no cap")
    rig.compare(
        result,
        [
            rig.haul(repo, "plain"),
            rig.haul(repo, "plain", "hf-haul verify=False", verify=False),
            rig.hub(repo, "plain"),
            rig.aria2c(repo, "plain", 16, 1),
            rig.curl(repo, "plain"),
            rig.transfer(repo, "plain"),
            rig.bare(repo, "plain"),
        ],
        rig.nbytes(repo),
    )
    result.goals = [
        Goal("verified, speed over huggingface_hub", result.ratio("hf-haul", "huggingface_hub"), 2.2),
        Goal("verified, speed over aria2c -x16", result.ratio("hf-haul", "aria2c -x16 -j1"), 1.0),
        Goal(
            "verify=False, curl's speed over ours",
            result.ratio("curl", "hf-haul verify=False"),
            1.15,
            at_least=False,
        ),
        Goal(
            "CPU seconds per GB, verified", result.of("hf-haul", lambda s: s.cpu_per_gb), 1.9, at_least=False
        ),
        Goal(
            "CPU seconds per GB, verify=False",
            result.of("hf-haul verify=False", lambda s: s.cpu_per_gb),
            1.0,
            at_least=False,
        ),
    ]
    return result


def _tls(rig: Rig) -> Result:
    repo = "bench/single"
    result = Result("single-tls", "one file of 2 GiB over TLS 1.3, no cap")
    rig.compare(
        result,
        [
            rig.haul(repo, "tls"),
            rig.hub(repo, "tls"),
            rig.aria2c(repo, "tls", 16, 1),
            rig.curl(repo, "tls"),
            rig.transfer(repo, "tls"),
            rig.bare(repo, "tls"),
        ],
        rig.nbytes(repo),
    )
    result.goals = [
        Goal("verified, speed over huggingface_hub", result.ratio("hf-haul", "huggingface_hub"), 1.6),
    ]
    return result
