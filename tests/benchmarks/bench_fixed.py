"""The adaptive number of connections beside every fixed one: how near it comes to the best of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Final

from tests.benchmarks.harness import Goal, Result, Tool
from tests.benchmarks.pairs import Ratio
from tests.benchmarks.rig import Options, Rig

__all__ = ["NUMBERS", "WITHIN", "bench", "contenders", "needs"]

NUMBERS: Final = (1, 2, 4, 8, 16, 32, 64)
#: How many times as long as with the best fixed number it may take.
WITHIN: Final = 1.15
#: Rounds with all numbers; in the others only those take part that may be the best.
_ALL: Final = 2
#: How many times as long as the best a number may have taken that may be it.
_NEAR: Final = 1.5

ADAPTIVE: Final = "hf-haul, adaptive"


def needs(options: Options) -> list[str]:
    """The repositories of the rows that the options name."""
    return [repo for name, (_, repo, _, _) in _WORKS.items() if options.wants(f"fixed-{name}", _NAMES)]


def bench(rig: Rig) -> list[Result]:
    """Run the rows, or those that the options name."""
    rig.require_switch("adaptation")
    if "far" not in rig.servers.nginx.hubs:
        rig.missing["fixed-small-far"] = "nginx has no echo module (libnginx-mod-http-echo)"
    return [
        _row(rig, f"fixed-{name}", *work)
        for name, work in _WORKS.items()
        if f"fixed-{name}" not in rig.missing and rig.options.wants(f"fixed-{name}", _NAMES)
    ]


_WORKS: Final[Mapping[str, tuple[str, str, str, Callable[[Rig, str, str], Tool]]]] = {
    "small": ("1,000 x 20 KiB with the Hub's metadata, no latency", "bench/thousand", "front", Rig.haul),
    "small-far": ("1,000 x 20 KiB with the Hub's metadata, 50 ms to each answer", "bench/thousand", "far", Rig.haul),
    "large": ("one file of 1 GiB, no cap", "bench/half", "plain", Rig.haul),
    "large-paced": ("one file of 1 GiB at 20 MB/s per connection", "bench/half", "paced", Rig.haul),
    "mixed": ("1 GiB, 8 x 100 MiB and 1,000 x 20 KiB at 20 MB/s per connection", "bench/mixed", "paced", Rig.manager),
}  # fmt: skip
_NAMES: Final = tuple(f"fixed-{name}" for name in _WORKS)


def _row(
    rig: Rig, name: str, title: str, repo: str, origin: str, make: Callable[[Rig, str, str], Tool]
) -> Result:
    result = Result(name, f"{title}: adaptive and fixed numbers of connections", unit="s")
    adaptive = replace(make(rig, repo, origin), name=ADAPTIVE)
    tools = {_name(number): _fixed(adaptive, number) for number in NUMBERS}
    rounds, nbytes = rig.options.pairs, rig.nbytes(repo)
    rig.compare(result, [adaptive, *tools.values()], nbytes, rounds=min(_ALL, rounds))
    if rounds > _ALL:
        near = contenders({each: result.seconds(each) for each in tools})
        rig.compare(result, [adaptive, *(tools[each] for each in near)], nbytes, rounds=rounds - _ALL)
    _judge(result, list(tools))
    result.forget("done")  # a line for each of a thousand files
    return result


def _name(number: int) -> str:
    return f"fixed at {number}"


def _fixed(adaptive: Tool, number: int) -> Tool:
    env = {name: str(number) for name in ("HF_HAUL_MAX_CONNECTIONS", "HF_HAUL_INITIAL_CONNECTIONS")}
    return replace(Rig.without(adaptive, "adaptation", _name(number)), env={**adaptive.env, **env})


def contenders(seconds: Mapping[str, list[float]]) -> list[str]:
    """Those whose best run comes near the best of all."""
    best = {name: min(runs) for name, runs in seconds.items() if runs}
    return [name for name, least in best.items() if least <= _NEAR * min(best.values())]


def _judge(result: Result, names: list[str]) -> None:
    """Compare with the fixed number that took part in most rounds and has the lowest median."""
    rounds = max(len(result.samples[name]) for name in names)
    medians = {
        name: median(runs)
        for name in names
        if (runs := result.seconds(name)) and len(result.samples[name]) == rounds
    }
    best = min(medians, key=medians.__getitem__, default=None)
    ratio = None if best is None else Ratio.of(result.pairs(best, ADAPTIVE))
    result.goals = [
        Goal(
            f"adaptive over the best fixed number ({best})",
            None if ratio is None else ratio.median,
            WITHIN,
            at_least=False,
        )
    ]
    if ratio is not None:
        within = "within" if ratio.median <= WITHIN else "NOT within"
        sure = "" if ratio.is_sure else f"; {ratio.pairs} pairs are too few for an interval of 95 %"
        result.notes.append(
            f"{within} {WITHIN} of the best fixed number ({best}): {ratio}, {ratio.pairs} pairs{sure}"
        )
