"""Several sources for a file, each at a pace of its own: how near to the sum of the paces, and what comes twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.benchmarks.harness import MB, MIB, Goal, Result
from tests.benchmarks.rig import Rig

NEEDS = ("bench/sources", "bench/many-sources")
ONE, MANY = NEEDS

#: A name that no resolver knows, of a host beyond the own network, which a loopback address is in.
FAR: Final = "origin.test"
#: Share of the bytes that may come over the uplink where the own network brings more.
OVER_UPLINK: Final = 0.1


@dataclass(frozen=True)
class Row:
    """Some sources, and what they are to reach.

    Attributes:
        name: Of the row.
        title: The same in words.
        repo: What is fetched.
        sources: What each server does; see ``hub_server``. One without a pace never answers.
        bring: Those that are to bring something: the bound is the sum of their paces.
        over_bound: Times the bound that it may take.
        twice: Share of the bytes that may come in vain.
        far: Whether the origin is beyond the own network.
    """

    name: str
    title: str
    repo: str
    sources: Mapping[str, Mapping[str, Any]]
    bring: tuple[str, ...]
    over_bound: float = 1.15
    twice: float = 0.03
    far: bool = False


def _paces(**paces: float) -> dict[str, dict[str, Any]]:
    return {name: {"pace": pace * MB} for name, pace in paces.items()}


#: A partial source lacks half of the many files, and the one.
MIXED: Final = {
    **_paces(origin=8, good=16, slow=1.6),
    "dead": {},
    "partial": {"pace": 8 * MB, "lacks": "[am]*"},
}
LYING: Final = {"lying": {"pace": 8 * MB, "wrong": 192 * MIB}}

ROWS: Final = (
    Row(
        "sources-alike", "192 MiB from three sources at 5 MB/s each", ONE,
        _paces(origin=5, first=5, second=5), ("origin", "first", "second"),
    ),
    Row(
        "sources-one", "192 MiB: a good, a slow, a dead and a partial source", ONE,
        MIXED, ("origin", "good", "slow"),
    ),
    Row(
        "sources-many", "48 files of 4 MiB: the same", MANY,
        MIXED, ("origin", "good", "slow", "partial"),
    ),
    # Until it is known who lies, he brings a share of what is under way.
    Row(
        "sources-lying", "48 files of 4 MiB: the same, and one that lies", MANY,
        MIXED | LYING, ("origin", "good", "slow", "partial"), over_bound=1.5, twice=0.25,
    ),
    Row(
        "sources-lan", "192 MiB: 40 MB/s in the own network, 20 by the uplink", ONE,
        _paces(origin=20, lab=40), ("lab",), far=True,
    ),
    Row(
        "sources-slow-lan", "192 MiB: 4 MB/s in the own network, 20 by the uplink", ONE,
        _paces(origin=20, lab=4), ("lab", "origin"), far=True,
    ),
)  # fmt: skip
_NAMES: Final = tuple(row.name for row in ROWS)


def bench(rig: Rig) -> list[Result]:
    """Run the rows."""
    return [_measure(rig, row) for row in ROWS if rig.options.wants(row.name, _NAMES)]


def _measure(rig: Rig, row: Row) -> Result:
    nbytes = rig.nbytes(row.repo)
    bound = nbytes / sum(row.sources[each]["pace"] for each in row.bring)
    result = Result(row.name, row.title, unit="s", limit=bound)
    urls: dict[str, str] = rig.servers.hub.ask(sources=row.sources)
    names = {}
    if row.far:
        urls["origin"] = urls["origin"].replace("127.0.0.1", FAR)
        names = {FAR: ["127.0.0.1"]}
    others = [url for source, url in urls.items() if source != "origin"]
    tool = rig.haul(row.repo, "own", what="haul_sources", sources=others, names=names)
    rig.compare(result, [replace(tool, env={**tool.env, "HF_ENDPOINT": urls["origin"]})], nbytes)
    source_at = {url: source for source, url in urls.items()}
    for sample in result.samples[tool.name]:
        came = {source_at[url]: n / MB for url, n in sorted(sample.extra.pop("by_source", {}).items())}
        sample.extra["mb_by_source"] = came
        shown = ", ".join(f"{source} {megabytes:.1f}" for source, megabytes in came.items())
        result.notes.append(f"{sample.seconds / bound:.2f} of the bound; MB by source: {shown}")

    def goal(text: str, value: float | None, wanted: float) -> None:
        result.goals.append(Goal(text, value, wanted, at_least=False))

    goal("seconds over the bound", result.of(tool.name, lambda s: s.seconds / bound), row.over_bound)
    vain = result.of(tool.name, lambda s: s.extra["wasted"] / nbytes)
    goal("share of the bytes that came in vain", vain, row.twice)
    if "origin" not in row.bring:
        share = result.of(tool.name, lambda s: s.extra["mb_by_source"].get("origin", 0.0) * MB / nbytes)
        goal("share of the bytes over the uplink", share, OVER_UPLINK)
    return result
