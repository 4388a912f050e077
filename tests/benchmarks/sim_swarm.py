"""One repository onto 64, 1,000 and 10,000 nodes, in simulated time: seconds, and what the uplink carries.

``python -m tests.benchmarks.sim_swarm`` from the top of the repository prints a table, with other ways to do it beside it; each line
comes when it is known. ``--help`` says how long that takes. It needs numpy.

What each node does is decided by the object that decides it in a real job (:class:`hf_haul.cluster.shares.Shares`). Links,
connections and the questions that nodes ask each other are modelled (:mod:`tests.benchmarks.swarm_model`).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Final

from tests.benchmarks.schemes import SCHEMES, Follower, Scheme
from tests.benchmarks.swarm_model import Outcome, Setting, Simulation

from hf_haul.cluster.shares import Shares
from hf_haul.cluster.stripes import Stripes

__all__ = ["CASES", "distributed", "followed", "main", "setting_of", "variant"]

GB: Final = 10**9
MIB: Final = 1 << 20
UPLINK: Final = 1.25 * GB  # 10 Gbit/s
NIC: Final = 3.125 * GB  # 25 Gbit/s
#: GB, and MiB of a stripe, by number of nodes. Longer stripes than real jobs have with many nodes: fewer events to
#: simulate, and no faster.
JOBS: Final = {64: (16, 32), 1_000: (8, 64), 10_000: (4, 32)}
#: Share of the nodes that something happens to.
_HIT: Final = 0.05
#: How much less two racks can send each other than their nodes could.
_OVERSUBSCRIBED: Final = 8
CASES: Final = {
    "well": "nothing happens",
    "killed": "one node in twenty is killed half way",
    "vanished": "one node in twenty is not heard of any more half way",
    "slow": "one node in twenty has a tenth of the pace",
    "racks": "two racks, with an eighth of their nodes' pace between them",
}
#: What a run costs; ``--help`` says it.
_COSTS: Final = (
    "One case takes, of one processor: a few seconds with 64 nodes, up to a minute with 1,000, four to six "
    "minutes and up to 3 GiB of memory with 10,000. All cases of one number of nodes come one after the other; --case and --nodes choose."
)
#: Steps of simulated time in which a stripe comes, where a node's connections share what it can take.
_STEPS: Final = 20


def setting_of(nodes: int, size: int, stripe_bytes: int, **changes: Any) -> Setting:
    """Return a job on nodes with 25 Gbit/s behind 10 Gbit/s."""
    stripes = [min(stripe_bytes, size - start) for start in range(0, size, stripe_bytes)]
    setting = Setting(nodes, stripes, UPLINK, NIC, **changes)
    return replace(setting, quantum=max(stripes) / (NIC / setting.connections) / _STEPS)


def variant(setting: Setting, case: str) -> Setting:
    """Return a setting in which something happens: one of :data:`CASES`."""
    hit = random.Random(setting.seed).sample(range(setting.nodes), max(1, round(setting.nodes * _HIT)))
    if case in {"killed", "vanished"}:
        return replace(setting, **{case: dict.fromkeys(hit, setting.bound / 2)})
    if case == "slow":
        return replace(setting, slow=frozenset(hit))
    if case == "racks":
        return replace(setting, rack_line=setting.nodes / 2 * setting.nic / _OVERSUBSCRIBED)
    return setting


def distributed(setting: Setting) -> Outcome:
    """Simulate a job by the policy of real ones."""
    names = [f"n{number}" for number in range(setting.nodes)]
    stripes = Stripes([("blob", setting.size)], max(setting.stripes), names)
    return Simulation(
        setting,
        lambda number, clock: Shares(names[number], stripes, clock=clock),
        watched=lambda number: (stripes.place(name) or 0 for name in stripes.watched_by(names[number])),
    ).run()


def followed(setting: Setting, scheme: Scheme) -> Outcome:
    """Simulate one of the schemes in which a node has one source."""
    assert scheme.source is not None
    sources = [scheme.source(number) for number in range(setting.nodes)]
    return Simulation(
        replace(setting, ask_every=0.0),
        lambda number, _clock: Follower(None if sources[number] is None else f"n{sources[number]}"),
        lambda number: [source for source in sources[number : number + 1] if source is not None],
    ).run()


def _print_row(nodes: int, what: str, seconds: float, setting: Setting, nbytes: float, *more: str) -> None:
    cells = f"{nodes:>7,}  {what:<58}  {seconds:>11,.1f}  {seconds / setting.bound:>8.2f}  {nbytes / setting.size:>9.3f}"
    print("  ".join((cells, *more)), flush=True)


def _run(setting: Setting, cases: Sequence[str]) -> None:
    """Print the rows of one number of nodes."""
    shown = f"{setting.size / GB:,.0f} GB in stripes of {max(setting.stripes) / MIB:g} MiB"
    print(f"\n{setting.nodes:,} nodes, {shown}, uplink {UPLINK / GB:g} GB/s, nodes {NIC / GB:g} GB/s")
    print(f"{'nodes':>7}  {'':<58}  {'seconds':>11}  {'of best':>8}  {'uplink/S':>9}")
    for scheme in SCHEMES:
        _print_row(setting.nodes, scheme.name, scheme.seconds(setting), setting, scheme.uplink_bytes(setting))
    for case in cases:
        began = time.process_time()
        outcome = distributed(variant(setting, case))
        more = [
            f"half after {median(outcome.seconds.values()):,.1f}",
            f"all after {outcome.slowest:,.1f}" if case == "slow" else "",
            f"({outcome.transfers:,} requests, {outcome.asks:,} answers; simulated in {time.process_time() - began:,.0f} s of a processor)",
        ]
        _print_row(
            setting.nodes,
            f"hf-haul: {CASES[case]}",
            outcome.last,
            setting,
            outcome.origin_bytes,
            *filter(None, more),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.sim_swarm", description=__doc__, epilog=_COSTS
    )
    parser.add_argument("--nodes", type=int, action="append", help="may be repeated (64, 1000, 10000)")
    parser.add_argument("--size", type=float, help="GB of the repository (by the number of nodes: 16, 8, 4)")
    parser.add_argument("--stripe", type=float, help="MiB of a stripe (by the number of nodes: 32, 64, 32)")
    parser.add_argument("--case", action="append", choices=tuple(CASES), help="may be repeated (all)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of who is hit, and who asks whom first (%(default)s)"
    )
    given = parser.parse_args(argv)
    for nodes in given.nodes or JOBS:
        size, stripe = JOBS[min(JOBS, key=lambda known: abs(known - nodes))]
        setting = setting_of(
            nodes, int((given.size or size) * GB), int((given.stripe or stripe) * MIB), seed=given.seed
        )
        _run(setting, given.case or tuple(CASES))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
