"""Several sources for a file, each at a pace of its own: how near to the sum of the paces, and what comes twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from tests.benchmarks.harness import MB, MIB, Goal, Result
from tests.benchmarks.rig import Rig

NEEDS = ("bench/sources", "bench/many-sources")

ALIKE: Final = {name: {"pace": 5 * MB} for name in ("origin", "first", "second")}
#: A dead one has no pace; a lying one is wrong everywhere; a partial one lacks some of the files.
MIXED: Final[dict[str, dict[str, Any]]] = {
    "origin": {"pace": 8 * MB},
    "good": {"pace": 16 * MB},
    "slow": {"pace": 1.6 * MB},
    "dead": {},
    "partial": {"pace": 8 * MB, "lacks": "[am]*"},
}
LYING: Final = {"lying": {"pace": 8 * MB, "wrong": 192 * MIB}}

#: Times the bound that a download may take, and share of its bytes that may come twice.
OVER_BOUND: Final = 1.15
TWICE: Final = 0.03
#: The same where somebody lies: until that is known, he brings a share of what is under way.
OVER_BOUND_LYING: Final = 1.5
TWICE_LYING: Final = 0.25


def bench(rig: Rig) -> list[Result]:
    """Run the rows."""
    one, many = NEEDS
    brings = ("origin", "good", "slow")
    return [
        _row(rig, "sources-alike", "192 MiB from three sources at 5 MB/s each", one, ALIKE, tuple(ALIKE)),
        _row(rig, "sources-one", "192 MiB: a good, a slow, a dead and a partial source", one, MIXED, brings),
        _row(rig, "sources-many", "48 files of 4 MiB: the same", many, MIXED, (*brings, "partial")),
        _row(
            rig,
            "sources-lying",
            "48 files of 4 MiB: the same, and one that lies",
            many,
            MIXED | LYING,
            (*brings, "partial"),
            (OVER_BOUND_LYING, TWICE_LYING),
        ),
    ]


def _row(
    rig: Rig,
    name: str,
    title: str,
    repo: str,
    sources: dict[str, dict[str, Any]],
    bring: tuple[str, ...],
    most: tuple[float, float] = (OVER_BOUND, TWICE),
) -> Result:
    """Measure one row; the bound is the sum of the paces of the sources that bring something."""
    nbytes = rig.nbytes(repo)
    bound = nbytes / sum(sources[each]["pace"] for each in bring)
    result = Result(name, title, unit="s", limit=bound)
    if not rig.options.wants(name):
        return result
    urls = rig.servers.hub.ask(sources=sources)
    names = {url: source for source, url in urls.items()}
    others = [url for source, url in urls.items() if source != "origin"]
    tool = rig.haul(repo, "own", what="haul_sources", sources=others)
    rig.compare(result, [replace(tool, env={**tool.env, "HF_ENDPOINT": urls["origin"]})], nbytes)
    for sample in result.samples[tool.name]:
        came = {names[url]: nbytes for url, nbytes in sample.extra.get("by_source", {}).items()}
        sample.extra["by_source"] = came
        shown = ", ".join(f"{source} {nbytes / MB:.1f}" for source, nbytes in sorted(came.items()))
        result.notes.append(f"{sample.seconds / bound:.2f} of the bound; MB by source: {shown}")
    result.goals = [
        Goal("seconds over the bound", result.of(tool.name, lambda s: s.seconds / bound), most[0], at_least=False),
        Goal(
            "share of the bytes that came in vain",
            result.of(tool.name, lambda s: s.extra["wasted"] / nbytes),
            most[1],
            at_least=False,
        ),
    ]  # fmt: skip
    return result
